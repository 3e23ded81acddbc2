//! The best paths that the network itself allows, found by looking at all of it: what routers' choices are held against.
//!
//! A link takes as long as a packet there and one back, and as what is lost on it costs: a loss is noticed after the 200 ms
//! that TCP waits at least on Linux (`TCP_RTO_MIN`). This is no router's cost function, on purpose: it is the ruler.

use std::time::Duration;

use super::{HostId, Network};
use crate::wire::RELAYS_MAX;

/// Relays on the paths that choices are compared with, at most: more would hardly ever be better.
pub const RELAYS: usize = 2;

/// What a lost packet costs.
const LOSS_COSTS: Duration = Duration::from_millis(200);

/// No way.
const NEVER: u32 = u32::MAX;

/// Times in microseconds of all ordered pairs.
#[derive(Clone, Debug, Default)]
pub struct Optimum {
    count: usize,
    links: Vec<u32>,
    best: Vec<u32>,
    exists: Vec<bool>,
}

impl Optimum {
    /// Of the network as it is, among so many hosts; `may_link` says which of them would talk straight to each other. Where gossip
    /// does not get to, there is no path: no router would know of the other.
    pub fn new(network: &Network, count: usize, may_link: impl Fn(HostId, HostId) -> bool + Copy) -> Self {
        let mut links = vec![NEVER; count * count];
        for a in 0..count {
            for b in 0..a {
                let time = may_link(a, b).then(|| link_time(network, a, b)).flatten();
                let micros = time.map_or(NEVER, |time| u32::try_from(time.as_micros()).unwrap_or(NEVER - 1));
                links[a * count + b] = micros;
                links[b * count + a] = micros;
            }
        }
        let mut best = links.clone();
        for _ in 0..RELAYS {
            best = one_link_further(&best, &links, count);
        }
        let mut reached = best.clone();
        // More relays matter only where two do not lead.
        for _ in RELAYS..RELAYS_MAX {
            if reached.contains(&NEVER) {
                reached = one_link_further(&reached, &links, count);
            }
        }
        let meshes = meshes(network, count, may_link);
        let exists = reached.iter().enumerate().map(|(pair, time)| {
            let (from, to) = (pair / count, pair % count);
            *time != NEVER && meshes[from] == meshes[to]
        });
        Self { count, links, best, exists: exists.collect() }
    }

    /// The time of the link between two hosts; None if nothing passes.
    pub fn link(&self, a: HostId, b: HostId) -> Option<Duration> {
        known(self.links[a * self.count + b])
    }

    /// The time of the best path with at most [`RELAYS`] relays; None if there is none.
    pub fn best(&self, from: HostId, to: HostId) -> Option<Duration> {
        known(self.best[from * self.count + to])
    }

    /// Whether there is any path with as many relays as a packet can name, and gossip between the ends.
    pub fn exists(&self, from: HostId, to: HostId) -> bool {
        self.exists[from * self.count + to]
    }
}

fn known(micros: u32) -> Option<Duration> {
    (micros != NEVER).then(|| Duration::from_micros(micros.into()))
}

/// How long a packet takes there and back; None if it cannot.
fn link_time(network: &Network, a: HostId, b: HostId) -> Option<Duration> {
    if !network.passes(a, b) || !network.passes(b, a) {
        return None;
    }
    let ways = [network.way(a, b), network.way(b, a)];
    let travel: Duration = ways.iter().map(|way| way.latency + way.jitter / 2).sum();
    let survives: f64 = ways.iter().map(|way| 1.0 - way.loss).product();
    // How often it is sent again, on average, until it came through.
    Some(travel + LOSS_COSTS.mul_f64(((1.0 - survives) / survives).min(1000.0)))
}

/// For each host the first one that control connections join it with, over any others.
fn meshes(network: &Network, count: usize, may_link: impl Fn(HostId, HostId) -> bool) -> Vec<HostId> {
    let mut meshes: Vec<HostId> = (0..count).collect();
    for first in 0..count {
        if meshes[first] != first {
            continue;
        }
        let mut open = vec![first];
        while let Some(a) = open.pop() {
            for (b, mesh) in meshes.iter_mut().enumerate().skip(first + 1) {
                if *mesh == b && b != a && may_link(a, b) && network.connects(a, b) {
                    *mesh = first;
                    open.push(b);
                }
            }
        }
    }
    meshes
}

/// The best paths with one link more than those in `paths` at most.
fn one_link_further(paths: &[u32], links: &[u32], count: usize) -> Vec<u32> {
    let mut further = paths.to_vec();
    if count == 0 {
        return further;
    }
    for (row, path) in further.chunks_mut(count).zip(paths.chunks(count)) {
        for (first, onward) in path.iter().zip(links.chunks(count)).filter(|(first, _)| **first != NEVER) {
            for (time, link) in row.iter_mut().zip(onward) {
                *time = (*time).min(first.saturating_add(*link));
            }
        }
    }
    for (id, row) in further.chunks_mut(count).enumerate() {
        row[id] = 0;
    }
    further
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Way;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn way(millis: u32, loss: f64) -> Way {
        Way { latency: MILLISECOND * millis, jitter: Duration::ZERO, loss }
    }

    fn network(links: &[(HostId, HostId, u32)]) -> Network {
        let mut network = Network::default();
        for &(a, b, millis) in links {
            network.ways.extend([((a, b), way(millis, 0.0)), ((b, a), way(millis, 0.0))]);
        }
        network
    }

    /// A square with one slow side, reckoned by hand:
    ///
    /// ```text
    ///   0 ──10── 1        0 to 3 straight: 2·100, by 1: 2·70, by 1 and 2: 2·35
    ///   │      ╱ │5       0 to 2 straight: 2·90, by 1: 2·15
    ///  100   60  │        1 to 3 straight: 2·60, by 2: 2·25
    ///   │  ╱     │
    ///   3 ──20── 2
    /// ```
    #[test]
    fn the_best_path_is_found_with_none_one_and_two_relays() {
        let network = network(&[(0, 1, 10), (1, 2, 5), (2, 3, 20), (0, 3, 100), (0, 2, 90), (1, 3, 60)]);
        let optimum = Optimum::new(&network, 4, |_, _| true);
        let best = |a, b| optimum.best(a, b).map(|time| time.as_millis());
        assert_eq!([best(0, 1), best(0, 2), best(1, 3), best(0, 3)], [Some(20), Some(30), Some(50), Some(70)]);
        assert_eq!([best(1, 0), best(2, 0), best(3, 1), best(3, 0)], [Some(20), Some(30), Some(50), Some(70)]);
        assert_eq!(optimum.link(0, 3), Some(MILLISECOND * 200));
    }

    #[test]
    fn a_path_of_many_relays_exists_but_is_not_compared_with() {
        let chain = |a: HostId, b: HostId| a.abs_diff(b) == 1;
        let optimum = Optimum::new(&Network::default(), 8, chain);
        assert_eq!(optimum.best(0, 3), Some(MILLISECOND * 6));
        assert_eq!((optimum.best(0, 4), optimum.exists(0, 4)), (None, true));
        assert!(optimum.exists(0, 5) && !optimum.exists(0, 6), "a packet names four relays at most");
    }

    #[test]
    fn what_is_lost_counts_as_time() {
        let mut network = network(&[(0, 1, 10), (0, 2, 10), (1, 2, 10)]);
        network.ways.insert((0, 1), way(10, 0.2));
        // A fifth lost is a quarter more to send.
        let optimum = Optimum::new(&network, 3, |_, _| true);
        assert_eq!(optimum.link(0, 1), Some(MILLISECOND * (20 + 50)));
        assert_eq!(optimum.best(0, 1), Some(MILLISECOND * 40));
    }

    #[test]
    fn where_gossip_does_not_get_to_there_is_no_path() {
        let mut network = network(&[]);
        network.stream_cuts.insert((1, 0));
        assert!(Optimum::new(&network, 3, |_, _| true).exists(0, 1), "it gets there by the third");
        network.stream_cuts.extend([(2, 0), (3, 0)]);
        let optimum = Optimum::new(&network, 4, |_, _| true);
        assert!(!optimum.exists(0, 1) && !optimum.exists(2, 0) && optimum.exists(1, 3));
        network.stream_cuts.clear();
        network.nats = [1, 2].map(|id| crate::sim::Nat::new([198, 18, 0, id as u8].into(), [id])).into();
        assert!(Optimum::new(&network, 3, |_, _| true).exists(1, 2), "host 0 is known to both");
        let optimum = Optimum::new(&network, 3, |a, b| a.min(b) > 0);
        assert!(!optimum.exists(1, 2), "nobody can connect to the other");
    }

    #[test]
    fn one_direction_cut_is_no_link() {
        let mut network = network(&[]);
        network.datagram_cuts.insert((1, 0));
        let optimum = Optimum::new(&network, 2, |_, _| true);
        assert_eq!((optimum.link(0, 1), optimum.exists(0, 1)), (None, false));
        network.datagram_cuts.clear();
        network.ways.insert((0, 1), way(1, 1.0));
        assert!(!Optimum::new(&network, 2, |_, _| true).exists(1, 0), "all is lost");
    }
}
