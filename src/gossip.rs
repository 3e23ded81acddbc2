//! Replicated state: what every peer tells all others, and the messages that carry it over control connections.
//!
//! A channel is one [`replica::Replica`]: each peer writes only entries of its own and numbers its changes. A change is
//! flooded as a delta; what was missed is found by comparing digests (eight bytes first) and repaired by deltas. Nobody
//! ever sends everything to somebody who has most of it.
//!
//! ```text
//! set/remove ─▶ delta ─▶ flood ─▶ merge ─▶ pass on what was new
//!                                   └ gap ─▶ send digest ─▶ delta_since ─▶ merge
//! ```

pub mod address;
pub mod delta;
pub mod digest;
pub mod hello;
pub mod message;
pub mod origin;
pub mod replica;

use std::fmt::Debug;

use thiserror::Error;

use crate::id::PeerName;

/// Most peers in a network, and so most origins in a replica.
pub const ORIGINS_MAX: usize = 8192;
/// Most entries of one origin: ten thousand stations on one bridge, and room to move.
pub const ENTRIES_MAX: usize = 12_288;
/// Removed entries that are remembered of one origin. Whoever missed more is told what lives instead.
pub const TOMBSTONES_MAX: usize = 256;
/// Longest encoded key in bytes: a name with its owner ([`crate::names::entry::Key`]).
pub const KEY_MAX: usize = 520;
/// Longest encoded value in bytes: the record of a peer with [`crate::topology::record::LINKS_MAX`] links.
pub const VALUE_MAX: usize = 20 * 1024;
/// Longest digest or delta in bytes. A delta may have to list the numbers of [`ENTRIES_MAX`] entries that still live, each with
/// five bytes or six ([`origin::Seq::MAX`]), beside the longest value.
pub const MESSAGE_MAX: usize = 96 * 1024;
/// Most deltas made for one digest, 3 MiB, so that a connection's queue has a bound; the next digest asks for the rest.
pub const REPAIR_MESSAGES_MAX: usize = 32;

/// A replicated state of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum ChannelId {
    /// Peers and their links: [`crate::topology`].
    Topology,
    /// Stations and who has them: [`crate::switch::table`].
    Endpoints,
    /// Who may give out which addresses: [`crate::ipam`].
    Addresses,
    /// Names and where they lead: [`crate::names`].
    Names,
}

impl ChannelId {
    /// All channels.
    pub const ALL: [Self; 4] = [Self::Topology, Self::Endpoints, Self::Addresses, Self::Names];

    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::Topology => 1,
            Self::Endpoints => 2,
            Self::Addresses => 3,
            Self::Names => 4,
        }
    }

    /// The channel with this number; None for one that only newer peers know.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.number() == number)
    }

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topology => "topology",
            Self::Endpoints => "endpoints",
            Self::Addresses => "addresses",
            Self::Names => "names",
        }
    }
}

/// What is wrong with an encoded key, value or payload.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl From<prost::DecodeError> for Malformed {
    fn from(_: prost::DecodeError) -> Self {
        Self("not a protobuf message of the expected form")
    }
}

/// A key or value of a replica.
pub trait Replicated: Clone + PartialEq + Debug {
    /// The encoded form.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads what `origin` is said to have written; refuses what `origin` may not say.
    fn from_bytes(origin: PeerName, bytes: &[u8]) -> Result<Self, Malformed>;
}

/// The only key of a channel with one value for each peer.
impl Replicated for () {
    fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() { Ok(()) } else { Err(Malformed("a key where there is only one")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_have_numbers_and_unknown_numbers_no_channel() {
        for channel in ChannelId::ALL {
            assert_eq!(ChannelId::from_number(channel.number()), Some(channel));
        }
        assert_eq!(ChannelId::from_number(0), None);
        assert_eq!(ChannelId::from_number(77), None);
    }
}
