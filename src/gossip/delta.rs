//! Deltas: changes of some origins, as they cross the wire, parsed and checked as a whole.
//!
//! A delta of one origin speaks of the changes after `base` up to `to`. Either it lists all of them, removals included
//! (`kept` is None), or it is whole: the entries that it lists and those that it names as kept by their numbers are all
//! that lives, so everything else is gone. A whole delta is for readers who missed more removals than are remembered.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use super::{
    ENTRIES_MAX, KEY_MAX, MESSAGE_MAX, Malformed, ORIGINS_MAX, Replicated, VALUE_MAX,
    address::name_from_bytes,
    origin::{Incarnation, Seq},
};
use crate::id::PeerName;

/// Why a delta was refused; nothing of it was applied.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeltaError {
    /// Longer than [`MESSAGE_MAX`].
    #[error("the delta has {0} bytes, more than {MESSAGE_MAX}")]
    TooLong(usize),
    /// Not a protobuf message of the expected form.
    #[error("the delta cannot be read: {0}")]
    NotReadable(Malformed),
    /// An origin occurs twice.
    #[error("the delta speaks of {0} twice")]
    OriginTwice(PeerName),
    /// Its numbers contradict each other or exceed their bounds.
    #[error("the delta of {0} has numbers that contradict each other or are out of bounds")]
    BadNumbers(PeerName),
    /// A key occurs twice.
    #[error("the delta of {0} changes one key twice")]
    KeyTwice(PeerName),
    /// A key is malformed.
    #[error("the delta of {0} has a bad key: {1}")]
    BadKey(PeerName, Malformed),
    /// A value is malformed.
    #[error("the delta of {0} has a bad value: {1}")]
    BadValue(PeerName, Malformed),
    /// More origins than a replica holds.
    #[error("the delta would make more than {ORIGINS_MAX} peers known")]
    TooManyOrigins,
    /// More entries than one origin may have.
    #[error("the delta would give {0} more than {ENTRIES_MAX} entries")]
    TooManyEntries(PeerName),
}

/// A value with the bytes it came in, which may hold fields that only newer peers know.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored<V> {
    pub(super) value: V,
    pub(super) bytes: Bytes,
}

/// One change: a key's new value, or its removal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry<K, V> {
    pub(super) seq: Seq,
    pub(super) key: K,
    pub(super) value: Option<Stored<V>>,
}

/// The changes of one origin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OriginDelta<K, V> {
    pub(super) name: PeerName,
    pub(super) incarnation: Incarnation,
    pub(super) base: Seq,
    pub(super) to: Seq,
    /// Some: this delta is whole, and these entries up to `base` live on.
    pub(super) kept: Option<Vec<Seq>>,
    pub(super) entries: Vec<Entry<K, V>>,
}

#[derive(Clone, PartialEq, Message)]
struct DeltaWire {
    #[prost(message, repeated, tag = "1")]
    origins: Vec<OriginWire>,
}

/// [`OriginDelta`] on the wire.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OriginWire {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    base: u64,
    #[prost(uint64, tag = "4")]
    to: u64,
    #[prost(message, repeated, tag = "5")]
    entries: Vec<EntryWire>,
    #[prost(bool, tag = "6")]
    whole: bool,
    /// The first number, then the distance to each next one.
    #[prost(uint64, repeated, tag = "7")]
    kept: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryWire {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    value: Option<Bytes>,
}

/// Encodes deltas into as few messages as hold them.
pub(super) fn encode<K: Replicated, V: Replicated>(deltas: &[OriginDelta<K, V>]) -> Vec<Vec<u8>> {
    encode_wire(deltas.iter().map(OriginDelta::to_wire))
}

/// The same with what is on the wire of each.
pub(super) fn encode_wire(deltas: impl IntoIterator<Item = OriginWire>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let (mut message, mut size) = (DeltaWire::default(), 0);
    for origin in deltas {
        let cost = framed(origin.encoded_len());
        let is_second_part = message.origins.last().is_some_and(|last| last.name == origin.name);
        if is_second_part || (size > 0 && size + cost > MESSAGE_MAX) {
            messages.push(std::mem::take(&mut message).encode_to_vec());
            size = 0;
        }
        size += cost;
        message.origins.push(origin);
    }
    if !message.origins.is_empty() {
        messages.push(message.encode_to_vec());
    }
    messages
}

/// Reads a message of deltas, each origin once.
pub(super) fn decode<K: Replicated + Ord, V: Replicated>(bytes: &[u8]) -> Result<Vec<OriginDelta<K, V>>, DeltaError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(DeltaError::TooLong(bytes.len()));
    }
    let wire = DeltaWire::decode(Bytes::copy_from_slice(bytes)).map_err(|e| DeltaError::NotReadable(e.into()))?;
    let mut seen = BTreeSet::new();
    let mut deltas = Vec::with_capacity(wire.origins.len());
    for origin in wire.origins {
        let delta = OriginDelta::from_wire(origin)?;
        if !seen.insert(delta.name) {
            return Err(DeltaError::OriginTwice(delta.name));
        }
        deltas.push(delta);
    }
    Ok(deltas)
}

impl<V: Replicated> Stored<V> {
    /// A value of our own.
    pub(super) fn new(value: V) -> Self {
        let bytes = value.to_bytes().into();
        Self { value, bytes }
    }
}

impl<K: Replicated, V: Replicated> Entry<K, V> {
    /// Bytes that this entry takes in a delta.
    pub(super) fn cost(&self) -> usize {
        framed(self.to_wire().encoded_len())
    }

    fn to_wire(&self) -> EntryWire {
        let value = self.value.as_ref().map(|stored| stored.bytes.clone());
        EntryWire { seq: self.seq.0, key: self.key.to_bytes(), value }
    }

    fn from_wire(origin: PeerName, wire: EntryWire) -> Result<Self, DeltaError> {
        if wire.key.len() > KEY_MAX {
            return Err(DeltaError::BadKey(origin, Malformed("longer than a key may be")));
        }
        let key = K::from_bytes(origin, &wire.key).map_err(|e| DeltaError::BadKey(origin, e))?;
        let value = wire.value.map(|bytes| read_value(origin, bytes)).transpose();
        Ok(Self { seq: Seq(wire.seq), key, value: value.map_err(|e| DeltaError::BadValue(origin, e))? })
    }
}

impl<K: Replicated, V: Replicated> OriginDelta<K, V> {
    /// An upper bound of the bytes that this takes in a message.
    pub(super) fn encoded_len(&self) -> usize {
        // The length of a message's length grows from one to at most three bytes as entries are added.
        framed(self.to_wire().encoded_len()) + 2
    }

    /// How many entries it lists that live.
    pub(super) fn living(&self) -> usize {
        self.entries.iter().filter(|entry| entry.value.is_some()).count()
    }

    pub(super) fn to_wire(&self) -> OriginWire {
        OriginWire {
            name: self.name.0.to_vec(),
            incarnation: self.incarnation.0,
            base: self.base.0,
            to: self.to.0,
            entries: self.entries.iter().map(Entry::to_wire).collect(),
            whole: self.kept.is_some(),
            kept: distances(self.kept.as_deref().unwrap_or_default()),
        }
    }
}

impl<K: Replicated + Ord, V: Replicated> OriginDelta<K, V> {
    fn from_wire(wire: OriginWire) -> Result<Self, DeltaError> {
        let name = name_from_bytes(&wire.name).map_err(DeltaError::NotReadable)?;
        let (incarnation, base, to) = (Incarnation(wire.incarnation), Seq(wire.base), Seq(wire.to));
        let kept = numbers(&wire.kept).ok_or(DeltaError::BadNumbers(name))?;
        let ranges_fit = incarnation <= Incarnation::MAX && base < to && to <= Seq::MAX;
        let kept_fits = kept.last().is_none_or(|last| wire.whole && *last <= base);
        let entries_fit = wire.entries.iter().all(|entry| wire.base < entry.seq && entry.seq <= wire.to)
            && wire.entries.is_sorted_by(|a, b| a.seq < b.seq);
        if !(ranges_fit && kept_fits && entries_fit) {
            return Err(DeltaError::BadNumbers(name));
        }
        let entries =
            wire.entries.into_iter().map(|entry| Entry::from_wire(name, entry)).collect::<Result<Vec<_>, _>>()?;
        let mut keys = BTreeSet::new();
        if !entries.iter().all(|entry: &Entry<K, V>| keys.insert(&entry.key)) {
            return Err(DeltaError::KeyTwice(name));
        }
        Ok(Self { name, incarnation, base, to, kept: wire.whole.then_some(kept), entries })
    }
}

/// The bytes of a nested message of `len` bytes, with its tag and length.
fn framed(len: usize) -> usize {
    1 + prost::length_delimiter_len(len) + len
}

fn read_value<V: Replicated>(origin: PeerName, bytes: Bytes) -> Result<Stored<V>, Malformed> {
    if bytes.len() > VALUE_MAX {
        return Err(Malformed("longer than a value may be"));
    }
    let value = V::from_bytes(origin, &bytes)?;
    // A copy of its own, so that one long-lived value does not keep the whole message.
    Ok(Stored { value, bytes: Bytes::copy_from_slice(&bytes) })
}

fn distances(numbers: &[Seq]) -> Vec<u64> {
    let before = std::iter::once(0).chain(numbers.iter().map(|seq| seq.0));
    numbers.iter().zip(before).map(|(seq, before)| seq.0 - before).collect()
}

/// Undoes [`distances`]; None unless they rise and are at most [`ENTRIES_MAX`].
fn numbers(distances: &[u64]) -> Option<Vec<Seq>> {
    if distances.len() > ENTRIES_MAX {
        return None;
    }
    let mut number = 0_u64;
    distances
        .iter()
        .map(|distance| {
            number = number.checked_add(*distance).filter(|_| *distance > 0)?;
            Some(Seq(number))
        })
        .collect()
}
