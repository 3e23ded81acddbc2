//! **weft-plugin**: how container engines plug their containers into Weft. It reaches a running router by its HTTP API only.
//!
//! So far here are the forms that the engines' specifications fix, one module an engine; no plugin answers yet, and the
//! `weft` binary uses none of this. Until then `weft attach` takes a container's namespace or process id.

pub mod cni;
pub mod docker;
pub mod kubernetes;
