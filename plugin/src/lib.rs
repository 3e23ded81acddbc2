//! **weft-plugin**: how container engines plug their containers into Weft. It reaches a running router by its HTTP API only.
//!
//! [`docker`] is Docker's network and IPAM plugin. Of [`cni`] and [`kubernetes`] here are so far the forms that the
//! specifications fix; the `weft` binary uses none of those.

pub mod cni;
pub mod docker;
pub mod kubernetes;
