//! HTTP over unix sockets, as a client: of the router and of the engine.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};

/// Largest answer in bytes: the inspection of a container, the list of thousands.
const ANSWER_MAX: usize = 64 << 20;
/// Largest line of a stream in bytes.
const LINE_MAX: usize = 256 << 10;
/// How long connecting and the head of a stream may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Why a call gave nothing.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    /// Nobody listens.
    #[error("nobody answers at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens and says nothing.
    #[error("no answer from {} within {seconds} s", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It is no HTTP, too long, or ended too early.
    #[error("the answer from {} broke off or is no HTTP: {why}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
}

/// A server behind a unix socket.
#[derive(Clone, Debug)]
pub(crate) struct Socket(pub(crate) PathBuf);

/// The answer to a call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) api_version: Option<String>,
    pub(crate) body: Bytes,
}

impl Socket {
    /// One call with its answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Answer, HttpError> {
        timeout(deadline, async {
            let open = self.open(method, path, body).await?;
            let (status, headers) = (open.response.status(), open.response.headers());
            let version = headers.get("api-version").and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = Limited::new(open.response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| self.broken(error))?.to_bytes();
            Ok(Answer { status, api_version: version, body })
        })
        .await
        .unwrap_or_else(|_| Err(HttpError::Silent { path: self.0.clone(), seconds: deadline.as_secs() }))
    }

    /// A call whose answer is lines without an end.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, HttpError> {
        let silent = HttpError::Silent { path: self.0.clone(), seconds: HEAD_DEADLINE.as_secs() };
        let open = timeout(HEAD_DEADLINE, self.open(Method::GET, path, Vec::new())).await.unwrap_or(Err(silent))?;
        if !open.response.status().is_success() {
            return Err(self.broken(format!("{} to {path}", open.response.status())));
        }
        Ok(Lines { socket: self.clone(), open, rest: Vec::new() })
    }

    async fn open(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Open, HttpError> {
        let stream = UnixStream::connect(&self.0)
            .await
            .map_err(|source| HttpError::Unreachable { path: self.0.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        // It ends when both halves are dropped; its errors show in the answer.
        let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "weft")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        Ok(Open { response, _driver: driver })
    }

    fn broken(&self, why: impl ToString) -> HttpError {
        HttpError::Broken { path: self.0.clone(), why: why.to_string() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// An answer under way.
#[derive(Debug)]
struct Open {
    response: Response<Incoming>,
    _driver: Driver,
}

/// The task that moves the bytes of a connection; it ends with whoever waits for them.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lines that come when something happens.
#[derive(Debug)]
pub(crate) struct Lines {
    socket: Socket,
    open: Open,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line; none when the server has ended the stream. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, HttpError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect::<Vec<u8>>();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
            }
            if self.rest.len() > LINE_MAX {
                return Err(self.socket.broken(format!("a line is longer than {LINE_MAX} bytes")));
            }
            let Some(frame) = self.open.response.body_mut().frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| self.socket.broken(error))?;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes.as_ref()));
        }
    }
}
