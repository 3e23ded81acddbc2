//! What is told of states and policies to those who asked for them.

use weft::id::PeerName;

/// A set of states that receives was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Whose packets it is for.
    pub peer: PeerName,
    /// SPI of its lane 0.
    pub spi: u32,
    /// Why it is not there, in words for people; None if it is.
    pub error: Option<String>,
}

/// What one state has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneCount {
    /// The other end.
    pub peer: PeerName,
    /// Whether we send by it.
    pub sends: bool,
    /// Its own SPI, not the set's.
    pub spi: u32,
    /// Packets sealed, or opened.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What others did to our states and policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Policies that were missing or changed, and are right again.
    pub repaired: usize,
    /// SPIs of lane 0 of sets that are gone, wholly or in part: new keys are needed.
    pub lost: Vec<u32>,
}
