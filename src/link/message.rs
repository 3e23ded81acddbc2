//! What Control packets of a link carry.
//!
//! ```text
//! Probe | 1 | token u64 LE | data packets sealed u32 LE | zeros, as many as the probe    |
//!       | is to be large                                                               |
//! Echo  | 2 | token u64 LE | probes heard u16 LE | data packets opened u32 LE            |
//! Hello | 3 | flags u8 | lanes u8 | address of the receiver as the sender sees it, 16   |
//!       | port for ESP in UDP u16 LE, 0 for none                                        |
//!       | address 16 and port u16 LE, 0 for none, whence the receiver's ESP in UDP comes |
//! Offer | 4 | session u32 LE | SPI u32 LE | lanes u8 | in UDP u8                        |
//! Taken | 5 | SPI u32 LE                                                                |
//! ```
//! An echo goes back to the address that the probe came from, or by the fast datapath if the probe came by that: an answered
//! probe proves both directions of that path, its round-trip time needs no common clock, and an unguessable token makes
//! it a challenge for roaming. The counts tell the two directions apart: [`super::estimate`], [`super::tally`]. They go on from
//! their end to 0, and 0 says nothing.
//!
//! Hello, Offer and Taken are of the fast datapath ([`super::fast`], [`super::esp`]). What a newer peer adds behind a message is
//! not looked at, what an older one leaves out is nought; IPv4 addresses are written mapped (RFC 4291 §2.5.5.2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::wire::sleeve::{HEADER_LEN, PACKET_OVERHEAD, TAG_LEN};

const PROBE: u8 = 1;
const ECHO: u8 = 2;
const HELLO: u8 = 3;
const OFFER: u8 = 4;
const TAKEN: u8 = 5;
/// UDP payload of the smallest probe and of every echo.
pub const SMALL_LEN: usize = PACKET_OVERHEAD + 15;

const READY: u8 = 1;
const ESP: u8 = 2;
const TRUSTS: u8 = 4;
const HEARS: u8 = 8;
const HEARS_FULL: u8 = 16;
const NAT: u8 = 32;

/// A link's control message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Answer this.
    Probe {
        /// To be returned.
        token: u64,
        /// Packets of frames that the sender has sealed with the session that the probe is of.
        sealed: u32,
    },
    /// The answer.
    Echo {
        /// That of the probe.
        token: u64,
        /// What has come of the prober's.
        came: Came,
    },
    /// What the sender can do by the fast datapath with the receiver.
    Hello(Hello),
    /// The sender has put receiving security associations in place: seal with these.
    Offer {
        /// The session whose keys they come from, by the sender's index.
        session: u32,
        /// SPI of the first.
        spi: u32,
        /// How many.
        lanes: u8,
        /// They take ESP in UDP, and nothing else.
        in_udp: bool,
    },
    /// The sender seals with the receiver's security associations.
    Taken {
        /// SPI of the first.
        spi: u32,
    },
}

/// How much of what one side sent has come to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Came {
    /// Small probes by the method of the probe that is answered, that one included.
    pub probes: u16,
    /// Packets of frames by the session that the probe is of.
    pub opened: u32,
}

/// What one side can do by the fast datapath with the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its fast datapath works.
    pub ready: bool,
    /// Its kernel seals by ESP.
    pub esp: bool,
    /// The receiver's address is within its trusted subnets.
    pub trusts: bool,
    /// Heartbeats of the receiver arrive there.
    pub hears: bool,
    /// Heartbeats of full size arrive there.
    pub hears_full: bool,
    /// The receiver sees it at an address that is not its own: a NAT lies between.
    pub nat: bool,
    /// Lanes that it sends on at most.
    pub lanes: u8,
    /// The receiver's address as it sees it: where its VXLAN packets go.
    pub to: IpAddr,
    /// Its UDP port for ESP in UDP with the receiver, as it knows it; 0 for none.
    pub encap: u16,
    /// Where ESP in UDP of the receiver comes from, as it sees it.
    pub sees: Option<SocketAddr>,
}

impl Hello {
    fn flags(self) -> u8 {
        let flags = [
            (self.ready, READY),
            (self.esp, ESP),
            (self.trusts, TRUSTS),
            (self.hears, HEARS),
            (self.hears_full, HEARS_FULL),
            (self.nat, NAT),
        ];
        flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum()
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (&[flags, lanes], rest) = body.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk()?;
        let (encap, rest) =
            rest.split_first_chunk().map_or((0, rest), |(port, rest)| (u16::from_le_bytes(*port), rest));
        let seen = rest.split_first_chunk().zip(rest.get(16..18).and_then(<[u8]>::first_chunk));
        let seen = seen.map(|((ip, _), port)| SocketAddr::new(parse_address(*ip), u16::from_le_bytes(*port)));
        let is_set = |flag| flags & flag != 0;
        Some(Self {
            ready: is_set(READY),
            esp: is_set(ESP),
            trusts: is_set(TRUSTS),
            hears: is_set(HEARS),
            hears_full: is_set(HEARS_FULL),
            nat: is_set(NAT),
            lanes,
            to: parse_address(*address),
            encap,
            sees: seen.filter(|seen| seen.port() != 0),
        })
    }

    fn write(self, packet: &mut Vec<u8>) {
        packet.extend([HELLO, self.flags(), self.lanes]);
        packet.extend(address_bytes(self.to));
        packet.extend(self.encap.to_le_bytes());
        let seen = self.sees.unwrap_or_else(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0));
        packet.extend(address_bytes(seen.ip()));
        packet.extend(seen.port().to_le_bytes());
    }
}

fn count(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |count| u32::from_le_bytes(*count))
}

fn parse_address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Message {
    /// Reads an opened Control packet's body; None if it is no message we know (a newer peer's may be).
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        let token = || rest.split_first_chunk().map(|(token, rest)| (u64::from_le_bytes(*token), rest));
        match kind {
            PROBE => token().map(|(token, rest)| Self::Probe { token, sealed: count(rest) }),
            ECHO => token().map(|(token, rest)| {
                let (probes, rest) =
                    rest.split_first_chunk().map_or((0, rest), |(n, rest)| (u16::from_le_bytes(*n), rest));
                Self::Echo { token, came: Came { probes, opened: count(rest) } }
            }),
            HELLO => Hello::parse(rest).map(Self::Hello),
            OFFER => {
                let (session, rest) = rest.split_first_chunk()?;
                let (spi, rest) = rest.split_first_chunk()?;
                let (&lanes, rest) = rest.split_first()?;
                let in_udp = rest.first().is_some_and(|in_udp| *in_udp != 0);
                let (session, spi) = (u32::from_le_bytes(*session), u32::from_le_bytes(*spi));
                Some(Self::Offer { session, spi, lanes, in_udp })
            }
            TAKEN => rest.split_first_chunk().map(|(spi, _)| Self::Taken { spi: u32::from_le_bytes(*spi) }),
            _ => None,
        }
    }

    /// A packet with room for header and tag, ready to be sealed, of at least `len` bytes.
    pub fn packet(self, len: usize) -> Vec<u8> {
        let mut packet = vec![0; HEADER_LEN];
        match self {
            Self::Probe { token, sealed } => {
                packet.push(PROBE);
                packet.extend(token.to_le_bytes());
                packet.extend(sealed.to_le_bytes());
                packet.resize(packet.len().max(len.saturating_sub(TAG_LEN)), 0);
            }
            Self::Echo { token, came } => {
                packet.push(ECHO);
                packet.extend(token.to_le_bytes());
                packet.extend(came.probes.to_le_bytes());
                packet.extend(came.opened.to_le_bytes());
            }
            Self::Hello(hello) => hello.write(&mut packet),
            Self::Offer { session, spi, lanes, in_udp } => {
                packet.push(OFFER);
                packet.extend(session.to_le_bytes());
                packet.extend(spi.to_le_bytes());
                packet.extend([lanes, in_udp.into()]);
            }
            Self::Taken { spi } => {
                packet.push(TAKEN);
                packet.extend(spi.to_le_bytes());
            }
        }
        packet.resize(packet.len() + TAG_LEN, 0);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(packet: &[u8]) -> Option<Message> {
        Message::parse(&packet[HEADER_LEN..packet.len() - TAG_LEN])
    }

    fn hello(to: &str) -> Hello {
        let (to, sees) = (to.parse().unwrap(), Some("192.0.2.9:40000".parse().unwrap()));
        let (ready, esp, trusts, hears, hears_full, nat) = (true, false, true, true, false, true);
        Hello { ready, esp, trusts, hears, hears_full, nat, lanes: 4, to, encap: 6785, sees }
    }

    #[test]
    fn messages_parse_as_written_and_probes_may_be_padded() {
        let probe = Message::Probe { token: 7, sealed: 70_000 };
        let echo = Message::Echo { token: u64::MAX, came: Came { probes: 300, opened: 69_999 } };
        assert_eq!(probe.packet(1400).len(), 1400);
        assert_eq!(read(&probe.packet(1400)), Some(probe));
        assert_eq!((echo.packet(0).len(), probe.packet(SMALL_LEN).len()), (SMALL_LEN, SMALL_LEN));
        for message in [
            probe,
            echo,
            Message::Hello(hello("10.0.0.1")),
            Message::Hello(hello("fd00::1")),
            Message::Hello(Hello { encap: 0, sees: None, ..hello("fd00::1") }),
            Message::Offer { session: 1, spi: 0x1234_5678, lanes: 2, in_udp: false },
            Message::Offer { session: 1, spi: 0x1234_5678, lanes: 2, in_udp: true },
            Message::Taken { spi: u32::MAX },
        ] {
            assert_eq!(read(&message.packet(0)), Some(message));
        }
        assert_eq!(Message::parse(&[1, 2]), None);
    }

    #[test]
    fn probes_and_echoes_are_these_bytes_and_counts_may_be_missing() {
        let body = |message: Message| message.packet(0)[HEADER_LEN..].split_last_chunk::<TAG_LEN>().unwrap().0.to_vec();
        let probe = body(Message::Probe { token: 7, sealed: 70_000 });
        assert_eq!(probe, [1, 7, 0, 0, 0, 0, 0, 0, 0, 0x70, 0x11, 1, 0]);
        assert_eq!(Message::parse(&probe[..9]), Some(Message::Probe { token: 7, sealed: 0 }));
        let echo = body(Message::Echo { token: 7, came: Came { probes: 300, opened: 70_000 } });
        assert_eq!(echo, [2, 7, 0, 0, 0, 0, 0, 0, 0, 0x2c, 1, 0x70, 0x11, 1, 0]);
        assert_eq!(Message::parse(&echo[..9]), Some(Message::Echo { token: 7, came: Came::default() }));
    }

    #[test]
    fn a_hello_is_these_bytes() {
        let packet = Message::Hello(hello("10.0.0.1")).packet(0);
        let body = &packet[HEADER_LEN..packet.len() - TAG_LEN];
        let address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
        let seen = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 9, 0x40, 0x9c];
        assert_eq!(*body, [&[3, 45, 4][..], &address, &[0x81, 0x1a], &seen].concat());
        // Such as an older peer sends.
        let short = Hello { encap: 0, sees: None, ..hello("10.0.0.1") };
        assert_eq!(Message::parse(&body[..19]), Some(Message::Hello(short)));
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(message) = Message::parse(bytes) {
                assert_eq!(read(&message.packet(0)), Some(message));
            }
        });
    }
}
