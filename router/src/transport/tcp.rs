//! Listening and dialling.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, warn};
use weft::node::input::Target;

use super::Arrival;

/// How long dialling may take, name resolution and all addresses included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged, and an idle connection unanswered, before it counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// Idle time before the first keepalive, and between two.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
/// Pause after a failed accept (out of file descriptors, say), doubled each time up to the maximum.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why we cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody else does.
    #[error(
        "TCP port {} on {} is in use by another program: `ss -ltnp sport = {}` shows which; stop it, or choose another --port",
        .0.port(), .0.ip(), .0.port()
    )]
    InUse(SocketAddr),
    /// The system does not let us.
    #[error("cannot listen on TCP {address}: {source}; --host must be an address of this host")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot resolve {0}: no answer in time")]
    ResolveTimeout(String),
    #[error("{0} has no address that can be reached from --host {1}")]
    NoAddress(String, IpAddr),
    #[error("{0} has no address")]
    Nothing(String),
    #[error("{address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{0}: no answer in time")]
    Timeout(SocketAddr),
}

/// Listens on `port` of `host`, or of all addresses: one socket for IPv4, one for IPv6 where the system has it.
pub(crate) fn listen(host: Option<IpAddr>, port: u16) -> Result<Vec<TcpListener>, ListenError> {
    if let Some(host) = host {
        return Ok(vec![listen_on(SocketAddr::new(host, port))?]);
    }
    let ipv4 = listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
    match listen_on(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
        Ok(ipv6) => Ok(vec![ipv4, ipv6]),
        Err(ListenError::Bind { source, .. }) if is_without_ipv6(&source) => {
            debug!("this host has no IPv6: listening on IPv4 alone");
            Ok(vec![ipv4])
        }
        Err(error) => Err(error),
    }
}

/// Accepts for ever. Failures are waited out: they pass, and the connections that exist go on.
pub(crate) async fn accept(listener: TcpListener, arrivals: mpsc::Sender<Arrival>) {
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = arrivals.closed() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = ACCEPT_PAUSE;
                tune(&stream);
                if arrivals.send(Arrival::Accepted(stream, remote)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a control connection; trying again soon");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Connects to `target`, at `port` if it has none, from `host` if given. A name's addresses are tried in the order that
/// the resolver prefers, each with its share of the time that is left.
pub(crate) async fn dial(
    target: &Target,
    host: Option<IpAddr>,
    port: u16,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let name = || target.host().to_owned();
    let deadline = Instant::now() + DIAL_TIMEOUT;
    let found = timeout_at(deadline, lookup_host((target.host(), target.port().unwrap_or(port))))
        .await
        .map_err(|_| DialError::ResolveTimeout(name()))?
        .map_err(|source| DialError::Resolve { host: name(), source })?;
    let mut addresses: Vec<SocketAddr> = found.filter(|a| host.is_none_or(|h| h.is_ipv4() == a.is_ipv4())).collect();
    addresses.dedup();
    let mut failure = host.map_or_else(|| DialError::Nothing(name()), |host| DialError::NoAddress(name(), host));
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        failure = match timeout(share, connect(*address, host)).await {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(source)) => DialError::Connect { address: *address, source },
            Err(_) => DialError::Timeout(*address),
        };
    }
    Err(failure)
}

async fn connect(address: SocketAddr, host: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(host) = host {
        socket.bind(SocketAddr::new(host, 0))?;
    }
    let stream = socket.connect(address).await?;
    tune(&stream);
    Ok(stream)
}

/// Small messages go at once; a dead peer is noticed in about ten seconds.
fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_EVERY).with_interval(KEEPALIVE_EVERY).with_retries(3);
    let tuned = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(DEAD_AFTER)))
        .and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        debug!(%error, "cannot tune a control connection");
    }
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listening = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart need not wait for the last run's connections to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listening().map_err(|source| {
        let is_in_use = source.kind() == io::ErrorKind::AddrInUse;
        if is_in_use { ListenError::InUse(address) } else { ListenError::Bind { address, source } }
    })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}
