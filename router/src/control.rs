//! The control task: owns the node, hands it everything that happens, and does what it wants done.
//!
//! ```text
//! sockets, data plane, host addresses, HTTP, timer ──▶ handle(input, now) ──▶ poll_output() until quiet ──▶ sockets,
//!                                                                             data plane, log, store
//! ```
//! Nothing is decided here. Every input passes [`Control::feed`], where it can be written down.
//!
//! Invariant: the node is quiet (no output waits) whenever the task waits.

pub(crate) mod load;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use weft::{
    api::{
        AddressExplanation, Report,
        allocation::{AddressAnswer, AddressRequest, AllocationError, Allotment},
        path::PeerExplanation,
    },
    fastdp::Ability,
    id::PeerName,
    names::{Held, NameRequest, RequestError, Table},
    node::{
        Node,
        input::{Input, Target},
        output::{Event, Output},
    },
    plane::{Counters, Lookout},
    switch::forwarding::{Forwarding, Route},
    time::Time,
};

use weft_host::Underlay;

use self::load::LoadMeter;
use crate::{
    dataplane::DataPlane,
    events::{self, EventCounts},
    fastdp::FastPath,
    keep,
    record::Recorder,
    transport::{Arrival, Transport},
};

/// Questions that may wait for the control task. Full: the asker waits, within its own deadline.
const ASKS_MAX: usize = 64;
/// Inputs of one kind taken before the others have their turn.
const BUDGET: usize = 64;
/// How long peers are told goodbye.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer about addresses may take: somewhat longer than the node gives itself.
const ADDRESSES_WITHIN: Duration = Duration::from_secs(12);
/// How often the node is told with whom frames are exchanged: those links are measured more closely.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// When the node wants nothing: later than this never matters, for something else will have happened.
const NEVER: Duration = Duration::from_secs(3600);

/// What the control task asks of the data plane.
pub(crate) trait Sleeve {
    /// Forwards by this from now on.
    fn publish(&self, forwarding: Arc<Forwarding>);
    /// Sends a packet of the node straight to an address.
    fn send(&mut self, to: SocketAddr, packet: &[u8]);
    /// Sends a packet of the node by relays.
    fn relay(&mut self, to: PeerName, relays: &[PeerName], packet: &[u8]);
    /// What was counted so far.
    fn counters(&self) -> Counters;
    /// How long its threads have worked so far, on average.
    fn worked(&self) -> Duration;
}

impl Sleeve for DataPlane {
    fn publish(&self, forwarding: Arc<Forwarding>) {
        Self::publish(self, forwarding);
    }

    fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        Self::send(self, to, packet);
    }

    fn relay(&mut self, to: PeerName, relays: &[PeerName], packet: &[u8]) {
        Self::relay(self, to, relays, packet);
    }

    fn counters(&self) -> Counters {
        self.meter().read().counters
    }

    fn worked(&self) -> Duration {
        self.meter().worked()
    }
}

/// A question or an order for the control task.
#[derive(Debug)]
pub(crate) enum Ask {
    /// How things are.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Hand this to the node, and say when that is done.
    Feed(Input, oneshot::Sender<()>),
    /// Change names of this router, and say how many addresses of them were added or taken.
    Names(NameRequest, oneshot::Sender<Result<usize, RequestError>>),
    /// Have something about addresses settled.
    Addresses(AddressRequest, oneshot::Sender<Settled>),
    /// Say what is known of an address.
    Explain(IpAddr, oneshot::Sender<AddressExplanation>),
    /// Say what is known of the ways to a peer, by its name or nickname; None if there is no such peer.
    ExplainPeer(String, oneshot::Sender<Option<PeerExplanation>>),
}

/// What came of a request about addresses.
pub(crate) type Settled = Result<AddressAnswer, AllocationError>;

/// How things are at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// What the node says.
    pub(crate) report: Report,
    /// What happened so far.
    pub(crate) events: EventCounts,
}

/// Why the control task ended without being asked to.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A worker thread is gone.
    #[error("{0}")]
    DataPlane(String),
    /// A bug.
    #[error("a control connection's task panicked: {0}")]
    Panic(String),
}

/// Asks the control task; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Asker(mpsc::Sender<Ask>);

/// The control task is gone: the router is stopping.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the router is stopping")]
pub(crate) struct Gone;

impl Asker {
    /// How things are.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Snapshot(answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Hands the node an input, and returns when it was handled.
    pub(crate) async fn feed(&self, input: Input) -> Result<(), Gone> {
        let (done, is_done) = oneshot::channel();
        self.0.send(Ask::Feed(input, done)).await.map_err(|_| Gone)?;
        is_done.await.map_err(|_| Gone)
    }

    /// Changes names of this router; returns how many addresses of them were added or taken.
    pub(crate) async fn names(&self, request: NameRequest) -> Result<Result<usize, RequestError>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Names(request, answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Has something about addresses settled; the node is asked in the order of these calls. The answer ends when the control
    /// task does.
    pub(crate) async fn begin_addresses(&self, request: AddressRequest) -> Result<oneshot::Receiver<Settled>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Addresses(request, answer)).await.map_err(|_| Gone)?;
        Ok(answered)
    }

    /// As [`Self::begin_addresses`], with the answer, which comes within [`ADDRESSES_WITHIN`].
    pub(crate) async fn addresses(&self, request: AddressRequest) -> Result<Settled, Gone> {
        let asked = async { self.begin_addresses(request).await?.await.map_err(|_| Gone) };
        let late = || AllocationError::Deadline { waiting: "the router itself is busy".to_owned() };
        timeout(ADDRESSES_WITHIN, asked).await.unwrap_or_else(|_| Ok(Err(late())))
    }

    /// Returns when the control task has ended.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }

    /// What is known of the ways to a peer; None if there is no such peer.
    pub(crate) async fn explain_peer(&self, peer: String) -> Result<Option<PeerExplanation>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::ExplainPeer(peer, answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// What is known of an address.
    pub(crate) async fn explain(&self, address: IpAddr) -> Result<AddressExplanation, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Explain(address, answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}

/// The way to ask a control task, and its own end of it.
pub(crate) fn channel() -> (Asker, mpsc::Receiver<Ask>) {
    let (asker, asks) = mpsc::channel(ASKS_MAX);
    (Asker(asker), asks)
}

/// Where the control task's inputs come from.
#[derive(Debug)]
pub(crate) struct Sources {
    /// HTTP and host operations.
    pub(crate) asks: mpsc::Receiver<Ask>,
    /// The data plane's packets for the node.
    pub(crate) punts: mpsc::Receiver<Input>,
    /// The sockets of the control connections.
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    /// What came of the fast datapath in the kernel.
    pub(crate) fast: mpsc::Receiver<Input>,
    /// States of the addresses that are on the disk, or cannot be stored.
    pub(crate) kept: mpsc::Receiver<Input>,
    /// The containers' MTU.
    pub(crate) mtu: watch::Receiver<u16>,
    /// The host's addresses.
    pub(crate) underlay: watch::Receiver<Underlay>,
    /// Some when a worker has failed.
    pub(crate) failure: watch::Receiver<Option<String>>,
    /// Cancelled when the router shall stop.
    pub(crate) stop: CancellationToken,
}

/// The state of the control task.
#[derive(Debug)]
pub(crate) struct Control<S> {
    pub(crate) node: Node,
    pub(crate) sleeve: S,
    pub(crate) transport: Transport,
    /// The fast datapath, if there is one.
    pub(crate) fast: Option<FastPath>,
    /// What the host can do of it.
    pub(crate) ability: Ability,
    pub(crate) recorder: Option<Recorder>,
    /// The newest state of the addresses, for whoever writes it down.
    pub(crate) newest: watch::Sender<keep::State>,
    /// Who waits for an answer about addresses, by its number.
    pub(crate) askers: Askers,
    /// The targets to remember, for whoever writes them down.
    pub(crate) targets: watch::Sender<Vec<Target>>,
    pub(crate) names: NamesOut,
    pub(crate) started: Instant,
    pub(crate) events: EventCounts,
    /// What was counted when last looked.
    pub(crate) lookout: Lookout,
    /// How busy the data plane is.
    pub(crate) load: LoadMeter,
}

/// Where names go.
#[derive(Debug)]
pub(crate) struct NamesOut {
    /// Those of the last run, to begin with.
    pub(crate) kept: Vec<Held>,
    /// What queries are answered by.
    pub(crate) table: Arc<ArcSwap<Table>>,
    /// This router's own, to remember, for whoever writes them down.
    pub(crate) own: watch::Sender<Vec<Held>>,
    /// What came of the last change.
    pub(crate) answer: Option<Result<usize, RequestError>>,
}

impl<S: Sleeve> Control<S> {
    /// Runs until told to stop, says goodbye, and gives the data plane back.
    pub(crate) async fn run(mut self, mut sources: Sources) -> (S, Result<(), ControlError>) {
        self.underlay_changed(&mut sources.underlay);
        self.mtu_changed(&mut sources.mtu);
        self.feed(Input::FastDatapath(self.ability.clone()));
        for Held { owner, name, addresses } in std::mem::take(&mut self.names.kept) {
            self.feed(Input::Names(NameRequest::Add { owner, name, addresses }));
        }
        self.feed(Input::Timeout);
        let ended = self.serve(&mut sources).await;
        self.leave();
        // Readers that wait for room are let go.
        drop(sources);
        let Self { sleeve, transport, .. } = self;
        // Goodbyes have been queued; a peer that does not take its own in time finds out by itself.
        let _ = timeout(LEAVE_PATIENCE, transport.finish()).await;
        (sleeve, ended)
    }

    async fn serve(&mut self, sources: &mut Sources) -> Result<(), ControlError> {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = self.wake_time();
            tokio::select! {
                () = sources.stop.cancelled() => return Ok(()),
                () = sleep_until(wake) => self.feed(Input::Timeout),
                Some(ask) = sources.asks.recv() => self.answer(ask),
                Some(input) = sources.punts.recv() => {
                    self.feed(input);
                    drain(&mut sources.punts, |input| self.feed(input));
                }
                Some(arrival) = sources.arrivals.recv() => {
                    self.arrive(arrival);
                    drain(&mut sources.arrivals, |arrival| self.arrive(arrival));
                }
                Some(input) = sources.fast.recv() => self.feed(input),
                Some(input) = sources.kept.recv() => self.feed(input),
                Ok(()) = sources.underlay.changed() => self.underlay_changed(&mut sources.underlay),
                Ok(()) = sources.mtu.changed() => self.mtu_changed(&mut sources.mtu),
                Ok(failure) = sources.failure.wait_for(Option::is_some) => {
                    return Err(ControlError::DataPlane(failure.clone().unwrap_or_default()));
                }
                _ = look.tick() => self.look(),
                error = self.transport.failed() => return Err(ControlError::Panic(error.to_string())),
            }
        }
    }

    /// Tells the node with whom frames were exchanged since the last look, and how busy that keeps us.
    fn look(&mut self) {
        if let Some(share) = self.load.look(self.sleeve.worked(), self.started.elapsed()) {
            self.feed(Input::Load(share));
        }
        if let Some(busy) = self.lookout.look(&self.sleeve.counters()) {
            self.feed(busy);
        }
    }

    fn underlay_changed(&mut self, underlay: &mut watch::Receiver<Underlay>) {
        let addresses = underlay.borrow_and_update().addresses.clone();
        self.feed(Input::LocalAddresses(addresses));
    }

    fn mtu_changed(&mut self, mtu: &mut watch::Receiver<u16>) {
        let mtu = *mtu.borrow_and_update();
        if let Some(fast) = &self.fast {
            fast.set_mtu(mtu.into());
        }
        self.feed(Input::ContainerMtu(mtu));
    }

    /// Says goodbye to all peers.
    fn leave(&mut self) {
        self.feed(Input::Leave);
        let now = self.now();
        if let Some(recorder) = self.recorder.take() {
            recorder.finish(self.node.report(now), now);
        }
    }

    fn answer(&mut self, ask: Ask) {
        // An asker who has stopped waiting is no concern of ours.
        match ask {
            Ask::Snapshot(answer) => {
                let report = self.node.report(self.now());
                let _ = answer.send(Snapshot { report, events: self.events.clone() });
            }
            Ask::Addresses(request, answer) => {
                let id = self.askers.add(answer);
                self.feed(Input::Addresses { id, request });
            }
            Ask::Explain(address, answer) => {
                let _ = answer.send(self.explain(address));
            }
            Ask::ExplainPeer(peer, answer) => {
                let _ = answer.send(self.node.explain_peer(&peer, self.now()));
            }
            Ask::Feed(input, done) => {
                self.feed(input);
                let _ = done.send(());
            }
            Ask::Names(request, answer) => {
                self.feed(Input::Names(request));
                // The node answers within the call.
                if let Some(result) = self.names.answer.take() {
                    let _ = answer.send(result);
                }
            }
        }
    }

    /// What is known of an address: by the allocator, and by the stations of the network.
    fn explain(&self, address: IpAddr) -> AddressExplanation {
        let Report { ipam, mut endpoints, .. } = self.node.report(self.now());
        endpoints.retain(|endpoint| endpoint.addresses.contains(&address));
        let has = |allotment: &&Allotment| allotment.addresses.iter().any(|net| net.addr() == address);
        AddressExplanation {
            address,
            range: ipam.ranges.iter().find(|range| range.contains(&address)).copied(),
            space_of: self.node.address_space(address),
            owner: ipam.owners.iter().find(has).map(|allotment| allotment.owner.clone()),
            stations: endpoints,
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        if let Some(input) = self.transport.admit(arrival) {
            self.feed(input);
        }
    }

    /// Hands the node an input, and does all that it then wants done.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now();
            if let Some(recorder) = &mut self.recorder {
                recorder.input(&input, now);
            }
            self.node.handle(input, now);
            while let Some(output) = self.node.poll_output() {
                inputs.extend(self.apply(output));
            }
        }
    }

    /// Does one thing; returns what the node has to know of how that went.
    fn apply(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Dial { conn, target } => self.transport.dial(conn, target),
            Output::Send { conn, bytes } => return self.transport.send(conn, bytes),
            Output::Close { conn } => self.transport.close(conn),
            Output::Datagram { route: Route::Direct(address), bytes, .. } => self.sleeve.send(address, &bytes),
            Output::Datagram { to, route: Route::Relayed(relays), bytes } => self.sleeve.relay(to, &relays, &bytes),
            Output::Forwarding(forwarding) => self.sleeve.publish(forwarding),
            Output::Plan(plan) => {
                if let Some(fast) = &self.fast {
                    fast.plan(plan);
                }
            }
            Output::Heartbeat { to, bytes } => {
                if let Some(fast) = &self.fast {
                    fast.send(to, &bytes);
                }
            }
            Output::Encap { to, bytes } => {
                if let Some(fast) = &self.fast {
                    fast.send_encap(to, &bytes);
                }
            }
            Output::NamesAnswer(result) => self.names.answer = Some(result),
            Output::Names(table) => self.names.table.store(Arc::new(table)),
            Output::OwnNames(own) => drop(self.names.own.send_replace(own)),
            Output::AddressAnswer { id, result } => self.askers.answer(id, result),
            Output::Keep { number, state } => drop(self.newest.send_replace((number, state))),
            Output::Event(event) => self.happened(event),
        }
        None
    }

    fn happened(&mut self, event: Event) {
        events::log(&event);
        self.events.count(&event);
        if let Event::TargetsChanged { targets } = event {
            self.targets.send_replace(targets);
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    fn wake_time(&self) -> Instant {
        let deadline = self.node.deadline().map(|deadline| self.started + deadline.since(Time::ZERO));
        deadline.unwrap_or_else(|| Instant::now() + NEVER)
    }
}

/// Who waits for answers about addresses. Each asker waits for a bounded time, and there are as many as calls under way.
#[derive(Debug, Default)]
pub(crate) struct Askers {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Settled>>,
}

impl Askers {
    /// One more; the number of its question.
    fn add(&mut self, asker: oneshot::Sender<Settled>) -> u64 {
        self.waiting.retain(|_, asker| !asker.is_closed());
        self.last += 1;
        self.waiting.insert(self.last, asker);
        self.last
    }

    fn answer(&mut self, id: u64, settled: Settled) {
        if let Some(asker) = self.waiting.remove(&id) {
            // One that has stopped waiting is no concern of ours.
            let _ = asker.send(settled);
        }
    }
}

fn drain<T>(receiver: &mut mpsc::Receiver<T>, mut take: impl FnMut(T)) {
    for _ in 1..BUDGET {
        let Ok(item) = receiver.try_recv() else { return };
        take(item);
    }
}

#[cfg(test)]
pub(crate) mod tests;
