//! A replicated state: everybody's entries, each written by its origin alone.
//!
//! Merging is commutative, associative and idempotent in its final state: an origin's changes are applied in the order
//! of their numbers, without holes, whatever the order of arrival; a delta that begins beyond what is known is not
//! applied but reported as a gap, and repaired by sending our digest to whoever sent it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeBounds,
};

use thiserror::Error;

use super::{
    ENTRIES_MAX, KEY_MAX, ORIGINS_MAX, REPAIR_MESSAGES_MAX, Replicated, VALUE_MAX,
    delta::{self, DeltaError, OriginDelta, Stored},
    digest::{self, DigestError, Known, Part, Ranges},
    origin::{Fit, Incarnation, Origin, Seq},
};
use crate::{entropy::Entropy, id::PeerName};

/// Why an entry of our own could not be set.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SetError {
    /// We have [`ENTRIES_MAX`] entries already.
    #[error("this peer shares {ENTRIES_MAX} entries already: remove some first")]
    Full,
    /// The key is longer than [`KEY_MAX`] or the value longer than [`VALUE_MAX`], encoded.
    #[error("the entry is longer than {VALUE_MAX} bytes, or its key than {KEY_MAX}")]
    TooLong,
}

/// What a delta changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged<K> {
    /// Keys whose values changed, appeared or went, of each origin.
    pub changed: Vec<(PeerName, Vec<K>)>,
    /// The delta to pass on to other neighbours: what was new here. None if nothing was.
    pub forward: Option<Vec<u8>>,
    /// Origins of which there was something new.
    pub news: Vec<PeerName>,
    /// Origins of which something was left out because it begins beyond what we know: send our digest to the delta's sender.
    pub gaps: Vec<PeerName>,
    /// Others know a later life of ours than we live: call [`Replica::restart`] with this and flood its result.
    pub outdated_self: Option<Incarnation>,
}

/// What an announcement says, compared with what is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Origins of which its author knows more.
    pub wanting: Vec<PeerName>,
    /// Those of which it knows as much.
    pub same: Vec<PeerName>,
}

/// The answer to a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What the digest's author lacks; at most [`REPAIR_MESSAGES_MAX`] messages.
    pub deltas: Vec<Vec<u8>>,
    /// Origins of which the author knows something that we do not: send our digest, of these at least.
    pub behind: Vec<PeerName>,
}

/// The state of one channel as known here.
#[derive(Clone, Debug)]
pub struct Replica<K, V> {
    name: PeerName,
    own: Origin<K, V>,
    others: BTreeMap<PeerName, Origin<K, V>>,
    /// How far those said something who are buried.
    buried: BTreeMap<PeerName, Known>,
}

impl<K: Replicated + Ord, V: Replicated> Replica<K, V> {
    /// An empty state of the peer `name`, living its `incarnation`.
    pub fn new(name: PeerName, incarnation: Incarnation) -> Self {
        Self { name, own: Origin::new(incarnation, Seq::START), others: BTreeMap::new(), buried: BTreeMap::new() }
    }

    /// Which life of ours this is.
    pub fn incarnation(&self) -> Incarnation {
        self.own.incarnation
    }

    /// Sets an entry of our own. Returns the delta to flood, None if it was set so already.
    pub fn set(&mut self, key: K, value: V) -> Result<Option<Vec<u8>>, SetError> {
        if self.own.get(&key) == Some(&value) {
            return Ok(None);
        }
        if self.own.get(&key).is_none() && self.own.len() >= ENTRIES_MAX {
            return Err(SetError::Full);
        }
        let stored = Stored::new(value);
        if stored.bytes.len() > VALUE_MAX || key.to_bytes().len() > KEY_MAX {
            return Err(SetError::TooLong);
        }
        Ok(encode_one(self.own.write(self.name, key, Some(stored))))
    }

    /// Removes an entry of our own. Returns the delta to flood, None if there was none.
    pub fn remove(&mut self, key: &K) -> Option<Vec<u8>> {
        self.own.get(key)?;
        encode_one(self.own.write(self.name, key.clone(), None))
    }

    /// Takes a life later than `above` and all that we live or lived; returns the deltas to flood.
    pub fn restart(&mut self, above: Incarnation, entropy: &Entropy) -> Vec<Vec<u8>> {
        self.own.restart(above.max(self.own.incarnation).later(entropy));
        delta::encode(&self.own.since(self.name, Seq::ZERO, usize::MAX))
    }

    /// How far each origin that `include` takes is known: one or more messages, each to be answered by itself.
    pub fn digest(&self, include: impl Fn(PeerName) -> bool) -> Vec<Vec<u8>> {
        let known: Vec<_> = self.known(include).collect();
        digest::parts(&known).iter().map(Part::encode).collect()
    }

    /// A number that is equal where digests are equal.
    pub fn digest_hash(&self, include: impl Fn(PeerName) -> bool) -> u64 {
        digest::hash(self.known(include))
    }

    /// A hash for each of some ranges of the names that [`Self::digest`] speaks of, to find what differs where that is little.
    pub fn ranges(&self, include: impl Fn(PeerName) -> bool) -> Vec<u8> {
        let known: Vec<_> = self.known(include).collect();
        Ranges::of(&known).encode()
    }

    /// The digest of those ranges of which the author of `ranges` knows something else: as many messages as it takes.
    pub fn digest_where_other(
        &self,
        ranges: &[u8],
        include: impl Fn(PeerName) -> bool,
    ) -> Result<Vec<Vec<u8>>, DigestError> {
        let known: Vec<_> = self.known(include).collect();
        Ok(Ranges::decode(ranges)?.differing(&known).iter().map(Part::encode).collect())
    }

    /// A digest about one origin alone.
    pub fn digest_of(&self, name: PeerName) -> Vec<u8> {
        Part::of_one(name, self.state(name).map(|origin| (origin.incarnation, origin.seq))).encode()
    }

    /// How far these origins are known, for neighbours who are likely to know it: one or more messages.
    pub fn announcements(&self, names: &BTreeSet<PeerName>) -> Vec<Vec<u8>> {
        let known = |name: &PeerName| self.state(*name).map(|origin| (*name, (origin.incarnation, origin.seq)));
        let known: Vec<_> = names.iter().filter_map(known).collect();
        digest::parts(&known).iter().map(Part::encode).collect()
    }

    /// The origins of which a neighbour announces more than we know, and those of which it announces what we know.
    pub fn compare(&self, announcement: &[u8]) -> Result<Compared, DigestError> {
        let part = Part::decode(announcement)?;
        let names = |are: &dyn Fn(PeerName, Known) -> bool| {
            part.origins.iter().filter(|(name, known)| are(*name, *known)).map(|(name, _)| *name).collect()
        };
        let is_same = |name, known| self.state(name).is_some_and(|origin| (origin.incarnation, origin.seq) == known);
        Ok(Compared { wanting: names(&|name, known| self.is_behind(name, known)), same: names(&is_same) })
    }

    /// What the author of `digest` lacks of the origins that `include` takes.
    pub fn delta_since(&self, digest: &[u8], include: impl Fn(PeerName) -> bool) -> Result<Repair, DigestError> {
        let part = Part::decode(digest)?;
        let mut deltas = Vec::new();
        let range = part.range();
        for (name, origin) in self.states().filter(|(name, _)| range.contains(name)) {
            let base = match part.known(name) {
                Some(known) if known >= (origin.incarnation, origin.seq) => continue,
                Some((incarnation, seq)) if incarnation == origin.incarnation => seq,
                Some(_) | None => Seq::ZERO,
            };
            if include(name) {
                deltas.extend(origin.since(name, base, REPAIR_MESSAGES_MAX));
            }
        }
        let mut deltas = delta::encode(&deltas);
        deltas.truncate(REPAIR_MESSAGES_MAX);
        let behind = part.origins.iter().filter(|(name, known)| self.is_behind(*name, *known));
        Ok(Repair { deltas, behind: behind.map(|(name, _)| *name).collect() })
    }

    /// Applies what is new in a delta from a neighbour; if anything in it is wrong, nothing.
    pub fn merge(&mut self, delta: &[u8]) -> Result<Merged<K>, DeltaError> {
        let deltas: Vec<OriginDelta<K, V>> = delta::decode(delta)?;
        self.check_room(&deltas)?;
        let mut merged =
            Merged { changed: Vec::new(), forward: None, news: Vec::new(), gaps: Vec::new(), outdated_self: None };
        let mut forward = Vec::new();
        for delta in deltas {
            if delta.name == self.name {
                let is_later = (delta.incarnation, delta.to) > (self.own.incarnation, self.own.seq);
                merged.outdated_self = is_later.then_some(delta.incarnation);
                continue;
            }
            match self.fit(&delta) {
                Fit::Old => {}
                Fit::Gap => merged.gaps.push(delta.name),
                Fit::New => {
                    forward.push(delta.to_wire());
                    let name = delta.name;
                    merged.news.push(name);
                    self.buried.remove(&name);
                    let origin =
                        self.others.entry(name).or_insert_with(|| Origin::new(Incarnation::default(), Seq::ZERO));
                    let keys = origin.absorb(delta);
                    if !keys.is_empty() {
                        merged.changed.push((name, keys));
                    }
                }
            }
        }
        // Parts of one message are no longer than the message was.
        merged.forward = delta::encode_wire(forward).pop();
        Ok(merged)
    }

    /// Forgets all of another peer; returns the keys that it had.
    pub fn remove_origin(&mut self, name: PeerName) -> Vec<K> {
        let removed = self.others.remove(&name);
        removed.iter().flat_map(Origin::iter).map(|(key, _)| key.clone()).collect()
    }

    /// Forgets all of another peer, for good: what is still on its way, or what others have not forgotten yet, is not taken
    /// again, or it would go round for ever. More than it had said is, and all once it is [exhumed](Self::exhume).
    pub fn bury(&mut self, name: PeerName) {
        if let Some(origin) = self.others.remove(&name) {
            self.buried.insert(name, (origin.incarnation, origin.seq));
        }
        if self.buried.len() > ORIGINS_MAX {
            self.buried.pop_first();
        }
    }

    /// Takes again whatever a buried peer says: it may have come back.
    pub fn exhume(&mut self, name: PeerName) {
        self.buried.remove(&name);
    }

    /// All origins, ourselves included, in the order of names.
    pub fn origins(&self) -> impl Iterator<Item = PeerName> + '_ {
        self.states().map(|(name, _)| name)
    }

    /// The value of a key of an origin.
    pub fn get(&self, origin: PeerName, key: &K) -> Option<&V> {
        self.state(origin)?.get(key)
    }

    /// All entries of an origin, in the order of keys.
    pub fn of(&self, origin: PeerName) -> impl Iterator<Item = (&K, &V)> {
        self.state(origin).into_iter().flat_map(Origin::iter)
    }

    /// All entries, in the order of origins and keys.
    pub fn iter(&self) -> impl Iterator<Item = (PeerName, &K, &V)> {
        self.states().flat_map(|(name, origin)| origin.iter().map(move |(key, value)| (name, key, value)))
    }

    /// The entries of one origin, in the order of keys.
    pub fn entries(&self, origin: PeerName) -> impl Iterator<Item = (&K, &V)> {
        self.state(origin).into_iter().flat_map(Origin::iter)
    }

    fn states(&self) -> impl Iterator<Item = (PeerName, &Origin<K, V>)> {
        let other = |(name, origin): (&PeerName, _)| (*name, origin);
        let before = self.others.range(..self.name).map(other);
        before.chain([(self.name, &self.own)]).chain(self.others.range(self.name..).map(other))
    }

    fn state(&self, name: PeerName) -> Option<&Origin<K, V>> {
        if name == self.name { Some(&self.own) } else { self.others.get(&name) }
    }

    fn known(&self, include: impl Fn(PeerName) -> bool) -> impl Iterator<Item = (PeerName, Known)> {
        self.states()
            .filter(move |(name, _)| include(*name))
            .map(|(name, origin)| (name, (origin.incarnation, origin.seq)))
    }

    fn is_behind(&self, name: PeerName, known: Known) -> bool {
        let ours = self.state(name).map(|origin| (origin.incarnation, origin.seq));
        ours.or_else(|| self.buried.get(&name).copied()).is_none_or(|ours| ours < known)
    }

    fn fit(&self, delta: &OriginDelta<K, V>) -> Fit {
        match self.others.get(&delta.name) {
            Some(origin) => origin.fit(delta),
            None if self.buried.get(&delta.name).is_some_and(|said| (delta.incarnation, delta.to) <= *said) => Fit::Old,
            None if delta.base == Seq::ZERO => Fit::New,
            None => Fit::Gap,
        }
    }

    fn check_room(&self, deltas: &[OriginDelta<K, V>]) -> Result<(), DeltaError> {
        let fitting = || deltas.iter().filter(|delta| delta.name != self.name && self.fit(delta) == Fit::New);
        let new = fitting().filter(|delta| !self.others.contains_key(&delta.name)).count();
        if self.others.len() + 1 + new > ORIGINS_MAX {
            return Err(DeltaError::TooManyOrigins);
        }
        for delta in fitting() {
            let has_room = match self.others.get(&delta.name) {
                Some(origin) => origin.has_room_for(delta),
                None => delta.living() <= ENTRIES_MAX,
            };
            if !has_room {
                return Err(DeltaError::TooManyEntries(delta.name));
            }
        }
        Ok(())
    }
}

/// A delta of one change, which fits one message.
fn encode_one<K: Replicated, V: Replicated>(delta: OriginDelta<K, V>) -> Option<Vec<u8>> {
    delta::encode(&[delta]).pop()
}

#[cfg(test)]
mod tests;
