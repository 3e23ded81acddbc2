//! Cuts an IP packet that is too long for the way into fragments that fit.
//!
//! IPv4 packets whose DF is clear are fragmented as RFC 791 §3.2 says, fragments among them again.
//!
//! IPv6 packets are not fragmented on the way, but whoever carries IPv6 has to carry 1280 bytes, and must fragment
//! below IP if it cannot (RFC 8200 §5). A sealed path over a small underlay MTU is such a link. Packets of up to 1280
//! bytes are therefore cut with IPv6's own fragment header, which the destination puts together again: the same
//! service, without a reassembly of ours. Longer ones are not; their senders are told ([`super::icmp`]).

use std::net::IpAddr;

use super::{
    Pieces, checksum, copy,
    ethernet::Ethernet,
    ip::{FRAGMENT, IPV6_LEN, IPV6_MTU_MIN, Ip},
    read, write, write_len,
};

/// Length of the IPv6 fragment header.
const FRAGMENT_LEN: usize = 8;
/// Longest message that fragments can describe: the offset has 13 bits of 8 bytes, and lengths have 16.
const MESSAGE_MAX: usize = 65535;
/// Options with this bit are repeated in every fragment (RFC 791 §3.1).
const OPTION_COPIED: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;

/// A packet and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Fragments<'a> {
    frame: &'a [u8],
    ip: Ip,
    /// Where the bytes to be spread over the fragments begin.
    body: usize,
    /// Length of all headers of a fragment.
    headers: usize,
    /// Body bytes of each fragment but the last, a multiple of 8.
    chunk: usize,
    /// The IPv6 fragment header's next header and identification; None for IPv4.
    v6: Option<(u8, [u8; 4])>,
}

impl<'a> Fragments<'a> {
    /// Cuts `frame` into frames of at most `frame_max` bytes; None when that may not be done, or cannot.
    pub fn new(frame: &'a [u8], frame_max: usize) -> Option<Self> {
        let ip = Ip::parse(frame, &Ethernet::parse(frame)?)?;
        let mut fragments = match ip.source {
            IpAddr::V4(_) if ip.dont_fragment => return None,
            IpAddr::V4(_) => Self { frame, ip, body: ip.upper, headers: ip.upper, chunk: 0, v6: None },
            IpAddr::V6(_) if ip.packet_len() > IPV6_MTU_MIN && !is_v6_fragment(frame, ip) => return None,
            IpAddr::V6(_) => v6_fragments(frame, ip)?,
        };
        fragments.chunk = frame_max.checked_sub(fragments.headers)? & !7;
        let is_possible = fragments.chunk > 0 && ip.fragment_offset + (ip.end - fragments.body) <= MESSAGE_MAX;
        is_possible.then_some(fragments)
    }

    fn content(&self, index: usize) -> &'a [u8] {
        let from = self.body + index * self.chunk;
        self.frame.get(from..(from + self.chunk).min(self.ip.end)).unwrap_or_default()
    }

    fn has_more(&self, index: usize) -> bool {
        self.ip.more_fragments || index + 1 < self.count()
    }

    fn offset(&self, index: usize) -> u16 {
        (self.ip.fragment_offset + index * self.chunk) as u16
    }

    fn adapt_v4(&self, index: usize, out: &mut [u8]) {
        let start = self.ip.start;
        let more = u16::from(self.has_more(index)) << 13;
        write_len(out, start + 2, out.len() - start);
        write(out, start + 6, ((self.offset(index) / 8) | more).to_be_bytes());
        if index > 0 {
            blank_options(out.get_mut(start + super::ip::IPV4_LEN..self.headers).unwrap_or_default());
        }
        checksum::fill_ipv4(out, start, self.headers);
    }

    fn adapt_v6(&self, index: usize, (next, id): (u8, [u8; 4]), out: &mut [u8]) {
        let start = self.ip.start;
        let header = start + IPV6_LEN;
        write_len(out, start + 4, out.len() - header);
        write(out, start + 6, [FRAGMENT]);
        write(out, header, [next, 0]);
        write(out, header + 2, (self.offset(index) | u16::from(self.has_more(index))).to_be_bytes());
        write(out, header + 4, id);
    }
}

impl Pieces for Fragments<'_> {
    fn count(&self) -> usize {
        (self.ip.end - self.body).div_ceil(self.chunk).max(1)
    }

    fn piece_len(&self, index: usize) -> usize {
        self.headers + self.content(index).len()
    }

    fn write(&self, index: usize, out: &mut [u8]) {
        let Some((headers, content)) = out.split_at_mut_checked(self.headers) else { return };
        copy(self.frame, headers);
        copy(self.content(index), content);
        match self.v6 {
            None => self.adapt_v4(index, out),
            Some(v6) => self.adapt_v6(index, v6, out),
        }
    }
}

/// Whether the sender has fragmented this itself: the destination puts together what it gets, however it is cut.
fn is_v6_fragment(frame: &[u8], ip: Ip) -> bool {
    read(frame, ip.start + 6) == Some([FRAGMENT])
}

/// A fragment is cut again behind its fragment header; a packet without extension headers gets one.
fn v6_fragments(frame: &[u8], ip: Ip) -> Option<Fragments<'_>> {
    let header = ip.start + IPV6_LEN;
    let headers = header + FRAGMENT_LEN;
    let [next] = read(frame, ip.start + 6)?;
    if next == FRAGMENT {
        let v6 = Some((read::<1>(frame, header)?[0], read(frame, header + 4)?));
        return Some(Fragments { frame, ip, body: headers, headers, chunk: 0, v6 });
    }
    let v6 = Some((next, identification(frame.get(header..ip.end)?)));
    (ip.upper == header).then_some(Fragments { frame, ip, body: header, headers, chunk: 0, v6 })
}

/// A number that different packets are unlikely to share: FNV-1a of their bytes. No state is shared between threads,
/// and a packet repeated has the same fragments.
fn identification(bytes: &[u8]) -> [u8; 4] {
    bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)).to_be_bytes()
}

/// Overwrites the options that only the first fragment carries, as Linux does: the header keeps its length.
fn blank_options(mut options: &mut [u8]) {
    while let Some(&kind) = options.first() {
        let len = match kind {
            OPTION_END => return,
            OPTION_NOP => 1,
            _ => options.get(1).map_or(0, |len| usize::from(*len)),
        };
        let Some((option, rest)) = options.split_at_mut_checked(len).filter(|_| len > 0) else { return };
        if kind & OPTION_COPIED == 0 {
            option.fill(OPTION_NOP);
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests;
