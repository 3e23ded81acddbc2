//! What is to be simulated: peers, the network between them, what happens to it when, and what is expected of the routers.
//!
//! A scenario is written as a file ([`Scenario::parse`], an example is [`EXAMPLE`]), or made of what a router reports
//! ([`Scenario::recorded`]), or of a few numbers; one may begin from another. All names are resolved to hosts by their numbers,
//! and all bounds checked, before anything runs.

mod change;
mod file;
mod quantity;
mod recorded;

use std::time::Duration;

use thiserror::Error;

pub use self::{
    change::{Between, Change, Happening, Only, WayChange},
    quantity::{QuantityError, Share, Span},
    recorded::RecordedError,
};
use super::{HostId, Nat, Network, Simulation, Way};
use crate::{entropy::Entropy, id::Nickname};

/// A scenario as a file, with all that one may say.
pub const EXAMPLE: &str = include_str!("scenario/example.toml");

/// Fewest and most peers: with more, one machine takes hours.
pub const PEERS: std::ops::RangeInclusive<usize> = 2..=5000;
/// Shortest and longest time simulated.
pub const SPAN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// Longest latency, and longest jitter.
pub const LATENCY_MAX: Duration = Duration::from_secs(10);
/// Most changes of the network in one scenario.
pub const CHANGES_MAX: usize = 10_000;

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What the peers are called, each differently; as many as in [`PEERS`], once it is complete.
    pub peers: Vec<Nickname>,
    /// One seed gives one run.
    pub seed: u64,
    /// For how long.
    pub span: Duration,
    /// Most control connections that each router wants; 0 for no limit.
    pub conn_limit: usize,
    /// Whether routers connect to peers that they hear of.
    pub discovery: bool,
    /// Whom each router is told to connect to.
    pub targets: Targets,
    /// What is between any two peers.
    pub links: Links,
    /// What is different between some, in this order.
    pub changed: Vec<Change>,
    /// Groups of peers, each behind a NAT of its own.
    pub nats: Vec<Vec<HostId>>,
    /// What happens, in the order of time.
    pub happenings: Vec<Happening>,
    /// Routers that die and come again all the time.
    pub churn: Option<Churn>,
    /// What is expected.
    pub expect: Expect,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            seed: 1,
            span: Duration::from_secs(60),
            conn_limit: 0,
            discovery: true,
            targets: Targets::Earlier,
            links: Links::default(),
            changed: Vec::new(),
            nats: Vec::new(),
            happenings: Vec::new(),
            churn: None,
            expect: Expect::default(),
        }
    }
}

/// Whom each router is told to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// One or two that come before it in the list, by chance, and that a stranger can connect to.
    Earlier,
    /// The first.
    First,
    /// All.
    All,
    /// These.
    Listed(Vec<Vec<HostId>>),
}

/// What is between any two peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    /// On every link, and the least.
    pub way: Way,
    /// Added to the latency of the two peers that are farthest apart: they lie on a square by chance, and a packet takes the longer
    /// the farther it goes.
    pub spread: Duration,
    /// Latencies from the row's peer to the column's, instead of both.
    pub matrix: Option<Vec<Vec<Duration>>>,
    /// Share of links that are bad, 0 to 1.
    pub bad: f64,
    /// What a bad link has more of.
    pub worse: Way,
    /// UDP payload that passes.
    pub payload_max: usize,
}

impl Default for Links {
    fn default() -> Self {
        let way = Way { latency: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0.0 };
        let worse = Way { latency: Duration::from_millis(100), jitter: Duration::ZERO, loss: 0.05 };
        Self { way, spread: Duration::ZERO, matrix: None, bad: 0.0, worse, payload_max: 1472 }
    }
}

/// Routers that die and come again all the time, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// How often one dies.
    pub every: Duration,
    /// For how long it is dead.
    pub down: Duration,
}

/// What is expected; None if nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expect {
    /// All reach all so soon after the start.
    pub settled: Option<Duration>,
    /// And so soon after each change.
    pub settled_after_change: Option<Duration>,
    /// No pair is without a path for longer, while there is one.
    pub longest_gap: Option<Duration>,
    /// Bytes a second that a peer sends when nothing happens, on average.
    pub bytes_per_second: Option<u64>,
    /// Control connections of a peer, at most.
    pub connections: Option<usize>,
    /// Paths taken again that were left before though nothing had happened.
    pub flaps: Option<u64>,
    /// Changes of paths when nothing happens.
    pub calm_changes: Option<u64>,
    /// How many times as long as the best path the chosen one is, for half of all pairs at most.
    pub stretch_median: Option<f64>,
    /// For 99 % of all pairs at most.
    pub stretch_p99: Option<f64>,
    /// For every pair at most.
    pub stretch_max: Option<f64>,
}

/// What is wrong with a scenario.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct ScenarioError {
    /// Which line of the file, from 1.
    pub line: Option<usize>,
    /// What, and what to do.
    pub message: String,
}

impl Scenario {
    /// The names of so many peers that have none.
    pub fn numbered(count: usize) -> Vec<Nickname> {
        (1..=count).filter_map(|number| format!("peer{number}").parse().ok()).collect()
    }

    /// Which host is called so.
    pub fn host(&self, name: &str) -> Option<HostId> {
        self.peers.iter().position(|peer| peer.as_str() == name)
    }

    /// Whether it can run, once everything is in: files and flags.
    ///
    /// # Errors
    /// If it is incomplete or beyond a bound.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let wrong = |message: String| Err(ScenarioError { line: None, message });
        if !PEERS.contains(&self.peers.len()) {
            let (least, most) = (PEERS.start(), PEERS.end());
            return wrong(format!("{} peers: it takes {least} to {most}, by `peers` or --peers", self.peers.len()));
        }
        if !SPAN.contains(&self.span) {
            return wrong(format!("{:?} is no time to simulate: it takes 1 s to 24 h, by `for` or --for", self.span));
        }
        let way = self.links.way;
        if way.latency.max(way.jitter).max(self.links.spread) > LATENCY_MAX {
            return wrong(format!("latency, jitter and spread are at most {LATENCY_MAX:?} each"));
        }
        if let Some(late) = self.happenings.iter().find(|happening| happening.at >= self.span) {
            let at = late.at;
            return wrong(format!(
                "an event at {at:?}, but it ends after {:?}: set `for` or --for to a later time",
                self.span
            ));
        }
        Ok(())
    }

    /// Who is behind a NAT.
    pub fn is_behind_nat(&self, id: HostId) -> bool {
        self.nats.iter().any(|inside| inside.contains(&id))
    }

    /// Whether these two would ever talk straight to each other.
    pub fn may_link(&self, a: HostId, b: HostId) -> bool {
        let told = |a: HostId, b: HostId| match &self.targets {
            Targets::Earlier | Targets::All => true,
            Targets::First => b == 0,
            Targets::Listed(lists) => lists.get(a).is_some_and(|targets| targets.contains(&b)),
        };
        self.discovery || told(a, b) || told(b, a)
    }

    /// The network at the start.
    pub fn network(&self, entropy: &Entropy) -> Network {
        let Links { way, payload_max, .. } = self.links;
        let nats = self.nats.iter().enumerate().map(|(number, inside)| {
            // None of the hosts' own (10.0.0.0/16), and as many as there may be.
            let [_, _, high, low] = u32::try_from(number + 1).unwrap_or(u32::MAX).to_be_bytes();
            Nat::new([198, 18, high, low].into(), inside.iter().copied())
        });
        let mut network = Network {
            latency: way.latency,
            jitter: way.jitter,
            loss: way.loss,
            payload_max,
            nats: nats.collect(),
            ..Network::default()
        };
        self.lay_out(&mut network, entropy);
        for change in &self.changed {
            change.alter(&mut network, self.peers.len());
        }
        network
    }

    /// Gives each link its own latency where they differ.
    fn lay_out(&self, network: &mut Network, entropy: &Entropy) {
        let Links { way, spread, matrix, bad, worse, .. } = &self.links;
        let count = self.peers.len();
        let places: Vec<_> = (0..count).map(|_| (entropy.fraction(), entropy.fraction())).collect();
        if spread.is_zero() && matrix.is_none() && *bad == 0.0 {
            return;
        }
        for a in 0..count {
            for b in 0..a {
                let is_bad = entropy.fraction() < *bad;
                for (from, to) in [(a, b), (b, a)] {
                    let ((x1, y1), (x2, y2)) = (places[from], places[to]);
                    let distance = (x1 - x2).hypot(y1 - y2) / std::f64::consts::SQRT_2;
                    let cell = matrix.as_ref().and_then(|rows| rows.get(from)?.get(to)).copied();
                    let mut this = Way { latency: cell.unwrap_or(way.latency + spread.mul_f64(distance)), ..*way };
                    if is_bad {
                        this.latency += worse.latency;
                        this.jitter += worse.jitter;
                        this.loss = (this.loss + worse.loss).min(1.0);
                    }
                    network.ways.insert((from, to), this);
                }
            }
        }
    }

    /// Whom each host is told of at its start.
    pub fn target_lists(&self, entropy: &Entropy) -> Vec<Vec<HostId>> {
        let count = self.peers.len();
        let others = |id: HostId| (0..count).filter(move |other| *other != id).collect();
        match &self.targets {
            Targets::All => (0..count).map(others).collect(),
            Targets::First => (0..count).map(|id| if id == 0 { Vec::new() } else { vec![0] }).collect(),
            Targets::Listed(lists) => lists.clone(),
            Targets::Earlier => (0..count).map(|id| self.earlier(id, entropy)).collect(),
        }
    }

    fn earlier(&self, id: HostId, entropy: &Entropy) -> Vec<HostId> {
        let open = |id: &HostId| !self.is_behind_nat(*id);
        let mut before: Vec<_> = (0..id).filter(open).collect();
        if before.is_empty() {
            // All before it are behind NATs: the first that is not, which is told of nobody.
            before.extend((id + 1..self.peers.len()).find(open).filter(|_| !open(&id)));
        }
        let mut targets = Vec::new();
        while targets.len() < 2 && !before.is_empty() {
            let pick = (entropy.fraction() * before.len() as f64) as usize;
            targets.push(before.swap_remove(pick.min(before.len() - 1)));
        }
        targets
    }

    /// Where host `id` is told to connect to others.
    pub(super) fn targets_of(lists: &[Vec<HostId>], id: HostId) -> Vec<crate::node::input::Target> {
        lists.get(id).into_iter().flatten().map(|other| Simulation::target(*other)).collect()
    }
}

#[cfg(test)]
mod tests;
