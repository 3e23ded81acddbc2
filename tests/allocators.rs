//! Allocators by the dozen: random operations over faulty links, with an eye that sees all.
//!
//! Five hosts do a million operations, fifty 150 000, two hundred 20 000. `WEFT_SEED=n` starts from another seed, and
//! `WEFT_ALLOCATOR_FACTOR=n` runs n times as many seeds: `WEFT_SEED=1000 WEFT_ALLOCATOR_FACTOR=10 cargo test -p weft --test allocators`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "allocators/fleet.rs"]
mod fleet;
#[path = "allocators/model.rs"]
mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use fleet::Fleet;
use ipnet::IpNet;
use rand::RngExt;
use weft::{api::allocation::AddressRequest, id::PeerName, ipam::AddressEvent};

const SECOND: Duration = Duration::from_secs(1);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// One run: random operations on a fleet, then an end of all faults, then the accounts.
struct Storm {
    fleet: Fleet,
    owners: Vec<BTreeMap<String, Option<u64>>>,
    /// Hosts whose data were lost or given up, and that have not come back as members yet.
    fresh: Vec<bool>,
    /// Hosts that ran in a part of the network since it was last whole for a while. One may have vouched for another there,
    /// and those that vouched must not all be declared dead before somebody else has heard: the decision assumes it.
    apart: Vec<bool>,
    calm_since: Duration,
    operations: u64,
    named: u64,
    range: IpNet,
    /// How often hosts stop and leave, 1 to 2.
    wear: f64,
}

impl Storm {
    fn new(count: usize, range: &str, seed: u64, wear: f64) -> Self {
        let mut fleet = Fleet::new(count, range, seed);
        fleet.ask(0, AddressRequest::Prime { alone: false });
        assert!(fleet.run_until(30 * SECOND, |fleet| (0..count).all(|id| fleet.status(id).state == "ready")));
        let owners = vec![BTreeMap::new(); count];
        let range = range.parse().unwrap();
        Self {
            fleet,
            owners,
            fresh: vec![false; count],
            apart: vec![false; count],
            calm_since: Duration::ZERO,
            operations: 0,
            named: 0,
            range,
            wear,
        }
    }

    fn run(&mut self, operations: u64) {
        while self.operations < operations {
            self.operate();
            self.operations += 1;
            // Many operations within a moment, then some time.
            if self.fleet.rng.random_bool(0.04) {
                let millis = self.fleet.rng.random_range(0..150);
                self.fleet.run(Duration::from_millis(millis));
            }
        }
    }

    fn operate(&mut self) {
        if !self.is_whole() || self.is_calm() {
            let is_whole = self.is_whole();
            self.fleet.living().into_iter().for_each(|id| self.apart[id] = !is_whole);
        }
        let id = self.fleet.rng.random_range(0..self.fleet.len());
        let luck: f64 = self.fleet.rng.random();
        if !self.fleet.runs(id) {
            if luck < 0.02 {
                self.start_again(id);
            } else if luck < 0.025 {
                self.remove(id);
            }
            return;
        }
        // What all hosts hear of is as rare among many as it is for each of few.
        let rare = (10.0 / self.fleet.len() as f64).min(1.0);
        match luck {
            _ if luck < 0.5 => self.allocate(id),
            _ if luck < 0.93 => self.free(id),
            _ if luck < 0.93 + 0.05 * rare => self.claim(id),
            _ if luck < 0.98 => {}
            _ if luck < 0.98 + 0.004 * rare * self.wear => self.crash(id),
            _ if luck < 0.988 => {}
            _ if luck < 0.988 + 0.001 * rare * self.wear => self.leave(id),
            _ if luck < 0.99 => {}
            _ if luck < 0.991 => self.part(),
            _ if luck < 0.993 => self.heal(),
            _ => {}
        }
    }

    fn owner(&mut self, id: usize) -> String {
        self.named += 1;
        format!("c{}-{id}", self.named)
    }

    fn allocate(&mut self, id: usize) {
        if self.owners[id].len() > 60 {
            return self.free(id);
        }
        let owner = self.owner(id);
        let number = self.fleet.ask(id, AddressRequest::Allocate { owner: owner.clone(), subnets: Vec::new() });
        self.owners[id].insert(owner, Some(number));
    }

    fn claim(&mut self, id: usize) {
        let owner = self.owner(id);
        let net = self.any_address();
        let number = self.fleet.ask(id, AddressRequest::Claim { owner: owner.clone(), addresses: vec![net] });
        self.owners[id].insert(owner, Some(number));
    }

    fn any_address(&mut self) -> IpNet {
        let size = 1_u32 << (32 - self.range.prefix_len());
        let IpNet::V4(range) = self.range else { panic!("not IPv4: {}", self.range) };
        let at = range.network().to_bits() + self.fleet.rng.random_range(1..size - 1);
        IpNet::new(Ipv4Addr::from_bits(at).into(), range.prefix_len()).unwrap()
    }

    fn free(&mut self, id: usize) {
        let count = self.owners[id].len();
        if count == 0 {
            return;
        }
        let which = self.fleet.rng.random_range(0..count);
        let owner = self.owners[id].keys().nth(which).cloned().unwrap();
        // Nobody frees what is not answered yet.
        if self.owners[id][&owner].is_some_and(|number| !self.fleet.answers.contains_key(&number)) {
            return;
        }
        self.owners[id].remove(&owner);
        self.fleet.ask(id, AddressRequest::Free { owner, addresses: Vec::new(), keep_ms: 0 });
    }

    fn crash(&mut self, id: usize) {
        if self.fleet.living().len() * 2 <= self.fleet.len() + 1 {
            return;
        }
        self.fleet.crash(id);
        // What was not answered was not given.
        let answers = &self.fleet.answers;
        self.owners[id].retain(|_, number| number.is_none_or(|number| answers.contains_key(&number)));
    }

    fn start_again(&mut self, id: usize) {
        let luck: f64 = self.fleet.rng.random();
        let is_whole = self.is_whole();
        let few_fresh = self.fresh.iter().filter(|fresh| **fresh).count() * 3 < self.fleet.len();
        let kept = if luck < 0.1 && few_fresh {
            self.lose(id);
            None
        } else if luck < 0.25 && is_whole && self.is_calm() {
            self.empty(id);
            let ago = self.fleet.rng.random_range(1..40);
            self.fleet.note(format!("{id} is set back by {ago}"));
            self.fleet.kept(id, ago)
        } else {
            self.fleet.kept(id, 0)
        };
        self.fleet.start(id, kept);
    }

    fn is_whole(&self) -> bool {
        self.fleet.groups.iter().all(|group| *group == 0)
    }

    fn is_calm(&self) -> bool {
        self.fleet.now.since(weft::time::Time::ZERO) > self.calm_since + 5 * SECOND
    }

    fn lose(&mut self, id: usize) {
        self.fresh[id] = true;
        self.empty(id);
    }

    fn empty(&mut self, id: usize) {
        self.fleet.empty(id);
        self.owners[id].clear();
    }

    /// Declares a host dead that is: its containers are gone.
    fn remove(&mut self, id: usize) {
        let living = self.fleet.living();
        let by = living[self.fleet.rng.random_range(0..living.len())];
        let known: BTreeSet<PeerName> = self.fleet.status(by).peers.iter().map(|peer| peer.peer.name).collect();
        let most = if self.fleet.rng.random_bool(0.3) { 4 } else { 1 };
        let others = (0..self.fleet.len()).filter(|other| *other != id && !self.fleet.runs(*other));
        let dead: Vec<usize> = [id].into_iter().chain(others).collect();
        let dead: Vec<usize> = dead
            .into_iter()
            .filter(|id| !self.apart[*id] && known.contains(&self.fleet.name(*id)))
            .take(most)
            .collect();
        if !dead.is_empty() {
            dead.iter().for_each(|id| self.empty(*id));
            let peers = dead.iter().map(|id| self.fleet.name(*id).to_string()).collect();
            self.fleet.ask(by, AddressRequest::RemovePeers { peers });
        }
    }

    fn leave(&mut self, id: usize) {
        let others =
            self.owners[id].values().any(|number| number.is_some_and(|n| !self.fleet.answers.contains_key(&n)));
        if others {
            return;
        }
        self.empty(id);
        self.fleet.ask(id, AddressRequest::Leave);
    }

    fn part(&mut self) {
        let groups = (0..self.fleet.len()).map(|_| self.fleet.rng.random_range(0..2)).collect();
        self.fleet.part(groups);
    }

    fn heal(&mut self) {
        self.calm_since = self.fleet.now.since(weft::time::Time::ZERO);
        self.fleet.part(vec![0; self.fleet.len()]);
    }

    /// The end of all faults: everybody runs and reaches everybody.
    fn end(&mut self) {
        self.heal();
        self.fleet.run(6 * SECOND);
        for id in 0..self.fleet.len() {
            if self.fleet.runs(id) && self.fleet.status(id).info.contains("gave its space away") {
                self.fleet.crash(id);
            }
            if !self.fleet.runs(id) {
                let kept = self.fleet.kept(id, 0);
                self.fleet.start(id, kept);
            }
        }
        let all = 0..self.fleet.len();
        let total = 1_u128 << (32 - self.range.prefix_len());
        let is_settled = |fleet: &Fleet| {
            let own = |id: usize| {
                let status = fleet.status(id);
                let share = status.peers.iter().find(|peer| peer.peer.name == fleet.name(id));
                (status.state == "ready" || status.state == "conflict").then_some(share?.addresses)
            };
            let owned: Option<u128> = (0..fleet.len()).map(own).sum();
            owned == Some(total)
        };
        let settled = self.fleet.run_until(120 * SECOND, is_settled);
        let states: Vec<_> = all.map(|id| self.fleet.status(id)).collect();
        assert!(settled, "space is lost: {states:#?} {:?}\n{}", self.fleet.failures, self.fleet.story());
        self.assert_orderly();
    }

    /// When nobody holds an address any more, holes in others' space go back to them.
    fn assert_orderly(&mut self) {
        for id in 0..self.fleet.len() {
            for owner in std::mem::take(&mut self.owners[id]).into_keys() {
                self.fleet.ask(id, AddressRequest::Free { owner, addresses: Vec::new(), keep_ms: 0 });
            }
            for allotment in self.fleet.status(id).owners {
                let owner = allotment.owner;
                self.fleet.ask(id, AddressRequest::Free { owner, addresses: Vec::new(), keep_ms: 0 });
            }
        }
        let ranges = |fleet: &Fleet| -> u32 {
            let own = |id: usize| fleet.status(id).peers.into_iter().find(|peer| peer.peer.name == fleet.name(id));
            (0..fleet.len()).filter_map(own).map(|share| share.ranges).sum()
        };
        let few = u32::try_from(self.fleet.len() * 8).unwrap();
        let is_orderly = self.fleet.run_until(600 * SECOND, |fleet| ranges(fleet) <= few);
        assert!(is_orderly, "{} ranges", ranges(&self.fleet));
    }
}

/// How often peers were fenced, space was taken over, and peers were declared dead.
struct Damage {
    fenced: u64,
    reclaimed: u64,
    removed: u64,
}

fn storm(count: usize, range: &str, operations: u64, seeds: u64, wear: f64) -> Damage {
    let (first, factor) = (number("WEFT_SEED", 1), number("WEFT_ALLOCATOR_FACTOR", 1));
    let mut damage = Damage { fenced: 0, reclaimed: 0, removed: 0 };
    for seed in first..first + seeds * factor {
        let mut storm = Storm::new(count, range, seed, wear);
        storm.run(operations);
        storm.end();
        for (_, event) in &storm.fleet.events {
            match event {
                AddressEvent::Fenced { .. } => damage.fenced += 1,
                AddressEvent::Reclaimed { .. } => damage.reclaimed += 1,
                AddressEvent::Removed { .. } => damage.removed += 1,
                AddressEvent::Conflict { .. } => panic!("seed {seed}: {event:?}"),
                AddressEvent::Founded { .. } | AddressEvent::Untold { .. } | AddressEvent::Unreadable { .. } => {}
            }
        }
    }
    damage
}

#[test]
fn five_hosts_never_give_an_address_twice_and_lose_none() {
    let Damage { fenced, reclaimed, removed } = storm(5, "10.0.0.0/24", 25_000, 40, 1.0);
    assert!(fenced > 0 && reclaimed > 0 && removed > 0, "the storm was a breeze");
}

/// A returning host was taken for an earlier one, whose end it knew to be settled and told nobody.
#[test]
fn five_hosts_that_stop_and_leave_twice_as_often_lose_none_either() {
    storm(5, "10.0.0.0/24", 25_000, 8, 2.0);
}

#[test]
fn fifty_hosts_never_give_an_address_twice_and_lose_none() {
    let Damage { fenced, reclaimed, removed } = storm(50, "10.0.0.0/20", 75_000, 2, 1.0);
    assert!(fenced > 0 && reclaimed > 0 && removed > 0, "the storm was a breeze");
}

/// Among so many hosts few are declared dead within a time that a test may take.
#[test]
fn two_hundred_hosts_never_give_an_address_twice_and_lose_none() {
    let Damage { removed, .. } = storm(200, "10.0.0.0/18", 20_000, 1, 2.0);
    assert!(removed > 0, "the storm was a breeze");
}
