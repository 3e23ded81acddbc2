//! What Control packets of a link carry.
//!
//! ```text
//! Probe | 1 | token u64 LE | zeros, as many as the probe is to be large                 |
//! Echo  | 2 | token u64 LE |                                                            |
//! ```
//! An echo goes back to the address that the probe came from: an answered probe proves both directions of that path, its
//! round-trip time needs no common clock, and an unguessable token makes it a challenge for roaming.

use crate::wire::sleeve::{HEADER_LEN, PACKET_OVERHEAD, TAG_LEN};

const PROBE: u8 = 1;
const ECHO: u8 = 2;
const MESSAGE_LEN: usize = 9;
/// UDP payload of the smallest probe and of every echo.
pub const SMALL_LEN: usize = PACKET_OVERHEAD + MESSAGE_LEN;

/// A link's control message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Answer this.
    Probe {
        /// To be returned.
        token: u64,
    },
    /// The answer.
    Echo {
        /// That of the probe.
        token: u64,
    },
}

impl Message {
    /// Reads an opened Control packet's body; None if it is no message we know (a newer peer's may be).
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        let (token, rest) = rest.split_first_chunk()?;
        let token = u64::from_le_bytes(*token);
        match kind {
            PROBE => Some(Self::Probe { token }),
            ECHO if rest.is_empty() => Some(Self::Echo { token }),
            _ => None,
        }
    }

    /// A packet with room for header and tag, ready to be sealed, of at least `len` bytes.
    pub fn packet(self, len: usize) -> Vec<u8> {
        let (kind, token) = match self {
            Self::Probe { token } => (PROBE, token),
            Self::Echo { token } => (ECHO, token),
        };
        let mut packet = vec![0; HEADER_LEN];
        packet.push(kind);
        packet.extend(token.to_le_bytes());
        packet.resize(len.max(SMALL_LEN) - TAG_LEN, 0);
        packet.resize(packet.len() + TAG_LEN, 0);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_parse_as_written_and_probes_may_be_padded() {
        for (message, len) in [(Message::Probe { token: 7 }, 1400), (Message::Echo { token: u64::MAX }, 0)] {
            let packet = message.packet(len);
            assert_eq!(packet.len(), len.max(SMALL_LEN));
            assert_eq!(Message::parse(&packet[HEADER_LEN..packet.len() - TAG_LEN]), Some(message));
        }
        assert_eq!(Message::parse(&[1, 2]), None);
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(message) = Message::parse(bytes) {
                let packet = message.packet(0);
                assert_eq!(Message::parse(&packet[HEADER_LEN..packet.len() - TAG_LEN]), Some(message));
            }
        });
    }
}
