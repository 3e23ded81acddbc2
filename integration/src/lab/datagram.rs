//! Numbered datagrams to many: broadcast and multicast, with the copies counted that each receiver gets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    namespace::{Namespace, join},
    wait::patience,
};

/// Between two datagrams: slow enough that no buffer overflows.
const PACE: Duration = Duration::from_millis(2);
const PORT: u16 = 7777;
/// A datagram may be late by as much.
const QUIET: Duration = Duration::from_millis(500);
/// After all have come, for second copies.
const COPIES: Duration = Duration::from_millis(100);

/// Where a datagram goes that is for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// An IPv4 broadcast address.
    Broadcast(Ipv4Addr),
    /// A multicast group, IPv4 or IPv6.
    Group(IpAddr),
    /// The receiver's own address: for one only.
    One(IpAddr),
}

/// One who sends or receives: a device with an IPv4 address in a namespace.
#[derive(Clone, Debug)]
pub struct Station {
    /// The namespace.
    pub namespace: Namespace,
    /// The device.
    pub device: &'static str,
    /// The device's IPv4 address.
    pub v4: Ipv4Addr,
}

/// A receiver at work.
#[derive(Debug)]
pub struct Listener {
    thread: JoinHandle<Result<Vec<u32>>>,
    stop: mpsc::Sender<Duration>,
}

impl Listener {
    /// Begins to count the datagrams 0 to `count` that reach `station`.
    pub fn start(station: &Station, audience: Audience, count: u32) -> Result<Self> {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let own = station.clone();
        let thread = station.namespace.spawn(move || {
            let socket = receiving_socket(&own, audience)?;
            ready.send(())?;
            count_copies(&socket, count, &stopped)
        })?;
        if is_ready.recv_timeout(patience(Duration::from_secs(10))).is_err() {
            return join(thread).and(Err(anyhow::anyhow!("the listener did not start")));
        }
        Ok(Self { thread, stop })
    }

    /// Asks it to end when nothing came for `quiet`.
    fn end(&self, quiet: Duration) {
        // If the thread is gone, join says why.
        let _ = self.stop.send(quiet);
    }

    /// Ends when nothing came for `quiet`, or a moment after all have come; gives the number of copies of each datagram.
    pub fn finish(self, quiet: Duration) -> Result<Vec<u32>> {
        self.end(quiet);
        join(self.thread)
    }
}

/// Sends the datagrams 0 to `count` from `station`.
pub fn send(station: &Station, audience: Audience, count: u32) -> Result<()> {
    let own = station.clone();
    station.namespace.within(move || {
        let (socket, to) = sending_socket(&own, audience)?;
        for number in 0..count {
            socket.send_to(&number.to_be_bytes(), to).with_context(|| format!("sending to {to}"))?;
            thread::sleep(PACE);
        }
        Ok(())
    })
}

/// Sends `count` datagrams from one to many, and expects that each receiver gets each exactly once.
pub fn exactly_once(from: &Station, to: &[Station], audience: Audience, count: u32) -> Result<()> {
    let listeners = to.iter().map(|station| Listener::start(station, audience, count)).collect::<Result<Vec<_>>>()?;
    send(from, audience, count)?;
    listeners.iter().for_each(|listener| listener.end(QUIET));
    for (station, listener) in to.iter().zip(listeners) {
        let copies = join(listener.thread)?;
        ensure!(
            copies.iter().all(|copies| *copies == 1),
            "{audience:?} from {} to {}: copies of each: {copies:?}",
            from.namespace.name(),
            station.namespace.name()
        );
    }
    Ok(())
}

fn receiving_socket(station: &Station, audience: Audience) -> Result<UdpSocket> {
    let any = match audience {
        Audience::Group(IpAddr::V6(_)) | Audience::One(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Audience::Group(IpAddr::V4(_)) | Audience::One(IpAddr::V4(_)) | Audience::Broadcast(_) => {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        }
    };
    let address = SocketAddr::new(any, PORT);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let socket = UdpSocket::from(socket);
    match audience {
        Audience::Group(IpAddr::V4(group)) => socket.join_multicast_v4(&group, &station.v4)?,
        Audience::Group(IpAddr::V6(group)) => socket.join_multicast_v6(&group, if_nametoindex(station.device)?)?,
        Audience::Broadcast(_) | Audience::One(_) => {}
    }
    Ok(socket)
}

fn sending_socket(station: &Station, audience: Audience) -> Result<(UdpSocket, SocketAddr)> {
    let index = if_nametoindex(station.device)?;
    let (to, any): (SocketAddr, IpAddr) = match audience {
        Audience::Broadcast(ip) => ((ip, PORT).into(), Ipv4Addr::UNSPECIFIED.into()),
        Audience::Group(IpAddr::V4(ip)) | Audience::One(IpAddr::V4(ip)) => {
            ((ip, PORT).into(), Ipv4Addr::UNSPECIFIED.into())
        }
        Audience::Group(IpAddr::V6(ip)) => (SocketAddrV6::new(ip, PORT, 0, index).into(), Ipv6Addr::UNSPECIFIED.into()),
        Audience::One(IpAddr::V6(ip)) => ((ip, PORT).into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    if to.is_ipv4() {
        socket.set_broadcast(true)?;
        socket.set_multicast_if_v4(&station.v4)?;
        socket.set_multicast_ttl_v4(2)?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok((socket.into(), to))
}

fn count_copies(socket: &UdpSocket, count: u32, stopped: &mpsc::Receiver<Duration>) -> Result<Vec<u32>> {
    let mut copies = vec![0; usize::try_from(count)?];
    let (mut last, mut quiet) = (Instant::now(), None);
    loop {
        if let Ok(asked) = stopped.try_recv() {
            (last, quiet) = (Instant::now(), Some(asked));
        }
        let all_came = copies.iter().all(|copies| *copies > 0);
        if quiet.is_some_and(|quiet| last.elapsed() > if all_came { quiet.min(COPIES) } else { patience(quiet) }) {
            return Ok(copies);
        }
        let mut bytes = [0; 4];
        if matches!(socket.recv(&mut bytes), Ok(4)) {
            last = Instant::now();
            let number = usize::try_from(u32::from_be_bytes(bytes))?;
            *copies.get_mut(number).with_context(|| format!("datagram {number} was never sent"))? += 1;
        }
    }
}
