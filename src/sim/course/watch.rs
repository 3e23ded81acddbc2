//! Watches a simulation: who reaches whom and since when, which paths are taken and left, and what is sent for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    HostId, Simulation,
    outcome::{Load, Phase, Stretch, Worst},
};
use crate::{
    id::{Nickname, PeerName},
    node::output::Event,
    switch::forwarding::Route,
};

/// When nothing has happened for so long, all is as it stays: timers for peers that are gone have run out.
const CALM_AFTER: Duration = Duration::from_secs(30);

/// A path at the end of a phase.
#[derive(Debug)]
pub(super) struct PathSeen {
    pub(super) from: HostId,
    pub(super) to: HostId,
    /// The network has a path.
    pub(super) exists: bool,
    /// The relays of the one chosen, if it leads there.
    pub(super) way: Option<Vec<HostId>>,
    /// The time on it.
    pub(super) time: Option<Duration>,
    /// The time on the best.
    pub(super) best: Option<Duration>,
}

/// How it stands for an ordered pair.
#[derive(Clone, Copy, Debug)]
enum Standing {
    /// It has not had a path since both run.
    New,
    /// It has a path, or the network has none.
    Well,
    /// It lost its path, at this time, in this phase.
    Lost { at_ms: u64, phase: u32 },
}

/// The path from one host to a peer, and those left.
#[derive(Clone, Debug, Default)]
struct Choice {
    now: Option<Vec<PeerName>>,
    left: BTreeSet<Vec<PeerName>>,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Watch {
    count: usize,
    pairs: Vec<Standing>,
    choices: BTreeMap<(HostId, PeerName), Choice>,
    phases: Vec<Phase>,
    began: Duration,
    disturbed: Duration,
    /// Bytes that each had sent: when the phase began, and when it became calm.
    sent: Vec<u64>,
    calm: Option<(Duration, Vec<u64>)>,
}

impl Watch {
    pub(super) fn new(count: usize) -> Self {
        Self {
            count,
            pairs: vec![Standing::New; count * count],
            choices: BTreeMap::new(),
            phases: Vec::new(),
            began: Duration::ZERO,
            disturbed: Duration::ZERO,
            sent: vec![0; count],
            calm: None,
        }
    }

    /// A phase begins.
    pub(super) fn begin(&mut self, sim: &Simulation, now: Duration, event: String) {
        self.phases.push(Phase { at_ms: millis(now), event, ..Phase::default() });
        self.began = now;
        self.disturbed(now);
        self.sent = sent(sim);
    }

    /// Something happened to the network: paths that change now do so for a reason.
    pub(super) fn disturbed(&mut self, now: Duration) {
        self.disturbed = now;
        self.calm = None;
        self.choices.values_mut().for_each(|choice| choice.left.clear());
    }

    /// A router is gone, and knows nothing when it comes again.
    pub(super) fn down(&mut self, id: HostId) {
        for other in 0..self.count {
            self.pairs[id * self.count + other] = Standing::New;
            self.pairs[other * self.count + id] = Standing::New;
        }
        self.choices.retain(|(host, _), _| *host != id);
    }

    /// How it stands for a pair now.
    pub(super) fn pair(&mut self, from: HostId, to: HostId, exists: bool, reaches: bool, now: Duration) {
        let standing = &mut self.pairs[from * self.count + to];
        let phase = self.phases.len().saturating_sub(1);
        match *standing {
            Standing::New if reaches => *standing = Standing::Well,
            Standing::Well if exists && !reaches => {
                *standing = Standing::Lost { at_ms: millis(now), phase: u32::try_from(phase).unwrap_or(u32::MAX) };
            }
            Standing::Lost { at_ms, phase } if reaches || !exists => {
                *standing = Standing::Well;
                self.lost(phase, millis(now) - at_ms);
            }
            Standing::New | Standing::Well | Standing::Lost { .. } => {}
        }
    }

    fn lost(&mut self, phase: u32, length_ms: u64) {
        if let Some(phase) = usize::try_from(phase).ok().and_then(|phase| self.phases.get_mut(phase)) {
            phase.gaps.count(length_ms);
        }
    }

    /// All pairs were looked at.
    pub(super) fn looked(&mut self, sim: &mut Simulation, all_reach_all: bool, now: Duration) {
        let is_calm = now >= self.disturbed + CALM_AFTER;
        if is_calm && self.calm.is_none() {
            self.calm = Some((now, sent(sim)));
        }
        let Some(phase) = self.phases.last_mut() else { return };
        if all_reach_all && phase.settled_ms.is_none() {
            phase.settled_ms = Some(millis(now - self.began));
        }
        for id in 0..self.count {
            for event in sim.take_events(id) {
                let Event::PathChanged { peer, route, .. } = event else { continue };
                let path = route.map(|route| match route {
                    Route::Direct(_) => Vec::new(),
                    Route::Relayed(relays) => relays,
                });
                let choice = self.choices.entry((id, peer)).or_default();
                // A peer that moved is still direct.
                if choice.now == path {
                    continue;
                }
                phase.changes += 1;
                phase.calm_changes += u64::from(is_calm);
                phase.flaps += u64::from(path.as_ref().is_some_and(|path| choice.left.contains(path)));
                choice.left.extend(choice.now.take());
                choice.now = path;
            }
        }
    }

    /// A phase ends.
    pub(super) fn end(
        &mut self,
        sim: &Simulation,
        names: &[Nickname],
        running: &[bool],
        paths: &[PathSeen],
        now: Duration,
    ) {
        let Some(phase) = self.phases.last_mut() else { return };
        phase.pairs_parted = paths.iter().filter(|path| !path.exists).count();
        phase.pairs_without_path = paths.iter().filter(|path| path.exists && path.way.is_none()).count();
        phase.stretch = stretch(paths, names);
        let now_sent = sent(sim);
        // What a router sends counts from its start on.
        let rate = |(before, after): (&u64, &u64), span: Duration| {
            let bytes = after.checked_sub(*before).unwrap_or(*after);
            bytes as f64 / span.as_secs_f64().max(1e-3)
        };
        let rates = |since: Duration, before: &[u64]| {
            let all = before.iter().zip(&now_sent).zip(running).filter(|(_, runs)| **runs);
            Load::of(&all.map(|(bytes, _)| rate(bytes, now - since)).collect::<Vec<_>>())
        };
        phase.bytes_per_second = rates(self.began, &self.sent);
        let calm = self.calm.as_ref().filter(|(since, _)| *since < now);
        phase.calm_bytes_per_second = calm.map(|(since, before)| rates(*since, before));
        let connections = (0..self.count).filter(|id| running[*id]).map(|id| sim.connection_count(id) as f64);
        phase.connections = Load::of(&connections.collect::<Vec<_>>());
    }

    /// All is over.
    pub(super) fn finish(mut self, now: Duration) -> Vec<Phase> {
        for standing in std::mem::take(&mut self.pairs) {
            if let Standing::Lost { at_ms, phase } = standing {
                self.lost(phase, millis(now) - at_ms);
            }
        }
        self.phases
    }
}

fn sent(sim: &Simulation) -> Vec<u64> {
    (0..sim.host_count()).map(|id| sim.sent(id).1).collect()
}

/// How much longer the chosen paths are than the best.
fn stretch(paths: &[PathSeen], names: &[Nickname]) -> Option<Stretch> {
    let ratio = |path: &PathSeen| {
        let (time, best) = (path.time?, path.best?);
        Some(time.as_secs_f64() / best.as_secs_f64().max(1e-6))
    };
    let mut all: Vec<(f64, &PathSeen)> = paths.iter().filter_map(|path| Some((ratio(path)?, path))).collect();
    // Of equals the first pair comes last, and so is the one told of.
    all.sort_by(|(a, one), (b, other)| a.total_cmp(b).then((other.from, other.to).cmp(&(one.from, one.to))));
    let (max, worst) = *all.last()?;
    let at = |share: f64| all.get((share * all.len() as f64).ceil() as usize - 1).map_or(max, |(ratio, _)| *ratio);
    let name = |id: HostId| names.get(id).map(ToString::to_string).unwrap_or_default();
    let in_millis = |time: Option<Duration>| thousandth(time.unwrap_or_default().as_secs_f64() * 1000.0);
    Some(Stretch {
        pairs: all.len(),
        median: thousandth(at(0.5)),
        p99: thousandth(at(0.99)),
        max: thousandth(max),
        worst: Worst {
            from: name(worst.from),
            to: name(worst.to),
            by: worst.way.iter().flatten().map(|relay| name(*relay)).collect(),
            time_ms: in_millis(worst.time),
            best_ms: in_millis(worst.best),
        },
    })
}

fn thousandth(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(from: HostId, to: HostId, way: &[HostId], time: u64, best: u64) -> PathSeen {
        let millis = |millis| Some(Duration::from_millis(millis));
        PathSeen { from, to, exists: true, way: Some(way.to_vec()), time: millis(time), best: millis(best) }
    }

    #[test]
    fn stretch_is_the_time_over_the_best() {
        let names: Vec<Nickname> = ["a", "b", "c"].iter().map(|name| name.parse().unwrap()).collect();
        let lost = PathSeen { way: None, time: None, ..seen(2, 1, &[], 0, 10) };
        let paths = [seen(0, 1, &[], 20, 20), seen(0, 2, &[1], 33, 30), seen(1, 2, &[], 90, 30), lost];
        let stretch = stretch(&paths, &names).unwrap();
        assert_eq!((stretch.pairs, stretch.median, stretch.p99, stretch.max), (3, 1.1, 3.0, 3.0));
        let worst = Worst { from: "b".into(), to: "c".into(), by: vec![], time_ms: 90.0, best_ms: 30.0 };
        assert_eq!(stretch.worst, worst);
    }

    #[test]
    fn a_gap_is_from_a_path_lost_to_one_found_while_there_is_one() {
        let mut watch = Watch::new(2);
        watch.begin(&Simulation::new(1), Duration::ZERO, String::new());
        let mut at = 0;
        let mut see = |watch: &mut Watch, exists, reaches| {
            at += 100;
            watch.pair(0, 1, exists, reaches, Duration::from_millis(at));
        };
        // Not yet found: no gap. Found, lost for 200 ms, found; the network has none: no gap; lost for 100 ms until the end.
        for (exists, reaches) in [(true, false), (true, true), (true, false), (true, false), (true, true)] {
            see(&mut watch, exists, reaches);
        }
        for (exists, reaches) in [(false, false), (false, false), (true, false)] {
            see(&mut watch, exists, reaches);
        }
        let phases = watch.finish(Duration::from_millis(900));
        assert_eq!((phases[0].gaps.count, phases[0].gaps.longest_ms, phases[0].gaps.total_ms), (2, 200, 300));
    }
}
