//! What a plane counts: frames by peer, and drops by reason.

use std::collections::BTreeMap;

use crate::{
    drops::{Drop, DropCounts},
    id::PeerName,
    node::input::Input,
};

/// Frames exchanged with one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames sealed for the peer.
    pub tx_packets: u64,
    /// Bytes of those frames, Ethernet header included.
    pub tx_bytes: u64,
    /// Frames opened from the peer.
    pub rx_packets: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
    /// Packets passed on for the peer, which sealed them, to another.
    pub relayed_packets: u64,
    /// Bytes of those packets.
    pub relayed_bytes: u64,
    /// Packets of others passed on straight to the peer, to be its own or to be passed on again.
    pub onward_packets: u64,
}

/// All that a plane has counted since it was last asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Frames and packets dropped, by reason.
    pub drops: DropCounts,
    /// Traffic by peer; only peers with any.
    pub peers: BTreeMap<PeerName, Traffic>,
}

impl Counters {
    /// Adds another plane's counts, or later ones.
    pub fn add(&mut self, other: &Self) {
        self.drops.add(&other.drops);
        for (peer, traffic) in &other.peers {
            let mine = self.peers.entry(*peer).or_default();
            mine.tx_packets += traffic.tx_packets;
            mine.tx_bytes += traffic.tx_bytes;
            mine.rx_packets += traffic.rx_packets;
            mine.rx_bytes += traffic.rx_bytes;
            mine.relayed_packets += traffic.relayed_packets;
            mine.relayed_bytes += traffic.relayed_bytes;
            mine.onward_packets += traffic.onward_packets;
        }
    }

    /// Counts a failure, if it is one.
    pub(super) fn settle(&mut self, result: Result<(), Drop>) {
        if let Err(reason) = result {
            self.drops.count(reason);
        }
    }

    pub(super) fn sent(&mut self, peer: PeerName, bytes: usize) {
        let traffic = self.peers.entry(peer).or_default();
        traffic.tx_packets += 1;
        traffic.tx_bytes += bytes as u64;
    }

    pub(super) fn received(&mut self, peer: PeerName, bytes: usize) {
        let traffic = self.peers.entry(peer).or_default();
        traffic.rx_packets += 1;
        traffic.rx_bytes += bytes as u64;
    }

    pub(super) fn relayed(&mut self, source: PeerName, bytes: usize) {
        let traffic = self.peers.entry(source).or_default();
        traffic.relayed_packets += 1;
        traffic.relayed_bytes += bytes as u64;
    }

    pub(super) fn passed_on(&mut self, next: PeerName) {
        self.peers.entry(next).or_default().onward_packets += 1;
    }
}

/// What was counted when last looked, to tell the node who is busy.
#[derive(Clone, Debug, Default)]
pub struct Lookout {
    /// Of each peer: frames exchanged, and packets of others passed on straight to it.
    seen: BTreeMap<PeerName, (u64, u64)>,
}

impl Lookout {
    /// Who has been busy since the last look; None if nobody has. What was only relayed for a peer is nothing exchanged with it.
    pub fn look(&mut self, counters: &Counters) -> Option<Input> {
        let (mut peers, mut onward) = (Vec::new(), Vec::new());
        for (peer, traffic) in &counters.peers {
            let now = (traffic.tx_packets + traffic.rx_packets, traffic.onward_packets);
            let before = self.seen.insert(*peer, now).unwrap_or_default();
            peers.extend((now.0 != before.0).then_some(*peer));
            onward.extend((now.1 != before.1).then_some(*peer));
        }
        (!peers.is_empty() || !onward.is_empty()).then_some(Input::Busy { peers, onward })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_busy_is_told_once() {
        let (one, two, three) = (PeerName([1; 6]), PeerName([2; 6]), PeerName([3; 6]));
        let (mut counters, mut lookout) = (Counters::default(), Lookout::default());
        counters.sent(one, 10);
        counters.relayed(two, 10);
        counters.passed_on(three);
        let busy = lookout.look(&counters);
        assert!(matches!(busy, Some(Input::Busy { peers, onward }) if peers == [one] && onward == [three]));
        assert!(lookout.look(&counters).is_none());
        counters.received(two, 10);
        assert!(
            matches!(lookout.look(&counters), Some(Input::Busy { peers, onward }) if peers == [two] && onward.is_empty())
        );
    }

    #[test]
    fn counts_add_up() {
        let (one, two) = (PeerName([1; 6]), PeerName([2; 6]));
        let mut total = Counters::default();
        for (peer, bytes) in [(one, 10), (two, 20), (one, 30)] {
            let mut counters = Counters::default();
            counters.sent(peer, bytes);
            counters.received(peer, 2 * bytes);
            counters.relayed(peer, 3 * bytes);
            counters.passed_on(peer);
            counters.settle(Err(Drop::NoRoute));
            counters.settle(Ok(()));
            total.add(&counters);
        }
        let expected = Traffic {
            tx_packets: 2,
            tx_bytes: 40,
            rx_packets: 2,
            rx_bytes: 80,
            relayed_packets: 2,
            relayed_bytes: 120,
            onward_packets: 2,
        };
        assert_eq!(total.peers.get(&one), Some(&expected));
        assert_eq!(total.peers.len(), 2);
        assert_eq!(total.drops.iter().collect::<Vec<_>>(), [(Drop::NoRoute, 3)]);
    }
}
