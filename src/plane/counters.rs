//! What a plane counts: frames by peer, and drops by reason.

use std::collections::BTreeMap;

use crate::{
    drops::{Drop, DropCounts},
    id::PeerName,
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
        }
    }

    /// Frames exchanged with each peer; only peers with any. What was only relayed for a peer is none.
    pub fn exchanged(&self) -> BTreeMap<PeerName, u64> {
        let packets = |traffic: &Traffic| traffic.tx_packets + traffic.rx_packets;
        self.peers.iter().map(|(peer, traffic)| (*peer, packets(traffic))).filter(|(_, packets)| *packets > 0).collect()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let (one, two) = (PeerName([1; 6]), PeerName([2; 6]));
        let mut total = Counters::default();
        for (peer, bytes) in [(one, 10), (two, 20), (one, 30)] {
            let mut counters = Counters::default();
            counters.sent(peer, bytes);
            counters.received(peer, 2 * bytes);
            counters.relayed(peer, 3 * bytes);
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
        };
        assert_eq!(total.peers.get(&one), Some(&expected));
        assert_eq!(total.peers.len(), 2);
        assert_eq!(total.drops.iter().collect::<Vec<_>>(), [(Drop::NoRoute, 3)]);
    }
}
