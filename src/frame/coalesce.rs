//! Joins frames of one flow into super-frames for the TAP, so that the kernel handles 64 KiB at once (GRO).
//!
//! The opposite of [`super::segment`]: `segment(coalesce(frames)) == frames`. Only frames that differ in nothing but
//! what segmentation restores are joined: TCP segments with data and no flags but ACK (and PSH, which ends a
//! super-frame), UDP datagrams of one size; sequence and IPv4 identification go on without a gap; all checksums are
//! right. Frames of one flow leave in the order in which they came; all others pass at once as they are. Also what is complete
//! waits for the end of the batch: written one behind the other, super-frames wake their reader less often.
//!
//! Buffers are allocated once. A super-frame leaves with the pseudo-header's sum in its checksum field, as the kernel
//! wants it (`CHECKSUM_PARTIAL`).

use std::net::IpAddr;

use super::{
    checksum,
    ethernet::{self, Ethernet},
    flow::{Key, Trail},
    ip::{IPV4_LEN, IPV6_LEN, Ip},
    read, read_u16,
    segment::SIZE_MIN,
    transport::{ACK, FLAGS_AT, Kind, PSH, SEQUENCE_AT},
    vnet::{Checksum, Gso, GsoKind, Header},
    write, write_len,
};

/// Super-frames at the same time, complete ones included: flows that one batch of a busy queue is likely to hold.
const SLOTS: usize = 8;
/// Longest IP packet.
const PACKET_MAX: usize = 65535;
/// Datagrams in one UDP super-frame: what a receiving socket takes at once (UDP_GRO_CNT_MAX of Linux).
const DATAGRAMS_MAX: usize = 64;

/// The super-frames being filled.
#[derive(Debug)]
pub struct Coalescer {
    slots: Vec<Slot>,
    /// Whether UDP is joined: TAPs take UDP super-frames since Linux 6.2.
    joins_udp: bool,
    /// Super-frames begun so far, for finding the oldest.
    begun: u64,
}

impl Coalescer {
    /// Empty super-frames. `joins_udp` says whether the TAP takes UDP super-frames (`TUN_F_USO4`, `TUN_F_USO6`).
    pub fn new(joins_udp: bool) -> Self {
        Self { slots: (0..SLOTS).map(|_| Slot::new()).collect(), joins_udp, begun: 0 }
    }

    /// Takes one frame. What is ready, this frame perhaps among it, goes to `sink`.
    pub fn push(&mut self, frame: &[u8], sink: &mut impl FnMut(Header, &[u8])) {
        let Some(candidate) = Candidate::parse(frame).filter(|c| c.kind == Kind::Tcp || self.joins_udp) else {
            let trail = Trail::of(frame);
            self.flush_those(|key| trail.may_be(&Trail::Flow(*key)), sink);
            return sink(Header::default(), frame);
        };
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_filling(&candidate.key)) {
            if slot.follows(&candidate, frame) {
                return slot.append(&candidate, frame);
            }
            slot.close();
        }
        self.begun += 1;
        // Empty slots count as the oldest of all.
        if let Some(slot) = self.slots.iter_mut().min_by_key(|slot| slot.age()) {
            slot.flush(sink);
            slot.begin(candidate, frame, self.begun);
        }
    }

    /// Hands over all that is left, in the order in which it was begun; to be called at the end of each batch.
    pub fn flush(&mut self, sink: &mut impl FnMut(Header, &[u8])) {
        self.flush_those(|_| true, sink);
    }

    /// Hands over what `may` go first of these flows, the oldest first.
    fn flush_those(&mut self, may: impl Fn(&Key) -> bool, sink: &mut impl FnMut(Header, &[u8])) {
        let is_due = |slot: &&mut Slot| slot.filling.as_ref().is_some_and(|filling| may(&filling.first.key));
        while let Some(slot) = self.slots.iter_mut().filter(is_due).min_by_key(|slot| slot.age()) {
            slot.flush(sink);
        }
    }
}

/// One super-frame being filled.
#[derive(Debug)]
struct Slot {
    bytes: Vec<u8>,
    filling: Option<Filling>,
}

/// What a super-frame holds so far.
#[derive(Debug)]
struct Filling {
    /// The first frame in it.
    first: Candidate,
    count: usize,
    /// Number in the order in which all were begun.
    age: u64,
    /// Whether nothing more is to be joined.
    is_closed: bool,
}

/// A frame that could be part of a super-frame.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    key: Key,
    ip: Ip,
    kind: Kind,
    /// Length of all headers.
    headers: usize,
    /// Length of what is behind them; at least 1.
    payload: usize,
    /// Whether it may only be the last one.
    is_last: bool,
}

impl Candidate {
    /// Looks whether `frame` may be joined with others at all.
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = Ip::parse(frame, &Ethernet::parse(frame)?)?;
        let key = Key::of_packet(frame, &ip)?;
        let kind = Kind::of(ip.protocol)?;
        let headers = ip.upper + kind.header_len(frame, &ip)?;
        let payload = ip.end.checked_sub(headers).filter(|len| *len > 0)?;
        let is_plain_ip = match ip.source {
            IpAddr::V4(_) => ip.upper - ip.start == IPV4_LEN && checksum::is_valid_ipv4(frame, ip.start, ip.upper),
            IpAddr::V6(_) => ip.upper - ip.start == IPV6_LEN,
        };
        let [flags] = read(frame, ip.upper + FLAGS_AT).unwrap_or_default();
        let is_plain = match kind {
            Kind::Tcp => flags & !PSH == ACK,
            Kind::Udp => {
                let [len, checksum] = [read_u16(frame, ip.upper + 4)?, read_u16(frame, ip.upper + 6)?];
                usize::from(len) == ip.end - ip.upper && checksum != 0
            }
        };
        let is_candidate = ip.end == frame.len() && is_plain_ip && is_plain && checksum::is_valid(frame, &ip);
        let is_last = kind == Kind::Tcp && flags & PSH != 0;
        is_candidate.then_some(Self { key, ip, kind, headers, payload, is_last })
    }
}

impl Slot {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(ethernet::HEADER_MAX + PACKET_MAX), filling: None }
    }

    fn is_filling(&self, key: &Key) -> bool {
        self.filling.as_ref().is_some_and(|filling| !filling.is_closed && filling.first.key == *key)
    }

    fn close(&mut self) {
        if let Some(filling) = &mut self.filling {
            filling.is_closed = true;
        }
    }

    fn age(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.age)
    }

    /// Whether `frame` is the very next part of the super-frame.
    fn follows(&self, candidate: &Candidate, frame: &[u8]) -> bool {
        let Some(Filling { first, count, .. }) = &self.filling else { return false };
        // Smaller segments are refused where the super-frame is cut.
        first.payload >= SIZE_MIN
            && candidate.payload <= first.payload
            && self.bytes.len() - first.ip.start + candidate.payload <= PACKET_MAX
            && (first.kind == Kind::Tcp || *count < DATAGRAMS_MAX)
            && has_same_headers(&self.bytes, frame, first, candidate)
            && is_next(&self.bytes, frame, first, *count)
    }

    fn begin(&mut self, first: Candidate, frame: &[u8], age: u64) {
        self.bytes.clear();
        self.bytes.extend_from_slice(frame);
        self.filling = Some(Filling { first, count: 1, age, is_closed: first.is_last });
    }

    fn append(&mut self, candidate: &Candidate, frame: &[u8]) {
        let Some(filling) = &mut self.filling else { return };
        filling.count += 1;
        self.bytes.extend_from_slice(frame.get(candidate.headers..).unwrap_or_default());
        if candidate.is_last {
            let at = filling.first.ip.upper + FLAGS_AT;
            write(&mut self.bytes, at, [ACK | PSH]);
        }
        filling.is_closed = candidate.is_last || candidate.payload < filling.first.payload;
    }

    fn flush(&mut self, sink: &mut impl FnMut(Header, &[u8])) {
        match self.filling.take() {
            None => {}
            Some(Filling { count: 1, .. }) => sink(Header::default(), &self.bytes),
            Some(Filling { first, .. }) => sink(finish(&mut self.bytes, &first), &self.bytes),
        }
        self.bytes.clear();
    }
}

/// Whether nothing differs that segmentation would not restore; the flow is known to be the same.
fn has_same_headers(joined: &[u8], frame: &[u8], first: &Candidate, candidate: &Candidate) -> bool {
    let (start, upper, headers) = (first.ip.start, first.ip.upper, first.headers);
    let is_same = |from: usize, to: usize| joined.get(from..to) == frame.get(from..to);
    let is_same_ip = match first.ip.source {
        // All but total length, identification and checksum.
        IpAddr::V4(_) => is_same(start, start + 2) && is_same(start + 6, start + 10) && is_same(start + 12, upper),
        // All but payload length.
        IpAddr::V6(_) => is_same(start, start + 4) && is_same(start + 6, upper),
    };
    let is_same_transport = match first.kind {
        // Ports, acknowledgement, header length, window, urgent pointer, options; flags and sequence are looked at
        // elsewhere.
        Kind::Tcp => is_same(upper + 8, upper + 13) && is_same(upper + 14, upper + 16) && is_same(upper + 18, headers),
        Kind::Udp => true,
    };
    let is_same_shape = (start, upper, headers) == (candidate.ip.start, candidate.ip.upper, candidate.headers);
    is_same_shape && is_same(0, start) && is_same_ip && is_same_transport
}

/// Whether identification and sequence number go on where the `count` frames joined so far end.
fn is_next(joined: &[u8], frame: &[u8], first: &Candidate, count: usize) -> bool {
    let id = |bytes| read_u16(bytes, first.ip.start + 4);
    let sequence = |bytes| read(bytes, first.ip.upper + SEQUENCE_AT).map(u32::from_be_bytes);
    let is_next_id = first.ip.source.is_ipv6() || id(joined).map(|id| id.wrapping_add(count as u16)) == id(frame);
    let expected = sequence(joined).map(|start| start.wrapping_add((count * first.payload) as u32));
    is_next_id && (first.kind == Kind::Udp || expected == sequence(frame))
}

/// Makes the headers of the first frame those of the whole super-frame, and says how it is to be cut.
fn finish(joined: &mut [u8], first: &Candidate) -> Header {
    let (start, upper, end) = (first.ip.start, first.ip.upper, joined.len());
    match first.ip.source {
        IpAddr::V4(_) => {
            write_len(joined, start + 2, end - start);
            checksum::fill_ipv4(joined, start, upper);
        }
        IpAddr::V6(_) => write_len(joined, start + 4, end - start - IPV6_LEN),
    }
    if first.kind == Kind::Udp {
        write_len(joined, upper + 4, end - upper);
    }
    let pseudo = checksum::pseudo_header(first.ip.source, first.ip.destination, first.ip.protocol, end - upper);
    write(joined, upper + first.kind.checksum_offset(), checksum::partial(pseudo).to_be_bytes());
    let kind = match (first.kind, first.ip.source) {
        (Kind::Tcp, IpAddr::V4(_)) => GsoKind::TcpV4,
        (Kind::Tcp, IpAddr::V6(_)) => GsoKind::TcpV6,
        (Kind::Udp, IpAddr::V4(_) | IpAddr::V6(_)) => GsoKind::Udp,
    };
    let checksum = Checksum::Needed { start: upper as u16, offset: first.kind.checksum_offset() as u16 };
    Header { checksum, gso: Some(Gso { kind, size: first.payload as u16, header_len: first.headers as u16 }) }
}

#[cfg(test)]
mod tests;
