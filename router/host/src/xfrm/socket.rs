//! A netlink socket to XFRM that blocks: one request, its answers, each within bounded time.
//!
//! What comes and goes may hold keys: it is wiped, and of the kernel's refusal only the number and its own words are kept.

use std::{
    io::{ErrorKind, Read as _},
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use zeroize::Zeroizing;

use super::bytes::{HEADER_LEN, Reader, Request};
use crate::{error::HostError, sockopt};

/// How long the kernel may think about one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one answer: the kernel fills at most 32 KiB of a list at a time.
const ANSWER_LEN: usize = 64 << 10;
/// How often a list is asked for again that changed while it was made.
const TRIES: usize = 16;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The list changed while it was made.
const DUMP_INTERRUPTED: u16 = 0x10;
/// The refusal does not repeat the request; attributes follow.
const CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's words.
const ATTR_WORDS: u16 = 1;

/// The socket.
pub(super) struct XfrmSocket {
    socket: Socket,
    sequence: u32,
    buffer: Zeroizing<Vec<u8>>,
}

/// How the kernel refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// Its reason, where it gives one (most do since 6.2).
    pub(super) words: Option<String>,
}

impl XfrmSocket {
    /// Opens one in the network namespace of the calling thread, to which it belongs for ever.
    pub(super) fn open() -> Result<Self, HostError> {
        let failed = |error: std::io::Error| HostError::io("open a socket to IPsec (XFRM) in the kernel", &error);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_XFRM)))
            .map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        // Old kernels know neither; then refusals have no words, and what they repeat is wiped as all else.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            let _ = sockopt::set(&socket, libc::SOL_NETLINK, option, 1);
        }
        Ok(Self { socket, sequence: 0, buffer: Zeroizing::new(vec![0; ANSWER_LEN]) })
    }

    /// Asks for a change. The outer error is that of the way to the kernel, the inner its own.
    pub(super) fn change(&mut self, doing: &str, request: Request) -> Result<Result<(), Refusal>, HostError> {
        self.ask(doing, request, |_, _| ())
    }

    /// Asks for a list and keeps what `read` makes of its messages, type and body. A list that changed meanwhile is asked for anew.
    pub(super) fn list<T>(
        &mut self,
        doing: &str,
        request: impl Fn() -> Request,
        read: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, HostError> {
        for _ in 0..TRIES {
            let mut list = Vec::new();
            match self.ask(doing, request(), |kind, body| list.extend(read(kind, body)))? {
                Ok(()) => return Ok(list),
                Err(refusal) if refusal.errno == Errno::EINTR => {}
                Err(refusal) => return Err(HostError::kernel(doing, refusal.errno)),
            }
        }
        Err(HostError::kernel(doing, Errno::EINTR))
    }

    /// Sends a request and reads until its end: an acknowledgement, a refusal or the end of a list.
    pub(super) fn ask(
        &mut self,
        doing: &str,
        mut request: Request,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<Result<(), Refusal>, HostError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        let send = || self.socket.send(bytes);
        retry(send).map_err(|error| HostError::io(doing, &error))?;
        drop(request);
        let until = Instant::now() + PATIENCE;
        let (wanted, mut interrupted) = (self.sequence, false);
        loop {
            let mut messages = self.receive(doing, until)?;
            while let Some((kind, flags, sequence, body)) = message(&mut messages) {
                if sequence != wanted {
                    // An answer to something that we gave up waiting for.
                    continue;
                }
                interrupted |= flags & DUMP_INTERRUPTED != 0;
                if kind != ERROR && kind != DONE {
                    each(kind, body);
                } else if let Some(refusal) = refusal(flags, body) {
                    return Ok(Err(refusal));
                } else if interrupted {
                    return Ok(Err(Refusal { errno: Errno::EINTR, words: None }));
                } else {
                    return Ok(Ok(()));
                }
            }
        }
    }

    fn receive(&mut self, doing: &str, until: Instant) -> Result<Reader<'_>, HostError> {
        let late = || HostError::Timeout { doing: doing.to_owned(), seconds: PATIENCE.as_secs() };
        if Instant::now() > until {
            return Err(late());
        }
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        match retry(|| (&mut &*socket).read(buffer)) {
            Ok(length) => Ok(Reader::new(self.buffer.get(..length).unwrap_or_default())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(late()),
            Err(error) => Err(HostError::io(doing, &error)),
        }
    }
}

/// A signal for the thread is none of the kernel's business.
fn retry<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The next message: type, flags, sequence and body.
fn message<'a>(reader: &mut Reader<'a>) -> Option<(u16, u16, u32, &'a [u8])> {
    let length = usize::try_from(reader.u32()).ok()?;
    let (kind, flags, sequence) = (reader.u16(), reader.u16(), reader.u32());
    reader.skip(4);
    let body = reader.take(length.checked_sub(HEADER_LEN)?);
    reader.skip(length.next_multiple_of(4) - length);
    Some((kind, flags, sequence, body))
}

/// What an error or the end of a list says; None for success.
fn refusal(flags: u16, body: &[u8]) -> Option<Refusal> {
    let mut body = Reader::new(body);
    let code = body.i32();
    if code >= 0 {
        return None;
    }
    let words = (flags & (CAPPED | ACK_ATTRIBUTES) == CAPPED | ACK_ATTRIBUTES)
        .then(|| body.skip(HEADER_LEN).find(ATTR_WORDS))
        .flatten()
        .map(|mut words| String::from_utf8_lossy(words.take(200)).trim_end_matches('\0').to_owned());
    Some(Refusal { errno: Errno::from_raw(code.saturating_neg()), words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_with_their_words() {
        let mut body = (-3i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER_LEN]);
        body.extend([8, 0, 1, 0, b'n', b'o', b'!', 0]);
        let refused = refusal(CAPPED | ACK_ATTRIBUTES, &body).unwrap();
        assert_eq!((refused.errno, refused.words.as_deref()), (Errno::ESRCH, Some("no!")));
        assert!(refusal(0, &body).unwrap().words.is_none());
        assert!(refusal(0, &0i32.to_ne_bytes()).is_none());
    }

    #[test]
    fn cut_messages_end_the_reading() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            while message(&mut reader).is_some() {}
            let _ = refusal(CAPPED | ACK_ATTRIBUTES, bytes);
        });
    }
}
