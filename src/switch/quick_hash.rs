//! A hash for the look-ups of the data plane, several for each frame: one multiplication for eight bytes.
//!
//! Keys are Ethernet and IP addresses, which containers may choose, so each table hashes with two secret numbers of its
//! own: who does not know them can find no colliding keys. That is less than SipHash, the default, promises, but the
//! tables here are bounded and their hashes are never shown.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes the hashers of one table.
#[derive(Clone, Copy, Debug)]
pub struct QuickHash {
    start: u64,
    factor: u64,
}

/// The hash of one key.
#[derive(Clone, Copy, Debug)]
pub struct QuickHasher {
    state: u64,
    factor: u64,
}

impl Default for QuickHash {
    /// Secret numbers from the standard library's, which are the operating system's.
    fn default() -> Self {
        let secret = RandomState::new();
        Self { start: secret.hash_one(0), factor: secret.hash_one(1) | 1 }
    }
}

impl QuickHash {
    /// With numbers that are no secret: for what has to be alike in several places, and is no table. `factor` is odd.
    pub const fn known(start: u64, factor: u64) -> Self {
        Self { start, factor }
    }
}

impl BuildHasher for QuickHash {
    type Hasher = QuickHasher;

    fn build_hasher(&self) -> QuickHasher {
        QuickHasher { state: self.start, factor: self.factor }
    }
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_ne_bytes(*word)));
        if !rest.is_empty() {
            let last = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.write_u64(last);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        // Both halves of the product, so that each bit of the key reaches all of the hash.
        let product = u128::from(self.state ^ value) * u128::from(self.factor);
        self.state = (product as u64) ^ (product >> 64) as u64;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::id::Mac;

    #[test]
    fn equal_keys_hash_alike_in_one_table_and_not_in_another() {
        let (one, other) = (QuickHash::default(), QuickHash::default());
        let key = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(one.hash_one(key), one.hash_one(key));
        assert_ne!(one.hash_one(key), other.hash_one(key));
    }

    #[test]
    fn addresses_in_a_row_spread_over_all_buckets() {
        // hashbrown takes the place from the lowest bits and a tag from the highest seven. Single tables may be unlucky in
        // their secret numbers: many together are not.
        const TABLES: usize = 200;
        let (mut places, mut tags) = (0, 0);
        for _ in 0..TABLES {
            let hash = QuickHash::default();
            let key = |number: u16| Mac([2, 0, 0, 0, (number >> 8) as u8, number as u8]);
            let hashes: Vec<u64> = (0..1024).map(|number| hash.hash_one(key(number))).collect();
            let distinct = |part: fn(u64) -> u64| hashes.iter().map(|hash| part(*hash)).collect::<BTreeSet<_>>().len();
            places += distinct(|hash| hash & 1023);
            tags += distinct(|hash| hash >> 57);
        }
        // Of 1024 buckets chance fills 647 (1 - 1/e), of 128 tags all; even spreading may fill more.
        assert!(places / TABLES > 600, "{}", places / TABLES);
        assert!(tags / TABLES > 100, "{}", tags / TABLES);
    }

    #[test]
    fn no_byte_is_overlooked() {
        let hash = QuickHash::default();
        let keys = (0..20).map(|at| {
            let mut key = [0_u8; 20];
            key[at] = 1;
            hash.hash_one(key)
        });
        assert_eq!(keys.collect::<BTreeSet<_>>().len(), 20);
    }
}
