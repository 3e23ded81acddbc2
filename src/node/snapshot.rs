//! Builds the data plane's snapshot from links, routes and stations.

use std::sync::Arc;

use super::{Node, links::Link};
use crate::{
    fastdp::heartbeat_mac,
    id::PeerName,
    link::mtu,
    switch::forwarding::{Forwarding, PeerForwarding},
    wire::{overhead::ETHERNET_LEN, sleeve::relay_overhead},
};

impl Node {
    /// The mesh as the data plane is to see it now.
    pub(super) fn snapshot(&self) -> Arc<Forwarding> {
        let mut forwarding = Forwarding {
            name: Some(self.name),
            relays: self.config.relay,
            heartbeats: Some(heartbeat_mac(self.name)),
            ..Forwarding::default()
        };
        for (peer, link) in self.links.iter() {
            for session in link.keys.receiving() {
                forwarding.receiving.insert(session.local_index(), (peer, Arc::clone(session)));
            }
            let route = self.route(peer);
            let further = self.further(peer).map(<[_]>::to_vec).collect();
            let payload_max = self.payload_max(peer).unwrap_or(mtu::BASE);
            let straight = link
                .direct
                .as_ref()
                .and_then(|direct| Some((direct.address()?, direct.payload_max().unwrap_or(mtu::BASE))));
            let session = link.keys.sending().cloned();
            let carried = link.is_carried();
            let frame_max = match link.fast.peer_mtu() {
                0 => usize::MAX,
                mtu => usize::from(mtu) + ETHERNET_LEN,
            };
            let known = PeerForwarding { session, route, further, straight, payload_max, carried, frame_max };
            forwarding.peers.insert(peer, known);
        }
        forwarding.stations = self.table.stations().collect();
        forwarding.local = self.table.local().collect();
        forwarding.addresses = self.table.addresses().into_iter().collect();
        Arc::new(forwarding)
    }

    /// The relays of the ways that flows to `peer` go by beside the chosen one: not those whose first relay has no session with us yet.
    pub(super) fn further(&self, peer: PeerName) -> impl Iterator<Item = &[PeerName]> {
        let is_ready = |link: &Link| {
            link.keys.sending().is_some() && link.direct.as_ref().is_some_and(|direct| direct.address().is_some())
        };
        let first = |relays: &[PeerName]| self.links.link(*relays.first()?);
        self.routes.further(peer).filter(move |relays| first(relays).is_some_and(is_ready))
    }

    /// The outermost UDP payload that fits the path to `peer`, and any further way: what its first link carries, and no more than what
    /// later links carry of the smaller packets that relays make of it. Later links of further ways carry no less.
    pub(super) fn payload_max(&self, peer: PeerName) -> Option<usize> {
        let relays = self.routes.relays(peer)?;
        let direct = |peer| self.links.link(peer)?.direct.as_ref()?.payload_max();
        if relays.is_empty() {
            return direct(peer);
        }
        let first = [relays].into_iter().chain(self.further(peer)).filter_map(<[_]>::first);
        let carried = first.map(|first| direct(*first).unwrap_or(mtu::BASE)).min()?;
        let later = self.routes.path_payload_max(peer).unwrap_or(mtu::BASE);
        let shrunk_by = relay_overhead(relays.len()) - relay_overhead((relays.len() - 1).max(1));
        Some(carried.min(later + shrunk_by))
    }
}
