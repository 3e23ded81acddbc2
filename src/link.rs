//! A link: the authenticated data session between two peers, and the direct path that it may have.

pub mod cookie;
pub mod direct;
pub mod encap;
pub mod esp;
pub mod estimate;
pub mod fast;
pub mod handshake;
pub mod heartbeat;
pub mod keys;
pub mod message;
pub mod mtu;
pub mod tally;
