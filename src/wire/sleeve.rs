//! The sleeve packet: what goes over UDP between two routers.
//!
//! ```text
//! 0        1        2..4      4..8                8..16            16..             last 16
//! +--------+--------+---------+-------------------+----------------+----------------+--------+
//! | type   | version| zero    | receiver index LE | counter LE     | sealed body    | tag    |   Data, Control
//! +--------+--------+---------+-------------------+----------------+----------------+--------+
//! ```
//! The header is authenticated as associated data. Initiation, Response and CookieReply share the first four bytes and go
//! on as `crate::link::handshake` says. The body of a Data packet is one or more records, the body of a Control packet one
//! control message:
//!
//! ```text
//! Frame   | 1 | length u16 LE | Ethernet frame                                                         |
//! Relay   | 2 | length u16 LE | source 6 | destination 6 | hops left u8 | 6 bytes each | sleeve packet |
//! Padding | 0 | anything to the end
//! ```
//! A relay takes the first name off the hops (the next relay) or, when none is left, hands the packet to `destination`.
//! The sleeve packet inside is sealed between source and destination.

use crate::id::PeerName;

/// Version of the sleeve format, the second byte of every packet.
pub const SLEEVE_VERSION: u8 = 1;
/// Bytes in front of the sealed body.
pub const HEADER_LEN: usize = 16;
/// Bytes of the AEAD tag behind the sealed body.
pub const TAG_LEN: usize = 16;
/// What a packet costs besides its records.
pub const PACKET_OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Bytes in front of each record's content: type and length.
pub const RECORD_HEADER_LEN: usize = 3;
/// Fixed bytes of a relay record's content, before the hop names.
pub const RELAY_FIXED_LEN: usize = 13;
/// Record type: padding to the end of the body.
pub const RECORD_PADDING: u8 = 0;
/// Record type: one Ethernet frame.
pub const RECORD_FRAME: u8 = 1;
/// Record type: a sleeve packet to pass on.
pub const RECORD_RELAY: u8 = 2;

/// First byte of a sleeve packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PacketType {
    /// First message of the link handshake.
    Initiation = 1,
    /// Second message of the link handshake.
    Response = 2,
    /// "Prove your address first", sent under load.
    CookieReply = 3,
    /// Sealed records; handled by the data plane alone.
    Data = 4,
    /// A sealed control message; handled by the node.
    Control = 5,
}

/// The clear header of Data and Control packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the body is.
    pub packet_type: PacketType,
    /// The receiver's name for the session.
    pub receiver: u32,
    /// The sender's packet number in this session and of this type; the nonce.
    pub counter: u64,
}

impl PacketType {
    /// The type of a packet, by its first two bytes; None if it is none of ours or of another version.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let (&[kind, version], _) = packet.split_first_chunk()?;
        if version != SLEEVE_VERSION {
            return None;
        }
        match kind {
            1 => Some(Self::Initiation),
            2 => Some(Self::Response),
            3 => Some(Self::CookieReply),
            4 => Some(Self::Data),
            5 => Some(Self::Control),
            _ => None,
        }
    }
}

impl Header {
    /// Reads the header of a Data or Control packet long enough to hold a tag.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet_type = PacketType::of(packet)?;
        if !matches!(packet_type, PacketType::Data | PacketType::Control) || packet.len() < PACKET_OVERHEAD {
            return None;
        }
        let (fixed, _) = packet.split_first_chunk::<HEADER_LEN>()?;
        let [_, _, z0, z1, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7] = *fixed;
        if [z0, z1] != [0, 0] {
            return None;
        }
        Some(Self {
            packet_type,
            receiver: u32::from_le_bytes([r0, r1, r2, r3]),
            counter: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
        })
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.packet_type as u8;
        bytes[1] = SLEEVE_VERSION;
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }
}

/// One record of a Data packet's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// An Ethernet frame for the receiver's bridge.
    Frame(&'a [u8]),
    /// A packet on its way to another peer, or to this one by a relay.
    Relay(Relay<'a>),
}

/// A relayed sleeve packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relay<'a> {
    /// Who sealed the packet.
    pub source: PeerName,
    /// Who can open it.
    pub destination: PeerName,
    /// Names of the relays still ahead, six bytes each.
    pub hops: &'a [u8],
    /// The sleeve packet.
    pub packet: &'a [u8],
}

/// The records of an opened body; an item is None when the rest cannot be read, and then the last.
#[derive(Debug)]
pub struct Records<'a>(Option<&'a [u8]>);

impl<'a> Records<'a> {
    /// Reads the records of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self(Some(body))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let body = self.0.take()?;
        if body.first().is_none_or(|&kind| kind == RECORD_PADDING) {
            return None;
        }
        let parsed = parse_record(body);
        self.0 = parsed.as_ref().map(|(_, rest)| *rest);
        Some(parsed.map(|(record, _)| record))
    }
}

fn parse_record(body: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (&[kind, low, high], rest) = body.split_first_chunk()?;
    let (content, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    let record = match kind {
        RECORD_FRAME => Record::Frame(content),
        RECORD_RELAY => Record::Relay(parse_relay(content)?),
        _ => return None,
    };
    Some((record, rest))
}

fn parse_relay(content: &[u8]) -> Option<Relay<'_>> {
    let (source, rest) = content.split_first_chunk()?;
    let (destination, rest) = rest.split_first_chunk()?;
    let (&hops, rest) = rest.split_first()?;
    if usize::from(hops) > super::RELAYS_MAX {
        return None;
    }
    let (hops, packet) = rest.split_at_checked(usize::from(hops) * 6)?;
    Some(Relay { source: PeerName(*source), destination: PeerName(*destination), hops, packet })
}

/// The three bytes in front of a record's `content_len` bytes; None when it is too long for one record.
pub fn record_header(kind: u8, content_len: usize) -> Option<[u8; RECORD_HEADER_LEN]> {
    let [low, high] = u16::try_from(content_len).ok()?.to_le_bytes();
    Some([kind, low, high])
}

/// Bytes that a path of `relays` relays adds to a sleeve packet on its first, largest hop.
pub fn relay_overhead(relays: usize) -> usize {
    match relays {
        0 => 0,
        n => PACKET_OVERHEAD + RECORD_HEADER_LEN + RELAY_FIXED_LEN + 6 * (n - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_sixteen_known_bytes() {
        let header = Header { packet_type: PacketType::Data, receiver: 0x0403_0201, counter: 0x0c0b_0a09_0807_0605 };
        let mut packet = header.bytes().to_vec();
        assert_eq!(packet, [4, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(Header::parse(&packet), None, "no room for a tag");
        packet.extend([0; TAG_LEN]);
        assert_eq!(Header::parse(&packet), Some(header));
        packet[1] = 2;
        assert_eq!(Header::parse(&packet), None, "another version");
    }

    #[test]
    fn records_are_read_until_padding_or_nonsense() {
        let mut body = record_header(RECORD_FRAME, 2).unwrap().to_vec();
        body.extend(b"ab");
        let relay = [&[1_u8; 6][..], &[2; 6], &[1], &[3; 6], b"xyz"].concat();
        body.extend(record_header(RECORD_RELAY, relay.len()).unwrap());
        body.extend(&relay);
        body.extend([0, 9, 9]);
        let records: Vec<_> = Records::new(&body).collect();
        assert_eq!(records[0], Some(Record::Frame(b"ab")));
        let Some(Record::Relay(relay)) = &records[1] else { panic!("{records:?}") };
        assert_eq!((relay.source, relay.hops.len(), relay.packet), (PeerName([1; 6]), 6, &b"xyz"[..]));
        assert_eq!(records.len(), 2);
        assert_eq!(Records::new(&[1, 9, 0, 1]).collect::<Vec<_>>(), [None], "longer than the body");
        assert_eq!(Records::new(&[77, 0, 0]).collect::<Vec<_>>(), [None], "unknown type");
    }
}
