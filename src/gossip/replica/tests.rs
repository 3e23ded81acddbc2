use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::gossip::{MESSAGE_MAX, Malformed, TOMBSTONES_MAX};

/// A key of two bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key(u16);

/// Any bytes but those that begin with 0xff.
#[derive(Clone, PartialEq, Debug)]
struct Value(Vec<u8>);

impl Replicated for Key {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        <[u8; 2]>::try_from(bytes).map(|bytes| Self(u16::from_be_bytes(bytes))).map_err(|_| Malformed("length"))
    }
}

impl Replicated for Value {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.first() == Some(&0xff) { Err(Malformed("0xff")) } else { Ok(Self(bytes.to_vec())) }
    }
}

type Test = Replica<Key, Value>;
type Contents = (Vec<(PeerName, Known)>, Vec<(PeerName, Key, Value)>);

const A: PeerName = PeerName([1; 6]);
const B: PeerName = PeerName([2; 6]);
const C: PeerName = PeerName([3; 6]);

fn replica(name: PeerName) -> Test {
    Test::new(name, Incarnation(1000))
}

fn entropy() -> Entropy {
    Entropy::seeded([5; 32])
}

fn value(byte: u8) -> Value {
    Value(vec![byte])
}

fn set(replica: &mut Test, key: u16, byte: u8) -> Vec<u8> {
    replica.set(Key(key), value(byte)).unwrap().unwrap()
}

/// Everything that a replica knows, with how far.
fn contents(replica: &Test) -> Contents {
    (replica.known(|_| true).collect(), replica.iter().map(|(name, key, value)| (name, *key, value.clone())).collect())
}

/// Tells `to` what `from` knows more; whether there was anything.
fn repair(from: &Test, to: &mut Test) -> bool {
    let mut told = false;
    for part in to.digest(|_| true) {
        for delta in from.delta_since(&part, |_| true).unwrap().deltas {
            assert!(delta.len() <= MESSAGE_MAX);
            assert!(to.merge(&delta).unwrap().gaps.is_empty(), "a repair has no holes");
            told = true;
        }
    }
    told
}

#[test]
fn a_change_is_told_and_arrives() {
    let (mut a, mut b) = (replica(A), replica(B));
    assert!(repair(&a, &mut b));
    let delta = set(&mut a, 1, 10);
    let merged = b.merge(&delta).unwrap();
    assert_eq!(
        merged,
        Merged {
            changed: vec![(A, vec![Key(1)])],
            forward: Some(delta.clone()),
            news: vec![A],
            gaps: vec![],
            outdated_self: None
        }
    );
    assert_eq!(b.get(A, &Key(1)), Some(&value(10)));
    let again = b.merge(&delta).unwrap();
    assert_eq!(again, Merged { changed: vec![], forward: None, news: vec![], gaps: vec![], outdated_self: None });
    assert_eq!(b.merge(&a.remove(&Key(1)).unwrap()).unwrap().changed, [(A, vec![Key(1)])]);
    assert_eq!(b.get(A, &Key(1)), None);
}

#[test]
fn what_does_not_change_is_not_told() {
    let mut a = replica(A);
    set(&mut a, 1, 10);
    assert_eq!(a.set(Key(1), value(10)), Ok(None));
    assert_eq!(a.remove(&Key(2)), None);
}

#[test]
fn a_hole_is_noticed_and_repaired() {
    let (mut a, mut b) = (replica(A), replica(B));
    let first = set(&mut a, 1, 10);
    let second = set(&mut a, 2, 20);
    let merged = b.merge(&second).unwrap();
    assert!(merged.gaps == [A] && merged.changed.is_empty() && merged.forward.is_none());
    assert!(!b.merge(&first).unwrap().gaps.is_empty(), "not even the start is known");
    assert!(repair(&a, &mut b));
    assert_eq!(b.get(A, &Key(2)), Some(&value(20)));
    assert_eq!(a.digest_hash(|name| name == A), b.digest_hash(|name| name == A));
}

#[test]
fn a_restart_replaces_everything_even_by_nothing() {
    let (mut a, mut b) = (replica(A), replica(B));
    set(&mut a, 1, 10);
    repair(&a, &mut b);
    let reborn = Test::new(A, Incarnation(2000));
    repair(&reborn, &mut b);
    assert_eq!(b.iter().count(), 0);
    assert!(!repair(&a, &mut b), "the old life is over");
    let late = set(&mut a, 1, 11);
    assert_eq!(b.merge(&late).unwrap().changed, []);
}

#[test]
fn who_restarted_with_a_lagging_clock_is_told_and_catches_up() {
    let (mut a, mut b) = (replica(A), replica(B));
    set(&mut a, 1, 10);
    repair(&a, &mut b);
    let mut reborn = Test::new(A, Incarnation(500));
    set(&mut reborn, 2, 20);
    assert!(!repair(&reborn, &mut b), "older than what b knows");
    let digest = reborn.digest(|_| true).remove(0);
    let delta = b.delta_since(&digest, |_| true).unwrap().deltas.remove(0);
    let outdated = reborn.merge(&delta).unwrap().outdated_self;
    assert_eq!(outdated, Some(Incarnation(1000)));
    for delta in reborn.restart(outdated.unwrap(), &entropy()) {
        b.merge(&delta).unwrap();
    }
    assert!(reborn.incarnation() > Incarnation(1000));
    assert_eq!(b.iter().collect::<Vec<_>>(), [(A, &Key(2), &value(20))]);
}

#[test]
fn removals_that_are_forgotten_still_reach_who_missed_them() {
    let (mut a, mut b) = (replica(A), replica(B));
    let keys = 3 * TOMBSTONES_MAX as u16;
    for key in 0..keys {
        set(&mut a, key, 1);
    }
    repair(&a, &mut b);
    for key in 0..keys - 2 {
        a.remove(&Key(key)).unwrap();
    }
    set(&mut a, keys, 9);
    repair(&a, &mut b);
    assert_eq!(contents(&a).1, contents(&b).1);
    assert_eq!(b.iter().count(), 3);
    // Nor does b tell c of removals that it never heard of, but what lives.
    let mut c = replica(C);
    repair(&b, &mut c);
    assert_eq!(contents(&a).1, contents(&c).1);
}

#[test]
fn a_large_state_goes_in_bounded_messages() {
    let (mut a, mut b) = (replica(A), replica(B));
    for key in 0..100 {
        a.set(Key(key), Value(vec![1; 5000 + usize::from(key)])).unwrap().unwrap();
    }
    let repair = a.delta_since(&b.digest(|_| true)[0], |_| true).unwrap();
    assert!(repair.deltas.len() > 100 * 5000 / MESSAGE_MAX);
    for delta in &repair.deltas {
        assert!(delta.len() <= MESSAGE_MAX);
        let merged = b.merge(delta).unwrap();
        assert!(merged.gaps.is_empty());
        assert_eq!(merged.forward.as_ref(), Some(delta));
    }
    assert_eq!(contents(&a).1, contents(&b).1);
}

#[test]
fn what_exceeds_the_bounds_is_refused_as_a_whole() {
    let mut a = replica(A);
    for key in 0..ENTRIES_MAX as u16 {
        set(&mut a, key, 1);
    }
    assert_eq!(a.set(Key(u16::MAX), value(1)), Err(SetError::Full));
    assert_eq!(a.set(Key(0), Value(vec![0; VALUE_MAX + 1])), Err(SetError::TooLong));

    let mut b = replica(B);
    repair(&a, &mut b);
    let before = contents(&b);
    // Somebody who does not keep to the bound: another entry after the last one.
    let entry = delta::Entry { seq: a.own.seq.next(), key: Key(u16::MAX), value: Some(Stored::new(value(1))) };
    let (base, to) = (a.own.seq, a.own.seq.next());
    let excess = OriginDelta { name: A, incarnation: Incarnation(1000), base, to, kept: None, entries: vec![entry] };
    assert_eq!(b.merge(&encode_one(excess).unwrap()), Err(DeltaError::TooManyEntries(A)));
    assert_eq!(contents(&b), before);

    let name = |i: usize| PeerName([9, 9, 9, 9, (i / 256) as u8, (i % 256) as u8]);
    let start = |i: usize| OriginDelta::<Key, Value> {
        name: name(i),
        incarnation: Incarnation(1),
        base: Seq::ZERO,
        to: Seq::START,
        kept: None,
        entries: Vec::new(),
    };
    let crowd: Vec<_> = (0..ORIGINS_MAX - 1).map(start).collect();
    let mut messages = delta::encode(&crowd);
    let last = messages.pop().unwrap();
    for message in messages {
        b.merge(&message).unwrap();
    }
    let before = contents(&b);
    assert_eq!(b.merge(&last), Err(DeltaError::TooManyOrigins));
    assert_eq!(contents(&b), before);
}

#[test]
fn contradictions_are_refused_and_change_nothing() {
    let entry = |seq, key, byte| delta::Entry { seq: Seq(seq), key: Key(key), value: Some(Stored::new(value(byte))) };
    let good = OriginDelta {
        name: A,
        incarnation: Incarnation(1),
        base: Seq::ZERO,
        to: Seq(3),
        kept: None,
        entries: vec![entry(2, 1, 1), entry(3, 2, 1)],
    };
    let bad = |change: &dyn Fn(&mut OriginDelta<Key, Value>)| {
        let mut changed = good.clone();
        change(&mut changed);
        let mut b = replica(B);
        // A good neighbour in the same message does not help.
        let other = OriginDelta { name: C, ..good.clone() };
        let refused = b.merge(&delta::encode(&[other, changed])[0]).unwrap_err();
        assert_eq!(contents(&b), contents(&replica(B)), "{refused}");
        refused
    };
    assert_eq!(bad(&|d| d.to = Seq(2)), DeltaError::BadNumbers(A), "an entry beyond the end");
    assert_eq!(bad(&|d| d.base = Seq(2)), DeltaError::BadNumbers(A), "an entry before the beginning");
    assert_eq!(bad(&|d| d.base = Seq(u64::MAX)), DeltaError::BadNumbers(A));
    assert_eq!(bad(&|d| d.to = Seq(Seq::MAX.0 + 1)), DeltaError::BadNumbers(A));
    assert_eq!(bad(&|d| d.incarnation = Incarnation(u64::MAX)), DeltaError::BadNumbers(A));
    assert_eq!(bad(&|d| d.entries.swap(0, 1)), DeltaError::BadNumbers(A));
    assert_eq!(bad(&|d| d.kept = Some(vec![Seq(1)])), DeltaError::BadNumbers(A), "kept beyond the beginning");
    assert_eq!(bad(&|d| d.entries[1].key = Key(1)), DeltaError::KeyTwice(A));
    assert_eq!(bad(&|d| d.entries[1] = entry(3, 2, 0xff)), DeltaError::BadValue(A, Malformed("0xff")));
    assert_eq!(replica(B).merge(&vec![0; MESSAGE_MAX + 1]), Err(DeltaError::TooLong(MESSAGE_MAX + 1)));
    // The same message twice, one after the other, is one message that speaks of A twice.
    let once = encode_one(good).unwrap();
    assert_eq!(replica(B).merge(&[once.clone(), once].concat()), Err(DeltaError::OriginTwice(A)));
}

#[test]
fn those_left_out_are_neither_advertised_nor_sent() {
    let (mut a, mut b) = (replica(A), replica(B));
    set(&mut a, 1, 10);
    repair(&a, &mut b);
    let mut c = replica(C);
    let without_a = |name| name != A;
    assert_ne!(b.digest_hash(|_| true), b.digest_hash(without_a));
    let digest = c.digest(|_| true).remove(0);
    for delta in b.delta_since(&digest, without_a).unwrap().deltas {
        c.merge(&delta).unwrap();
    }
    assert_eq!(c.origins().collect::<Vec<_>>(), [B, C]);
    assert_eq!(b.remove_origin(A), [Key(1)]);
    assert_eq!(b.origins().collect::<Vec<_>>(), [B]);
    assert_eq!(b.remove_origin(B), [], "not even ourselves");
    assert_eq!(b.origins().collect::<Vec<_>>(), [B]);
}

#[test]
fn what_a_buried_peer_said_is_not_taken_again() {
    let (mut a, mut b, mut c) = (replica(A), replica(B), replica(C));
    let said = set(&mut a, 1, 10);
    for other in [&mut b, &mut c] {
        repair(&a, other);
    }
    b.bury(A);
    assert_eq!(b.origins().collect::<Vec<_>>(), [B]);
    assert_eq!(b.merge(&said).unwrap().forward, None, "it was on its way");
    repair(&c, &mut b);
    assert_eq!(b.get(A, &Key(1)), None, "others still know");
    assert!(
        b.delta_since(&c.digest(|_| true).remove(0), |_| true).unwrap().behind.is_empty(),
        "and nobody is asked for it"
    );

    // It lives, and says more: all of it is asked for.
    let more = set(&mut a, 2, 20);
    assert!(!b.merge(&more).unwrap().gaps.is_empty());
    repair(&a, &mut b);
    assert_eq!(b.entries(A).count(), 2);

    b.bury(A);
    b.exhume(A);
    repair(&c, &mut b);
    assert_eq!(b.entries(A).count(), 1, "as far as C knows it");
}

#[test]
fn a_digest_shows_who_is_behind() {
    let (mut a, mut b) = (replica(A), replica(B));
    repair(&b, &mut a);
    let digest = a.digest(|_| true).remove(0);
    assert_eq!(b.delta_since(&digest, |_| true).unwrap().behind, [A], "b does not know a");
    repair(&a, &mut b);
    let repair = b.delta_since(&digest, |_| true).unwrap();
    assert_eq!(repair, Repair { deltas: vec![], behind: vec![] });
}

#[test]
fn any_bytes_are_a_delta_or_change_nothing() {
    let mut a = replica(A);
    for key in 0..5 {
        set(&mut a, key, 1);
    }
    let mut known = replica(B);
    repair(&a, &mut known);
    let genuine = a.restart(Incarnation(2000), &entropy()).remove(0);
    bolero::check!().for_each(|bytes: &[u8]| {
        // As it is, and as damage to a genuine delta.
        let damaged = damage(&genuine, bytes);
        for delta in [bytes, &damaged] {
            let mut b = known.clone();
            match b.merge(delta) {
                Ok(merged) => assert!(merged.forward.is_none_or(|forward| forward.len() <= delta.len())),
                Err(_) => assert_eq!(contents(&b), contents(&known)),
            }
        }
        let _ = known.delta_since(bytes, |_| true);
    });
}

/// `genuine` with its bytes changed at places and to values that `choice` gives.
fn damage(genuine: &[u8], choice: &[u8]) -> Vec<u8> {
    let mut damaged = genuine.to_vec();
    for pair in choice.chunks_exact(2) {
        let place = usize::from(pair[0]) % damaged.len();
        damaged[place] = pair[1];
    }
    damaged
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Set(usize, u16, u8),
    Remove(usize, u16),
    Restart(usize, u64),
    Repair(usize, usize),
    /// Deliver a message on its way to this replica, and perhaps again later.
    Deliver(usize, usize, bool),
    Lose(usize, usize),
}

const PEERS: usize = 4;

fn any_op() -> impl Strategy<Value = Op> {
    let (peer, key, pick) = (|| 0..PEERS, || 0_u16..6, || 0_usize..1000);
    prop_oneof![
        4 => (peer(), key(), 0_u8..9).prop_map(|(peer, key, byte)| Op::Set(peer, key, byte)),
        2 => (peer(), key()).prop_map(|(peer, key)| Op::Remove(peer, key)),
        1 => (peer(), 15_u64..25).prop_map(|(peer, seconds)| Op::Restart(peer, seconds)),
        1 => (peer(), peer()).prop_map(|(from, to)| Op::Repair(from, to)),
        8 => (peer(), pick(), any::<bool>()).prop_map(|(peer, pick, again)| Op::Deliver(peer, pick, again)),
        2 => (peer(), pick()).prop_map(|(peer, pick)| Op::Lose(peer, pick)),
    ]
}

/// Replicas and the messages on their way to each of them, in no order.
struct Mesh {
    replicas: Vec<Test>,
    queues: Vec<Vec<Vec<u8>>>,
    entropy: Entropy,
}

impl Mesh {
    fn new() -> Self {
        let entropy = entropy();
        let replica = |i: usize| Test::new(PeerName([i as u8; 6]), Incarnation::starting(20, &entropy));
        Self { replicas: (0..PEERS).map(replica).collect(), queues: vec![Vec::new(); PEERS], entropy }
    }

    fn flood(&mut self, from: usize, deltas: impl IntoIterator<Item = Vec<u8>>) {
        for delta in deltas {
            for to in (0..PEERS).filter(|to| *to != from) {
                self.queues[to].push(delta.clone());
            }
        }
    }

    fn merge(&mut self, to: usize, delta: &[u8]) {
        let merged = self.replicas[to].merge(delta).unwrap();
        self.flood(to, merged.forward);
        if let Some(above) = merged.outdated_self {
            let deltas = self.replicas[to].restart(above, &self.entropy);
            self.flood(to, deltas);
        }
    }

    fn repair(&mut self, from: usize, to: usize) {
        for part in self.replicas[to].digest(|_| true) {
            for delta in self.replicas[from].delta_since(&part, |_| true).unwrap().deltas {
                self.merge(to, &delta);
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Set(peer, key, byte) => {
                let delta = self.replicas[peer].set(Key(key), value(byte)).unwrap();
                self.flood(peer, delta);
            }
            Op::Remove(peer, key) => {
                let delta = self.replicas[peer].remove(&Key(key));
                self.flood(peer, delta);
            }
            Op::Restart(peer, seconds) => {
                let incarnation = Incarnation::starting(seconds, &self.entropy);
                self.replicas[peer] = Test::new(self.replicas[peer].name, incarnation);
            }
            Op::Repair(from, to) => self.repair(from, to),
            Op::Deliver(peer, pick, again) => {
                if let Some(delta) = self.take(peer, pick) {
                    self.merge(peer, &delta);
                    if again {
                        self.queues[peer].push(delta);
                    }
                }
            }
            Op::Lose(peer, pick) => drop(self.take(peer, pick)),
        }
    }

    fn take(&mut self, peer: usize, pick: usize) -> Option<Vec<u8>> {
        let queue = &mut self.queues[peer];
        (!queue.is_empty()).then(|| queue.swap_remove(pick % queue.len()))
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_doubled_or_reordered_all_agree_after_repairs(ops in prop::collection::vec(any_op(), 0..120)) {
        let mut mesh = Mesh::new();
        for op in ops {
            mesh.apply(op);
        }
        // In a ring, so that news goes over others; twice around for those who must restart.
        for _ in 0..4 * PEERS {
            for peer in 0..PEERS {
                mesh.repair(peer, (peer + 1) % PEERS);
            }
        }
        let truth: Vec<_> = mesh.replicas.iter().map(|replica| {
            replica.own.iter().map(|(key, value)| (replica.name, *key, value.clone())).collect::<Vec<_>>()
        }).collect();
        for replica in &mesh.replicas {
            prop_assert_eq!(contents(replica), contents(&mesh.replicas[0]));
            prop_assert_eq!(contents(replica).1, truth.concat());
            prop_assert_eq!(replica.digest_hash(|_| true), mesh.replicas[0].digest_hash(|_| true));
        }
    }

    #[test]
    fn the_order_of_merging_does_not_matter(
        writes in prop::collection::vec((0_u16..6, prop::option::of(0_u8..9)), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut a = replica(A);
        let mut deltas = a.restart(Incarnation(1), &entropy());
        for (key, byte) in writes {
            deltas.extend(match byte {
                Some(byte) => a.set(Key(key), value(byte)).unwrap(),
                None => a.remove(&Key(key)),
            });
        }
        let mut b = replica(B);
        let mut before = BTreeSet::new();
        for index in order {
            let at = index.index(deltas.len());
            let merged = b.merge(&deltas[at]).unwrap();
            prop_assert!(merged.forward.is_none() || before.insert(at), "news twice");
        }
        // What order left out comes in sequence; then all is there, and coming again it is nothing new.
        for delta in &deltas {
            b.merge(delta).unwrap();
        }
        prop_assert_eq!(a.own.iter().collect::<Vec<_>>(), b.others[&A].iter().collect::<Vec<_>>());
        for delta in &deltas {
            let again = b.merge(delta).unwrap();
            prop_assert_eq!((again.changed.len(), again.forward, again.gaps.len()), (0, None, 0));
        }
    }

    #[test]
    fn deltas_come_back_as_they_went(
        entries in prop::collection::btree_map(1_u64..1000, (any::<u16>(), prop::option::of(0_u8..9)), 0..20),
        kept in prop::option::of(prop::collection::btree_set(1_u64..5000, 0..20)),
    ) {
        let base = Seq(5000);
        let mut keys = BTreeSet::new();
        let entries: Vec<_> = entries.into_iter().filter(|(_, (key, _))| keys.insert(*key)).collect();
        let entries = entries.into_iter().map(|(seq, (key, byte))| delta::Entry {
            seq: Seq(base.0 + seq),
            key: Key(key),
            value: byte.map(|byte| Stored::new(value(byte))),
        });
        let sent = OriginDelta {
            name: A,
            incarnation: Incarnation(7),
            base,
            to: Seq(6000),
            kept: kept.map(|kept| kept.into_iter().map(Seq).collect()),
            entries: entries.collect(),
        };
        let message = encode_one(sent.clone()).unwrap();
        prop_assert!(sent.encoded_len() >= message.len());
        prop_assert_eq!(delta::decode(&message), Ok(vec![sent]));
    }
}

#[test]
fn what_is_announced_is_asked_for_by_those_who_lack_it() {
    let (mut a, mut b, mut c) = (replica(A), replica(B), replica(C));
    let (first, second) = (set(&mut a, 1, 1), set(&mut a, 2, 2));
    let delta = a.delta_since(&b.digest_of(A), |_| true).unwrap().deltas;
    assert_eq!(b.merge(&delta[0]).unwrap().news, [A]);
    let announced = b.announcements(&BTreeSet::from([A, C]));
    assert_eq!(announced.len(), 1, "of C it knows nothing");
    assert_eq!(c.compare(&announced[0]), Ok(Compared { wanting: vec![A], same: vec![] }));
    let answer = b.delta_since(&c.digest_of(A), |_| true).unwrap();
    assert!(answer.behind.is_empty() && answer.deltas.len() == 1);
    assert_eq!(c.merge(&answer.deltas[0]).unwrap().news, [A], "and nothing of B");
    assert_eq!(c.compare(&announced[0]), Ok(Compared { wanting: vec![], same: vec![A] }));
    assert!(c.merge(&first).unwrap().news.is_empty() && c.merge(&second).unwrap().news.is_empty());
}

#[test]
fn what_differs_is_found_by_the_hashes_of_ranges() {
    let (mut a, mut b) = (replica(A), replica(B));
    assert!(repair(&a, &mut b) && repair(&b, &mut a));
    assert_eq!(a.digest_where_other(&b.ranges(|_| true), |_| true), Ok(Vec::new()));
    set(&mut a, 1, 1);
    set(&mut b, 2, 2);
    // A tells what it knows where b knows something else; b what a lacks, and which it lacks itself.
    let digests = a.digest_where_other(&b.ranges(|_| true), |_| true).unwrap();
    assert_eq!(digests.len(), 1);
    let repair = b.delta_since(&digests[0], |_| true).unwrap();
    assert_eq!((repair.deltas.len(), repair.behind), (1, vec![A]));
    assert_eq!(a.merge(&repair.deltas[0]).unwrap().news, [B]);
    assert!(a.digest_where_other(b"?", |_| true).is_err());
}
