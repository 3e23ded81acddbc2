//! What the fast datapath counts, for metrics.

use std::collections::BTreeMap;

use weft_host::xfrm::{LaneCount, XfrmCounters};

/// Counters of the kernel, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FastCounts {
    /// Each lane of each peer and direction that is in use.
    pub(crate) lanes: Vec<LaneCount>,
    /// Packets that the kernel's IPsec refused since we started, by the kernel's name for the cause.
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

impl FastCounts {
    /// Takes in a look at the lanes and what was refused since the last.
    pub(super) fn add(&mut self, lanes: Vec<LaneCount>, refused: &XfrmCounters) {
        self.lanes = lanes;
        for counter in &refused.0 {
            *self.refused.entry(counter.name).or_default() += counter.packets;
        }
    }
}
