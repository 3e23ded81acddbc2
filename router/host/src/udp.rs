//! The sleeve's UDP sockets: one for each worker on the same port, in batches, with segmentation left to the kernel.
//!
//! One socket carries IPv4 and IPv6; where the kernel has no IPv6 at all, IPv4 alone. Addresses are shown without
//! mapping: an IPv4 peer is an IPv4 address. Datagrams leave with "don't fragment" set and without regard to what the
//! kernel believes of the path (`IP_PMTUDISC_PROBE`): the node searches the MTU itself, and must not be misled by forged
//! ICMP. The kernel spreads incoming datagrams over the sockets by their addresses, so one remote address reaches one socket.

use std::{
    array,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Messages taken by one system call, each of up to 64 segments.
pub const BATCH: usize = 16;
/// The largest message: 64 KiB less one, headers included.
const MESSAGE_LEN: usize = 65_535;
/// Largest run of segments in one message: the UDP payload of a full IPv4 packet.
pub const RUN_LEN_MAX: usize = 65_507;
/// Most segments in one message (`UDP_MAX_SEGMENTS` of kernels before 6.9; later ones allow 128).
pub const RUN_SEGMENTS_MAX: usize = 64;
/// Socket buffers, both ways: about 10 ms at 3 Gbit/s, so that a worker that lost its core for a moment loses nothing.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long to wait for a full send buffer: a network card drains it in far less, a stuck one must not hold us.
const SEND_PATIENCE: Duration = Duration::from_millis(2);
/// After a run had to be sent without segmentation offload, it is tried again after so many runs: the refusing device may be one of several.
const OFFLOAD_RETRY_RUNS: u32 = 4096;

/// Why there are no sockets.
#[derive(Debug, Error)]
pub enum UdpError {
    /// Somebody has the port.
    #[error("UDP {0} is in use: another router runs in this network namespace, or choose another with --port")]
    Busy(SocketAddr),
    /// The address is not one of this host's.
    #[error("cannot bind UDP to {0}: no interface has that address; look with `ip address`")]
    NoAddress(SocketAddr),
    /// Anything else.
    #[error("making the UDP socket for {address}: {step} failed: {source}")]
    Kernel {
        /// The address to bind.
        address: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// One non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    plain_runs: u32,
}

/// What became of a run of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Datagrams that the kernel did not take.
    pub failed: u32,
    /// Some of them because they do not fit the interface.
    pub too_big: bool,
}

/// Room for a batch of received datagrams.
pub struct Inbox {
    buffer: Vec<u8>,
    meta: [RecvMeta; BATCH],
    filled: usize,
}

/// Binds `count` sockets (at least one) to one port of `host`, of all addresses if None. Port 0 lets the kernel choose.
/// Nobody else can bind that port while the first one is open, save with the same user's explicit will to share it.
///
/// # Errors
/// As [`UdpError`] says.
pub fn bind(host: Option<IpAddr>, port: u16, count: usize) -> Result<Vec<UdpSocket>, UdpError> {
    let first = match host {
        Some(host) => open(SocketAddr::new(host, port), false)?,
        None => match open((Ipv6Addr::UNSPECIFIED, port).into(), false) {
            Err(UdpError::Kernel { source, .. }) if is_without_ipv6(&source) => {
                open((Ipv4Addr::UNSPECIFIED, port).into(), false)?
            }
            result => result?,
        },
    };
    let kernel = |address, step| move |source| UdpError::Kernel { address, step, source };
    let unknown = SocketAddr::new(host.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), port);
    let address = first.local_addr().map_err(kernel(unknown, "getsockname"))?;
    let address = address.as_socket().unwrap_or(unknown);
    // Only now may others share the port: so the first was alone on it.
    first.set_reuse_port(true).map_err(kernel(address, "SO_REUSEPORT"))?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, true)?);
    }
    let prepare = |socket| UdpSocket::new(socket).map_err(kernel(address, "setting options"));
    sockets.into_iter().map(prepare).collect()
}

fn open(address: SocketAddr, share: bool) -> Result<Socket, UdpError> {
    let kernel = |step| move |source| UdpError::Kernel { address, step, source };
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(kernel("socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified()).map_err(kernel("IPV6_V6ONLY"))?;
    }
    if share {
        socket.set_reuse_port(true).map_err(kernel("SO_REUSEPORT"))?;
    }
    socket.bind(&address.into()).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => UdpError::Busy(address),
        Some(libc::EADDRNOTAVAIL) if !address.ip().is_unspecified() => UdpError::NoAddress(address),
        Some(_) | None => kernel("bind")(source),
    })?;
    Ok(socket)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

impl UdpSocket {
    fn new(socket: Socket) -> io::Result<Self> {
        enlarge_buffers(&socket)?;
        let state = offloads(&socket)?;
        Ok(Self { socket, state, plain_runs: 0 })
    }

    /// Another handle of the same socket, for another thread to send by.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        let state = offloads(&socket)?;
        Ok(Self { socket, state, plain_runs: 0 })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// None is expected.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address.as_socket().map(canonical).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Takes what has arrived, up to `most` messages (each of one or more datagrams) and a batch, into `inbox`, in place of
    /// what was there; returns the number of messages, zero when nothing is waiting.
    ///
    /// # Errors
    /// A pending error of the socket; it is gone with that.
    pub fn receive(&self, inbox: &mut Inbox, most: usize) -> io::Result<usize> {
        inbox.filled = 0;
        let mut chunks = inbox.buffer.chunks_exact_mut(MESSAGE_LEN);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let slices = slices.get_mut(..most.clamp(1, BATCH)).unwrap_or_default();
        match self.state.recv((&self.socket).into(), slices, &mut inbox.meta) {
            Ok(filled) => inbox.filled = filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(inbox.filled)
    }

    /// Sends `run` to `to`: datagrams of `segment` bytes each, but for the last, which may be shorter. At most
    /// [`RUN_SEGMENTS_MAX`] datagrams and [`RUN_LEN_MAX`] bytes. A full send buffer is waited for, but not for long.
    pub fn send(&mut self, to: SocketAddr, run: &[u8], segment: usize) -> Sent {
        let segment = segment.max(1);
        if run.len() <= segment {
            return self.send_plain(to, run, segment);
        }
        if self.state.max_gso_segments() == 1 {
            return self.send_without_offload(to, run, segment);
        }
        let datagrams = u32::try_from(run.len().div_ceil(segment)).unwrap_or(u32::MAX);
        match self.transmit(to, run, Some(segment)) {
            Ok(()) => Sent::default(),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                self.resend_without_offload(to, run, segment)
            }
            Err(error) => Sent { failed: datagrams, too_big: is_too_big(&error) },
        }
    }

    /// Offload was refused: by the device, for want of checksumming (EIO), or because the run or the address is wrong
    /// (EINVAL). quinn-udp has switched it off; if single datagrams fail as well, offload was not to blame.
    fn resend_without_offload(&mut self, to: SocketAddr, run: &[u8], segment: usize) -> Sent {
        let sent = self.send_plain(to, run, segment);
        if sent.failed > 0 {
            self.restore_offload();
        }
        sent
    }

    fn send_without_offload(&mut self, to: SocketAddr, run: &[u8], segment: usize) -> Sent {
        self.plain_runs += 1;
        if self.plain_runs >= OFFLOAD_RETRY_RUNS {
            self.restore_offload();
        }
        self.send_plain(to, run, segment)
    }

    fn restore_offload(&mut self) {
        self.plain_runs = 0;
        if let Ok(state) = offloads(&self.socket) {
            self.state = state;
        }
    }

    fn send_plain(&self, to: SocketAddr, run: &[u8], segment: usize) -> Sent {
        let mut sent = Sent::default();
        for datagram in run.chunks(segment) {
            if let Err(error) = self.transmit(to, datagram, None) {
                sent.failed += 1;
                sent.too_big |= is_too_big(&error);
            }
        }
        sent
    }

    fn transmit(&self, destination: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let timeout = PollTimeout::try_from(SEND_PATIENCE).unwrap_or(PollTimeout::ZERO);
                poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], timeout)?;
                self.state.try_send((&self.socket).into(), &transmit)
            }
            result => result,
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets GRO, "don't fragment" and `IP_PMTUDISC_PROBE`, and looks whether segments may be left to the kernel.
fn offloads(socket: &Socket) -> io::Result<UdpSocketState> {
    UdpSocketState::new(socket.into())
}

/// As large as wanted where we may go beyond the system's limit (CAP_NET_ADMIN), else up to that limit.
fn enlarge_buffers(socket: &Socket) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
    }
    Ok(())
}

fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// An IPv4 address as such, not mapped into IPv6; no flow label.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(mut v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => {
                v6.set_flowinfo(0);
                v6.into()
            }
        },
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffer: vec![0; BATCH * MESSAGE_LEN], meta: [RecvMeta::default(); BATCH], filled: 0 }
    }
}

impl Inbox {
    /// Bytes of all datagrams in it.
    pub fn bytes(&self) -> usize {
        self.meta.iter().take(self.filled).map(|meta| meta.len).sum()
    }

    /// Each datagram with its source, in the order of arrival. A source that cannot be answered (port 0, unspecified,
    /// multicast, broadcast) comes as None.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (Option<SocketAddr>, &mut [u8])> {
        let messages = self.buffer.chunks_exact_mut(MESSAGE_LEN).zip(&self.meta).take(self.filled);
        messages.flat_map(|(message, meta)| {
            let from = Some(canonical(meta.addr)).filter(is_answerable);
            let filled = message.get_mut(..meta.len).unwrap_or_default();
            filled.chunks_mut(meta.stride.max(1)).map(move |datagram| (from, datagram))
        })
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("filled", &self.filled).finish_non_exhaustive()
    }
}

fn is_answerable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

#[cfg(test)]
mod tests;
