//! Which conversation a frame belongs to.

use std::net::IpAddr;

use super::{ethernet::Ethernet, ip::Ip, read, transport::Kind};

/// What all frames of one direction of one TCP or UDP conversation have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Key {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Source and destination port, as they are sent.
    pub ports: [u8; 4],
}

impl Key {
    /// The conversation of `frame`; None for other protocols, and for fragments, which do not all show their ports.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let ip = Ip::parse(frame, &Ethernet::parse(frame)?)?;
        Self::of_packet(frame, &ip)
    }

    /// The conversation of the packet `ip` in `frame`.
    pub fn of_packet(frame: &[u8], ip: &Ip) -> Option<Self> {
        Kind::of(ip.protocol).filter(|_| !ip.is_fragment())?;
        let ports = read(frame.get(..ip.end)?, ip.upper)?;
        Some(Self { source: ip.source, destination: ip.destination, protocol: ip.protocol, ports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::sample;

    #[test]
    fn a_flow_has_ports_and_a_fragment_none() {
        let mut frame = sample::udp4(b"x");
        let key = Key::of(&frame).unwrap();
        assert_eq!((key.source, key.ports), (sample::V4_SOURCE.into(), sample::PORTS));
        assert_eq!(Key::of(&sample::udp4(b"another")), Some(key));
        frame[20] |= 0x20;
        assert_eq!(Key::of(&frame), None);
    }
}
