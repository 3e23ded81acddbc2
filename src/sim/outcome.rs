//! What came of a simulation, in figures: `weft sim --json` prints this; keys are told of in `docs/simulator.md`.

use serde::Serialize;

use super::scenario::Scenario;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// How many peers there are.
    pub peers: usize,
    /// The seed.
    pub seed: u64,
    /// Time simulated, in seconds.
    pub simulated_s: f64,
    /// How often it was looked at, in milliseconds: no time told here is more exact.
    pub resolution_ms: u64,
    /// The start and each event, with what came of it until the next.
    pub phases: Vec<Phase>,
    /// What was expected.
    pub expectations: Vec<Expectation>,
}

/// From one event to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Phase {
    /// When it began, in milliseconds.
    pub at_ms: u64,
    /// With what.
    pub event: String,
    /// After how long all reached all for whom there was a path, in milliseconds; None if they did not.
    pub settled_ms: Option<u64>,
    /// Pairs that had a path and then, with one in the network, had none.
    pub gaps: Gaps,
    /// Ordered pairs without a path at the end, though there is one.
    pub pairs_without_path: usize,
    /// Ordered pairs for which the network has no path at the end.
    pub pairs_parted: usize,
    /// Changes of paths.
    pub changes: u64,
    /// Those when nothing had happened for 30 s.
    pub calm_changes: u64,
    /// Paths taken again that were left before, though nothing had happened to the network between.
    pub flaps: u64,
    /// Chosen paths against the best, at the end.
    pub stretch: Option<Stretch>,
    /// Bytes that a peer sent in a second, but for headers of IP, UDP and TCP.
    pub bytes_per_second: Load,
    /// The same when nothing had happened for 30 s; None if there is no such time.
    pub calm_bytes_per_second: Option<Load>,
    /// Control connections of a peer at the end.
    pub connections: Load,
}

/// Times without a path, while there is one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// How many, of ordered pairs.
    pub count: u64,
    /// The longest, in milliseconds, also if it went on beyond the phase.
    pub longest_ms: u64,
    /// All together, in milliseconds.
    pub total_ms: u64,
}

/// Times on chosen paths, there and back and with 200 ms for each loss, over those on the best ones with at most two relays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// Ordered pairs that have both.
    pub pairs: usize,
    /// Of half of them, at most.
    pub median: f64,
    /// Of 99 % of them, at most.
    pub p99: f64,
    /// Of all.
    pub max: f64,
    /// The pair with the most.
    pub worst: Worst,
}

/// A pair whose path is long.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worst {
    /// From whom.
    pub from: String,
    /// To whom.
    pub to: String,
    /// By whom, in order; nobody when direct.
    pub by: Vec<String>,
    /// The time on it, in milliseconds.
    pub time_ms: f64,
    /// The time on the best path.
    pub best_ms: f64,
}

/// Something that each peer has some of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// The average.
    pub mean: f64,
    /// The most.
    pub most: f64,
}

/// Something that was expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Expectation {
    /// What, as the scenario has it.
    pub what: &'static str,
    /// At most this: milliseconds for times.
    pub at_most: f64,
    /// What it was; None if it never came, or cannot be told.
    pub was: Option<f64>,
    /// Whether that is well.
    pub met: bool,
}

impl Outcome {
    /// Whether all is as expected.
    pub fn is_as_expected(&self) -> bool {
        self.expectations.iter().all(|expectation| expectation.met)
    }

    /// Holds what came against what `scenario` expects.
    pub(super) fn judge(&mut self, scenario: &Scenario) {
        let expect = &scenario.expect;
        let (start, later) = self.phases.split_at(self.phases.len().min(1));
        let all = &self.phases[..];
        let times = [
            ("settled", expect.settled, slowest(start)),
            ("settled_after_change", expect.settled_after_change, slowest(later)),
            ("longest_gap", expect.longest_gap, most(all, |phase| Some(phase.gaps.longest_ms as f64))),
        ];
        let times = times.map(|(what, at_most, was)| (what, at_most.map(|span| span.as_secs_f64() * 1000.0), was));
        let stretch = |figure: fn(&Stretch) -> f64| most(all, move |phase| phase.stretch.as_ref().map(figure));
        let sum = |count: fn(&Phase) -> u64| Some(all.iter().map(count).sum::<u64>() as f64);
        let calm = most(all, |phase| phase.calm_bytes_per_second.map(|load| load.mean));
        let others = [
            ("bytes_per_second", expect.bytes_per_second.map(|bytes| bytes as f64), calm),
            (
                "connections",
                expect.connections.map(|count| count as f64),
                most(all, |phase| Some(phase.connections.most)),
            ),
            ("flaps", expect.flaps.map(|count| count as f64), sum(|phase| phase.flaps)),
            ("calm_changes", expect.calm_changes.map(|count| count as f64), sum(|phase| phase.calm_changes)),
            ("stretch_median", expect.stretch_median, stretch(|stretch| stretch.median)),
            ("stretch_p99", expect.stretch_p99, stretch(|stretch| stretch.p99)),
            ("stretch_max", expect.stretch_max, stretch(|stretch| stretch.max)),
        ];
        let judged = times.into_iter().chain(others).filter_map(|(what, at_most, was)| {
            let at_most = at_most?;
            Some(Expectation { what, at_most, was, met: was.is_some_and(|was| was <= at_most) })
        });
        self.expectations = judged.collect();
    }
}

/// How long the slowest phase took to settle, in milliseconds; None if one never did. No phase is settled at once.
fn slowest(phases: &[Phase]) -> Option<f64> {
    phases.iter().try_fold(0.0, |most: f64, phase| Some(most.max(phase.settled_ms? as f64)))
}

fn most(phases: &[Phase], figure: impl Fn(&Phase) -> Option<f64>) -> Option<f64> {
    phases.iter().filter_map(figure).reduce(f64::max)
}

impl Load {
    /// Of what each has.
    pub(super) fn of(each: &[f64]) -> Self {
        let most = each.iter().copied().fold(0.0, f64::max);
        Self { mean: tenth(each.iter().sum::<f64>() / each.len().max(1) as f64), most: tenth(most) }
    }
}

impl Gaps {
    pub(super) fn count(&mut self, length_ms: u64) {
        self.count += 1;
        self.longest_ms = self.longest_ms.max(length_ms);
        self.total_ms += length_ms;
    }
}

fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
