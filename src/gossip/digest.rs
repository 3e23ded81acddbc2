//! Digests: how far each origin is known, in parts that fit a message.
//!
//! A part speaks of all origins whose names are from `from` up to before `until`, so that those it does not list are
//! known to be missing.

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

/// The parts of a digest of `origins`, which are in the order of names.
pub(super) fn parts(origins: &[(PeerName, Known)]) -> Vec<Part> {
    let chunks: Vec<_> = origins.chunks(PART_ORIGINS).collect();
    // The first part begins at the least name, each other one where its first origin is.
    let starts = chunks.iter().skip(1).filter_map(|chunk| chunk.first()).map(|(name, _)| *name);
    let starts: Vec<_> = std::iter::once(PeerName([0; 6])).chain(starts).collect();
    starts
        .iter()
        .enumerate()
        .map(|(i, from)| Part {
            from: *from,
            until: starts.get(i + 1).copied(),
            origins: chunks.get(i).copied().unwrap_or_default().to_vec(),
        })
        .collect()
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
