//! The encoded form of keys and values.

use prost::Message;

use super::{
    ASKED_MAX, Asking, Ballot, Elector, Epoch, FOUNDERS_MAX, GRAVES_MAX, Gift, Key, LIVES_MAX, Life, MEMBERS_MAX,
    Member, MemberId, PARTS_MAX, REMOVED_MAX, Reclaim, SLICE_MAX, Standing, UniverseId, Value, Verdict, Vouch, Want,
    key_from_bytes, key_to_bytes,
};
use crate::{
    gossip::{Malformed, Replicated, address::name_from_bytes},
    id::PeerName,
    ipam::range::Range,
};

#[derive(Clone, PartialEq, Message)]
struct ValueWire {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(clippy::large_enum_variant, reason = "it lives for one encoding or decoding")]
enum Body {
    #[prost(message, tag = "1")]
    Member(MemberWire),
    #[prost(message, tag = "2")]
    Claim(ClaimWire),
    #[prost(message, tag = "3")]
    Gift(GiftWire),
    #[prost(message, tag = "4")]
    Number(NumberWire),
    #[prost(message, tag = "5")]
    Lives(LivesWire),
    #[prost(message, tag = "6")]
    Vouch(VouchWire),
    #[prost(message, tag = "7")]
    Reclaim(ReclaimWire),
    #[prost(message, tag = "8")]
    Founding(FoundingWire),
}

/// A range, of an epoch where that matters.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ipam) struct RangeWire {
    #[prost(bytes = "vec", tag = "1")]
    first: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    last: Vec<u8>,
    #[prost(uint32, tag = "3")]
    epoch: u32,
}

/// A peer and one of its lives.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ipam) struct MemberIdWire {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    life: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemberWire {
    #[prost(fixed64, tag = "1")]
    life: u64,
    #[prost(string, tag = "2")]
    nickname: String,
    #[prost(message, repeated, tag = "3")]
    ranges: Vec<RangeWire>,
    #[prost(bytes = "vec", optional, tag = "4")]
    universe: Option<Vec<u8>>,
    #[prost(uint32, tag = "5")]
    standing: u32,
    #[prost(message, optional, tag = "6")]
    asking: Option<AskingWire>,
    #[prost(message, optional, tag = "7")]
    elector: Option<ElectorWire>,
    #[prost(bool, tag = "8")]
    waiting: bool,
    #[prost(uint64, tag = "9")]
    version: u64,
    #[prost(uint32, tag = "10")]
    free_v4: u32,
    #[prost(uint32, tag = "11")]
    free_v6: u32,
    #[prost(message, optional, tag = "12")]
    want: Option<WantWire>,
    #[prost(uint64, tag = "13")]
    reclaims_over: u64,
    #[prost(uint64, tag = "14")]
    reclaimed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct AskingWire {
    #[prost(fixed64, tag = "1")]
    nonce: u64,
    #[prost(bytes = "vec", repeated, tag = "2")]
    asked: Vec<Vec<u8>>,
    #[prost(fixed64, optional, tag = "3")]
    since: Option<u64>,
}

/// An elector's part; the same in gossip and in what is kept.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ipam) struct ElectorWire {
    #[prost(uint32, tag = "1")]
    slice: u32,
    #[prost(bool, tag = "2")]
    any: bool,
    #[prost(bytes = "vec", repeated, tag = "3")]
    peers: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    promised: Option<BallotWire>,
    #[prost(message, optional, tag = "5")]
    accepted: Option<BallotWire>,
    #[prost(message, repeated, tag = "6")]
    value: Vec<MemberIdWire>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::ipam) struct BallotWire {
    #[prost(uint32, tag = "1")]
    round: u32,
    #[prost(bytes = "vec", tag = "2")]
    by: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WantWire {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bytes = "vec", tag = "2")]
    donor: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    range: Option<RangeWire>,
    #[prost(bool, tag = "4")]
    whole: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ClaimWire {
    #[prost(bytes = "vec", tag = "1")]
    last: Vec<u8>,
    #[prost(uint32, tag = "2")]
    epoch: u32,
}

/// A gift; the same in gossip and in what is kept.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ipam) struct GiftWire {
    #[prost(fixed64, tag = "1")]
    life: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, tag = "3")]
    want: u64,
    #[prost(message, repeated, tag = "4")]
    ranges: Vec<RangeWire>,
    #[prost(fixed64, tag = "5")]
    by: u64,
}

#[derive(Clone, PartialEq, Message)]
struct NumberWire {
    #[prost(fixed64, tag = "1")]
    life: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
}

#[derive(Clone, PartialEq, Message)]
struct LivesWire {
    #[prost(fixed64, repeated, tag = "1")]
    lives: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct VouchWire {
    #[prost(fixed64, tag = "1")]
    nonce: u64,
    #[prost(uint32, tag = "2")]
    verdict: u32,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(message, repeated, tag = "4")]
    removed: Vec<MemberIdWire>,
    #[prost(message, repeated, tag = "5")]
    unsettled: Vec<MemberIdWire>,
}

/// A reclaim; the same in gossip and in what is kept.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ipam) struct ReclaimWire {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(message, repeated, tag = "3")]
    members: Vec<MemberIdWire>,
    #[prost(message, repeated, tag = "4")]
    removed: Vec<MemberIdWire>,
    #[prost(message, repeated, tag = "5")]
    ranges: Vec<RangeWire>,
}

#[derive(Clone, PartialEq, Message)]
struct FoundingWire {
    #[prost(message, repeated, tag = "1")]
    founders: Vec<MemberIdWire>,
}

impl Replicated for Key {
    fn to_bytes(&self) -> Vec<u8> {
        key_to_bytes(*self)
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        key_from_bytes(bytes)
    }
}

impl Replicated for Value {
    fn to_bytes(&self) -> Vec<u8> {
        let body = match self {
            Self::Member(member) => Body::Member(member.into()),
            Self::Claim { last, epoch } => Body::Claim(ClaimWire { last: last.to_be_bytes().to_vec(), epoch: epoch.0 }),
            Self::Gift(gift) => Body::Gift(gift.into()),
            Self::Number { life, number } => Body::Number(NumberWire { life: life.0, number: *number }),
            Self::Lives(lives) => Body::Lives(LivesWire { lives: lives.iter().map(|life| life.0).collect() }),
            Self::Vouch(vouch) => Body::Vouch(vouch.into()),
            Self::Reclaim(reclaim) => Body::Reclaim(reclaim.into()),
            Self::Founding(founders) => Body::Founding(FoundingWire { founders: ids_to_wire(founders) }),
        };
        ValueWire { body: Some(body) }.encode_to_vec()
    }

    fn from_bytes(origin: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        let body = ValueWire::decode(bytes)?.body.ok_or(Malformed("a value of no known kind"))?;
        Ok(match body {
            Body::Member(wire) => Self::Member(member_from_wire(origin, wire)?),
            Body::Claim(wire) => Self::Claim { last: number_from_bytes(&wire.last)?, epoch: Epoch(wire.epoch) },
            Body::Gift(wire) => Self::Gift(wire.try_into()?),
            Body::Number(wire) => Self::Number { life: Life(wire.life), number: wire.number },
            Body::Lives(wire) => Self::Lives(bounded(wire.lives, LIVES_MAX)?.into_iter().map(Life).collect()),
            Body::Vouch(wire) => Self::Vouch(vouch_from_wire(wire)?),
            Body::Reclaim(wire) => Self::Reclaim(wire.try_into()?),
            Body::Founding(wire) => Self::Founding(ids_from_wire(wire.founders, FOUNDERS_MAX)?),
        })
    }
}

impl From<&Member> for MemberWire {
    fn from(member: &Member) -> Self {
        let (standing, asking, elector) = match &member.standing {
            Standing::Observer => (1, None, None),
            Standing::Elector(elector) => (2, None, Some(elector.into())),
            Standing::Joining(asking) => (3, Some(asking), None),
            Standing::Returning(asking) => (4, Some(asking), None),
            Standing::Full => (5, None, None),
            Standing::Left => (6, None, None),
        };
        Self {
            life: member.life.0,
            nickname: member.nickname.as_str().to_owned(),
            ranges: member.ranges.iter().map(|range| range_to_wire(*range, Epoch(0))).collect(),
            universe: member.universe.map(|id| id.0.to_vec()),
            standing,
            asking: asking.map(|a| AskingWire {
                nonce: a.nonce,
                asked: names_to_wire(&a.asked),
                since: a.since.map(|life| life.0),
            }),
            elector,
            waiting: member.waiting,
            version: member.version,
            free_v4: member.free[0].into(),
            free_v6: member.free[1].into(),
            want: member.want.map(|want| WantWire {
                number: want.number,
                donor: want.donor.0.to_vec(),
                range: Some(range_to_wire(want.range, Epoch(0))),
                whole: want.whole,
            }),
            reclaims_over: member.reclaims_over,
            reclaimed: member.reclaimed,
        }
    }
}

fn member_from_wire(origin: PeerName, wire: MemberWire) -> Result<Member, Malformed> {
    let asking = wire.asking.map(asking_from_wire).transpose()?;
    let elector = wire.elector.map(Elector::try_from).transpose()?;
    let standing = match (wire.standing, asking, elector) {
        (1, None, None) => Standing::Observer,
        (2, None, Some(elector)) => Standing::Elector(elector),
        (3, Some(asking), None) => Standing::Joining(asking),
        (4, Some(asking), None) => Standing::Returning(asking),
        (5, None, None) => Standing::Full,
        (6, None, None) => Standing::Left,
        _ => return Err(Malformed("an unknown standing")),
    };
    let universe = wire.universe.map(<[u8; 16]>::try_from).transpose().map_err(|_| Malformed("a bad universe"))?;
    if universe.is_none() != matches!(standing, Standing::Observer | Standing::Elector(_)) {
        return Err(Malformed("a standing that does not go with being founded or not"));
    }
    let ranges = bounded(wire.ranges, 2)?.into_iter().map(|range| range_from_wire(&range));
    let ranges = ranges.map(|range| Ok(range?.0)).collect::<Result<Vec<_>, Malformed>>()?;
    let free = |bits: u32| u8::try_from(bits).ok().filter(|bits| *bits <= 128).ok_or(Malformed("too much free space"));
    Ok(Member {
        life: Life(wire.life),
        nickname: wire.nickname.parse().map_err(|_| Malformed("a nickname that cannot be one"))?,
        ranges,
        universe: universe.map(UniverseId),
        standing,
        waiting: wire.waiting,
        version: wire.version,
        free: [free(wire.free_v4)?, free(wire.free_v6)?],
        want: wire.want.map(|want| want_from_wire(origin, want)).transpose()?,
        reclaims_over: wire.reclaims_over,
        reclaimed: wire.reclaimed,
    })
}

fn asking_from_wire(wire: AskingWire) -> Result<Asking, Malformed> {
    Ok(Asking { nonce: wire.nonce, asked: names_from_wire(wire.asked, ASKED_MAX)?, since: wire.since.map(Life) })
}

fn want_from_wire(origin: PeerName, wire: WantWire) -> Result<Want, Malformed> {
    let donor = name_from_bytes(&wire.donor)?;
    if donor == origin {
        return Err(Malformed("a want of oneself"));
    }
    let (range, _) = range_from_wire(&wire.range.ok_or(Malformed("a want of nothing"))?)?;
    Ok(Want { number: wire.number, donor, range, whole: wire.whole })
}

impl From<&Elector> for ElectorWire {
    fn from(elector: &Elector) -> Self {
        Self {
            slice: elector.slice,
            any: elector.peers.is_none(),
            peers: names_to_wire(elector.peers.as_deref().unwrap_or_default()),
            promised: Some(ballot_to_wire(elector.promised)),
            accepted: elector.accepted.as_ref().map(|(ballot, _)| ballot_to_wire(*ballot)),
            value: elector.accepted.as_ref().map(|(_, value)| ids_to_wire(value)).unwrap_or_default(),
        }
    }
}

impl TryFrom<ElectorWire> for Elector {
    type Error = Malformed;

    fn try_from(wire: ElectorWire) -> Result<Self, Malformed> {
        let peers = names_from_wire(wire.peers, SLICE_MAX)?;
        if wire.slice == 0 {
            return Err(Malformed("a slice without the elector itself"));
        }
        let value = ids_from_wire(wire.value, FOUNDERS_MAX)?;
        let accepted = wire.accepted.as_ref().map(ballot_from_wire).transpose()?;
        if accepted.is_some() == value.is_empty() {
            return Err(Malformed("a ballot without founders, or founders without a ballot"));
        }
        Ok(Self {
            slice: wire.slice,
            peers: (!wire.any).then_some(peers),
            promised: ballot_from_wire(&wire.promised.unwrap_or_default())?,
            accepted: accepted.map(|ballot| (ballot, value)),
        })
    }
}

fn ballot_to_wire(ballot: Ballot) -> BallotWire {
    BallotWire { round: ballot.round, by: ballot.by.0.to_vec() }
}

fn ballot_from_wire(wire: &BallotWire) -> Result<Ballot, Malformed> {
    Ok(Ballot { round: wire.round, by: name_from_bytes(&wire.by)? })
}

impl From<&Gift> for GiftWire {
    fn from(gift: &Gift) -> Self {
        let ranges = gift.ranges.iter().map(|(range, epoch)| range_to_wire(*range, *epoch)).collect();
        Self { by: gift.by.0, life: gift.life.0, number: gift.number, want: gift.want, ranges }
    }
}

impl TryFrom<GiftWire> for Gift {
    type Error = Malformed;

    fn try_from(wire: GiftWire) -> Result<Self, Malformed> {
        let ranges = bounded(wire.ranges, PARTS_MAX)?;
        let ranges = ranges.iter().map(range_from_wire).collect::<Result<_, _>>()?;
        Ok(Self { by: Life(wire.by), life: Life(wire.life), number: wire.number, want: wire.want, ranges })
    }
}

impl From<&Vouch> for VouchWire {
    fn from(vouch: &Vouch) -> Self {
        let (verdict, version) = match vouch.verdict {
            Verdict::Known(version) => (1, version),
            Verdict::Unknown => (2, 0),
            Verdict::Removed => (3, 0),
        };
        let (removed, unsettled) = (ids_to_wire(&vouch.removed), ids_to_wire(&vouch.unsettled));
        Self { nonce: vouch.nonce, verdict, version, removed, unsettled }
    }
}

fn vouch_from_wire(wire: VouchWire) -> Result<Vouch, Malformed> {
    let verdict = match wire.verdict {
        1 => Verdict::Known(wire.version),
        2 => Verdict::Unknown,
        3 => Verdict::Removed,
        _ => return Err(Malformed("an unknown verdict")),
    };
    let (removed, unsettled) = (ids_from_wire(wire.removed, GRAVES_MAX)?, ids_from_wire(wire.unsettled, GRAVES_MAX)?);
    Ok(Vouch { nonce: wire.nonce, verdict, removed, unsettled })
}

impl From<&Reclaim> for ReclaimWire {
    fn from(reclaim: &Reclaim) -> Self {
        Self {
            number: reclaim.number,
            epoch: reclaim.epoch.0,
            members: ids_to_wire(&reclaim.members),
            removed: ids_to_wire(&reclaim.removed),
            ranges: reclaim.ranges.iter().map(|range| range_to_wire(*range, Epoch(0))).collect(),
        }
    }
}

impl TryFrom<ReclaimWire> for Reclaim {
    type Error = Malformed;

    fn try_from(wire: ReclaimWire) -> Result<Self, Malformed> {
        let ranges = bounded(wire.ranges, PARTS_MAX)?;
        let ranges = ranges.iter().map(|range| Ok(range_from_wire(range)?.0)).collect::<Result<_, Malformed>>()?;
        Ok(Self {
            number: wire.number,
            epoch: Epoch(wire.epoch),
            members: ids_from_wire(wire.members, MEMBERS_MAX)?,
            removed: ids_from_wire(wire.removed, REMOVED_MAX)?,
            ranges,
        })
    }
}

/// Members as they are written.
pub(in crate::ipam) fn ids_to_wire(ids: &[MemberId]) -> Vec<MemberIdWire> {
    ids.iter().map(|id| MemberIdWire { name: id.name.0.to_vec(), life: id.life.0 }).collect()
}

/// Members in order, at most `most`.
pub(in crate::ipam) fn ids_from_wire(wire: Vec<MemberIdWire>, most: usize) -> Result<Vec<MemberId>, Malformed> {
    let read = |id: &MemberIdWire| Ok(MemberId { name: name_from_bytes(&id.name)?, life: Life(id.life) });
    let ids = bounded(wire, most)?.iter().map(read).collect::<Result<Vec<_>, Malformed>>()?;
    if ids.is_sorted_by(|a, b| a < b) { Ok(ids) } else { Err(Malformed("members out of order or twice")) }
}

fn names_to_wire(names: &[PeerName]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.0.to_vec()).collect()
}

fn names_from_wire(wire: Vec<Vec<u8>>, most: usize) -> Result<Vec<PeerName>, Malformed> {
    let names = bounded(wire, most)?.iter().map(|name| name_from_bytes(name)).collect::<Result<Vec<_>, _>>()?;
    if names.is_sorted_by(|a, b| a < b) { Ok(names) } else { Err(Malformed("names out of order or twice")) }
}

/// A range as it is written.
pub(in crate::ipam) fn range_to_wire(range: Range, epoch: Epoch) -> RangeWire {
    RangeWire { first: range.first.to_be_bytes().to_vec(), last: range.last.to_be_bytes().to_vec(), epoch: epoch.0 }
}

/// A range that is not empty, and its epoch.
pub(in crate::ipam) fn range_from_wire(wire: &RangeWire) -> Result<(Range, Epoch), Malformed> {
    let range = Range::new(number_from_bytes(&wire.first)?, number_from_bytes(&wire.last)?);
    Ok((range.ok_or(Malformed("a range that ends before it begins"))?, Epoch(wire.epoch)))
}

fn number_from_bytes(bytes: &[u8]) -> Result<u128, Malformed> {
    <[u8; 16]>::try_from(bytes).map(u128::from_be_bytes).map_err(|_| Malformed("an address that is not 16 bytes"))
}

fn bounded<T>(list: Vec<T>, most: usize) -> Result<Vec<T>, Malformed> {
    if list.len() <= most { Ok(list) } else { Err(Malformed("a list longer than it may be")) }
}
