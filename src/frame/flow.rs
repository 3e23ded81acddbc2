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

/// What tells frames apart that need not stay in order among themselves: as much of their conversation as they show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trail {
    /// The conversation itself.
    Flow(Key),
    /// A fragment, or a protocol without ports: addresses and protocol number.
    Packets(IpAddr, IpAddr, u8),
    /// Not IP.
    Other,
}

impl Trail {
    /// What `frame` shows.
    pub fn of(frame: &[u8]) -> Self {
        let ip = Ethernet::parse(frame).and_then(|ethernet| Ip::parse(frame, &ethernet));
        let Some(ip) = ip else { return Self::Other };
        match Key::of_packet(frame, &ip) {
            Some(key) => Self::Flow(key),
            None => Self::Packets(ip.source, ip.destination, ip.protocol),
        }
    }

    /// Whether frames of the two may belong to one conversation, so that one must not overtake the other.
    pub fn may_be(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Flow(one), Self::Flow(other)) => one == other,
            (Self::Other, Self::Other) => true,
            _ => self.packets().is_some_and(|packets| other.packets() == Some(packets)),
        }
    }

    fn packets(&self) -> Option<(IpAddr, IpAddr, u8)> {
        match self {
            Self::Flow(Key { source, destination, protocol, .. }) => Some((*source, *destination, *protocol)),
            Self::Packets(source, destination, protocol) => Some((*source, *destination, *protocol)),
            Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::sample;

    #[test]
    fn what_may_be_of_one_conversation_is_told_from_what_is_not() {
        let one = sample::udp4(b"x");
        let mut port = one.clone();
        port[35] ^= 1;
        let mut fragment = one.clone();
        fragment[20] |= 0x20;
        let mut protocol = one.clone();
        protocol[23] = 1;
        let arp = sample::other(crate::id::Mac([2; 6]), crate::id::Mac([4; 6]), &[0; 50]);
        let [one, port, fragment, protocol, arp] = [one, port, fragment, protocol, arp].map(|frame| Trail::of(&frame));
        for (other, expected) in [(one, true), (port, false), (fragment, true), (protocol, false), (arp, false)] {
            assert_eq!((one.may_be(&other), other.may_be(&one)), (expected, expected), "{other:?}");
        }
        assert!(port.may_be(&fragment) && arp.may_be(&arp) && protocol.may_be(&protocol));
        assert_eq!(arp, Trail::Other);
    }

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
