//! Builds the plan for the kernel's fast path from links and stations, and remembers stations for a while that vanished
//! from the table: their peer's router may just be away.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::links::Links;
use crate::{
    fastdp::Plan,
    id::{Mac, PeerName},
    switch::table::Table,
    time::Time,
};

/// A station that vanished from the table of a peer that is carried stays planned so long: a router that was started anew
/// tells of its stations one after the other.
const LINGER: Duration = Duration::from_secs(5);
/// After our own start, what an earlier run left in the kernel is not taken away from peers that have yet to prove
/// themselves: until then their stations are not planned at all, which leaves them as they are.
const ADOPT: Duration = Duration::from_secs(15);

/// The planner.
#[derive(Debug, Default)]
pub(super) struct Planner {
    last: Arc<Plan>,
    /// Stations that are not in the table any more, and when they go.
    lingering: BTreeMap<Mac, (PeerName, Time)>,
    is_stale: bool,
    planned_at: Option<Time>,
}

impl Planner {
    /// Something changed that the plan depends on.
    pub(super) fn invalidate(&mut self) {
        self.is_stale = true;
    }

    /// When the plan changes by itself.
    pub(super) fn deadline(&self) -> Option<Time> {
        let due = self.planned_at.filter(|at| *at < adopted()).map(|_| adopted());
        self.lingering.values().map(|(_, until)| *until).chain(due).min()
    }

    /// The plan, if it is another than the last.
    pub(super) fn update(&mut self, links: &Links, table: &Table, now: Time) -> Option<Arc<Plan>> {
        let is_due = self.deadline().is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.is_stale) && !is_due {
            return None;
        }
        self.planned_at = Some(now);
        let mut plan = Plan::default();
        let mut held = BTreeMap::new();
        for (peer, planned, fast) in links.plans() {
            if let Some(until) = fast.hold_until() {
                held.insert(peer, until);
            }
            plan.peers.insert(peer, planned);
        }
        plan.stations = table.stations().collect();
        self.linger(&mut plan, table, &held, now);
        plan.stations.retain(|_, peer| now >= adopted() || links.has_judged(*peer));
        if plan == *self.last {
            return None;
        }
        self.last = Arc::new(plan);
        Some(Arc::clone(&self.last))
    }

    /// Keeps vanished stations of carried peers in the plan.
    fn linger(&mut self, plan: &mut Plan, table: &Table, held: &BTreeMap<PeerName, Time>, now: Time) {
        let is_carried = |peer: &PeerName| plan.peers.get(peer).is_some_and(|planned| planned.carries);
        for (mac, peer) in &self.last.stations {
            if is_carried(peer) && table.owner(*mac).is_none() {
                let until = held.get(peer).copied().unwrap_or(now).max(now + LINGER);
                self.lingering.entry(*mac).or_insert((*peer, until));
            }
        }
        self.lingering.retain(|mac, (peer, until)| now < *until && is_carried(peer) && table.owner(*mac).is_none());
        plan.stations.extend(self.lingering.iter().map(|(mac, (peer, _))| (*mac, *peer)));
    }
}

fn adopted() -> Time {
    Time::ZERO + ADOPT
}
