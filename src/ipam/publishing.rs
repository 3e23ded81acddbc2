//! What we tell others: always what follows from the state, so nothing is ever forgotten to be told or taken back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Ipam, IpamOutput,
    entry::{self, Key, Life, Member, MemberId, Standing, Value},
    world::World,
};
use crate::id::PeerName;

impl Ipam {
    /// Tells what changed since last told.
    pub(super) fn publish(&mut self, world: World<'_>) {
        self.set_free();
        let entries = self.entries(world);
        if entries != self.published {
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
        for (peer, lives) in self.told_dead() {
            entries.insert(Key::Removed(peer), Value::Lives(lives));
        }
        for id in state.known.keys().filter_map(|name| self.known_id(*name)) {
            // Whoever was acknowledged and is not heard to have taken that up is a member nevertheless.
            if world.id(id.name) != Some(id) || world.member(id.name).is_some_and(|m| m.standing != Standing::Full) {
                entries.insert(Key::Knows(id.name), Value::Lives(vec![id.life]));
            }
        }
        if let Some(universe) = state.universe.as_ref().filter(|_| !self.unfounded.is_empty()) {
            entries.insert(Key::Founding, Value::Founding(universe.founders.clone()));
        }
        entries
    }

    /// The dead that somebody may not know of: those whose space is not taken over yet, those that seem to live, and
    /// earlier lives of our own.
    fn told_dead(&self) -> BTreeMap<PeerName, Vec<Life>> {
        let unsettled: BTreeSet<PeerName> = self.unsettled().iter().map(|member| member.name).collect();
        let names = unsettled.into_iter().chain(self.ghosts.iter().copied());
        let recent = |name: PeerName| {
            let mut lives = self.state.lives_over(name);
            let order = |life: &Life| self.state.removed.get(&MemberId { name, life: *life }).map(|grave| grave.order);
            lives.sort_by_key(|life| std::cmp::Reverse(order(life)));
            lives.truncate(entry::LIVES_MAX);
            (name, lives)
        };
        names.map(recent).collect()
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
