//! What belongs to nobody gets an owner: the space of members that were removed, and what was lost on its way.
//!
//! Whoever reclaims asks all other members. Each that owns nothing of it consents, and takes nothing of it from others
//! until the reclaim is over. When all consented nobody can own any of it, and the one who asked does.
//!
//! ```text
//!  heir: reclaim(number, members, removed, ranges) ──▶ others: remove the removed, own nothing of it ─▶ consent(number)
//!  heir: all consented ─▶ owns it, with a later epoch ─▶ over(number) ──▶ others: forget the promise
//! ```
//! A member that the heir does not know is known to the one who vouched for it, who does not consent before the heir
//! knows it, too. Of two reclaims that overlap the later one is withdrawn before its heir consents to the earlier one.

use std::time::Duration;

use super::{
    AddressEvent, Ipam,
    entry::{Epoch, Key, MEMBERS_MAX, MemberId, PARTS_MAX, REMOVED_MAX, Reclaim, Standing},
    range::Range,
    state::Promise,
    world::World,
};
use crate::id::PeerName;

/// How long space is nobody's before somebody who was not asked to takes it over.
const ORPHAN_AFTER: Duration = Duration::from_secs(10);
/// Space that is nobody's is looked for no more often than this, and only after something was heard.
const SEARCH: Duration = Duration::from_secs(1);

impl Ipam {
    /// Consents to what others reclaim; whether anything changed.
    pub(super) fn consent(&mut self, world: World<'_>) -> bool {
        if !self.full {
            return false;
        }
        let heirs: Vec<PeerName> = self.reclaimers.iter().copied().collect();
        let mut changed = false;
        for heir in heirs {
            let (Some(reclaim), Some(member)) = (world.reclaim(heir), world.member(heir)) else { continue };
            let id = MemberId { name: heir, life: member.life };
            let is_open = member.standing == Standing::Full && member.reclaims_over < reclaim.number;
            if !is_open || !self.state.is_known(id) {
                continue;
            }
            for member in &reclaim.removed {
                self.hear_removed(*member);
            }
            let is_promised = self.state.promises.get(&heir).is_some_and(|promise| promise.number >= reclaim.number);
            if !self.full || is_promised || !self.agrees(id, reclaim) {
                continue;
            }
            let Reclaim { number, ranges, removed, .. } = reclaim.clone();
            let promise = Promise { life: id.life, number, ranges, removed };
            self.state.promises.insert(heir, promise);
            self.changed();
            changed = true;
        }
        changed
    }

    /// Whether nothing that we know speaks against a reclaim.
    fn agrees(&mut self, heir: MemberId, reclaim: &Reclaim) -> bool {
        let is_listed = |member: MemberId| reclaim.members.binary_search(&member).is_ok();
        let others = self.state.known.keys().filter(|name| **name != heir.name);
        let all_listed = others.filter_map(|name| self.known_id(*name)).all(is_listed);
        if !all_listed || !is_listed(self.own_id()) || reclaim.ranges.iter().any(|range| self.state.holds_any(*range)) {
            return false;
        }
        let rival = self.state.reclaim.as_ref().filter(|own| own.ranges.iter().any(|range| reclaim.overlaps(*range)));
        if let Some(own) = rival {
            if own.precedence(self.name) < reclaim.precedence(heir.name) {
                return false;
            }
            self.withdraw();
        }
        true
    }

    /// Gives up our reclaim.
    fn withdraw(&mut self) {
        self.state.reclaim = None;
        self.changed();
    }

    /// Goes on with our reclaim, or begins one if it is our turn; whether anything changed.
    pub(super) fn pursue_reclaim(&mut self, world: World<'_>) -> bool {
        if !self.full {
            return false;
        }
        let Some(reclaim) = self.state.reclaim.clone() else { return self.begin_reclaim(world) };
        let is_outdated = reclaim.members != self.members() || reclaim.removed != self.unsettled();
        if is_outdated || self.is_taken(&reclaim, world) {
            self.withdraw();
            self.begin_reclaim(world);
            return true;
        }
        if self.without_consent(&reclaim, world).is_empty() {
            self.finish(&reclaim);
            return true;
        }
        false
    }

    fn finish(&mut self, reclaim: &Reclaim) {
        for range in &reclaim.ranges {
            self.state.own(*range, reclaim.epoch);
        }
        for member in &reclaim.removed {
            self.state.bury(*member, true);
        }
        let addresses = reclaim.ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.len()));
        self.reclaimed_for(reclaim, addresses);
        if addresses > 0 {
            self.happened(AddressEvent::Reclaimed { addresses });
        }
        self.orphans_since = None;
        self.state.reclaim = None;
        self.state.reclaimed = reclaim.number;
        self.changed();
    }

    /// Whether somebody says that it has some of what we reclaim: it will not consent.
    fn is_taken(&mut self, reclaim: &Reclaim, world: World<'_>) -> bool {
        if !self.is_search_due() {
            return false;
        }
        let orphans = self.orphans(world);
        let free = |range: &Range| orphans.within(*range).map(|(part, ())| part.len()).sum::<u128>();
        reclaim.ranges.iter().any(|range| free(range) < range.len())
    }

    /// Begins a reclaim, if there is something to take over and nobody else is at it.
    fn begin_reclaim(&mut self, world: World<'_>) -> bool {
        let is_asked = self.is_removal_pending();
        if !self.state.promises.is_empty() || !(is_asked || (self.is_first(world) && self.is_search_due())) {
            return false;
        }
        let removed = self.unsettled();
        let ranges: Vec<Range> = if removed.is_empty() && !self.may_look_for_orphans(world) {
            Vec::new()
        } else {
            self.orphans(world).ranges().take(PARTS_MAX).collect()
        };
        if removed.is_empty() && ranges.is_empty() {
            self.orphans_since = None;
            return false;
        }
        let at = *self.orphans_since.get_or_insert(self.now) + ORPHAN_AFTER;
        if !is_asked && at > self.now {
            self.look_at(at);
            return false;
        }
        let epochs = self.state.known.keys().flat_map(|name| world.claims(*name)).chain(self.state.claims.iter());
        let rivals = self.reclaimers.iter().filter_map(|peer| world.reclaim(*peer)).map(|other| other.epoch);
        let epoch = epochs.map(|(_, epoch)| epoch).chain(rivals).max().unwrap_or_default();
        self.state.reclaims += 1;
        let number = self.state.reclaims;
        let epoch = Epoch(epoch.0.saturating_add(1));
        self.state.reclaim = Some(Reclaim { number, epoch, members: self.members(), removed, ranges });
        self.changed();
        true
    }

    /// Whether we are the first by name of those that are there: what nobody was asked for is for one to do.
    fn is_first(&self, world: World<'_>) -> bool {
        let mut earlier = self.state.known.range(..self.name).filter_map(|(name, _)| self.known_id(*name));
        !earlier.any(|id| world.is_there(id))
    }

    /// Whether to look again for space that nobody owns, for which all that everybody says is read.
    fn is_search_due(&mut self) -> bool {
        let ripe_at = self.orphans_since.map(|since| since + ORPHAN_AFTER);
        // Only the nearest time to look at is kept: each look names the later ones anew.
        ripe_at.into_iter().for_each(|at| self.look_at(at));
        let is_worth_it = self.is_unsearched || ripe_at.is_some_and(|at| at <= self.now);
        let due = self.searched_at.map_or(self.now, |at| at + SEARCH);
        if is_worth_it && due > self.now {
            self.look_at(due);
        }
        if !is_worth_it || due > self.now {
            return false;
        }
        (self.is_unsearched, self.searched_at) = (false, Some(self.now));
        true
    }

    /// Space that nobody claims is looked for only when all are heard: members that are not may own it.
    fn may_look_for_orphans(&self, world: World<'_>) -> bool {
        self.state.known.keys().filter_map(|name| self.known_id(*name)).all(|id| world.is_heard(id))
    }

    /// Others whose consent a reclaim takes, in order.
    fn members(&self) -> Vec<MemberId> {
        self.state.known.keys().filter_map(|name| self.known_id(*name)).take(MEMBERS_MAX).collect()
    }

    /// The dead whose space has not been taken over, as many as go into one reclaim.
    pub(super) fn unsettled(&self) -> Vec<MemberId> {
        let unsettled = self.state.removed.iter().filter(|(_, grave)| !grave.settled);
        unsettled.map(|(member, _)| *member).take(REMOVED_MAX).collect()
    }

    /// Members that did not consent yet.
    pub(super) fn without_consent(&self, reclaim: &Reclaim, world: World<'_>) -> Vec<MemberId> {
        let consents = |member: &MemberId| {
            world.id(member.name) == Some(*member)
                && world.number(member.name, Key::Consent(self.name), self.state.life) == Some(reclaim.number)
        };
        reclaim.members.iter().filter(|member| !consents(member)).copied().collect()
    }
}
