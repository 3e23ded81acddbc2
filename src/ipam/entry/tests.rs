use proptest::prelude::*;

use super::*;
use crate::gossip::{KEY_MAX, Replicated, VALUE_MAX};

fn peer(n: u16) -> PeerName {
    let [high, low] = n.to_be_bytes();
    PeerName([2, 0, 0, 0, high, low])
}

fn id(n: u16) -> MemberId {
    MemberId { name: peer(n), life: Life(u64::from(n) << 40 | 7) }
}

fn ids(count: usize) -> Vec<MemberId> {
    (0..u16::try_from(count).unwrap()).map(id).collect()
}

fn range(first: u128) -> Range {
    Range { first, last: first + 9 }
}

fn member(standing: Standing) -> Member {
    let is_founded = !matches!(standing, Standing::Observer | Standing::Elector(_));
    Member {
        life: Life(5),
        nickname: "host-1".parse().unwrap(),
        ranges: vec![range(100), range(1 << 100)],
        universe: is_founded.then_some(UniverseId([7; 16])),
        standing,
        waiting: true,
        version: 6,
        free: [20, 128],
        want: is_founded.then_some(Want { number: 8, donor: peer(2), range: range(100), whole: true }),
        reclaims_over: 3,
        reclaimed: 2,
    }
}

fn elector(slice: u32, peers: Option<Vec<PeerName>>, accepted: Option<Vec<MemberId>>) -> Standing {
    let ballot = Ballot { round: 4, by: peer(3) };
    Standing::Elector(Elector { slice, peers, promised: ballot, accepted: accepted.map(|founders| (ballot, founders)) })
}

fn vouch(verdict: Verdict, removed: usize, unsettled: usize) -> Vouch {
    Vouch { nonce: 1, verdict, removed: ids(removed), unsettled: ids(unsettled) }
}

/// One of each kind, as large as it may be.
fn values() -> Vec<Value> {
    let asking = Asking { nonce: 9, asked: (0..8).map(peer).collect(), since: Some(Life(3)) };
    let everybody = (0..u16::try_from(SLICE_MAX).unwrap()).map(peer).collect();
    let standings = [
        Standing::Observer,
        elector(1024, Some(everybody), Some(ids(FOUNDERS_MAX))),
        elector(3, None, None),
        Standing::Joining(asking.clone()),
        Standing::Returning(asking),
        Standing::Full,
        Standing::Left,
    ];
    let ranges = |count: usize| (0..count as u128).map(|n| range(u128::MAX / 2 + n * 100));
    let mut values: Vec<Value> = standings.map(|standing| Value::Member(member(standing))).to_vec();
    values.extend([
        Value::Claim { last: u128::MAX, epoch: Epoch(u32::MAX) },
        Value::Gift(Gift {
            by: Life(u64::MAX),
            life: Life(u64::MAX),
            number: u64::MAX,
            want: u64::MAX,
            ranges: ranges(PARTS_MAX).map(|range| (range, Epoch(u32::MAX))).collect(),
        }),
        Value::Number { life: Life(u64::MAX), number: u64::MAX },
        Value::Lives(vec![Life(u64::MAX); LIVES_MAX]),
        Value::Vouch(vouch(Verdict::Known(u64::MAX), GRAVES_MAX - REMOVED_MAX, REMOVED_MAX)),
        Value::Vouch(vouch(Verdict::Unknown, 0, 0)),
        Value::Vouch(vouch(Verdict::Removed, 0, 0)),
        Value::Reclaim(Reclaim {
            number: u64::MAX,
            epoch: Epoch(u32::MAX),
            members: ids(MEMBERS_MAX),
            removed: ids(REMOVED_MAX),
            ranges: ranges(PARTS_MAX).collect(),
        }),
        Value::Founding(ids(FOUNDERS_MAX)),
    ]);
    values
}

#[test]
fn values_come_back_as_they_went_and_fit_however_large() {
    for value in values() {
        let bytes = value.to_bytes();
        assert!(bytes.len() <= VALUE_MAX, "{} bytes: {value:?}", bytes.len());
        assert_eq!(Value::from_bytes(peer(1), &bytes), Ok(value));
    }
}

#[test]
fn keys_come_back_as_they_went() {
    let of_peers = [Key::Gift, Key::Receipt, Key::Refusal, Key::Removed, Key::Knows, Key::Vouch, Key::Consent];
    let keys = [Key::Member, Key::Claim(0), Key::Claim(u128::MAX), Key::Reclaim, Key::Founding];
    for key in of_peers.map(|key| key(peer(77))).into_iter().chain(keys) {
        let bytes = key.to_bytes();
        assert!(bytes.len() <= KEY_MAX);
        assert_eq!(Key::from_bytes(peer(1), &bytes), Ok(key));
    }
}

#[test]
fn the_numbers_of_the_wire_are_these() {
    assert_eq!(Key::Claim(0x0102).to_bytes(), [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(Key::Consent(peer(1)).to_bytes(), [10, 2, 0, 0, 0, 0, 1]);
    assert_eq!(Value::Number { life: Life(1), number: 2 }.to_bytes(), [0x22, 11, 9, 1, 0, 0, 0, 0, 0, 0, 0, 16, 2]);
}

#[test]
fn what_an_origin_may_not_say_is_refused() {
    let refused = |origin: PeerName, value: &Value| Value::from_bytes(origin, &value.to_bytes()).is_err();
    let full = member(Standing::Full);
    assert!(refused(peer(2), &Value::Member(full.clone())), "it wants something of itself");
    assert!(refused(peer(1), &Value::Member(Member { universe: None, ..full.clone() })), "a member of nothing");
    let founded = Some(UniverseId([1; 16]));
    assert!(refused(peer(1), &Value::Member(Member { universe: founded, ..member(Standing::Observer) })));
    assert!(refused(peer(1), &Value::Member(Member { ranges: vec![range(1); 3], ..full.clone() })));
    assert!(refused(peer(1), &Value::Member(Member { free: [129, 0], ..full })));
    assert!(refused(peer(1), &Value::Member(member(elector(0, None, None)))), "a slice of nobody");
    assert!(refused(peer(1), &Value::Member(member(elector(1, None, Some(Vec::new()))))), "no founders");
    assert!(refused(peer(1), &Value::Founding(vec![id(2), id(1)])), "out of order");
    assert!(refused(peer(1), &Value::Founding(ids(FOUNDERS_MAX + 1))));
    assert!(refused(peer(1), &Value::Lives(vec![Life(1); LIVES_MAX + 1])));
    let backwards = Range { first: 2, last: 1 };
    let gift = Gift { by: Life(2), life: Life(1), number: 1, want: 0, ranges: vec![(backwards, Epoch(1))] };
    assert!(refused(peer(1), &Value::Gift(gift)));
}

#[test]
fn any_bytes_are_a_value_or_an_error() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(value) = Value::from_bytes(peer(1), bytes) {
            assert_eq!(Value::from_bytes(peer(1), &value.to_bytes()), Ok(value));
        }
        if let Ok(key) = Key::from_bytes(peer(1), bytes) {
            assert_eq!(key.to_bytes(), bytes);
        }
    });
}

proptest! {
    #[test]
    fn damaged_values_are_refused_or_read_without_panic(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let values = values();
        let mut bytes = which.get(&values).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(value) = Value::from_bytes(peer(1), &bytes) {
            prop_assert_eq!(Value::from_bytes(peer(1), &value.to_bytes()), Ok(value));
        }
    }
}
