//! The preface: what each side of a control connection says first, in clear.
//!
//! ```text
//! 0..4     4..6            6..8          8..10         10..14         14..46       46        47..
//! +--------+---------------+-------------+-------------+--------------+------------+---------+-----------------+
//! | "weft" | length u16 LE | oldest  u16 | newest  u16 | capabilities | network id | flags   | of later times  |
//! +--------+---------------+-------------+-------------+--------------+------------+---------+-----------------+
//! ```
//! The length counts what follows it. Later versions may append fields; they are skipped, as are unknown capability bits
//! and flags. All of it goes into the prologue of the handshake, so nobody on the way can change it unnoticed.

use std::fmt;

use super::refusal::Refusal;
use crate::{crypto::kdf, id::NetworkName, wire};

/// A capability: knows what [`Announcement`](crate::gossip::message::ControlMessage::Announcement) means.
pub const ANNOUNCEMENTS: u32 = 1;
/// A capability: knows what [`Ranges`](crate::gossip::message::ControlMessage::Ranges) are.
pub const RANGES: u32 = 2;

/// First bytes of a control connection.
pub const MAGIC: [u8; 4] = *b"weft";
/// Longest preface in bytes, magic and length included.
pub const PREFACE_MAX: usize = 1024;

const NETWORK_LABEL: &[u8] = b"weft network id v1";
/// Magic and length.
const START_LEN: usize = 6;
/// Bytes that the length counts in version 1.
const FIELDS_LEN: usize = 41;
const FLAG_SECRET: u8 = 1;

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl Versions {
    /// What this program speaks.
    pub const SPOKEN: Self = Self { min: wire::VERSION_MIN, max: wire::VERSION_MAX };

    /// The newest version in both ranges.
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.max) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// One side's preface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preface {
    /// Protocol versions spoken.
    pub versions: Versions,
    /// What this side can do besides; bits are given out with the features.
    pub capabilities: u32,
    /// Stands for the network's name without telling it.
    pub network: [u8; 32],
    /// Whether the network has a secret.
    pub has_secret: bool,
}

/// What two prefaces agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The newest version that both speak.
    pub version: u16,
    /// Capabilities of both.
    pub capabilities: u32,
}

/// The id of a network.
pub fn network_id(network: &NetworkName) -> [u8; 32] {
    kdf::sha256(&[NETWORK_LABEL, network.as_str().as_bytes()])
}

impl Preface {
    /// The preface's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(START_LEN + FIELDS_LEN);
        bytes.extend(MAGIC);
        bytes.extend((FIELDS_LEN as u16).to_le_bytes());
        bytes.extend(self.versions.min.to_le_bytes());
        bytes.extend(self.versions.max.to_le_bytes());
        bytes.extend(self.capabilities.to_le_bytes());
        bytes.extend(self.network);
        bytes.push(if self.has_secret { FLAG_SECRET } else { 0 });
        bytes
    }

    /// Reads a preface at the start of `bytes`, and says how long it is; None while more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
        if bytes.iter().zip(MAGIC).any(|(&got, wanted)| got != wanted) {
            return Err(Refusal::NotWeft);
        }
        let Some((&[_, _, _, _, low, high], rest)) = bytes.split_first_chunk::<START_LEN>() else { return Ok(None) };
        let len = usize::from(u16::from_le_bytes([low, high]));
        if START_LEN + len > PREFACE_MAX {
            return Err(Refusal::TooLarge);
        }
        let Some(fields) = rest.get(..len) else { return Ok(None) };
        let preface = Self::parse_fields(fields).ok_or(Refusal::Malformed("preface"))?;
        Ok(Some((preface, START_LEN + len)))
    }

    fn parse_fields(fields: &[u8]) -> Option<Self> {
        let (&[min0, min1, max0, max1, c0, c1, c2, c3], rest) = fields.split_first_chunk()?;
        let (&network, rest) = rest.split_first_chunk()?;
        let (&flags, _of_later_times) = rest.split_first()?;
        let versions = Versions { min: u16::from_le_bytes([min0, min1]), max: u16::from_le_bytes([max0, max1]) };
        (versions.min <= versions.max).then_some(Self {
            versions,
            capabilities: u32::from_le_bytes([c0, c1, c2, c3]),
            network,
            has_secret: flags & FLAG_SECRET != 0,
        })
    }

    /// Whether the two can go on, and as what.
    pub fn agree(&self, theirs: &Self) -> Result<Agreed, Refusal> {
        if self.network != theirs.network {
            return Err(Refusal::OtherNetwork);
        }
        let version = self
            .versions
            .newest_common(theirs.versions)
            .ok_or(Refusal::NoCommonVersion { ours: self.versions, theirs: theirs.versions })?;
        match (self.has_secret, theirs.has_secret) {
            (false, true) => Err(Refusal::SecretMissing),
            (true, false) => Err(Refusal::SecretUnexpected),
            (false, false) | (true, true) => {
                Ok(Agreed { version, capabilities: self.capabilities & theirs.capabilities })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preface() -> Preface {
        Preface { versions: Versions { min: 1, max: 3 }, capabilities: 6, network: [9; 32], has_secret: true }
    }

    #[test]
    fn the_preface_is_forty_seven_known_bytes() {
        let bytes = preface().bytes();
        assert_eq!(bytes[..14], [b'w', b'e', b'f', b't', 41, 0, 1, 0, 3, 0, 6, 0, 0, 0]);
        assert_eq!((&bytes[14..46], bytes[46], bytes.len()), (&[9; 32][..], 1, 47));
    }

    #[test]
    fn what_is_not_weft_is_noticed_at_its_first_byte() {
        assert_eq!(Preface::parse(b"GET / HTTP/1.1\r\n"), Err(Refusal::NotWeft));
        assert_eq!(Preface::parse(b"\x16"), Err(Refusal::NotWeft));
        assert_eq!(Preface::parse(b"we"), Ok(None));
    }

    #[test]
    fn a_preface_of_later_times_is_understood() {
        let mut bytes = preface().bytes();
        bytes[4] += 10;
        bytes[8] = 99;
        bytes[13] = 0x80;
        bytes[46] = 0xff;
        bytes.extend([7; 10]);
        let (theirs, len) = Preface::parse(&bytes).unwrap().unwrap();
        assert_eq!(len, bytes.len());
        assert_eq!(preface().agree(&theirs), Ok(Agreed { version: 3, capabilities: 6 }));
    }

    #[test]
    fn oversized_and_contradicting_prefaces_are_refused() {
        let mut long = preface().bytes();
        long[5] = 0xff;
        assert_eq!(Preface::parse(&long), Err(Refusal::TooLarge));
        let mut short = preface().bytes();
        short[4] -= 1;
        assert_eq!(Preface::parse(&short), Err(Refusal::Malformed("preface")));
        let mut turned = preface().bytes();
        turned[6] = 4;
        assert_eq!(Preface::parse(&turned), Err(Refusal::Malformed("preface")));
    }

    #[test]
    fn each_difference_has_its_reason() {
        let ours = preface();
        assert_eq!(ours.agree(&Preface { network: [8; 32], ..preface() }), Err(Refusal::OtherNetwork));
        let theirs = Versions { min: 4, max: 5 };
        assert_eq!(
            ours.agree(&Preface { versions: theirs, ..preface() }),
            Err(Refusal::NoCommonVersion { ours: ours.versions, theirs })
        );
        let without = Preface { has_secret: false, ..preface() };
        assert_eq!(ours.agree(&without), Err(Refusal::SecretUnexpected));
        assert_eq!(without.agree(&ours), Err(Refusal::SecretMissing));
    }

    proptest! {
        #[test]
        fn both_sides_find_the_same_version(a in 0..9_u16, b in 0..9_u16, c in 0..9_u16, d in 0..9_u16) {
            let ours = Versions { min: a.min(b), max: a.max(b) };
            let theirs = Versions { min: c.min(d), max: c.max(d) };
            let common = ours.newest_common(theirs);
            prop_assert_eq!(common, theirs.newest_common(ours));
            let spoken = |version: u16| [ours, theirs].iter().all(|v| (v.min..=v.max).contains(&version));
            prop_assert_eq!(common, (0..9).rev().find(|&version| spoken(version)));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            for bytes in [bytes.to_vec(), [&MAGIC, bytes].concat(), [&preface().bytes()[..6], bytes].concat()] {
                if let Ok(Some((preface, len))) = Preface::parse(&bytes) {
                    assert!(len <= PREFACE_MAX.min(bytes.len()));
                    assert_eq!(Preface::parse(&preface.bytes()), Ok(Some((preface, START_LEN + FIELDS_LEN))));
                }
            }
        });
    }
}
