//! The names of the network: who has which addresses under which name, told by every peer for what is on its own host.
//!
//! An entry of the names channel is one name of one owner, with its addresses; many owners on many peers may have one
//! name, which then leads to all of their addresses. An owner is whoever has names: a container, or one of
//! [`owner::EXPOSED`] and [`owner::EXTERN`]. What a peer told is forgotten with the peer. There are no clocks in it: a
//! removal is a change with a number like any other ([`crate::gossip::origin`]).
//!
//! ```text
//! NameRequest ─▶ own entries ─▶ channel ─▶ all peers' entries ─▶ Table ─▶ who answers queries
//! ```

pub mod entry;
mod name;
pub mod owner;
mod shards;
mod table;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use entry::ADDRESSES_MAX;
pub use name::{DnsName, LABEL_MAX, NAME_MAX, NameError};
pub use owner::Owner;
pub use table::Table;

/// What is asked of this peer's own names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameRequest {
    /// These addresses have the name, too.
    Add {
        /// Whose name.
        owner: Owner,
        /// The name, whole.
        name: DnsName,
        /// At least one.
        addresses: Vec<IpAddr>,
    },
    /// They do not have it any more. What is left out means all.
    Remove {
        /// Whose names.
        owner: Option<Owner>,
        /// Which name.
        name: Option<DnsName>,
        /// Which addresses; all if there is none.
        addresses: Vec<IpAddr>,
    },
}

/// A name of an owner on this peer, with its addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Whose.
    pub owner: Owner,
    /// The name.
    pub name: DnsName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Why a request was refused; nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RequestError {
    /// Nothing to lead to.
    #[error("{0} needs an address to lead to")]
    NoAddress(DnsName),
    /// An address that nobody can be asked for.
    #[error("{0} is not the address of a single station")]
    BadAddress(IpAddr),
    /// Too many for one name of one owner.
    #[error("{name} of {owner} would have more than {ADDRESSES_MAX} addresses")]
    TooManyAddresses {
        /// The name.
        name: DnsName,
        /// Whose.
        owner: Owner,
    },
    /// Too many of this peer.
    #[error("this router has {} names already: remove some first", crate::gossip::ENTRIES_MAX)]
    TooManyNames,
}
