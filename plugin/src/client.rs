//! Talks to a running router by HTTP on its unix socket. Every call has a deadline, every failure a sentence.
//!
//! Blocking and without a runtime, as a plugin's process lives for milliseconds. A call is a connection of HTTP/1.0: the answer ends
//! where the router says, or where it hangs up.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use weft::api::ApiError;

/// Longest wait for an answer if nobody says otherwise: more than the router gives itself for any call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer in bytes: a report of thousands of peers.
const ANSWER_MAX: usize = 256 << 20;
/// Largest head of an answer in bytes.
const HEAD_MAX: usize = 64 << 10;
/// A system call cannot be given no time at all.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// Why a call gave nothing.
#[derive(Debug, Error)]
pub enum ClientError {
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
    #[error(
        "the router at {} has not answered within {} s; its log may say why, and `weft stop` ends it",
        path.display(), waited.as_secs_f32().ceil()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// Something else is there, or the router died while answering.
    #[error("the answer from {} broke off or is no HTTP", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        source: io::Error,
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
        /// The status: 400 and above.
        status: u16,
        /// Which error, for programs, where the router says.
        code: Option<String>,
        /// In the router's words.
        message: String,
    },
}

/// A way to one router.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Patience,
}

#[derive(Clone, Copy, Debug)]
enum Patience {
    /// So long for each call.
    Each(Duration),
    /// Until then for all of them, who had so long in all.
    Until(Instant, Duration),
}

impl Client {
    /// The router behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, patience: Patience::Each(DEADLINE) }
    }

    /// All calls together get this much time from now on.
    #[must_use]
    pub fn within(self, all: Duration) -> Self {
        Self { patience: Patience::Until(Instant::now() + all, all), ..self }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// As [`ClientError`] says, for all calls.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read(path, &self.call("GET", path, &[])?)
    }

    /// Tells the router to do something, with an answer.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        read(path, &self.send(path, body)?)
    }

    /// Tells the router to do something; the answer tells nothing.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.send(path, body).map(|_| ())
    }

    /// Whether the router is ready: `GET /ready` answers well.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub fn ready(&self) -> Result<(), ClientError> {
        self.call("GET", "/ready", &[]).map(|_| ())
    }

    fn send(&self, path: &str, body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
        let unreadable = |source| ClientError::Unreadable { path: path.to_owned(), source };
        self.call("POST", path, &serde_json::to_vec(body).map_err(unreadable)?)
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let (until, waited) = match self.patience {
            Patience::Each(wait) => (Instant::now() + wait, wait),
            Patience::Until(until, all) => (until, all),
        };
        let mut stream = connect(&self.socket, until).map_err(|error| self.unreachable(error, waited))?;
        let failed = |error: io::Error| {
            if is_timeout(&error) {
                return ClientError::Silent { path: self.socket.clone(), waited };
            }
            ClientError::Broken { path: self.socket.clone(), source: error }
        };
        let answer = exchange(&mut stream, until, method, path, body).map_err(failed)?;
        let Parsed { status, body, .. } = parse(&answer).map_err(failed)?;
        if (200..300).contains(&status) { Ok(body.to_vec()) } else { Err(refused(status, body)) }
    }

    fn unreachable(&self, error: io::Error, waited: Duration) -> ClientError {
        let path = self.socket.clone();
        if is_timeout(&error) {
            // Its queue is full.
            return ClientError::Silent { path, waited };
        }
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
            return ClientError::NotRunning(path);
        }
        if error.kind() == io::ErrorKind::PermissionDenied {
            return ClientError::NotAllowed(path);
        }
        ClientError::Unreachable { path, source: error }
    }
}

fn connect(path: &Path, until: Instant) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Connecting waits as writing does (unix(7)).
    socket.set_write_timeout(Some(left(until)))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Sends a request and reads until the end of the answer.
fn exchange(stream: &mut UnixStream, until: Instant, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: weft\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let sent = stream.write_all(&[head.as_bytes(), body].concat());
    let mut answer = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(left(until)))?;
        let got = match stream.read(&mut chunk) {
            // It may refuse without having heard all, and hang up on the rest.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => 0,
            got => got?,
        };
        if got == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..got]);
        // Its end is known: not to wait until the router has hung up, too.
        if parse(&answer).is_ok_and(|answer| answer.is_bounded) {
            break;
        }
        if answer.len() > ANSWER_MAX + HEAD_MAX {
            return Err(broken("the answer is too large"));
        }
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    if answer.is_empty() {
        sent?;
    }
    Ok(answer)
}

/// An answer, taken apart.
struct Parsed<'a> {
    status: u16,
    body: &'a [u8],
    /// Whether it is known that nothing more comes.
    is_bounded: bool,
}

/// Takes a whole answer apart.
fn parse(answer: &[u8]) -> io::Result<Parsed<'_>> {
    const END: &[u8] = b"\r\n\r\n";
    let searched = &answer[..answer.len().min(HEAD_MAX)];
    let end = searched.windows(END.len()).position(|window| window == END).ok_or_else(|| broken("no end of a head"))?;
    let (head, body) = (&answer[..end], &answer[end + END.len()..]);
    let head = std::str::from_utf8(head).map_err(|_| broken("a head that is no text"))?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(broken("no HTTP/1"));
    }
    let status = words.next().and_then(|word| word.parse().ok()).filter(|status| (100..600).contains(status));
    let status = status.ok_or_else(|| broken("no status"))?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match length {
        None => Ok(Parsed { status, body, is_bounded: false }),
        Some(Ok(length)) if length == body.len() => Ok(Parsed { status, body, is_bounded: true }),
        Some(_) => Err(broken("a body of another length than announced")),
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(LEAST_WAIT)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::Unreadable { path: path.to_owned(), source })
}

fn refused(status: u16, body: &[u8]) -> ClientError {
    let other = |_| ApiError {
        error: format!("the router answered {status}: {}", String::from_utf8_lossy(body).trim()),
        code: None,
    };
    let ApiError { error, code } = serde_json::from_slice(body).unwrap_or_else(other);
    ClientError::Refused { status, code, message: error }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// A router that answers one call with these bytes.
    fn answering(bytes: &'static [u8]) -> (tempfile::TempDir, Client) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("weft.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(bytes).unwrap();
        });
        (scratch, Client::new(path))
    }

    fn got(bytes: &'static [u8]) -> Result<serde_json::Value, ClientError> {
        answering(bytes).1.get("/x")
    }

    #[test]
    fn answers_are_read_to_their_end() {
        assert_eq!(got(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ntrue").unwrap(), true);
        assert_eq!(got(b"HTTP/1.1 200 OK\r\n\r\n[1]").unwrap(), serde_json::json!([1]));
        let refused = got(b"HTTP/1.0 409 Conflict\r\n\r\n{\"error\":\"taken\"}").unwrap_err();
        assert!(matches!(refused, ClientError::Refused { status: 409, ref message, .. } if message == "taken"));
    }

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        for bytes in [
            &b""[..],
            b"220 smtp ready\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\ntrue",
            b"HTTP/1.0 0 \r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        ] {
            let error = got(bytes).unwrap_err();
            assert!(matches!(error, ClientError::Broken { .. }), "{error}");
        }
        assert!(matches!(got(b"HTTP/1.0 200 OK\r\n\r\n{"), Err(ClientError::Unreadable { .. })));
    }

    #[test]
    fn nobody_and_silence_take_bounded_time() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("weft.sock");
        let client = Client::new(path.clone());
        assert!(matches!(client.ready(), Err(ClientError::NotRunning(_))));
        let _listener = UnixListener::bind(&path).unwrap();
        let began = Instant::now();
        let client = client.within(Duration::from_millis(100));
        for _ in 0..300 {
            // After some, the queue of the listener is full.
            assert!(matches!(client.ready(), Err(ClientError::Silent { .. })));
        }
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(Parsed { status, body, .. }) = parse(bytes) {
                assert!((100..600).contains(&status) && body.len() < bytes.len());
            }
        });
    }
}
