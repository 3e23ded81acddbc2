//! A steady stream of numbered datagrams in both directions: what was lost, and the longest time that nothing came.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::{
    container::Container,
    namespace::{Namespace, join},
    wait::{patience, wait_until},
};

const PORT: u16 = 7780;
/// Bytes that may wait for the receiver: on one core a sender that catches up sends seconds' worth before the receiver is let
/// in, and what the socket had no room for would look lost on the way.
const ROOM: usize = 32 << 20;
/// After the last datagram was sent, for those still on their way.
const QUIET: Duration = Duration::from_millis(500);
/// After all have come, for second copies.
const COPIES: Duration = Duration::from_millis(100);
/// How often the receiver looks whether to end.
const LOOK: Duration = Duration::from_millis(20);

/// Both directions at work.
#[derive(Debug)]
pub struct Stream {
    /// There and back.
    ways: Vec<Way>,
    stop: Arc<AtomicBool>,
}

/// One direction.
#[derive(Debug)]
struct Way {
    what: String,
    sent: Arc<AtomicU32>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    /// Ends the receiver, after the sender.
    done: Arc<AtomicBool>,
    threads: [JoinHandle<Result<()>>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u32,
    at: Instant,
}

/// What came of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From where to where.
    pub what: String,
    /// Datagrams sent.
    pub sent: u32,
    /// Numbers of those that never came.
    pub lost: Vec<u32>,
    /// Copies beyond the first.
    pub duplicates: u32,
    /// Datagrams that came after one with a higher number.
    pub reordered: u32,
    /// Longest time between two that came.
    pub longest_gap: Duration,
}

impl Stream {
    /// Begins to send a datagram every `interval` from each of the two to the other; returns when both ways work.
    ///
    /// A sender that could not keep up sends what is due at once: the rate holds, the pace is as fine as the clock's tick.
    pub fn start(one: &Container, other: &Container, ipv6: bool, interval: Duration, size: usize) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let way = |from: &Container, to: &Container| {
            Way::start(from.namespace(), (to.namespace(), to.address(ipv6)?), (interval, size), &stop)
        };
        let stream = Self { ways: vec![way(one, other)?, way(other, one)?], stop: Arc::clone(&stop) };
        stream.wait_flowing(Duration::from_secs(10))?;
        Ok(stream)
    }

    /// Waits until something comes in both directions that was sent from now on.
    pub fn wait_flowing(&self, deadline: Duration) -> Result<Duration> {
        let from: Vec<u32> = self.ways.iter().map(|way| way.sent.load(Ordering::Relaxed)).collect();
        wait_until("the stream flows in both directions", deadline, || {
            Ok(self.ways.iter().zip(&from).all(|(way, from)| way.last().is_some_and(|last| last.number >= *from)))
        })
    }

    /// The longest time, in either direction, that nothing came since `mark`; the one that is still going on included.
    pub fn gap_since(&self, mark: Instant) -> Duration {
        self.ways.iter().map(|way| way.gap_since(mark)).max().unwrap_or_default()
    }

    /// Ends it, and tells of both directions.
    pub fn stop(mut self) -> Result<Vec<Flow>> {
        self.stop.store(true, Ordering::Relaxed);
        let flows: Vec<_> = std::mem::take(&mut self.ways).into_iter().map(Way::finish).collect();
        flows.into_iter().collect()
    }
}

impl Way {
    fn start(
        from: &Namespace,
        (to, address): (&Namespace, IpAddr),
        (interval, size): (Duration, usize),
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = to.within(move || Ok(UdpSocket::bind((any, PORT))?))?;
        socket.set_read_timeout(Some(LOOK))?;
        setsockopt(&socket, RcvBufForce, &ROOM)?;
        let (sent, arrivals, done) = (Arc::default(), Arc::<Mutex<_>>::default(), Arc::<AtomicBool>::default());
        let (theirs, end) = (Arc::clone(&arrivals), Arc::clone(&done));
        let receiver = thread::spawn(move || {
            receive(&socket, &theirs, &end);
            Ok(())
        });
        let (stop, count) = (Arc::clone(stop), Arc::clone(&sent));
        let sender = from.spawn(move || {
            let socket = UdpSocket::bind((any, 0))?;
            send(&socket, SocketAddr::new(address, PORT), (interval, size), &stop, &count);
            Ok(())
        })?;
        let what = format!("{} to {}", from.name(), to.name());
        Ok(Self { what, sent, arrivals, done, threads: [sender, receiver] })
    }

    fn last(&self) -> Option<Arrival> {
        lock(&self.arrivals).last().copied()
    }

    fn gap_since(&self, mark: Instant) -> Duration {
        let arrivals = lock(&self.arrivals);
        let later = arrivals.partition_point(|arrival| arrival.at <= mark);
        let before = later.checked_sub(1).and_then(|index| arrivals.get(index)).map_or(mark, |arrival| arrival.at);
        let times = arrivals[later..].iter().map(|arrival| arrival.at).chain([Instant::now()]);
        longest([before].into_iter().chain(times))
    }

    fn finish(self) -> Result<Flow> {
        let [sender, receiver] = self.threads;
        join(sender).with_context(|| self.what.clone())?;
        let sent = self.sent.load(Ordering::Relaxed);
        let sent_all = Instant::now();
        while lock(&self.arrivals).len() < sent as usize && sent_all.elapsed() < patience(QUIET) {
            thread::sleep(LOOK);
        }
        thread::sleep(COPIES);
        self.done.store(true, Ordering::Relaxed);
        join(receiver)?;
        let arrivals = lock(&self.arrivals);
        Ok(flow(self.what.clone(), sent, &arrivals))
    }
}

/// What those that came tell of those that were sent.
fn flow(what: String, sent: u32, arrivals: &[Arrival]) -> Flow {
    let mut copies = vec![0_u32; sent as usize];
    let (mut highest, mut reordered) = (None, 0);
    for arrival in arrivals {
        if let Some(copies) = copies.get_mut(arrival.number as usize) {
            *copies += 1;
        }
        reordered += u32::from(highest.is_some_and(|highest| arrival.number < highest));
        highest = highest.max(Some(arrival.number));
    }
    let lost = (0..sent).zip(&copies).filter(|(_, copies)| **copies == 0).map(|(number, _)| number).collect();
    let duplicates = copies.iter().map(|copies| copies.saturating_sub(1)).sum();
    let longest_gap = longest(arrivals.iter().map(|arrival| arrival.at));
    Flow { what, sent, lost, duplicates, reordered, longest_gap }
}

fn longest(times: impl Iterator<Item = Instant>) -> Duration {
    let mut last = None;
    times.fold(Duration::ZERO, |longest, at| {
        let gap = last.map_or(Duration::ZERO, |last| at.saturating_duration_since(last));
        last = Some(at);
        longest.max(gap)
    })
}

fn send(socket: &UdpSocket, to: SocketAddr, pace: (Duration, usize), stop: &AtomicBool, sent: &AtomicU32) {
    let (interval, size) = pace;
    let mut bytes = vec![0; size.max(4)];
    let started = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        while interval * number <= started.elapsed() {
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            // What the kernel refuses is lost, as what the network loses.
            let _ = socket.send_to(&bytes, to);
            number += 1;
            sent.store(number, Ordering::Relaxed);
        }
        thread::sleep((interval * number).saturating_sub(started.elapsed()));
    }
}

fn receive(socket: &UdpSocket, arrivals: &Mutex<Vec<Arrival>>, done: &AtomicBool) {
    let mut bytes = [0; 4];
    while !done.load(Ordering::Relaxed) {
        // Longer ones are cut to their number; an error is the end of the wait.
        if socket.recv(&mut bytes).is_ok() {
            lock(arrivals).push(Arrival { number: u32::from_be_bytes(bytes), at: Instant::now() });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for way in &self.ways {
            way.done.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_copies_order_and_gaps_are_told() {
        let start = Instant::now();
        let arrivals: Vec<_> = [(0, 0), (2, 10), (1, 15), (1, 20), (5, 95)]
            .map(|(number, millis)| Arrival { number, at: start + Duration::from_millis(millis) })
            .to_vec();
        let flow = flow("a to b".to_owned(), 7, &arrivals);
        assert_eq!(flow.lost, [3, 4, 6]);
        assert_eq!((flow.duplicates, flow.reordered), (1, 2));
        assert_eq!(flow.longest_gap, Duration::from_millis(75));
    }
}
