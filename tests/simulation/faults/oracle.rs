//! What may be asked of routers: known from the network itself, not from them.

use std::{collections::BTreeSet, time::Duration};

use weft::{
    sim::{HostId, Network},
    time::Time,
};

use super::SECOND;

/// A link counts that has been whole for so long: after a break it is looked for each second, its handshake is tried again after
/// up to 7.5 s, it has to be answered three times, and good news waits a second for more.
const LINK_SETTLES: Duration = Duration::from_secs(12);
/// A router that was started, or got no processor, counts after this: what an earlier one left in the kernel stays for 15 s, also where
/// it leads nowhere any more, unless something else is proven.
const ROUTER_SETTLES: Duration = Duration::from_secs(16);
/// TCP counts so long after a cut: what was sent into that is given up by the system after 10 s, as is a dial after 5 s, and then
/// it is dialled anew after a pause that grew with each failure.
const STREAM_SETTLES: Duration = Duration::from_secs(20);
/// Of links that lose more, one way, nothing is asked.
const LOSS_MAX: f64 = 0.05;
/// Relays of a path that is counted on.
const RELAYS: usize = 2;

/// What does not change in a run.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Who passes on frames.
    pub(super) relays: Vec<bool>,
    /// Who has a NAT of its own before it.
    pub(super) natted: Vec<bool>,
    /// Who connects with whom it was not told of.
    pub(super) discovers: Vec<bool>,
    /// Whom each was told of.
    pub(super) targets: Vec<Vec<HostId>>,
}

impl Layout {
    pub(super) fn count(&self) -> usize {
        self.relays.len()
    }

    pub(super) fn natted(&self) -> Vec<HostId> {
        (0..self.count()).filter(|id| self.natted[*id]).collect()
    }

    /// Whether two are to have a control connection, and a link with it.
    fn joins(&self, a: HostId, b: HostId) -> bool {
        let dials =
            |from: HostId, to: HostId| !self.natted[to] && (self.discovers[from] || self.targets[from].contains(&to));
        a != b && (dials(a, b) || dials(b, a))
    }
}

/// Since when things have been whole; None while they are not.
#[derive(Debug)]
pub(super) struct Oracle {
    layout: Layout,
    routers: Vec<Option<Time>>,
    links: Vec<Vec<Option<Time>>>,
    streams: Vec<Vec<Option<Time>>>,
}

impl Oracle {
    /// All is whole from the start.
    pub(super) fn new(layout: Layout) -> Self {
        let count = layout.count();
        let all = vec![vec![Some(Time::ZERO); count]; count];
        Self { layout, routers: vec![Some(Time::ZERO); count], links: all.clone(), streams: all }
    }

    /// A router was started, or all that a NAT knew of it is gone.
    pub(super) fn disturb(&mut self, host: HostId, now: Time) {
        self.routers[host] = Some(now);
    }

    /// Looks at the network; `runs` says whether a host does.
    pub(super) fn look(&mut self, network: &Network, runs: impl Fn(HostId) -> bool, now: Time) {
        let follow = |since: &mut Option<Time>, is_whole: bool| {
            *since = is_whole.then(|| since.unwrap_or(now));
        };
        let count = self.layout.count();
        for a in 0..count {
            follow(&mut self.routers[a], runs(a));
            for b in 0..count {
                let is_good = |from, to| network.passes(from, to) && network.way(from, to).loss <= LOSS_MAX;
                follow(&mut self.links[a][b], is_good(a, b) && is_good(b, a));
                let group = |id: HostId| network.groups.get(id).copied().unwrap_or(0);
                let is_cut = network.stream_cuts.contains(&(a, b)) || network.stream_cuts.contains(&(b, a));
                follow(&mut self.streams[a][b], group(a) == group(b) && !is_cut);
            }
        }
    }

    /// Whether frames are to arrive from one host at another: a path exists, and has for so long that all have had the time to find it;
    /// and there is gossip between its hosts.
    pub(super) fn is_promised(&self, from: HostId, to: HostId, now: Time) -> bool {
        let gossip = self.component(from, now);
        let mut reached = BTreeSet::from([from]);
        for relays in 0..=RELAYS {
            let goes_on = |id: &HostId| relays == 0 || (*id != from && self.layout.relays[*id]);
            let next = |id: HostId| gossip.iter().copied().filter(move |to| self.is_link(id, *to, now));
            let further: BTreeSet<HostId> = reached.iter().copied().filter(goes_on).flat_map(next).collect();
            reached.extend(further);
            if reached.contains(&to) {
                return true;
            }
        }
        false
    }

    /// Whether one host has had the time to learn of a station at another: what a router does not know the place of goes to all, as in
    /// any switch.
    pub(super) fn is_acquainted(&self, host: HostId, other: HostId, now: Time) -> bool {
        self.is_settled(host, now) && self.is_settled(other, now)
    }

    /// Whom gossip of a host reaches.
    fn component(&self, host: HostId, now: Time) -> BTreeSet<HostId> {
        let mut reached = BTreeSet::new();
        let mut open = Vec::from_iter(Some(host).filter(|host| self.is_settled(*host, now)));
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend((0..self.layout.count()).filter(|to| self.is_joined(id, *to, now)));
            }
        }
        reached
    }

    fn is_settled(&self, host: HostId, now: Time) -> bool {
        has_lasted(self.routers[host], ROUTER_SETTLES, now)
    }

    fn is_joined(&self, a: HostId, b: HostId, now: Time) -> bool {
        self.layout.joins(a, b) && self.is_settled(b, now) && has_lasted(self.streams[a][b], STREAM_SETTLES, now)
    }

    fn is_link(&self, a: HostId, b: HostId, now: Time) -> bool {
        self.layout.joins(a, b) && has_lasted(self.links[a][b], LINK_SETTLES, now)
    }
}

/// What has been whole from the start needs no more time than that.
fn has_lasted(since: Option<Time>, span: Duration, now: Time) -> bool {
    since.is_some_and(|since| since == Time::ZERO || now.since(since) >= span)
}

#[test]
fn what_is_promised_is_found_by_looking_at_the_network() {
    // 0 and 3 are not told of each other, 2 passes on nothing.
    let layout = Layout {
        relays: vec![true, true, false, true],
        natted: vec![false; 4],
        discovers: vec![false; 4],
        targets: vec![vec![1, 2], vec![], vec![], vec![1, 2]],
    };
    let mut oracle = Oracle::new(layout);
    let mut network = Network::default();
    let mut now = Time::ZERO + 20 * SECOND;
    let mut look = |network: &Network, oracle: &mut Oracle, after: Duration, asleep: Option<HostId>| {
        now = now + after;
        oracle.look(network, |id| Some(id) != asleep, now);
        [oracle.is_promised(0, 1, now), oracle.is_promised(0, 3, now)]
    };
    assert_eq!(look(&network, &mut oracle, SECOND, None), [true, true]);
    network.datagram_cuts.insert((3, 1));
    assert_eq!(look(&network, &mut oracle, SECOND, None), [true, false], "2 does not pass on");
    network.heal();
    assert_eq!(look(&network, &mut oracle, SECOND, None), [true, false]);
    assert_eq!(look(&network, &mut oracle, LINK_SETTLES - SECOND, None), [true, false]);
    assert_eq!(look(&network, &mut oracle, SECOND, None), [true, true]);
    network.stream_cuts.insert((1, 3));
    assert_eq!(look(&network, &mut oracle, SECOND, None), [true, true], "there is gossip by 2");
    network.stream_cuts.insert((2, 0));
    assert_eq!(look(&network, &mut oracle, SECOND, None), [true, false]);
    network.heal();
    look(&network, &mut oracle, SECOND, None);
    assert_eq!(look(&network, &mut oracle, STREAM_SETTLES, None), [true, true]);
    assert_eq!(look(&network, &mut oracle, SECOND, Some(1)), [false, false]);
    look(&network, &mut oracle, SECOND, None);
    assert_eq!(look(&network, &mut oracle, ROUTER_SETTLES, None), [true, true]);
}
