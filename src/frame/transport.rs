//! TCP and UDP headers (RFC 9293, RFC 768), as far as segmentation needs them.

use super::{
    ip::{self, Ip},
    read,
};

/// TCP flag: no more data from the sender.
pub(super) const FIN: u8 = 0x01;
/// TCP flag: deliver at once.
pub(super) const PSH: u8 = 0x08;
/// TCP flag: the acknowledgement number counts.
pub(super) const ACK: u8 = 0x10;
/// TCP flag: congestion window reduced (RFC 3168).
pub(super) const CWR: u8 = 0x80;
/// Where the flags are in a TCP header.
pub(super) const FLAGS_AT: usize = 13;
/// Where the sequence number is in a TCP header.
pub(super) const SEQUENCE_AT: usize = 4;
/// Length of a UDP header.
pub(super) const UDP_LEN: usize = 8;

/// A transport that can be segmented.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Kind {
    /// The transport with this protocol number.
    pub fn of(protocol: u8) -> Option<Self> {
        match protocol {
            ip::TCP => Some(Self::Tcp),
            ip::UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// Where the checksum is in its header.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// A computed checksum as it is sent: UDP's zero means that there is none, so it sends the other zero (RFC 768).
    pub(super) fn wire_checksum(self, checksum: u16) -> u16 {
        match (self, checksum) {
            (Self::Udp, 0) => 0xffff,
            (Self::Tcp | Self::Udp, checksum) => checksum,
        }
    }

    /// Length of the header at `ip.upper`; None when it does not lie within the packet.
    pub fn header_len(self, frame: &[u8], ip: &Ip) -> Option<usize> {
        let len = match self {
            Self::Tcp => {
                let [offset] = read(frame, ip.upper + 12)?;
                Some(usize::from(offset >> 4) * 4).filter(|len| *len >= 20)?
            }
            Self::Udp => UDP_LEN,
        };
        (ip.upper + len <= ip.end).then_some(len)
    }
}
