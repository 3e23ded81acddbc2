//! Telling neighbours at once that an address is here: a gratuitous ARP request (RFC 5227 section 2.3) for IPv4, an unsolicited
//! neighbour advertisement (RFC 9131 section 6.1 with RFC 4861 section 7.2.6) for IPv6. Without, a moved address stays unreachable
//! until caches forget.

use std::{
    io::IoSlice,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use weft::id::Mac;

use crate::{error::HostError, netlink::Link, packet_socket::PacketSocket};

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, lengths 6 and 4, request (RFC 826).
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
/// All nodes, ff02::1 (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Their Ethernet group (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ICMPV6: u8 = 58;
/// Neighbour discovery accepts no other hop limit (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Not solicited, overrides what is cached (RFC 4861 section 4.4).
const OVERRIDE: u8 = 0x20;
/// Target link-layer address, one unit of eight bytes (RFC 4861 section 4.6.1).
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];

/// Announces addresses of a device in the calling thread's namespace.
pub(crate) fn announce(link: &Link, addresses: &[IpAddr]) -> Result<(), HostError> {
    let Some(mac) = link.mac else { return Ok(()) };
    let doing = || format!("announce the addresses of {}", link.name);
    let socket = PacketSocket::open(link.index, 0).map_err(|error| HostError::io(&doing(), &error))?;
    for address in addresses {
        let frame = match address {
            IpAddr::V4(v4) => gratuitous_arp(mac, *v4),
            IpAddr::V6(v6) => unsolicited_advertisement(mac, *v6),
        };
        socket.send(&[IoSlice::new(&frame)]).map_err(|error| HostError::io(&doing(), &error))?;
    }
    Ok(())
}

fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let ip = address.octets();
    [&Mac::BROADCAST.0[..], &mac.0, &ETHERTYPE_ARP, &ARP_REQUEST, &mac.0, &ip, &[0; 6], &ip].concat()
}

fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let ip = address.octets();
    let message = |checksum: u16| {
        let head = [NEIGHBOUR_ADVERTISEMENT, 0];
        [&head[..], &checksum.to_be_bytes(), &[OVERRIDE, 0, 0, 0], &ip, &TARGET_LINK_LAYER, &mac.0].concat()
    };
    let blank = message(0);
    let length = u8::try_from(blank.len()).unwrap_or(u8::MAX);
    // The pseudo-header of RFC 8200 section 8.1.
    let pseudo = [&ip[..], &ALL_NODES.octets(), &[0, 0, 0, length, 0, 0, 0, ICMPV6], &blank].concat();
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, HOP_LIMIT];
    let ethernet = [&ALL_NODES_MAC.0[..], &mac.0, &ETHERTYPE_IPV6].concat();
    [&ethernet[..], &header, &ip, &ALL_NODES.octets(), &message(internet_checksum(&pseudo))].concat()
}

/// RFC 1071, for an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let (words, _) = bytes.as_chunks::<2>();
    let mut sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);

    #[test]
    fn a_gratuitous_arp_asks_for_its_own_address() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(10, 2, 0, 1));
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1,
            0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 10, 2, 0, 1, 0, 0, 0, 0, 0, 0, 10, 2, 0, 1,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn an_advertisement_sums_to_nought_and_tells_the_address() {
        let address: Ipv6Addr = "fd00::1".parse().unwrap();
        let frame = unsolicited_advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[20], ICMPV6);
        assert_eq!(frame[54..56], [136, 0]);
        assert_eq!(frame[62..78], address.octets());
        assert_eq!(frame[80..86], MAC.0);
        let mut pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        pseudo.extend(&frame[54..]);
        assert_eq!(internet_checksum(&pseudo), 0);
    }
}
