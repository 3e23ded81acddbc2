//! Generic netlink: one socket, requests made of attributes, and many changes in one call of the kernel.
//!
//! A socket belongs to the network namespace of the thread that opened it, for ever. The kernel works on a request, or a batch of them,
//! while we send it, and has queued all its answers when the call returns. Only what the kernel itself says is heard: any program may
//! send to our socket.

use std::os::fd::{AsRawFd as _, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt,
            socket, sockopt,
        },
        time::TimeVal,
    },
};

use super::attribute::{Attributes, put_name};
use crate::error::HostError;

/// Bytes of `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
/// The family that knows of the others, its command to look for one, and its attributes (linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Bytes that hold any answer: the kernel packs at most 32 KiB of a list together.
const ANSWER_LEN: usize = 64 * 1024;
/// Requests that go together: should all fail, the answers, with the requests inside, still fit the socket's buffer of 208 KiB.
const BATCH: usize = 128;
/// Seconds to wait for an answer, which should be there already.
const PATIENCE: i64 = 10;
/// How often a list is asked for again that changed while it was made.
const TRIES: usize = 16;

/// A request; its length, flags and number are filled in when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Request(Vec<u8>);

/// A socket to the kernel.
#[derive(Debug)]
pub(super) struct Genl {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What the kernel sent.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Request {
    /// A request to a family, without attributes. Families have headers of their own after the generic one.
    pub(super) fn new(family: u16, command: u8, version: u8, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.splice(4..6, family.to_ne_bytes());
        bytes.extend_from_slice(&[command, version, 0, 0]);
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    /// Adds attributes.
    pub(super) fn with(mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        fill(&mut self.0);
        self
    }

    fn finish(&mut self, flags: u16, sequence: u32) {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.splice(0..4, len.to_ne_bytes());
        self.0.splice(6..12, flags.to_ne_bytes().into_iter().chain(sequence.to_ne_bytes()));
    }

    /// The bytes after the netlink header.
    #[cfg(test)]
    pub(super) fn body(&self) -> &[u8] {
        &self.0[HEADER..]
    }
}

impl Genl {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self, HostError> {
        let failed = |errno| HostError::kernel("open a generic netlink socket", errno);
        let protocol = SockProtocol::NetlinkGeneric;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0)).map_err(failed)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; ANSWER_LEN] })
    }

    /// The number of a family; none if the kernel, asked to load a module for it, still has none.
    pub(super) fn family(&mut self, name: &str) -> Result<Option<u16>, HostError> {
        let request =
            Request::new(CONTROLLER, GET_FAMILY, 1, &[]).with(|attributes| put_name(attributes, FAMILY_NAME, name));
        match self.ask(&format!("look for {name} in the kernel"), request) {
            Ok(Some(answer)) => Ok(Attributes(&answer).u16(FAMILY_ID)),
            Ok(None) => Ok(None),
            Err(error) if error.is_errno(&[Errno::ENOENT]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a request, and answers with the attributes of the kernel's answer after the generic header, if it gave one.
    pub(super) fn ask(&mut self, doing: &str, request: Request) -> Result<Option<Vec<u8>>, HostError> {
        let last = self.send(doing, &mut [request], NLM_F_REQUEST, NLM_F_ACK)?;
        let mut found = None;
        let mut result = Ok(());
        self.receive(doing, |answer| {
            if answer.sequence != last {
                return false;
            }
            if answer.kind == NLMSG_ERROR {
                result = answer.errno().map_or(Ok(()), |errno| Err(HostError::kernel(doing, errno)));
                return true;
            }
            found = answer.body.get(GENERIC_HEADER..).map(<[u8]>::to_vec);
            false
        })?;
        result.map(|()| found)
    }

    /// Asks for a list, and answers with what follows the generic header of each entry.
    pub(super) fn list(&mut self, doing: &str, request: &Request) -> Result<Vec<Vec<u8>>, HostError> {
        for _ in 0..TRIES {
            if let Some(list) = self.list_once(doing, request.clone())? {
                return Ok(list);
            }
        }
        Err(HostError::kernel(doing, Errno::EINTR))
    }

    fn list_once(&mut self, doing: &str, request: Request) -> Result<Option<Vec<Vec<u8>>>, HostError> {
        let last = self.send(doing, &mut [request], NLM_F_REQUEST | NLM_F_DUMP, 0)?;
        let mut list = Vec::new();
        let (mut consistent, mut failed) = (true, None);
        self.receive(doing, |answer| {
            if answer.sequence != last {
                return false;
            }
            consistent &= answer.flags & NLM_F_DUMP_INTR == 0;
            match answer.kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    failed = answer.errno();
                    return true;
                }
                _ => list.extend(answer.body.get(GENERIC_HEADER..).map(<[u8]>::to_vec)),
            }
            false
        })?;
        match failed {
            Some(errno) => Err(HostError::kernel(doing, errno)),
            None => Ok(consistent.then_some(list)),
        }
    }

    /// Makes many requests, each whatever becomes of the others, and answers with those that failed, by position.
    pub(super) fn change(&mut self, doing: &str, requests: &mut [Request]) -> Result<Vec<(usize, Errno)>, HostError> {
        let mut failed = Vec::new();
        for (number, batch) in requests.chunks_mut(BATCH).enumerate() {
            let len = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let last = self.send(doing, batch, NLM_F_REQUEST, NLM_F_ACK)?;
            let first = last.wrapping_sub(len - 1);
            self.receive(doing, |answer| {
                let place = answer.sequence.wrapping_sub(first);
                if answer.kind != NLMSG_ERROR || place >= len {
                    return false;
                }
                let position = number * BATCH + usize::try_from(place).unwrap_or(usize::MAX);
                failed.extend(answer.errno().map(|errno| (position, errno)));
                answer.sequence == last
            })?;
        }
        Ok(failed)
    }

    /// Sends requests together, the last with further flags, and answers with the number of the last.
    fn send(&mut self, doing: &str, requests: &mut [Request], flags: u16, at_last: u16) -> Result<u32, HostError> {
        let count = requests.len();
        let mut bytes = Vec::new();
        for (place, request) in requests.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            request.finish(if place + 1 == count { flags | at_last } else { flags }, self.sequence);
            bytes.extend_from_slice(&request.0);
        }
        let sent = send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty());
        sent.map_err(|errno| HostError::kernel(doing, errno))?;
        Ok(self.sequence)
    }

    /// Hands over all answers, until one is said to be the last.
    fn receive(&mut self, doing: &str, mut take: impl FnMut(&Answer<'_>) -> bool) -> Result<(), HostError> {
        loop {
            let (len, from) = match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => {
                    return Err(HostError::Timeout { doing: doing.to_owned(), seconds: PATIENCE.unsigned_abs() });
                }
                Err(errno) => return Err(HostError::kernel(doing, errno)),
            };
            if from.is_none_or(|from| from.pid() != 0) {
                continue;
            }
            let mut rest = self.buffer.get(..len).unwrap_or_default();
            while let Some(answer) = Answer::take(&mut rest) {
                if answer.kind == NLMSG_OVERRUN {
                    return Err(HostError::kernel(doing, Errno::ENOBUFS));
                }
                if take(&answer) {
                    return Ok(());
                }
            }
        }
    }
}

impl<'a> Answer<'a> {
    /// Takes the next one; none if the rest is no whole one.
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = bytes.get(HEADER..len)?;
        *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Self {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    }

    /// What went wrong, of an error or the end of a list; none if nothing did.
    fn errno(&self) -> Option<Errno> {
        let code = self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        (code < 0).then(|| Errno::from_raw(code.saturating_neg()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ovs::golden;

    #[test]
    fn a_family_is_asked_for_as_open_vswitch_itself_does() {
        let mut request = Request::new(CONTROLLER, GET_FAMILY, 1, &[])
            .with(|attributes| put_name(attributes, FAMILY_NAME, "ovs_flow"));
        request.finish(NLM_F_REQUEST, 1);
        let mut captured = golden::message("family-request");
        // The sender's number, which the kernel fills in for us.
        captured[12..HEADER].fill(0);
        assert_eq!(request.0, captured);
    }

    #[test]
    fn the_number_of_a_family_is_read() {
        let message = golden::message("family-answer");
        let mut rest = message.as_slice();
        let answer = Answer::take(&mut rest).unwrap();
        assert_eq!((answer.kind, answer.sequence, rest.len()), (CONTROLLER, 1, 0));
        assert_eq!(Attributes(&answer.body[GENERIC_HEADER..]).u16(FAMILY_ID), Some(0x1e));
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let mut rest = bytes;
            while let Some(answer) = Answer::take(&mut rest) {
                let _ = answer.errno();
            }
        });
    }

    #[test]
    fn a_family_that_no_kernel_has_is_missing() {
        assert_eq!(Genl::open().unwrap().family("weft_none").unwrap(), None);
        assert_eq!(Genl::open().unwrap().family("nlctrl").unwrap(), Some(CONTROLLER));
    }
}
