//! The data plane's whole view of the mesh: an immutable snapshot, built by the node, swapped whole, read without locks.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    crypto::session::Session,
    id::{Mac, PeerName},
    switch::quick_hash::QuickHash,
};

/// How a sleeve packet gets to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// Straight to this UDP address.
    Direct(SocketAddr),
    /// By relays, first one first; at most [`crate::wire::RELAYS_MAX`]. Each has a direct route from the one before it.
    Relayed(Vec<PeerName>),
}

/// What the data plane knows of one peer.
#[derive(Debug)]
pub struct PeerForwarding {
    /// The session to seal with; None until a handshake is done (the node is asked for one by a punt).
    pub session: Option<Arc<Session>>,
    /// The way there; None while there is none.
    pub route: Option<Route>,
    /// The relays of further ways, as many as the route has, that flows are spread over; none unless the route is relayed.
    pub further: Vec<Vec<PeerName>>,
    /// Where packets that have relays written into them go straight to the peer, whatever the route of our own frames, and the largest
    /// UDP payload that passes; None while nothing does.
    pub straight: Option<(SocketAddr, usize)>,
    /// The largest UDP payload (the whole sleeve packet, outermost header included) that the route and each further way
    /// carry unfragmented.
    pub payload_max: usize,
    /// Whether the kernel carries frames there by itself, whatever the route.
    pub carried: bool,
    /// The largest frame that the peer's bridge passes to its containers.
    pub frame_max: usize,
}

/// The snapshot.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// This node.
    pub name: Option<PeerName>,
    /// Whether packets of other peers for other peers are passed on.
    pub relays: bool,
    /// Where heartbeats of the fast datapath to us go: never by the sleeve.
    pub heartbeats: Option<Mac>,
    /// Every peer that frames may go to. Broadcast and multicast go to each of them that has a route.
    pub peers: BTreeMap<PeerName, PeerForwarding>,
    /// Whose bridge a station is on; stations of our own bridge are in `local`.
    pub stations: HashMap<Mac, PeerName, QuickHash>,
    /// Stations on our own bridge.
    pub local: HashSet<Mac, QuickHash>,
    /// Which remote station has an IP address, for answering ARP and ND.
    pub addresses: HashMap<IpAddr, Mac, QuickHash>,
    /// Sessions that packets may arrive on, by our index: of each peer the current one, the next, and some before.
    pub receiving: HashMap<u32, (PeerName, Arc<Session>), QuickHash>,
}

impl PeerForwarding {
    /// The relays of all ways that flows are spread over, the route first; none if that is direct.
    pub fn relayed(&self) -> impl Iterator<Item = &[PeerName]> {
        let route = match &self.route {
            Some(Route::Relayed(relays)) => Some(relays),
            Some(Route::Direct(_)) | None => None,
        };
        route.into_iter().flat_map(|relays| [relays].into_iter().chain(&self.further)).map(Vec::as_slice)
    }
}

impl Forwarding {
    /// Whether frames to `peer` want for no session, its own or that of a first relay.
    pub fn is_ready(&self, peer: PeerName) -> bool {
        let has_session = |peer: &PeerName| self.peers.get(peer).is_some_and(|known| known.session.is_some());
        let mut first = self.peers.get(&peer).into_iter().flat_map(PeerForwarding::relayed).filter_map(<[_]>::first);
        has_session(&peer) && first.all(has_session)
    }
}
