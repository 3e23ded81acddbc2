//! One simulated host: a node, a data plane, and what its sockets and TAP would hold.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{HostId, kernel::Kernel};
use crate::{
    api::allocation::{AddressAnswer, AllocationError},
    frame::vnet,
    id::{ConnId, PeerName},
    names::{self, Held, RequestError},
    node::{Node, input::Input, output::Event},
    plane::{Lookout, Outlet, Plane},
    switch::forwarding::Forwarding,
    time::Time,
};

/// How often the node is told with whom frames were exchanged.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Events kept for the test to look at.
const EVENTS_MAX: usize = 10_000;

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) node: Node,
    pub(super) name: PeerName,
    pub(super) kernel: Kernel,
    /// The router was killed; its kernel goes on.
    pub(super) is_dead: bool,
    pub(super) address: IpAddr,
    pub(super) rate: f64,
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) names: names::Table,
    pub(super) own_names: Vec<Held>,
    pub(super) names_answer: Option<Result<usize, RequestError>>,
    pub(super) conns: BTreeMap<ConnId, (HostId, ConnId)>,
    /// What was sent on connections with the outside and not taken yet.
    pub(super) outside: BTreeMap<ConnId, Vec<u8>>,
    pub(super) arrivals: BTreeMap<ConnId, Time>,
    pub(super) delivered: Vec<Vec<u8>>,
    pub(super) events: VecDeque<Event>,
    /// What was stored, the newest last.
    pub(super) kept: Vec<Arc<[u8]>>,
    /// The newest state that is not, with its number.
    pub(super) unstored: Option<(u64, Arc<[u8]>)>,
    /// Why nothing can be stored.
    pub(super) disk_fault: Option<String>,
    /// Answers to requests for addresses, and when they came.
    pub(super) answers: BTreeMap<u64, (Result<AddressAnswer, AllocationError>, Time)>,
    /// The wake-up that is on the agenda: its time and number.
    pub(super) wake: Option<(Time, u64)>,
    pub(super) sent_messages: u64,
    pub(super) sent_bytes: u64,
    /// It has no processor until then.
    pub(super) stalled_until: Time,
    /// When its counters were last looked at, and what they were then.
    looked_at: Time,
    lookout: Lookout,
    plane: Plane,
    pub(super) born: Time,
    accepted: u64,
}

impl Host {
    pub(super) fn new(node: Node, address: IpAddr, rate: f64, born: Time) -> Self {
        Self {
            name: node.name(),
            node,
            kernel: Kernel::default(),
            is_dead: false,
            address,
            rate,
            forwarding: Arc::default(),
            names: names::Table::default(),
            own_names: Vec::new(),
            names_answer: None,
            conns: BTreeMap::new(),
            outside: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            delivered: Vec::new(),
            events: VecDeque::new(),
            kept: Vec::new(),
            unstored: None,
            disk_fault: None,
            answers: BTreeMap::new(),
            wake: None,
            sent_messages: 0,
            sent_bytes: 0,
            stalled_until: Time::ZERO,
            looked_at: born,
            lookout: Lookout::default(),
            plane: Plane::new(),
            born,
            accepted: 0,
        }
    }

    /// What this host's clock shows at the true time `now`.
    pub(super) fn local(&self, now: Time) -> Time {
        Time::ZERO + now.since(self.born).mul_f64(self.rate)
    }

    /// When this host's clock shows `local`.
    pub(super) fn truly(&self, local: Time) -> Time {
        self.born + local.since(Time::ZERO).div_f64(self.rate)
    }

    pub(super) fn next_accepted(&mut self) -> ConnId {
        self.accepted += 1;
        ConnId(self.accepted * 2 - 1)
    }

    pub(super) fn frame_in(&mut self, frame: &[u8], outbox: &mut Outbox) {
        self.plane.tick();
        let forwarding = Arc::clone(&self.forwarding);
        self.plane.frame_in(&forwarding, vnet::Header::default(), &mut frame.to_vec(), outbox);
    }

    /// First frames may go that waited for what is in a new snapshot.
    pub(super) fn release(&mut self, outbox: &mut Outbox) {
        let forwarding = Arc::clone(&self.forwarding);
        self.plane.release(&forwarding, outbox);
    }

    pub(super) fn datagram_in(&mut self, from: SocketAddr, mut bytes: Vec<u8>, outbox: &mut Outbox) {
        let forwarding = Arc::clone(&self.forwarding);
        self.plane.datagram_in(&forwarding, from, &mut bytes, outbox);
    }

    pub(super) fn relay(&mut self, to: PeerName, relays: &[PeerName], bytes: &[u8], outbox: &mut Outbox) {
        let forwarding = Arc::clone(&self.forwarding);
        self.plane.relay(&forwarding, to, relays, bytes, outbox);
    }

    /// With whom frames were exchanged since the last look, and the like, if it is time for one and there was anybody.
    pub(super) fn look(&mut self, now: Time) -> Option<Input> {
        if now.since(self.looked_at) < LOOK_INTERVAL {
            return None;
        }
        self.looked_at = now;
        self.lookout.look(self.plane.counters())
    }

    pub(super) fn remember(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn count_sent(&mut self, bytes: usize) {
        self.sent_messages += 1;
        self.sent_bytes += bytes as u64;
    }
}

/// What a data plane wants done.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) punts: Vec<Input>,
}

impl Outlet for Outbox {
    fn datagram(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.datagrams.push((to, vec![0; len]));
        self.datagrams.last_mut().map(|(_, bytes)| &mut bytes[..])
    }

    fn frame(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn punt(&mut self, input: Input) {
        self.punts.push(input);
    }
}
