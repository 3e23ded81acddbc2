//! IPv4 and IPv6 headers (RFC 791, RFC 8200) as far as a switch looks: addresses, extents, fragmentation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    ethernet::{self, Ethernet},
    read, read_u16,
};

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5).
pub const IPV6_MTU_MIN: usize = 1280;
/// Next-header number of the IPv6 fragment header (RFC 8200 §4.5).
pub const FRAGMENT: u8 = 44;

/// Extension headers skipped at most: each kind once, destination options twice, and one to spare.
const EXTENSIONS_MAX: usize = 8;
/// Extension headers with their length in units of 8 bytes behind the first (RFC 8200 §4.3, 4.4, 4.6).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
/// Authentication header: length in units of 4 bytes, minus 2 (RFC 4302 §2.2).
const AUTHENTICATION: u8 = 51;

/// One IP packet inside a frame. All offsets are from the frame's first byte and lie within it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What is above IP, behind extension headers.
    pub protocol: u8,
    /// Where the IP header begins.
    pub start: usize,
    /// Where the upper-layer message (or this fragment's part of it) begins.
    pub upper: usize,
    /// Where the packet ends; padding may follow.
    pub end: usize,
    /// Where this fragment's part belongs in the whole message, in bytes; 0 for the first fragment and for whole
    /// packets.
    pub fragment_offset: usize,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// Whether nobody but the source may fragment it: always so for IPv6.
    pub dont_fragment: bool,
}

impl Ip {
    /// Reads the IP headers of `frame`; None when it holds no IP, or headers that contradict its length.
    pub fn parse(frame: &[u8], ethernet: &Ethernet) -> Option<Self> {
        match ethernet.ethertype {
            ethernet::IPV4 => parse_v4(frame, ethernet.header_len),
            ethernet::IPV6 => parse_v6(frame, ethernet.header_len),
            _ => None,
        }
    }

    /// Whether it is a fragment, first ones included.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset > 0
    }

    /// Length of the packet in bytes, all its headers included.
    pub fn packet_len(&self) -> usize {
        self.end - self.start
    }
}

/// Whether one station can have the address for its own: not unspecified, loopback, multicast or broadcast.
pub fn is_station_address(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !is_broadcast
}

fn parse_v4(frame: &[u8], start: usize) -> Option<Ip> {
    let [version_ihl] = read(frame, start)?;
    let header_len = usize::from(version_ihl & 0xf) * 4;
    let total_len = usize::from(read_u16(frame, start + 2)?);
    if version_ihl >> 4 != 4 || header_len < IPV4_LEN || total_len < header_len || start + total_len > frame.len() {
        return None;
    }
    let fragment = read_u16(frame, start + 6)?;
    let [protocol] = read(frame, start + 9)?;
    Some(Ip {
        source: Ipv4Addr::from(read::<4>(frame, start + 12)?).into(),
        destination: Ipv4Addr::from(read::<4>(frame, start + 16)?).into(),
        protocol,
        start,
        upper: start + header_len,
        end: start + total_len,
        fragment_offset: usize::from(fragment & 0x1fff) * 8,
        more_fragments: fragment & 0x2000 != 0,
        dont_fragment: fragment & 0x4000 != 0,
    })
}

fn parse_v6(frame: &[u8], start: usize) -> Option<Ip> {
    let [version] = read(frame, start)?;
    let end = start + IPV6_LEN + usize::from(read_u16(frame, start + 4)?);
    let [protocol] = read(frame, start + 6)?;
    if version >> 4 != 6 || end > frame.len() {
        return None;
    }
    let mut ip = Ip {
        source: Ipv6Addr::from(read::<16>(frame, start + 8)?).into(),
        destination: Ipv6Addr::from(read::<16>(frame, start + 24)?).into(),
        protocol,
        start,
        upper: start + IPV6_LEN,
        end,
        fragment_offset: 0,
        more_fragments: false,
        dont_fragment: true,
    };
    for _ in 0..EXTENSIONS_MAX {
        if ip.fragment_offset > 0 || !skip_extension(frame, &mut ip)? {
            return Some(ip);
        }
    }
    None
}

/// Moves on behind one extension header; false when there is none. None when it does not lie within the packet.
fn skip_extension(frame: &[u8], ip: &mut Ip) -> Option<bool> {
    let is_extension = [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, AUTHENTICATION, FRAGMENT].contains(&ip.protocol);
    if !is_extension {
        return Some(false);
    }
    let [next, units] = read(frame, ip.upper)?;
    let len = match ip.protocol {
        FRAGMENT => {
            let offset = read_u16(frame, ip.upper + 2)?;
            ip.fragment_offset = usize::from(offset & 0xfff8);
            ip.more_fragments = offset & 1 != 0;
            8
        }
        AUTHENTICATION => (usize::from(units) + 2) * 4,
        _ => (usize::from(units) + 1) * 8,
    };
    ip.protocol = next;
    ip.upper += len;
    (ip.upper <= ip.end).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::sample;

    fn parse(frame: &[u8]) -> Option<Ip> {
        Ip::parse(frame, &Ethernet::parse(frame)?)
    }

    #[test]
    fn ipv4_extents_come_from_its_own_lengths() {
        let mut frame = sample::udp4(b"payload");
        frame.extend([0; 9]);
        let ip = parse(&frame).unwrap();
        assert_eq!((ip.start, ip.upper, ip.end, ip.protocol), (14, 34, 34 + 8 + 7, UDP));
        assert!(!ip.is_fragment());
        frame.truncate(ip.end - 1);
        assert_eq!(parse(&frame), None, "cut");
        for (at, bad) in [(14, 0x44), (14, 0x65), (17, 19)] {
            let mut frame = sample::udp4(b"payload");
            frame[at] = bad;
            assert_eq!(parse(&frame), None, "byte {at}");
        }
    }

    #[test]
    fn ipv6_extensions_are_skipped_and_fragments_seen() {
        let mut frame = sample::udp6(b"payload");
        let plain = parse(&frame).unwrap();
        assert_eq!((plain.upper, plain.protocol, plain.dont_fragment), (54, UDP, true));
        let extensions = [&[FRAGMENT, 0, 0, 0, 0, 0, 0, 0][..], &[UDP, 0, 0, 9, 1, 2, 3, 4]].concat();
        frame.splice(54..54, extensions);
        frame[20] = DESTINATION_OPTIONS;
        frame[19] += 16;
        let ip = parse(&frame).unwrap();
        assert_eq!((ip.upper, ip.protocol, ip.fragment_offset, ip.more_fragments), (70, UDP, 8, true));
        frame[55] = 255;
        assert_eq!(parse(&frame), None, "an extension header beyond the packet");
    }

    #[test]
    fn an_endless_chain_of_extensions_is_refused() {
        let mut frame = sample::udp6(&[0; 200]);
        frame[20] = DESTINATION_OPTIONS;
        for at in (54..54 + 160).step_by(8) {
            frame[at] = DESTINATION_OPTIONS;
            frame[at + 1] = 0;
        }
        assert_eq!(parse(&frame), None);
    }

    #[test]
    fn no_bytes_make_it_panic_or_point_outside() {
        bolero::check!().for_each(|bytes: &[u8]| {
            for (ethertype, version) in [([0x08, 0x00], 0x45), ([0x86, 0xdd], 0x60)] {
                let mut frame = [&[0; 12][..], &ethertype, bytes].concat();
                if let Some(first) = frame.get_mut(14) {
                    *first = version;
                }
                if let Some(ip) = parse(&frame) {
                    assert!(ip.start < ip.upper && ip.upper <= ip.end && ip.end <= frame.len());
                }
            }
        });
    }
}
