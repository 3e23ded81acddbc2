//! Sockets of the API, and the connections on them.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::pin,
    process,
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Api, reading, whole};
use crate::config::Config;

/// Connections served at once on each socket. More: they wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to send a request's head, idle time included.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long answers under way may take when the router stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Why the API is not served.
#[derive(Debug, Error)]
pub enum BindError {
    /// The unix socket cannot be made.
    #[error("cannot listen on {}: {source}; choose another --run-dir", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address is taken.
    #[error("the HTTP address {0} is in use by another program: choose another --http-addr, or `off`")]
    InUse(SocketAddr),
    /// The address cannot be used.
    #[error("cannot listen on the HTTP address {address}: {source}; choose another --http-addr, or `off`")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The API's sockets, open but not served yet.
#[derive(Debug)]
pub(crate) struct Listening {
    unix: UnixListener,
    socket: Socket,
    tcp: Option<TcpListener>,
}

/// The unix socket's file; removed when dropped.
#[derive(Debug)]
struct Socket(PathBuf);

/// Opens the unix socket in `run_dir`, replacing one that a killed router left, and the TCP address.
pub(crate) fn bind(run_dir: &Path, http_addr: Option<SocketAddr>) -> Result<Listening, BindError> {
    let (unix, socket) = bind_unix(&Config::socket_path(run_dir))?;
    let tcp = http_addr.map(bind_tcp).transpose()?;
    Ok(Listening { unix, socket, tcp })
}

/// Nobody else may connect even for a moment: the socket gets its mode under another name, then its own.
fn bind_unix(path: &Path) -> Result<(UnixListener, Socket), BindError> {
    let binding = || {
        let unready = path.with_extension(format!("sock.{}", process::id()));
        match fs::remove_file(&unready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&unready)?;
        let mut socket = Socket(unready);
        fs::set_permissions(&socket.0, fs::Permissions::from_mode(0o600))?;
        fs::rename(&socket.0, path)?;
        socket.0 = path.to_owned();
        Ok((listener, socket))
    };
    binding().map_err(|source| BindError::Unix { path: path.to_owned(), source })
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|source| {
        let is_in_use = source.kind() == io::ErrorKind::AddrInUse;
        if is_in_use { BindError::InUse(address) } else { BindError::Tcp { address, source } }
    })
}

impl Listening {
    /// Where the TCP socket listens, if there is one.
    #[cfg(test)]
    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Serves until `stop`, then lets answers under way go out, and removes the socket.
    pub(crate) async fn serve(self, api: Api, stop: CancellationToken) {
        let Self { unix, socket, tcp } = self;
        let on_unix = accept(unix, whole(api.clone()), &stop);
        let on_tcp = async {
            let Some(tcp) = tcp else { return };
            let is_loopback = tcp.local_addr().is_ok_and(|address| address.ip().is_loopback());
            accept(tcp, reading(api, is_loopback), &stop).await;
        };
        tokio::join!(on_unix, on_tcp);
        drop(socket);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            debug!(path = %self.0.display(), %error, "cannot remove the socket");
        }
    }
}

/// Serves connections until `stop`. Failures to accept are logged and waited out by axum.
async fn accept<L: Listener>(mut listener: L, router: Router, stop: &CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (place, stream) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async { (places.clone().acquire_owned().await, listener.accept().await.0) } => accepted,
        };
        let served = serve_connection(stream, router.clone(), stop.clone());
        connections.spawn(async move {
            served.await;
            drop(place);
        });
    }
    let _ = timeout(STOP_PATIENCE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "an HTTP connection ended early");
    }
}
