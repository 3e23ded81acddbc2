//! Links on demand: straight ways to peers that there is no connection with.
//!
//! In a large mesh most peers are reached by relays at first, and in any those that cannot be dialled. Where frames go on, both ends look for a straight way, at the addresses
//! that the peer tells everybody. Such a link is for its two ends alone: it is told to nobody, so that nothing needs to cross the
//! mesh when it comes and goes. Unused for a while it is given up, and so is a session that nothing was sent by.

use std::{net::SocketAddr, time::Duration};

use super::{Link, LinkChange, Links};
use crate::{
    id::PeerName,
    link::{direct::Change, message::Message},
    node::input::Origin,
    time::Time,
    topology::record::{Detail, LinkRecord},
};

/// Unused for this long, a link on demand is given up: longer than between the requests of most who ask again and again.
const IDLE_AFTER: Duration = Duration::from_secs(180);
/// Straight ways that are begun to be looked for: so many at once, and then one each so often. To measure one costs some 20 kB.
const SEEK_BURST: u32 = 16;
const SEEK_INTERVAL: Duration = Duration::from_millis(200);

/// How many more straight ways may be looked for now.
#[derive(Debug, Default)]
pub(super) struct Budget {
    spent: u32,
    since: Time,
}

impl Budget {
    fn take(&mut self, now: Time) -> bool {
        let regained = u32::try_from(now.since(self.since).as_millis() / SEEK_INTERVAL.as_millis()).unwrap_or(u32::MAX);
        if regained > 0 {
            self.spent = self.spent.saturating_sub(regained);
            self.since = now;
        }
        let has_left = self.spent < SEEK_BURST;
        self.spent += u32::from(has_left);
        has_left
    }
}

impl Links {
    /// Whether the mesh is so large that links rest which nothing is sent by, and only those with neighbours are told of.
    pub(in crate::node) fn set_large(&mut self, is_large: bool) {
        self.is_large = is_large;
    }

    /// Frames to `peer` go by relays, and may go straight: look for a way at `addresses`, unless too many are looked for already.
    pub(in crate::node) fn seek(&mut self, peer: PeerName, addresses: impl IntoIterator<Item = SocketAddr>, now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.used_at = now;
        if link.direct.is_none() && self.budget.take(now) {
            self.allow_direct(peer, addresses, now);
        }
    }

    /// Whether a peer is a neighbour: the link with it is one of the mesh, open whether it is used or not, and told to all.
    pub(in crate::node) fn set_neighbour(&mut self, peer: PeerName, is_neighbour: bool, now: Time) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.is_neighbour = is_neighbour;
            link.used_at = now;
            self.touch(peer, now);
        }
    }

    /// The links that only their two ends know of, as a record would tell them.
    pub(in crate::node) fn private(&self) -> impl Iterator<Item = LinkRecord> {
        self.links.iter().filter_map(|(peer, link)| link.private(*peer))
    }

    /// Gives up what was not used for long.
    pub(super) fn rest(&mut self, peer: PeerName, now: Time) {
        let Some(link) =
            self.links.get_mut(&peer).filter(|link| link.idle_at(self.is_large).is_some_and(|at| at <= now))
        else {
            return;
        };
        link.wanted = false;
        if let Some(goodbye) = link.fast.retire(&self.fast, now) {
            self.changes.push_back((peer, LinkChange::Method));
            self.send(peer, Origin::Relayed(peer), Message::Hello(goodbye), 0);
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.direct.take().is_some_and(|direct| direct.address().is_some()) {
            self.changes.push_back((peer, LinkChange::Direct(Change::Down)));
        }
    }
}

impl Link {
    fn private(&self, peer: PeerName) -> Option<LinkRecord> {
        let direct = self.direct.as_ref().filter(|direct| !self.is_neighbour && direct.address().is_some())?;
        let own = self.own?;
        let payload_max = direct.payload_max().and_then(|max| u16::try_from(max).ok()).unwrap_or(0);
        let detail = Some(Detail::of(own.quality));
        Some(LinkRecord { peer, control: false, data: Some(own.cost), payload_max, detail })
    }

    /// When it is given up if it is not used before; None if it is not to be. Sessions alone are few in a small mesh.
    pub(super) fn idle_at(&self, is_large: bool) -> Option<Time> {
        let used_at = self.used_at.max(self.fast.heard_often());
        (self.wanted && !self.is_neighbour && (is_large || self.direct.is_some())).then(|| used_at + IDLE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_looked_for_at_once_and_then_five_a_second() {
        let mut budget = Budget::default();
        let start = Time::ZERO + Duration::from_secs(100);
        assert_eq!((0..100).filter(|_| budget.take(start)).count(), 16);
        let later = |millis| start + Duration::from_millis(millis);
        assert_eq!((0..1000).filter(|millis| budget.take(later(*millis))).count(), 4);
        assert_eq!((0..100).filter(|_| budget.take(later(60_000))).count(), 16);
    }
}
