//! Addresses that the network gives out: what is asked for, and what is answered.
//!
//! An *owner* is whoever has addresses: a container by its id or name, or [`EXPOSED`] for the host itself. It is only a
//! name here: the same owner asking again in the same subnet gets the same address.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Nickname, PeerName};

/// The owner of the addresses that the host itself has on the bridge.
pub const EXPOSED: &str = "weft:expose";
/// Longest owner in bytes.
pub const OWNER_MAX: usize = 256;

/// Something asked of the allocator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressRequest {
    /// An address in each of these subnets; without any, in the default subnet of each range (dual stack: two addresses).
    Allocate {
        /// Who for.
        owner: String,
        /// Where.
        subnets: Vec<IpNet>,
    },
    /// Exactly these addresses, for somebody who has them already or wants no others.
    Claim {
        /// Who for.
        owner: String,
        /// Addresses with the prefix lengths of their subnets.
        addresses: Vec<IpNet>,
    },
    /// Gives addresses back; all of the owner's if none is named. It is well if there are none.
    Free {
        /// Whose.
        owner: String,
        /// Which.
        addresses: Vec<IpAddr>,
        /// Milliseconds for which they are kept for the owner, who may come back for them.
        keep_ms: u64,
    },
    /// What an owner has.
    Lookup {
        /// Who.
        owner: String,
    },
    /// Declares peers dead, by name or nickname: their hosts and containers are gone, and their space is taken over.
    RemovePeers {
        /// Which.
        peers: Vec<String>,
    },
    /// Waits until addresses can be given out.
    Prime {
        /// After a restart, do so without hearing from any other: nobody declared this peer dead meanwhile.
        alone: bool,
    },
    /// Gives all that this peer owns to another one, and leaves: before its data are deleted.
    Leave,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressAnswer {
    /// The addresses concerned, with the prefix lengths of their subnets.
    Addresses(Vec<IpNet>),
    /// Peers were declared dead.
    Removed(Removal),
    /// Done.
    Done,
}

/// What came of declaring peers dead.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Removal {
    /// Those that are declared dead, with their nicknames as far as known.
    pub removed: Vec<PeerLabel>,
    /// Addresses that were taken over.
    pub reclaimed: u128,
    /// Peers that have to agree and cannot be reached: their space and that of the removed waits for them.
    pub waiting_for: Vec<PeerLabel>,
}

/// A peer as people know it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PeerLabel {
    /// Its name.
    pub name: PeerName,
    /// Its nickname, if known.
    pub nickname: Option<Nickname>,
}

impl fmt::Display for PeerLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.nickname {
            Some(nickname) => write!(f, "{}({nickname})", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Why there is no address.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocationError {
    /// The router was launched without a range.
    #[error(
        "this router gives out no addresses, as it was launched with --no-ipalloc: name one, like 10.2.1.1/24, or launch it \
         without that option"
    )]
    Off,
    /// The subnet is no subnet of a range, too small, or has host bits.
    #[error("cannot give out addresses of {subnet}: {reason}")]
    BadSubnet {
        /// As asked for.
        subnet: IpNet,
        /// What is wrong with it.
        reason: String,
    },
    /// The owner's name is empty or longer than [`OWNER_MAX`].
    #[error("the owner's name is empty or longer than {OWNER_MAX} bytes")]
    BadOwner,
    /// All is given out, here and at all peers that could be asked.
    #[error("no address is free in {subnet}{}", unreachable_text(unreachable))]
    NoSpace {
        /// Where.
        subnet: IpNet,
        /// Peers that have some and cannot be reached.
        unreachable: Vec<PeerLabel>,
    },
    /// Somebody else has it.
    #[error("{address} is taken by {by}")]
    Taken {
        /// Which.
        address: IpAddr,
        /// By whom, in words.
        by: String,
    },
    /// The network has not yet agreed who may give out what.
    #[error("addresses cannot be given out yet: {waiting}")]
    NotStarted {
        /// What is waited for and what to do, in words.
        waiting: String,
    },
    /// Restarted from stored data, and no other peer has confirmed yet that it is still valid.
    #[error(
        "this router was restarted and has heard from no other peer since that could have taken over its addresses: \
         waiting for {}; if they are gone for good: `weft rmpeer`; if nobody declared this one dead: `weft prime --alone`",
        list(waiting_for)
    )]
    Unconfirmed {
        /// Any of these will do.
        waiting_for: Vec<PeerLabel>,
    },
    /// A peer has to take part and cannot be reached.
    #[error("{} cannot be reached; if gone for good: `weft rmpeer`", list(peers))]
    Unreachable {
        /// Which.
        peers: Vec<PeerLabel>,
    },
    /// No such peer.
    #[error("no peer \"{0}\": `weft status ipam` lists those that have addresses")]
    NoSuchPeer(String),
    /// A peer that is to be declared dead is there.
    #[error("{0} is reachable: stop its router first, or have it hand over its addresses by `weft reset` there")]
    PeerAlive(PeerLabel),
    /// What would be given out cannot be written down.
    #[error(
        "no address is given out or taken back while that cannot be stored in the router's data directory: {reason}; \
         asking again is safe"
    )]
    Unstored {
        /// Why, in words.
        reason: String,
    },
    /// It took too long.
    #[error("no answer in time: {waiting}")]
    Deadline {
        /// What was waited for, in words.
        waiting: String,
    },
}

impl AllocationError {
    /// Which of them, in a word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::BadSubnet { .. } => "bad_subnet",
            Self::BadOwner => "bad_owner",
            Self::NoSpace { .. } => "no_space",
            Self::Taken { .. } => "taken",
            Self::NotStarted { .. } => "not_started",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Unreachable { .. } => "unreachable",
            Self::NoSuchPeer(_) => "no_such_peer",
            Self::PeerAlive(_) => "peer_alive",
            Self::Unstored { .. } => "unstored",
            Self::Deadline { .. } => "deadline",
        }
    }
}

fn list(peers: &[PeerLabel]) -> String {
    peers.iter().map(PeerLabel::to_string).collect::<Vec<_>>().join(", ")
}

fn unreachable_text(peers: &[PeerLabel]) -> String {
    if peers.is_empty() {
        return String::new();
    }
    format!(" that this router can reach; {} cannot be reached: if gone for good, `weft rmpeer`", list(peers))
}

/// `weft status ipam`, `GET /status/ipam`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct AddressStatus {
    /// `off`, `idle`, `electing`, `waiting`, `ready`, `unconfirmed`, `conflict` or `unstored`.
    pub state: String,
    /// Why, and what to do, in words; empty when all is well.
    pub info: String,
    /// The ranges given out from.
    pub ranges: Vec<IpNet>,
    /// Where addresses are given out when nobody says where.
    pub default_subnets: Vec<IpNet>,
    /// Addresses given out here, by owner.
    pub owners: Vec<Allotment>,
    /// Who may give out how much.
    pub peers: Vec<PeerShare>,
    /// Separately founded address spaces that were met and are kept apart, and other conflicts, in words.
    pub conflicts: Vec<String>,
}

/// Who has which addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Allotment {
    /// The owner.
    pub owner: String,
    /// Its addresses with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
}

/// How much of a range a peer may give out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerShare {
    /// The peer.
    pub peer: PeerLabel,
    /// Of which range.
    pub range: IpNet,
    /// Addresses it may give out, those given out included.
    pub addresses: u128,
    /// Share of the range, 0 to 1.
    pub share: f64,
    /// Ranges that these are.
    pub ranges: u32,
    /// Whether it can be reached now.
    pub reachable: bool,
}
