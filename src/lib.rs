//! **weft**: every protocol of Weft as a plain state machine.
//!
//! No sockets, no threads, no clock, no global state: inputs and `now` go in, outputs come out.
//! `ARCHITECTURE.md` has the map.

pub mod api;
pub mod crypto;
pub mod drops;
pub mod entropy;
pub mod id;
pub mod node;
pub mod secret;
pub mod switch;
pub mod time;
pub mod wire;
