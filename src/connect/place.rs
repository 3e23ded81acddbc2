//! Places to dial: targets, which somebody asked for, and discovered peers, which gossip told of.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{End, EndKind, backoff::Backoff};
use crate::{
    entropy::Entropy,
    id::{ConnId, PeerName},
    time::Time,
};

/// How far a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be dialled when it is due, if it is not connected by then.
    Waiting,
    /// Being dialled, up to the end of the handshake.
    Dialling(ConnId),
    /// Refused for a reason that lasts; tried again now and then.
    Refused,
    /// It has no room, or we have none for it: not tried again while it is reached through others.
    Full,
    /// It is ourselves; not tried again until something changes.
    Own,
}

/// The tries at a place.
#[derive(Clone, Debug)]
pub(super) struct Tries {
    pub(super) phase: Phase,
    pub(super) backoff: Backoff,
    /// The last failure in words; empty if there was none.
    pub(super) error: String,
}

/// A target with what we know of it.
#[derive(Clone, Debug)]
pub(super) struct TargetPlace {
    pub(super) tries: Tries,
    /// Who was there when it last answered.
    pub(super) peer: Option<PeerName>,
}

/// A peer that gossip told of.
#[derive(Clone, Debug)]
pub(super) struct KnownPlace {
    pub(super) tries: Tries,
    addresses: Vec<SocketAddr>,
    /// The next of `addresses` to try.
    next: usize,
    /// Addresses at which somebody else answered.
    wrong: BTreeSet<SocketAddr>,
}

impl Tries {
    pub(super) fn due_at(due: Time) -> Self {
        Self { phase: Phase::Waiting, backoff: Backoff::due_at(due), error: String::new() }
    }

    /// Whether it may be dialled now, leaving aside whether it should.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// When it may be dialled; None while it is dialled or is ourselves.
    pub(super) fn due(&self) -> Option<Time> {
        match self.phase {
            Phase::Waiting | Phase::Refused | Phase::Full => Some(self.backoff.due),
            Phase::Dialling(_) | Phase::Own => None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.phase == Phase::Full
    }

    /// Whether it is worth choosing: what was never refused, or so long ago that it may be tried again.
    pub(super) fn may_do(&self, now: Time) -> bool {
        match self.phase {
            Phase::Waiting => self.error.is_empty() || self.is_due(now),
            Phase::Refused | Phase::Full => self.is_due(now),
            Phase::Dialling(_) => true,
            Phase::Own => false,
        }
    }

    pub(super) fn is_own(&self) -> bool {
        self.phase == Phase::Own
    }

    pub(super) fn is_dialling(&self) -> bool {
        matches!(self.phase, Phase::Dialling(_))
    }

    pub(super) fn is_dialling_as(&self, conn: ConnId) -> bool {
        self.phase == Phase::Dialling(conn)
    }

    /// A dial came to nothing.
    pub(super) fn fail(&mut self, end: &End, now: Time, entropy: &Entropy) {
        self.error.clone_from(&end.reason);
        self.phase = match end.kind {
            EndKind::Broken | EndKind::Duplicate(_) => {
                self.backoff.fail(now, entropy);
                Phase::Waiting
            }
            EndKind::Refused => {
                self.backoff.refuse(now, entropy);
                Phase::Refused
            }
            EndKind::Full => {
                self.backoff.fail(now, entropy);
                Phase::Full
            }
            EndKind::Own => Phase::Own,
        };
    }

    /// Somebody answered; should that connection end, we start from `due`.
    pub(super) fn succeed(&mut self, due: Time) {
        self.phase = Phase::Waiting;
        self.backoff.due = due;
        self.error.clear();
    }

    /// A connection ended that had lived since `since`.
    pub(super) fn lose(&mut self, since: Time, end: &End, now: Time, entropy: &Entropy) {
        match end.kind {
            EndKind::Broken | EndKind::Duplicate(_) => {
                self.error.clone_from(&end.reason);
                self.backoff.end(since, now, entropy);
            }
            EndKind::Full => {
                // Others need the room more; and it is no failure.
                self.backoff.refuse(now, entropy);
                self.backoff.tries = 0;
                self.error.clear();
                self.phase = Phase::Full;
            }
            EndKind::Refused | EndKind::Own => self.fail(end, now, entropy),
        }
    }

    /// Whatever failed may work now.
    pub(super) fn revive(&mut self, now: Time) {
        if !self.is_dialling() {
            self.phase = Phase::Waiting;
            self.backoff = Backoff::due_at(now);
        }
    }
}

impl KnownPlace {
    pub(super) fn new(due: Time) -> Self {
        Self { tries: Tries::due_at(due), addresses: Vec::new(), next: 0, wrong: BTreeSet::new() }
    }

    /// Takes the peer's addresses, most likely first; a new one is tried at once. Whether they are others than before.
    pub(super) fn set_addresses(&mut self, addresses: Vec<SocketAddr>, now: Time) -> bool {
        let mut seen = BTreeSet::new();
        let addresses: Vec<_> = addresses.into_iter().filter(|address| seen.insert(*address)).collect();
        if addresses == self.addresses {
            return false;
        }
        let has_new = addresses.iter().any(|address| !self.addresses.contains(address));
        if has_new && !self.addresses.is_empty() {
            self.tries.revive(now);
        }
        self.next = 0;
        self.wrong.retain(|address| seen.contains(address));
        self.addresses = addresses;
        true
    }

    /// The next address to try; None if there is none that could be right.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let upcoming = self.addresses.iter().skip(self.next);
        let mut right = upcoming.chain(&self.addresses).filter(|address| !self.wrong.contains(address));
        right.next().copied()
    }

    /// The dial at `address` came to nothing: the next address is tried at once, and after the last one we wait.
    pub(super) fn fail(&mut self, address: SocketAddr, end: &End, now: Time, entropy: &Entropy) {
        if end.kind == EndKind::Own {
            self.wrong.insert(address);
        }
        let after = self.addresses.iter().position(|known| *known == address).map_or(0, |place| place + 1);
        let has_more = self.addresses.iter().skip(after).any(|address| !self.wrong.contains(address));
        self.next = if has_more { after } else { 0 };
        if self.next > 0 {
            self.tries.phase = Phase::Waiting;
            self.tries.backoff.due = now;
            self.tries.error.clone_from(&end.reason);
        } else {
            // It is only that address that is ours; the peer itself keeps its chance.
            let kind = if end.kind == EndKind::Own { EndKind::Broken } else { end.kind };
            self.tries.fail(&End { kind, reason: end.reason.clone() }, now, entropy);
        }
    }

    /// Somebody else answered at `address`.
    pub(super) fn is_not_at(&mut self, address: SocketAddr, now: Time, entropy: &Entropy) {
        let end = End { kind: EndKind::Broken, reason: format!("another peer answers at {address}") };
        self.wrong.insert(address);
        self.fail(address, &end, now, entropy);
    }

    /// Whatever failed may work now, at any address.
    pub(super) fn revive(&mut self, now: Time) {
        self.wrong.clear();
        self.next = 0;
        self.tries.revive(now);
    }
}
