//! The network secret: generated, or stretched from a password. From it come the pre-shared keys of the handshakes.
//!
//! A password is stretched with a salt that follows from the network's name, as all peers must arrive at the same key and
//! have nothing else in common. So an attacker who took part in one handshake can try guesses at leisure, each at the
//! price of one Argon2id; hence the lower bound on a password's strength, and `weft secret` for the real thing.

mod generated;
mod strength;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use thiserror::Error;
use zeroize::Zeroizing;

pub use self::generated::generate;
use crate::{crypto::kdf, id::NetworkName};

/// Weakest password taken without being told to, in bits of guessing work.
pub const STRENGTH_MIN_BITS: u32 = 50;
/// Longest secret text in bytes.
pub const TEXT_MAX: usize = 1024;

/// Argon2id at the first of the settings that OWASP's Password Storage Cheat Sheet recommends for machines with little
/// memory to spare: 19 MiB, 2 passes, 1 lane.
const STRETCH_MEMORY_KIB: u32 = 19 * 1024;
const STRETCH_PASSES: u32 = 2;
const STRETCH_LANES: u32 = 1;

const SALT_LABEL: &[u8] = b"weft password salt v1";
const OPEN_LABEL: &[u8] = b"weft open network v1";
const CONTROL_LABEL: &str = "weft control psk v1";
const LINK_LABEL: &str = "weft link psk v1";

/// Why a text cannot be a network secret.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum SecretError {
    /// Nothing in it.
    #[error("the password is empty: make one with `weft secret`")]
    Empty,
    /// Longer than [`TEXT_MAX`].
    #[error("the password is longer than {TEXT_MAX} bytes: is it the right file? Make one with `weft secret`")]
    TooLong,
    /// It has the form of a generated secret, but letters are wrong, missing or too many.
    #[error("this secret was made by `weft secret`, but its checksum is wrong: copy all of it again, exactly")]
    Mistyped,
    /// Too easy to guess.
    #[error(
        "the password is too easy to guess (about {bits} bits, at least {STRENGTH_MIN_BITS} are needed): make one with \
         `weft secret`, use four or more random words, or insist with --allow-weak-password"
    )]
    Weak {
        /// Estimated guessing work.
        bits: u32,
    },
}

/// The secret of a network, as the keys that come from it; wiped when dropped and never shown.
#[derive(Clone)]
pub struct NetworkSecret {
    control: Zeroizing<[u8; 32]>,
    link: Zeroizing<[u8; 32]>,
    open: bool,
}

impl NetworkSecret {
    /// The secret that `text` stands for in `network`: a generated one as it is, any other text by Argon2id (which takes
    /// 19 MiB and a noticeable time). White space around it, such as a file's last newline, does not count; otherwise
    /// its UTF-8 bytes do, just as they are.
    pub fn from_text(text: &str, network: &NetworkName, allow_weak: bool) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(SecretError::TooLong);
        }
        if generated::is_meant(text) {
            let bytes = generated::parse(text).ok_or(SecretError::Mistyped)?;
            return Ok(Self::derived(&bytes, network, false));
        }
        let bits = strength::bits(text);
        if bits < STRENGTH_MIN_BITS && !allow_weak {
            return Err(SecretError::Weak { bits });
        }
        Ok(Self::derived(&stretch(text, network), network, false))
    }

    /// No secret: whoever knows the network's name may join.
    pub fn open(network: &NetworkName) -> Self {
        Self::derived(&kdf::sha256(&[OPEN_LABEL]), network, true)
    }

    /// The secret with these pre-shared keys, as a recording keeps them.
    pub fn restored(control: Zeroizing<[u8; 32]>, link: Zeroizing<[u8; 32]>, open: bool) -> Self {
        Self { control, link, open }
    }

    /// Whether there is none.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The pre-shared key of control connections.
    pub fn control_psk(&self) -> &Zeroizing<[u8; 32]> {
        &self.control
    }

    /// The pre-shared key of links.
    pub fn link_psk(&self) -> &Zeroizing<[u8; 32]> {
        &self.link
    }

    fn derived(secret: &[u8; 32], network: &NetworkName, open: bool) -> Self {
        let key = |label| kdf::derive(secret, network.as_str().as_bytes(), label);
        Self { control: key(CONTROL_LABEL), link: key(LINK_LABEL), open }
    }
}

impl std::fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.open { "NetworkSecret(none)" } else { "NetworkSecret" })
    }
}

#[expect(clippy::expect_used, reason = "the settings are constants and the lengths fixed; tests run this")]
fn stretch(password: &str, network: &NetworkName) -> Zeroizing<[u8; 32]> {
    let salt = kdf::sha256(&[SALT_LABEL, network.as_str().as_bytes()]);
    let params = Params::new(STRETCH_MEMORY_KIB, STRETCH_PASSES, STRETCH_LANES, Some(32)).expect("valid settings");
    // The memory is ours, so that it is wiped: with it, guesses would be cheap.
    let mut memory = Zeroizing::new(vec![Block::default(); params.block_count()]);
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(password.as_bytes(), &salt, &mut key[..], &mut memory[..])
        .expect("lengths within Argon2's limits");
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    fn network(name: &str) -> NetworkName {
        name.parse().unwrap()
    }

    fn keys(text: &str, name: &str) -> [[u8; 32]; 2] {
        let secret = NetworkSecret::from_text(text, &network(name), true).unwrap();
        assert!(!secret.is_open());
        [**secret.control_psk(), **secret.link_psk()]
    }

    #[test]
    fn every_text_network_and_use_has_a_key_of_its_own() {
        let made = generate(&Entropy::seeded([1; 32]));
        let open = NetworkSecret::open(&network("a"));
        assert!(open.is_open());
        let all: std::collections::BTreeSet<[u8; 32]> =
            [keys("hunter2", "a"), keys("hunter2", "b"), keys("hunter3", "a"), keys(&made, "a"), keys(&made, "b")]
                .into_iter()
                .chain([[**open.control_psk(), **open.link_psk()]])
                .flatten()
                .collect();
        assert_eq!(all.len(), 12);
    }

    #[test]
    fn a_password_gives_the_same_keys_wherever_it_is_typed() {
        assert_eq!(keys("correct horse battery staple", "weft"), keys(" correct horse battery staple\r\n", "weft"));
        // Pins salt, Argon2id's settings and labels: a change would part old peers from new ones.
        assert_eq!(keys("correct horse battery staple", "weft")[0][..8], [163, 141, 196, 76, 95, 110, 24, 132]);
    }

    #[test]
    fn bad_texts_are_refused_by_name() {
        let refused = |text: &str| NetworkSecret::from_text(text, &network("weft"), false).unwrap_err();
        assert_eq!(refused(""), SecretError::Empty);
        assert_eq!(refused(" \n"), SecretError::Empty);
        assert_eq!(refused(&"x".repeat(TEXT_MAX + 1)), SecretError::TooLong);
        assert!(matches!(refused("hunter2"), SecretError::Weak { bits: 1..50 }));
        let made = generate(&Entropy::seeded([1; 32]));
        assert_eq!(refused(&made[..made.len() - 1]), SecretError::Mistyped);
        assert!(NetworkSecret::from_text(&made, &network("weft"), false).is_ok());
        assert!(NetworkSecret::from_text("hunter2", &network("weft"), true).is_ok());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let secret = NetworkSecret::from_text(&generate(&Entropy::System), &network("weft"), false).unwrap();
        assert_eq!(format!("{secret:?}"), "NetworkSecret");
    }
}
