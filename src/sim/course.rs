//! The course of a scenario: routers are started, the network changes in time, and what comes of it is watched.
//!
//! ```text
//!   Scenario ──▶ Course ──advance──▶ Simulation        (real routers in virtual time)
//!                  │  └──looks at──▶ routes, bytes, connections ──▶ Watch ──▶ Outcome
//!                  └──reckons──────▶ Optimum           (what the network would allow)
//! ```

mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use watch::Watch;

use super::{
    HostId, Simulation,
    optimum::Optimum,
    outcome::Outcome,
    scenario::{Change, Happening, Scenario, ScenarioError},
};
use crate::{
    crypto::{identity::Identity, session::Cipher},
    entropy::Entropy,
    id::{NetworkName, PeerName, Uid},
    node::{NodeConfig, input::Input},
    secret::NetworkSecret,
    switch::forwarding::Route,
};

/// How often it is looked at; less often where there is much to see, as that takes longer than the simulation.
const INTERVAL: Duration = Duration::from_millis(100);
const INTERVAL_MANY: Duration = Duration::from_millis(500);
/// From so many peers on.
const MANY: usize = 300;

/// A scenario on its way.
#[derive(Debug)]
pub struct Course {
    scenario: Scenario,
    sim: Simulation,
    entropy: Entropy,
    configs: Vec<NodeConfig>,
    ids: BTreeMap<PeerName, HostId>,
    agenda: VecDeque<Step>,
    /// Whether each router runs.
    running: Vec<bool>,
    optimum: Optimum,
    watch: Watch,
    look_at: Duration,
    interval: Duration,
}

/// Something to be done.
#[derive(Clone, Debug)]
struct Step {
    at: Duration,
    /// What it is called; None for churn, which does not begin a phase.
    words: Option<String>,
    change: Change,
}

impl Course {
    /// All routers are started.
    ///
    /// # Errors
    /// If the scenario is incomplete or beyond a bound.
    pub fn new(scenario: Scenario) -> Result<Self, ScenarioError> {
        scenario.check()?;
        let count = scenario.peers.len();
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&scenario.seed.to_le_bytes());
        let entropy = Entropy::seeded(seed);
        let mut sim = Simulation::new(scenario.seed);
        sim.network = scenario.network(&entropy);
        let lists = scenario.target_lists(&entropy);
        let configs: Vec<_> = (0..count).map(|id| config(&scenario, &entropy, &lists, id)).collect();
        for config in &configs {
            // Clocks run up to 500 ppm fast or slow.
            sim.add(config.clone(), 1.0 + (entropy.fraction() - 0.5) / 1000.0);
        }
        let ids = (0..count).map(|id| (sim.name(id), id)).collect();
        let mut course = Self {
            agenda: agenda(&scenario, &entropy),
            watch: Watch::new(count),
            running: vec![true; count],
            optimum: Optimum::default(),
            look_at: Duration::ZERO,
            interval: if count < MANY { INTERVAL } else { INTERVAL_MANY },
            scenario,
            sim,
            entropy,
            configs,
            ids,
        };
        course.reckon();
        course.watch.begin(&course.sim, Duration::ZERO, "start".to_owned());
        Ok(course)
    }

    /// What is simulated.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Goes on until the next change or look; how far it is then, None when it is over.
    pub fn advance(&mut self) -> Option<Duration> {
        let end = self.scenario.span;
        let now = self.now();
        if now >= end {
            return None;
        }
        let change = self.agenda.front().map_or(end, |step| step.at);
        let next = change.min(self.look_at).min(end).max(now);
        self.sim.run(next - now);
        self.change(next);
        if next >= self.look_at || next == end {
            self.look(next);
            self.look_at = next + self.interval;
        }
        Some(next)
    }

    /// What came of it so far.
    pub fn outcome(mut self) -> Outcome {
        let now = self.now();
        self.end_phase(now);
        let mut outcome = Outcome {
            peers: self.scenario.peers.len(),
            seed: self.scenario.seed,
            simulated_s: now.as_secs_f64(),
            resolution_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            phases: self.watch.finish(now),
            expectations: Vec::new(),
        };
        outcome.judge(&self.scenario);
        outcome
    }

    fn now(&self) -> Duration {
        self.sim.now().since(crate::time::Time::ZERO)
    }

    /// Does what is to be done now.
    fn change(&mut self, now: Duration) {
        let mut words = Vec::new();
        let mut is_changed = false;
        while let Some(step) = self.agenda.pop_front_if(|step| step.at <= now) {
            if step.words.is_some() && words.is_empty() {
                self.end_phase(now);
            }
            words.extend(step.words);
            self.alter(&step.change);
            is_changed = true;
        }
        if !is_changed {
            return;
        }
        self.reckon();
        self.watch.disturbed(now);
        if !words.is_empty() {
            self.watch.begin(&self.sim, now, words.join("; "));
            self.look_at = now;
        }
    }

    fn alter(&mut self, change: &Change) {
        let count = self.running.len();
        change.alter(&mut self.sim.network, count);
        match change {
            Change::Crash(ids) | Change::Stop(ids) => {
                for &id in ids.iter().filter(|id| self.running[**id]) {
                    if matches!(change, Change::Stop(_)) {
                        self.sim.tell(id, Input::Leave);
                    }
                    self.sim.kill(id);
                    self.watch.down(id);
                }
                ids.iter().for_each(|id| self.running[*id] = false);
            }
            Change::Restart(ids) => {
                for &id in ids {
                    self.configs[id].uid = Uid(self.entropy.number());
                    self.sim.restart(id, self.configs[id].clone());
                    self.watch.down(id);
                    self.running[id] = true;
                }
            }
            Change::Cut(..) | Change::Heal(_) | Change::Partition(_) | Change::Link(..) | Change::Forget(_) => {}
        }
    }

    /// Reckons what the network allows now.
    fn reckon(&mut self) {
        let may_link = |a: HostId, b: HostId| self.running[a] && self.running[b] && self.scenario.may_link(a, b);
        self.optimum = Optimum::new(&self.sim.network, self.running.len(), may_link);
    }

    /// Looks at all pairs.
    fn look(&mut self, now: Duration) {
        let count = self.running.len();
        let mut lacks = 0;
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let exists = self.optimum.exists(from, to);
                let reaches = exists && self.reaches(from, to);
                lacks += usize::from(exists && !reaches);
                self.watch.pair(from, to, exists, reaches, now);
            }
        }
        self.watch.looked(&mut self.sim, lacks == 0, now);
    }

    /// The relays on the way of a frame, if it arrives.
    fn way(&self, from: HostId, to: HostId) -> Option<Vec<HostId>> {
        let peer = self.sim.name(to);
        match self.sim.route(from, peer)? {
            Route::Direct(address) => (self.sim.lands(from, *address) == Some(to)).then(Vec::new),
            Route::Relayed(relays) => {
                let relays: Vec<_> = relays.iter().map(|relay| self.ids.get(relay).copied()).collect::<Option<_>>()?;
                let mut at = from;
                for next in relays.iter().copied().chain([to]) {
                    if !self.is_neighbour(at, next) {
                        return None;
                    }
                    at = next;
                }
                Some(relays)
            }
        }
    }

    fn reaches(&self, from: HostId, to: HostId) -> bool {
        self.way(from, to).is_some()
    }

    /// Whether a packet that is to go straight from one host to another does.
    fn is_neighbour(&self, from: HostId, to: HostId) -> bool {
        let address = self.sim.straight(from, self.sim.name(to));
        address.and_then(|address| self.sim.lands(from, address)) == Some(to)
    }

    fn end_phase(&mut self, now: Duration) {
        let count = self.running.len();
        let mut paths = Vec::new();
        for from in (0..count).filter(|id| self.running[*id]) {
            for to in (0..count).filter(|to| *to != from && self.running[*to]) {
                let exists = self.optimum.exists(from, to);
                let way = if exists { self.way(from, to) } else { None };
                paths.push(watch::PathSeen {
                    from,
                    to,
                    exists,
                    time: way.as_ref().and_then(|relays| self.time(from, relays, to)),
                    way,
                    best: self.optimum.best(from, to),
                });
            }
        }
        self.watch.end(&self.sim, &self.scenario.peers, &self.running, &paths, now);
    }

    /// The time on a path.
    fn time(&self, from: HostId, relays: &[HostId], to: HostId) -> Option<Duration> {
        let mut at = from;
        relays.iter().chain([&to]).map(|next| self.optimum.link(std::mem::replace(&mut at, *next), *next)).sum()
    }
}

fn config(scenario: &Scenario, entropy: &Entropy, lists: &[Vec<HostId>], id: HostId) -> NodeConfig {
    let network = NetworkName::default();
    NodeConfig {
        version: "simulated".to_owned(),
        identity: Identity::generate(entropy),
        secret: NetworkSecret::open(&network),
        network,
        nickname: scenario.peers[id].clone(),
        uid: Uid(entropy.number()),
        port: crate::wire::DEFAULT_PORT,
        conn_limit: scenario.conn_limit,
        discovery: scenario.discovery,
        relay: true,
        trusted_subnets: Vec::new(),
        rekey_after: crate::link::keys::REKEY_AFTER,
        targets: Scenario::targets_of(lists, id),
        allocation: None,
        cipher: Cipher::Aes256Gcm,
        // Wall clocks are up to a day apart.
        started: 1_700_000_000 + entropy.number() % 86_400,
    }
}

/// All that is to be done, in the order of time.
fn agenda(scenario: &Scenario, entropy: &Entropy) -> VecDeque<Step> {
    let step = |Happening { at, words, change }: &Happening| Step {
        at: *at,
        words: Some(words.clone()),
        change: change.clone(),
    };
    let mut steps: Vec<_> = scenario.happenings.iter().map(step).collect();
    if let Some(churn) = scenario.churn {
        let mut at = Duration::ZERO;
        loop {
            // As often as said on average, and never regularly.
            at += churn.every.mul_f64(0.5 + entropy.fraction());
            if at >= scenario.span {
                break;
            }
            let id = (entropy.fraction() * scenario.peers.len() as f64) as usize;
            steps.push(Step { at, words: None, change: Change::Crash(vec![id]) });
            steps.push(Step { at: at + churn.down, words: None, change: Change::Restart(vec![id]) });
        }
    }
    steps.sort_by_key(|step| step.at);
    steps.into()
}

#[cfg(test)]
mod tests;
