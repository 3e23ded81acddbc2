//! What happens to a network and its peers.

use std::time::Duration;

use super::super::{HostId, Network};

/// A change and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// How long after the start.
    pub at: Duration,
    /// As it is shown to people.
    pub words: String,
    /// What.
    pub change: Change,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Nothing passes any more, or only some of it.
    Cut(Between, Only),
    /// No cut is there any more, nor, when it is between all, a partition.
    Heal(Between),
    /// Only peers of one group reach each other; a peer of none is with the others that are of none.
    Partition(Vec<Vec<HostId>>),
    /// Links are of another quality.
    Link(Between, WayChange),
    /// Routers are killed.
    Crash(Vec<HostId>),
    /// Routers stop, and say so.
    Stop(Vec<HostId>),
    /// Routers are started, and killed before if they run.
    Restart(Vec<HostId>),
    /// NATs before these peers forget what they have translated.
    Forget(Vec<HostId>),
}

/// Some ordered pairs of peers; None for every peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// The one end.
    pub from: Option<HostId>,
    /// The other.
    pub to: Option<HostId>,
    /// Only in this direction.
    pub one_way: bool,
}

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Everything.
    All,
    /// What carries frames.
    Udp,
    /// What carries gossip.
    Tcp,
}

/// What is different; None stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WayChange {
    /// One way, the least.
    pub latency: Option<Duration>,
    /// Added to that.
    pub jitter: Option<Duration>,
    /// Share of datagrams lost, 0 to 1.
    pub loss: Option<f64>,
}

impl Between {
    /// The pairs among so many peers.
    pub fn pairs(self, count: usize) -> impl Iterator<Item = (HostId, HostId)> {
        let ends = move |end: Option<HostId>| end.map_or(0..count, |id| id..id + 1);
        let there = ends(self.from).flat_map(move |from| ends(self.to).map(move |to| (from, to)));
        let both = move |(from, to)| [Some((from, to)), Some((to, from)).filter(|_| !self.one_way)];
        there.filter(|(from, to)| from != to).flat_map(both).flatten()
    }

    fn is_all(self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

impl Change {
    /// Does to the network what it says; what it does to routers is not here.
    pub fn alter(&self, network: &mut Network, count: usize) {
        match self {
            Self::Cut(between, only) => {
                for pair in between.pairs(count) {
                    if *only != Only::Tcp {
                        network.datagram_cuts.insert(pair);
                        network.fast_cuts.insert(pair);
                    }
                    if *only != Only::Udp {
                        network.stream_cuts.insert(pair);
                    }
                }
            }
            Self::Heal(between) if between.is_all() => network.heal(),
            Self::Heal(between) => {
                for pair in between.pairs(count) {
                    network.datagram_cuts.remove(&pair);
                    network.fast_cuts.remove(&pair);
                    network.stream_cuts.remove(&pair);
                }
            }
            Self::Partition(groups) => {
                let mut of = vec![0; count];
                for (number, group) in groups.iter().enumerate() {
                    for id in group {
                        of[*id] = number + 1;
                    }
                }
                network.groups = of;
            }
            Self::Link(between, change) => {
                for (from, to) in between.pairs(count) {
                    let mut way = network.way(from, to);
                    way.latency = change.latency.unwrap_or(way.latency);
                    way.jitter = change.jitter.unwrap_or(way.jitter);
                    way.loss = change.loss.unwrap_or(way.loss);
                    network.ways.insert((from, to), way);
                }
            }
            Self::Forget(ids) => {
                for nat in network.nats.iter_mut().filter(|nat| ids.iter().any(|id| nat.inside.contains(id))) {
                    nat.forget(|_| true);
                }
            }
            Self::Crash(_) | Self::Stop(_) | Self::Restart(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_of_two_of_one_and_all_or_of_all() {
        let pairs = |from, to, one_way| {
            let mut pairs: Vec<_> = Between { from, to, one_way }.pairs(3).collect();
            pairs.sort_unstable();
            pairs.dedup();
            pairs
        };
        assert_eq!(pairs(Some(0), Some(2), false), [(0, 2), (2, 0)]);
        assert_eq!(pairs(Some(2), Some(0), true), [(2, 0)]);
        assert_eq!(pairs(Some(1), None, true), [(1, 0), (1, 2)]);
        assert_eq!(pairs(None, None, false).len(), 6);
    }

    #[test]
    fn what_is_cut_heals_and_what_is_not_touched_stays() {
        let mut network = Network::default();
        let between = Between { from: Some(0), to: Some(1), one_way: true };
        Change::Cut(between, Only::Udp).alter(&mut network, 3);
        assert!(!network.passes(0, 1) && network.passes(1, 0) && network.stream_cuts.is_empty());
        Change::Partition(vec![vec![0, 1]]).alter(&mut network, 3);
        assert!(!network.passes(2, 1) && network.passes(1, 0));
        Change::Heal(between).alter(&mut network, 3);
        assert!(network.passes(0, 1) && !network.passes(0, 2));
        Change::Heal(Between { from: None, to: None, one_way: false }).alter(&mut network, 3);
        assert!(network.passes(0, 2));
        let slower = WayChange { latency: Some(Duration::from_millis(90)), ..WayChange::default() };
        Change::Link(between, slower).alter(&mut network, 3);
        assert_eq!([network.way(0, 1).latency, network.way(1, 0).latency].map(|time| time.as_millis()), [90, 1]);
    }
}
