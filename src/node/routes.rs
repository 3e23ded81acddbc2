//! Paths to all peers: from what everybody reports, chosen with hysteresis, each with its reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::selector::{Offer, Selector};
use crate::{
    id::PeerName,
    time::Time,
    topology::{gone::Gone, graph::Graph, record::Topology},
};

/// The graph is looked at anew no more often than this while changes pour in; after a quiet time, at once. For each peer a
/// little more, as each is looked at.
const RECOMPUTE_INTERVAL: Duration = Duration::from_millis(50);
const RECOMPUTE_INTERVAL_PER_PEER: Duration = Duration::from_millis(2);

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
}

/// The paths.
#[derive(Debug, Default)]
pub(super) struct Routes {
    selectors: BTreeMap<PeerName, Selector>,
    reachable: BTreeSet<PeerName>,
    left: BTreeSet<PeerName>,
    graph: Option<Graph>,
    gone: Gone,
    stale: bool,
    /// When the earliest rival of a path in use has lasted long enough.
    rival_at: Option<Time>,
    computed_at: Option<Time>,
}

impl Routes {
    /// What was reported changed: look at it soon.
    pub(super) fn invalidate(&mut self) {
        self.stale = true;
    }

    /// Whether gossip reaches this peer.
    pub(super) fn is_reachable(&self, peer: PeerName) -> bool {
        self.reachable.contains(&peer)
    }

    /// All peers that gossip reaches.
    pub(super) fn reachable(&self) -> &BTreeSet<PeerName> {
        &self.reachable
    }

    /// Whether gossip would reach these neighbours through others.
    pub(super) fn reaches_without(&self, neighbours: &BTreeSet<PeerName>) -> bool {
        self.graph.as_ref().is_some_and(|graph| graph.reachable_without(neighbours).is_superset(neighbours))
    }

    /// How many peers have a path.
    pub(super) fn reached(&self) -> usize {
        self.selectors.values().filter(|selector| selector.chosen().is_some()).count()
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

    /// The sum of the costs of a path's links, without what relays cost besides; None if it is no path.
    pub(super) fn path_rtt(&self, peer: PeerName) -> Option<Duration> {
        self.graph.as_ref()?.rtt(self.relays(peer)?, peer).map(Duration::from_micros)
    }

    /// The least that a link of the path passes, as its ends report; None if it is no path.
    pub(super) fn path_payload_max(&self, peer: PeerName) -> Option<usize> {
        self.graph.as_ref()?.payload_max(self.relays(peer)?, peer)
    }

    /// When [`Self::update`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let recompute = self.stale.then(|| self.computed_at.map_or(Time::ZERO, |at| at + self.recompute_interval()));
        [recompute, self.rival_at, self.gone.deadline()].into_iter().flatten().min()
    }

    /// Looks at the graph if it is time; `own_broke` says why a direct path of ours to a peer ended.
    pub(super) fn update(
        &mut self,
        own: PeerName,
        topology: &Topology,
        own_broke: impl Fn(PeerName) -> Option<String>,
        now: Time,
    ) -> Option<Outcome> {
        self.deadline().filter(|at| *at <= now)?;
        self.stale = false;
        self.computed_at = Some(now);
        let graph = Graph::new(own, topology.iter().map(|(name, (), record)| (name, record)));
        self.reachable = graph.reachable();
        let others = || topology.iter().filter(|(name, ..)| *name != own);
        let known = others().map(|(name, (), record)| (name, record.leaving));
        let gone = self.gone.update(known, &self.reachable, now);
        self.left = others().filter(|(.., record)| record.leaving).map(|(name, ..)| name).collect();
        let mut best = graph.paths();
        let mut changed = Vec::new();
        let mut resized = false;
        for (peer, (), record) in others() {
            let selector = self.selectors.entry(peer).or_insert_with(|| Selector::new(now));
            let cost = selector.chosen().and_then(|relays| graph.cost(relays, peer)).map(Duration::from_micros);
            resized |= selector.chosen().is_some_and(|relays| {
                graph.payload_max(relays, peer) != self.graph.as_ref().and_then(|old| old.payload_max(relays, peer))
            });
            let offer = best.remove(&peer);
            let offer = offer.map(|path| Offer { relays: path.relays, cost: Duration::from_micros(path.cost) });
            let broke = if record.leaving { "it stopped".to_owned() } else { why_broken(selector, peer, &own_broke) };
            if selector.choose(cost, offer, &broke, now) {
                changed.push(peer);
            }
        }
        self.graph = Some(graph);
        self.rival_at = self.selectors.values().filter_map(Selector::deadline).min();
        Some(Outcome { changed, gone, resized })
    }

    fn recompute_interval(&self) -> Duration {
        RECOMPUTE_INTERVAL + RECOMPUTE_INTERVAL_PER_PEER * u32::try_from(self.selectors.len()).unwrap_or(u32::MAX)
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, peer: PeerName) {
        self.selectors.remove(&peer);
        self.stale = true;
    }
}

fn why_broken(selector: &Selector, peer: PeerName, own_broke: impl Fn(PeerName) -> Option<String>) -> String {
    match selector.chosen() {
        Some([]) => own_broke(peer).unwrap_or_else(|| "the other side reports the direct path down".to_owned()),
        Some([first, ..]) => own_broke(*first)
            .map(|reason| format!("relay {first}: {reason}"))
            .unwrap_or_else(|| format!("a link of the path by relay {first} is down")),
        None => String::new(),
    }
}
