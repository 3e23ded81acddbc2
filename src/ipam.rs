//! Addresses that the network gives out.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::PeerName;

/// How addresses are given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationConfig {
    /// The ranges: at most one of IPv4 and one of IPv6.
    pub ranges: Vec<IpNet>,
    /// Where addresses are given out when nobody says where: at most one of each family, within the ranges.
    pub default_subnets: Vec<IpNet>,
    /// How the space is divided at first.
    pub init: Init,
    /// What was to be kept in the last run.
    pub kept: Option<Vec<u8>>,
}

/// How the space is divided at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Init {
    /// By agreement of a majority, of so many peers if a number is given.
    Consensus(Option<u32>),
    /// Among these peers.
    Seed(Vec<PeerName>),
    /// Not by us.
    Observer,
}
