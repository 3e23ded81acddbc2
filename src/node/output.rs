//! What a node wants done, and what it has to say.

use std::{net::SocketAddr, sync::Arc};

use super::input::Target;
use crate::{
    api::allocation::{AddressAnswer, AllocationError},
    fastdp::Plan,
    id::{ConnId, PeerName},
    ipam::AddressEvent,
    names::{self, Held, RequestError},
    switch::forwarding::{Forwarding, Route},
};

/// One thing for the driver to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Open a control connection; answer with Connected or Closed. A name is resolved anew each time.
    Dial {
        /// What to call it: an even number never used before.
        conn: ConnId,
        /// Where; without a port, the network's.
        target: Target,
    },
    /// Send on a control connection. If more than the driver's bound is waiting already, the driver closes it.
    Send {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close a control connection after sending what is waiting; no Closed is expected.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Send a sleeve packet, not to be fragmented on the way. Relayed ones are wrapped by the data plane.
    Datagram {
        /// The peer it is for; for a direct route it matters only to counters.
        to: PeerName,
        /// The way.
        route: Route,
        /// The whole packet.
        bytes: Vec<u8>,
    },
    /// Forward by this from now on.
    Forwarding(Arc<Forwarding>),
    /// The kernel shall have this from now on.
    Plan(Arc<Plan>),
    /// Send a packet of the link through the fast datapath: to the heartbeat address of `to`.
    Heartbeat {
        /// The peer.
        to: PeerName,
        /// The whole packet.
        bytes: Vec<u8>,
    },
    /// Send a packet of the link from our port for ESP in UDP.
    Encap {
        /// Where to.
        to: SocketAddr,
        /// The whole packet.
        bytes: Vec<u8>,
    },
    /// Store this durably, instead of what was stored before; [`super::input::Input::Kept`] says when that is done. A newer one
    /// may take the place of one that is not stored yet.
    Keep {
        /// Counts the states up.
        number: u64,
        /// What to store.
        state: Arc<[u8]>,
    },
    /// The answer to [`super::input::Input::Addresses`].
    AddressAnswer {
        /// The request's.
        id: u64,
        /// What came of it.
        result: Result<AddressAnswer, AllocationError>,
    },
    /// What came of the last [`super::input::Input::Names`]: how many addresses were added or taken.
    NamesAnswer(Result<usize, RequestError>),
    /// Answer queries for names by this from now on.
    Names(names::Table),
    /// This peer's own names, to be kept for its next run.
    OwnNames(Vec<Held>),
    /// Something to log, count, or keep.
    Event(Event),
}

/// Something that happened and that somebody may ask about.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A control connection is established.
    ConnectionEstablished {
        /// The peer.
        peer: PeerName,
        /// Its address.
        remote: SocketAddr,
    },
    /// A control connection ended, or never came to be, for this reason.
    ConnectionEnded {
        /// The peer, if it got that far.
        peer: Option<PeerName>,
        /// The target or address.
        remote: String,
        /// Why, in words for people.
        reason: String,
    },
    /// The way to a peer changed.
    PathChanged {
        /// The peer.
        peer: PeerName,
        /// The way now; None for no way.
        route: Option<Route>,
        /// Why, in words for people.
        reason: String,
    },
    /// Flows to a peer that is reached by relays are spread over other ways than before.
    SpreadChanged {
        /// The peer.
        peer: PeerName,
        /// The relays of each way beside the chosen one.
        further: Vec<Vec<PeerName>>,
    },
    /// Frames to a peer go by another method than before.
    MethodChanged {
        /// The peer.
        peer: PeerName,
        /// By the fast datapath now; else by the sleeve.
        fastdp: bool,
        /// Why, in words for people.
        reason: String,
    },
    /// A peer became known.
    PeerFound {
        /// The peer.
        peer: PeerName,
    },
    /// A peer left or was not reachable for long.
    PeerGone {
        /// The peer.
        peer: PeerName,
    },
    /// A peer's gossip was refused as a whole.
    GossipRefused {
        /// The neighbour who sent it.
        peer: PeerName,
        /// The channel.
        channel: &'static str,
        /// Why.
        reason: String,
    },
    /// New keys are in use with a peer.
    Rekeyed {
        /// The peer.
        peer: PeerName,
    },
    /// Something about addresses.
    Addresses(AddressEvent),
    /// The set of targets changed and is to be kept for `--resume`.
    TargetsChanged {
        /// All of them.
        targets: Vec<Target>,
    },
}
