//! **weft-plugin**: how container engines plug their containers into Weft. It reaches a running router by its HTTP API only.
//!
//! Kubernetes is here whole; of CNI and Docker so far the forms that their specifications fix.

pub mod client;
pub mod cni;
pub mod docker;
pub mod kubernetes;
