//! Control connections: what two peers say over TCP before any gossip, and how their messages are sealed.
//!
//! ```text
//! initiator                        responder
//! preface          ──────────────▶           in clear: protocol, versions, network
//!                  ◀──────────────  preface
//! Handshake (e)    ──────────────▶           Noise_XXpsk3_25519_AESGCM_SHA256,
//!                  ◀──────────────  Handshake (e, ee, s, es)       its prologue both prefaces
//! Handshake (s, se, psk; uid, hello) ──────▶ who the initiator is, readable only with the network secret
//!                  ◀──────────────  Sealed (Welcome: uid, hello)   proof that the responder has it too
//! Sealed …         ◀─────────────▶  Sealed …
//! ```
//! Either side may say Refused, with a code, at any point, and is deaf afterwards.

mod channel;
pub mod preface;
mod record;
pub mod refusal;
pub mod session;
