//! Who is to be forgotten: peers that no control connection has led to for a while, and those that stopped on purpose.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{id::PeerName, time::Time};

/// How long a peer may be unreachable before all that it told is forgotten: long enough for a reboot, and as long as
/// Weave Net takes to notice a dead peer.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// How long before it is forgotten others are told no more of an unreachable peer. Peers may differ by less than the other
/// half minute in when they saw it last.
const FADING_BEFORE: Duration = Duration::from_secs(30);
/// How long a peer that stopped on purpose is remembered as such: a neighbour that has not heard of it yet could tell us
/// of it again.
pub const FORGET_LEFT_AFTER: Duration = Duration::from_secs(10);

/// When peers are to be forgotten that are unreachable or have left.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    forget_at: BTreeMap<PeerName, Time>,
    /// When the next peer is to be forgotten unless it comes back.
    deadline: Option<Time>,
}

impl Gone {
    /// Takes the peers known now, each with whether it is leaving, and those reachable; returns those to forget.
    pub fn update(
        &mut self,
        known: impl IntoIterator<Item = (PeerName, bool)>,
        reachable: &BTreeSet<PeerName>,
        now: Time,
    ) -> Vec<PeerName> {
        let before = std::mem::take(&mut self.forget_at);
        let mut forget = Vec::new();
        for (peer, is_leaving) in known {
            if !is_leaving && reachable.contains(&peer) {
                continue;
            }
            let due = now + if is_leaving { FORGET_LEFT_AFTER } else { FORGET_AFTER };
            let due = before.get(&peer).copied().unwrap_or(due).min(due);
            if due <= now {
                forget.push(peer);
            } else {
                self.forget_at.insert(peer, due);
            }
        }
        self.deadline = self.forget_at.values().min().copied();
        forget
    }

    /// Whether a peer is so long unreachable that others are not told of it any more: long before anybody forgets it, so
    /// that nobody is told again of a peer that it forgot.
    pub fn is_fading(&self, peer: PeerName, now: Time) -> bool {
        self.forget_at.get(&peer).is_some_and(|due| *due <= now + FADING_BEFORE)
    }

    /// When the next peer is to be forgotten unless it comes back.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerName = PeerName([1; 6]);
    const B: PeerName = PeerName([2; 6]);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_unreachable_for_a_minute_is_forgotten() {
        let mut gone = Gone::default();
        let known = [(A, false), (B, false)];
        assert_eq!(gone.update(known, &BTreeSet::from([A]), at(10)), []);
        assert_eq!(gone.deadline(), Some(at(70)));
        assert_eq!(gone.update(known, &BTreeSet::from([A]), at(69)), []);
        assert_eq!(gone.update(known, &BTreeSet::from([A]), at(70)), [B]);
        assert_eq!(gone.deadline(), None);
    }

    #[test]
    fn who_is_unreachable_fades_half_a_minute_before_it_is_forgotten() {
        let mut gone = Gone::default();
        gone.update([(B, false)], &BTreeSet::new(), at(10));
        assert!(!gone.is_fading(B, at(39)) && gone.is_fading(B, at(40)) && !gone.is_fading(A, at(40)));
    }

    #[test]
    fn who_comes_back_starts_anew() {
        let mut gone = Gone::default();
        assert_eq!(gone.update([(B, false)], &BTreeSet::new(), at(0)), []);
        assert_eq!(gone.update([(B, false)], &BTreeSet::from([B]), at(50)), []);
        assert_eq!(gone.update([(B, false)], &BTreeSet::new(), at(55)), []);
        assert_eq!(gone.update([(B, false)], &BTreeSet::new(), at(100)), []);
        assert_eq!(gone.deadline(), Some(at(115)));
    }

    #[test]
    fn who_leaves_is_remembered_for_a_moment_even_if_reachable() {
        let (mut gone, known, reachable) = (Gone::default(), [(A, true), (B, false)], BTreeSet::from([A, B]));
        assert_eq!(gone.update(known, &reachable, at(1)), []);
        assert_eq!(gone.deadline(), Some(at(11)));
        assert_eq!(gone.update(known, &reachable, at(11)), [A]);
    }
}
