//! Forwarding tables: those of bridges, which port a station is behind, and those of VXLAN devices, which host it is on, by its
//! address or by a group of next hops.
//!
//! Thousands of entries change at once when a path does, so changes go in batches: many messages in one send, answered only where
//! they fail, and the last of each batch always, so that we know when it is through. The kernel takes messages in their order.

mod codec;

use std::{collections::BTreeMap, io};

pub(crate) use codec::{Change, Entry, Hop, HopKind, Line, LineKind, NOBODY, Target};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::error::HostError;
use codec::{Answer, Listed};

/// Messages in one send: 60 KiB at most, well below what a socket may queue (net.core.wmem_default, 208 KiB).
const BATCH: usize = 1024;
/// Bytes for answers that wait: all messages of a batch may fail, each with less than 1 KiB of the kernel's memory.
const ANSWERS_LEN: usize = 4 << 20;
/// Bytes of the largest piece of a list (the kernel makes pieces of up to 32 KiB, netlink(7)).
const PIECE_LEN: usize = 64 << 10;
/// Seconds that the kernel may think about one batch.
const PATIENCE: i64 = 10;
/// How often a list is asked for again that changed while it was made.
const TRIES: usize = 16;

/// A socket for forwarding tables, in the network namespace of the thread that opened it.
pub(crate) struct Fdb {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Fdb {
    /// Opens one.
    pub(crate) fn open() -> Result<Self, HostError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Answers without the failed request, and lists of what was asked for only.
            socket.set_cap_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
            // Without the right to more than others, answers of batches that fail as a whole may be lost; that is noticed.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &ANSWERS_LEN);
            Ok(socket)
        };
        let socket = open().map_err(|error| HostError::io("open a netlink socket", &error))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; PIECE_LEN] })
    }

    /// Makes the changes, in this order. Answers with what did not succeed, by position: an error stops no other.
    ///
    /// # Errors
    /// When the kernel cannot be talked to: then any of the changes may have happened or not.
    pub(crate) fn change(&mut self, changes: &[Change]) -> Result<BTreeMap<usize, Errno>, HostError> {
        let mut failed = BTreeMap::new();
        for (batch, offset) in changes.chunks(BATCH).zip((0..).step_by(BATCH)) {
            for (position, errno) in self.batch(batch)? {
                failed.insert(offset + position, errno);
            }
        }
        Ok(failed)
    }

    /// All lines of a bridge's forwarding table, and of those of its ports.
    pub(crate) fn list(&mut self, bridge: u32) -> Result<Vec<Line>, HostError> {
        let items = self.list_of(|sequence| codec::list(bridge, sequence))?;
        Ok(items.into_iter().filter_map(|item| if let Listed::Line(line) = item { Some(line) } else { None }).collect())
    }

    /// All next hops of forwarding tables, whosever. EOPNOTSUPP or EINVAL if the kernel knows none.
    pub(crate) fn hops(&mut self) -> Result<Vec<Hop>, HostError> {
        let items = self.list_of(codec::list_hops)?;
        Ok(items.into_iter().filter_map(|item| if let Listed::Hop(hop) = item { Some(hop) } else { None }).collect())
    }

    fn list_of(&mut self, request: impl Fn(u32) -> Vec<u8>) -> Result<Vec<Listed>, HostError> {
        for _ in 0..TRIES {
            if let Some(items) = self.try_list(&request)? {
                return Ok(items);
            }
        }
        Err(HostError::kernel(LISTING, Errno::EINTR))
    }

    fn batch(&mut self, changes: &[Change]) -> Result<Vec<(usize, Errno)>, HostError> {
        let Some(last) = changes.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(changes.len() * codec::CHANGE_LEN_MAX);
        for (position, change) in changes.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            change.encode(self.sequence, position == last, &mut bytes);
        }
        self.send(CHANGING, &bytes)?;
        let mut failed = Vec::new();
        loop {
            let length = self.receive(CHANGING)?;
            for answer in codec::answers(&self.buffer[..length]) {
                // An answer to a batch whose answers we stopped waiting for is none to this.
                let Answer::End { sequence, errno, .. } = answer else { continue };
                let position = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if position > last {
                    continue;
                }
                failed.extend(errno.map(|errno| (position, errno)));
                if position == last {
                    return Ok(failed);
                }
            }
        }
    }

    /// None if the list changed while it was made.
    fn try_list(&mut self, request: impl Fn(u32) -> Vec<u8>) -> Result<Option<Vec<Listed>>, HostError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(LISTING, &request(self.sequence))?;
        let mut items = Vec::new();
        let mut consistent = true;
        loop {
            let length = match self.receive(LISTING) {
                Err(error) if error.is_errno(&[Errno::ENOBUFS]) => return Ok(None),
                length => length?,
            };
            for answer in codec::answers(&self.buffer[..length]) {
                match answer {
                    Answer::Item { sequence, interrupted, item } if sequence == self.sequence => {
                        consistent &= !interrupted;
                        items.extend(item);
                    }
                    Answer::End { sequence, interrupted, errno } if sequence == self.sequence => {
                        if let Some(errno) = errno {
                            return Err(HostError::kernel(LISTING, errno));
                        }
                        return Ok((consistent && !interrupted).then_some(items));
                    }
                    Answer::Item { .. } | Answer::End { .. } => {}
                }
            }
        }
    }

    fn send(&self, doing: &str, bytes: &[u8]) -> Result<(), HostError> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(HostError::io(doing, &error)),
            }
        }
    }

    /// How many bytes of the buffer are an answer.
    fn receive(&mut self, doing: &str) -> Result<usize, HostError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => return Ok(length.min(PIECE_LEN)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(HostError::Timeout { doing: doing.to_owned(), seconds: PATIENCE.unsigned_abs() });
                }
                Err(error) => return Err(HostError::io(doing, &error)),
            }
        }
    }
}

const CHANGING: &str = "change the forwarding tables";
const LISTING: &str = "list the forwarding tables";

#[cfg(test)]
mod tests {
    use weft::id::Mac;

    use super::*;
    use crate::{netlink::Netlink, testing::in_namespace, testing::ip};

    fn entry(device: u32, number: usize) -> Entry {
        let [.., high, low] = number.to_be_bytes();
        Entry { device, mac: Mac([2, 0, 0, 0, high, low]), target: Target::Port }
    }

    #[test]
    fn failures_are_told_by_position_and_stop_no_other() {
        in_namespace(|| {
            for arguments in
                ["link add br0 type bridge", "link add p0 type veth peer name p1", "link set p0 master br0"]
            {
                ip(arguments);
            }
            let netlink = Netlink::open().unwrap();
            let index = |name| netlink.link(name).unwrap().unwrap().index;
            let (bridge, port, nowhere) = (index("br0"), index("p0"), index("p1"));
            let mut fdb = Fdb::open().unwrap();
            assert_eq!(fdb.change(&[]).unwrap(), BTreeMap::new());

            let wrong = [0, 5, BATCH - 1, BATCH, 2 * BATCH + 7];
            let device = |number: usize| if wrong.contains(&number) { nowhere } else { port };
            let count = 2 * BATCH + 8;
            let puts: Vec<Change> = (0..count).map(|number| Change::Put(entry(device(number), number))).collect();
            let failed = fdb.change(&puts).unwrap();
            assert_eq!(failed.keys().copied().collect::<Vec<_>>(), wrong);
            let made = |fdb: &mut Fdb| {
                let lines = fdb.list(bridge).unwrap();
                lines.into_iter().filter(|line| line.kind == LineKind::Made(Target::Port)).count()
            };
            assert_eq!(made(&mut fdb), count - wrong.len());

            // All fail: no answer is lost.
            let removes: Vec<Change> = (0..count).map(|number| Change::Remove(entry(nowhere, number))).collect();
            assert_eq!(fdb.change(&removes).unwrap().len(), count);
            let removes: Vec<Change> = (0..count).map(|number| Change::Remove(entry(port, number))).collect();
            let failed = fdb.change(&removes).unwrap();
            assert_eq!(failed.values().collect::<Vec<_>>(), [&Errno::ENOENT; 5]);
            assert_eq!(made(&mut fdb), 0);
        });
    }
}
