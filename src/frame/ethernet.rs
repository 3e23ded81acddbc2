//! The Ethernet header, with up to two VLAN tags.
//!
//! ```text
//! | destination 6 | source 6 | [tag: 8100 or 88a8, 2 bytes] ×0..2 | ethertype 2 | content |
//! ```
//! Tagged frames (IEEE 802.1Q) are carried as they are; the tags matter only for finding the content behind them.

use super::{read, read_u16};
use crate::id::Mac;

/// Length of a header without tags.
pub const HEADER_LEN: usize = 14;
/// Length of the longest header that is understood, with two tags.
pub const HEADER_MAX: usize = HEADER_LEN + 2 * TAG_LEN;
/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;

const TAG_LEN: usize = 4;
/// C-tag and S-tag (IEEE 802.1Q table 9-1).
const TAGS: [u16; 2] = [0x8100, 0x88a8];

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Where the frame goes.
    pub destination: Mac,
    /// Who sent it.
    pub source: Mac,
    /// What is in it, behind the tags.
    pub ethertype: u16,
    /// Where the content begins: 14, 18 or 22.
    pub header_len: usize,
}

impl Ethernet {
    /// Reads the header of `frame`; None when it is too short for one.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut header_len = HEADER_LEN;
        let mut ethertype = read_u16(frame, header_len - 2)?;
        while TAGS.contains(&ethertype) && header_len < HEADER_MAX {
            header_len += TAG_LEN;
            ethertype = read_u16(frame, header_len - 2)?;
        }
        Some(Self { destination: Mac(read(frame, 0)?), source: Mac(read(frame, 6)?), ethertype, header_len })
    }

    /// Whether the frame belongs to a VLAN inside the network.
    pub fn is_tagged(&self) -> bool {
        self.header_len != HEADER_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_looked_behind() {
        let plain = [&[1; 6][..], &[2; 6], &[0x08, 0x00]].concat();
        let header = Ethernet::parse(&plain).unwrap();
        assert_eq!((header.destination, header.source), (Mac([1; 6]), Mac([2; 6])));
        assert_eq!((header.ethertype, header.header_len, header.is_tagged()), (IPV4, 14, false));
        let tagged = [&[1; 6][..], &[2; 6], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd]].concat();
        let header = Ethernet::parse(&tagged).unwrap();
        assert_eq!((header.ethertype, header.header_len, header.is_tagged()), (IPV6, 22, true));
        assert_eq!(Ethernet::parse(&tagged[..20]), None, "the second tag is cut");
        assert_eq!(Ethernet::parse(&plain[..13]), None);
    }
}
