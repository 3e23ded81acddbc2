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
    poll::{Poller, Waker},
    tap::{READ_LEN, TapQueue, VNET_HEADER_LEN},
    udp::Inbox,
};

use super::{Shared, TICK, batch::Batch, flush, meter::Gauge, punts};

const WAKE: usize = 0;
const TAP: usize = 1;
const UDP: usize = 2;

/// Frames read from the TAP queue before the socket has its turn.
const TAP_BUDGET: usize = 64;
/// Batches read from the socket before the TAP queue has its turn.
const UDP_BUDGET: usize = 4;
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
    frame: Box<[u8]>,
    out: Out,
    gauge: Gauge,
    ticked: Instant,
    is_idle: bool,
}

/// Where a worker's plane puts things.
struct Out {
    tap: TapQueue,
    batch: Batch,
    coalescer: Coalescer,
    punts: mpsc::Sender<Input>,
    drops: DropCounts,
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
            frame: vec![0; READ_LEN].into_boxed_slice(),
            out: Out {
                coalescer: Coalescer::new(tap.has_udp_offload()),
                tap,
                batch,
                punts,
                drops: DropCounts::default(),
            },
            gauge,
            ticked: Instant::now(),
            is_idle: false,
        })
    }

    /// Moves packets until `shared` says stop.
    pub(super) fn work(mut self, shared: &Shared) -> io::Result<()> {
        let mut forwarding = Cache::new(&shared.forwarding);
        loop {
            let ready = self.poller.wait(self.patience())?;
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
            if ready.contains(TAP) {
                self.take_frames(forwarding)?;
            }
            self.out.flush();
            self.tick(ready != Default::default());
        }
    }

    fn patience(&self) -> Duration {
        match (self.plane.is_holding(), self.is_idle) {
            (true, _) => HOLD_TICK,
            (false, true) => IDLE_TICK,
            (false, false) => TICK,
        }
    }

    fn take_datagrams(&mut self, forwarding: &mut Cache<&ArcSwap<Forwarding>, Arc<Forwarding>>) {
        for _ in 0..UDP_BUDGET {
            match self.out.batch.socket().receive(&mut self.inbox) {
                Ok(0) => return,
                Ok(_) => {}
                // Left by ICMP or the interface; reading took it off the socket.
                Err(error) => {
                    tracing::debug!(%error, "receiving datagrams");
                    return;
                }
            }
            // After reading: what came may be of a session that was not there before.
            let forwarding = forwarding.load();
            for (from, datagram) in self.inbox.datagrams() {
                match from {
                    Some(from) => self.plane.datagram_in(forwarding, from, datagram, &mut self.out),
                    None => self.out.drops.count(Drop::NotSleeve),
                }
            }
            self.out.flush_frames();
        }
    }

    fn take_frames(&mut self, forwarding: &Forwarding) -> io::Result<()> {
        for _ in 0..TAP_BUDGET {
            let len = match self.out.tap.read(&mut self.frame) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(tap_gone(error)),
            };
            let packet = self.frame.get_mut(..len).unwrap_or_default();
            let Some((header, frame)) = packet.split_first_chunk_mut::<VNET_HEADER_LEN>() else {
                self.out.drops.count(Drop::BadFrame);
                continue;
            };
            match vnet::Header::parse(header, frame) {
                Some(header) => self.plane.frame_in(forwarding, header, frame, &mut self.out),
                None => self.out.drops.count(Drop::BadFrame),
            }
        }
        Ok(())
    }

    /// Once in a while: the plane's clock, and counters for others to read. After a long sleep the plane gets the ticks
    /// that it missed.
    fn tick(&mut self, was_busy: bool) {
        let passed = self.ticked.elapsed().as_millis() / TICK.as_millis();
        if passed == 0 {
            self.is_idle &= !was_busy;
            return;
        }
        self.ticked = Instant::now();
        self.is_idle = !was_busy;
        for _ in 0..passed.min(TICKS_MAX) {
            self.plane.tick();
        }
        self.gauge.publish(&self.plane, &self.out.drops);
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
        flush(&mut self.batch, &self.punts, &mut self.drops);
    }

    fn flush_frames(&mut self) {
        let Self { tap, coalescer, drops, .. } = self;
        coalescer.flush(&mut |header, frame| write(tap, header, frame, drops));
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
        let Self { tap, coalescer, drops, .. } = self;
        coalescer.push(frame, &mut |header, frame| write(tap, header, frame, drops));
    }

    fn punt(&mut self, input: Input) {
        punts::offer(&self.punts, input, &mut self.drops);
    }
}

/// A frame that the kernel refuses (the device is down, its queue is full, a header contradicts itself) is counted.
fn write(tap: &TapQueue, header: vnet::Header, frame: &[u8], drops: &mut DropCounts) {
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
