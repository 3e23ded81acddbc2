//! A few allocators and all that can happen to them next.
//!
//! Each happening is one call of one allocator, with what it stores and tells. What a host tells is heard by each other
//! one as a whole, at any later time or never; what was told before and not heard is not heard any more. Each host has a
//! clock of its own that stands still but for [`Happening::Time`], which turns it to the next time that the allocator waits
//! for. Chance is fixed by the host's start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::Hash,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, Mutex},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weft::{
    api::allocation::{AddressAnswer, AddressRequest, AllocationError},
    entropy::Entropy,
    gossip::origin::Incarnation,
    id::PeerName,
    ipam::{
        AllocationConfig, Init, Ipam, IpamOutput,
        entry::{Key, Standing, UniverseId, Value},
        range::Range,
        world::{Entries, Targets, World},
    },
    time::Time,
};

use super::print::Print;

/// How many hosts there are.
pub(crate) const HOSTS: usize = 3;
/// What they give out: few addresses, so that some have none.
pub(crate) const RANGE: &str = "10.0.0.0/28";

/// Something that somebody asks of the allocator of a host, once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wish {
    Prime,
    /// An address for a container.
    Allocate,
    /// Says of a host that it is gone, while it does not run: its containers are gone, too.
    Remove(usize),
}

/// Something that can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Happening {
    /// A host hears what another says now, and whether it is there.
    Hear { at: usize, of: usize },
    /// What would be heard next is not: it is heard at any later time.
    Slow { at: usize, of: usize },
    /// What a host's allocator waits for has come.
    Time(usize),
    /// A wish of [`Scope::wishes`], by its place.
    Ask(usize),
    /// A router stops; what it said last may be lost unless somebody heard it.
    Crash { at: usize, lost: bool },
    /// And starts again with what it stored.
    Start(usize),
}

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) init: Init,
    pub(crate) wishes: Vec<(usize, Wish)>,
    /// How often each host may stop, and be started again.
    pub(crate) crashes: [u8; HOSTS],
    pub(crate) starts: [u8; HOSTS],
    /// How often each clock may be turned.
    pub(crate) times: [u8; HOSTS],
    /// How often something may be heard late; else all is heard at once, by the hosts in order. None: in every order.
    pub(crate) slow: Option<u8>,
    /// Each stop takes the last write with it: what the allocator must not survive.
    pub(crate) loses_writes: bool,
}

/// A router that runs.
#[derive(Clone)]
struct Host {
    ipam: Ipam,
    entries: Entries,
    reachable: BTreeSet<PeerName>,
    chance: Chance,
    clock: Time,
    /// Fingerprints of what it last heard of each; its own is what it says.
    views: [u128; HOSTS],
    print: u128,
}

/// Random numbers of a host: a stream for each call, which is another one once it was used.
#[derive(Clone, Copy)]
struct Chance {
    host: usize,
    starts: u8,
    used: u16,
}

impl Chance {
    fn stream(self) -> StdRng {
        StdRng::seed_from_u64((self.host as u64) << 32 | u64::from(self.starts) << 16 | u64::from(self.used))
    }

    /// Sees whether its stream was used.
    fn note(&mut self, stream: &mut StdRng) {
        self.used += u16::from(stream.next_u64() != self.stream().next_u64());
    }
}

/// What is left of a router that stopped, and what it stored.
#[derive(Clone, Default)]
struct Disk {
    newest: Option<Arc<[u8]>>,
    before: Option<Arc<[u8]>>,
    print: u128,
    starts: u8,
    clock: Time,
}

/// All of it at a moment.
#[derive(Clone)]
pub(crate) struct Hosts {
    running: [Option<Rc<Host>>; HOSTS],
    disks: [Disk; HOSTS],
    /// Who can still tell what a host that does not run said.
    remains: [Option<Rc<Host>>; HOSTS],
    /// Who hears whom late.
    slow: BTreeSet<(usize, usize)>,
    /// The wishes not yet asked.
    wishes: BTreeSet<usize>,
    scope: Rc<Scope>,
    /// Which containers hold which addresses.
    held: BTreeMap<IpAddr, (usize, u64)>,
    /// What went wrong.
    pub(crate) violation: Option<String>,
    slots: Rc<[Arc<Mutex<StdRng>>; HOSTS]>,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in 0..HOSTS {
            match &self.running[at] {
                Some(host) => {
                    writeln!(f, "{at} at {:?}:", host.clock)?;
                    host.entries.of(name(at)).try_for_each(|(key, value)| writeln!(f, "    {key:?} {value:?}"))?;
                }
                None => writeln!(f, "{at} does not run")?,
            }
        }
        writeln!(f, "held: {:?}", self.held)
    }
}

pub(crate) fn name(at: usize) -> PeerName {
    PeerName([2, 0, 0, 0, 0, u8::try_from(at + 1).unwrap()])
}

impl Host {
    fn act(&mut self, with: impl FnOnce(&mut Ipam, World<'_>, Time)) {
        let targets = Targets { count: u32::try_from(HOSTS).unwrap() - 1, peers: Vec::new() };
        let world = World { entries: &self.entries, reachable: &self.reachable, targets: &targets };
        with(&mut self.ipam, world, self.clock);
    }
}

impl Hosts {
    /// Hosts that do not run yet.
    pub(crate) fn new(scope: Scope) -> Self {
        let slots = std::array::from_fn(|at| Arc::new(Mutex::new(StdRng::seed_from_u64(at as u64))));
        Self {
            running: std::array::from_fn(|_| None),
            disks: std::array::from_fn(|_| Disk::default()),
            remains: std::array::from_fn(|_| None),
            slow: BTreeSet::new(),
            wishes: (0..scope.wishes.len()).collect(),
            scope: Rc::new(scope),
            held: BTreeMap::new(),
            violation: None,
            slots: Rc::new(slots),
        }
    }

    /// Goes on from here within another scope.
    pub(crate) fn within(&mut self, scope: Scope) {
        self.wishes = (0..scope.wishes.len()).collect();
        self.scope = Rc::new(scope);
    }

    pub(crate) fn runs(&self, at: usize) -> bool {
        self.running[at].is_some()
    }

    /// All that can happen next.
    pub(crate) fn possible(&self) -> Vec<Happening> {
        let scope = &self.scope;
        let hosts = 0..HOSTS;
        let mut all = self.audible();
        all.extend(
            hosts.clone().filter(|at| scope.times[*at] > 0 && self.deadline(*at).is_some()).map(Happening::Time),
        );
        all.extend(self.wishes.iter().copied().filter(|wish| self.may_ask(*wish)).map(Happening::Ask));
        for at in hosts {
            if self.runs(at) && scope.crashes[at] > 0 {
                all.push(Happening::Crash { at, lost: false });
                let is_heard = (0..HOSTS).all(|by| by == at || !self.runs(by) || self.is_up_to_date(by, at));
                all.extend((!is_heard).then_some(Happening::Crash { at, lost: true }));
            } else if !self.runs(at) && scope.starts[at] > 0 {
                all.push(Happening::Start(at));
            }
        }
        all
    }

    fn audible(&self) -> Vec<Happening> {
        let mut unheard = self.unheard();
        let Some(left) = self.scope.slow else { return unheard };
        let is_slow = |next: &Happening| matches!(next, Happening::Hear { at, of } if self.slow.contains(&(*at, *of)));
        let urgent = unheard.iter().copied().find(|next| !is_slow(next));
        unheard.retain(is_slow);
        if let Some(Happening::Hear { at, of }) = urgent {
            unheard.push(Happening::Hear { at, of });
            unheard.extend((left > 0).then_some(Happening::Slow { at, of }));
        }
        unheard
    }

    /// What hosts do not know yet of each other.
    pub(crate) fn unheard(&self) -> Vec<Happening> {
        let pairs = (0..HOSTS).flat_map(|at| (0..HOSTS).map(move |of| (at, of)));
        let open = pairs.filter(|(at, of)| at != of && self.runs(*at) && !self.is_up_to_date(*at, *of));
        open.map(|(at, of)| Happening::Hear { at, of }).collect()
    }

    pub(crate) fn deadline(&self, at: usize) -> Option<Time> {
        self.running[at].as_ref()?.ipam.deadline()
    }

    fn may_ask(&self, wish: usize) -> bool {
        match self.scope.wishes[wish] {
            (at, Wish::Remove(whom)) => self.runs(at) && !self.runs(whom),
            (at, Wish::Prime | Wish::Allocate) => self.runs(at),
        }
    }

    fn source(&self, of: usize) -> Option<&Rc<Host>> {
        self.running[of].as_ref().or(self.remains[of].as_ref())
    }

    fn is_up_to_date(&self, at: usize, of: usize) -> bool {
        let Some(host) = &self.running[at] else { return true };
        host.reachable.contains(&name(of)) == self.runs(of)
            && self.source(of).is_none_or(|source| source.views[of] == host.views[of])
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Hear { at, of } => {
                self.slow.remove(&(at, of));
                self.hear(at, of);
            }
            Happening::Slow { at, of } => {
                self.scope_mut().slow = self.scope.slow.map(|left| left - 1);
                self.slow.insert((at, of));
            }
            Happening::Time(at) => {
                self.scope_mut().times[at] -= 1;
                self.pass_time(at);
            }
            Happening::Ask(wish) => {
                self.wishes.remove(&wish);
                let (at, what) = self.scope.wishes[wish];
                self.ask(at, what, wish as u64);
            }
            Happening::Crash { at, lost } => {
                self.scope_mut().crashes[at] -= 1;
                self.crash(at, lost);
            }
            Happening::Start(at) => {
                self.scope_mut().starts[at] -= 1;
                self.start(at);
            }
        }
        self.check();
    }

    fn scope_mut(&mut self) -> &mut Scope {
        Rc::make_mut(&mut self.scope)
    }

    pub(crate) fn pass_time(&mut self, at: usize) {
        let Some(deadline) = self.deadline(at) else { return };
        self.call(at, |host| {
            host.clock = host.clock.max(deadline);
            host.act(|ipam, world, now| ipam.update(&BTreeSet::new(), world, now));
        });
    }

    pub(crate) fn ask(&mut self, at: usize, wish: Wish, number: u64) {
        let request = match wish {
            Wish::Prime => AddressRequest::Prime { alone: false },
            Wish::Allocate => AddressRequest::Allocate { owner: format!("c{number}"), subnets: Vec::new() },
            Wish::Remove(whom) => {
                self.held.retain(|_, (host, _)| *host != whom);
                AddressRequest::RemovePeers { peers: vec![name(whom).to_string()] }
            }
        };
        self.call(at, |host| {
            host.act(|ipam, world, now| ipam.request(number, request, world, now));
        });
    }

    fn hear(&mut self, at: usize, of: usize) {
        let source = self.source(of).cloned();
        let is_there = self.runs(of);
        self.call(at, |host| {
            if let Some(source) = source.filter(|source| source.views[of] != host.views[of]) {
                let digests = host.entries.digest(|peer| peer == name(of));
                for digest in digests {
                    let repair = source.entries.delta_since(&digest, |peer| peer == name(of)).unwrap();
                    repair.deltas.iter().for_each(|delta| drop(host.entries.merge(delta).unwrap()));
                }
                host.views[of] = source.views[of];
            }
            let has_changed = if is_there { host.reachable.insert(name(of)) } else { host.reachable.remove(&name(of)) };
            if has_changed {
                host.entries.exhume(name(of));
            }
            host.act(|ipam, world, now| ipam.update(&[name(of)].into(), world, now));
        });
    }

    fn crash(&mut self, at: usize, lost: bool) {
        let Some(host) = self.running[at].take() else { return };
        let disk = &mut self.disks[at];
        disk.clock = host.clock;
        if self.scope.loses_writes && disk.before.is_some() {
            disk.newest = disk.before.take();
            disk.print = Print::of((&disk.newest, &disk.before));
        }
        // The others may tell each other what they heard.
        let heard = |view: u128| (0..HOSTS).filter(move |by| *by != at).find(|by| self.views(*by, at) == Some(view));
        let latest = self.latest_view(at);
        self.remains[at] =
            if lost { latest.and_then(heard).and_then(|by| self.running[by].clone()) } else { Some(host) };
    }

    fn views(&self, by: usize, of: usize) -> Option<u128> {
        self.running[by].as_ref().map(|host| host.views[of])
    }

    /// The latest that a host that runs heard of another: the one that knows the later changes of it.
    fn latest_view(&self, of: usize) -> Option<u128> {
        let knowing = (0..HOSTS).filter(|by| *by != of).filter_map(|by| self.running[by].as_ref());
        let mut latest: Option<&Rc<Host>> = None;
        for host in knowing {
            let digests = |host: &Host| host.entries.digest(|peer| peer == name(of));
            let is_later = |than: &Host| {
                digests(host).iter().any(|digest| {
                    than.entries
                        .delta_since(digest, |peer| peer == name(of))
                        .is_ok_and(|repair| !repair.behind.is_empty())
                })
            };
            if latest.is_none_or(|latest| is_later(latest)) {
                latest = Some(host);
            }
        }
        latest.map(|host| host.views[of])
    }

    pub(crate) fn start(&mut self, at: usize) {
        let disk = &mut self.disks[at];
        disk.starts += 1;
        let mut chance = Chance { host: at, starts: disk.starts, used: 0 };
        *self.slots[at].lock().unwrap() = chance.stream();
        let kept = disk.newest.as_ref().map(|state| state.to_vec());
        let (init, ranges) = (self.scope.init.clone(), vec![RANGE.parse().unwrap()]);
        let config = AllocationConfig { ranges, default_subnets: Vec::new(), init, kept };
        let nickname = format!("host{at}").parse().unwrap();
        let entropy = Entropy::Seeded(self.slots[at].clone());
        let ipam = Ipam::new(name(at), nickname, config, entropy, disk.clock);
        chance.note(&mut self.slots[at].lock().unwrap());
        let entries = Entries::new(name(at), Incarnation(u64::from(disk.starts) << 20));
        let (reachable, clock) = (BTreeSet::new(), disk.clock);
        let host = Host { ipam, entries, reachable, chance, clock, views: [0; HOSTS], print: 0 };
        self.running[at] = Some(Rc::new(host));
        self.remains[at] = None;
        self.call(at, |host| {
            host.act(|ipam, world, now| ipam.update(&BTreeSet::new(), world, now));
        });
    }

    /// Calls an allocator, and does what it wants.
    fn call(&mut self, at: usize, with: impl FnOnce(&mut Host)) {
        let Some(mut shared) = self.running[at].take() else { return };
        let host = Rc::make_mut(&mut shared);
        *self.slots[at].lock().unwrap() = host.chance.stream();
        with(host);
        host.chance.note(&mut self.slots[at].lock().unwrap());
        while let Some(output) = host.ipam.poll_output() {
            match output {
                IpamOutput::Keep(state) => {
                    let disk = &mut self.disks[at];
                    let newest = disk.newest.replace(state);
                    disk.before = newest.filter(|_| self.scope.loses_writes);
                    disk.print = Print::of((&disk.newest, &disk.before));
                }
                IpamOutput::Set(key, value) => drop(host.entries.set(key, value).unwrap()),
                IpamOutput::Unset(key) => drop(host.entries.remove(&key)),
                // What was forgotten is not heard again, unless it is new.
                IpamOutput::Forget(peer) => host.entries.bury(peer),
                IpamOutput::Answer(number, answer) => {
                    if let Some(violation) = answered(&mut self.held, at, number, &answer) {
                        self.violation = Some(violation);
                    }
                }
                IpamOutput::Happened(_) => {}
            }
        }
        host.views[at] = Print::of(host.entries.of(name(at)).collect::<Vec<_>>());
        let mut print = Print::new();
        print.add_shown(&host.ipam);
        (host.views, &host.reachable, host.chance.used).hash(&mut print);
        host.print = print.number();
        self.running[at] = Some(shared);
    }

    /// What tells this state from all others.
    pub(crate) fn print(&self) -> u128 {
        let running = self.running.each_ref().map(|host| host.as_ref().map(|host| host.print));
        let remains: [Option<u128>; HOSTS] =
            std::array::from_fn(|at| self.remains[at].as_ref().map(|source| source.views[at]));
        let disks = self.disks.each_ref().map(|disk| (disk.print, disk.starts, disk.clock));
        let scope = (self.scope.crashes, self.scope.starts, self.scope.times, self.scope.slow);
        Print::of((running, remains, disks, scope, &self.slow, &self.wishes, &self.held))
    }

    /// Whether the addresses all have owners among those that run, who are all members.
    pub(crate) fn is_whole(&self) -> bool {
        let running = || (0..HOSTS).filter(|at| self.runs(*at));
        let owned: u128 = running().flat_map(|at| self.claims(at)).map(Range::len).sum();
        running().all(|at| self.is_full(at)) && owned == Range::of(&RANGE.parse().unwrap()).len()
    }

    fn is_full(&self, at: usize) -> bool {
        matches!(self.said(at, &Key::Member), Some(Value::Member(member)) if member.standing == Standing::Full)
    }

    fn universe(&self, at: usize) -> Option<UniverseId> {
        let Some(Value::Member(member)) = self.said(at, &Key::Member) else { return None };
        member.universe
    }

    fn said(&self, at: usize, key: &Key) -> Option<&Value> {
        self.running[at].as_ref()?.entries.get(name(at), key)
    }

    /// What a host owns.
    fn claims(&self, at: usize) -> Vec<Range> {
        let said = self.running[at].iter().flat_map(|host| host.entries.of(name(at)));
        let claim = |(key, value): (&Key, &Value)| match (key, value) {
            (Key::Claim(first), Value::Claim { last, .. }) => Range::new(*first, *last),
            _ => None,
        };
        said.filter_map(claim).collect()
    }

    /// What a host gave to another that does not have it yet. Who has not heard the giver since it started may have it.
    fn on_the_way(&self, by: usize, to: usize) -> Vec<Range> {
        let has_heard = |host: &Rc<Host>| host.entries.get(name(by), &Key::Member).is_some();
        if !self.running[to].as_ref().is_some_and(has_heard) {
            return Vec::new();
        }
        let Some(Value::Gift(gift)) = self.said(by, &Key::Gift(name(to))) else { return Vec::new() };
        let taken = match self.said(to, &Key::Receipt(name(by))) {
            Some(Value::Number { life, number }) if self.lives(by).is_some_and(|own| own.is_of_line(*life)) => *number,
            _ => 0,
        };
        let is_for_it = self.lives(to).is_some_and(|life| life.is_of_line(gift.life)) && taken < gift.number;
        if is_for_it { gift.ranges.iter().map(|(range, _)| *range).collect() } else { Vec::new() }
    }

    fn lives(&self, at: usize) -> Option<weft::ipam::entry::Life> {
        let Some(Value::Member(member)) = self.said(at, &Key::Member) else { return None };
        Some(member.life)
    }

    /// Looks for two owners of an address, and for two universes.
    fn check(&mut self) {
        let full: Vec<usize> = (0..HOSTS).filter(|at| self.is_full(*at)).collect();
        let universes: BTreeSet<UniverseId> = (0..HOSTS).filter_map(|at| self.universe(at)).collect();
        if universes.len() > 1 {
            self.violation.get_or_insert(format!("founded twice: {universes:?}"));
        }
        let mut tokens: Vec<(String, Range)> = Vec::new();
        for at in &full {
            tokens.extend(self.claims(*at).into_iter().map(|range| (format!("{at} owns"), range)));
            for to in full.iter().filter(|to| *to != at) {
                let given = self.on_the_way(*at, *to).into_iter();
                tokens.extend(given.map(|range| (format!("{at} gave {to}"), range)));
            }
        }
        for (place, (whose, range)) in tokens.iter().enumerate() {
            let twice = tokens[..place].iter().find(|(_, other)| other.intersection(*range).is_some());
            if let Some((other, with)) = twice {
                self.violation.get_or_insert(format!("{whose} {range:?}, and {other} {with:?}"));
            }
        }
    }
}

/// Notes who holds what from now on; what is wrong with that.
fn answered(
    held: &mut BTreeMap<IpAddr, (usize, u64)>,
    at: usize,
    number: u64,
    answer: &Result<AddressAnswer, AllocationError>,
) -> Option<String> {
    let Ok(AddressAnswer::Addresses(addresses)) = answer else { return None };
    let twice = |address: IpAddr, held: &mut BTreeMap<IpAddr, (usize, u64)>| {
        let other = held.insert(address, (at, number)).filter(|other| *other != (at, number))?;
        Some(format!("{address} is held by {other:?} and given to {:?}", (at, number)))
    };
    addresses.iter().filter_map(|net| twice(net.addr(), held)).last()
}
