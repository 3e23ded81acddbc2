//! The lab: hosts as network namespaces joined by an underlay, real routers in them, and what the acceptance tests, the
//! demo and the benches do with them. It knows the `weft` binary by its command line and its JSON only.

pub mod bench;
pub mod demo;
pub mod lab;
pub mod scenario;
pub mod spread;
pub mod uml;
