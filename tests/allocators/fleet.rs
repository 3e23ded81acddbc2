//! Many allocators without the rest of their nodes, and a message layer that loses, repeats, reorders and parts.
//!
//! Everything is decided by a seed. After each answer it is checked that nobody else holds the address.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use weft::{
    api::allocation::{AddressAnswer, AddressRequest, AddressStatus, AllocationError},
    entropy::Entropy,
    gossip::origin::Incarnation,
    id::PeerName,
    ipam::{
        AddressEvent, AllocationConfig, Init, Ipam, IpamOutput,
        world::{Entries, Targets, World},
    },
    time::Time,
};

/// Between comparisons with one neighbour; jittered by half.
const COMPARE: Duration = Duration::from_millis(1000);
/// A neighbour is sent no digest more often than this, as in a node.
const DIGEST_INTERVAL: Duration = Duration::from_millis(200);
/// Deltas that are known again, as in a node.
const SEEN_MAX: usize = 64;
/// States stored before the newest that a disk may be set back to.
const HISTORY: usize = 40;
/// Happenings that are remembered.
const STORY: usize = 400;
/// No request may take longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What travels.
#[derive(Clone, Debug)]
enum Message {
    Delta(Arc<[u8]>),
    Digest(Arc<[u8]>),
    /// A number that is equal where digests are.
    Hash(u64),
}

#[derive(Clone, Debug)]
enum Happening {
    Arrives {
        from: usize,
        message: Message,
        sent_by: u64,
    },
    Wake,
    Compare,
    /// A neighbour is sent our digest.
    Tell {
        to: usize,
    },
}

/// What went over the links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Share of messages lost.
    pub(crate) loss: f64,
    /// Share of messages that come twice.
    pub(crate) repeated: f64,
    /// Longest way of a message; each takes a random part of it, so they overtake each other.
    pub(crate) delay: Duration,
}

/// One allocator, its disk and its view of others.
struct Host {
    name: PeerName,
    ipam: Option<Ipam>,
    entries: Entries,
    kept: VecDeque<Arc<[u8]>>,
    starts: u64,
    neighbours: Vec<usize>,
    reachable: BTreeSet<PeerName>,
    changed: BTreeSet<PeerName>,
    targets: Targets,
    wake: Option<Time>,
    compares: bool,
    seen: VecDeque<Arc<[u8]>>,
    /// When each neighbour was sent a digest last, or will be.
    digests: BTreeMap<usize, Time>,
}

/// A request that was made.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// At whom.
    pub(crate) host: usize,
    /// What.
    pub(crate) request: AddressRequest,
    at: Time,
}

/// All of them.
pub(crate) struct Fleet {
    pub(crate) rng: StdRng,
    pub(crate) now: Time,
    agenda: BTreeMap<(Time, u64), (usize, Happening)>,
    decided: u64,
    hosts: Vec<Host>,
    /// Which part of the network each host is in.
    pub(crate) groups: Vec<usize>,
    pub(crate) faults: Faults,
    config: AllocationConfig,
    asked: BTreeMap<u64, Asked>,
    requests: u64,
    /// Who holds which address, as all hosts together have been told.
    pub(crate) held: BTreeMap<IpAddr, (usize, String)>,
    pub(crate) answers: BTreeMap<u64, Result<AddressAnswer, AllocationError>>,
    pub(crate) events: Vec<(usize, AddressEvent)>,
    pub(crate) failures: BTreeMap<String, u64>,
    /// What was done to hosts lately, to be read when a run fails.
    story: VecDeque<String>,
}

impl Fleet {
    pub(crate) fn new(count: usize, range: &str, seed: u64) -> Self {
        let init = Init::Consensus(u32::try_from(count).ok());
        Self::with_init(count, range, seed, init)
    }

    pub(crate) fn with_init(count: usize, range: &str, seed: u64, init: Init) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let hosts = (0..count).map(|id| Host::new(id, neighbours(id, count, &mut rng))).collect();
        let ranges = vec![range.parse().unwrap()];
        let config = AllocationConfig { ranges, default_subnets: Vec::new(), init, kept: None };
        let faults = Faults { loss: 0.05, repeated: 0.05, delay: Duration::from_millis(40) };
        let mut fleet = Self {
            rng,
            now: Time::ZERO + Duration::from_secs(1),
            agenda: BTreeMap::new(),
            decided: 0,
            hosts,
            groups: vec![0; count],
            faults,
            config,
            asked: BTreeMap::new(),
            requests: 0,
            held: BTreeMap::new(),
            answers: BTreeMap::new(),
            events: Vec::new(),
            failures: BTreeMap::new(),
            story: VecDeque::new(),
        };
        // Links go both ways.
        for id in 0..count {
            for other in fleet.hosts[id].neighbours.clone() {
                if !fleet.hosts[other].neighbours.contains(&id) {
                    fleet.hosts[other].neighbours.push(id);
                }
            }
        }
        (0..count).for_each(|id| fleet.start(id, None));
        fleet
    }

    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn name(&self, id: usize) -> PeerName {
        self.hosts[id].name
    }

    pub(crate) fn runs(&self, id: usize) -> bool {
        self.hosts[id].ipam.is_some()
    }

    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.len()).filter(|id| self.runs(*id)).collect()
    }

    /// What a host has on its disk, or had `ago` times of storing before.
    pub(crate) fn kept(&self, id: usize, ago: usize) -> Option<Vec<u8>> {
        self.hosts[id].kept.iter().rev().nth(ago).map(|bytes| bytes.to_vec())
    }

    pub(crate) fn status(&self, id: usize) -> AddressStatus {
        let host = &self.hosts[id];
        host.ipam.as_ref().unwrap().status(host.world())
    }

    /// Starts a host that does not run.
    pub(crate) fn start(&mut self, id: usize, kept: Option<Vec<u8>>) {
        let entropy = Entropy::seeded(self.rng.random());
        let host = &mut self.hosts[id];
        assert!(host.ipam.is_none());
        let data = if kept.is_some() { "data" } else { "no data" };
        host.starts += 1;
        host.entries = Entries::new(host.name, Incarnation(host.starts << 20));
        host.changed.clear();
        host.seen.clear();
        host.digests.clear();
        let config = AllocationConfig { kept, ..self.config.clone() };
        let nickname = format!("host{id}").parse().unwrap();
        host.ipam = Some(Ipam::new(host.name, nickname, config, entropy, self.now));
        self.note(format!("{id} starts with {data}"));
        self.reach();
        self.update(id);
        self.compare(id);
    }

    /// Stops a host; what it said last may be lost. Requests to it end with it.
    pub(crate) fn crash(&mut self, id: usize) {
        self.note(format!("{id} crashes"));
        self.hosts[id].ipam = None;
        self.hosts[id].wake = None;
        let lost = self.rng.random_bool(0.5);
        let starts = self.hosts[id].starts;
        if lost {
            self.agenda.retain(|_, (_, happening)| {
                !matches!(happening, Happening::Arrives { from, sent_by, .. } if *from == id && *sent_by == starts)
            });
        }
        self.asked.retain(|_, asked| asked.host != id);
        self.reach();
    }

    /// All containers of a host are gone.
    pub(crate) fn empty(&mut self, id: usize) {
        self.held.retain(|_, (host, _)| *host != id);
    }

    /// Parts the network, or joins it again.
    pub(crate) fn part(&mut self, groups: Vec<usize>) {
        self.note(format!("groups {groups:?}"));
        self.groups = groups;
        self.reach();
    }

    pub(crate) fn ask(&mut self, id: usize, request: AddressRequest) -> u64 {
        self.requests += 1;
        let number = self.requests;
        if let AddressRequest::Free { owner, addresses, keep_ms: 0 } = &request {
            self.held.retain(|at, (host, held)| {
                *host != id || held != owner || !(addresses.is_empty() || addresses.contains(at))
            });
        }
        if matches!(request, AddressRequest::RemovePeers { .. } | AddressRequest::Leave) {
            self.note(format!("{id}: {request:?}"));
        }
        self.asked.insert(number, Asked { host: id, request: request.clone(), at: self.now });
        let now = self.now;
        let host = &mut self.hosts[id];
        let Some(mut ipam) = host.ipam.take() else { panic!("{id} does not run") };
        ipam.request(number, request, host.world(), now);
        host.ipam = Some(ipam);
        self.perform(id);
        number
    }

    /// Remembers what happened.
    pub(crate) fn note(&mut self, text: String) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story.push_back(format!("{:?} {text}", self.now.since(Time::ZERO)));
    }

    pub(crate) fn story(&self) -> String {
        self.story.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), (id, happening)) = entry.remove_entry();
            self.now = at;
            self.happen(id, happening);
        }
        self.now = end;
        let late = self.asked.values().find(|asked| self.now.since(asked.at) > ANSWER_WITHIN);
        assert!(late.is_none(), "no answer in time: {late:?}");
    }

    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        let step = (limit / 100).max(Duration::from_millis(500));
        while !done(self) {
            if self.now >= until {
                return false;
            }
            self.run(step);
        }
        true
    }

    fn happen(&mut self, id: usize, happening: Happening) {
        if self.hosts[id].ipam.is_none() {
            self.hosts[id].compares &= !matches!(happening, Happening::Compare);
            return;
        }
        match happening {
            Happening::Wake => {
                self.hosts[id].wake = None;
                self.update(id);
            }
            Happening::Compare => {
                self.hosts[id].compares = false;
                self.compare(id);
            }
            Happening::Tell { to } => {
                for digest in self.hosts[id].entries.digest(|_| true) {
                    self.send(id, to, &Message::Digest(digest.into()));
                }
            }
            Happening::Arrives { from, message, .. } => self.receive(id, from, &message),
        }
    }

    fn compare(&mut self, id: usize) {
        if std::mem::replace(&mut self.hosts[id].compares, true) {
            return;
        }
        let host = &self.hosts[id];
        let neighbour = host.neighbours[self.rng.random_range(0..host.neighbours.len().max(1))];
        let hash = host.entries.digest_hash(|_| true);
        self.send(id, neighbour, &Message::Hash(hash));
        let wait = COMPARE.mul_f64(0.5 + self.rng.random::<f64>());
        self.schedule(wait, id, Happening::Compare);
    }

    fn receive(&mut self, id: usize, from: usize, message: &Message) {
        match message {
            Message::Hash(hash) => {
                if self.hosts[id].entries.digest_hash(|_| true) != *hash {
                    self.owe_digest(id, from);
                }
            }
            Message::Digest(digest) => {
                let repair = self.hosts[id].entries.delta_since(digest, |_| true).unwrap();
                for delta in repair.deltas {
                    self.send(id, from, &Message::Delta(delta.into()));
                }
                if !repair.behind.is_empty() {
                    self.owe_digest(id, from);
                }
            }
            Message::Delta(delta) => self.merge(id, from, delta),
        }
    }

    fn merge(&mut self, id: usize, from: usize, delta: &Arc<[u8]>) {
        let host = &mut self.hosts[id];
        if host.seen.contains(delta) {
            return;
        }
        let merged = host.entries.merge(delta).unwrap();
        host.changed.extend(merged.changed.iter().map(|(peer, _)| *peer));
        if merged.gaps.is_empty() {
            host.seen.push_front(delta.clone());
            host.seen.truncate(SEEN_MAX);
        }
        if let Some(above) = merged.outdated_self {
            let entropy = Entropy::seeded([7; 32]);
            for delta in self.hosts[id].entries.restart(above, &entropy) {
                self.flood(id, None, delta);
            }
        }
        if let Some(forward) = merged.forward {
            self.flood(id, Some(from), forward);
        }
        if !merged.gaps.is_empty() {
            self.owe_digest(id, from);
        }
        if !self.hosts[id].changed.is_empty() {
            self.update(id);
        }
    }

    fn owe_digest(&mut self, id: usize, to: usize) {
        let last = self.hosts[id].digests.get(&to).copied();
        if last.is_some_and(|at| at > self.now) {
            return;
        }
        let due = last.map_or(self.now, |at| self.now.max(at + DIGEST_INTERVAL));
        let wait = due.since(self.now) + Duration::from_micros(1);
        self.hosts[id].digests.insert(to, self.now + wait);
        self.schedule(wait, id, Happening::Tell { to });
    }

    fn flood(&mut self, id: usize, except: Option<usize>, delta: Vec<u8>) {
        let message = Message::Delta(delta.into());
        for to in self.hosts[id].neighbours.clone() {
            if Some(to) != except {
                self.send(id, to, &message);
            }
        }
    }

    fn send(&mut self, id: usize, to: usize, message: &Message) {
        if self.groups[id] != self.groups[to] || !self.runs(to) || self.rng.random_bool(self.faults.loss) {
            return;
        }
        let copies = if self.rng.random_bool(self.faults.repeated) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.faults.delay.mul_f64(self.rng.random());
            let sent_by = self.hosts[id].starts;
            self.schedule(delay, to, Happening::Arrives { from: id, message: message.clone(), sent_by });
        }
    }

    /// Lets a host look at what is new.
    fn update(&mut self, id: usize) {
        let now = self.now;
        let host = &mut self.hosts[id];
        let changed = std::mem::take(&mut host.changed);
        let Some(mut ipam) = host.ipam.take() else { return };
        ipam.update(&changed, host.world(), now);
        host.ipam = Some(ipam);
        self.perform(id);
    }

    fn perform(&mut self, id: usize) {
        let own = self.hosts[id].name;
        let before = self.hosts[id].entries.digest(|peer| peer == own);
        while let Some(output) = self.hosts[id].ipam.as_mut().and_then(Ipam::poll_output) {
            let host = &mut self.hosts[id];
            let delta = match output {
                IpamOutput::Keep(bytes) => {
                    host.kept.push_back(bytes);
                    if host.kept.len() > HISTORY {
                        host.kept.pop_front();
                    }
                    None
                }
                IpamOutput::Set(key, value) => host.entries.set(key, value).unwrap(),
                IpamOutput::Unset(key) => host.entries.remove(&key),
                IpamOutput::Forget(peer) => {
                    host.entries.bury(peer);
                    None
                }
                IpamOutput::Answer(number, result) => {
                    self.answered(id, number, result);
                    None
                }
                IpamOutput::Happened(event) => {
                    self.note(format!("{id}: {event}"));
                    self.events.push((id, event));
                    None
                }
            };
            if let Some(delta) = delta.filter(|_| !self.tells_at_once()) {
                self.flood(id, None, delta);
            }
        }
        if self.tells_at_once() {
            for digest in before {
                let told = self.hosts[id].entries.delta_since(&digest, |peer| peer == own).unwrap();
                told.deltas.into_iter().for_each(|delta| self.flood(id, None, delta));
            }
        }
        let Some(at) = self.hosts[id].ipam.as_ref().and_then(Ipam::deadline) else { return };
        if self.hosts[id].wake.is_none_or(|wake| at < wake) {
            self.hosts[id].wake = Some(at);
            self.schedule(at.since(self.now) + Duration::from_micros(1), id, Happening::Wake);
        }
    }

    /// Many hosts tell in one message all that they say at a time, which is less to carry. Few say one word after the other.
    fn tells_at_once(&self) -> bool {
        self.len() > 8
    }

    fn answered(&mut self, id: usize, number: u64, result: Result<AddressAnswer, AllocationError>) {
        let Some(asked) = self.asked.remove(&number) else { panic!("answered twice: {number}") };
        if let Err(error) = &result {
            let kind = format!("{error:?}");
            let kind = kind.split([' ', '(']).next().unwrap_or_default().to_owned();
            *self.failures.entry(kind).or_default() += 1;
        }
        if let (
            AddressRequest::Allocate { owner, .. } | AddressRequest::Claim { owner, .. },
            Ok(AddressAnswer::Addresses(addresses)),
        ) = (&asked.request, &result)
        {
            for address in addresses {
                let holder = (id, owner.clone());
                let other = self.held.insert(address.addr(), holder.clone());
                if let Some(other) = other.filter(|other| *other != holder) {
                    let story = self.story();
                    panic!("{address} is held by {other:?} and given to {holder:?} at {:?}:\n{story}", self.now);
                }
            }
        }
        self.answers.insert(number, result);
    }

    /// Works out who reaches whom, and tells.
    fn reach(&mut self) {
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        for id in 0..self.len() {
            if seen.contains_key(&id) || !self.runs(id) {
                continue;
            }
            let mut open = vec![id];
            while let Some(next) = open.pop() {
                if !self.runs(next) || self.groups[next] != self.groups[id] || seen.insert(next, id).is_some() {
                    continue;
                }
                open.extend(&self.hosts[next].neighbours);
            }
        }
        for id in self.living() {
            let component = seen.get(&id).copied();
            let reachable: BTreeSet<PeerName> = seen
                .iter()
                .filter(|(other, found)| **other != id && Some(**found) == component)
                .map(|(other, _)| self.hosts[*other].name)
                .collect();
            let host = &mut self.hosts[id];
            let changed: Vec<PeerName> = host.reachable.symmetric_difference(&reachable).copied().collect();
            host.reachable = reachable;
            changed.iter().for_each(|peer| host.entries.exhume(*peer));
            if !changed.is_empty() {
                host.changed.extend(changed);
                let wake = Happening::Wake;
                self.schedule(Duration::from_millis(1), id, wake);
            }
        }
    }

    fn schedule(&mut self, delay: Duration, id: usize, happening: Happening) {
        self.decided += 1;
        self.agenda.insert((self.now + delay, self.decided), (id, happening));
    }
}

impl Host {
    fn new(id: usize, neighbours: Vec<usize>) -> Self {
        let [high, low] = u16::try_from(id + 1).unwrap().to_be_bytes();
        let name = PeerName([2, 0, 0, 0, high, low]);
        Self {
            name,
            ipam: None,
            entries: Entries::new(name, Incarnation(1)),
            kept: VecDeque::new(),
            starts: 0,
            neighbours,
            reachable: BTreeSet::new(),
            changed: BTreeSet::new(),
            targets: Targets { count: 1, peers: Vec::new() },
            wake: None,
            compares: false,
            seen: VecDeque::new(),
            digests: BTreeMap::new(),
        }
    }

    fn world(&self) -> World<'_> {
        World { entries: &self.entries, reachable: &self.reachable, targets: &self.targets }
    }
}

/// A ring, so that all are joined, and some across it.
fn neighbours(id: usize, count: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut neighbours: BTreeSet<usize> = [(id + 1) % count].into();
    if count <= 8 {
        neighbours.extend(0..count);
    } else {
        neighbours.extend((0..2).map(|_| rng.random_range(0..count)));
    }
    neighbours.remove(&id);
    neighbours.into_iter().collect()
}
