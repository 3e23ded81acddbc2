//! The numbers of the protocol, in one place.

pub mod overhead;
pub mod sleeve;

/// TCP port of control connections and UDP port of the sleeve, unless configured.
pub const DEFAULT_PORT: u16 = 6783;
/// Oldest control protocol version spoken.
pub const VERSION_MIN: u16 = 1;
/// Newest control protocol version spoken.
pub const VERSION_MAX: u16 = 1;
/// Most relays that a path may name. DESIGN.md speaks of one or two; four let chains of hosts without discovery work.
pub const RELAYS_MAX: usize = 4;
