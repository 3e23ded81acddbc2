//! Hashes, codes and derived keys: SHA-256, HMAC (RFC 2104) and HKDF (RFC 5869), each use told apart by a label.
//!
//! Labels are the only thing that keeps one key from being used for two things, so each is written once, where it is used,
//! and ends in a version.

#![expect(clippy::expect_used, reason = "BoringSSL fails here only when it cannot allocate; the lengths are fixed")]

use boring::{
    hash::{MessageDigest, hmac_sha256},
    hkdf::HkdfSuite,
    sha::Sha256,
};
use zeroize::{Zeroize, Zeroizing};

/// SHA-256 of the parts one after another. All but the last must be of fixed length for the hash to be unambiguous.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finish()
}

/// HMAC-SHA-256 of `data`, cut to 128 bits (RFC 2104 §5).
pub(crate) fn mac(key: &[u8; 32], data: &[u8]) -> [u8; 16] {
    let full = hmac_sha256(key, data).expect("memory for a hash");
    *full.first_chunk().expect("16 of 32 bytes")
}

/// `N` bytes for the use that `label` names, from a secret of full entropy; `salt` may be public.
///
/// # Panics
/// When BoringSSL cannot allocate.
pub(crate) fn derive<const N: usize>(secret: &[u8], salt: &[u8], label: &str) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "RFC 5869 §2.3") };
    let suite = HkdfSuite::new(MessageDigest::sha256());
    let mut prk = suite.extract(salt, secret).expect("memory for a hash");
    let mut key = Zeroizing::new([0; N]);
    suite.expand(&prk, label.as_bytes(), &mut key[..]).expect("the length is checked above");
    prk.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derive_is_hkdf() {
        // RFC 5869 A.3, whose info and salt are empty.
        let key = derive::<42>(&[0x0b; 22], &[], "");
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
    }

    #[test]
    fn labels_and_salts_tell_keys_apart() {
        let key = |salt: &[u8], label| derive::<32>(&[1; 32], salt, label);
        assert_ne!(key(b"", "a"), key(b"", "b"));
        assert_ne!(key(b"a", "a"), key(b"b", "a"));
    }

    #[test]
    fn mac_is_a_cut_hmac() {
        // By the definition of RFC 2104 §2.
        let (key, data) = ([7; 32], b"data");
        let pad = |byte: u8| [key.map(|k| k ^ byte), [byte; 32]].concat();
        let inner = sha256(&[&pad(0x36), data]);
        assert_eq!(mac(&key, data), sha256(&[&pad(0x5c), &inner])[..16]);
    }
}
