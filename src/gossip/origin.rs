//! What one peer wrote, as far as it is known here.
//!
//! The origin numbers its changes 1, 2, 3 … ([`Seq`]); a key's entry carries the number of its last change. `seq` is how
//! far we know. Removed keys leave a tombstone with a number, the newest [`TOMBSTONES_MAX`] of them: removals up to
//! `floor` may be forgotten, so a reader who knows less than that is told which entries live instead. An origin that
//! starts again takes a larger [`Incarnation`] and begins at 1; everything older is then void.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ENTRIES_MAX, MESSAGE_MAX, Replicated, TOMBSTONES_MAX,
    delta::{Entry, OriginDelta, Stored},
};
use crate::{entropy::Entropy, id::PeerName};

/// Number of a change within one incarnation of its origin; the first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Seq(pub u64);

/// One life of an origin: a later one is larger. Two lives must never share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Incarnation(pub u64);

impl Seq {
    /// Before the first change.
    pub const ZERO: Self = Self(0);
    /// The origin's first change: its start, with nothing in it.
    pub const START: Self = Self(1);
    /// The last one: a change each microsecond for four years. It bounds the size of a list of them.
    pub const MAX: Self = Self(1 << 47);

    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Incarnation {
    /// The last one; far from any clock.
    pub const MAX: Self = Self(1 << 62);
    /// Random bits at the end, so that lives that begin in one second, or after the same earlier one, differ.
    const RANDOM_BITS: u32 = 24;

    /// A life that begins at this Unix time in seconds. If the clock lagged behind an earlier life's, others say so.
    pub fn starting(unix_seconds: u64, entropy: &Entropy) -> Self {
        let seconds = unix_seconds.min(Self::MAX.0 >> (Self::RANDOM_BITS + 1));
        Self(seconds << Self::RANDOM_BITS | Self::random(entropy))
    }

    /// A life later than this one.
    pub fn later(self, entropy: &Entropy) -> Self {
        Self(self.0.saturating_add(1 + Self::random(entropy)))
    }

    fn random(entropy: &Entropy) -> u64 {
        entropy.number() >> (u64::BITS - Self::RANDOM_BITS)
    }
}

/// What a delta would do to what is known of its origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// It brings something new.
    New,
    /// All of it is known, or outdated.
    Old,
    /// It begins beyond what is known.
    Gap,
}

/// The entries of one origin.
#[derive(Clone, Debug)]
pub(super) struct Origin<K, V> {
    pub(super) incarnation: Incarnation,
    pub(super) seq: Seq,
    floor: Seq,
    live: BTreeMap<K, (Seq, Stored<V>)>,
    dead: BTreeMap<K, Seq>,
}

impl<K: Replicated + Ord, V: Replicated> Origin<K, V> {
    pub(super) fn new(incarnation: Incarnation, seq: Seq) -> Self {
        Self { incarnation, seq, floor: Seq::ZERO, live: BTreeMap::new(), dead: BTreeMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.live.get(key).map(|(_, stored)| &stored.value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.live.iter().map(|(key, (_, stored))| (key, &stored.value))
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// The next change, made by ourselves, as the delta that tells it.
    pub(super) fn write(&mut self, name: PeerName, key: K, value: Option<Stored<V>>) -> OriginDelta<K, V> {
        let (base, seq) = (self.seq, self.seq.next());
        let entry = Entry { seq, key, value };
        let delta =
            OriginDelta { name, incarnation: self.incarnation, base, to: seq, kept: None, entries: vec![entry] };
        self.absorb(delta.clone());
        delta
    }

    /// Begins anew as `incarnation` with the same entries.
    pub(super) fn restart(&mut self, incarnation: Incarnation) {
        let live = std::mem::take(&mut self.live);
        *self = Self::new(incarnation, Seq::START);
        for (key, (_, stored)) in live {
            self.seq = self.seq.next();
            self.live.insert(key, (self.seq, stored));
        }
    }

    pub(super) fn fit(&self, delta: &OriginDelta<K, V>) -> Fit {
        if (delta.incarnation, delta.to) <= (self.incarnation, self.seq) {
            return Fit::Old;
        }
        let known = if delta.incarnation == self.incarnation { self.seq } else { Seq::ZERO };
        if delta.base > known { Fit::Gap } else { Fit::New }
    }

    /// Whether no more than [`ENTRIES_MAX`] entries live after `delta`, which fits.
    pub(super) fn has_room_for(&self, delta: &OriginDelta<K, V>) -> bool {
        let count = if delta.incarnation > self.incarnation {
            delta.living()
        } else if let Some(kept) = &delta.kept {
            kept.len() + delta.living()
        } else {
            let fresh = delta.entries.iter().filter(|entry| entry.seq > self.seq);
            let (set, removed): (Vec<_>, Vec<_>) = fresh.partition(|entry| entry.value.is_some());
            let added = set.into_iter().filter(|entry| !self.live.contains_key(&entry.key)).count();
            self.live.len() + added - removed.into_iter().filter(|entry| self.live.contains_key(&entry.key)).count()
        };
        count <= ENTRIES_MAX
    }

    /// Applies a delta that fits; returns the keys whose values changed.
    pub(super) fn absorb(&mut self, delta: OriginDelta<K, V>) -> Vec<K> {
        let mut dropped = self.drop_what_is_void(&delta);
        let known = if delta.kept.is_some() { Seq::ZERO } else { self.seq };
        let mut changed = Vec::new();
        for Entry { seq, key, value } in delta.entries.into_iter().filter(|entry| entry.seq > known) {
            self.dead.remove(&key);
            let was = self.live.remove(&key).map(|(_, stored)| stored).or_else(|| dropped.remove(&key));
            if was.as_ref().map(|stored| &stored.value) != value.as_ref().map(|stored| &stored.value) {
                changed.push(key.clone());
            }
            match value {
                Some(stored) => drop(self.live.insert(key, (seq, stored))),
                None => drop(self.dead.insert(key, seq)),
            }
        }
        self.seq = delta.to;
        self.forget_old_tombstones();
        changed.extend(dropped.into_keys());
        changed
    }

    /// What somebody lacks who knows all up to `base`, in parts that each fit a message; at most `limit` of them.
    pub(super) fn since(&self, name: PeerName, base: Seq, limit: usize) -> Vec<OriginDelta<K, V>> {
        if base >= self.seq {
            return Vec::new();
        }
        let mut log: Vec<_> = self.entries_after(base).collect();
        log.sort_by_key(|entry| entry.seq);
        let mut log = log.into_iter().peekable();
        let (mut parts, mut base) = (Vec::new(), base);
        while base < self.seq && parts.len() < limit {
            let kept = (base == Seq::ZERO || base < self.floor).then(|| self.live_up_to(base));
            let is_whole = kept.is_some();
            let incarnation = self.incarnation;
            let mut part = OriginDelta { name, incarnation, base, to: self.seq, kept, entries: Vec::new() };
            let mut size = part.encoded_len();
            while let Some(entry) = log.peek() {
                // A whole delta says what is removed by not listing it.
                let is_listed = entry.value.is_some() || !is_whole;
                let cost = if is_listed { entry.cost() } else { 0 };
                if !part.entries.is_empty() && size + cost > MESSAGE_MAX {
                    break;
                }
                size += cost;
                part.to = entry.seq;
                part.entries.extend(log.next().filter(|_| is_listed));
            }
            if log.peek().is_none() {
                part.to = self.seq;
            }
            base = part.to;
            parts.push(part);
        }
        parts
    }

    /// Takes out what lives no longer, by another incarnation or because a whole delta does not list it.
    fn drop_what_is_void(&mut self, delta: &OriginDelta<K, V>) -> BTreeMap<K, Stored<V>> {
        let restarted = delta.incarnation > self.incarnation;
        if restarted {
            (self.incarnation, self.seq, self.floor) = (delta.incarnation, Seq::ZERO, Seq::ZERO);
            self.dead.clear();
        }
        let mut alive = BTreeSet::new();
        if let Some(kept) = &delta.kept {
            alive.extend(kept.iter().copied());
            alive.extend(delta.entries.iter().map(|entry| entry.seq));
            self.floor = delta.to;
            self.dead.clear();
        }
        if !restarted && delta.kept.is_none() {
            return BTreeMap::new();
        }
        let void = |_: &K, (seq, _): &mut (Seq, Stored<V>)| restarted || !alive.contains(seq);
        self.live.extract_if(.., void).map(|(key, (_, stored))| (key, stored)).collect()
    }

    fn forget_old_tombstones(&mut self) {
        while self.dead.len() > TOMBSTONES_MAX {
            let Some((key, seq)) = self.dead.iter().min_by_key(|(_, seq)| **seq).map(|(k, s)| (k.clone(), *s)) else {
                return;
            };
            self.dead.remove(&key);
            self.floor = self.floor.max(seq);
        }
    }

    fn entries_after(&self, base: Seq) -> impl Iterator<Item = Entry<K, V>> {
        let live = self.live.iter().filter(move |(_, (seq, _))| *seq > base).map(|(key, (seq, stored))| Entry {
            seq: *seq,
            key: key.clone(),
            value: Some(stored.clone()),
        });
        let dead = self.dead.iter().filter(move |(_, seq)| **seq > base);
        live.chain(dead.map(|(key, seq)| Entry { seq: *seq, key: key.clone(), value: None }))
    }

    fn live_up_to(&self, base: Seq) -> Vec<Seq> {
        let mut kept: Vec<_> = self.live.values().map(|(seq, _)| *seq).filter(|seq| *seq <= base).collect();
        kept.sort_unstable();
        kept
    }
}
