//! **weft**: every protocol of Weft as a plain state machine.
//!
//! No sockets, no threads, no clock, no global state: inputs and `now` go in, outputs come out.
//! `ARCHITECTURE.md` has the map.

pub mod api;
pub mod connect;
pub mod control;
pub mod crypto;
pub mod drops;
pub mod entropy;
pub mod fastdp;
pub mod frame;
pub mod gossip;
pub mod id;
pub mod ipam;
pub mod link;
pub mod node;
pub mod plane;
pub mod secret;
#[cfg(feature = "sim")]
pub mod sim;
pub mod switch;
pub mod time;
pub mod topology;
pub mod wire;
