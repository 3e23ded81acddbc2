//! One worker thread: wakes when its TAP queue or its socket has something, takes a bounded amount from each, and sends
//! what came of it before it looks again.

use std::{
    io,
    net::SocketAddr,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::{mpsc, watch};
use weft::{
    drops::{Drop, DropCounts},
    frame::{coalesce::Coalescer, vnet},
    node::input::Input,
    plane::{Outlet, Plane},
    switch::forwarding::Forwarding,
};
use weft_host::{
    poll::{Poller, Ready, Waker},
    precedence::turns,
    tap::{TapQueue, VNET_HEADER_LEN},
    udp::{self, Inbox},
};

use super::{
    Shared, TICK,
    batch::Batch,
    flush,
    intake::Intake,
    meter::Gauge,
    precedence::Precedence,
    punts,
    stages::{Stage, Stages},
};

const WAKE: usize = 0;
const TAP: usize = 1;
const UDP: usize = 2;

/// Frames and bytes taken from the TAP queue before the socket has its turn, and the other way round. What waits on one side
/// waits for a turn of the other: some 150 µs of sealing or opening, in which a batch still is worth its system call.
const TURN_FRAMES: usize = 64;
const TURN_BYTES: usize = 256 << 10;
/// Messages received by one system call while they are as large as they get: a turn's bytes.
const BULK_MESSAGES: usize = TURN_BYTES >> 16;
/// How often an idle worker ticks its plane.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// While first frames wait for a session, which another thread may get.
const HOLD_TICK: Duration = Duration::from_millis(2);
/// Most ticks made up for at once: those of an idle worker's sleep.
const TICKS_MAX: u128 = IDLE_TICK.as_millis() / TICK.as_millis();

/// A worker's state.
pub(super) struct Worker {
    poller: Poller,
    waker: Waker,
    plane: Plane,
    inbox: Inbox,
    intake: Intake,
    /// Messages to ask the socket for at once.
    messages: usize,
    out: Out,
    gauge: Gauge,
    ticked: Instant,
    /// How long it was at work and not waiting for any.
    worked: Duration,
    is_idle: bool,
}

/// Where a worker's plane puts things.
struct Out {
    tap: TapQueue,
    batch: Batch,
    coalescer: Coalescer,
    punts: mpsc::Sender<Input>,
    drops: DropCounts,
    stages: Stages,
}

/// Does a worker's `work`, which ends well when it is told to stop; otherwise, also by a panic, `failed` is told.
pub(super) fn watch(work: impl FnOnce() -> io::Result<()>, name: &str, failed: &watch::Sender<Option<String>>) {
    let words = match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("the data plane's thread {name} ended: {error}"),
        Err(_) => format!("the data plane's thread {name} panicked: please report it, with the log"),
    };
    failed.send_replace(Some(words));
}

impl Worker {
    /// A worker that waits for `waker`, `tap` and the socket of `batch`.
    pub(super) fn new(
        poller: Poller,
        waker: Waker,
        tap: TapQueue,
        batch: Batch,
        punts: mpsc::Sender<Input>,
        gauge: Gauge,
    ) -> io::Result<Self> {
        poller.add(&waker, WAKE)?;
        poller.add(&tap, TAP)?;
        poller.add(batch.socket(), UDP)?;
        Ok(Self {
            poller,
            waker,
            plane: Plane::new(),
            inbox: Inbox::default(),
            intake: Intake::new(),
            messages: udp::BATCH,
            out: Out {
                coalescer: Coalescer::new(tap.has_udp_offload()),
                tap,
                batch,
                punts,
                drops: DropCounts::default(),
                stages: Stages::default(),
            },
            gauge,
            ticked: Instant::now(),
            worked: Duration::ZERO,
            is_idle: false,
        })
    }

    /// Moves packets until `shared` says stop; before other processes if that is wanted.
    pub(super) fn work(mut self, shared: &Shared, is_realtime: bool) -> io::Result<()> {
        let mut forwarding = Cache::new(&shared.forwarding);
        let mut precedence = Precedence::new(is_realtime, self.ticked);
        loop {
            let ready = self.poller.wait(self.patience())?;
            let began = Instant::now();
            if ready.contains(WAKE) {
                self.waker.clear();
            }
            if shared.is_stopping.load(SeqCst) {
                return Ok(());
            }
            if ready.contains(UDP) {
                self.take_datagrams(&mut forwarding);
            }
            let forwarding = forwarding.load();
            // Before those that follow them, and by the same snapshot: nothing overtakes them.
            if self.plane.is_holding() {
                self.plane.release(forwarding, &mut self.out);
            }
            // What was just written to the TAP is often answered already, by the kernel or by a container on the other core.
            if ready.contains(TAP) || ready.contains(UDP) || !self.intake.is_empty() {
                self.take_frames(forwarding)?;
            }
            self.out.flush();
            self.out.stages.count(Stage::Turns, 1);
            self.out.stages.count(Stage::TurnsBeforeOthers, precedence.goes_before().into());
            let ended = Instant::now();
            self.worked += ended - began;
            precedence.look(self.worked, ended, turns);
            self.tick(ended, ready != Ready::default());
        }
    }

    fn patience(&self) -> Duration {
        if !self.intake.is_empty() {
            Duration::ZERO
        } else if self.plane.is_holding() {
            HOLD_TICK
        } else if self.is_idle {
            IDLE_TICK
        } else {
            TICK
        }
    }

    fn take_datagrams(&mut self, forwarding: &mut Cache<&ArcSwap<Forwarding>, Arc<Forwarding>>) {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let asked = self.messages;
            let received = match self.out.batch.socket().receive(&mut self.inbox, asked) {
                Ok(0) => return,
                Ok(received) => received,
                // Left by ICMP or the interface; reading took it off the socket.
                Err(error) => {
                    tracing::debug!(%error, "receiving datagrams");
                    return;
                }
            };
            let len = self.inbox.bytes();
            bytes += len;
            self.messages = if len >= TURN_BYTES / 2 { BULK_MESSAGES } else { udp::BATCH };
            // After reading: what came may be of a session that was not there before.
            let forwarding = forwarding.load();
            let mut datagrams = 0;
            for (from, datagram) in self.inbox.datagrams() {
                datagrams += 1;
                match from {
                    Some(from) => self.plane.datagram_in(forwarding, from, datagram, &mut self.out),
                    None => self.out.drops.count(Drop::NotSleeve),
                }
            }
            self.out.flush_frames();
            self.out.stages.count(Stage::ReceiveCalls, 1);
            self.out.stages.count(Stage::MessagesReceived, received);
            self.out.stages.count(Stage::DatagramsReceived, datagrams);
            if received < asked {
                return;
            }
        }
    }

    fn take_frames(&mut self, forwarding: &Forwarding) -> io::Result<()> {
        let mut bytes = 0;
        for _ in 0..TURN_FRAMES {
            let taken = self.intake.next(|buffer| self.out.tap.read(buffer)).map_err(tap_gone)?;
            let Some(packet) = taken else { break };
            bytes += packet.len();
            self.out.stages.count(Stage::FramesRead, 1);
            self.out.stages.count(Stage::FrameBytesRead, packet.len().saturating_sub(VNET_HEADER_LEN));
            let header = packet.split_first_chunk_mut::<VNET_HEADER_LEN>();
            match header.and_then(|(header, frame)| Some((vnet::Header::parse(header, frame)?, frame))) {
                Some((header, frame)) => {
                    self.out.stages.count(Stage::SuperFramesRead, header.gso.is_some().into());
                    self.plane.frame_in(forwarding, header, frame, &mut self.out);
                }
                None => self.out.drops.count(Drop::BadFrame),
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Once in a while: the plane's clock, and counters for others to read. After a long sleep the plane gets the ticks
    /// that it missed.
    fn tick(&mut self, now: Instant, was_busy: bool) {
        let passed = (now - self.ticked).as_millis() / TICK.as_millis();
        if passed == 0 {
            self.is_idle &= !was_busy;
            return;
        }
        self.ticked = now;
        self.is_idle = !was_busy;
        for _ in 0..passed.min(TICKS_MAX) {
            self.plane.tick();
        }
        self.out.stages.count(Stage::FramesOvertook, self.intake.take_overtook());
        self.gauge.publish(&self.plane, &self.out.drops, &self.out.stages, self.worked);
    }
}

fn tap_gone(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("reading the TAP device failed ({error}); was it deleted? Restart the router"))
}

impl Out {
    fn flush(&mut self) {
        self.flush_frames();
        self.flush_datagrams();
    }

    fn flush_datagrams(&mut self) {
        flush(&mut self.batch, &self.punts, &mut self.drops, &mut self.stages);
    }

    fn flush_frames(&mut self) {
        let Self { tap, coalescer, drops, stages, .. } = self;
        coalescer.flush(&mut |header, frame| write(tap, header, frame, drops, stages));
    }
}

impl Outlet for Out {
    fn datagram(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if !self.batch.has_room(to, len) {
            self.flush_datagrams();
        }
        self.batch.datagram(to, len)
    }

    fn frame(&mut self, frame: &[u8]) {
        let Self { tap, coalescer, drops, stages, .. } = self;
        coalescer.push(frame, &mut |header, frame| write(tap, header, frame, drops, stages));
    }

    fn punt(&mut self, input: Input) {
        punts::offer(&self.punts, input, &mut self.drops);
    }
}

/// A frame that the kernel refuses (the device is down, its queue is full, a header contradicts itself) is counted.
fn write(tap: &TapQueue, header: vnet::Header, frame: &[u8], drops: &mut DropCounts, stages: &mut Stages) {
    stages.count(Stage::FramesWritten, 1);
    stages.count(Stage::SuperFramesWritten, header.gso.is_some().into());
    stages.count(Stage::FrameBytesWritten, frame.len());
    if tap.write(&header.bytes(), frame).is_err() {
        drops.count(Drop::SendFailed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_panics_or_fails_is_told_of_and_one_that_stops_is_not() {
        let (failed, failure) = watch::channel(None);
        watch(|| Ok(()), "sleeve-0", &failed);
        assert_eq!(*failure.borrow(), None);
        watch(|| panic!("on purpose"), "sleeve-1", &failed);
        assert!(failure.borrow().as_ref().is_some_and(|words| words.contains("sleeve-1 panicked")), "{failure:?}");
        watch(|| Err(tap_gone(io::ErrorKind::NotFound.into())), "sleeve-2", &failed);
        assert!(failure.borrow().as_ref().is_some_and(|words| words.contains("reading the TAP")), "{failure:?}");
    }
}
