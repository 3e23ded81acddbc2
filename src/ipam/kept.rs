//! The stored form of [`State`].
//!
//! The driver stores it before it does anything that came out after it, so what others were told is never more than what
//! is stored. It comes from our own disk, but a disk may be damaged: it is read as carefully as bytes from outside.

use prost::Message;

use super::{
    allotment::{Allotments, Holding},
    entry::{
        Elector, FOUNDERS_MAX, Gift, Life, MemberId, REMOVED_MAX, Reclaim, UniverseId,
        wire::{
            ElectorWire, GiftWire, MemberIdWire, RangeWire, ReclaimWire, ids_from_wire, ids_to_wire, range_from_wire,
            range_to_wire,
        },
    },
    range::{Range, RangeMap},
    state::{Grave, Known, Promise, State, Universe},
};
use crate::{
    api::allocation::OWNER_MAX,
    gossip::{Malformed, address::name_from_bytes},
    id::PeerName,
    ipam::entry::Epoch,
    time::Time,
};

/// Version of this form; another one is not read.
const FORM: u32 = 2;
/// Most bytes of a universe's name.
const UNIVERSE_LEN: usize = 16;

#[derive(Clone, PartialEq, Message)]
struct StateWire {
    #[prost(uint32, tag = "1")]
    form: u32,
    #[prost(message, repeated, tag = "2")]
    ranges: Vec<RangeWire>,
    #[prost(bytes = "vec", optional, tag = "3")]
    universe: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    founders: Vec<MemberIdWire>,
    #[prost(fixed64, tag = "5")]
    life: u64,
    #[prost(fixed64, optional, tag = "6")]
    admitted: Option<u64>,
    #[prost(bool, tag = "7")]
    left: bool,
    #[prost(uint64, tag = "8")]
    version: u64,
    #[prost(message, optional, tag = "9")]
    elector: Option<ElectorWire>,
    #[prost(message, repeated, tag = "10")]
    claims: Vec<RangeWire>,
    #[prost(message, repeated, tag = "11")]
    gifts: Vec<GivenWire>,
    #[prost(message, repeated, tag = "12")]
    known: Vec<KnownWire>,
    #[prost(message, repeated, tag = "13")]
    removed: Vec<GraveWire>,
    #[prost(message, optional, tag = "14")]
    reclaim: Option<ReclaimWire>,
    #[prost(uint64, tag = "15")]
    reclaims: u64,
    #[prost(message, repeated, tag = "16")]
    promises: Vec<PromiseWire>,
    #[prost(uint64, tag = "17")]
    given: u64,
    #[prost(message, repeated, tag = "18")]
    held: Vec<HeldWire>,
    #[prost(uint64, tag = "19")]
    reclaimed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct GivenWire {
    #[prost(bytes = "vec", tag = "1")]
    to: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    gift: Option<GiftWire>,
}

#[derive(Clone, PartialEq, Message)]
struct KnownWire {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    life: u64,
    #[prost(string, optional, tag = "3")]
    nickname: Option<String>,
    #[prost(uint64, tag = "4")]
    version: u64,
    #[prost(fixed64, optional, tag = "5")]
    noted: Option<u64>,
    #[prost(uint64, tag = "6")]
    taken: u64,
}

#[derive(Clone, PartialEq, Message)]
struct GraveWire {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    life: u64,
    #[prost(uint64, tag = "3")]
    order: u64,
    #[prost(bool, tag = "4")]
    settled: bool,
    #[prost(uint64, tag = "5")]
    taken: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PromiseWire {
    #[prost(bytes = "vec", tag = "1")]
    to: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    life: u64,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(message, repeated, tag = "4")]
    ranges: Vec<RangeWire>,
    #[prost(message, repeated, tag = "5")]
    removed: Vec<MemberIdWire>,
}

#[derive(Clone, PartialEq, Message)]
struct HeldWire {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeWire>,
    #[prost(string, tag = "2")]
    owner: String,
    #[prost(uint32, tag = "3")]
    prefix: u32,
    #[prost(bool, tag = "4")]
    kept: bool,
}

/// The stored form.
pub(super) fn encode(state: &State) -> Vec<u8> {
    let plain = |ranges: &[Range]| ranges.iter().map(|range| range_to_wire(*range, Epoch(0))).collect();
    let universe = state.universe.as_ref();
    StateWire {
        form: FORM,
        ranges: plain(&state.ranges),
        universe: universe.map(|universe| universe.id.0.to_vec()),
        founders: universe.map(|universe| ids_to_wire(&universe.founders)).unwrap_or_default(),
        life: state.life.0,
        admitted: state.admitted.map(|life| life.0),
        left: state.left,
        version: state.version,
        elector: state.elector.as_ref().map(ElectorWire::from),
        claims: state.claims.iter().map(|(range, epoch)| range_to_wire(range, epoch)).collect(),
        gifts: state.gifts.iter().map(|(to, gift)| GivenWire { to: to.0.to_vec(), gift: Some(gift.into()) }).collect(),
        known: state.known.iter().map(|(name, known)| known_to_wire(name.0, known)).collect(),
        removed: state.removed.iter().map(|(member, grave)| grave_to_wire(*member, *grave)).collect(),
        reclaim: state.reclaim.as_ref().map(ReclaimWire::from),
        reclaims: state.reclaims,
        reclaimed: state.reclaimed,
        promises: state
            .promises
            .iter()
            .map(|(to, promise)| PromiseWire {
                to: to.0.to_vec(),
                life: promise.life.0,
                number: promise.number,
                ranges: plain(&promise.ranges),
                removed: ids_to_wire(&promise.removed),
            })
            .collect(),
        given: state.given,
        held: state.allotments.iter().map(|(at, holding)| held_to_wire(at, holding)).collect(),
    }
    .encode_to_vec()
}

/// Reads the stored form.
pub(super) fn decode(bytes: &[u8]) -> Result<State, Malformed> {
    let wire = StateWire::decode(bytes)?;
    if wire.form != FORM {
        return Err(Malformed("another form of stored addresses"));
    }
    let mut claims = RangeMap::default();
    for (range, epoch) in wire.claims.iter().map(range_from_wire).collect::<Result<Vec<_>, _>>()? {
        claims.insert(range, epoch);
    }
    Ok(State {
        ranges: plain_ranges(&wire.ranges)?,
        universe: universe_from_wire(wire.universe, wire.founders)?,
        life: Life(wire.life),
        admitted: wire.admitted.map(Life),
        left: wire.left,
        version: wire.version,
        elector: wire.elector.map(Elector::try_from).transpose()?,
        claims,
        gifts: wire
            .gifts
            .into_iter()
            .map(|given| {
                let gift = given.gift.ok_or(Malformed("a gift of nothing"))?;
                Ok((name_from_bytes(&given.to)?, Gift::try_from(gift)?))
            })
            .collect::<Result<_, Malformed>>()?,
        known: wire.known.into_iter().map(known_from_wire).collect::<Result<_, _>>()?,
        removed: wire.removed.iter().map(grave_from_wire).collect::<Result<_, _>>()?,
        reclaim: wire.reclaim.map(Reclaim::try_from).transpose()?,
        reclaims: wire.reclaims,
        reclaimed: wire.reclaimed,
        promises: wire.promises.into_iter().map(promise_from_wire).collect::<Result<_, _>>()?,
        given: wire.given,
        allotments: allotments_from_wire(wire.held)?,
    })
}

fn universe_from_wire(id: Option<Vec<u8>>, founders: Vec<MemberIdWire>) -> Result<Option<Universe>, Malformed> {
    let founders = ids_from_wire(founders, FOUNDERS_MAX)?;
    let id = id.map(<[u8; UNIVERSE_LEN]>::try_from).transpose().map_err(|_| Malformed("a bad universe"))?;
    Ok(id.map(|id| Universe { id: UniverseId(id), founders }))
}

fn promise_from_wire(wire: PromiseWire) -> Result<(PeerName, Promise), Malformed> {
    let ranges = plain_ranges(&wire.ranges)?;
    let removed = ids_from_wire(wire.removed, REMOVED_MAX)?;
    Ok((name_from_bytes(&wire.to)?, Promise { life: Life(wire.life), number: wire.number, ranges, removed }))
}

fn known_to_wire(name: [u8; 6], known: &Known) -> KnownWire {
    KnownWire {
        name: name.to_vec(),
        life: known.life.0,
        noted: known.noted.map(|life| life.0),
        nickname: known.nickname.as_ref().map(|nickname| nickname.as_str().to_owned()),
        version: known.version,
        taken: known.taken,
    }
}

fn known_from_wire(wire: KnownWire) -> Result<(PeerName, Known), Malformed> {
    let nickname = wire.nickname.map(|text| text.parse()).transpose().map_err(|_| Malformed("a bad nickname"))?;
    let known = Known {
        life: Life(wire.life),
        noted: wire.noted.map(Life),
        nickname,
        version: wire.version,
        taken: wire.taken,
    };
    Ok((name_from_bytes(&wire.name)?, known))
}

fn grave_to_wire(member: MemberId, grave: Grave) -> GraveWire {
    let Grave { order, settled, taken } = grave;
    GraveWire { name: member.name.0.to_vec(), life: member.life.0, order, settled, taken }
}

fn grave_from_wire(wire: &GraveWire) -> Result<(MemberId, Grave), Malformed> {
    let member = MemberId { name: name_from_bytes(&wire.name)?, life: Life(wire.life) };
    Ok((member, Grave { order: wire.order, settled: wire.settled, taken: wire.taken }))
}

fn held_to_wire(at: u128, holding: &Holding) -> HeldWire {
    HeldWire {
        range: Some(range_to_wire(Range::single(at), Epoch(0))),
        owner: holding.owner.clone(),
        prefix: holding.prefix.into(),
        kept: holding.kept_until.is_some(),
    }
}

fn allotments_from_wire(held: Vec<HeldWire>) -> Result<Allotments, Malformed> {
    let mut allotments = Allotments::default();
    for wire in held {
        let (range, _) = range_from_wire(&wire.range.ok_or(Malformed("an owner of nothing"))?)?;
        let prefix = u8::try_from(wire.prefix).ok().filter(|bits| *bits <= 128).ok_or(Malformed("a bad prefix"))?;
        if wire.owner.is_empty() || wire.owner.len() > OWNER_MAX {
            return Err(Malformed("an owner that cannot be one"));
        }
        let kept_until = wire.kept.then_some(Time::ZERO);
        allotments.restore(range.first, Holding { owner: wire.owner, prefix, kept_until });
    }
    Ok(allotments)
}

fn plain_ranges(wire: &[RangeWire]) -> Result<Vec<Range>, Malformed> {
    wire.iter().map(|range| Ok(range_from_wire(range)?.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::entry::Ballot;

    fn member(n: u8) -> MemberId {
        MemberId { name: PeerName([0, 0, 0, 0, 0, n]), life: Life(n.into()) }
    }

    fn full() -> State {
        let range = Range::of(&"10.0.0.0/24".parse().unwrap());
        let mut state = State::fresh(vec![range], Life(7));
        state.universe = Some(Universe::founded(&state.ranges, &[member(1), member(2)]));
        state.admitted = Some(Life(6));
        state.version = 9;
        let accepted = Some((Ballot { round: 3, by: member(1).name }, vec![member(1)]));
        let promised = Ballot { round: 4, by: member(2).name };
        state.elector = Some(Elector { slice: 3, peers: Some(vec![member(2).name]), promised, accepted });
        state.own(range.shares(2)[0], Epoch(1));
        let gift =
            Gift { by: Life(7), life: Life(2), number: 5, want: 6, ranges: vec![(range.shares(2)[1], Epoch(2))] };
        state.gifts.insert(member(2).name, gift);
        let known = Known {
            noted: Some(Life(3)),
            nickname: Some("b".parse().unwrap()),
            version: 4,
            taken: 1,
            ..Known::new(Life(2))
        };
        state.known.insert(member(2).name, known);
        state.bury(member(3), true);
        (state.reclaims, state.reclaimed) = (2, 1);
        state.reclaim = Some(Reclaim {
            number: 2,
            epoch: Epoch(3),
            members: vec![member(2)],
            removed: (10..10 + u8::try_from(REMOVED_MAX).unwrap()).map(member).collect(),
            ranges: vec![range],
        });
        let promise = Promise { life: Life(2), number: 8, ranges: vec![range], removed: vec![member(4), member(5)] };
        state.promises.insert(member(2).name, promise);
        state.given = 11;
        state.allotments.give(range.first + 1, "c1", 24);
        state
    }

    #[test]
    fn what_is_stored_comes_back() {
        assert_eq!(decode(&encode(&full())), Ok(full()));
        let empty = State::fresh(Vec::new(), Life(0));
        assert_eq!(decode(&encode(&empty)), Ok(empty));
    }

    #[test]
    fn an_address_that_was_kept_for_its_owner_is_so_after_a_restart() {
        let mut state = full();
        state.allotments.release("c1", &[], Some(Time::from_micros(5)));
        let held = decode(&encode(&state)).unwrap().allotments;
        assert_eq!(held.deadline(), Some(Time::ZERO));
    }

    #[test]
    fn damage_is_found_or_harmless() {
        assert!(decode(&[]).is_err(), "another form");
        let bytes = encode(&full());
        assert!(decode(&bytes[..bytes.len() / 2]).is_err());
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(state) = decode(bytes) {
                assert_eq!(decode(&encode(&state)), Ok(state));
            }
        });
    }
}
