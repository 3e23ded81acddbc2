//! Digests: how far each origin is known, in parts that fit a message.
//!
//! A part speaks of all origins whose names are from `from` up to before `until`, so that those it does not list are
//! known to be missing. Of thousands of which a few differ, hashes of ranges of names say which.

use std::ops::Bound;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use super::{
    MESSAGE_MAX, Malformed,
    address::name_from_bytes,
    origin::{Incarnation, Seq},
};
use crate::id::PeerName;

/// Origins in one part: at 29 bytes at most they fill 43 KiB.
const PART_ORIGINS: usize = 1500;
/// Origins in one of [`Ranges`]: where one differs, about as many bytes go for the ranges of 5000 origins as for what is in its.
const RANGE_ORIGINS: usize = 32;
/// FNV-1a, 64 bits (draft-eastlake-fnv §6): offset basis.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// FNV-1a, 64 bits: prime.
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Why a digest was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DigestError {
    /// Longer than [`MESSAGE_MAX`].
    #[error("the digest has {0} bytes, more than {MESSAGE_MAX}")]
    TooLong(usize),
    /// Not a protobuf message of the expected form.
    #[error("the digest cannot be read: {0}")]
    NotReadable(Malformed),
    /// Names out of order or out of the part's range.
    #[error("the digest lists names out of order or out of its range")]
    BadOrder,
    /// Numbers out of bounds.
    #[error("the digest of {0} has numbers out of bounds")]
    BadNumbers(PeerName),
}

const LEAST: PeerName = PeerName([0; 6]);

/// How far an origin is known.
pub(super) type Known = (Incarnation, Seq);

/// A part of a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    from: PeerName,
    until: Option<PeerName>,
    /// In the order of names.
    pub(super) origins: Vec<(PeerName, Known)>,
}

#[derive(Clone, PartialEq, Message)]
struct PartWire {
    #[prost(bytes = "vec", tag = "1")]
    from: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    until: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    origins: Vec<KnownWire>,
}

#[derive(Clone, PartialEq, Message)]
struct KnownWire {
    /// A part of one allocation for all of a message, as there are thousands.
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    seq: u64,
}

/// A hash for each of some ranges of names that cover all, each from its start up to before that of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(PeerName, u32)>);

#[derive(Clone, PartialEq, Message)]
struct RangesWire {
    /// Six bytes each.
    #[prost(bytes = "vec", tag = "1")]
    starts: Vec<u8>,
    #[prost(fixed32, repeated, tag = "2")]
    hashes: Vec<u32>,
}

/// The parts of a digest of `origins`, which are in the order of names.
pub(super) fn parts(origins: &[(PeerName, Known)]) -> Vec<Part> {
    parts_between(LEAST, None, origins, PART_ORIGINS)
}

/// Those that speak of `origins`, all that there are in a range of names, with `len` in each.
fn parts_between(from: PeerName, until: Option<PeerName>, origins: &[(PeerName, Known)], len: usize) -> Vec<Part> {
    let chunks: Vec<_> = origins.chunks(len).collect();
    // The first part begins where the range does, each other one where its first origin is.
    let starts = chunks.iter().skip(1).filter_map(|chunk| chunk.first()).map(|(name, _)| *name);
    let starts: Vec<_> = std::iter::once(from).chain(starts).collect();
    starts
        .iter()
        .enumerate()
        .map(|(i, from)| Part {
            from: *from,
            until: starts.get(i + 1).copied().or(until),
            origins: chunks.get(i).copied().unwrap_or_default().to_vec(),
        })
        .collect()
}

/// Those of `origins`, in the order of names, that are in a range.
fn between(from: PeerName, until: Option<PeerName>, origins: &[(PeerName, Known)]) -> &[(PeerName, Known)] {
    let start = origins.partition_point(|(name, _)| *name < from);
    let end = until.map_or(origins.len(), |until| origins.partition_point(|(name, _)| *name < until));
    origins.get(start..end).unwrap_or_default()
}

impl Ranges {
    /// Ranges with a few of `origins` each, which are in the order of names.
    pub(super) fn of(origins: &[(PeerName, Known)]) -> Self {
        let parts = parts_between(LEAST, None, origins, RANGE_ORIGINS);
        Self(parts.into_iter().map(|part| (part.from, short_hash(&part.origins))).collect())
    }

    /// The parts of a digest of `origins` about ranges in which the author knows others, or something else of them.
    pub(super) fn differing(&self, origins: &[(PeerName, Known)]) -> Vec<Part> {
        let ends = self.0.iter().skip(1).map(|(from, _)| Some(*from)).chain([None]);
        let mut differing: Vec<(PeerName, Option<PeerName>)> = Vec::new();
        for (&(from, hash), until) in self.0.iter().zip(ends) {
            if short_hash(between(from, until, origins)) == hash {
                continue;
            }
            match differing.last_mut() {
                Some((_, end)) if *end == Some(from) => *end = until,
                Some(_) | None => differing.push((from, until)),
            }
        }
        let parts = |(from, until)| parts_between(from, until, between(from, until, origins), PART_ORIGINS);
        differing.into_iter().flat_map(parts).collect()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let starts = self.0.iter().flat_map(|(from, _)| from.0).collect();
        RangesWire { starts, hashes: self.0.iter().map(|(_, hash)| *hash).collect() }.encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(DigestError::TooLong(bytes.len()));
        }
        let wire = RangesWire::decode(bytes).map_err(|e| DigestError::NotReadable(e.into()))?;
        let (starts, rest) = wire.starts.as_chunks();
        let ranges: Vec<_> = starts.iter().map(|start| PeerName(*start)).zip(wire.hashes.iter().copied()).collect();
        let is_whole = rest.is_empty() && ranges.len() == starts.len() && ranges.len() == wire.hashes.len();
        let begins_at_least = ranges.first().is_some_and(|(from, _)| *from == LEAST);
        let is_ordered = is_whole && begins_at_least && ranges.is_sorted_by(|(a, _), (b, _)| a < b);
        if is_ordered { Ok(Self(ranges)) } else { Err(DigestError::BadOrder) }
    }
}

/// Half of [`hash`]: a difference that it does not show is found when one of the range tells something anew.
fn short_hash(origins: &[(PeerName, Known)]) -> u32 {
    let [a, b, c, d, ..] = hash(origins.iter().copied()).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// One number for the whole digest: equal digests have equal numbers.
pub(super) fn hash(origins: impl Iterator<Item = (PeerName, Known)>) -> u64 {
    let mut hash = FNV_BASIS;
    for (name, (incarnation, seq)) in origins {
        let bytes = name.0.into_iter().chain(incarnation.0.to_le_bytes()).chain(seq.0.to_le_bytes());
        hash = bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    }
    hash
}

impl Part {
    /// Speaks of one origin alone, and says that nothing is known of it if so.
    pub(super) fn of_one(name: PeerName, known: Option<Known>) -> Self {
        let [a, b, c, d, e, f] = name.0;
        let next = u64::from_be_bytes([0, 0, a, b, c, d, e, f]) + 1;
        let until = match next.to_be_bytes() {
            [0, 0, until @ ..] => Some(PeerName(until)),
            _ => None,
        };
        Self { from: name, until, origins: known.map(|known| (name, known)).into_iter().collect() }
    }

    /// The names that this part speaks of.
    pub(super) fn range(&self) -> (Bound<PeerName>, Bound<PeerName>) {
        (Bound::Included(self.from), self.until.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// How far the part's author knows `name`.
    pub(super) fn known(&self, name: PeerName) -> Option<Known> {
        let found = self.origins.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        self.origins.get(found).map(|(_, known)| *known)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut names = Bytes::from_iter(self.origins.iter().flat_map(|(name, _)| name.0));
        let known = |&(name, (incarnation, seq)): &(PeerName, Known)| KnownWire {
            name: names.split_to(name.0.len()),
            incarnation: incarnation.0,
            seq: seq.0,
        };
        PartWire {
            from: self.from.0.to_vec(),
            until: self.until.map(|name| name.0.to_vec()),
            origins: self.origins.iter().map(known).collect(),
        }
        .encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(DigestError::TooLong(bytes.len()));
        }
        let wire = PartWire::decode(Bytes::copy_from_slice(bytes)).map_err(|e| DigestError::NotReadable(e.into()))?;
        let from = name_from_bytes(&wire.from).map_err(DigestError::NotReadable)?;
        let until = wire.until.as_deref().map(name_from_bytes).transpose().map_err(DigestError::NotReadable)?;
        let origins = wire.origins.iter().map(KnownWire::checked).collect::<Result<Vec<_>, _>>()?;
        let in_range = |name: PeerName| from <= name && until.is_none_or(|until| name < until);
        let ordered = origins.is_sorted_by(|(a, _), (b, _)| a < b) && origins.iter().all(|(name, _)| in_range(*name));
        if !ordered || until.is_some_and(|until| until <= from) {
            return Err(DigestError::BadOrder);
        }
        Ok(Self { from, until, origins })
    }
}

impl KnownWire {
    fn checked(&self) -> Result<(PeerName, Known), DigestError> {
        let name = name_from_bytes(&self.name).map_err(DigestError::NotReadable)?;
        let (incarnation, seq) = (Incarnation(self.incarnation), Seq(self.seq));
        let in_bounds = incarnation <= Incarnation::MAX && (Seq::START..=Seq::MAX).contains(&seq);
        if in_bounds { Ok((name, (incarnation, seq))) } else { Err(DigestError::BadNumbers(name)) }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeBounds;

    use super::*;

    fn origins(count: u64) -> Vec<(PeerName, Known)> {
        let name = |i: u64| PeerName(*i.to_be_bytes().last_chunk().unwrap());
        (0..count).map(|i| (name(i * 7 + 3), (Incarnation::MAX, Seq::MAX))).collect()
    }

    #[test]
    fn parts_fit_messages_and_cover_every_name_once() {
        for count in [0, 1, 1500, 1501, 4096] {
            let origins = origins(count);
            let parts = parts(&origins);
            assert_eq!(parts.first().map(|part| part.from), Some(PeerName([0; 6])));
            assert_eq!(parts.last().map(|part| part.until), Some(None));
            assert!(parts.windows(2).all(|pair| pair[0].until == Some(pair[1].from)));
            assert_eq!(parts.iter().flat_map(|part| part.origins.clone()).collect::<Vec<_>>(), origins);
            for part in parts {
                assert!(part.encode().len() <= MESSAGE_MAX);
                assert_eq!(Part::decode(&part.encode()), Ok(part));
            }
        }
    }

    #[test]
    fn ranges_show_what_differs_and_little_else() {
        for count in [0, 1, 32, 33, 5000] {
            let ours = origins(count);
            let ranges = Ranges::of(&ours);
            assert_eq!(Ranges::decode(&ranges.encode()), Ok(ranges.clone()));
            assert_eq!(ranges.differing(&ours), []);
            assert!(ranges.encode().len() <= 16 + ours.len().div_ceil(RANGE_ORIGINS).max(1) * 10);
            for changed in [0, 31, 32, 4998].into_iter().filter(|changed| *changed < ours.len()) {
                let mut theirs = ours.clone();
                theirs[changed].1.1 = Seq(7);
                let parts = ranges.differing(&theirs);
                assert!(parts.len() == 1 && parts[0].origins.len() <= RANGE_ORIGINS, "{changed} of {count}");
                assert_eq!(parts[0].known(theirs[changed].0), Some(theirs[changed].1));
                theirs.remove(changed);
                let parts = ranges.differing(&theirs);
                assert!(parts.len() == 1 && parts[0].range().contains(&ours[changed].0), "who is missing");
            }
            // Who knows nothing says so, and who has nothing but others tells all, in parts that fit messages.
            assert_eq!(
                ranges.differing(&[]).iter().map(Part::range).collect::<Vec<_>>(),
                if count == 0 { Vec::new() } else { vec![(Bound::Included(LEAST), Bound::Unbounded)] }
            );
            let others: Vec<_> = ours.iter().map(|(name, _)| (*name, (Incarnation(1), Seq(1)))).collect();
            assert_eq!(ranges.differing(&others), if count == 0 { Vec::new() } else { parts(&others) });
        }
    }

    #[test]
    fn ranges_that_do_not_cover_all_names_in_order_are_refused() {
        let wire = |starts: &[u8], hashes: usize| RangesWire { starts: starts.to_vec(), hashes: vec![1; hashes] };
        let (first, second) = ([0; 6], [0, 0, 0, 0, 0, 9]);
        let two = [first, second].concat();
        assert!(Ranges::decode(&wire(&two, 2).encode_to_vec()).is_ok());
        for wrong in [
            wire(&[], 0),
            wire(&second, 1),
            wire(&two, 1),
            wire(&two, 3),
            wire(&two[..11], 2),
            wire(&[first, first].concat(), 2),
            wire(&[first, second, second].concat(), 3),
        ] {
            assert_eq!(Ranges::decode(&wrong.encode_to_vec()), Err(DigestError::BadOrder), "{wrong:?}");
        }
    }

    #[test]
    fn any_bytes_are_ranges_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(ranges) = Ranges::decode(bytes) {
                assert_eq!(Ranges::decode(&ranges.encode()), Ok(ranges.clone()));
                ranges.differing(&origins(100));
            }
        });
    }

    #[test]
    fn a_part_about_one_origin_is_about_no_other() {
        for (name, next) in [([0; 6], [0, 0, 0, 0, 0, 1]), ([1, 2, 3, 4, 5, 0xff], [1, 2, 3, 4, 6, 0])] {
            let known = Some((Incarnation(1), Seq(2)));
            for known in [known, None] {
                let part = Part::decode(&Part::of_one(PeerName(name), known).encode()).unwrap();
                assert_eq!(part.known(PeerName(name)), known);
                assert!(part.range().contains(&PeerName(name)) && !part.range().contains(&PeerName(next)));
            }
        }
        assert_eq!(Part::of_one(PeerName([0xff; 6]), None).range().1, Bound::Unbounded);
    }

    #[test]
    fn the_hash_is_fnv_1a_and_sees_every_change() {
        assert_eq!(hash(std::iter::empty()), FNV_BASIS);
        let one = vec![(PeerName([1; 6]), (Incarnation(1), Seq(1)))];
        let mut other = one.clone();
        other[0].1.1 = Seq(2);
        assert_ne!(hash(one.into_iter()), hash(other.into_iter()));
    }

    #[test]
    fn contradictions_are_refused() {
        let part = |from: u8, until: Option<u8>, names: &[u8], seq: u64| Part {
            from: PeerName([from; 6]),
            until: until.map(|name| PeerName([name; 6])),
            origins: names.iter().map(|name| (PeerName([*name; 6]), (Incarnation(1), Seq(seq)))).collect(),
        };
        let refused = |part: Part| Part::decode(&part.encode()).unwrap_err();
        assert_eq!(refused(part(0, None, &[2, 1], 1)), DigestError::BadOrder);
        assert_eq!(refused(part(0, None, &[1, 1], 1)), DigestError::BadOrder);
        assert_eq!(refused(part(2, None, &[1], 1)), DigestError::BadOrder);
        assert_eq!(refused(part(0, Some(1), &[1], 1)), DigestError::BadOrder);
        assert_eq!(refused(part(2, Some(1), &[], 1)), DigestError::BadOrder);
        assert_eq!(refused(part(0, None, &[1], 0)), DigestError::BadNumbers(PeerName([1; 6])));
        assert_eq!(Part::decode(&vec![0; MESSAGE_MAX + 1]), Err(DigestError::TooLong(MESSAGE_MAX + 1)));
    }

    #[test]
    fn any_bytes_are_a_digest_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(part) = Part::decode(bytes) {
                assert_eq!(Part::decode(&part.encode()), Ok(part));
            }
        });
    }
}
