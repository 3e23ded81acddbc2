//! Datagrams on their way out: gathered into runs of one size to one address, each run sent by one system call.

use std::{net::SocketAddr, ops::Range};

use weft::drops::{Drop, DropCounts};
use weft_host::udp::{RUN_LEN_MAX, RUN_SEGMENTS_MAX, UdpSocket};

use super::stages::{Stage, Stages};

/// Bytes gathered before they are sent: four full runs, few enough to stay in the processor's cache.
const BATCH_LEN: usize = 4 * 65_536;
/// Most runs gathered: small datagrams to many peers, as broadcast makes them.
const RUNS_MAX: usize = 256;

/// The datagrams gathered, and the socket to send them by.
pub(super) struct Batch {
    socket: UdpSocket,
    buffer: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
}

/// Datagrams to one address, one behind the other, all of `segment` bytes but for the last one.
#[derive(Debug)]
struct Run {
    to: SocketAddr,
    segment: usize,
    bytes: Range<usize>,
}

impl Batch {
    /// An empty batch for `socket`.
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, buffer: vec![0; BATCH_LEN].into_boxed_slice(), used: 0, runs: Vec::with_capacity(RUNS_MAX) }
    }

    /// The socket.
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Whether there is room for a datagram of `len` bytes to `to`.
    pub(super) fn has_room(&self, to: SocketAddr, len: usize) -> bool {
        let fits = self.buffer.len() - self.used >= len;
        let joins = self.runs.last().is_some_and(|run| run.takes(to, len));
        fits && (joins || self.runs.len() < RUNS_MAX)
    }

    /// Room for one datagram of `len` bytes to `to`, to be filled wholly before the next call; None if it does not fit.
    pub(super) fn datagram(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if !self.has_room(to, len) {
            return None;
        }
        let end = self.used + len;
        match self.runs.last_mut() {
            Some(run) if run.takes(to, len) => run.bytes.end = end,
            Some(_) | None => self.runs.push(Run { to, segment: len, bytes: self.used..end }),
        }
        let room = self.buffer.get_mut(self.used..end);
        self.used = end;
        room
    }

    /// Sends all; tells `too_big` of addresses whose interface does not take datagrams so large, and what it may take.
    pub(super) fn flush(
        &mut self,
        drops: &mut DropCounts,
        stages: &mut Stages,
        mut too_big: impl FnMut(SocketAddr, usize, &mut DropCounts),
    ) {
        for run in &self.runs {
            let Some(bytes) = self.buffer.get(run.bytes.clone()) else { continue };
            let sent = self.socket.send(run.to, bytes, run.segment);
            stages.count(Stage::RunsSent, 1);
            stages.count(Stage::DatagramsSent, bytes.len().div_ceil(run.segment.max(1)));
            for _ in 0..sent.failed {
                drops.count(if sent.too_big { Drop::TooBig } else { Drop::SendFailed });
            }
            if sent.too_big {
                too_big(run.to, run.segment.saturating_sub(1), drops);
            }
        }
        self.runs.clear();
        self.used = 0;
    }
}

impl Run {
    /// Whether a datagram may follow: the same address, not larger than the others, nothing after a shorter one.
    fn takes(&self, to: SocketAddr, len: usize) -> bool {
        self.to == to
            && len <= self.segment
            && self.bytes.len().is_multiple_of(self.segment.max(1))
            && self.bytes.len() / self.segment.max(1) < RUN_SEGMENTS_MAX
            && self.bytes.len() + len <= RUN_LEN_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket as StdSocket};

    use weft_host::udp;

    use super::*;

    fn batch() -> Batch {
        Batch::new(udp::bind(Some(Ipv4Addr::LOCALHOST.into()), 0, 1).unwrap().remove(0))
    }

    fn receiver() -> (StdSocket, SocketAddr) {
        let socket = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn datagrams_of_one_size_to_one_address_share_a_run_and_arrive_apart() {
        let mut batch = batch();
        let ((one, to_one), (two, to_two)) = (receiver(), receiver());
        for (to, len, fill) in [(to_one, 100, 1), (to_one, 100, 2), (to_one, 60, 3), (to_one, 60, 4), (to_two, 60, 5)] {
            batch.datagram(to, len).unwrap().fill(fill);
        }
        let runs: Vec<_> = batch.runs.iter().map(|run| (run.to, run.segment, run.bytes.clone())).collect();
        assert_eq!(runs, [(to_one, 100, 0..260), (to_one, 60, 260..320), (to_two, 60, 320..380)]);
        let mut drops = DropCounts::default();
        batch.flush(&mut drops, &mut Stages::default(), |_, _, _| panic!("loopback takes this"));
        let mut buffer = [0; 2000];
        let mut next = |socket: &StdSocket| {
            let len = socket.recv(&mut buffer).unwrap();
            (len, buffer[0])
        };
        let got = [next(&one), next(&one), next(&one), next(&one), next(&two)];
        assert_eq!(got, [(100, 1), (100, 2), (60, 3), (60, 4), (60, 5)]);
        assert_eq!(drops, DropCounts::default());
        assert_eq!((batch.used, batch.runs.len()), (0, 0));
    }

    #[test]
    fn a_run_stays_within_what_one_message_may_carry() {
        let mut batch = batch();
        let (_keep, to) = receiver();
        let mut gathered = 0;
        while batch.datagram(to, 1400).is_some() {
            gathered += 1;
        }
        assert_eq!(gathered, BATCH_LEN / 1400);
        for run in &batch.runs {
            assert!(run.bytes.len() <= RUN_LEN_MAX && run.bytes.len() / run.segment <= RUN_SEGMENTS_MAX);
        }
        let mut few = 0;
        batch.flush(&mut DropCounts::default(), &mut Stages::default(), |_, _, _| ());
        for port in 1.. {
            if batch.datagram((Ipv4Addr::LOCALHOST, port).into(), 1).is_none() {
                break;
            }
            few += 1;
        }
        assert_eq!(few, RUNS_MAX, "each to an address of its own");
    }

    #[test]
    fn what_no_interface_carries_is_reported_with_its_address() {
        let mut batch = batch();
        let (_keep, to) = receiver();
        // Loopback carries 65,536 bytes with headers; UDP itself ends at 65,507.
        batch.datagram(to, 65_520).unwrap();
        let mut drops = DropCounts::default();
        let mut told = Vec::new();
        batch.flush(&mut drops, &mut Stages::default(), |to, _, _| told.push(to));
        assert_eq!(told, [to]);
        assert_eq!(drops.iter().collect::<Vec<_>>(), [(Drop::TooBig, 1)]);
        let unreachable = "240.0.0.1:9".parse().unwrap();
        batch.datagram(unreachable, 10).unwrap();
        batch.flush(&mut drops, &mut Stages::default(), |_, _, _| panic!("only unreachable"));
        assert_eq!(drops.iter().last(), Some((Drop::SendFailed, 1)));
    }
}
