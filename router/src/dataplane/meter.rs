//! The data plane's counters, read without stopping it: each thread puts a copy of its own up now and then.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use weft::{
    drops::DropCounts,
    plane::{Counters, Plane},
};

use super::stages::Stages;

/// Reads the counters of all threads, at most a tenth of a second old while traffic flows; cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter(Vec<Gauge>);

/// What was counted since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Drops by reason, traffic by peer.
    pub counters: Counters,
    /// What the workers' stages did.
    pub stages: Stages,
    /// How long the thread, or all of them together, has worked.
    pub worked: Duration,
}

/// One thread's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<ArcSwap<Reading>>);

impl Meter {
    /// A meter of one gauge.
    pub(super) fn new(gauge: Gauge) -> Self {
        Self(vec![gauge])
    }

    /// Sums this gauge too.
    pub(super) fn add(&mut self, gauge: Gauge) {
        self.0.push(gauge);
    }

    /// How long each worker has worked since the start, on average. The first gauge is that of the control task.
    pub fn worked(&self) -> Duration {
        let worked: Duration = self.0.iter().map(|gauge| gauge.0.load().worked).sum();
        worked / u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX).max(1)
    }

    /// What all threads counted since the start.
    pub fn read(&self) -> Reading {
        let mut sums = Reading::default();
        for gauge in &self.0 {
            let Reading { counters, stages, worked } = &**gauge.0.load();
            sums.counters.add(counters);
            sums.stages.add(stages);
            sums.worked += *worked;
        }
        sums
    }
}

impl Gauge {
    /// Puts up what `plane` and its driver counted since the start.
    pub(super) fn publish(&self, plane: &Plane, drops: &DropCounts, stages: &Stages, worked: Duration) {
        let mut counters = plane.counters().clone();
        counters.drops.add(drops);
        self.0.store(Arc::new(Reading { counters, stages: stages.clone(), worked }));
    }
}
