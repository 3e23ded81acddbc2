//! Frames for tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Pieces, checksum,
    ethernet::{self, Ethernet},
    ip::{self, Ip},
    transport::Kind,
};
use crate::id::Mac;

pub(crate) const DESTINATION: Mac = Mac([2, 0, 0, 0, 0, 0xd]);
pub(crate) const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 0x5]);
pub(crate) const V4_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const V4_DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const V6_SOURCE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const V6_DESTINATION: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// Ports 1000 and 2000.
pub(crate) const PORTS: [u8; 4] = [0x03, 0xe8, 0x07, 0xd0];

/// The parts of a TCP segment that tests vary.
#[derive(Clone, Debug)]
pub(crate) struct Tcp<'a> {
    pub(crate) is_v6: bool,
    pub(crate) source_port: u16,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) options: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Default for Tcp<'_> {
    fn default() -> Self {
        Self { is_v6: false, source_port: 1000, id: 7, sequence: 0, flags: 0x10, options: &[], payload: &[] }
    }
}

impl Tcp<'_> {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let offset = ((20 + self.options.len()) << 2) as u8;
        let mut message = self.source_port.to_be_bytes().to_vec();
        message.extend([0x07, 0xd0]);
        message.extend(self.sequence.to_be_bytes());
        message.extend([0, 0, 0, 9, offset, self.flags, 1, 0, 0, 0, 0, 0]);
        message.extend(self.options);
        message.extend(self.payload);
        finished(self.is_v6, self.id, ip::TCP, &message)
    }
}

/// A UDP datagram in IPv4, DF clear.
pub(crate) fn udp4(payload: &[u8]) -> Vec<u8> {
    finished(false, 7, ip::UDP, &udp(payload))
}

/// A UDP datagram in IPv4 with DF set.
pub(crate) fn udp4_whole(payload: &[u8]) -> Vec<u8> {
    let mut frame = udp4(payload);
    frame[20] |= 0x40;
    checksum::fill_ipv4(&mut frame, 14, 34);
    frame
}

/// A UDP datagram in IPv4 with this identification.
pub(crate) fn udp4_numbered(id: u16, payload: &[u8]) -> Vec<u8> {
    finished(false, id, ip::UDP, &udp(payload))
}

/// A UDP datagram in IPv6.
pub(crate) fn udp6(payload: &[u8]) -> Vec<u8> {
    finished(true, 0, ip::UDP, &udp(payload))
}

/// A frame without IP in it.
pub(crate) fn other(destination: Mac, source: Mac, content: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &[0x88, 0xb5], content].concat()
}

/// The same frame between other stations.
pub(crate) fn between(source: Mac, destination: Mac, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
    frame
}

/// Everything that `pieces` are written as.
pub(crate) fn written(pieces: &impl Pieces) -> Vec<Vec<u8>> {
    let write = |index| {
        let mut out = vec![0xee; pieces.piece_len(index)];
        pieces.write(index, &mut out);
        out
    };
    (0..pieces.count()).map(write).collect()
}

/// The IP packet in `frame`, which must be one with right checksums.
pub(crate) fn checked_ip(frame: &[u8]) -> Ip {
    let ip = Ip::parse(frame, &Ethernet::parse(frame).unwrap()).unwrap();
    if ip.source.is_ipv4() {
        assert!(checksum::is_valid_ipv4(frame, ip.start, ip.upper), "IPv4 header checksum");
    }
    ip
}

/// An IP packet with a message above it, whose checksum is still to be computed if it is TCP or UDP.
pub(crate) fn finished(is_v6: bool, id: u16, protocol: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = [DESTINATION.0, SOURCE.0].concat();
    if is_v6 {
        frame.extend(ethernet::IPV6.to_be_bytes());
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([V6_SOURCE.octets(), V6_DESTINATION.octets()].concat());
    } else {
        frame.extend(ethernet::IPV4.to_be_bytes());
        frame.extend([0x45, 0]);
        frame.extend((20 + message.len() as u16).to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend([0, 0, 64, protocol, 0, 0]);
        frame.extend([V4_SOURCE.octets(), V4_DESTINATION.octets()].concat());
        checksum::fill_ipv4(&mut frame, 14, 34);
    }
    frame.extend(message);
    let ip = Ip::parse(&frame, &Ethernet::parse(&frame).unwrap()).unwrap();
    if let Some(kind) = Kind::of(protocol) {
        checksum::fill_transport(&mut frame, &ip, kind);
    }
    frame
}

/// The address pair of [`finished`].
pub(crate) fn addresses(is_v6: bool) -> (IpAddr, IpAddr) {
    if is_v6 { (V6_SOURCE.into(), V6_DESTINATION.into()) } else { (V4_SOURCE.into(), V4_DESTINATION.into()) }
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut message = PORTS.to_vec();
    message.extend((8 + payload.len() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    message
}
