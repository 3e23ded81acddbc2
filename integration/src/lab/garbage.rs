//! Datagrams that nobody should like: replayed, cut short, with a bit flipped, made up. From a seed, so the same each time.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;

/// IP protocol number for sockets to which whole packets are written (raw(7)).
const IPPROTO_RAW: i32 = 255;
/// Datagrams between two short pauses, which let the receiver keep up.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// Longest made-up datagram: what an underlay packet of 1500 bytes holds, with IPv6.
const LONGEST: usize = 1452;

/// Numbers that look random, from a seed (Marsaglia's xorshift64*).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// From a seed other than zero.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() >> 1).unwrap_or(0).checked_rem(bound).unwrap_or(0)
    }

    /// Bytes without meaning.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number().to_be_bytes()[0]).collect()
    }

    /// `genuine` spoilt in one of four ways: as it was, cut short, with one bit flipped, or replaced by noise.
    pub fn spoil(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut bytes = genuine.to_vec();
        match self.number() % 4 {
            0 => {}
            1 => bytes.truncate(self.below(genuine.len())),
            2 => {
                let (at, bit) = (self.below(bytes.len()), self.below(8));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            _ => {
                let length = self.below(LONGEST);
                bytes = self.bytes(length);
                // Half of them look like a sleeve packet at first.
                if let (true, Some(start)) = (self.number().is_multiple_of(2), bytes.get_mut(..4)) {
                    start.copy_from_slice(&[1 + (self.number() % 5) as u8, 1, 0, 0]);
                }
            }
        }
        bytes
    }
}

/// The IPv4 packet of a UDP datagram, without a UDP checksum (RFC 768: zero means none was made).
pub fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let udp_length = u16::try_from(8 + payload.len()).context("a datagram")?;
    let length = udp_length.checked_add(20).context("a datagram")?;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    // The kernel fills in identification and header checksum (raw(7)).
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    Ok(packet)
}

/// Sends datagrams from an address of `from`'s own to `to`.
pub fn send(from: &Namespace, to: SocketAddr, datagrams: Vec<Vec<u8>>) -> Result<()> {
    from.within(move || {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        paced(datagrams, |datagram| socket.send_to(datagram, to).map(drop).with_context(|| format!("to {to}")))
    })
}

/// Sends whole IPv4 packets as they are, whatever source they claim, to `to`.
pub fn send_forged(from: &Namespace, to: IpAddr, packets: Vec<Vec<u8>>) -> Result<()> {
    from.within(move || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
        let to = SocketAddr::new(to, 0).into();
        paced(packets, |packet| socket.send_to(packet, &to).map(drop).with_context(|| format!("{packet:?}")))
    })
}

fn paced(datagrams: Vec<Vec<u8>>, mut send: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    for burst in datagrams.chunks(BURST) {
        burst.iter().try_for_each(|datagram| send(datagram))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}
