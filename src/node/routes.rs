//! Paths to all peers: from what everybody reports, chosen with hysteresis, each with its reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    selector::{InUse, Offer, Selector},
    spread::{Rated, Spread},
};
use crate::{
    api::allocation::PeerLabel,
    id::PeerName,
    time::Time,
    topology::{
        cost::Cost,
        gone::Gone,
        graph::{Graph, PathChoice},
        record::{Detail, LinkRecord, PeerRecord, Topology},
        relaying::Relaying,
    },
};

/// The graph is looked at anew no more often than this while changes pour in; after a quiet time, at once. For each peer a
/// little more, as each is looked at.
const RECOMPUTE_INTERVAL: Duration = Duration::from_millis(50);
const RECOMPUTE_INTERVAL_PER_PEER: Duration = Duration::from_millis(2);

/// Who has no path for this long after it became known, or lost the last one, has none; before, its links may be coming up.
const PATHLESS_AFTER: Duration = Duration::from_secs(5);

/// What a path costs that is none any more, and is gone on with because there is no other.
const LAST_RESORT: Duration = Duration::from_secs(3600);

/// A peer whose path changed.
pub(super) type Changed = PeerName;

/// What looking at the graph showed.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Peers whose path is another now.
    pub(super) changed: Vec<Changed>,
    /// Peers to forget.
    pub(super) gone: Vec<PeerName>,
    /// A path carries packets of another size than before.
    pub(super) resized: bool,
    /// Peers to which flows are spread over other ways now.
    pub(super) spread: Vec<PeerName>,
}

/// What the node knows itself of its links, beyond what it tells everybody.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnLink {
    /// What the direct path costs us, and of what that is made.
    pub(super) measured: Option<(Cost, Detail)>,
    /// The direct path is down.
    pub(super) is_down: bool,
    /// It was up a moment ago, and frames may still be sent there if there is no other way.
    pub(super) lingers: bool,
    /// A connection is up: the peer is not gone, whatever is known of it.
    pub(super) is_connected: bool,
}

/// The paths.
#[derive(Debug, Default)]
pub(super) struct Routes {
    selectors: BTreeMap<PeerName, Selector>,
    reachable: BTreeSet<PeerName>,
    left: BTreeSet<PeerName>,
    tree: BTreeSet<PeerName>,
    graph: Option<Graph>,
    gone: Gone,
    stale: bool,
    /// Peers that told something else than when the graph was last looked at.
    told: BTreeSet<PeerName>,
    /// When the earliest rival of a path in use has lasted long enough.
    rival_at: Option<Time>,
    computed_at: Option<Time>,
    /// Peers to which this end has a direct path and there is another, and those to which frames go by the other all the same.
    alternatives: BTreeSet<PeerName>,
    avoided: BTreeSet<PeerName>,
    /// Of peers that frames go to by relays.
    spreads: BTreeMap<PeerName, Spread>,
    /// When the next way of one of them joins.
    joins_at: Option<Time>,
}

impl Routes {
    /// Something changed that paths depend on: look at it soon.
    pub(super) fn invalidate(&mut self) {
        self.stale = true;
    }

    /// So did what this peer tells.
    pub(super) fn told(&mut self, peer: PeerName) {
        self.told.insert(peer);
        self.stale = true;
    }

    /// Frames were exchanged with these peers a moment ago: where they go by relays, further ways are looked for.
    pub(super) fn used(&mut self, peers: &[PeerName], now: Time) {
        for peer in peers {
            if let Some(spread) = self.spreads.get_mut(peer) {
                spread.used(now);
            } else if self.relays(*peer).is_some_and(|relays| !relays.is_empty()) {
                self.spreads.insert(*peer, Spread::new(now));
                self.stale = true;
            }
        }
    }

    /// The relays of each way that flows to `peer` are spread over beside the chosen one.
    pub(super) fn further(&self, peer: PeerName) -> impl Iterator<Item = &[PeerName]> {
        self.spreads.get(&peer).into_iter().flat_map(Spread::further)
    }

    /// Whether gossip reaches this peer.
    pub(super) fn is_reachable(&self, peer: PeerName) -> bool {
        self.reachable.contains(&peer)
    }

    /// All peers that gossip reaches.
    pub(super) fn reachable(&self) -> &BTreeSet<PeerName> {
        &self.reachable
    }

    /// Our neighbours in the tree that news goes along.
    pub(super) fn tree(&self) -> &BTreeSet<PeerName> {
        &self.tree
    }

    /// Whether gossip would reach these neighbours through others.
    pub(super) fn reaches_without(&self, neighbours: &BTreeSet<PeerName>) -> bool {
        self.graph.as_ref().is_some_and(|graph| graph.reachable_without(neighbours).is_superset(neighbours))
    }

    /// How many peers have a path.
    pub(super) fn reached(&self) -> usize {
        self.selectors.values().filter(|selector| selector.chosen().is_some()).count()
    }

    /// Whether a chain of connections leads to this peer and, once it has had the time, a path: a chain may be longer than a path can be.
    /// Who has no links at all is not stranded for want of connections.
    pub(super) fn leads_to(&self, peer: PeerName, now: Time) -> bool {
        let is_pathless =
            |selector: &Selector| selector.chosen().is_none() && now.since(selector.since) >= PATHLESS_AFTER;
        let is_stranded = self.selectors.get(&peer).is_some_and(is_pathless)
            && self.graph.as_ref().is_some_and(|graph| graph.has_links(peer));
        self.is_reachable(peer) && !is_stranded
    }

    /// Whether neighbours are to be told of this peer: unless it is gone for long. That it left is told.
    pub(super) fn is_told(&self, peer: PeerName, now: Time) -> bool {
        self.left.contains(&peer) || !self.gone.is_fading(peer, now)
    }

    /// The relays of the path to `peer`, none when direct; None for no path.
    pub(super) fn relays(&self, peer: PeerName) -> Option<&[PeerName]> {
        self.selectors.get(&peer)?.chosen()
    }

    /// The choice for `peer`: since when, and why.
    pub(super) fn choice(&self, peer: PeerName) -> Option<&Selector> {
        self.selectors.get(&peer)
    }

    /// Round-trip time and share of loss of a path as its links advertise them; None if it is no path, or a link does not say.
    pub(super) fn measured(&self, relays: &[PeerName], peer: PeerName) -> Option<Measured> {
        Measured::of(self.graph.as_ref()?.links(relays, peer))
    }

    /// The sum of the round-trip times of the links of the path in use; None if it is no path.
    pub(super) fn path_rtt(&self, peer: PeerName) -> Option<Duration> {
        let links = self.graph.as_ref()?.links(self.relays(peer)?, peer);
        // An older peer's cost is its round-trip time.
        let rtt = |(cost, detail): (u64, Option<Detail>)| detail.map_or(cost, |detail| detail.rtt.micros());
        links.map(|link| link.map(rtt)).sum::<Option<u64>>().map(Duration::from_micros)
    }

    /// What a path costs and how much it scatters; None if it is no path.
    pub(super) fn in_use(&self, relays: &[PeerName], peer: PeerName) -> Option<InUse> {
        in_use(self.graph.as_ref()?, relays, peer)
    }

    /// What a peer does for frames of others; None if it is not there.
    pub(super) fn relaying(&self, peer: PeerName) -> Option<Relaying> {
        self.graph.as_ref()?.relaying(peer)
    }

    /// Whether one relay leads to a peer, if only it passed frames on.
    pub(super) fn is_only_by_unwilling(&self, peer: PeerName) -> bool {
        self.graph.as_ref().is_some_and(|graph| graph.has_unwilling_relay(peer))
    }

    /// The ways to a peer, the best first.
    pub(super) fn ways(&self, peer: PeerName) -> Vec<PathChoice> {
        self.graph.as_ref().map(|graph| graph.alternatives(peer)).unwrap_or_default()
    }

    /// The way by these relays; None if it is none.
    pub(super) fn way(&self, relays: &[PeerName], peer: PeerName) -> Option<PathChoice> {
        Some(PathChoice { relays: relays.to_vec(), cost: self.graph.as_ref()?.cost(relays, peer)? })
    }

    /// Whether frames to `peer` have another way than straight, and whether they go it although they could go straight.
    pub(super) fn steering(&self, peer: PeerName) -> (bool, bool) {
        (self.alternatives.contains(&peer), self.avoided.contains(&peer))
    }

    /// The least that a link of the path passes, as its ends report; None if it is no path.
    pub(super) fn path_payload_max(&self, peer: PeerName) -> Option<usize> {
        self.selectors.get(&peer)?.payload_max
    }

    /// When [`Self::update`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let recompute = self.stale.then(|| self.computed_at.map_or(Time::ZERO, |at| at + self.recompute_interval()));
        [recompute, self.rival_at, self.joins_at, self.gone.deadline()].into_iter().flatten().min()
    }

    /// Looks at the graph, as it is time; `own_link` says what we know of a link of ours, `private` are those that are told to nobody.
    pub(super) fn update(
        &mut self,
        own: PeerName,
        topology: &Topology,
        own_link: impl Fn(PeerName) -> OwnLink,
        private: impl IntoIterator<Item = LinkRecord>,
        now: Time,
    ) -> Outcome {
        self.stale = false;
        self.computed_at = Some(now);
        let graph = self.new_graph(own, topology, |peer| own_link(peer).measured, private);
        self.reachable = graph.reachable();
        self.tree = graph.tree();
        let others = topology.iter().map(|(name, (), record)| (name, record)).filter(|(name, _)| *name != own);
        let others: Vec<(PeerName, &PeerRecord)> = others.collect();
        let known = others.iter().filter(|(name, _)| !own_link(*name).is_connected);
        let known = known.map(|(name, record)| (*name, record.leaving));
        let gone = self.gone.update(known, &self.reachable, now);
        self.left = others.iter().filter(|(_, record)| record.leaving).map(|(name, _)| *name).collect();
        let mut best = graph.paths();
        let mut changed = Vec::new();
        let mut resized = false;
        for (peer, record) in others {
            let selector = self.selectors.entry(peer).or_insert_with(|| Selector::new(now));
            let mut now_used = selector.chosen().and_then(|relays| in_use(&graph, relays, peer));
            resized |= selector.chosen().is_some_and(|relays| graph.payload_max(relays, peer) != selector.payload_max);
            let offer = best.remove(&peer);
            let mut offer = offer.map(|path| Offer { relays: path.relays, cost: Duration::from_micros(path.cost) });
            // Not before there was any: who has not told of its links yet may not be ready.
            if offer.is_none() && !record.leaving && selector.chosen().is_some() && own_link(peer).lingers {
                let last_resort = InUse { cost: LAST_RESORT, jitter: Duration::ZERO };
                now_used = now_used.or(selector.chosen().is_some_and(<[_]>::is_empty).then_some(last_resort));
                offer = Some(Offer { relays: Vec::new(), cost: LAST_RESORT });
            }
            let relays = selector.chosen().map(<[_]>::to_vec);
            let label = |name| {
                let nickname = topology.get(name, &()).map(|record| record.nickname.clone());
                PeerLabel { name, nickname }.to_string()
            };
            let broke = || match record.leaving {
                true => "it stopped".to_owned(),
                false => why_broken(relays.as_deref(), peer, &own_link, &graph, label),
            };
            let ails = || {
                let measured = relays.as_ref().and_then(|relays| Measured::of(graph.links(relays, peer)));
                measured.map(|measured| measured.to_string()).unwrap_or_default()
            };
            if selector.choose(now_used, offer, (&broke, &ails), now) {
                changed.push(peer);
            }
            selector.payload_max = selector.chosen().and_then(|relays| graph.payload_max(relays, peer));
            let is_relayed = selector.chosen().is_some_and(|relays| !relays.is_empty());
            // Also when the other end has told already that the direct path is down: this one has yet to leave it.
            set(&mut self.alternatives, peer, !own_link(peer).is_down && graph.has_detour(peer));
            set(&mut self.avoided, peer, is_relayed && graph.has_direct(peer));
        }
        let spread = self.spread(&graph, now);
        self.graph = Some(graph);
        self.rival_at = self.selectors.values().filter_map(Selector::deadline).min();
        Outcome { changed, gone, resized, spread }
    }

    /// Looks at the further ways to peers that frames go to by relays; which of them have others than before. Those of one peer take
    /// some 10 µs where all have a dozen links.
    fn spread(&mut self, graph: &Graph, now: Time) -> Vec<PeerName> {
        let mut changed = Vec::new();
        let selectors = &self.selectors;
        self.spreads.retain(|peer, spread| {
            let relays = selectors.get(peer).and_then(Selector::chosen).filter(|relays| !relays.is_empty());
            let chosen = relays.filter(|_| spread.is_used(now)).and_then(|relays| rated(graph, relays, *peer));
            let ways = if chosen.is_some() { ways(graph, spread, *peer) } else { Vec::new() };
            if spread.update(chosen.as_ref(), &ways, now) {
                changed.push(*peer);
            }
            chosen.is_some()
        });
        self.joins_at = self.spreads.values().filter_map(|spread| spread.deadline(now)).min();
        changed
    }

    /// The graph as of now: that of before where nothing else was told.
    fn new_graph(
        &mut self,
        own: PeerName,
        topology: &Topology,
        measured: impl Fn(PeerName) -> Option<(Cost, Detail)>,
        private: impl IntoIterator<Item = LinkRecord>,
    ) -> Graph {
        let told = std::mem::take(&mut self.told);
        let record = |peer| topology.get(peer, &()).filter(|record| !record.leaving);
        let mut before = self.graph.take();
        let follows = before.as_mut().is_some_and(|graph| graph.follow(&told, record, &measured));
        let mut graph = before
            .filter(|_| follows)
            .unwrap_or_else(|| Graph::new(own, topology.iter().map(|(name, (), record)| (name, record)), &measured));
        graph.add_private(private);
        graph
    }

    fn recompute_interval(&self) -> Duration {
        RECOMPUTE_INTERVAL + RECOMPUTE_INTERVAL_PER_PEER * u32::try_from(self.selectors.len()).unwrap_or(u32::MAX)
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, peer: PeerName) {
        self.selectors.remove(&peer);
        self.alternatives.remove(&peer);
        self.avoided.remove(&peer);
        self.spreads.remove(&peer);
        self.told(peer);
    }
}

/// The ways that flows can be spread over, the best first.
fn ways(graph: &Graph, spread: &Spread, peer: PeerName) -> Vec<Rated> {
    let mut relays: Vec<Vec<PeerName>> = graph.alternatives(peer).into_iter().map(|way| way.relays).collect();
    // Where many are as good, one in use need not be among the best.
    let missing: Vec<_> = spread.further().filter(|way| !relays.iter().any(|known| known == way)).collect();
    relays.extend(missing.into_iter().map(<[_]>::to_vec));
    relays.retain(|relays| !relays.is_empty());
    let mut ways: Vec<Rated> = relays.iter().filter_map(|relays| rated(graph, relays, peer)).collect();
    ways.sort_by_key(|way| way.cost);
    ways
}

fn rated(graph: &Graph, relays: &[PeerName], peer: PeerName) -> Option<Rated> {
    Some(Rated {
        relays: relays.to_vec(),
        cost: Duration::from_micros(graph.cost(relays, peer)?),
        rtt: Measured::of(graph.links(relays, peer))?.rtt,
        payload_max: graph.payload_max(relays, peer)?,
    })
}

fn in_use(graph: &Graph, relays: &[PeerName], peer: PeerName) -> Option<InUse> {
    let cost = Duration::from_micros(graph.cost(relays, peer)?);
    let jitter = Measured::of(graph.links(relays, peer)).map(|measured| measured.jitter).unwrap_or_default();
    Some(InUse { cost, jitter })
}

/// How good a path is, as its links advertise.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Measured {
    pub(super) rtt: Duration,
    pub(super) jitter: Duration,
    /// Share of round trips lost, 0 to 1.
    pub(super) loss: f64,
}

impl Measured {
    fn of(mut links: impl Iterator<Item = Option<(u64, Option<Detail>)>>) -> Option<Self> {
        let none = (Duration::ZERO, Duration::ZERO, 1.0);
        let (rtt, jitter, passes) = links.try_fold(none, |(rtt, jitter, passes), link| {
            let (_, detail) = link?;
            let detail = detail?;
            let part = |cost: Cost| Duration::from_micros(cost.micros());
            let passed = 1.0 - f64::from(detail.lost.min(1000)) / 1000.0;
            Some((rtt + part(detail.rtt), jitter + part(detail.jitter), passes * passed))
        })?;
        Some(Self { rtt, jitter, loss: 1.0 - passes })
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rtt {:.1?}, jitter {:.1?}, loss {:.1} %", self.rtt, self.jitter, self.loss * 100.0)
    }
}

fn set(peers: &mut BTreeSet<PeerName>, peer: PeerName, is_in: bool) {
    if is_in {
        peers.insert(peer);
    } else {
        peers.remove(&peer);
    }
}

fn why_broken(
    relays: Option<&[PeerName]>,
    peer: PeerName,
    own_link: impl Fn(PeerName) -> OwnLink,
    graph: &Graph,
    label: impl Fn(PeerName) -> String,
) -> String {
    let is_down = |peer| own_link(peer).is_down;
    if let Some(off) = relays.into_iter().flatten().find(|relay| graph.relaying(**relay) == Some(Relaying::Off)) {
        return format!("relay {} passes on no frames any more", label(*off));
    }
    match relays {
        Some([]) if is_down(peer) => "no answer over UDP".to_owned(),
        Some([]) => "the other side reports the direct path down".to_owned(),
        Some([first, ..]) if is_down(*first) => format!("relay {}: no answer over UDP", label(*first)),
        Some([first, ..]) => format!("a link of the path by relay {} is down", label(*first)),
        None => String::new(),
    }
}
