//! The driver of the fast datapath: makes the kernel have what the node plans, and tells the node what came of it.
//!
//! ```text
//!   control ── Plan (the newest counts) ──▶ weft-fastdp: IPsec first, then forwarding ──▶ kernel
//!      ▲ ▲                                        │
//!      │ └──── keys, policies installed, worn, lost; stations heard; who is sent frames ◀── looks each second
//!      └────── heartbeats, by a packet socket on the bridge; probes, by the port for ESP in UDP
//! ```
//! The threads block in the kernel; the control task never waits for them. When they end, the kernel goes on: nothing is taken back
//! but by a reset.

mod backend;
mod counts;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc as blocking},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use weft::{
    fastdp::{Ability, Plan, PlannedPeer, Protection},
    id::PeerName,
    node::input::{Input, Origin},
};
use weft_host::{
    FastDatapath, HeartbeatSocket, HostError,
    poll::{Poller, Waker},
    xfrm::{EncapSocket, Xfrm},
};

use self::backend::Opened;
pub use self::backend::{Mode, ModeError};
pub(crate) use self::backend::{Setup, remove};
pub(crate) use self::counts::FastCounts;
use crate::daemon::spawn;

/// What the thread has to say and the control task has not taken yet. Full: the thread waits.
const INPUTS_MAX: usize = 256;
/// How often the kernel is looked at: whether our devices, states and policies are still there, and to whom frames went. How soon a path
/// that died unused is left depends on it (docs/routing.md).
const INSPECT_EVERY: Duration = Duration::from_secs(1);
/// How often keys are asked how much they have sealed, and the bridge whom it has heard.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// What an earlier router left and no plan has asked for goes after this: as long as peers keep what is ours.
const GRACE: Duration = weft::link::fast::HOLD;
/// Largest heartbeat that is read: of the largest MTU.
const HEARTBEAT_MAX: usize = 65_536;
/// How long a wait for heartbeats lasts at most; nothing depends on it.
const LISTEN_FOR: Duration = Duration::from_secs(60);
/// Heartbeats that are taken before the thread looks whether it shall end.
const BUDGET: usize = 64;

/// An order to the thread.
#[derive(Debug)]
enum Order {
    Plan(Arc<Plan>),
    Mtu(u32),
}

/// The control task's end.
#[derive(Debug)]
pub(crate) struct FastPath {
    orders: Option<blocking::Sender<Order>>,
    beats: Arc<HeartbeatSocket>,
    encap: Option<Arc<EncapSocket>>,
    own: PeerName,
    waker: Waker,
    threads: Vec<JoinHandle<()>>,
}

/// What becomes of starting it: the control task's end, what the node is told, and where its inputs come from.
pub(crate) struct Started {
    pub(crate) path: Option<FastPath>,
    pub(crate) ability: Ability,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) counts: watch::Receiver<FastCounts>,
}

impl FastPath {
    /// Opens the fast datapath in the calling thread's network namespace. Where that does not work the sleeve carries all, and the
    /// node is told why.
    pub(crate) fn start(setup: Setup, mtu: u32) -> Started {
        let (told, inputs) = mpsc::channel(INPUTS_MAX);
        let (counted, counts) = watch::channel(FastCounts::default());
        let started = |path, ability| Started { path, ability, inputs, counts };
        if setup.mode == Mode::Off {
            if let Err(error) = remove(&setup.config.bridge, setup.config.port) {
                warn!(%error, "cannot remove what an earlier run left of the fast datapath");
            }
            return started(None, Ability::Off(String::new()));
        }
        match Self::open(setup, mtu, told, counted) {
            Ok((path, ability)) => started(Some(path), ability),
            Err(error) => {
                warn!(%error, "there is no fast datapath: all frames go by the sleeve");
                started(None, Ability::Off(error.to_string()))
            }
        }
    }

    fn open(
        setup: Setup,
        mtu: u32,
        told: mpsc::Sender<Input>,
        counted: watch::Sender<FastCounts>,
    ) -> Result<(Self, Ability), HostError> {
        let system = |doing| move |error: io::Error| HostError::io(doing, &error);
        let own = setup.config.own;
        let beats = Arc::new(HeartbeatSocket::open(&setup.config.bridge, own)?);
        let waker = Waker::new().map_err(system("wait"))?;
        let (orders, queue) = blocking::channel();
        let (encap, threads) = (None, Vec::new());
        let mut path = Self { orders: Some(orders), beats: Arc::clone(&beats), encap, own, waker, threads };
        let (opened, answer) = blocking::channel();
        let heard = told.clone();
        let worker = spawn("weft-fastdp", move || {
            // Sockets of the kernel belong to the thread that opens them, as all calls do.
            match setup.open(mtu) {
                Ok(Opened { datapath, xfrm, encap, ability }) => {
                    if opened.send(Ok((encap, ability))).is_ok() {
                        Worker::new(datapath, xfrm, told, counted).work(&queue);
                    }
                }
                // Whoever asked is gone if this does not arrive.
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        path.threads.push(worker.map_err(system("start a thread"))?);
        let (encap, ability) = answer.recv().unwrap_or(Err(HostError::Stopped))?;
        path.encap = encap.map(Arc::new);
        let ears = Ears::open(beats, path.encap.clone(), &path.waker).map_err(system("wait for heartbeats"))?;
        let listener = spawn("weft-beats", move || ears.listen(&heard));
        path.threads.push(listener.map_err(system("start a thread"))?);
        info!(fastdp = ability.backend(), no_esp = ability.info(), "the fast datapath is ready");
        Ok((path, ability))
    }

    /// Has the kernel do as this plan says.
    pub(crate) fn plan(&self, plan: Arc<Plan>) {
        self.order(Order::Plan(plan));
    }

    /// Gives the devices another MTU.
    pub(crate) fn set_mtu(&self, mtu: u32) {
        self.order(Order::Mtu(mtu));
    }

    /// Sends a heartbeat; one that the kernel does not take is lost, like any.
    pub(crate) fn send(&self, to: PeerName, packet: &[u8]) {
        if let Err(error) = self.beats.send(to, self.own, packet) {
            debug!(%error, peer = %to, "a heartbeat was not sent");
        }
    }

    /// Sends a packet from the port for ESP in UDP; one that the kernel does not take is lost, like any.
    pub(crate) fn send_encap(&self, to: SocketAddr, packet: &[u8]) {
        if let Some(Err(error)) = self.encap.as_ref().map(|encap| encap.send(to, packet)) {
            debug!(%error, %to, "a packet beside ESP in UDP was not sent");
        }
    }

    fn order(&self, order: Order) {
        // A thread that is gone has said why.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.waker.wake();
        for thread in self.threads.drain(..) {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}

/// What the listening thread hears by.
struct Ears {
    poller: Poller,
    beats: Arc<HeartbeatSocket>,
    encap: Option<Arc<EncapSocket>>,
}

impl Ears {
    const BEATS: usize = 0;
    const WAKER: usize = 1;
    const ENCAP: usize = 2;

    fn open(beats: Arc<HeartbeatSocket>, encap: Option<Arc<EncapSocket>>, waker: &Waker) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&*beats, Self::BEATS)?;
        poller.add(waker, Self::WAKER)?;
        encap.as_ref().map(|encap| poller.add(&**encap, Self::ENCAP)).transpose()?;
        Ok(Self { poller, beats, encap })
    }

    /// Takes heartbeats, and what comes beside ESP in UDP, until woken.
    fn listen(&self, told: &mpsc::Sender<Input>) {
        let mut buffer = vec![0; HEARTBEAT_MAX];
        // When the control task has too much to do, this is not what it needs more of.
        let tell = |origin, bytes: &[u8]| drop(told.try_send(Input::Datagram { origin, bytes: bytes.to_vec() }));
        loop {
            let Ok(ready) = self.poller.wait(LISTEN_FOR) else { return };
            if ready.contains(Self::WAKER) || told.is_closed() {
                return;
            }
            for _ in 0..BUDGET {
                match self.beats.receive(&mut buffer) {
                    Ok(Some(len)) => tell(Origin::Fast, buffer.get(..len).unwrap_or_default()),
                    Ok(None) => {}
                    // Nothing waits; or the bridge is gone, and heartbeats stay away, from which the node draws its conclusions.
                    Err(_) => break,
                }
            }
            let encap = self.encap.iter().filter(|_| ready.contains(Self::ENCAP));
            for encap in encap.flat_map(|encap| std::iter::repeat_n(encap, BUDGET)) {
                match encap.receive(&mut buffer) {
                    Ok(Some((bytes, from, to))) => tell(Origin::Encap { from, to }, bytes),
                    // Nothing waits, or a host far away says that nobody listens there.
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}

/// How the kernel sends to a peer.
#[derive(Clone, PartialEq, Eq)]
struct Way {
    remote: IpAddr,
    /// What it seals with; None for in clear.
    spi: Option<u32>,
    error: Option<String>,
}

/// The thread's state.
struct Worker {
    datapath: Box<dyn FastDatapath>,
    xfrm: Option<Xfrm>,
    told: mpsc::Sender<Input>,
    counts: watch::Sender<FastCounts>,
    plan: Arc<Plan>,
    /// How the kernel sends to each peer, as the node was told.
    ways: BTreeMap<PeerName, Way>,
    /// The last plan is not in force as a whole, or something was mended.
    is_behind: bool,
    started: Instant,
    inspected: Instant,
    counted: Instant,
    is_settled: bool,
    /// What was complained of last: once is enough.
    complaint: Option<String>,
}

impl Worker {
    fn new(
        datapath: Box<dyn FastDatapath>,
        xfrm: Option<Xfrm>,
        told: mpsc::Sender<Input>,
        counts: watch::Sender<FastCounts>,
    ) -> Self {
        let now = Instant::now();
        Self {
            datapath,
            xfrm,
            told,
            counts,
            plan: Arc::default(),
            ways: BTreeMap::new(),
            is_behind: false,
            started: now,
            inspected: now,
            counted: now,
            is_settled: false,
            complaint: None,
        }
    }

    fn work(mut self, queue: &blocking::Receiver<Order>) {
        loop {
            match queue.recv_timeout(INSPECT_EVERY.saturating_sub(self.inspected.elapsed())) {
                Ok(order) => {
                    self.obey(order);
                    // Of plans that queued up meanwhile only the newest counts.
                    queue.try_iter().for_each(|order| self.obey(order));
                }
                Err(blocking::RecvTimeoutError::Timeout) => {}
                Err(blocking::RecvTimeoutError::Disconnected) => return,
            }
            if self.is_behind {
                let applied = self.apply();
                self.is_behind = applied.is_err();
                self.complain(applied);
            }
            if self.inspected.elapsed() >= INSPECT_EVERY {
                self.inspected = Instant::now();
                let inspected = self.inspect();
                self.complain(inspected);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Plan(plan) => {
                self.plan = plan;
                self.is_behind = true;
            }
            Order::Mtu(mtu) => {
                let set = self.datapath.set_mtu(mtu);
                self.complain(set);
            }
        }
    }

    /// IPsec first: what frames will be sealed with has to be there before they go.
    fn apply(&mut self) -> Result<(), HostError> {
        if let Some(xfrm) = &mut self.xfrm {
            for installed in xfrm.apply(&self.plan)? {
                let (peer, spi, error) = (installed.peer, installed.spi, installed.error);
                self.tell(Input::EspInstalled { peer, spi, error });
            }
        }
        let messages = self.datapath.apply(&self.plan);
        self.tell_ways();
        let messages = messages?;
        debug!(messages, peers = self.plan.peers.len(), stations = self.plan.stations.len(), "the kernel has the plan");
        Ok(())
    }

    /// Tells how the kernel sends to each peer, where that is other than was told.
    fn tell_ways(&mut self) {
        let failures = self.xfrm.as_ref().map(Xfrm::failures);
        let way = |(peer, planned): (&PeerName, &PlannedPeer)| {
            let spi = match &planned.protection {
                Protection::Clear => None,
                Protection::Esp(esp) => Some(esp.send.as_ref()?.spi),
            };
            let error = failures.and_then(|failures| failures.get(peer)).cloned();
            Some((*peer, Way { remote: planned.remote, spi, error }))
        };
        let ways: BTreeMap<_, _> = self.plan.peers.iter().filter_map(way).collect();
        for (&peer, way) in ways.iter().filter(|(peer, way)| self.ways.get(peer) != Some(way)) {
            let Way { remote, spi, error } = way.clone();
            self.tell(Input::FastInstalled { peer, remote, spi, error });
        }
        self.ways = ways;
    }

    fn inspect(&mut self) -> Result<(), HostError> {
        if !self.is_settled && self.started.elapsed() >= GRACE {
            self.is_settled = true;
            self.datapath.settle()?;
            self.xfrm.as_mut().map(Xfrm::settle).transpose()?;
        }
        for mended in self.datapath.inspect()? {
            warn!("mended the fast datapath: {mended}");
        }
        self.tell_carried()?;
        if let Some(xfrm) = &mut self.xfrm {
            let damage = xfrm.inspect()?;
            if damage.repaired > 0 {
                warn!(policies = damage.repaired, "put back IPsec policies that somebody removed or changed");
            }
            for spi in damage.lost {
                warn!(spi, "somebody removed IPsec states of ours: making new keys");
                self.tell(Input::EspEnded { spi, lost: true });
            }
            self.count_packets()?;
        }
        if self.counted.elapsed() >= COUNT_EVERY {
            self.counted = Instant::now();
            self.count()?;
        }
        Ok(())
    }

    /// Tells to whom frames went since the last look; nothing if to nobody.
    fn tell_carried(&mut self) -> Result<(), HostError> {
        let used = self.datapath.used()?;
        let peers: BTreeSet<PeerName> = used.iter().filter_map(|mac| self.plan.stations.get(mac)).copied().collect();
        if !peers.is_empty() {
            self.tell(Input::Carried { peers: peers.into_iter().collect() });
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), HostError> {
        for mac in self.datapath.learnt()? {
            self.tell(Input::Station { mac, addresses: Vec::new(), attached: false });
        }
        let worn = self.xfrm.as_mut().map(Xfrm::worn).transpose()?;
        for spi in worn.into_iter().flatten() {
            self.tell(Input::EspEnded { spi, lost: false });
        }
        Ok(())
    }

    /// Counts what passed each lane, and what the kernel refused.
    fn count_packets(&mut self) -> Result<(), HostError> {
        let Some(xfrm) = &mut self.xfrm else { return Ok(()) };
        let (lanes, refused) = (xfrm.lanes()?, xfrm.trouble());
        if let Some(worst) = refused.0.iter().max_by_key(|counter| counter.packets) {
            let why = format!("{} {} ({})", worst.packets, worst.meaning, worst.name);
            debug!(why, "the kernel refused packets");
            self.tell(Input::PacketsRefused(why));
        }
        self.counts.send_modify(|counts| counts.add(lanes, &refused));
        Ok(())
    }

    fn tell(&self, input: Input) {
        // A control task that is gone has no use for it.
        let _ = self.told.blocking_send(input);
    }

    fn complain<T>(&mut self, outcome: Result<T, HostError>) {
        let complaint = outcome.err().map(|error| error.to_string());
        if let Some(error) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!(error, "the kernel's fast datapath is not as planned; trying again");
        }
        self.complaint = complaint;
    }
}

#[cfg(test)]
mod tests;
