//! What two neighbours say over a control connection once it is established. Each message is one frame of it.

use std::net::SocketAddr;

use prost::Message;
use thiserror::Error;

use super::{ChannelId, MESSAGE_MAX, Malformed, address};

/// Longest control message in bytes: a digest or delta and its envelope.
pub const CONTROL_MESSAGE_MAX: usize = MESSAGE_MAX + 64;

/// Why a control message was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MessageError {
    /// Longer than [`CONTROL_MESSAGE_MAX`].
    #[error("the control message has {0} bytes, more than {CONTROL_MESSAGE_MAX}")]
    TooLong(usize),
    /// Not a protobuf message of the expected form, or with a bad address.
    #[error("the control message cannot be read: {0}")]
    NotReadable(#[from] Malformed),
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// Asks for a [`Self::Pong`].
    Ping {
        /// To be repeated in the answer.
        nonce: u64,
    },
    /// Answers a ping.
    Pong {
        /// The ping's.
        nonce: u64,
    },
    /// "This is what I know, in short"; if the other's differs, it answers with its digest.
    DigestHash {
        /// The replicated state concerned.
        channel: ChannelId,
        /// As [`super::replica::Replica::digest_hash`].
        hash: u64,
    },
    /// "This is how far I know"; the other answers with deltas.
    Digest {
        /// The replicated state concerned.
        channel: ChannelId,
        /// As [`super::replica::Replica::digest`].
        digest: Vec<u8>,
    },
    /// Changes.
    Delta {
        /// The replicated state concerned.
        channel: ChannelId,
        /// As [`super::replica::Replica::merge`] takes it.
        delta: Vec<u8>,
    },
    /// "I know this much now of origins of which there was something new"; who lacks any of that asks with a digest of them.
    Announcement {
        /// The replicated state concerned.
        channel: ChannelId,
        /// As [`super::replica::Replica::announcements`].
        known: Vec<u8>,
    },
    /// "This is what I know, in short for each of some ranges of names"; the other answers with its digest of those where its differ.
    Ranges {
        /// The replicated state concerned.
        channel: ChannelId,
        /// As [`super::replica::Replica::ranges`].
        ranges: Vec<u8>,
    },
    /// The sender stops, on purpose.
    Leave,
    /// "I see you at this address."
    Observed {
        /// The address from which the receiver's packets come.
        address: SocketAddr,
    },
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(fixed64, tag = "1")]
    Ping(u64),
    #[prost(fixed64, tag = "2")]
    Pong(u64),
    #[prost(message, tag = "3")]
    DigestHash(HashWire),
    #[prost(message, tag = "4")]
    Digest(PayloadWire),
    #[prost(message, tag = "5")]
    Delta(PayloadWire),
    #[prost(message, tag = "6")]
    Leave(LeaveWire),
    #[prost(bytes = "vec", tag = "7")]
    Observed(Vec<u8>),
    #[prost(message, tag = "8")]
    Announcement(PayloadWire),
    #[prost(message, tag = "9")]
    Ranges(PayloadWire),
}

#[derive(Clone, PartialEq, Message)]
struct HashWire {
    #[prost(uint32, tag = "1")]
    channel: u32,
    #[prost(fixed64, tag = "2")]
    hash: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PayloadWire {
    #[prost(uint32, tag = "1")]
    channel: u32,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct LeaveWire {}

impl ControlMessage {
    /// The encoded form.
    pub fn encode(&self) -> Vec<u8> {
        let body = match self {
            Self::Ping { nonce } => Body::Ping(*nonce),
            Self::Pong { nonce } => Body::Pong(*nonce),
            Self::DigestHash { channel, hash } => Body::DigestHash(HashWire { channel: channel.number(), hash: *hash }),
            Self::Digest { channel, digest } => {
                Body::Digest(PayloadWire { channel: channel.number(), payload: digest.clone() })
            }
            Self::Delta { channel, delta } => {
                Body::Delta(PayloadWire { channel: channel.number(), payload: delta.clone() })
            }
            Self::Announcement { channel, known } => {
                Body::Announcement(PayloadWire { channel: channel.number(), payload: known.clone() })
            }
            Self::Ranges { channel, ranges } => {
                Body::Ranges(PayloadWire { channel: channel.number(), payload: ranges.clone() })
            }
            Self::Leave => Body::Leave(LeaveWire {}),
            Self::Observed { address } => Body::Observed(address::socket_to_bytes(*address)),
        };
        Envelope { body: Some(body) }.encode_to_vec()
    }

    /// Reads a message; None if it is of a kind or of a channel that only newer peers know: skip it.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        if bytes.len() > CONTROL_MESSAGE_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let envelope = Envelope::decode(bytes).map_err(Malformed::from)?;
        let Some(body) = envelope.body else { return Ok(None) };
        Ok(match body {
            Body::Ping(nonce) => Some(Self::Ping { nonce }),
            Body::Pong(nonce) => Some(Self::Pong { nonce }),
            Body::DigestHash(HashWire { channel, hash }) => {
                ChannelId::from_number(channel).map(|channel| Self::DigestHash { channel, hash })
            }
            Body::Digest(PayloadWire { channel, payload }) => {
                ChannelId::from_number(channel).map(|channel| Self::Digest { channel, digest: payload })
            }
            Body::Delta(PayloadWire { channel, payload }) => {
                ChannelId::from_number(channel).map(|channel| Self::Delta { channel, delta: payload })
            }
            Body::Announcement(PayloadWire { channel, payload }) => {
                ChannelId::from_number(channel).map(|channel| Self::Announcement { channel, known: payload })
            }
            Body::Ranges(PayloadWire { channel, payload }) => {
                ChannelId::from_number(channel).map(|channel| Self::Ranges { channel, ranges: payload })
            }
            Body::Leave(LeaveWire {}) => Some(Self::Leave),
            Body::Observed(bytes) => Some(Self::Observed { address: address::socket_from_bytes(&bytes)? }),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_message() -> impl Strategy<Value = ControlMessage> {
        let channel = || prop::sample::select(ChannelId::ALL.to_vec());
        let payload = || prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            any::<u64>().prop_map(|nonce| ControlMessage::Ping { nonce }),
            any::<u64>().prop_map(|nonce| ControlMessage::Pong { nonce }),
            (channel(), any::<u64>()).prop_map(|(channel, hash)| ControlMessage::DigestHash { channel, hash }),
            (channel(), payload()).prop_map(|(channel, digest)| ControlMessage::Digest { channel, digest }),
            (channel(), payload()).prop_map(|(channel, delta)| ControlMessage::Delta { channel, delta }),
            (channel(), payload()).prop_map(|(channel, known)| ControlMessage::Announcement { channel, known }),
            (channel(), payload()).prop_map(|(channel, ranges)| ControlMessage::Ranges { channel, ranges }),
            Just(ControlMessage::Leave),
            (any::<[u8; 4]>(), 1..u16::MAX)
                .prop_map(|(ip, port)| SocketAddr::new(ip.into(), port))
                .prop_filter("an address of one station", |address| address::is_single(address.ip()))
                .prop_map(|address| ControlMessage::Observed { address }),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_went(message in any_message()) {
            prop_assert_eq!(ControlMessage::decode(&message.encode()), Ok(Some(message)));
        }
    }

    #[test]
    fn the_largest_delta_fits() {
        let message = ControlMessage::Delta { channel: ChannelId::Endpoints, delta: vec![1; MESSAGE_MAX] };
        assert_eq!(ControlMessage::decode(&message.encode()), Ok(Some(message)));
        let too_long = vec![0; CONTROL_MESSAGE_MAX + 1];
        assert_eq!(ControlMessage::decode(&too_long), Err(MessageError::TooLong(CONTROL_MESSAGE_MAX + 1)));
    }

    #[test]
    fn what_only_newer_peers_know_is_skipped() {
        let unknown_kind = [0xfa, 0x01, 1, 7]; // field 31, one byte
        assert_eq!(ControlMessage::decode(&unknown_kind), Ok(None));
        let hash = HashWire { channel: 99, hash: 1 };
        let unknown_channel = Envelope { body: Some(Body::DigestHash(hash)) }.encode_to_vec();
        assert_eq!(ControlMessage::decode(&unknown_channel), Ok(None));
    }

    #[test]
    fn the_wire_form_is_pinned() {
        assert_eq!(ControlMessage::Ping { nonce: 1 }.encode(), [0x09, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ControlMessage::Leave.encode(), [0x32, 0]);
        let delta = ControlMessage::Delta { channel: ChannelId::Endpoints, delta: vec![9] };
        assert_eq!(delta.encode(), [0x2a, 5, 0x08, 2, 0x12, 1, 9]);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(Some(message)) = ControlMessage::decode(bytes) {
                assert_eq!(ControlMessage::decode(&message.encode()), Ok(Some(message)));
            }
        });
    }
}
