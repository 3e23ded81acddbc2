//! Tells the sender of a frame that does not fit how long its packets may be.
//!
//! IPv4: destination unreachable, fragmentation needed, with the next hop's MTU (RFC 792, RFC 1191 §4). IPv6: packet
//! too big (RFC 4443 §3.2, RFC 8201). The answer comes from the addresses that the frame was for, so no address of ours
//! is needed.

use std::net::IpAddr;

use super::{
    checksum, copy,
    ethernet::{self, Ethernet},
    ip::{self, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, IPV6_MTU_MIN, Ip},
    read, write, write_len,
};

/// Length of the longest answer.
pub const REPLY_MAX: usize = ethernet::HEADER_MAX + IPV6_MTU_MIN;

/// Length of the answer's IPv4 packet at most (RFC 1812 §4.3.2.3).
const V4_REPLY_MAX: usize = 576;
/// Length of the ICMP header before the quoted packet, in both versions.
const ICMP_LEN: usize = 8;
/// Hop limit of answers, as Linux sends them.
const TTL: u8 = 64;
/// ICMP messages that may be answered by an error: echo, timestamp and information requests and replies; others are
/// errors themselves (RFC 1122 §3.2.2).
const V4_QUERIES: [u8; 6] = [0, 8, 13, 14, 15, 16];
/// ICMPv6 types from here on are not errors (RFC 4443 §2.1), but for redirects.
const V6_QUERY_MIN: u8 = 128;
const V6_REDIRECT: u8 = 137;

/// Writes the answer to `frame`, whose IP packet is longer than `mtu` bytes, into `reply` and returns it. None for
/// frames that get no such answer: not IP, not to and from one station each, an ICMP error, a fragment other than the
/// first.
pub fn too_big<'a>(frame: &[u8], mtu: usize, reply: &'a mut [u8; REPLY_MAX]) -> Option<&'a mut [u8]> {
    let ethernet = Ethernet::parse(frame)?;
    let ip = Ip::parse(frame, &ethernet)?;
    let is_between_stations = !ethernet.destination.is_group()
        && !ethernet.source.is_group()
        && ip::is_station_address(ip.source)
        && ip::is_station_address(ip.destination);
    if !is_between_stations || ip.fragment_offset > 0 || is_error(frame, &ip) {
        return None;
    }
    let header_len = match ip.source {
        IpAddr::V4(_) => IPV4_LEN,
        IpAddr::V6(_) => IPV6_LEN,
    };
    let packet_max = if header_len == IPV4_LEN { V4_REPLY_MAX } else { IPV6_MTU_MIN };
    let quoted = frame.get(ip.start..ip.end.min(ip.start + packet_max - header_len - ICMP_LEN))?;
    let upper = ip.start + header_len;
    let reply = reply.get_mut(..upper + ICMP_LEN + quoted.len())?;
    reply.fill(0);
    write(reply, 0, ethernet.source.0);
    write(reply, 6, ethernet.destination.0);
    copy(frame.get(12..ip.start)?, reply.get_mut(12..)?);
    copy(quoted, reply.get_mut(upper + ICMP_LEN..)?);
    match (ip.source, ip.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            write_v4(reply, ip.start, destination.octets(), source.octets(), mtu);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            write_v6(reply, ip.start, destination.octets(), source.octets(), mtu);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    Some(reply)
}

/// Type 3, code 4, with the MTU in the last two bytes of the ICMP header.
fn write_v4(reply: &mut [u8], start: usize, source: [u8; 4], destination: [u8; 4], mtu: usize) {
    let upper = start + IPV4_LEN;
    write(reply, start, [0x45]);
    write_len(reply, start + 2, reply.len() - start);
    write(reply, start + 8, [TTL, ICMP]);
    write(reply, start + 12, source);
    write(reply, start + 16, destination);
    checksum::fill_ipv4(reply, start, upper);
    write(reply, upper, [3, 4]);
    write_len(reply, upper + 6, mtu.min(usize::from(u16::MAX)));
    let checksum = reply.get(upper..).map_or(0, |message| checksum::finish(checksum::sum(message)));
    write(reply, upper + 2, checksum.to_be_bytes());
}

/// Type 2, with the MTU in the last four bytes of the ICMPv6 header; never below what any link has to carry.
fn write_v6(reply: &mut [u8], start: usize, source: [u8; 16], destination: [u8; 16], mtu: usize) {
    let upper = start + IPV6_LEN;
    let len = reply.len() - upper;
    write(reply, start, [0x60]);
    write_len(reply, start + 4, len);
    write(reply, start + 6, [ICMPV6, TTL]);
    write(reply, start + 8, source);
    write(reply, start + 24, destination);
    write(reply, upper, [2]);
    write(reply, upper + 4, (mtu.max(IPV6_MTU_MIN) as u32).to_be_bytes());
    let pseudo = checksum::pseudo_header(source.into(), destination.into(), ICMPV6, len);
    let checksum = reply.get(upper..).map_or(0, |message| checksum::finish(pseudo + checksum::sum(message)));
    write(reply, upper + 2, checksum.to_be_bytes());
}

fn is_error(frame: &[u8], ip: &Ip) -> bool {
    let kind = frame.get(..ip.end).and_then(|packet| read(packet, ip.upper));
    match (ip.protocol, kind) {
        (ICMP, Some([kind])) => !V4_QUERIES.contains(&kind),
        (ICMPV6, Some([kind])) => kind < V6_QUERY_MIN || kind == V6_REDIRECT,
        (ICMP | ICMPV6, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{
        read_u16,
        sample::{self, checked_ip},
    };

    fn answer(frame: &[u8], mtu: usize) -> Option<Vec<u8>> {
        too_big(frame, mtu, &mut [0xee; REPLY_MAX]).map(|reply| reply.to_vec())
    }

    #[test]
    fn ipv4_senders_learn_the_mtu_from_their_destination() {
        let frame = sample::udp4_whole(&[7; 1400]);
        let reply = answer(&frame, 1234).unwrap();
        let ip = checked_ip(&reply);
        assert_eq!((ip.destination, ip.source), sample::addresses(false));
        assert_eq!((&reply[..6], &reply[6..12]), (&frame[6..12], &frame[..6]));
        assert_eq!((ip.packet_len(), ip.end, ip.protocol), (576, reply.len(), ICMP));
        assert_eq!((&reply[34..36], read_u16(&reply, 40)), (&[3, 4][..], Some(1234)));
        assert_eq!(checksum::finish(checksum::sum(&reply[34..])), 0);
        assert_eq!(reply[42..], frame[14..14 + 548]);
    }

    #[test]
    fn ipv6_senders_learn_the_mtu_but_never_below_1280() {
        let frame = sample::udp6(&[7; 1400]);
        for (mtu, told) in [(1300, 1300), (1000, 1280)] {
            let reply = answer(&frame, mtu).unwrap();
            let ip = checked_ip(&reply);
            assert_eq!((ip.destination, ip.source), sample::addresses(true));
            assert_eq!((ip.packet_len(), ip.protocol), (1280, ICMPV6));
            assert!(checksum::is_valid(&reply, &ip));
            assert_eq!((reply[54], read(&reply, 58).map(u32::from_be_bytes)), (2, Some(told)));
            assert_eq!(reply[62..], frame[14..14 + 1232]);
        }
    }

    #[test]
    fn a_vlan_tag_comes_back() {
        let mut frame = sample::udp4_whole(&[7; 100]);
        frame.splice(12..12, [0x81, 0, 0, 42]);
        let reply = answer(&frame, 80).unwrap();
        assert_eq!(reply[12..18], [0x81, 0, 0, 42, 8, 0]);
        assert_eq!(checked_ip(&reply).packet_len(), 28 + 128);
    }

    #[test]
    fn frames_that_nobody_may_answer_are_not_answered() {
        let plain = sample::udp4_whole(&[7; 1400]);
        let change = |at: usize, value: u8| {
            let mut frame = plain.clone();
            frame[at] = value;
            frame
        };
        assert!(answer(&plain, 1000).is_some());
        assert!(answer(&change(0, 1), 1000).is_none(), "to a group of stations");
        assert!(answer(&change(30, 224), 1000).is_none(), "to a multicast address");
        assert!(answer(&change(26, 127), 1000).is_none(), "from a loopback address");
        assert!(answer(&change(21, 9), 1000).is_none(), "not the first fragment");
        for (is_v6, protocol, kind, is_answered) in [
            (false, ICMP, 3, false),
            (false, ICMP, 8, true),
            (true, ICMPV6, 1, false),
            (true, ICMPV6, 137, false),
            (true, ICMPV6, 128, true),
        ] {
            let frame = sample::finished(is_v6, 1, protocol, &[kind, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(answer(&frame, 1000).is_some(), is_answered, "{is_v6} {kind}");
        }
        assert!(answer(&sample::finished(false, 1, ICMP, &[]), 1000).is_none(), "ICMP without a type");
        assert!(answer(&sample::other(sample::DESTINATION, sample::SOURCE, &[0; 2000]), 1000).is_none(), "not IP");
    }

    #[test]
    fn no_frame_makes_it_panic() {
        bolero::check!().with_type::<(bool, u16, Vec<u8>)>().for_each(|(is_v6, mtu, bytes)| {
            let mut frame = if *is_v6 { sample::udp6(&[0; 40]) } else { sample::udp4(&[0; 40]) };
            for pair in bytes.chunks_exact(2) {
                let at = usize::from(pair[0]) % frame.len();
                frame[at] = pair[1];
            }
            if let Some(reply) = answer(&frame, usize::from(*mtu)) {
                checked_ip(&reply);
            }
            answer(bytes, usize::from(*mtu));
        });
    }
}
