//! What a TAP with `IFF_VNET_HDR` says in front of each frame: which checksum is missing, and how to cut a super-frame.
//!
//! ```text
//! struct virtio_net_hdr_v1 (linux/virtio_net.h); numbers in the machine's byte order, as the TAP's default is:
//! | flags u8 | gso_type u8 | hdr_len u16 | gso_size u16 | csum_start u16 | csum_offset u16 | num_buffers u16 |
//! ```
//! `hdr_len` is the kernel's guess and only checked to lie within the frame; the headers' real length is parsed.

use super::transport::Kind;

/// Length of the header; the TAP is told so by `TUNSETVNETHDRSZ`.
pub const HEADER_LEN: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Added to a TCP type when the first segment has CWR set; the flags say so themselves.
const GSO_ECN: u8 = 0x80;

/// The header, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// How far the checksum is.
    pub checksum: Checksum,
    /// How to cut the frame; None for an ordinary one.
    pub gso: Option<Gso>,
}

/// How far the checksum of a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// All checksums are there; nobody vouches for them.
    #[default]
    Complete,
    /// All checksums are there and were found right.
    Valid,
    /// The device is to sum from `start` to the end and put the result at `start + offset`.
    Needed {
        /// Where the sum begins, from the frame's first byte.
        start: u16,
        /// Where it goes, from there.
        offset: u16,
    },
}

/// How a super-frame is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// What is cut.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last; at least 1.
    pub size: u16,
    /// Length of all headers, from the frame's first byte.
    pub header_len: u16,
}

/// What a super-frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GsoKind {
    /// TCP in IPv4.
    TcpV4,
    /// TCP in IPv6.
    TcpV6,
    /// UDP datagrams of one size, in IPv4 or IPv6.
    Udp,
}

impl GsoKind {
    /// The transport that is cut.
    pub fn transport(self) -> Kind {
        match self {
            Self::TcpV4 | Self::TcpV6 => Kind::Tcp,
            Self::Udp => Kind::Udp,
        }
    }
}

impl Header {
    /// Reads the header of `frame`; None when it is of an unknown kind or speaks of bytes that the frame does not have.
    pub fn parse(bytes: &[u8; HEADER_LEN], frame: &[u8]) -> Option<Self> {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *bytes;
        let number = |low, high| u16::from_ne_bytes([low, high]);
        let (header_len, size) = (number(h0, h1), number(g0, g1));
        let (start, offset) = (number(s0, s1), number(o0, o1));
        let checksum = if flags & NEEDS_CSUM != 0 {
            let end = usize::from(start) + usize::from(offset) + 2;
            (end <= frame.len()).then_some(Checksum::Needed { start, offset })?
        } else if flags & DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Complete
        };
        let kind = match gso_type & !GSO_ECN {
            GSO_NONE => return Some(Self { checksum, gso: None }),
            GSO_TCPV4 => GsoKind::TcpV4,
            GSO_TCPV6 => GsoKind::TcpV6,
            GSO_UDP_L4 => GsoKind::Udp,
            _ => return None,
        };
        let is_possible = size > 0 && usize::from(header_len) <= frame.len();
        is_possible.then_some(Self { checksum, gso: Some(Gso { kind, size, header_len }) })
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Valid => (DATA_VALID, 0, 0),
            Checksum::Needed { start, offset } => (NEEDS_CSUM, start, offset),
        };
        let (gso_type, size, header_len) = match self.gso {
            None => (GSO_NONE, 0, 0),
            Some(Gso { kind: GsoKind::TcpV4, size, header_len }) => (GSO_TCPV4, size, header_len),
            Some(Gso { kind: GsoKind::TcpV6, size, header_len }) => (GSO_TCPV6, size, header_len),
            Some(Gso { kind: GsoKind::Udp, size, header_len }) => (GSO_UDP_L4, size, header_len),
        };
        let [h0, h1] = header_len.to_ne_bytes();
        let [g0, g1] = size.to_ne_bytes();
        let [s0, s1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_being_written() {
        let checksum = Checksum::Needed { start: 34, offset: 16 };
        let gso = |kind| Some(Gso { kind, size: 1200, header_len: 54 });
        for header in [
            Header::default(),
            Header { checksum: Checksum::Valid, gso: None },
            Header { checksum, gso: None },
            Header { checksum, gso: gso(GsoKind::TcpV4) },
            Header { checksum, gso: gso(GsoKind::TcpV6) },
            Header { checksum, gso: gso(GsoKind::Udp) },
        ] {
            assert_eq!(Header::parse(&header.bytes(), &[0; 54]), Some(header));
        }
    }

    #[test]
    fn the_bytes_are_those_of_linux() {
        let gso = Some(Gso { kind: GsoKind::TcpV6, size: 0x0504, header_len: 0x0302 });
        let header = Header { checksum: Checksum::Needed { start: 0x0706, offset: 0x0908 }, gso };
        let expected = [0x0302_u16, 0x0504, 0x0706, 0x0908].map(u16::to_ne_bytes).concat();
        assert_eq!(header.bytes(), *[&[1, 4][..], &expected, &[0, 0]].concat());
    }

    #[test]
    fn what_points_outside_the_frame_is_refused() {
        let needed = Header { checksum: Checksum::Needed { start: 34, offset: 16 }, gso: None };
        assert_eq!(Header::parse(&needed.bytes(), &[0; 51]), None);
        let gso = Some(Gso { kind: GsoKind::Udp, size: 1200, header_len: 42 });
        let long = Header { checksum: Checksum::Complete, gso };
        assert_eq!(Header::parse(&long.bytes(), &[0; 41]), None);
        let mut unknown = [0; HEADER_LEN];
        unknown[1] = 3;
        assert_eq!(Header::parse(&unknown, &[0; 100]), None, "UDP fragmentation offload is not asked for");
        assert_eq!(
            Header::parse(&[0, GSO_TCPV4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0; 100]),
            None,
            "segments of nothing"
        );
    }

    #[test]
    fn whatever_parses_is_written_the_same() {
        bolero::check!().with_type::<([u8; HEADER_LEN], Vec<u8>)>().for_each(|(bytes, frame)| {
            if let Some(header) = Header::parse(bytes, frame) {
                assert_eq!(Header::parse(&header.bytes(), frame), Some(header));
            }
        });
    }
}
