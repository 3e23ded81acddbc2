//! Opens the server's sockets where and when there are addresses for them, and closes those of addresses that are gone.
//!
//! A socket is bound to an address and to a device: to the one that has the address, for those who are behind it, and to
//! loopback, for the host itself. So the kernel lets nobody else in, whatever routes there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{info, warn};

use super::{Dns, Listen, PORT, tcp, udp};

/// How soon it is tried again where a socket could not be opened.
const RETRY: Duration = Duration::from_secs(2);
/// Connections that wait to be taken.
const BACKLOG: i32 = 64;
/// Bytes of queries that wait: a few thousand, for the time in which the thread does not run.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Answers under way when the server stops.
const STOP_PATIENCE: Duration = Duration::from_millis(200);
/// The device by which the host talks to itself.
const LOOPBACK: &str = "lo";

/// The sockets of one address; closed when dropped.
struct Open {
    _end: DropGuard,
}

struct Server {
    dns: Arc<Dns>,
    listen: Listen,
    bridge: String,
    connections: Arc<tcp::Connections>,
    tasks: TaskTracker,
    open: BTreeMap<SocketAddr, Open>,
    /// Where it failed, so that this is said once.
    failed: BTreeSet<SocketAddr>,
}

/// Serves until `stop`; `exposed` are the host's addresses on the bridge.
pub(super) async fn serve(
    dns: Arc<Dns>,
    listen: Listen,
    bridge: String,
    mut exposed: watch::Receiver<Vec<IpAddr>>,
    stop: CancellationToken,
) {
    let (connections, tasks) = (Arc::default(), TaskTracker::new());
    let mut server = Server { dns, listen, bridge, connections, tasks, open: BTreeMap::new(), failed: BTreeSet::new() };
    loop {
        let addresses = exposed.borrow_and_update().clone();
        server.follow(&addresses);
        let retry = async { if server.failed.is_empty() { std::future::pending().await } else { sleep(RETRY).await } };
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = exposed.changed() => {}
            () = retry => {}
        }
    }
    server.open.clear();
    server.tasks.close();
    let _ = timeout(STOP_PATIENCE, server.tasks.wait()).await;
}

impl Server {
    /// Opens what is wanted and not open, closes what is not wanted any more.
    fn follow(&mut self, exposed: &[IpAddr]) {
        let wanted: BTreeSet<SocketAddr> = match &self.listen {
            Listen::Bridge => exposed.iter().map(|address| SocketAddr::new(*address, PORT)).collect(),
            Listen::At(addresses) => addresses.iter().copied().collect(),
        };
        self.open.retain(|address, _| wanted.contains(address));
        self.failed.retain(|address| wanted.contains(address));
        for address in wanted {
            if self.open.contains_key(&address) {
                continue;
            }
            match self.open(address) {
                Ok(open) => {
                    info!(%address, "names are answered");
                    self.failed.remove(&address);
                    self.open.insert(address, open);
                }
                Err(error) => {
                    if self.failed.insert(address) {
                        warn!(%address, %error, "cannot listen for queries there; trying again until it works: \
                            does another name server have the address, or is --dns-listen wrong?");
                    }
                }
            }
        }
        let now: Vec<SocketAddr> = self.open.keys().copied().collect();
        self.dns.listening.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }

    fn open(&self, address: SocketAddr) -> io::Result<Open> {
        let end = CancellationToken::new();
        let mut sockets = Vec::new();
        for device in self.devices(address.ip())? {
            let udp = UdpSocket::from_std(socket(address, Type::DGRAM, device.as_deref())?.into())?;
            let listener = socket(address, Type::STREAM, device.as_deref())?;
            listener.listen(BACKLOG)?;
            sockets.push((udp, TcpListener::from_std(listener.into())?));
        }
        for (socket, listener) in sockets {
            let by_udp = udp::serve(self.dns.clone(), socket, self.tasks.clone());
            let by_tcp = tcp::serve(self.dns.clone(), listener, self.connections.clone(), self.tasks.clone());
            let end = end.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = by_udp => {}
                    () = by_tcp => {}
                }
            });
        }
        Ok(Open { _end: end.drop_guard() })
    }

    /// The devices by which queries for an address may come; none named where only the host itself can reach it.
    fn devices(&self, address: IpAddr) -> io::Result<Vec<Option<String>>> {
        if address.is_loopback() {
            return Ok(vec![None]);
        }
        let device = match &self.listen {
            Listen::Bridge => self.bridge.clone(),
            Listen::At(_) => weft_host::device_of(address)?.ok_or(io::ErrorKind::AddrNotAvailable)?,
        };
        Ok(vec![Some(device), Some(LOOPBACK.to_owned())])
    }
}

fn socket(address: SocketAddr, kind: Type, device: Option<&str>) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(device.map(str::as_bytes))?;
    // An IPv6 address is not usable in its first second, while its uniqueness is checked.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if kind == Type::DGRAM {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    } else {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
