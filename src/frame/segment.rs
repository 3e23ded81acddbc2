//! Cuts a super-frame into the frames that its sender would have sent without offload.
//!
//! The kernel hands over up to 64 KiB of TCP (TSO) or of UDP datagrams of one size (`UDP_SEGMENT`) behind one set of
//! headers. Each segment gets a copy of the headers with its own lengths, IPv4 identification, TCP sequence number and
//! flags, and all checksums in full.

use std::net::IpAddr;

use super::{
    Pieces, checksum, copy,
    ethernet::Ethernet,
    ip::{IPV6_LEN, Ip},
    read, read_u16,
    transport::{CWR, FIN, FLAGS_AT, Kind, PSH, SEQUENCE_AT},
    vnet::{Gso, GsoKind},
    write, write_len,
};

/// Smallest payload of a segment: Linux's own limit (TCP_MIN_GSO_SIZE), without which one super-frame makes 64 Ki
/// frames.
pub(super) const SIZE_MIN: usize = 8;

/// A super-frame and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    frame: &'a [u8],
    ip: Ip,
    kind: Kind,
    headers: usize,
    size: usize,
}

impl<'a> Segments<'a> {
    /// Cuts `frame` as `gso` says; None when the frame is not what `gso` says it is.
    pub fn new(frame: &'a [u8], gso: &Gso) -> Option<Self> {
        let ip = Ip::parse(frame, &Ethernet::parse(frame)?)?;
        let kind = gso.kind.transport();
        let is_version = match gso.kind {
            GsoKind::TcpV4 => ip.source.is_ipv4(),
            GsoKind::TcpV6 => ip.source.is_ipv6(),
            GsoKind::Udp => true,
        };
        let headers = ip.upper + kind.header_len(frame, &ip)?;
        let size = usize::from(gso.size);
        let fits = is_version && Kind::of(ip.protocol) == Some(kind) && !ip.is_fragment() && size >= SIZE_MIN;
        (fits && headers < ip.end).then_some(Self { frame, ip, kind, headers, size })
    }

    fn payload(&self, index: usize) -> &'a [u8] {
        let from = self.headers + index * self.size;
        let to = (from + self.size).min(self.ip.end);
        self.frame.get(from..to).unwrap_or_default()
    }

    fn adapt_ip(&self, index: usize, out: &mut [u8]) {
        let start = self.ip.start;
        match self.ip.source {
            IpAddr::V4(_) => {
                let id = read_u16(self.frame, start + 4).unwrap_or_default();
                write_len(out, start + 2, out.len() - start);
                write(out, start + 4, id.wrapping_add(index as u16).to_be_bytes());
                checksum::fill_ipv4(out, start, self.ip.upper);
            }
            IpAddr::V6(_) => write_len(out, start + 4, out.len() - start - IPV6_LEN),
        }
    }

    fn adapt_transport(&self, index: usize, out: &mut [u8]) {
        let upper = self.ip.upper;
        match self.kind {
            Kind::Tcp => {
                let sequence = read(self.frame, upper + SEQUENCE_AT).map_or(0, u32::from_be_bytes);
                let [flags] = read(self.frame, upper + FLAGS_AT).unwrap_or_default();
                let not_first = if index > 0 { CWR } else { 0 };
                let not_last = if index + 1 < self.count() { FIN | PSH } else { 0 };
                let sequence = sequence.wrapping_add((index * self.size) as u32);
                write(out, upper + SEQUENCE_AT, sequence.to_be_bytes());
                write(out, upper + FLAGS_AT, [flags & !not_first & !not_last]);
            }
            Kind::Udp => write_len(out, upper + 4, out.len() - upper),
        }
        checksum::fill_transport(out, &Ip { end: out.len(), ..self.ip }, self.kind);
    }
}

impl Pieces for Segments<'_> {
    fn count(&self) -> usize {
        (self.ip.end - self.headers).div_ceil(self.size)
    }

    fn piece_len(&self, index: usize) -> usize {
        self.headers + self.payload(index).len()
    }

    fn write(&self, index: usize, out: &mut [u8]) {
        let Some((headers, payload)) = out.split_at_mut_checked(self.headers) else { return };
        copy(self.frame, headers);
        copy(self.payload(index), payload);
        self.adapt_ip(index, out);
        self.adapt_transport(index, out);
    }
}

#[cfg(test)]
mod tests;
