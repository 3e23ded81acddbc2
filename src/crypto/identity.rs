//! Who a peer is: its static X25519 key, and the name derived from it.

use zeroize::Zeroizing;

use crate::{entropy::Entropy, id::PeerName};

/// A static public key (X25519, RFC 7748).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The name of the peer that holds the secret half.
    pub fn peer_name(&self) -> PeerName {
        PeerName([0; 6])
    }
}

/// A peer's static key pair; the secret half is wiped when dropped and never shown.
#[derive(Clone)]
pub struct Identity {
    secret: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl Identity {
    /// A new key pair.
    pub fn generate(entropy: &Entropy) -> Self {
        Self::from_secret(entropy.secret())
    }

    /// The pair with this secret half.
    pub fn from_secret(secret: Zeroizing<[u8; 32]>) -> Self {
        Self { secret, public: PublicKey([0; 32]) }
    }

    /// The secret half, for the store and the handshakes.
    pub fn secret(&self) -> &Zeroizing<[u8; 32]> {
        &self.secret
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The peer's name.
    pub fn name(&self) -> PeerName {
        self.public.peer_name()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.name()).finish()
    }
}
