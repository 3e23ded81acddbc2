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
            let promise = Promise { life: id.life, number: reclaim.number, ranges: reclaim.ranges.clone() };
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
        let unsettled = self.unsettled();
        let members = self.members();
        let is_taken = |range: Range| {
            let orphans = self.orphans(world);
            orphans.within(range).map(|(part, ())| part.len()).sum::<u128>() < range.len()
        };
        if reclaim.members != members || reclaim.removed != unsettled || reclaim.ranges.iter().any(|r| is_taken(*r)) {
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
        self.changed();
    }

    /// Begins a reclaim, if there is something to take over and nobody else is at it.
    fn begin_reclaim(&mut self, world: World<'_>) -> bool {
        let removed = self.unsettled();
        let is_asked = self.is_removal_pending();
        if removed.is_empty() && !self.may_look_for_orphans(world) {
            self.orphans_since = None;
            return false;
        }
        if !self.state.promises.is_empty() {
            return false;
        }
        let ranges: Vec<Range> = self.orphans(world).ranges().take(PARTS_MAX).collect();
        if removed.is_empty() && ranges.is_empty() {
            self.orphans_since = None;
            return false;
        }
        let since = *self.orphans_since.get_or_insert(self.now);
        let is_first = self
            .state
            .known
            .keys()
            .filter_map(|name| self.known_id(*name))
            .all(|id| id.name > self.name || !world.is_there(id));
        let at = since + ORPHAN_AFTER;
        if !is_asked && (!is_first || at > self.now) {
            if at > self.now {
                self.look_at(at);
            }
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
