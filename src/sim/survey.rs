//! What an onlooker sees of a simulation who knows all of it, cheaper than by reports.

use std::net::SocketAddr;

use super::{HostId, Simulation};
use crate::{id::PeerName, switch::forwarding::Route};

impl Simulation {
    /// How many hosts there are.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// The name of host `id`.
    pub fn name(&self, id: HostId) -> PeerName {
        self.hosts[id].name
    }

    /// How many control connections host `id` has, those included that are not proven yet.
    pub fn connection_count(&self, id: HostId) -> usize {
        self.hosts[id].conns.len()
    }

    /// How frames from host `id` go to `peer` by the sleeve; None if they do not.
    pub fn route(&self, id: HostId, peer: PeerName) -> Option<&Route> {
        self.hosts[id].forwarding.peers.get(&peer)?.route.as_ref()
    }

    /// Where host `id` sends packets for relays to pass on, if `peer` is the first of them; None if it cannot.
    pub fn straight(&self, id: HostId, peer: PeerName) -> Option<SocketAddr> {
        self.hosts[id].forwarding.peers.get(&peer)?.straight.map(|(address, _)| address)
    }

    /// Which host a sleeve packet from host `id` to this address would arrive at now; None if it would be lost, but for chance.
    pub fn lands(&self, id: HostId, to: SocketAddr) -> Option<HostId> {
        let own = SocketAddr::new(self.hosts[id].address, crate::wire::DEFAULT_PORT);
        let other = self.network.lands(id, own, to, &self.hosts)?;
        (self.network.passes(id, other) && !self.hosts[other].is_dead).then_some(other)
    }
}
