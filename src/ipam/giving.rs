//! Space changes its owner: asked for, given, taken.
//!
//! ```text
//!  asker                          donor
//!  want ─────────────────────────▶ has some: gives it up, then says so
//!  owns it, then says so ◀──────── gift
//!  receipt ──────────────────────▶ gift is forgotten
//! ```
//! A gift is never taken back, and its number makes sure that it is taken once. So from the moment it is stored as given
//! until the receiver has stored it as owned it is nobody's to give out, and somebody who lives can tell of it.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Ipam,
    entry::{Gift, Key, MemberId, PARTS_MAX, Want},
    range::{Range, RangeMap, RangeSet},
    world::World,
};
use crate::{id::PeerName, time::Time};

/// A donor that does not answer for this long is passed over.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often a quest that found nothing is begun anew.
const ANEW: Duration = Duration::from_millis(500);

/// Holes in others' space are given back no more often than this.
const TIDY: Duration = Duration::from_secs(1);
/// A hole is at most this part of its owner's space.
const SMALL: u128 = 8;

/// The search for space that somebody else owns.
#[derive(Clone, Debug)]
pub(super) struct Quest {
    /// The request that it is for; None for an address that is in use here already.
    pub(super) request: Option<u64>,
    /// Where.
    pub(super) range: Range,
    /// All of it.
    pub(super) whole: bool,
    asked: Option<(Want, Time)>,
    tried: BTreeSet<PeerName>,
    /// All have been tried once: space may have gone from one not yet asked to one asked already.
    again: bool,
    retry_at: Option<Time>,
    /// Owners that could not be asked when all others had been.
    absent: Vec<PeerName>,
}

/// How a quest goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Somebody is asked, or will be.
    Asking,
    /// The owner of a single address does not give it.
    Refused(PeerName),
    /// Nobody has any.
    Nothing,
    /// None of those that can be asked has any.
    Unreachable(Vec<PeerName>),
}

impl Quest {
    pub(super) fn new(request: Option<u64>, range: Range, whole: bool) -> Self {
        Self {
            request,
            range,
            whole,
            asked: None,
            tried: BTreeSet::new(),
            again: false,
            retry_at: None,
            absent: Vec::new(),
        }
    }

    /// As it is told.
    pub(super) fn want(&self) -> Option<Want> {
        self.asked.map(|(want, _)| want)
    }
}

impl Ipam {
    /// Goes on with the search.
    pub(super) fn seek(&mut self, quest: &mut Quest, world: World<'_>) -> Progress {
        if let Some((want, since)) = quest.asked {
            let refused = world.number(want.donor, Key::Refusal(self.name), self.state.life) == Some(want.number);
            let is_there = self.known_id(want.donor).is_some_and(|id| world.is_there(id));
            if !refused && is_there && self.now.since(since) < ANSWER_WITHIN {
                self.look_at(since + ANSWER_WITHIN);
                return Progress::Asking;
            }
            quest.asked = None;
            quest.tried.insert(want.donor);
            if refused && quest.whole {
                return Progress::Refused(want.donor);
            }
        }
        if let Some(at) = quest.retry_at.filter(|at| *at > self.now) {
            self.look_at(at);
            return Progress::Unreachable(quest.absent.clone());
        }
        quest.retry_at = None;
        if let Some(donor) = self.donor(quest, world) {
            return self.ask(quest, donor);
        }
        if !quest.again {
            quest.again = true;
            quest.tried.clear();
            if let Some(donor) = self.donor(quest, world) {
                return self.ask(quest, donor);
            }
        }
        let absent = self.absent_owners(quest.range, world);
        if absent.is_empty() && !self.is_somebodys_way(quest.range, world) {
            return Progress::Nothing;
        }
        quest.tried.clear();
        quest.retry_at = Some(self.now + ANEW);
        self.look_at(self.now + ANEW);
        quest.absent.clone_from(&absent);
        Progress::Unreachable(absent)
    }

    fn ask(&mut self, quest: &mut Quest, donor: PeerName) -> Progress {
        let want = Want { number: self.entropy.number(), donor, range: quest.range, whole: quest.whole };
        quest.asked = Some((want, self.now));
        self.look_at(self.now + ANSWER_WITHIN);
        Progress::Asking
    }

    /// Begins the same search again with the same donor, who gave something that is used up already.
    pub(super) fn renew(&mut self, quest: &mut Quest) {
        if let Some((want, _)) = quest.asked {
            self.ask(quest, want.donor);
        }
    }

    pub(super) fn known_id(&self, name: PeerName) -> Option<MemberId> {
        self.state.known.get(&name).map(|known| MemberId { name, life: known.life })
    }

    /// Somebody to ask, at random, rather one who has much.
    fn donor(&self, quest: &Quest, world: World<'_>) -> Option<PeerName> {
        let owners = self.state.known.keys().filter_map(|name| {
            let id = self.known_id(*name).filter(|id| world.is_there(*id) && !quest.tried.contains(name))?;
            world.claims(id.name).any(|(range, _)| range.intersection(quest.range).is_some()).then_some(())?;
            let bits = world.member(id.name)?.free[usize::from(!quest.range.is_ipv4())];
            (bits > 0 || quest.whole).then(|| (id.name, 2_f64.powi(i32::from(bits))))
        });
        let owners: Vec<(PeerName, f64)> = owners.collect();
        let total: f64 = owners.iter().map(|(_, weight)| weight).sum();
        let mut point = self.entropy.fraction() * total;
        let chosen = owners.iter().find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        chosen.or(owners.last()).map(|(name, _)| *name)
    }

    /// Members that own some of a range, or may, and cannot be asked.
    pub(super) fn absent_owners(&self, range: Range, world: World<'_>) -> Vec<PeerName> {
        let is_absent = |name: &PeerName| {
            let Some(id) = self.known_id(*name) else { return false };
            let is_heard = world.is_heard(id);
            let owns = || world.claims(*name).any(|(claim, _)| claim.intersection(range).is_some());
            !world.is_there(id) && (!is_heard || owns())
        };
        self.state.known.keys().copied().filter(is_absent).collect()
    }

    /// Whether some of a range is on its way to an owner, or will get one.
    fn is_somebodys_way(&self, range: Range, world: World<'_>) -> bool {
        self.orphans(world).overlaps(range)
            || self.state.known.keys().any(|peer| {
                let mut gifts = world.gifts(*peer);
                gifts.any(|(to, gift)| {
                    to == self.name && gift.ranges.iter().any(|(given, _)| given.intersection(range).is_some())
                })
            })
    }

    /// Gives to those who want something of us, or refuses; whether anything changed.
    pub(super) fn answer_wants(&mut self, world: World<'_>) -> bool {
        if !self.full {
            return false;
        }
        let wanters: Vec<PeerName> = self.wanters.iter().copied().collect();
        let mut changed = false;
        for peer in wanters {
            let Some(member) = world.member(peer) else { continue };
            let Some(want) = member.want.filter(|want| want.donor == self.name) else { continue };
            let id = MemberId { name: peer, life: member.life };
            let is_answered = self.answered.get(&peer) == Some(&want.number);
            if is_answered || self.state.gifts.contains_key(&peer) || !world.is_there(id) || !self.state.is_known(id) {
                continue;
            }
            self.answered.insert(peer, want.number);
            let part = if want.whole { self.whole(want.range) } else { self.state.spare(want.range) };
            match part {
                Some((range, epoch)) => self.give(id, want.number, vec![(range, epoch)]),
                None => {
                    self.refusals.insert(peer, (id.life, want.number));
                }
            }
            changed = true;
        }
        changed
    }

    /// Gives a range that is free and small beside all that is ours to whoever has a larger one beside it, so that single
    /// addresses that were asked for do not leave holes for ever. There is a range less after each such gift. What is sought may have
    /// come a moment ago, and is not given to who asked yet.
    pub(super) fn tidy(&mut self, world: World<'_>) -> bool {
        if !self.full || self.state.claims.len() < 2 || !self.state.gifts.is_empty() {
            return false;
        }
        if let Some(due) = self.tidied_at.map(|at| at + TIDY).filter(|due| *due > self.now) {
            self.look_at(due);
            return false;
        }
        self.tidied_at = Some(self.now);
        let there = self.state.known.keys().filter_map(|name| self.known_id(*name)).filter(|id| world.is_there(*id));
        let mut owners: RangeMap<PeerName> = RangeMap::default();
        for id in there {
            world.claims(id.name).for_each(|(range, _)| owners.insert(range, id.name));
        }
        let total = self.state.claims.addresses();
        let hole = self.state.claims.iter().find_map(|(range, epoch)| {
            let before = range.first.checked_sub(1).and_then(|at| owners.get(at));
            let after = range.last.checked_add(1).and_then(|at| owners.get(at));
            let (beside, owner) = before.into_iter().chain(after).max_by_key(|(beside, _)| beside.len())?;
            // Of equal ones the first by name is the larger, so that two never give to each other at once.
            let is_smaller = (range.len(), owner) < (beside.len(), self.name);
            let is_sought = self.quest.as_ref().is_some_and(|quest| quest.range.intersection(range).is_some());
            let is_small = is_smaller && range.len() <= total / SMALL && !is_sought;
            (is_small && self.state.allotments.count(range) == 0).then_some((range, epoch, owner))
        });
        let Some((range, epoch, owner)) = hole else { return false };
        let Some(owner) = self.known_id(owner) else { return false };
        self.give(owner, 0, vec![(range, epoch)]);
        self.look_at(self.now + TIDY);
        true
    }

    /// A range of ours, if nobody has an address of it.
    fn whole(&self, range: Range) -> Option<(Range, super::entry::Epoch)> {
        let (owned, epoch) = self.state.claims.get(range.first)?;
        (owned.includes(range) && self.state.allotments.count(range) == 0).then_some((range, epoch))
    }

    /// Gives ranges of ours away.
    pub(super) fn give(&mut self, to: MemberId, want: u64, ranges: Vec<(Range, super::entry::Epoch)>) {
        if !self.state.is_known(to) {
            return;
        }
        self.state.given += 1;
        let (by, number) = (self.state.life, self.state.given);
        ranges.iter().for_each(|(range, _)| self.state.claims.remove(*range));
        self.state.gifts.insert(to.name, Gift { by, life: to.life, number, want, ranges });
        self.changed();
    }

    /// Gives all that is ours to one who is there; None if there is nobody, false if nothing is left to give.
    pub(super) fn give_all(&mut self, world: World<'_>) -> Option<bool> {
        if self.state.claims.is_empty() {
            return Some(false);
        }
        let there = |name: &PeerName| {
            self.known_id(*name).filter(|id| world.is_there(*id) && !self.state.gifts.contains_key(name))
        };
        let heir = self.state.known.keys().filter_map(there).max_by_key(|id| world.member(id.name).map(|m| m.free))?;
        let ranges: Vec<_> = self.state.claims.iter().take(PARTS_MAX).collect();
        self.give(heir, 0, ranges);
        Some(true)
    }

    /// Takes what was given to us; whether there was anything.
    pub(super) fn take_gifts(&mut self, world: World<'_>) -> bool {
        if !self.full {
            return false;
        }
        let givers: Vec<PeerName> = self.givers.iter().copied().collect();
        let mut changed = false;
        for peer in givers {
            let Some(gift) = self.gift_of(peer, world) else { continue };
            let is_known = world.id(peer).is_some_and(|id| self.state.is_known(id));
            let is_void = self.state.is_removed(MemberId { name: self.name, life: gift.life });
            let is_new = self.state.known.get(&peer).is_some_and(|known| gift.number > known.taken);
            let is_promised = |range: Range| {
                let own = self.state.reclaim.as_ref().is_some_and(|reclaim| reclaim.overlaps(range));
                let promises = self.state.promises.values().flat_map(|promise| &promise.ranges);
                own || promises.into_iter().any(|promised| promised.intersection(range).is_some())
            };
            if !is_known || is_void || !is_new || gift.ranges.iter().any(|(range, _)| is_promised(*range)) {
                continue;
            }
            for (range, epoch) in gift.ranges.clone() {
                let inside = self.state.ranges.iter().any(|whole| whole.includes(range));
                if inside && !self.state.holds_any(range) {
                    self.state.own(range, epoch);
                }
            }
            if let Some(known) = self.state.known.get_mut(&peer) {
                known.taken = gift.number;
            }
            let is_wanted = self.quest.as_ref().and_then(Quest::want).is_some_and(|want| want.number == gift.want);
            if is_wanted && let Some(mut quest) = self.quest.take() {
                self.renew(&mut quest);
                self.quest = Some(quest);
            }
            self.changed();
            changed = true;
        }
        changed
    }

    /// What a peer gives us, if it is of the line that the peer lives, and to the line that we live.
    fn gift_of<'a>(&self, peer: PeerName, world: World<'a>) -> Option<&'a Gift> {
        let id = world.id(peer)?;
        let is_current = |gift: &&Gift| gift.by.is_of_line(id.life) && gift.life.is_of_line(self.state.life);
        world.gift(peer, self.name).filter(is_current)
    }

    /// Gifts that we have, to be told to those who gave them until they know.
    pub(super) fn receipts(&self, world: World<'_>) -> Vec<(MemberId, u64)> {
        let receipt = |peer: &PeerName| {
            let gift = self.gift_of(*peer, world)?;
            let id = world.id(*peer)?;
            let taken = self.state.known.get(peer).filter(|known| known.life.is_of_line(id.life))?.taken;
            (taken >= gift.number).then_some((id, taken))
        };
        self.givers.iter().filter_map(receipt).collect()
    }

    /// What no member owns, as far as they say: members that are not heard may own any of it.
    pub(super) fn orphans(&self, world: World<'_>) -> RangeSet {
        let mut rest = RangeSet::of(self.state.ranges.iter().copied());
        self.state.claims.iter().for_each(|(range, _)| rest.remove(range));
        let is_void = |to: PeerName, gift: &Gift| self.state.is_removed(MemberId { name: to, life: gift.life });
        let own = self.state.gifts.iter().filter(|(to, gift)| !is_void(**to, gift));
        own.flat_map(|(_, gift)| &gift.ranges).for_each(|(range, _)| rest.remove(*range));
        for id in self.state.known.keys().filter_map(|name| self.known_id(*name)) {
            if !world.is_heard(id) {
                continue;
            }
            world.claims(id.name).for_each(|(range, _)| rest.remove(range));
            for (to, gift) in world.gifts(id.name) {
                if !is_void(to, gift) {
                    gift.ranges.iter().for_each(|(range, _)| rest.remove(*range));
                }
            }
        }
        rest
    }
}
