//! Everything that seals, opens, derives or compares a key. Primitives are BoringSSL's.

pub mod identity;
pub(crate) mod kdf;
pub(crate) mod noise;
pub mod replay;
pub mod resolver;
pub mod session;
