//! The sleeve's data plane: worker threads that move frames between the TAP device and UDP, off tokio.
//!
//! ```text
//!              publish(Forwarding)                                  Input (bounded)
//!   control ───────────────┬──────────────┐            ┌───────────────────────────▶ control
//!                          ▼ ArcSwap      ▼            │
//!   bridge ⇄ TAP queue ⇄ worker: Plane::frame_in / datagram_in ⇄ UDP socket ⇄ peers
//! ```
//! One worker, one TAP queue, one socket of the shared port, one [`Plane`]. Nothing is decided here: what happens to a
//! frame is the plane's business, what the mesh looks like the node's. On the packet path there is no lock, no
//! allocation and no system call for a single packet where several wait; the clock is read once for a batch.
//!
//! The control task sends its own packets (handshakes, probes) by [`DataPlane::send`] and [`DataPlane::relay`] from the
//! same port. Counters are published by each worker some times a second and read by anybody through a [`Meter`].

mod batch;
mod intake;
mod meter;
mod precedence;
mod punts;
mod stages;
mod worker;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use weft::{
    drops::{Drop as Reason, DropCounts},
    id::PeerName,
    node::input::Input,
    plane::{Outlet, Plane},
    switch::forwarding::Forwarding,
};
use weft_host::{
    poll::{Poller, Waker},
    tap::TapQueue,
    udp::UdpSocket,
};

use self::{batch::Batch, meter::Gauge, worker::Worker};
pub use self::{
    meter::{Meter, Reading},
    punts::{PUNTS_MAX, channel},
    stages::Stages,
};

/// How long [`DataPlane::stop`] waits for the workers; they look after each batch, which takes far less.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// More workers than this do not make a mesh faster that one socket per remote address feeds.
const WORKERS_MAX: usize = 8;
/// How often a plane is ticked and its counters are published while there is traffic.
const TICK: Duration = Duration::from_millis(100);

/// What the data plane works with.
#[derive(Debug)]
pub struct DataPlaneConfig {
    /// Queues of one TAP device, as many as sockets.
    pub taps: Vec<TapQueue>,
    /// Sockets of one port, as many as queues; each pair becomes a worker.
    pub sockets: Vec<UdpSocket>,
    /// Takes what is for the node; see [`channel`].
    pub punts: mpsc::Sender<Input>,
    /// Whether workers go before other processes, by real-time priority, while they leave enough of their cores to them.
    pub realtime: bool,
}

/// Why the data plane does not run.
#[derive(Debug, Error)]
pub enum StartError {
    /// No pair of a queue and a socket, or one without the other.
    #[error("the data plane needs as many TAP queues as UDP sockets and at least one: got {0} and {1}")]
    Uneven(usize, usize),
    /// The process is out of descriptors, threads or memory.
    #[error("starting the data plane: {step} failed: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The running data plane; stops when dropped.
#[derive(Debug)]
pub struct DataPlane {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    wakers: Vec<Waker>,
    control: Control,
    meter: Meter,
    failure: watch::Receiver<Option<String>>,
}

/// What the workers and the control task share.
#[derive(Debug)]
struct Shared {
    forwarding: ArcSwap<Forwarding>,
    is_stopping: AtomicBool,
}

/// The number of workers that suits this machine: one for each core that we may use, at most eight.
pub fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

impl DataPlane {
    /// Starts the workers. Until the first [`Self::publish`] they know nobody.
    ///
    /// # Errors
    /// As [`StartError`] says; no thread is left behind.
    pub fn start(config: DataPlaneConfig) -> Result<Self, StartError> {
        let DataPlaneConfig { taps, sockets, punts, realtime } = config;
        let Some(first) = sockets.first().filter(|_| taps.len() == sockets.len()) else {
            return Err(StartError::Uneven(taps.len(), sockets.len()));
        };
        let socket = first.try_clone().map_err(system("cloning a socket"))?;
        let shared = Arc::new(Shared { forwarding: ArcSwap::default(), is_stopping: AtomicBool::new(false) });
        let (failed, failure) = watch::channel(None);
        let own_gauge = Gauge::default();
        let control = Control {
            plane: Plane::new(),
            out: ControlOut {
                batch: Batch::new(socket),
                punts: punts.clone(),
                drops: DropCounts::default(),
                stages: Stages::default(),
            },
            gauge: own_gauge.clone(),
            ticked: Instant::now(),
        };
        let mut plane =
            Self { shared, threads: Vec::new(), wakers: Vec::new(), control, meter: Meter::new(own_gauge), failure };
        for (tap, socket) in taps.into_iter().zip(sockets) {
            // On an error `plane` is dropped, which stops those that run.
            plane.spawn(tap, socket, &punts, realtime, &failed)?;
        }
        Ok(plane)
    }

    /// Forwards by `forwarding` from the workers' next batch on.
    pub fn publish(&self, forwarding: Arc<Forwarding>) {
        self.shared.forwarding.store(forwarding);
    }

    /// Sends the node's own `packet` straight to `to`, now. One that is too big for the interface comes back as
    /// [`Input::TooBig`]; other failures are counted.
    pub fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        match self.control.out.datagram(to, packet.len()) {
            Some(room) => room.copy_from_slice(packet),
            None => self.control.out.drops.count(Reason::SendFailed),
        }
        self.control.finish();
    }

    /// Sends the node's own `packet` to `to` by `relays`, now.
    pub fn relay(&mut self, to: PeerName, relays: &[PeerName], packet: &[u8]) {
        let forwarding = self.shared.forwarding.load();
        self.control.plane.relay(&forwarding, to, relays, packet, &mut self.control.out);
        self.control.finish();
    }

    /// Reads the counters without stopping anybody; to be given to whoever reports them.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Whether all workers run.
    pub fn is_running(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Turns to Some with words for people when a worker ends that should not: it panicked, or its TAP device is gone.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// Ends the workers and waits for them, at most two seconds (usually less than a millisecond); true if all ended.
    /// Queues and sockets are closed then, and with them the TAP device.
    pub fn stop(mut self) -> bool {
        self.halt()
    }

    fn spawn(
        &mut self,
        tap: TapQueue,
        socket: UdpSocket,
        punts: &mpsc::Sender<Input>,
        realtime: bool,
        failed: &watch::Sender<Option<String>>,
    ) -> Result<(), StartError> {
        let poller = Poller::new().map_err(system("epoll_create"))?;
        let waker = Waker::new().map_err(system("eventfd"))?;
        let gauge = Gauge::default();
        let worker = Worker::new(poller, waker.clone(), tap, Batch::new(socket), punts.clone(), gauge.clone())
            .map_err(system("epoll_ctl"))?;
        let (shared, failed) = (Arc::clone(&self.shared), failed.clone());
        let name = format!("sleeve-{}", self.threads.len());
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || worker::watch(|| worker.work(&shared, realtime), &name, &failed))
            .map_err(system("starting a thread"))?;
        self.threads.push(thread);
        self.wakers.push(waker);
        self.meter.add(gauge);
        Ok(())
    }

    fn halt(&mut self) -> bool {
        self.shared.is_stopping.store(true, SeqCst);
        self.wakers.iter().for_each(Waker::wake);
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut all_ended = true;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_micros(200));
            }
            // A panic was told already, by `failure`.
            all_ended &= thread.is_finished() && thread.join().is_ok();
        }
        all_ended
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.halt();
    }
}

/// The control task's own share of the data plane.
struct Control {
    plane: Plane,
    out: ControlOut,
    gauge: Gauge,
    ticked: Instant,
}

/// Where the control task's plane puts things.
struct ControlOut {
    batch: Batch,
    punts: mpsc::Sender<Input>,
    drops: DropCounts,
    stages: Stages,
}

impl Control {
    fn finish(&mut self) {
        self.out.flush();
        let now = Instant::now();
        if now.duration_since(self.ticked) >= TICK {
            self.ticked = now;
            self.plane.tick();
            self.gauge.publish(&self.plane, &self.out.drops, &self.out.stages, Duration::ZERO);
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl ControlOut {
    fn flush(&mut self) {
        flush(&mut self.batch, &self.punts, &mut self.drops, &mut self.stages);
    }
}

impl Outlet for ControlOut {
    fn datagram(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if !self.batch.has_room(to, len) {
            self.flush();
        }
        self.batch.datagram(to, len)
    }

    fn frame(&mut self, _frame: &[u8]) {
        // The node's own packets bring no frames.
        self.drops.count(Reason::BadFrame);
    }

    fn punt(&mut self, input: Input) {
        punts::offer(&self.punts, input, &mut self.drops);
    }
}

fn flush(batch: &mut Batch, punts: &mpsc::Sender<Input>, drops: &mut DropCounts, stages: &mut Stages) {
    batch.flush(drops, stages, |to, payload_max, drops| {
        punts::offer(punts, Input::TooBig { to, payload_max }, drops);
    });
}

fn system(step: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { step, source }
}

#[cfg(test)]
mod tests;
