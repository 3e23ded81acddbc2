//! What we tell others: always what follows from the state, so nothing is ever forgotten to be told or taken back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Ipam, IpamOutput,
    entry::{self, Key, Life, Member, MemberId, Standing, Value},
    world::World,
};
use crate::id::PeerName;

/// So many say what all know: one would do if none ever fell silent.
const SPOKESMEN: usize = 3;

/// The life that these entries are of.
fn life_of(entries: &BTreeMap<Key, Value>) -> Option<Life> {
    if let Value::Member(member) = entries.get(&Key::Member)? { Some(member.life) } else { None }
}

impl Ipam {
    /// Tells what changed since last told.
    pub(super) fn publish(&mut self, world: World<'_>) {
        self.set_free();
        let entries = self.entries(world);
        if entries != self.published {
            // What an earlier line of ours said is no word of this one: whoever hears who we are now has heard that it is void.
            if life_of(&self.published).is_some_and(|earlier| !earlier.is_of_line(self.state.life)) {
                let void = std::mem::take(&mut self.published);
                self.outputs.extend(void.into_keys().map(IpamOutput::Unset));
            }
            // What is new goes first: space is told as given before it is told as owned no more.
            let set = entries.iter().filter(|(key, value)| self.published.get(key) != Some(value));
            self.outputs.extend(set.map(|(key, value)| IpamOutput::Set(*key, value.clone())));
            let gone = self.published.keys().filter(|key| !entries.contains_key(key));
            self.outputs.extend(gone.map(|key| IpamOutput::Unset(*key)));
            self.published = entries;
        }
        let ghosts: Vec<PeerName> = self.ghosts.iter().copied().collect();
        for ghost in ghosts.into_iter().filter(|ghost| !world.reachable.contains(ghost)) {
            let is_settled = world.id(ghost).and_then(|id| self.state.removed.get(&id)).is_some_and(|g| g.settled);
            if is_settled {
                self.ghosts.remove(&ghost);
                self.outputs.push_back(IpamOutput::Forget(ghost));
            }
        }
    }

    /// Follows how much is free, coarsely: told are bits of the count, and more only if it is clearly more, so that
    /// giving out single addresses is nobody else's business.
    fn set_free(&mut self) {
        for (told, free) in self.free.iter_mut().zip(self.state.free()) {
            let bits = |count: u128| u8::try_from(u128::BITS - count.leading_zeros()).unwrap_or(u8::MAX);
            let (now, surely) = (bits(free), bits(free - free / 4));
            if now < *told || surely > *told || (now > *told && free < 4) {
                *told = now;
            }
        }
    }

    fn entries(&self, world: World<'_>) -> BTreeMap<Key, Value> {
        let state = &self.state;
        let mut entries: BTreeMap<Key, Value> = entry::claims(&state.claims).collect();
        let number = |life: Life, number: u64| Value::Number { life, number };
        entries.insert(Key::Member, Value::Member(self.member()));
        entries.extend(state.gifts.iter().map(|(to, gift)| (Key::Gift(*to), Value::Gift(gift.clone()))));
        let receipts = self.receipts(world).into_iter();
        entries.extend(receipts.map(|(to, taken)| (Key::Receipt(to.name), number(to.life, taken))));
        let refusals = self.refusals.iter().filter(|(peer, _)| self.wanters.contains(peer));
        entries.extend(refusals.map(|(peer, (life, want))| (Key::Refusal(*peer), number(*life, *want))));
        let promises = state.promises.iter();
        entries.extend(promises.map(|(to, promise)| (Key::Consent(*to), number(promise.life, promise.number))));
        entries.extend(self.vouches(world).into_iter().map(|(peer, vouch)| (Key::Vouch(peer), Value::Vouch(vouch))));
        if let Some(reclaim) = &state.reclaim {
            entries.insert(Key::Reclaim, Value::Reclaim(reclaim.clone()));
        }
        for (peer, lives) in self.told_dead(world) {
            entries.insert(Key::Removed(peer), Value::Lives(lives));
        }
        for id in self.told_members(world) {
            entries.insert(Key::Knows(id.name), Value::Lives(vec![id.life]));
        }
        if let Some(universe) = state.universe.as_ref().filter(|_| !self.unfounded.is_empty()) {
            entries.insert(Key::Founding, Value::Founding(universe.founders.clone()));
        }
        entries
    }

    /// Members that others may not hear of by themselves: whom we vouch for, as it may fall silent before it is heard to be a
    /// member, and who asks us in a new line; whom somebody who reclaims does not know; and who is not heard at all.
    fn told_members(&self, world: World<'_>) -> BTreeSet<MemberId> {
        if !self.full {
            return BTreeSet::new();
        }
        let asks_us = |peer: &&PeerName| {
            world.member(**peer).and_then(Member::asking).is_some_and(|asking| asking.asked.contains(&self.name))
        };
        let asking = self.seekers.iter().filter(asks_us).filter_map(|peer| self.known_id(*peer));
        let unlisted = self.reclaimers.iter().flat_map(|heir| self.unlisted(*heir, world));
        let is_silent = |id: &MemberId| world.member(id.name).is_none();
        let all = || self.state.known.keys().filter_map(|name| self.known_id(*name));
        let silent = self.is_spokesman(world).then(|| all().filter(is_silent)).into_iter().flatten();
        asking.chain(unlisted).chain(silent).collect()
    }

    /// Members without which a peer reclaims.
    fn unlisted(&self, heir: PeerName, world: World<'_>) -> Vec<MemberId> {
        let Some(reclaim) = world.reclaim(heir) else { return Vec::new() };
        if self.state.promises.get(&heir).is_some_and(|promise| promise.number >= reclaim.number) {
            return Vec::new();
        }
        let is_unlisted = |id: &MemberId| id.name != heir && reclaim.members.binary_search(id).is_err();
        self.state.known.keys().filter_map(|name| self.known_id(*name)).filter(is_unlisted).collect()
    }

    /// Whether we are one of the few, first by name, who tell what all know to those who do not.
    fn is_spokesman(&self, world: World<'_>) -> bool {
        let earlier = self.state.known.range(..self.name).filter_map(|(name, _)| self.known_id(*name));
        self.full && earlier.filter(|id| world.is_there(*id)).take(SPOKESMEN).count() < SPOKESMEN
    }

    /// The dead that somebody may not know of: those whose space is not taken over yet, unless another member says so;
    /// those that seem to live; and, until we are a member, earlier lives of our own.
    fn told_dead(&self, world: World<'_>) -> BTreeMap<PeerName, Vec<Life>> {
        let is_told = |dead: &MemberId| self.tellers.range(..self.name).any(|(_, told)| told.contains(dead));
        let unsettled = self.unsettled().into_iter().filter(|dead| !is_told(dead)).map(|dead| dead.name);
        let is_spokesman = self.is_spokesman(world);
        let has_left = |ghost: PeerName| world.member(ghost).is_some_and(|member| member.standing == Standing::Left);
        let seem_to_live = |ghost: &&PeerName| is_spokesman && world.reachable.contains(*ghost) && !has_left(**ghost);
        let seeming = self.ghosts.iter().filter(seem_to_live).copied();
        // Whoever takes us for an earlier one has missed its end, though it be settled, and admits no later one before.
        let own = (!self.full && !self.state.lives_over(self.name).is_empty()).then_some(self.name);
        let names: BTreeSet<PeerName> = unsettled.chain(seeming).chain(own).collect();
        let recent = |name: PeerName| {
            let mut lives = self.state.lives_over(name);
            let grave = |life: &Life| self.state.removed.get(&MemberId { name, life: *life });
            lives.sort_by_key(|life| grave(life).map(|grave| (grave.settled, std::cmp::Reverse(grave.order))));
            lives.truncate(entry::LIVES_MAX);
            (name, lives)
        };
        names.into_iter().map(recent).collect()
    }

    fn member(&self) -> Member {
        let state = &self.state;
        let is_open = u64::from(state.reclaim.is_some());
        Member {
            life: state.life,
            nickname: self.nickname.clone(),
            ranges: state.ranges.clone(),
            universe: state.universe.as_ref().map(|universe| universe.id),
            standing: self.standing(),
            waiting: self.is_waiting(),
            version: state.version,
            free: self.free,
            want: self.quest.as_ref().filter(|_| self.full).and_then(super::giving::Quest::want),
            reclaims_over: state.reclaims - is_open,
            reclaimed: state.reclaimed,
        }
    }

    fn standing(&self) -> Standing {
        if self.state.universe.is_none() {
            return match self.state.elector.clone().filter(|_| self.config.init.elects()) {
                Some(elector) => Standing::Elector(elector),
                None => Standing::Observer,
            };
        }
        if self.state.left {
            Standing::Left
        } else if self.full {
            Standing::Full
        } else if self.state.admitted.is_some() {
            Standing::Returning(self.asking())
        } else {
            Standing::Joining(self.asking())
        }
    }
}
