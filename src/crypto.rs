//! Everything that seals, opens, derives or compares a key. Primitives are BoringSSL's.

pub mod identity;
pub mod replay;
pub mod session;
