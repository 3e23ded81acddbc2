//! How a universe is founded when nobody says by whom: an election whose quorums nobody guesses.
//!
//! Each elector says of whom it wants a majority: its slice, which is itself and the peers that it was told to connect
//! to. A set of electors is a quorum if each one in it finds a majority of its slice in it. With everybody told of all
//! others that is a majority; with each new one told of an older one, every quorum contains the first; one that was
//! told of nobody is a quorum by itself. Over such quorums runs a single decree of Paxos: the decree is the list of
//! founders. The messages are the electors' entries, each of which is kept before it is told:
//!
//! ```text
//! demand ─▶ promised by a quorum ─▶ accepted by a quorum ─▶ founded
//!    ▲             │ a higher ballot
//!    └── a while ──┘
//! ```
//! Two quorums that do not meet, such as two peers told of nobody, found two universes; that is a conflict of its own.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Ipam,
    entry::{Ballot, Elector, FOUNDERS_MAX, Member, MemberId, Standing},
    state::Universe,
    world::World,
};
use crate::{id::PeerName, time::Time};

/// How long a proposer waits for a quorum before it, or another, tries again; jittered by as much again.
const RETRY: Duration = Duration::from_millis(1500);
/// How much longer each next elector, in the order of names, waits before it proposes: the first one usually succeeds.
const TURN: Duration = Duration::from_millis(300);
/// Among more electors than this each one looks at the others now and then, not whenever one of them says something.
const CROWD: usize = 16;
/// How often then.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The electors of which `takes_part` holds and who form a quorum together; the largest such set.
pub(super) fn quorum<'a>(
    electors: &BTreeMap<PeerName, (MemberId, &'a Elector)>,
    takes_part: impl Fn(&Elector) -> bool,
) -> BTreeMap<PeerName, &'a Elector> {
    let mut set: BTreeMap<PeerName, &Elector> = electors
        .iter()
        .filter(|(_, (_, elector))| takes_part(elector))
        .map(|(name, (_, elector))| (*name, *elector))
        .collect();
    loop {
        let before = set.len();
        let present: Vec<PeerName> = set.keys().copied().collect();
        set.retain(|_, elector| {
            let others = match &elector.peers {
                Some(peers) => peers.iter().filter(|peer| present.binary_search(peer).is_ok()).count(),
                None => present.len() - 1,
            };
            // With itself, more than half of the slice.
            2 * (others + 1) > elector.slice as usize
        });
        if set.len() == before {
            return set;
        }
    }
}

impl Ipam {
    /// Takes part in the election; whether that changed anything.
    pub(super) fn elect(&mut self, world: World<'_>) -> bool {
        if self.state.universe.is_some() || !self.config.init.elects() {
            return false;
        }
        if let Some(due) = self.elected_at.map(|at| at + LOOK_EVERY).filter(|due| *due > self.now)
            && self.unfounded.len() > CROWD
        {
            self.look_at(due);
            return false;
        }
        self.elected_at = Some(self.now);
        let mut elector = self.own_elector(world);
        let others = self.heard_electors(world);
        let is_demanded = self.is_demanded(world);
        self.follow(&mut elector, others.values().map(|(_, other)| *other));
        let own = MemberId { name: self.name, life: self.state.life };
        let mine = elector.clone();
        let mut all = others;
        all.insert(self.name, (own, &mine));
        if elector.promised.by == self.name && elector.accepted.as_ref().is_none_or(|(b, _)| *b < elector.promised) {
            let promised = elector.promised;
            let consenting = quorum(&all, |elector| elector.promised == promised);
            if consenting.contains_key(&self.name) {
                let accepted = consenting.values().filter_map(|elector| elector.accepted.as_ref());
                let highest = accepted.max_by_key(|(ballot, _)| *ballot).map(|(_, founders)| founders.clone());
                let reachable = |id: &MemberId| id.name == self.name || world.reachable.contains(&id.name);
                let present = || all.values().map(|(id, _)| *id).filter(reachable).take(FOUNDERS_MAX).collect();
                elector.accepted = Some((promised, highest.unwrap_or_else(present)));
            }
        }
        let mine = elector.clone();
        all.insert(self.name, (own, &mine));
        let decided = all
            .values()
            .filter_map(|(_, elector)| elector.accepted.as_ref())
            .find(|decree| !quorum(&all, |elector| elector.accepted.as_ref() == Some(decree)).is_empty());
        if let Some((_, founders)) = decided {
            let universe = Universe::founded(&self.state.ranges, founders);
            self.keep_elector(elector);
            self.found(universe, !self.was_kept);
            return true;
        }
        if is_demanded && self.may_propose(&elector, world) {
            let round = all.values().map(|(_, elector)| elector.promised.round).max().unwrap_or(0) + 1;
            elector.promised = Ballot { round, by: self.name };
        }
        self.keep_elector(elector)
    }

    /// When the election wants to be looked at again.
    pub(super) fn election_deadline(&self) -> Option<Time> {
        let is_open = self.state.universe.is_none() && self.config.init.elects();
        self.propose_at.filter(|at| is_open && *at > self.now)
    }

    /// Our part so far; our slice may change until we took part.
    fn own_elector(&self, world: World<'_>) -> Elector {
        let mut elector = self.state.elector.clone().unwrap_or(Elector {
            slice: 1,
            peers: None,
            promised: Ballot::default(),
            accepted: None,
        });
        match self.config.init.voters() {
            Some(count) => elector.slice = count.max(1),
            None => {
                if elector.promised == Ballot::default() {
                    elector.slice = world.targets.count + 1;
                }
                elector.peers = Some(world.targets.peers.clone());
            }
        }
        elector
    }

    fn heard_electors<'a>(&self, world: World<'a>) -> BTreeMap<PeerName, (MemberId, &'a Elector)> {
        let elector = |name: &PeerName| match world.member(*name) {
            Some(Member { life, standing: Standing::Elector(elector), .. }) => {
                Some((*name, (MemberId { name: *name, life: *life }, elector)))
            }
            _ => None,
        };
        self.unfounded.iter().filter_map(elector).collect()
    }

    /// Whether anybody waits for addresses.
    fn is_demanded(&self, world: World<'_>) -> bool {
        let waits = |name: &PeerName| world.member(*name).is_some_and(|member| member.waiting);
        self.is_waiting() || self.unfounded.iter().any(waits)
    }

    /// Promises and accepts what others have.
    fn follow<'a>(&self, elector: &mut Elector, others: impl Iterator<Item = &'a Elector>) {
        for other in others {
            elector.promised = elector.promised.max(other.promised);
            if let Some((ballot, founders)) = &other.accepted
                && *ballot >= elector.promised
                && elector.accepted.as_ref().is_none_or(|(accepted, _)| accepted < ballot)
            {
                elector.promised = *ballot;
                elector.accepted = Some((*ballot, founders.clone()));
            }
        }
    }

    /// Whether it is our turn to propose; the next turn is set.
    fn may_propose(&mut self, elector: &Elector, world: World<'_>) -> bool {
        let rank = self.unfounded.iter().filter(|name| **name < self.name && world.reachable.contains(name)).count();
        let wait = TURN * u32::try_from(rank.min(10)).unwrap_or(10);
        if self.seen_ballot != Some(elector.promised) {
            // Somebody is at it: let it finish.
            let first = elector.promised == Ballot::default();
            self.seen_ballot = Some(elector.promised);
            self.propose_at =
                Some(self.now + if first { wait } else { RETRY.mul_f64(1.0 + self.entropy.fraction()) + wait });
        }
        let is_due = self.propose_at.is_none_or(|at| at <= self.now);
        if is_due {
            self.propose_at = Some(self.now + RETRY.mul_f64(1.0 + self.entropy.fraction()) + wait);
        }
        is_due
    }

    fn keep_elector(&mut self, elector: Elector) -> bool {
        let changed = self.state.elector.as_ref() != Some(&elector);
        if changed {
            self.state.elector = Some(elector);
            self.changed();
        }
        changed
    }
}
