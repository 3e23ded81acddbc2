//! The simulator: many nodes on a pretended network, in virtual time, from a seed.
//!
//! Each host is a real [`Node`] and a real [`crate::plane::Plane`]; only sockets, TAP and clock are pretended. One seed gives one run, so
//! a failure is found again by its seed. TCP is a pair of ordered, lossless streams which break when the network
//! between two hosts stays cut; UDP loses, delays and reorders.

pub mod course;
mod host;
mod kernel;
mod nat;
mod network;
pub mod optimum;
pub mod outcome;
pub mod scenario;
mod survey;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use host::{Host, Outbox};
use kernel::Kernel;
pub use nat::Nat;
pub use network::{Network, Way};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    api::{
        Report,
        allocation::{AddressAnswer, AddressRequest, AllocationError},
        path::PeerExplanation,
    },
    entropy::Entropy,
    fastdp::{Plan, SaSet},
    id::{ConnId, Mac, PeerName},
    names::{self, Held, NameRequest, RequestError},
    node::{
        Node, NodeConfig,
        input::{Input, Origin, Target},
        output::{Event, Output},
    },
    switch::forwarding::Route,
    time::Time,
};

/// How long TCP takes to give up on a cut network, and dialling on a silent one.
const TCP_GIVES_UP: Duration = Duration::from_secs(10);
const DIAL_GIVES_UP: Duration = Duration::from_secs(5);

/// The port for ESP in UDP of every host.
const ENCAP_PORT: u16 = crate::wire::DEFAULT_PORT + 2;

/// Where those dial from who are not simulated (RFC 5737).
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 40_000);

/// What a heartbeat has besides its sealed packet, within UDP: headers of Ethernet and VXLAN (14 and 8 bytes), and of ESP its header, IV,
/// trailer, padding and check (RFC 4106: 8, 8, 2, 2 and 16).
const HEARTBEAT_HEADERS: usize = 14 + 8 + 36;

/// How long a kernel takes to do what is planned.
const KERNEL_DELAY: Duration = Duration::from_millis(1);

/// How often a router looks to whom its kernel sent frames.
const KERNEL_LOOK: Duration = Duration::from_secs(1);

/// How long a disk takes to store something, and how long until it is tried again.
const DISK_DELAY: Duration = Duration::from_millis(1);
const DISK_RETRY: Duration = Duration::from_secs(1);

/// A host in the simulation, by number.
pub type HostId = usize;

/// What is to happen at a host.
#[derive(Debug)]
enum Happening {
    /// Its node's deadline, or just set going.
    Wake,
    /// A UDP datagram arrives.
    Datagram { from: SocketAddr, bytes: Vec<u8> },
    /// One arrives at the port for ESP in UDP that is not ESP.
    Encap { from: SocketAddr, bytes: Vec<u8> },
    /// Something happens on TCP.
    Tcp(Input),
    /// A packet arrives by the fast datapath: from the host, sealed so.
    Fast { from: HostId, seal: Option<SaSet>, content: FastContent },
    /// The router looks to whom the kernel sent frames.
    Look,
    /// The kernel has done what a router, the one started then, planned.
    Planned { by: Time, plan: Arc<Plan> },
    /// The disk stores the newest state of a router, the one started then, or does not.
    Store { by: Time },
    /// A dial arrives from another host's connection.
    Dialled { by: HostId, conn: ConnId },
}

/// What a packet of the fast datapath carries.
#[derive(Debug)]
enum FastContent {
    Heartbeat(Vec<u8>),
    Frame(Vec<u8>),
}

/// The whole of it.
#[derive(Debug)]
pub struct Simulation {
    now: Time,
    /// Ordered by time, then by when it was decided, so that runs repeat.
    agenda: BTreeMap<(Time, u64), (HostId, Happening)>,
    decided: u64,
    hosts: Vec<Host>,
    /// The network between the hosts; to be changed at any time.
    pub network: Network,
    rng: StdRng,
    asked: u64,
}

impl Simulation {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            agenda: BTreeMap::new(),
            decided: 0,
            hosts: Vec::new(),
            network: Network::default(),
            rng: StdRng::seed_from_u64(seed),
            asked: 0,
        }
    }

    /// The true time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Where host `id` is found.
    pub fn address(id: HostId) -> IpAddr {
        let [_, _, high, low] = u32::try_from(id + 1).unwrap_or(u32::MAX).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
    }

    /// Host `id` as a target.
    pub fn target(id: HostId) -> Target {
        SocketAddr::new(Self::address(id), crate::wire::DEFAULT_PORT).into()
    }

    /// Adds a host with a clock that runs `rate` times as fast as true time.
    pub fn add(&mut self, config: NodeConfig, rate: f64) -> HostId {
        let id = self.hosts.len();
        let entropy = Entropy::seeded(self.rng.random());
        self.hosts.push(Host::new(Node::new(config, entropy), Self::address(id), rate, self.now));
        self.schedule(Duration::ZERO, id, Happening::Tcp(Input::LocalAddresses(vec![Self::address(id)])));
        id
    }

    /// Replaces host `id` as if its router was killed and started again.
    pub fn restart(&mut self, id: HostId, config: NodeConfig) {
        let conns: Vec<_> = self.hosts[id].conns.values().copied().collect();
        for (other, conn) in conns {
            self.hosts[other].conns.remove(&conn);
            self.schedule(Duration::ZERO, other, Happening::Tcp(closed(conn, "connection reset by peer")));
        }
        let entropy = Entropy::seeded(self.rng.random());
        let rate = self.hosts[id].rate;
        let mut kernel = std::mem::take(&mut self.hosts[id].kernel);
        let kept = std::mem::take(&mut self.hosts[id].kept);
        let disk_fault = self.hosts[id].disk_fault.take();
        kernel.router_restarted();
        self.hosts[id] = Host::new(Node::new(config, entropy), Self::address(id), rate, self.now);
        self.hosts[id].kernel = kernel;
        self.hosts[id].kept = kept;
        self.hosts[id].disk_fault = disk_fault;
        self.schedule(Duration::ZERO, id, Happening::Tcp(Input::LocalAddresses(vec![Self::address(id)])));
    }

    /// Replaces host `id` by another machine with its address: nothing of the old kernel is left.
    pub fn replace(&mut self, id: HostId, config: NodeConfig) {
        self.restart(id, config);
        self.hosts[id].kernel = Kernel::default();
    }

    /// Kills the router of host `id`; its kernel goes on. [`Self::restart`] starts another.
    pub fn kill(&mut self, id: HostId) {
        let conns: Vec<_> = std::mem::take(&mut self.hosts[id].conns).into_values().collect();
        for (other, conn) in conns {
            self.hosts[other].conns.remove(&conn);
            self.schedule(Duration::ZERO, other, Happening::Tcp(closed(conn, "connection reset by peer")));
        }
        self.hosts[id].is_dead = true;
    }

    /// Starves host `id` for a while: what comes for it meanwhile, it finds afterwards.
    pub fn stall(&mut self, id: HostId, span: Duration) {
        self.hosts[id].stalled_until = self.now + span;
    }

    /// Tells host `id` something.
    pub fn tell(&mut self, id: HostId, input: Input) {
        self.handle(id, input);
    }

    /// Somebody who is not simulated dials host `id` from an address that nothing else comes from: what comes on the connection is to be
    /// [told](Self::tell), and what is sent to be [taken](Self::take_outside).
    pub fn connect_from_outside(&mut self, id: HostId) -> ConnId {
        let conn = self.hosts[id].next_accepted();
        self.hosts[id].outside.insert(conn, Vec::new());
        self.handle(id, Input::Accepted { conn, remote: OUTSIDE });
        conn
    }

    /// Takes what host `id` sent on such a connection.
    pub fn take_outside(&mut self, id: HostId, conn: ConnId) -> Vec<u8> {
        self.hosts[id].outside.get_mut(&conn).map(std::mem::take).unwrap_or_default()
    }

    /// A station on host `id`'s bridge sends a frame.
    pub fn send_frame(&mut self, id: HostId, frame: &[u8]) {
        let to = frame.first_chunk().and_then(|mac| self.hosts[id].kernel.carries(Mac(*mac)));
        if let Some(peer) = to {
            if self.hosts[id].kernel.carry(peer) {
                self.schedule_look(id);
            }
            return self.fast_out(id, peer, FastContent::Frame(frame.to_vec()));
        }
        let mut outbox = Outbox::default();
        self.hosts[id].frame_in(frame, &mut outbox);
        self.apply(id, outbox);
    }

    /// How many peers the kernel of host `id` has something for.
    pub fn planned(&self, id: HostId) -> usize {
        self.hosts[id].kernel.peers()
    }

    /// How many packets of the fast datapath the kernel of host `id` would not send, or not open.
    pub fn refused(&self, id: HostId) -> u64 {
        self.hosts[id].kernel.refused
    }

    /// Takes the frames that came out of host `id`'s TAP since last asked.
    pub fn take_frames(&mut self, id: HostId) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hosts[id].delivered)
    }

    /// Takes what host `id`'s node had to say since last asked; the oldest are lost if never asked.
    pub fn take_events(&mut self, id: HostId) -> VecDeque<Event> {
        std::mem::take(&mut self.hosts[id].events)
    }

    /// Asks host `id` for addresses or the like; [`Self::answer`] has what came of it.
    pub fn ask(&mut self, id: HostId, request: AddressRequest) -> u64 {
        self.asked += 1;
        let number = self.asked;
        self.handle(id, Input::Addresses { id: number, request });
        number
    }

    /// From now on the disk of host `id` stores nothing, for this reason; or it does again.
    pub fn set_disk_fault(&mut self, id: HostId, fault: Option<&str>) {
        self.hosts[id].disk_fault = fault.map(str::to_owned);
    }

    /// The answer to a request to host `id`, once it is there, and when it came.
    pub fn answer(&self, id: HostId, request: u64) -> Option<&(Result<AddressAnswer, AllocationError>, Time)> {
        self.hosts[id].answers.get(&request)
    }

    /// What host `id` has on its disk of addresses, or had `ago` times of storing before.
    pub fn kept(&self, id: HostId, ago: usize) -> Option<Vec<u8>> {
        self.hosts[id].kept.iter().rev().nth(ago).map(|bytes| bytes.to_vec())
    }

    /// What host `id` tells its users.
    pub fn report(&self, id: HostId) -> Report {
        let host = &self.hosts[id];
        host.node.report(host.local(self.now))
    }

    /// What host `id` tells its users of the ways to another.
    pub fn explain(&self, id: HostId, peer: PeerName) -> Option<PeerExplanation> {
        let host = &self.hosts[id];
        host.node.explain_peer(&peer.to_string(), host.local(self.now))
    }

    /// How many peers host `id` has a record of, itself included: cheaper to ask than [`Self::report`].
    pub fn peers_known(&self, id: HostId) -> usize {
        self.hosts[id].node.peers_known()
    }

    /// How many peers host `id` has a path to.
    pub fn peers_reached(&self, id: HostId) -> usize {
        self.hosts[id].node.peers_reached()
    }

    /// The hosts that host `id` has control connections with.
    pub fn neighbours(&self, id: HostId) -> Vec<HostId> {
        let neighbours: Vec<PeerName> = self.hosts[id].node.neighbours().collect();
        (0..self.hosts.len()).filter(|other| neighbours.contains(&self.hosts[*other].name)).collect()
    }

    /// Whether host `id` has heard from host `one` that frames go straight to host `other`.
    pub fn hears_of_link(&self, id: HostId, one: HostId, other: HostId) -> bool {
        self.hosts[id].node.hears_of_link(self.hosts[one].name, self.hosts[other].name)
    }

    /// The names that host `id` answers queries by.
    pub fn names(&self, id: HostId) -> &names::Table {
        &self.hosts[id].names
    }

    /// What host `id` would keep of its own names for its next run.
    pub fn own_names(&self, id: HostId) -> &[Held] {
        &self.hosts[id].own_names
    }

    /// Asks for a change of host `id`'s own names.
    pub fn change_names(&mut self, id: HostId, request: NameRequest) -> Option<Result<usize, RequestError>> {
        self.handle(id, Input::Names(request));
        self.hosts[id].names_answer.take()
    }

    /// Inputs and outputs of host `id` so far: messages on TCP, datagrams, and bytes of both, sent.
    pub fn sent(&self, id: HostId) -> (u64, u64) {
        (self.hosts[id].sent_messages, self.hosts[id].sent_bytes)
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), (id, happening)) = entry.remove_entry();
            self.now = at;
            self.happen(id, happening);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, looking every 100 ms; how long it took, None if not within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        while !done(self) {
            if self.now.since(start) >= limit {
                return None;
            }
            self.run(Duration::from_millis(100));
        }
        Some(self.now.since(start))
    }

    fn happen(&mut self, id: HostId, happening: Happening) {
        let span = self.hosts[id].stalled_until.since(self.now);
        if !span.is_zero() {
            let is_wake = matches!(happening, Happening::Wake);
            self.schedule(span, id, happening);
            if is_wake {
                self.hosts[id].wake = Some((self.now + span, self.decided));
            }
            return;
        }
        match happening {
            Happening::Wake => {
                self.hosts[id].wake = None;
                self.handle(id, Input::Timeout);
            }
            Happening::Datagram { from, bytes } => self.datagram_in(id, from, bytes),
            Happening::Encap { from, bytes } => {
                let origin = Origin::Encap { from, to: self.hosts[id].address };
                self.handle(id, Input::Datagram { origin, bytes });
            }
            Happening::Store { by } => self.store(id, by),
            Happening::Look => {
                let carried = self.hosts[id].kernel.look();
                self.handle(id, carried);
            }
            Happening::Planned { by, plan } => self.planned_by(id, by, &plan),
            Happening::Fast { from, seal, content } => self.fast_in(id, from, seal.as_ref(), content),
            Happening::Tcp(input) => {
                let conns = &mut self.hosts[id].conns;
                if let Input::Closed { conn, .. } = &input {
                    conns.remove(conn);
                }
                // Bytes for a connection that we closed meanwhile find nobody.
                let is_void = matches!(&input, Input::Received { conn, .. } if !conns.contains_key(conn));
                if !is_void {
                    self.handle(id, input);
                }
            }
            Happening::Dialled { by, conn } => self.accept(id, by, conn),
        }
    }

    fn handle(&mut self, id: HostId, input: Input) {
        if self.hosts[id].is_dead {
            return;
        }
        let now = self.hosts[id].local(self.now);
        self.hosts[id].node.handle(input, now);
        while let Some(output) = self.hosts[id].node.poll_output() {
            self.perform(id, output);
        }
        self.schedule_wake(id);
    }

    fn perform(&mut self, id: HostId, output: Output) {
        match output {
            Output::Dial { conn, target } => self.dial(id, conn, &target),
            Output::Send { conn, bytes } => self.stream(id, conn, bytes),
            Output::Close { conn } => {
                // The other side reads what is under way before it sees the end.
                if let Some((other, theirs)) = self.hosts[id].conns.remove(&conn) {
                    let delay = self.tcp_delay(id, conn, other);
                    self.schedule(delay, other, Happening::Tcp(closed(theirs, "closed by peer")));
                }
            }
            Output::Datagram { to, route, bytes } => match route {
                Route::Direct(address) => self.datagram_out(id, address, bytes),
                Route::Relayed(relays) => {
                    let mut outbox = Outbox::default();
                    self.hosts[id].relay(to, &relays, &bytes, &mut outbox);
                    self.apply(id, outbox);
                }
            },
            Output::Forwarding(forwarding) => {
                let mut outbox = Outbox::default();
                self.hosts[id].forwarding = forwarding;
                self.hosts[id].release(&mut outbox);
                self.apply(id, outbox);
            }
            Output::Plan(plan) => {
                let by = self.hosts[id].born;
                self.schedule(KERNEL_DELAY, id, Happening::Planned { by, plan });
            }
            Output::Heartbeat { to, bytes } => {
                self.hosts[id].count_sent(bytes.len() + HEARTBEAT_HEADERS);
                self.fast_out(id, to, FastContent::Heartbeat(bytes));
            }
            Output::Encap { to, bytes } => self.encap_out(id, to, bytes),
            Output::Keep { number, state } => {
                let by = self.hosts[id].born;
                if self.hosts[id].unstored.replace((number, state)).is_none() {
                    self.schedule(DISK_DELAY, id, Happening::Store { by });
                }
            }
            Output::AddressAnswer { id: request, result } => {
                self.hosts[id].answers.insert(request, (result, self.now));
            }
            Output::NamesAnswer(result) => self.hosts[id].names_answer = Some(result),
            Output::Names(table) => self.hosts[id].names = table,
            Output::OwnNames(own) => self.hosts[id].own_names = own,
            Output::Event(event) => self.hosts[id].remember(event),
        }
    }

    /// A disk stores the newest state, or is tried again; what a router that is gone meant to store is lost.
    fn store(&mut self, id: HostId, by: Time) {
        let host = &mut self.hosts[id];
        let Some((number, state)) = host.unstored.clone().filter(|_| host.born == by && !host.is_dead) else { return };
        let error = host.disk_fault.clone();
        if error.is_none() {
            host.unstored = None;
            host.kept.push(state);
        } else {
            self.schedule(DISK_RETRY, id, Happening::Store { by });
        }
        self.handle(id, Input::Kept { number, error });
    }

    /// A kernel that was told does it, also when the router is gone meanwhile; not when there is another.
    fn planned_by(&mut self, id: HostId, by: Time, plan: &Plan) {
        if self.hosts[id].born != by {
            return;
        }
        for told in self.hosts[id].kernel.apply(plan) {
            self.handle(id, told);
        }
    }

    fn fast_out(&mut self, id: HostId, to: PeerName, content: FastContent) {
        let Some(seal) = self.hosts[id].kernel.seal(to) else {
            self.hosts[id].kernel.refused += 1;
            return;
        };
        let encap = seal.as_ref().and_then(|set| set.encap);
        let other = match encap {
            Some((ours, theirs)) => self.network.udp(id, ours, theirs, &self.hosts).map(|(other, _)| other),
            // A NAT translates what has ports.
            None => {
                let other = self.hosts.iter().position(|host| host.name == to);
                other.filter(|other| !self.network.is_behind_nat(id) && !self.network.is_behind_nat(*other))
            }
        };
        let Some(other) = other else { return };
        let (len, is_heartbeat) = match &content {
            FastContent::Heartbeat(bytes) => (bytes.len(), true),
            FastContent::Frame(bytes) => (bytes.len(), false),
        };
        if let Some(delay) = self.network.fast(id, other, len, is_heartbeat, &mut self.rng) {
            self.schedule(delay, other, Happening::Fast { from: id, seal, content });
        }
    }

    fn fast_in(&mut self, id: HostId, from: HostId, seal: Option<&SaSet>, content: FastContent) {
        // The socket that takes ESP in UDP is the router's.
        if self.hosts[id].is_dead && seal.is_some_and(|set| set.encap.is_some()) {
            return;
        }
        if !self.hosts[id].kernel.opens(self.hosts[from].name, seal) {
            // What is in clear may come before this end has heard that the other trusts it.
            self.hosts[id].kernel.refused += u64::from(seal.is_some());
            return;
        }
        match content {
            FastContent::Heartbeat(bytes) => self.handle(id, Input::Datagram { origin: Origin::Fast, bytes }),
            FastContent::Frame(bytes) => self.hosts[id].delivered.push(bytes),
        }
    }

    /// Does what the data plane of host `id` wants done.
    fn apply(&mut self, id: HostId, outbox: Outbox) {
        for (to, bytes) in outbox.datagrams {
            self.datagram_out(id, to, bytes);
        }
        self.hosts[id].delivered.extend(outbox.frames);
        for input in outbox.punts {
            self.handle(id, input);
        }
        if let Some(busy) = self.hosts[id].look(self.now) {
            self.handle(id, busy);
        }
    }

    fn datagram_in(&mut self, id: HostId, from: SocketAddr, bytes: Vec<u8>) {
        if self.hosts[id].is_dead {
            return;
        }
        let mut outbox = Outbox::default();
        self.hosts[id].datagram_in(from, bytes, &mut outbox);
        self.apply(id, outbox);
    }

    fn datagram_out(&mut self, id: HostId, to: SocketAddr, bytes: Vec<u8>) {
        self.hosts[id].count_sent(bytes.len());
        let own = SocketAddr::new(self.hosts[id].address, crate::wire::DEFAULT_PORT);
        let Some((other, from)) = self.network.udp(id, own, to, &self.hosts) else { return };
        if let Some(delay) = self.network.datagram(id, other, bytes.len(), &mut self.rng) {
            self.schedule(delay, other, Happening::Datagram { from, bytes });
        }
    }

    fn encap_out(&mut self, id: HostId, to: SocketAddr, bytes: Vec<u8>) {
        self.hosts[id].count_sent(bytes.len());
        let own = SocketAddr::new(self.hosts[id].address, ENCAP_PORT);
        let Some((other, from)) = self.network.udp(id, own, to, &self.hosts) else { return };
        if let Some(delay) = self.network.fast(id, other, bytes.len(), false, &mut self.rng) {
            self.schedule(delay, other, Happening::Encap { from, bytes });
        }
    }

    fn dial(&mut self, id: HostId, conn: ConnId, target: &Target) {
        let other = target.host().parse().ok().and_then(|ip| host_at(ip, &self.hosts));
        // Nobody is reached behind a NAT, nor by what it shows.
        let other = other.filter(|other| !self.network.is_behind_nat(*other));
        match other {
            Some(other) if self.network.stream(id, other).is_some() => {
                let delay = self.network.stream(id, other).unwrap_or_default();
                self.schedule(delay, other, Happening::Dialled { by: id, conn });
            }
            Some(_) => self.schedule(DIAL_GIVES_UP, id, Happening::Tcp(closed(conn, "timed out"))),
            None => self.schedule(Duration::ZERO, id, Happening::Tcp(closed(conn, "no route to host"))),
        }
    }

    fn accept(&mut self, id: HostId, by: HostId, theirs: ConnId) {
        let ours = self.hosts[id].next_accepted();
        self.hosts[id].conns.insert(ours, (by, theirs));
        self.hosts[by].conns.insert(theirs, (id, ours));
        let port = crate::wire::DEFAULT_PORT;
        let delay = self.network.stream(id, by).unwrap_or_default();
        let remote = SocketAddr::new(self.hosts[id].address, port);
        self.schedule(delay, by, Happening::Tcp(Input::Connected { conn: theirs, remote }));
        // An ephemeral port, as a real dialler has: nobody listens there.
        let remote = SocketAddr::new(self.network.shown(by).unwrap_or(self.hosts[by].address), 40_000);
        self.handle(id, Input::Accepted { conn: ours, remote });
    }

    fn stream(&mut self, id: HostId, conn: ConnId, bytes: Vec<u8>) {
        self.hosts[id].count_sent(bytes.len());
        if let Some(sent) = self.hosts[id].outside.get_mut(&conn) {
            return sent.extend(bytes);
        }
        let Some(&(other, theirs)) = self.hosts[id].conns.get(&conn) else { return };
        if self.network.stream(id, other).is_some() {
            let delay = self.tcp_delay(id, conn, other);
            return self.schedule(delay, other, Happening::Tcp(Input::Received { conn: theirs, bytes }));
        }
        self.hosts[id].conns.remove(&conn);
        self.hosts[other].conns.remove(&theirs);
        self.schedule(TCP_GIVES_UP, id, Happening::Tcp(closed(conn, "timed out")));
        self.schedule(TCP_GIVES_UP, other, Happening::Tcp(closed(theirs, "timed out")));
    }

    /// A stream's bytes keep their order: none is scheduled before one sent earlier.
    fn tcp_delay(&mut self, id: HostId, conn: ConnId, other: HostId) -> Duration {
        let arrival = self.now + self.network.stream(id, other).unwrap_or(TCP_GIVES_UP);
        let last = self.hosts[id].arrivals.entry(conn).or_default();
        *last = arrival.max(*last);
        last.since(self.now)
    }

    fn schedule_wake(&mut self, id: HostId) {
        let Some(deadline) = self.hosts[id].node.deadline() else { return };
        // A clock that runs fast or slow never wakes too early: a microsecond later is soon enough.
        let at = self.hosts[id].truly(deadline).max(self.now) + Duration::from_micros(1);
        if self.hosts[id].wake.is_some_and(|(wake, _)| wake <= at) {
            return;
        }
        if let Some((wake, number)) = self.hosts[id].wake.take() {
            self.agenda.remove(&(wake, number));
        }
        self.schedule(at.since(self.now), id, Happening::Wake);
        self.hosts[id].wake = Some((at, self.decided));
    }

    /// Looks are as far apart whatever the kernel does.
    fn schedule_look(&mut self, id: HostId) {
        let since = self.now.since(self.hosts[id].born).as_nanos() % KERNEL_LOOK.as_nanos();
        let since = Duration::from_nanos(u64::try_from(since).unwrap_or_default());
        self.schedule(KERNEL_LOOK - since, id, Happening::Look);
    }

    fn schedule(&mut self, delay: Duration, id: HostId, happening: Happening) {
        self.decided += 1;
        self.agenda.insert((self.now + delay, self.decided), (id, happening));
    }
}

/// The host with this address of its own.
fn host_at(address: IpAddr, hosts: &[Host]) -> Option<HostId> {
    let IpAddr::V4(ip) = address else { return None };
    let [10, 0, high, low] = ip.octets() else { return None };
    usize::from(u16::from_be_bytes([high, low])).checked_sub(1).filter(|id| *id < hosts.len())
}

fn closed(conn: ConnId, reason: &str) -> Input {
    Input::Closed { conn, reason: reason.to_owned() }
}
