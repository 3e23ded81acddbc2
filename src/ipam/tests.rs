//! A few allocators whose messages come when a test says so.

use std::collections::BTreeMap;

use super::{
    entry::Gift,
    world::{Entries, Targets},
    *,
};
use crate::{api::allocation::AddressRequest, gossip::origin::Incarnation};

const RANGE: &str = "10.0.0.0/24";

type Answers = BTreeMap<u64, Result<AddressAnswer, AllocationError>>;

/// One of them, with its disk and what it sees of others.
struct Peer {
    name: PeerName,
    ipam: Option<Ipam>,
    entries: Entries,
    starts: u64,
    kept: Option<Vec<u8>>,
    reachable: BTreeSet<PeerName>,
    /// What it told and nobody has been given yet.
    told: Vec<Vec<u8>>,
    answers: Answers,
}

/// All of them; each one is said to reach all others that run.
struct Peers {
    all: Vec<Peer>,
    init: Init,
    now: Time,
    asked: u64,
    /// Hears and says nothing, though it runs.
    stuck: Option<usize>,
}

fn name(id: usize) -> PeerName {
    PeerName([2, 0, 0, 0, 0, u8::try_from(id).unwrap()])
}

fn world<'a>(entries: &'a Entries, reachable: &'a BTreeSet<PeerName>, targets: &'a Targets) -> World<'a> {
    World { entries, reachable, targets }
}

impl Peers {
    /// Founded by the first `seeds` of them, all of whom run and have heard all.
    fn new(count: usize, seeds: usize) -> Self {
        let init = Init::Seed((0..seeds).map(name).collect());
        let mut peers = Self { all: Vec::new(), init, now: Time::ZERO, asked: 0, stuck: None };
        (0..count).for_each(|_| peers.add());
        peers.settle();
        peers
    }

    /// One more, which starts.
    fn add(&mut self) {
        let id = self.all.len();
        self.all.push(Peer {
            name: name(id),
            ipam: None,
            entries: Entries::new(name(id), Incarnation(0)),
            starts: 0,
            kept: None,
            reachable: BTreeSet::new(),
            told: Vec::new(),
            answers: BTreeMap::new(),
        });
        self.start(id);
    }

    fn start(&mut self, id: usize) {
        let peer = &mut self.all[id];
        peer.starts += 1;
        peer.entries = Entries::new(peer.name, Incarnation(peer.starts << 20));
        peer.told.clear();
        let config = AllocationConfig {
            ranges: vec![RANGE.parse().unwrap()],
            default_subnets: Vec::new(),
            init: self.init.clone(),
            kept: peer.kept.clone(),
        };
        let nickname = format!("host{id}").parse().unwrap();
        let seed = [u8::try_from(id).unwrap() + 1, u8::try_from(peer.starts).unwrap()];
        let entropy = Entropy::seeded(std::array::from_fn(|i| seed[i % 2]));
        peer.ipam = Some(Ipam::new(peer.name, nickname, config, entropy, self.now));
        // That it starts is what others hear first.
        for digest in Entries::new(PeerName([0; 6]), Incarnation(1)).digest(|_| true) {
            peer.told.extend(peer.entries.delta_since(&digest, |_| true).unwrap().deltas);
        }
        self.reach();
        self.update(id, BTreeSet::new());
    }

    fn stop(&mut self, id: usize) {
        self.all[id].ipam = None;
        self.reach();
    }

    fn reach(&mut self) {
        let living: BTreeSet<PeerName> =
            self.all.iter().filter(|peer| peer.ipam.is_some()).map(|peer| peer.name).collect();
        for peer in &mut self.all {
            peer.reachable = living.iter().copied().filter(|name| *name != peer.name).collect();
        }
    }

    fn ipam(&self, id: usize) -> &Ipam {
        self.all[id].ipam.as_ref().unwrap()
    }

    fn owns(&self, id: usize) -> Vec<Range> {
        self.ipam(id).state.claims.iter().map(|(range, _)| range).collect()
    }

    fn update(&mut self, id: usize, changed: BTreeSet<PeerName>) {
        let targets = Targets::default();
        let peer = &mut self.all[id];
        let Some(ipam) = peer.ipam.as_mut().filter(|_| self.stuck != Some(id)) else { return };
        ipam.update(&changed, world(&peer.entries, &peer.reachable, &targets), self.now);
        self.perform(id);
    }

    fn ask(&mut self, id: usize, request: AddressRequest) -> u64 {
        self.asked += 1;
        let targets = Targets::default();
        let peer = &mut self.all[id];
        let ipam = peer.ipam.as_mut().unwrap();
        ipam.request(self.asked, request, world(&peer.entries, &peer.reachable, &targets), self.now);
        self.perform(id);
        self.asked
    }

    fn perform(&mut self, id: usize) {
        let peer = &mut self.all[id];
        while let Some(output) = peer.ipam.as_mut().and_then(Ipam::poll_output) {
            match output {
                IpamOutput::Keep(bytes) => peer.kept = Some(bytes.to_vec()),
                IpamOutput::Set(key, value) => peer.told.extend(peer.entries.set(key, value).unwrap()),
                IpamOutput::Unset(key) => peer.told.extend(peer.entries.remove(&key)),
                IpamOutput::Forget(other) => peer.entries.bury(other),
                IpamOutput::Answer(number, answer) => drop(peer.answers.insert(number, answer)),
                IpamOutput::Happened(_) => {}
            }
        }
    }

    /// What a peer told since last taken.
    fn take_told(&mut self, id: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.all[id].told)
    }

    fn hear(&mut self, id: usize, delta: &[u8]) {
        assert!(!self.may_hear(id, delta), "something was missed before");
    }

    /// Whether something was missed before.
    fn may_hear(&mut self, id: usize, delta: &[u8]) -> bool {
        if self.all[id].ipam.is_none() {
            return false;
        }
        let merged = self.all[id].entries.merge(delta).unwrap();
        self.update(id, merged.changed.into_iter().map(|(peer, _)| peer).collect());
        !merged.gaps.is_empty()
    }

    /// Everybody hears everything, until nobody has anything to tell.
    fn settle(&mut self) {
        while let Some(id) = (0..self.all.len()).find(|id| !self.all[*id].told.is_empty()) {
            for delta in self.take_told(id) {
                for other in (0..self.all.len()).filter(|other| *other != id) {
                    if self.may_hear(other, &delta) {
                        self.catch_up(other, id);
                    }
                }
            }
        }
    }

    /// Some time in which everybody hears everything.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Duration::from_millis(100);
            (0..self.all.len()).for_each(|id| self.update(id, BTreeSet::new()));
            self.settle();
        }
    }

    /// All that one peer knows of all others, as if it had heard it from another at once.
    fn catch_up(&mut self, id: usize, from: usize) {
        let digests = self.all[id].entries.digest(|_| true);
        for digest in digests {
            for delta in self.all[from].entries.delta_since(&digest, |_| true).unwrap().deltas {
                self.hear(id, &delta);
            }
        }
    }

    /// Lets a peer say something that its allocator does not.
    fn forge(&mut self, id: usize, key: Key, value: Value) -> Vec<u8> {
        self.all[id].entries.set(key, value).unwrap().unwrap()
    }

    fn allocate(&mut self, id: usize, owner: &str) -> u64 {
        self.ask(id, AddressRequest::Allocate { owner: owner.to_owned(), subnets: Vec::new() })
    }

    fn remove(&mut self, id: usize, dead: usize) -> u64 {
        let peers = vec![name(dead).to_string()];
        self.ask(id, AddressRequest::RemovePeers { peers })
    }

    fn owned_once(&self) {
        let mut all = BTreeSet::new();
        for id in (0..self.all.len()).filter(|id| self.all[*id].ipam.is_some()) {
            for range in self.owns(id) {
                (range.first..=range.last).for_each(|at| assert!(all.insert(at), "{:?}", range::address(at)));
            }
        }
    }
}

fn one_address(answers: &Answers, number: u64) -> IpNet {
    match answers.get(&number) {
        Some(Ok(AddressAnswer::Addresses(addresses))) => addresses[0],
        other => panic!("{other:?}"),
    }
}

/// Host 0 owns all, 1 and 2 nothing. Host 1 is given something, takes it, and tells host 2 but not host 0.
fn with_a_gift_that_was_taken() -> (Peers, Range) {
    let mut peers = Peers::new(3, 1);
    peers.allocate(1, "c");
    let want = peers.take_told(1);
    want.iter().for_each(|delta| peers.hear(0, delta));
    want.iter().for_each(|delta| peers.hear(2, delta));
    let gift = peers.take_told(0);
    gift.iter().for_each(|delta| peers.hear(1, delta));
    gift.iter().for_each(|delta| peers.hear(2, delta));
    let given = peers.owns(1)[0];
    peers.take_told(1).iter().for_each(|delta| peers.hear(2, delta));
    peers.owned_once();
    (peers, given)
}

/// Then host 1 gives it to host 2.
fn give_on(peers: &mut Peers, given: Range) {
    let to = peers.ipam(1).known_id(name(2)).unwrap();
    let ipam = peers.all[1].ipam.as_mut().unwrap();
    ipam.give(to, 0, vec![(given, Epoch(1))]);
    peers.update(1, BTreeSet::new());
    for delta in peers.take_told(1) {
        peers.hear(2, &delta);
    }
    assert!(peers.owns(2).iter().any(|range| range.includes(given)));
    for delta in peers.take_told(2) {
        peers.hear(1, &delta);
    }
    peers.take_told(1).iter().for_each(|delta| peers.hear(2, delta));
}

#[test]
fn what_a_line_gave_is_not_taken_of_the_next_line() {
    let (mut peers, given) = with_a_gift_that_was_taken();
    give_on(&mut peers, given);
    // Host 2 hears that host 0 is dead, and tells all, who hear it one word after the other.
    let dead = peers.ipam(2).known_id(name(0)).unwrap();
    peers.all[2].ipam.as_mut().unwrap().hear_removed(dead);
    peers.update(2, BTreeSet::new());
    let removal = peers.take_told(2);
    removal.iter().for_each(|delta| peers.hear(1, delta));
    peers.catch_up(0, 2);
    assert!(!peers.ipam(0).full, "it is fenced");
    for delta in peers.take_told(0) {
        peers.hear(1, &delta);
        peers.hear(2, &delta);
        peers.owned_once();
    }
    peers.settle();
    peers.owned_once();
    peers.pass(Duration::from_secs(20));
    peers.owned_once();
    assert_eq!((0..3).flat_map(|id| peers.owns(id)).map(Range::len).sum::<u128>(), 256);
}

#[test]
fn a_gift_says_which_line_gave_it() {
    let mut peers = Peers::new(3, 1);
    let [giver, taker] = [0, 1].map(|id| peers.ipam(id).own_id());
    let range = peers.ipam(0).state.spare(peers.owns(0)[0]).unwrap();
    let gift = |by: Life, number| Gift { by, life: taker.life, number, want: 0, ranges: vec![range] };
    let stale = peers.forge(0, Key::Gift(taker.name), Value::Gift(gift(Life::first(7 << 40), 1)));
    peers.hear(1, &stale);
    assert!(peers.owns(1).is_empty(), "it was another's");
    let valid = peers.forge(0, Key::Gift(taker.name), Value::Gift(gift(giver.life, 1)));
    peers.hear(1, &valid);
    assert_eq!(peers.owns(1), [range.0]);
}

#[test]
fn a_receipt_of_an_earlier_line_is_none_for_the_next() {
    let mut peers = Peers::new(2, 1);
    for owner in ["a", "b"] {
        peers.allocate(1, owner);
        peers.settle();
    }
    // Host 1 has had gifts, loses its data, and comes back; what it tells first is still what it told in its earlier life.
    let told = peers.ipam(0).state.given;
    let old = peers.ipam(0).known_id(name(1)).unwrap();
    assert!(told > 0);
    peers.stop(1);
    peers.all[1].kept = None;
    peers.start(1);
    peers.settle();
    assert_ne!(peers.ipam(0).known_id(name(1)).unwrap().life, old.life);
    let giver = peers.ipam(0).own_id();
    let stale = peers.forge(1, Key::Receipt(giver.name), Value::Number { life: giver.life, number: told });
    peers.hear(0, &stale);
    peers.allocate(1, "c");
    for delta in peers.take_told(1) {
        peers.hear(0, &delta);
    }
    assert!(!peers.ipam(0).state.gifts.is_empty(), "the gift was taken for received");
}

#[test]
fn a_gift_to_a_life_that_is_over_is_void_for_both() {
    let mut peers = Peers::new(3, 1);
    let taker = peers.ipam(1).own_id();
    // Host 0 gives something that host 1 does not hear of; host 1 is started again, and is acknowledged by all.
    let range = peers.ipam(0).state.spare(peers.owns(0)[0]).unwrap();
    peers.all[0].ipam.as_mut().unwrap().give(taker, 0, vec![range]);
    peers.update(0, BTreeSet::new());
    let gift = peers.take_told(0);
    gift.iter().for_each(|delta| peers.hear(2, delta));
    peers.stop(1);
    peers.start(1);
    let gone = MemberId { life: taker.life.next(), ..taker };
    assert_eq!(peers.ipam(1).own_id(), gone);
    peers.all[1].ipam.as_mut().unwrap().become_full();
    peers.update(1, BTreeSet::new());
    for delta in peers.take_told(1) {
        peers.hear(0, &delta);
        peers.hear(2, &delta);
    }
    // Then all hear that its earlier life was declared dead.
    for id in 0..3 {
        peers.all[id].ipam.as_mut().unwrap().hear_removed(taker);
    }
    peers.update(0, BTreeSet::new());
    assert!(!peers.ipam(0).state.holds_any(range.0), "it is nobody's");
    assert!(peers.ipam(1).full, "a later life was acknowledged");
    peers.catch_up(1, 2);
    assert!(peers.all[1].entries.get(name(0), &Key::Gift(name(1))).is_some(), "it has heard of it now");
    assert!(peers.owns(1).is_empty(), "it is nobody's: {:?}", peers.owns(1));
    peers.pass(Duration::from_secs(20));
    assert!(peers.ipam(0).state.gifts.is_empty());
    assert_eq!((0..3).flat_map(|id| peers.owns(id)).map(Range::len).sum::<u128>(), 256, "it was taken over");
    peers.owned_once();
}

#[test]
fn who_came_back_before_a_removal_ran_is_not_removed() {
    for is_there in [true, false] {
        let mut peers = Peers::new(3, 3);
        // Host 0 is started again and waits for others to confirm it; meanwhile it is told that host 2 is dead.
        peers.stop(2);
        peers.stop(0);
        peers.start(0);
        let meant = peers.ipam(0).known_id(name(2)).unwrap();
        let number = peers.remove(0, 2);
        assert!(!peers.all[0].answers.contains_key(&number), "it waits");
        peers.catch_up(1, 0);
        // Host 2 is back before that.
        peers.start(2);
        for (by, from) in [(2, 1), (1, 2), (2, 1), (1, 2)] {
            peers.catch_up(by, from);
        }
        assert!(peers.ipam(2).full && !peers.ipam(0).full);
        if !is_there {
            peers.stop(2);
        }
        for (by, from) in [(0, 1), (1, 0), (2, 0), (0, 2), (0, 1)] {
            peers.catch_up(by, from);
        }
        assert!(peers.ipam(0).full);
        peers.pass(Duration::from_secs(10));
        let answer = &peers.all[0].answers[&number];
        match is_there {
            true => assert!(matches!(answer, Err(AllocationError::PeerAlive(_))), "{answer:?}"),
            false => assert!(answer.is_ok(), "{answer:?}"),
        }
        let now = peers.ipam(0).known_id(name(2)).expect("it is a member");
        assert!(now.life > meant.life);
    }
}

#[test]
fn a_router_that_could_not_leave_remembers_who_has_which_address() {
    let mut peers = Peers::new(2, 2);
    let first = peers.allocate(0, "c");
    let held = one_address(&peers.all[0].answers, first);
    peers.stop(1);
    peers.update(0, [name(1)].into());
    let leave = peers.ask(0, AddressRequest::Leave);
    let meanwhile = peers.allocate(0, "d");
    assert!(!peers.all[0].answers.contains_key(&meanwhile), "nothing is given out while it leaves");
    peers.pass(Duration::from_secs(9));
    let answer = &peers.all[0].answers[&leave];
    assert!(matches!(answer, Err(AllocationError::Unreachable { .. })), "{answer:?}");
    let again = peers.allocate(0, "e");
    assert_ne!(one_address(&peers.all[0].answers, again), held);
    let lookup = peers.ask(0, AddressRequest::Lookup { owner: "c".to_owned() });
    assert_eq!(one_address(&peers.all[0].answers, lookup), held);
}

#[test]
fn a_router_that_left_holds_nothing() {
    let mut peers = Peers::new(2, 2);
    peers.allocate(0, "c");
    let leave = peers.ask(0, AddressRequest::Leave);
    peers.settle();
    assert!(!peers.all[0].answers.contains_key(&leave), "the others have to hear of it");
    peers.pass(Duration::from_secs(1));
    assert_eq!(peers.all[0].answers[&leave], Ok(AddressAnswer::Done));
    let targets = Targets::default();
    let other = &peers.all[1];
    let status = other.ipam.as_ref().unwrap().status(world(&other.entries, &other.reachable, &targets));
    assert_eq!(
        status.peers.iter().map(|share| share.peer.name).collect::<Vec<_>>(),
        [name(1)],
        "who left is not listed"
    );
    assert!(peers.owns(0).is_empty() && peers.ipam(0).state.allotments.list().is_empty());
    assert_eq!(peers.owns(1).iter().map(|range| range.len()).sum::<u128>(), 256);
}

#[test]
fn a_removal_is_settled_for_all_who_consented_and_one_tells_of_it() {
    let mut peers = Peers::new(5, 5);
    peers.stop(4);
    peers.all[4].told.clear();
    let number = peers.remove(1, 4);
    peers.settle();
    let tells = |peers: &Peers| {
        let tell = |id: usize| peers.all[id].entries.get(name(id), &Key::Removed(name(4))).is_some();
        (0..4).filter(|id| tell(*id)).count()
    };
    assert!(tells(&peers) <= 1, "{} say so", tells(&peers));
    peers.pass(Duration::from_secs(2));
    assert!(peers.all[1].answers[&number].is_ok());
    for id in 0..4 {
        assert!(peers.ipam(id).unsettled().is_empty(), "{id} does not know that it is over");
    }
    assert_eq!(tells(&peers), 0);
}

#[test]
fn a_restart_is_told_by_few() {
    let mut peers = Peers::new(8, 8);
    peers.stop(3);
    peers.start(3);
    // Nobody answers for a while.
    for id in (0..8).filter(|id| *id != 3) {
        peers.catch_up(3, id);
    }
    for id in (0..8).filter(|id| *id != 3) {
        peers.catch_up(id, 3);
    }
    let knows = |id: &usize| peers.all[*id].entries.get(name(*id), &Key::Knows(name(3))).is_some();
    let tellers = (0..8).filter(knows).count();
    assert!((1..=3).contains(&tellers), "{tellers} say so");
    peers.settle();
    assert!(peers.ipam(3).full);
    assert_eq!((0..8).filter(|id| peers.all[*id].entries.get(name(*id), &Key::Knows(name(3))).is_some()).count(), 0);
}

/// One whose disk stores nothing is a member all the same, and says nothing.
#[test]
fn of_those_asked_a_silent_one_gives_way_to_another() {
    let mut peers = Peers::new(5, 5);
    peers.pass(Duration::from_secs(2));
    peers.stop(4);
    peers.stuck = Some(1);
    peers.start(4);
    peers.settle();
    peers.catch_up(4, 0);
    peers.pass(Duration::from_secs(4));
    assert!(!peers.ipam(4).full, "three were asked, one of whom says nothing");
    peers.pass(Duration::from_secs(2));
    assert!(peers.ipam(4).full);
    // With nobody to ask instead it waits.
    peers.stop(3);
    peers.stop(4);
    peers.start(4);
    peers.settle();
    peers.catch_up(4, 0);
    peers.pass(Duration::from_secs(20));
    assert!(!peers.ipam(4).full);
    peers.stuck = None;
    peers.update(1, (0..5).map(name).collect());
    peers.pass(Duration::from_secs(1));
    assert!(peers.ipam(4).full);
}

#[test]
fn who_was_declared_dead_comes_back_by_nobodys_word() {
    let mut peers = Peers::new(4, 4);
    // Hosts 2 and 3 are stopped, declared dead by the others, and started where they reach only each other.
    peers.stop(2);
    peers.stop(3);
    peers.remove(0, 2);
    peers.settle();
    peers.remove(0, 3);
    peers.settle();
    let all = peers.owns(0).len() + peers.owns(1).len();
    assert!(all > 0);
    let (zero, one) = (peers.all[0].ipam.take(), peers.all[1].ipam.take());
    peers.start(2);
    peers.start(3);
    peers.pass(Duration::from_secs(5));
    assert!(!peers.ipam(2).full && !peers.ipam(3).full);
    // Then they meet the others, host 2 first.
    (peers.all[0].ipam, peers.all[1].ipam) = (zero, one);
    peers.reach();
    for (by, from) in [(0, 2), (1, 2), (2, 0), (2, 1), (0, 2), (1, 2), (2, 0), (2, 1), (0, 2), (1, 2)] {
        peers.catch_up(by, from);
    }
    for (by, from) in [(3, 2), (2, 3), (3, 2), (2, 3), (1, 2), (0, 2), (3, 1), (3, 0), (0, 3), (1, 3), (2, 3)] {
        peers.catch_up(by, from);
    }
    peers.pass(Duration::from_secs(15));
    peers.owned_once();
    assert!((0..4).all(|id| peers.ipam(id).full));
}

#[test]
fn a_seed_that_was_launched_idle_before_begins_like_a_new_one() {
    let mut peers = Peers::new(0, 0);
    peers.init = Init::Consensus(Some(3));
    peers.add();
    assert!(peers.all[0].kept.is_some(), "it has data");
    peers.stop(0);
    peers.init = Init::Seed(vec![name(0), name(1)]);
    peers.start(0);
    peers.pass(Duration::from_secs(4));
    assert!(peers.ipam(0).full);
    assert_eq!(peers.owns(0).iter().map(|range| range.len()).sum::<u128>(), 128);
}

#[test]
fn who_was_never_admitted_says_so() {
    let mut peers = Peers::new(0, 1);
    peers.init = Init::Seed(vec![name(0)]);
    peers.add();
    peers.settle();
    peers.add();
    // The founder tells how it was founded, and is gone.
    peers.catch_up(0, 1);
    peers.take_told(0);
    peers.catch_up(1, 0);
    peers.stop(0);
    assert!(!peers.ipam(1).full && peers.ipam(1).state.universe.is_some());
    let number = peers.remove(1, 0);
    peers.pass(Duration::from_secs(9));
    let answer = &peers.all[1].answers[&number];
    assert!(matches!(answer, Err(AllocationError::NotStarted { waiting }) if waiting.contains("host0")), "{answer:?}");
}

#[test]
fn all_go_on_together_though_one_of_them_lost_its_data() {
    let mut peers = Peers::new(3, 1);
    peers.stop(1);
    peers.all[1].kept = None;
    peers.start(1);
    // The others let it join, but it does not hear so before they stop.
    for (by, from) in [(0, 1), (1, 0), (0, 1), (2, 1), (1, 0), (1, 2), (0, 1), (2, 1)] {
        peers.catch_up(by, from);
    }
    let new = peers.ipam(1).own_id();
    assert!(!peers.ipam(1).full);
    assert!([0, 2].iter().all(|id| peers.ipam(*id).state.is_known(new)));
    for id in [0, 2] {
        peers.stop(id);
        peers.take_told(id);
    }
    peers.start(0);
    peers.start(2);
    peers.pass(Duration::from_secs(5));
    assert!((0..3).all(|id| peers.ipam(id).full));
    peers.owned_once();
}
