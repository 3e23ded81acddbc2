//! **weft-plugin**: how container engines plug their containers into Weft. It reaches a running router by its HTTP API only.
//!
//! One module an engine; [`client`] is the way to the router, which the `weft` command line goes too.

pub mod client;
pub mod cni;
pub mod docker;
pub mod kubernetes;
