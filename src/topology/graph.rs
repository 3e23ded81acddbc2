//! The graph that all records make, and the ways through it.
//!
//! A link counts only when both ends report it; its cost is the larger of their two. Of our own links it is what we measure: both ends
//! measure the same round trips, and our figure is newer than what the other end told. But a loss that the other end has seen counts
//! too, as it takes many probes to see one. The source of a frame picks the
//! whole path, so all that matters is that its own choice is good and does not depend on chance: of several paths the
//! cheapest, then the one with fewer relays, then the one whose relays' names come first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    cost::Cost,
    record::{Detail, LinkRecord, PeerRecord},
    relaying::Relaying,
};
use crate::{id::PeerName, wire::RELAYS_MAX};

/// Ways to a peer that are told of at most, and so many by one relay are enough not to look for any by two.
const ALTERNATIVES_MAX: usize = 8;
const ALTERNATIVES_ENOUGH: usize = 3;

/// The best way to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChoice {
    /// The relays in order; none for a direct link. At most [`RELAYS_MAX`].
    pub relays: Vec<PeerName>,
    /// The sum of the links' costs in microseconds, and [`Relaying::penalty`] for each relay.
    pub cost: u64,
}

/// All peers and the links that both ends report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Graph {
    own_name: PeerName,
    /// In order, so that a smaller index is a smaller name.
    names: Vec<PeerName>,
    own: Option<usize>,
    relaying: Vec<Relaying>,
    control: Vec<Vec<usize>>,
    data: Vec<Vec<Edge>>,
}

/// A link that frames pass, from one of its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Edge {
    peer: usize,
    /// In microseconds.
    cost: u64,
    /// UDP payload.
    payload_max: u16,
    /// What the cost is made of, as the end says that has the larger.
    detail: Option<Detail>,
}

/// The best way to a peer with a given number of relays. Its order is that of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    cost: u64,
    /// As many as the round says; the rest is zero.
    relays: [usize; RELAYS_MAX],
}

impl Graph {
    /// The graph of these records, one of which is that of `own`; `measured` is what it measures of its link to a peer. Peers that
    /// leave have no links any more.
    pub fn new<'a>(
        own: PeerName,
        records: impl IntoIterator<Item = (PeerName, &'a PeerRecord)>,
        measured: impl Fn(PeerName) -> Option<(Cost, Detail)>,
    ) -> Self {
        let mut records: Vec<_> = records.into_iter().filter(|(_, record)| !record.leaving).collect();
        records.sort_unstable_by_key(|(name, _)| *name);
        let names: Vec<_> = records.iter().map(|(name, _)| *name).collect();
        let mut graph = Self {
            own_name: own,
            own: names.binary_search(&own).ok(),
            relaying: vec![Relaying::default(); names.len()],
            control: vec![Vec::new(); names.len()],
            data: vec![Vec::new(); names.len()],
            names,
        };
        for peer in 0..records.len() {
            graph.look(peer, |at| records.get(at).map(|(_, record)| *record), &measured);
        }
        graph
    }

    /// Brings it up to date where these peers told something else, and in what we measure; private links are to be added anew. False,
    /// and nothing is done, if there are other peers than before. `record` is what a peer tells, None if it is not there or leaves.
    pub fn follow<'a>(
        &mut self,
        changed: &BTreeSet<PeerName>,
        record: impl Fn(PeerName) -> Option<&'a PeerRecord>,
        measured: impl Fn(PeerName) -> Option<(Cost, Detail)>,
    ) -> bool {
        if changed.iter().any(|name| self.names.binary_search(name).is_ok() != record(*name).is_some()) {
            return false;
        }
        let mut is_stale = vec![false; self.names.len()];
        for name in changed.iter().chain([&self.own_name]) {
            let Ok(peer) = self.names.binary_search(name) else { continue };
            let before = self.control.get(peer).into_iter().flatten().copied();
            let before = before.chain(self.data.get(peer).into_iter().flatten().map(|edge| edge.peer));
            let told = record(*name).into_iter().flat_map(|record| &record.links);
            let after = told.filter_map(|link| self.names.binary_search(&link.peer).ok());
            for end in before.chain(after).chain([peer]) {
                is_stale.get_mut(end).into_iter().for_each(|stale| *stale = true);
            }
        }
        let stale: Vec<usize> = (0..).zip(is_stale).filter(|(_, stale)| *stale).map(|(peer, _)| peer).collect();
        let names = self.names.clone();
        for peer in stale {
            self.look(peer, |at| names.get(at).and_then(|name| record(*name)), &measured);
        }
        true
    }

    /// Looks at what a peer tells of itself and of its links, and at what their other ends tell.
    fn look<'a>(
        &mut self,
        peer: usize,
        record: impl Fn(usize) -> Option<&'a PeerRecord>,
        measured: impl Fn(PeerName) -> Option<(Cost, Detail)>,
    ) {
        let Some((name, told)) = self.names.get(peer).copied().zip(record(peer)) else { return };
        let places = (self.relaying.get_mut(peer), self.control.get_mut(peer), self.data.get_mut(peer));
        let (Some(relaying), Some(control), Some(data)) = places else { return };
        *relaying = told.relaying;
        control.clear();
        data.clear();
        for link in &told.links {
            let Ok(other) = self.names.binary_search(&link.peer) else { continue };
            let Some(back) = record(other).and_then(|other| other.link(name)) else { continue };
            if link.control && back.control {
                control.push(other);
            }
            if let (Some(there), Some(here)) = (link.data, back.data) {
                let payload_max = link.payload_max.min(back.payload_max);
                let there = (there, link.detail);
                let here = (here, back.detail);
                let (cost, detail) = if name == self.own_name {
                    ours(measured(link.peer), here, there)
                } else if link.peer == self.own_name {
                    ours(measured(name), there, here)
                } else {
                    worse(there, here)
                };
                data.push(Edge { peer: other, cost: cost.micros(), payload_max, detail });
            }
        }
    }

    /// Takes links of ours that only we and the other end know of, which tells nobody either.
    pub fn add_private(&mut self, links: impl IntoIterator<Item = LinkRecord>) {
        let Some(edges) = self.own.and_then(|own| self.data.get_mut(own)) else { return };
        for link in links {
            let peer = self.names.binary_search(&link.peer).ok();
            let Some((peer, cost)) = peer.zip(link.data.map(Cost::micros)) else { continue };
            let edge = Edge { peer, cost, payload_max: link.payload_max, detail: link.detail };
            match edges.binary_search_by_key(&peer, |edge| edge.peer) {
                Ok(at) => edges.get_mut(at).into_iter().for_each(|told| *told = edge),
                Err(at) => edges.insert(at, edge),
            }
        }
    }

    /// Peers that gossip reaches from us by control connections, ourselves included.
    pub fn reachable(&self) -> BTreeSet<PeerName> {
        self.reachable_without(&BTreeSet::new())
    }

    /// Those that it would still reach if our connections with `neighbours` ended.
    pub fn reachable_without(&self, neighbours: &BTreeSet<PeerName>) -> BTreeSet<PeerName> {
        let is_seen = self.reached(neighbours);
        self.names.iter().zip(is_seen).filter(|(_, seen)| *seen).map(|(name, _)| *name).collect()
    }

    /// Of each peer, whether control connections lead there from us that are not ours with one of `but`.
    fn reached<'a>(&self, but: impl IntoIterator<Item = &'a PeerName>) -> Vec<bool> {
        let mut is_seen = vec![false; self.names.len()];
        let cut: Vec<usize> = but.into_iter().filter_map(|peer| self.names.binary_search(peer).ok()).collect();
        let mut open = Vec::from_iter(self.own);
        while let Some(peer) = open.pop() {
            if is_seen.get_mut(peer).is_none_or(|seen| std::mem::replace(seen, true)) {
                continue;
            }
            let is_cut = |next: &usize| {
                (Some(peer) == self.own && cut.contains(next)) || (Some(*next) == self.own && cut.contains(&peer))
            };
            open.extend(self.control.get(peer).into_iter().flatten().copied().filter(|next| !is_cut(next)));
        }
        is_seen
    }

    /// Our neighbours in a tree of control connections, which all find alike who see the same connections: breadth first from the least
    /// name that they lead to.
    pub fn tree(&self) -> BTreeSet<PeerName> {
        let is_reached = self.reached(None);
        let root = is_reached.iter().position(|reached| *reached);
        let mut parents: Vec<Option<usize>> = vec![None; self.names.len()];
        let mut open: VecDeque<usize> = root.into_iter().collect();
        while let Some(peer) = open.pop_front() {
            for &next in self.control.get(peer).into_iter().flatten() {
                if let Some(parent) = parents.get_mut(next).filter(|parent| parent.is_none() && Some(next) != root) {
                    *parent = Some(peer);
                    open.push_back(next);
                }
            }
        }
        let parent = self.own.and_then(|own| parents.get(own).copied().flatten());
        let children = (0..).zip(&parents).filter(|(_, parent)| parent.is_some() && **parent == self.own);
        let peers = children.map(|(child, _)| child).chain(parent);
        peers.filter_map(|peer: usize| self.names.get(peer).copied()).collect()
    }

    /// The best path to each peer that frames can get to.
    pub fn paths(&self) -> BTreeMap<PeerName, PathChoice> {
        let Some(own) = self.own else { return BTreeMap::new() };
        let mut best: Vec<Option<(Way, usize)>> = vec![None; self.names.len()];
        let mut round = vec![(own, Way { cost: 0, relays: [0; RELAYS_MAX] })];
        for relays in 0..=RELAYS_MAX {
            round = self.one_link_further(&round, relays, &best);
            for (peer, way) in &round {
                best.get_mut(*peer).into_iter().for_each(|best| *best = Some((*way, relays)));
            }
        }
        let choice = |(way, count): (Way, usize)| {
            let relays = way.relays.iter().take(count).filter_map(|relay| self.names.get(*relay).copied());
            PathChoice { relays: relays.collect(), cost: way.cost }
        };
        self.names.iter().zip(best).filter_map(|(name, best)| Some((*name, choice(best?)))).collect()
    }

    /// The cost now of the path by `relays` to `peer`, as [`PathChoice::cost`]; None if it is no path any more.
    pub fn cost(&self, relays: &[PeerName], peer: PeerName) -> Option<u64> {
        let penalties = relays.iter().map(|relay| self.relaying(*relay)?.penalty());
        Some(self.rtt(relays, peer)? + penalties.sum::<Option<u64>>()?)
    }

    /// What a peer does for frames of others; None if it is not there.
    pub fn relaying(&self, peer: PeerName) -> Option<Relaying> {
        self.relaying.get(self.names.binary_search(&peer).ok()?).copied()
    }

    /// The sum of the links' costs of a path in microseconds; None if it is no path any more.
    pub fn rtt(&self, relays: &[PeerName], peer: PeerName) -> Option<u64> {
        self.edges(relays, peer).map(|edge| Some(edge?.cost)).sum()
    }

    /// What each link of a path costs in microseconds, and of what that is made; None where it is no path any more.
    pub fn links(&self, relays: &[PeerName], peer: PeerName) -> impl Iterator<Item = Option<(u64, Option<Detail>)>> {
        self.edges(relays, peer).map(|edge| edge.map(|edge| (edge.cost, edge.detail)))
    }

    /// Whether frames can go straight to `peer` from anybody.
    pub fn has_links(&self, peer: PeerName) -> bool {
        let edges = self.names.binary_search(&peer).ok().and_then(|peer| self.data.get(peer));
        edges.is_some_and(|edges| !edges.is_empty())
    }

    /// Whether frames can go straight to `peer`.
    pub fn has_direct(&self, peer: PeerName) -> bool {
        self.has_path(&[], peer)
    }

    /// Whether frames can go to `peer` by relays.
    pub fn has_detour(&self, peer: PeerName) -> bool {
        self.detours(peer, 1).next().is_some()
    }

    /// Whether frames could go to `peer` by one relay that passes on none.
    pub fn has_unwilling_relay(&self, peer: PeerName) -> bool {
        let last = self.names.binary_search(&peer).ok();
        let leads =
            |relay: usize| self.penalty(relay).is_none() && last.is_some_and(|last| self.edge(relay, last).is_some());
        self.own.and_then(|own| self.data.get(own)).into_iter().flatten().any(|edge| leads(edge.peer))
    }

    /// The ways to `peer`, the best first: straight, by each relay, and where those are few by two.
    pub fn alternatives(&self, peer: PeerName) -> Vec<PathChoice> {
        let straight = [Vec::new()].into_iter().filter(|_| self.has_path(&[], peer));
        let mut ways: Vec<_> = straight.chain(self.detours(peer, ALTERNATIVES_ENOUGH)).collect();
        ways.sort_by_cached_key(|relays| (self.cost(relays, peer), relays.len(), relays.clone()));
        ways.truncate(ALTERNATIVES_MAX);
        ways.into_iter().filter_map(|relays| Some(PathChoice { cost: self.cost(&relays, peer)?, relays })).collect()
    }

    /// The relays of the ways by one, and if there are fewer than `enough` then of those by two.
    fn detours(&self, peer: PeerName, enough: usize) -> impl Iterator<Item = Vec<PeerName>> {
        let last = self.names.binary_search(&peer).ok();
        let around = |of: Option<usize>, but: Option<usize>| -> Vec<usize> {
            let edges = of.and_then(|of| self.data.get(of)).into_iter().flatten();
            edges.map(|edge| edge.peer).filter(|other| Some(*other) != but).collect()
        };
        let relays = |of, but| -> Vec<usize> {
            around(of, but).into_iter().filter(|relay| self.penalty(*relay).is_some()).collect()
        };
        let (ours, theirs) = (relays(self.own, last), relays(last, self.own));
        let by_one: Vec<Vec<usize>> =
            ours.iter().filter(|relay| theirs.binary_search(relay).is_ok()).map(|relay| vec![*relay]).collect();
        let is_few = by_one.len() < enough;
        let pairs = ours.into_iter().filter(move |_| is_few).flat_map(move |first| {
            let theirs = theirs.clone().into_iter();
            theirs.map(move |second| [first, second])
        });
        let by_two = pairs.filter(|[a, b]| a != b && self.edge(*a, *b).is_some()).map(|way| way.to_vec());
        let name = |relay: usize| self.names.get(relay).copied();
        by_one.into_iter().chain(by_two).map(move |way| way.into_iter().filter_map(name).collect())
    }

    /// The largest UDP payload that every link of a path carries; None if it is no path any more.
    pub fn payload_max(&self, relays: &[PeerName], peer: PeerName) -> Option<usize> {
        let mut sizes = self.edges(relays, peer).map(|edge| Some(usize::from(edge?.payload_max)));
        sizes.try_fold(usize::MAX, |least, size| Some(least.min(size?)))
    }

    fn has_path(&self, relays: &[PeerName], peer: PeerName) -> bool {
        self.edges(relays, peer).all(|edge| edge.is_some())
    }

    /// The links of a path; None from where on it is none any more.
    fn edges(&self, relays: &[PeerName], peer: PeerName) -> impl Iterator<Item = Option<Edge>> {
        let relays = relays.iter().map(|relay| (*relay, true));
        let mut at = self.own;
        relays.chain([(peer, false)]).map(move |(name, is_relay)| {
            let next = self.names.binary_search(&name).ok();
            let passes = !is_relay || self.relaying(name) != Some(Relaying::Off);
            let edge = at.zip(next).filter(|_| passes).and_then(|(at, next)| self.edge(at, next));
            at = next.filter(|_| edge.is_some());
            edge
        })
    }

    fn edge(&self, from: usize, to: usize) -> Option<Edge> {
        // In the order of names, as the links of a record are.
        let edges = self.data.get(from)?;
        edges.get(edges.binary_search_by_key(&to, |edge| edge.peer).ok()?).copied()
    }

    fn penalty(&self, relay: usize) -> Option<u64> {
        self.relaying.get(relay)?.penalty()
    }

    /// The best ways that are one link longer than those of `round`, and so have `relays` relays. Where one with fewer costs no more, a
    /// way is none of them: going on from there cannot pay either.
    fn one_link_further(
        &self,
        round: &[(usize, Way)],
        relays: usize,
        best: &[Option<(Way, usize)>],
    ) -> Vec<(usize, Way)> {
        let mut further: Vec<Option<Way>> = vec![None; self.names.len()];
        let mut reached = Vec::new();
        for &(last, mut longer) in round {
            // The end of the way so far is its last relay, unless it is ourselves.
            if let Some(relay) = relays.checked_sub(1).and_then(|place| longer.relays.get_mut(place)) {
                let Some(penalty) = self.penalty(last) else { continue };
                *relay = last;
                longer.cost += penalty;
            }
            for &Edge { peer, cost, .. } in self.data.get(last).into_iter().flatten() {
                let way = Way { cost: longer.cost + cost, ..longer };
                let is_known = matches!(best.get(peer), Some(Some((best, _))) if best.cost <= way.cost);
                let Some(place) = further.get_mut(peer).filter(|_| !is_known && Some(peer) != self.own) else {
                    continue;
                };
                if place.is_none() {
                    reached.push(peer);
                }
                *place = Some(place.map_or(way, |known| known.min(way)));
            }
        }
        reached.into_iter().filter_map(|peer| Some((peer, (*further.get(peer)?)?))).collect()
    }
}

/// What an end says of a link.
type Said = (Cost, Option<Detail>);

fn worse(one: Said, other: Said) -> Said {
    if other.0 > one.0 { other } else { one }
}

/// Of a link of ours: what we measure, but for loss that the other end says there is; what we told when nothing is measured.
fn ours(measured: Option<(Cost, Detail)>, theirs: Said, told: Said) -> Said {
    let Some((cost, detail)) = measured else { return worse(told, theirs) };
    let ours = (cost, Some(detail));
    let has_more_loss = theirs.1.is_some_and(|theirs| theirs.lost > detail.lost);
    if has_more_loss { worse(ours, theirs) } else { ours }
}

#[cfg(test)]
mod tests;
