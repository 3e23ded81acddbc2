//! Talks to a running router by HTTP on its unix socket. Every call has a deadline, every failure a sentence.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::net::UnixStream;
use weft::api::ApiError;

/// Longest wait for an answer: more than the router gives itself for any call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer in bytes: a report of thousands of peers.
const ANSWER_MAX: usize = 256 << 20;

/// Why a call gave nothing.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody listens on the socket.
    #[error("Weft is not running here (no answer at {}). Start it with `weft launch`, or set --run-dir.", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("not allowed to use {}: only its owner may, so try as root", .0.display())]
    NotAllowed(PathBuf),
    /// No socket can be there.
    #[error("cannot connect to {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The router is there but does not answer.
    #[error("the router at {} has not answered within {} s; its log may say why, and `weft stop` ends it", .0.display(), DEADLINE.as_secs())]
    Silent(PathBuf),
    /// Something else is there, or the router died while answering.
    #[error("the answer from {} broke off or is no HTTP", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The router is of another version.
    #[error("cannot read the answer to {path}: is the running router of another version?")]
    Unreadable {
        /// What was asked for.
        path: String,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// The router said no, and why; in its own words.
    #[error("{message}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// In the router's words.
        message: String,
    },
}

/// A way to one router.
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// The router behind this socket.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for something.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read(path, &self.call(Method::GET, path, Bytes::new())?)
    }

    /// Tells the router to do something, with an answer.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        read(path, &self.send(path, body)?)
    }

    /// Tells the router to do something; the answer tells nothing.
    pub(crate) fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.send(path, body).map(|_| ())
    }

    /// Whether the router is ready: `GET /ready` answers well.
    pub(crate) fn ready(&self) -> Result<(), ClientError> {
        self.call(Method::GET, "/ready", Bytes::new()).map(|_| ())
    }

    fn send(&self, path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
        let unreadable = |source| ClientError::Unreadable { path: path.to_owned(), source };
        let body = serde_json::to_vec(body).map_err(unreadable)?;
        self.call(Method::POST, path, body.into())
    }

    fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        runtime.block_on(async {
            let exchange = exchange(&self.socket, method, path, body);
            tokio::time::timeout(DEADLINE, exchange)
                .await
                .unwrap_or_else(|_| Err(ClientError::Silent(self.socket.clone())))
        })
    }
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
    let broken =
        |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "weft")
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| broken(e.into()))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| broken(e.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(broken)?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    };
    tokio::pin!(connection);
    tokio::pin!(answered);
    // The connection ends after or with the answer; if it ends first, the answer says how.
    tokio::select! {
        answer = &mut answered => answer,
        _ = &mut connection => answered.await,
    }
}

fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::Unreadable { path: path.to_owned(), source })
}

fn unreachable(socket: &Path, error: io::Error) -> ClientError {
    let path = socket.to_owned();
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return ClientError::NotRunning(path);
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return ClientError::NotAllowed(path);
    }
    ClientError::Unreachable { path, source: error }
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let message = serde_json::from_slice::<ApiError>(body).map_or_else(
        |_| format!("the router answered {status}: {}", String::from_utf8_lossy(body).trim()),
        |answer| answer.error,
    );
    ClientError::Refused { status, message }
}
