//! The data plane's counters, read without stopping it: each thread puts a copy of its own up now and then.

use std::sync::Arc;

use arc_swap::ArcSwap;
use weft::{
    drops::DropCounts,
    plane::{Counters, Plane},
};

/// Reads the counters of all threads, at most a tenth of a second old while traffic flows; cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter(Vec<Gauge>);

/// One thread's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<ArcSwap<Counters>>);

impl Meter {
    /// A meter of one gauge.
    pub(super) fn new(gauge: Gauge) -> Self {
        Self(vec![gauge])
    }

    /// Sums this gauge too.
    pub(super) fn add(&mut self, gauge: Gauge) {
        self.0.push(gauge);
    }

    /// What all threads counted since the start: drops by reason, traffic by peer.
    pub fn read(&self) -> Counters {
        let mut sums = Counters::default();
        for gauge in &self.0 {
            sums.add(&gauge.0.load());
        }
        sums
    }
}

impl Gauge {
    /// Puts up what `plane` and its driver counted since the start.
    pub(super) fn publish(&self, plane: &Plane, driver: &DropCounts) {
        let mut counters = plane.counters().clone();
        counters.drops.add(driver);
        self.0.store(Arc::new(counters));
    }
}
