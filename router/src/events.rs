//! What happened, for the log and for counters. The only place that turns an [`Event`] into words or numbers.

use std::collections::BTreeMap;

use tracing::{debug, info, warn};
use weft::{id::PeerName, ipam::AddressEvent, node::output::Event, switch::forwarding::Route};

/// Most peers with counters of their own; a hostile mesh must cost no memory. More: counted by the node only.
const PEERS_MAX: usize = 4096;

/// Events counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventCounts {
    /// By peer, of those that are known.
    pub(crate) peers: BTreeMap<PeerName, PeerEvents>,
    /// Control connections established.
    pub(crate) connections_established: u64,
    /// Control connections that ended or never came to be.
    pub(crate) connections_ended: u64,
    /// Gossip refused, by channel.
    pub(crate) gossip_refused: BTreeMap<&'static str, u64>,
}

/// Events of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerEvents {
    /// Changes of the path to it, and of the method.
    pub(crate) path_changes: u64,
    /// Key changes.
    pub(crate) rekeys: u64,
}

impl EventCounts {
    /// Counts one event.
    pub(crate) fn count(&mut self, event: &Event) {
        match event {
            Event::ConnectionEstablished { .. } => self.connections_established += 1,
            Event::ConnectionEnded { .. } => self.connections_ended += 1,
            Event::PathChanged { peer, .. } | Event::MethodChanged { peer, .. } => {
                self.of(*peer, |counts| counts.path_changes += 1);
            }
            Event::Rekeyed { peer } => self.of(*peer, |counts| counts.rekeys += 1),
            Event::GossipRefused { channel, .. } => *self.gossip_refused.entry(channel).or_default() += 1,
            Event::PeerGone { peer } => {
                self.peers.remove(peer);
            }
            Event::SpreadChanged { .. }
            | Event::PeerFound { .. }
            | Event::TargetsChanged { .. }
            | Event::Addresses(_) => {}
        }
    }

    fn of(&mut self, peer: PeerName, count: impl FnOnce(&mut PeerEvents)) {
        if self.peers.len() < PEERS_MAX || self.peers.contains_key(&peer) {
            count(self.peers.entry(peer).or_default());
        }
    }
}

/// Writes an event to the log.
pub(crate) fn log(event: &Event) {
    match event {
        Event::ConnectionEstablished { peer, remote } => info!(%peer, %remote, "connected"),
        Event::ConnectionEnded { peer: Some(peer), remote, reason } => info!(%peer, remote, reason, "connection ended"),
        Event::ConnectionEnded { peer: None, remote, reason } => info!(remote, reason, "no connection"),
        Event::PathChanged { peer, route: None, reason } => warn!(%peer, reason, "no path"),
        Event::PathChanged { peer, route: Some(Route::Direct(to)), reason } => {
            info!(%peer, %to, reason, "direct path");
        }
        Event::PathChanged { peer, route: Some(Route::Relayed(relays)), reason } => {
            info!(%peer, ?relays, reason, "path by relay");
        }
        Event::SpreadChanged { peer, further } => debug!(%peer, ?further, "flows go by these relays, too"),
        Event::MethodChanged { peer, fastdp: true, reason } => info!(%peer, reason, "frames go by the fast datapath"),
        Event::MethodChanged { peer, fastdp: false, reason } => warn!(%peer, reason, "frames go by the sleeve"),
        Event::PeerFound { peer } => info!(%peer, "peer found"),
        Event::PeerGone { peer } => info!(%peer, "peer gone"),
        Event::GossipRefused { peer, channel, reason } => warn!(%peer, channel, reason, "gossip refused"),
        Event::Rekeyed { peer } => debug!(%peer, "new keys"),
        Event::Addresses(event) => match event {
            AddressEvent::Founded { .. } | AddressEvent::Removed { .. } | AddressEvent::Reclaimed { .. } => {
                info!("addresses: {event}");
            }
            AddressEvent::Conflict { .. }
            | AddressEvent::Fenced { .. }
            | AddressEvent::Unreadable { .. }
            | AddressEvent::Untold { .. } => warn!("addresses: {event}"),
        },
        Event::TargetsChanged { targets } => debug!(count = targets.len(), "targets changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_peer_within_bounds() {
        let mut counts = EventCounts::default();
        for n in 0..PEERS_MAX as u32 + 10 {
            let [a, b, c, d] = n.to_be_bytes();
            counts.count(&Event::Rekeyed { peer: PeerName([0, 0, a, b, c, d]) });
        }
        assert_eq!(counts.peers.len(), PEERS_MAX);
        let peer = PeerName([0; 6]);
        counts.count(&Event::PathChanged { peer, route: None, reason: "cut".to_owned() });
        assert_eq!(counts.peers[&peer], PeerEvents { path_changes: 1, rekeys: 1 });
        counts.count(&Event::PeerGone { peer });
        assert!(!counts.peers.contains_key(&peer));
    }
}
