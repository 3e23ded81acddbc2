//! Who a peer is: its static X25519 key, and the name derived from it.
//!
//! BoringSSL's X25519 is reached through its `PKey`, which takes keys only in DER: a constant in front of the 32 bytes.

#![expect(
    clippy::expect_used,
    reason = "any 32 bytes are an X25519 key (RFC 7748 §5), so BoringSSL refuses one only for lack of memory"
)]

use boring::{
    derive::Deriver,
    pkey::{PKey, Private, Public},
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::kdf;
use crate::{entropy::Entropy, id::PeerName};

/// DER of a private X25519 key up to the key itself (RFC 8410 §7, PKCS#8).
const PRIVATE_DER: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20];
/// DER of a public X25519 key up to the key itself (RFC 8410 §4).
const PUBLIC_DER: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 3, 0x21, 0];
const NAME_LABEL: &[u8] = b"weft peer name v1";

/// A public key that gives the same secret with every other key, as no honest key does (RFC 7748 §6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the public key is of low order: it belongs to no honest peer")]
pub struct LowOrderKey;

/// A static public key (X25519, RFC 7748).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The name of the peer that holds the secret half: 46 bits of a hash, locally administered, not a group.
    ///
    /// Names can be made to collide with about 2^46 keys; whoever must be sure compares keys.
    pub fn peer_name(&self) -> PeerName {
        let [first, b, c, d, e, f, ..] = kdf::sha256(&[NAME_LABEL, &self.0]);
        PeerName([first & !1 | 2, b, c, d, e, f])
    }
}

/// A peer's static key pair; the secret half is wiped when dropped and never shown.
#[derive(Clone)]
pub struct Identity {
    secret: Zeroizing<[u8; 32]>,
    /// As BoringSSL holds it, which wipes what it frees. Reading it from the bytes takes as long as using it.
    private: PKey<Private>,
    public: PublicKey,
}

impl Identity {
    /// A new key pair.
    pub fn generate(entropy: &Entropy) -> Self {
        Self::from_secret(entropy.secret())
    }

    /// The pair with this secret half.
    ///
    /// # Panics
    /// When BoringSSL cannot allocate.
    pub fn from_secret(secret: Zeroizing<[u8; 32]>) -> Self {
        let private = private_key(&secret);
        let mut public = [0; 32];
        private.raw_public_key(&mut public).expect("an X25519 key has 32 public bytes");
        Self { secret, private, public: PublicKey(public) }
    }

    /// The secret half, for the store and the handshakes.
    pub fn secret(&self) -> &Zeroizing<[u8; 32]> {
        &self.secret
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn public_bytes(&self) -> &[u8] {
        &self.public.0
    }

    /// The peer's name.
    pub fn name(&self) -> PeerName {
        self.public.peer_name()
    }

    /// The secret shared with the holder of `theirs` (RFC 7748 §6.1), to be hashed before use.
    pub fn agree(&self, theirs: &PublicKey) -> Result<Zeroizing<[u8; 32]>, LowOrderKey> {
        let public = public_key(theirs);
        let mut deriver = Deriver::new(&self.private).expect("memory for a key");
        deriver.set_peer(&public).expect("both are X25519 keys");
        let mut shared = Zeroizing::new([0; 32]);
        // BoringSSL refuses an all-zero result; that is the only way to fail with well-formed keys.
        deriver.derive(&mut shared[..]).map_err(|_| LowOrderKey)?;
        Ok(shared)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.name()).finish()
    }
}

fn private_key(secret: &[u8; 32]) -> PKey<Private> {
    let mut der = Zeroizing::new([0; PRIVATE_DER.len() + 32]);
    der[..PRIVATE_DER.len()].copy_from_slice(&PRIVATE_DER);
    der[PRIVATE_DER.len()..].copy_from_slice(secret);
    PKey::private_key_from_pkcs8(&der[..]).expect("any 32 bytes are an X25519 key")
}

fn public_key(public: &PublicKey) -> PKey<Public> {
    let mut der = [0; PUBLIC_DER.len() + 32];
    der[..PUBLIC_DER.len()].copy_from_slice(&PUBLIC_DER);
    der[PUBLIC_DER.len()..].copy_from_slice(&public.0);
    PKey::public_key_from_der(&der).expect("any 32 bytes are an X25519 key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hex: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn keys_and_secrets_are_those_of_rfc_7748() {
        // RFC 7748 §6.1.
        let alice = Identity::from_secret(Zeroizing::new(key(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        )));
        let bob = Identity::from_secret(Zeroizing::new(key(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        )));
        assert_eq!(bob.public().0, key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        assert_eq!(alice.public().0, key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
        let shared = key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(alice.agree(&bob.public()), Ok(Zeroizing::new(shared)));
        assert_eq!(bob.agree(&alice.public()), Ok(Zeroizing::new(shared)));
    }

    #[test]
    fn keys_of_low_order_are_refused() {
        let identity = Identity::generate(&Entropy::seeded([1; 32]));
        let mut one = [0; 32];
        one[0] = 1;
        for low in [[0; 32], one, key("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")] {
            assert_eq!(identity.agree(&PublicKey(low)), Err(LowOrderKey));
        }
    }

    #[test]
    fn a_name_is_a_local_unicast_address_that_follows_from_the_key() {
        for seed in 0..64 {
            let identity = Identity::generate(&Entropy::seeded([seed; 32]));
            assert_eq!(identity.name().0[0] & 3, 2);
            assert_eq!(identity.name(), Identity::from_secret(identity.secret().clone()).name());
        }
        assert_eq!(PublicKey([0; 32]).peer_name().to_string(), "52:84:65:26:fa:97");
        assert!(!format!("{:?}", Identity::from_secret(Zeroizing::new([77; 32]))).contains("77"));
    }
}
