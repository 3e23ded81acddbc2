//! A map that is cheap to copy and cheap to change after it was: it is cut into shards, and a change copies only its own.
//!
//! A table of a hundred thousand names is published at every change; so a change costs a few hundred entries, not all.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// So many that the shards of a large network are small, and the copy of all their pointers too.
const SHARDS: usize = 256;

/// The map. Copies share what neither has changed since.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V>(Vec<Arc<BTreeMap<K, V>>>);

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Arc::default()).collect())
    }
}

impl<K: Ord + Hash + Clone, V: Clone> Shards<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0[shard(key)].get(key)
    }

    /// The shard of a key, to be changed.
    pub(super) fn shard_mut(&mut self, key: &K) -> &mut BTreeMap<K, V> {
        Arc::make_mut(&mut self.0[shard(key)])
    }

    /// All entries, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flat_map(|shard| shard.iter())
    }
}

/// In which shard a key is: always the same, as the hasher has fixed keys.
fn shard(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // The remainder is less than SHARDS.
    (hasher.finish() % SHARDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_and_shares_the_rest() {
        let mut map = Shards::default();
        for key in 0..10_000_u32 {
            map.shard_mut(&key).insert(key, key);
        }
        let copy = map.clone();
        map.shard_mut(&7).insert(7, 0);
        assert_eq!((copy.get(&7), map.get(&7), map.get(&8)), (Some(&7), Some(&0), Some(&8)));
        assert_eq!(copy.iter().count(), 10_000);
        let shared = copy.0.iter().zip(&map.0).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert_eq!(shared, SHARDS - 1);
    }
}
