//! A pretended NAT: of what goes out it changes address and port, and lets in what answers that.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::HostId;

/// Ports that it gives when those of the hosts themselves are taken, or were forgotten.
const PORTS: u16 = 40_000;

/// One NAT.
#[derive(Clone, Debug)]
pub struct Nat {
    /// What the world sees.
    pub outer: IpAddr,
    /// The hosts behind it.
    pub inside: BTreeSet<HostId>,
    /// Which port it has given to a host's port, for all whom that talks to.
    given: BTreeMap<(HostId, u16), u16>,
    /// Whom each given port has talked to: nobody else gets in.
    known: BTreeSet<(u16, SocketAddr)>,
    next: u16,
}

impl Nat {
    /// One that has translated nothing yet.
    pub fn new(outer: IpAddr, inside: impl IntoIterator<Item = HostId>) -> Self {
        let inside = inside.into_iter().collect();
        Self { outer, inside, given: BTreeMap::new(), known: BTreeSet::new(), next: PORTS }
    }

    /// Forgets what it has translated of these ports of hosts, and gives others from now on.
    pub fn forget(&mut self, is_forgotten: impl Fn(u16) -> bool) {
        for (_, given) in self.given.iter_mut().filter(|((_, port), _)| is_forgotten(*port)) {
            self.known.retain(|(known, _)| known != given);
            *given = self.next;
            self.next += 1;
        }
    }

    pub(super) fn outward(&mut self, host: HostId, port: u16, to: SocketAddr) -> SocketAddr {
        let given = match self.given.get(&(host, port)) {
            Some(given) => *given,
            None if !self.given.values().any(|given| *given == port) => port,
            None => {
                self.next += 1;
                self.next
            }
        };
        self.given.insert((host, port), given);
        self.known.insert((given, to));
        SocketAddr::new(self.outer, given)
    }

    /// Whence the world sees what comes from this port of a host; None while nothing has come.
    pub(super) fn shown(&self, host: HostId, port: u16) -> Option<SocketAddr> {
        self.given.get(&(host, port)).map(|given| SocketAddr::new(self.outer, *given))
    }

    pub(super) fn inward(&self, port: u16, from: SocketAddr) -> Option<HostId> {
        let is_known = self.known.contains(&(port, from));
        self.given.iter().find(|(_, given)| is_known && **given == port).map(|((host, _), _)| *host)
    }
}
