//! The control connections' sockets: bytes in, bytes out, by [`ConnId`].
//!
//! ```text
//! accept loops ──┐                      ┌── queue (8 MiB) ──▶ connection task ──▶ socket
//! connections ───┴─▶ arrivals (bounded) ─▶ control task ─┘
//! ```
//! Each connection is one task that reads and writes. What it reads waits for room in `arrivals`, so a busy node slows its
//! peers down instead of filling memory; what is to be written waits in a queue with a bound in bytes, and a peer that
//! does not take it is cut off. The node decides what is said and when to close; this module only counts.

mod connection;
pub(crate) mod tcp;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weft::{
    id::ConnId,
    node::input::{Input, Target},
};

pub use self::tcp::ListenError;

/// Most arrivals that wait for the control task, each of at most [`connection::READ_MAX`] bytes. Full: readers wait.
const ARRIVALS_MAX: usize = 256;
/// Most bytes that wait to be sent on one connection. More: the connection is closed.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Most pieces that wait to be sent on one connection. More: the connection is closed.
const QUEUE_PIECES_MAX: usize = 8192;
/// Most accepted connections at once; the node has a limit of its own, this one bounds memory. More: closed at once.
const ACCEPTED_MAX: usize = 1024;

/// What comes from the sockets.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Somebody dialled us.
    Accepted(TcpStream, SocketAddr),
    /// Our dialling succeeded.
    Connected(ConnId, SocketAddr),
    /// Bytes.
    Received(ConnId, Vec<u8>),
    /// The connection is no more, for this reason.
    Closed(ConnId, String),
}

/// All control connections.
#[derive(Debug)]
pub(crate) struct Transport {
    host: Option<IpAddr>,
    port: u16,
    arrivals: mpsc::Sender<Arrival>,
    connections: BTreeMap<ConnId, Handle>,
    next_accepted: u64,
    acceptors: Vec<AbortHandle>,
    tasks: JoinSet<()>,
}

/// What is kept of one connection here; the rest is in its task.
#[derive(Debug)]
struct Handle {
    queue: mpsc::Sender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    closing: CancellationToken,
    task: AbortHandle,
}

impl Transport {
    /// Takes connections on `listeners`, dials from `host` if given, to `port` where a target has none.
    pub(crate) fn new(listeners: Vec<TcpListener>, host: Option<IpAddr>, port: u16) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, receiver) = mpsc::channel(ARRIVALS_MAX);
        let mut tasks = JoinSet::new();
        let accept = |listener| tasks.spawn(tcp::accept(listener, arrivals.clone()));
        let acceptors = listeners.into_iter().map(accept).collect();
        let connections = BTreeMap::new();
        (Self { host, port, arrivals, connections, next_accepted: 1, acceptors, tasks }, receiver)
    }

    /// The node's view of an arrival; None for what concerns a connection that is closed already.
    pub(crate) fn admit(&mut self, arrival: Arrival) -> Option<Input> {
        match arrival {
            Arrival::Accepted(stream, remote) => self.accept(stream, remote),
            Arrival::Connected(conn, remote) => {
                self.connections.contains_key(&conn).then_some(Input::Connected { conn, remote })
            }
            Arrival::Received(conn, bytes) => {
                self.connections.contains_key(&conn).then_some(Input::Received { conn, bytes })
            }
            Arrival::Closed(conn, reason) => self.connections.remove(&conn).map(|_| Input::Closed { conn, reason }),
        }
    }

    /// Opens a connection; [`Arrival::Connected`] or [`Arrival::Closed`] will tell.
    pub(crate) fn dial(&mut self, conn: ConnId, target: Target) {
        let (host, port) = (self.host, self.port);
        self.start(conn, move |link| async move {
            let dialled = tokio::select! {
                dialled = tcp::dial(&target, host, port) => dialled.map_err(|error| error.to_string()),
                () = link.closing.cancelled() => return,
            };
            match dialled {
                Ok((stream, remote)) => {
                    if link.arrivals.send(Arrival::Connected(link.conn, remote)).await.is_ok() {
                        link.serve(stream).await;
                    }
                }
                Err(reason) => link.report_closed(reason).await,
            }
        });
    }

    /// Queues bytes. A queue that is full closes the connection: the input to be handled is returned.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: Vec<u8>) -> Option<Input> {
        let handle = self.connections.get(&conn)?;
        let len = bytes.len();
        let waiting = handle.queued.fetch_add(len, Relaxed);
        if waiting + len <= QUEUE_BYTES_MAX && handle.queue.try_send(bytes).is_ok() {
            return None;
        }
        // A task that has just ended has reported why; it took its queue with it.
        if handle.queue.is_closed() {
            return None;
        }
        handle.task.abort();
        self.connections.remove(&conn);
        let reason = format!("too slow: {waiting} bytes are waiting to be sent");
        Some(Input::Closed { conn, reason })
    }

    /// Closes a connection once its queue is sent, or a second later.
    pub(crate) fn close(&mut self, conn: ConnId) {
        if let Some(handle) = self.connections.remove(&conn) {
            handle.closing.cancel();
        }
    }

    /// Returns when a task of a connection has panicked; otherwise never.
    pub(crate) async fn failed(&mut self) -> JoinError {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => return error,
                Some(Ok(()) | Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Closes everything, and returns once all queues are sent or a second has passed.
    pub(crate) async fn finish(mut self) {
        self.acceptors.iter().for_each(AbortHandle::abort);
        for handle in self.connections.values() {
            handle.closing.cancel();
        }
        self.connections.clear();
        while self.tasks.join_next().await.is_some() {}
    }

    fn accept(&mut self, stream: TcpStream, remote: SocketAddr) -> Option<Input> {
        let accepted = self.connections.keys().filter(|conn| conn.0 % 2 == 1).count();
        if accepted >= ACCEPTED_MAX {
            debug!(%remote, "too many connections: closed at once");
            return None;
        }
        let conn = ConnId(self.next_accepted);
        self.next_accepted += 2;
        self.start(conn, |link| link.serve(stream));
        Some(Input::Accepted { conn, remote })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        conn: ConnId,
        work: impl FnOnce(connection::Connection) -> F,
    ) {
        let (queue, pieces) = mpsc::channel(QUEUE_PIECES_MAX);
        let queued = Arc::new(AtomicUsize::new(0));
        let closing = CancellationToken::new();
        let link = connection::Connection {
            conn,
            pieces,
            queued: queued.clone(),
            closing: closing.clone(),
            arrivals: self.arrivals.clone(),
        };
        let task = self.tasks.spawn(work(link));
        self.connections.insert(conn, Handle { queue, queued, closing, task });
    }
}

#[cfg(test)]
mod tests;
