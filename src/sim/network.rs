//! The pretended network: latency, loss, size limits, cuts and partitions between hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};

use super::{HostId, Nat, host::Host, host_at};

/// One direction of what lies between two hosts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Way {
    /// The least that a packet takes.
    pub latency: Duration,
    /// Added to that, evenly spread: reorders datagrams.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
}

/// What lies between the hosts.
#[derive(Clone, Debug)]
pub struct Network {
    /// One way, the least.
    pub latency: Duration,
    /// Added to that, evenly spread: reorders datagrams.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Ordered pairs for which other things hold, from the first to the second.
    pub ways: BTreeMap<(HostId, HostId), Way>,
    /// UDP payload that passes.
    pub payload_max: usize,
    /// Hosts in different groups do not reach each other; those beyond the list are in group 0.
    pub groups: Vec<usize>,
    /// Ordered pairs whose datagrams are lost, from the first to the second.
    pub datagram_cuts: BTreeSet<(HostId, HostId)>,
    /// Ordered pairs whose packets of the fast datapath are lost.
    pub fast_cuts: BTreeSet<(HostId, HostId)>,
    /// Share of heartbeats lost that nothing else suffers, 0 to 1.
    pub heartbeat_loss: f64,
    /// Content of a packet of the fast datapath that passes.
    pub fast_max: usize,
    /// Ordered pairs whose TCP is lost.
    pub stream_cuts: BTreeSet<(HostId, HostId)>,
    /// Translators of addresses, each before hosts of its own.
    pub nats: Vec<Nat>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            ways: BTreeMap::new(),
            payload_max: 1472,
            groups: Vec::new(),
            datagram_cuts: BTreeSet::new(),
            fast_cuts: BTreeSet::new(),
            heartbeat_loss: 0.0,
            fast_max: 1400,
            stream_cuts: BTreeSet::new(),
            nats: Vec::new(),
        }
    }
}

impl Network {
    /// Cuts everything between two hosts.
    pub fn cut(&mut self, a: HostId, b: HostId) {
        for pair in [(a, b), (b, a)] {
            self.fast_cuts.insert(pair);
            self.datagram_cuts.insert(pair);
            self.stream_cuts.insert(pair);
        }
    }

    /// Ends all cuts and partitions.
    pub fn heal(&mut self) {
        self.groups.clear();
        self.datagram_cuts.clear();
        self.fast_cuts.clear();
        self.stream_cuts.clear();
    }

    /// What a packet from one host to another meets.
    pub fn way(&self, from: HostId, to: HostId) -> Way {
        let all = Way { latency: self.latency, jitter: self.jitter, loss: self.loss };
        self.ways.get(&(from, to)).copied().unwrap_or(all)
    }

    /// Whether any datagram of bearable size gets from one host to another.
    pub fn passes(&self, from: HostId, to: HostId) -> bool {
        self.same_group(from, to) && !self.datagram_cuts.contains(&(from, to)) && self.way(from, to).loss < 1.0
    }

    /// Whether one of two hosts can open a control connection to the other.
    pub(super) fn connects(&self, a: HostId, b: HostId) -> bool {
        self.stream(a, b).is_some() && !(self.is_behind_nat(a) && self.is_behind_nat(b))
    }

    /// What the world sees of a host behind a NAT.
    pub(super) fn shown(&self, host: HostId) -> Option<IpAddr> {
        self.nats.iter().find(|nat| nat.inside.contains(&host)).map(|nat| nat.outer)
    }

    pub(super) fn is_behind_nat(&self, host: HostId) -> bool {
        self.shown(host).is_some()
    }

    /// Which host a datagram from `id` arrives at, and whence it comes there.
    pub(super) fn udp(
        &mut self,
        id: HostId,
        own: SocketAddr,
        to: SocketAddr,
        hosts: &[Host],
    ) -> Option<(HostId, SocketAddr)> {
        let nat = self.nats.iter_mut().find(|nat| nat.inside.contains(&id));
        let from = nat.map_or(own, |nat| nat.outward(id, own.port(), to));
        let other = match self.nats.iter().find(|nat| nat.outer == to.ip()) {
            Some(nat) => nat.inward(to.port(), from),
            None => host_at(to.ip(), hosts).filter(|other| !self.is_behind_nat(*other)),
        };
        other.map(|other| (other, from))
    }

    /// Which host a datagram from `id` to this address would arrive at, by what NATs have translated so far.
    pub(super) fn lands(&self, id: HostId, own: SocketAddr, to: SocketAddr, hosts: &[Host]) -> Option<HostId> {
        let before = self.nats.iter().find(|nat| nat.inside.contains(&id));
        let from = before.map_or(Some(own), |nat| nat.shown(id, own.port()));
        match self.nats.iter().find(|nat| nat.outer == to.ip()) {
            Some(nat) => nat.inward(to.port(), from?),
            None => host_at(to.ip(), hosts).filter(|other| !self.is_behind_nat(*other)),
        }
    }

    /// How long a datagram takes; None if it is lost.
    pub(super) fn datagram(&self, from: HostId, to: HostId, len: usize, rng: &mut StdRng) -> Option<Duration> {
        let passes = self.same_group(from, to) && !self.datagram_cuts.contains(&(from, to)) && len <= self.payload_max;
        let way = self.way(from, to);
        (passes && !rng.random_bool(way.loss)).then(|| way.latency + way.jitter.mul_f64(rng.random()))
    }

    /// How long a packet of the fast datapath takes; None if it is lost.
    pub(super) fn fast(
        &self,
        from: HostId,
        to: HostId,
        len: usize,
        is_heartbeat: bool,
        rng: &mut StdRng,
    ) -> Option<Duration> {
        let passes = self.same_group(from, to) && !self.fast_cuts.contains(&(from, to)) && len <= self.fast_max;
        let way = self.way(from, to);
        let loss = if is_heartbeat { self.heartbeat_loss } else { way.loss };
        (passes && !rng.random_bool(loss)).then(|| way.latency + way.jitter.mul_f64(rng.random()))
    }

    /// How long bytes of TCP take; None if they never arrive, in one direction or the other.
    pub(super) fn stream(&self, from: HostId, to: HostId) -> Option<Duration> {
        let passes = |a, b| !self.stream_cuts.contains(&(a, b));
        (self.same_group(from, to) && passes(from, to) && passes(to, from)).then(|| self.way(from, to).latency)
    }

    fn same_group(&self, a: HostId, b: HostId) -> bool {
        let group = |host: HostId| self.groups.get(host).copied().unwrap_or(0);
        group(a) == group(b)
    }
}
