//! One replicated channel of a node: its replica, and what changed in it that nobody has looked at yet.
//!
//! [`Replicating`] is what all channels have in common whatever is in them, so that exchanging them with neighbours is
//! written once.

use std::collections::BTreeSet;

use crate::{
    entropy::Entropy,
    gossip::{
        Replicated,
        delta::DeltaError,
        digest::DigestError,
        origin::Incarnation,
        replica::{Compared, Repair, Replica},
    },
    id::PeerName,
};

/// A replica and its unseen changes.
#[derive(Debug)]
pub(super) struct Channel<K, V> {
    pub(super) replica: Replica<K, V>,
    changed: BTreeSet<(PeerName, K)>,
}

impl<K: Replicated + Ord, V: Replicated> Channel<K, V> {
    pub(super) fn new(name: PeerName, incarnation: Incarnation) -> Self {
        Self { replica: Replica::new(name, incarnation), changed: BTreeSet::new() }
    }

    /// Notes a change of our own, which needs looking at too.
    pub(super) fn note(&mut self, origin: PeerName, key: K) {
        self.changed.insert((origin, key));
    }

    /// Keys that changed since last asked, with their origins.
    pub(super) fn take_changed(&mut self) -> BTreeSet<(PeerName, K)> {
        std::mem::take(&mut self.changed)
    }
}

/// What a delta did.
#[derive(Debug)]
pub(super) struct Taken {
    /// To be passed on to other neighbours.
    pub(super) forward: Option<Vec<u8>>,
    /// Origins of which something was new, and those of which something is missing.
    pub(super) news: Vec<PeerName>,
    pub(super) gaps: Vec<PeerName>,
    /// Others know a later life of ours.
    pub(super) later: Option<Incarnation>,
}

/// A channel as neighbours see it. `include` says which origins are told of.
pub(super) trait Replicating {
    /// As [`Replica::digest_hash`].
    fn digest_hash(&self, include: &dyn Fn(PeerName) -> bool) -> u64;
    /// As [`Replica::digest`].
    fn digest(&self, include: &dyn Fn(PeerName) -> bool) -> Vec<Vec<u8>>;
    /// As [`Replica::ranges`].
    fn ranges(&self, include: &dyn Fn(PeerName) -> bool) -> Vec<u8>;
    /// As [`Replica::digest_where_other`].
    fn digest_where_other(
        &self,
        ranges: &[u8],
        include: &dyn Fn(PeerName) -> bool,
    ) -> Result<Vec<Vec<u8>>, DigestError>;
    /// As [`Replica::digest_of`].
    fn digest_of(&self, name: PeerName) -> Vec<u8>;
    /// As [`Replica::announcements`].
    fn announcements(&self, names: &BTreeSet<PeerName>) -> Vec<Vec<u8>>;
    /// As [`Replica::compare`].
    fn compare(&self, announcement: &[u8]) -> Result<Compared, DigestError>;
    /// As [`Replica::delta_since`].
    fn delta_since(&self, digest: &[u8], include: &dyn Fn(PeerName) -> bool) -> Result<Repair, DigestError>;
    /// As [`Replica::merge`]; remembers what changed.
    fn merge(&mut self, delta: &[u8]) -> Result<Taken, DeltaError>;
    /// As [`Replica::restart`].
    fn restart(&mut self, above: Incarnation, entropy: &Entropy) -> Vec<Vec<u8>>;
}

impl<K: Replicated + Ord, V: Replicated> Replicating for Channel<K, V> {
    fn digest_hash(&self, include: &dyn Fn(PeerName) -> bool) -> u64 {
        self.replica.digest_hash(include)
    }

    fn digest(&self, include: &dyn Fn(PeerName) -> bool) -> Vec<Vec<u8>> {
        self.replica.digest(include)
    }

    fn ranges(&self, include: &dyn Fn(PeerName) -> bool) -> Vec<u8> {
        self.replica.ranges(include)
    }

    fn digest_where_other(
        &self,
        ranges: &[u8],
        include: &dyn Fn(PeerName) -> bool,
    ) -> Result<Vec<Vec<u8>>, DigestError> {
        self.replica.digest_where_other(ranges, include)
    }

    fn digest_of(&self, name: PeerName) -> Vec<u8> {
        self.replica.digest_of(name)
    }

    fn announcements(&self, names: &BTreeSet<PeerName>) -> Vec<Vec<u8>> {
        self.replica.announcements(names)
    }

    fn compare(&self, announcement: &[u8]) -> Result<Compared, DigestError> {
        self.replica.compare(announcement)
    }

    fn delta_since(&self, digest: &[u8], include: &dyn Fn(PeerName) -> bool) -> Result<Repair, DigestError> {
        self.replica.delta_since(digest, include)
    }

    fn merge(&mut self, delta: &[u8]) -> Result<Taken, DeltaError> {
        let merged = self.replica.merge(delta)?;
        for (origin, keys) in merged.changed {
            self.changed.extend(keys.into_iter().map(|key| (origin, key)));
        }
        Ok(Taken { forward: merged.forward, news: merged.news, gaps: merged.gaps, later: merged.outdated_self })
    }

    fn restart(&mut self, above: Incarnation, entropy: &Entropy) -> Vec<Vec<u8>> {
        self.replica.restart(above, entropy)
    }
}
