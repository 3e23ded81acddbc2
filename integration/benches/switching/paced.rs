//! A numbered datagram each millisecond from one container to another, and when each of them came.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use weft_integration::lab::{container::Container, namespace::join};

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(1);
/// How often the receiver looks whether to end.
const LOOK: Duration = Duration::from_millis(20);

/// The datagrams of one direction, until it is stopped.
pub(crate) struct Paced {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<Result<()>>; 2],
}

#[derive(Clone, Copy)]
struct Arrival {
    number: u32,
    at: Instant,
}

/// What came of it in some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Longest time between two that came.
    pub(crate) silence: Duration,
    /// Numbers that are missing between those that came.
    pub(crate) lost: u32,
}

impl Paced {
    /// Begins to send.
    pub(crate) fn start(from: &Container, to: &Container) -> Result<Self> {
        let address = to.v4()?;
        let receiver = to.namespace().within(move || Ok(UdpSocket::bind((address, 0))?))?;
        receiver.set_read_timeout(Some(LOOK))?;
        let target = receiver.local_addr()?;
        let (arrivals, stop) = (Arc::<Mutex<Vec<Arrival>>>::default(), Arc::<AtomicBool>::default());
        let (sink, stopped) = (Arc::clone(&arrivals), Arc::clone(&stop));
        let receiving = thread::spawn(move || {
            receive(&receiver, &sink, &stopped);
            Ok(())
        });
        let stopped = Arc::clone(&stop);
        let sending = from.namespace().spawn(move || send(target, &stopped))?;
        Ok(Self { arrivals, stop, threads: [sending, receiving] })
    }

    /// Ends it, and tells what came.
    pub(crate) fn finish(self) -> Result<Seen> {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().try_for_each(join)?;
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen(&arrivals))
    }
}

fn seen(arrivals: &[Arrival]) -> Seen {
    let pairs = || arrivals.iter().zip(arrivals.iter().skip(1));
    let silence = pairs().map(|(one, next)| next.at.duration_since(one.at)).max().unwrap_or_default();
    let mut numbers: Vec<u32> = arrivals.iter().map(|arrival| arrival.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let span = numbers.first().zip(numbers.last()).map_or(0, |(first, last)| last - first + 1);
    Seen { silence, lost: span - u32::try_from(numbers.len()).unwrap_or(span) }
}

/// Sends what is due, so that a late wake-up changes the pace and not the rate.
fn send(to: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (started, mut number) = (Instant::now(), 0_u32);
    while !stop.load(Relaxed) {
        while PACE * number <= started.elapsed() {
            // What the kernel refuses is lost, as what the network loses.
            let _ = socket.send_to(&number.to_be_bytes(), to);
            number += 1;
        }
        thread::sleep((PACE * number).saturating_sub(started.elapsed()));
    }
    Ok(())
}

fn receive(socket: &UdpSocket, arrivals: &Mutex<Vec<Arrival>>, stop: &AtomicBool) {
    let mut bytes = [0; 4];
    while !stop.load(Relaxed) {
        // An error is the end of the wait.
        if matches!(socket.recv(&mut bytes), Ok(4)) {
            let arrival = Arrival { number: u32::from_be_bytes(bytes), at: Instant::now() };
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        }
    }
}
