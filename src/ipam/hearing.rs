//! What follows from what another peer says.

use super::{
    AddressEvent, Ipam,
    entry::{Key, Member, MemberId, Standing, Value},
    state::{Promise, Universe},
    world::World,
};
use crate::id::PeerName;

impl Ipam {
    /// Looks at all that a peer says.
    pub(super) fn hear(&mut self, peer: PeerName, world: World<'_>) {
        if peer == self.name {
            return;
        }
        let sets = [
            &mut self.unfounded,
            &mut self.seekers,
            &mut self.wanters,
            &mut self.givers,
            &mut self.reclaimers,
            &mut self.ghosts,
        ];
        sets.into_iter().for_each(|set| {
            set.remove(&peer);
        });
        self.foreign.remove(&peer);
        self.tellers.remove(&peer);
        let Some(member) = world.member(peer) else { return };
        if self.is_foreign(peer, member) {
            return;
        }
        if member.universe.is_none() {
            self.unfounded.insert(peer);
            return;
        }
        if self.state.universe.is_none() && !self.adopt(peer, world) {
            return;
        }
        let id = MemberId { name: peer, life: member.life };
        self.hear_of_lives(id, member, world);
        self.hear_member(id, member);
        if self.state.is_removed(id) {
            self.ghosts.insert(peer);
            return;
        }
        self.hear_answers(id, member, world);
    }

    /// Whether a peer belongs to another universe, which is then reported.
    fn is_foreign(&mut self, peer: PeerName, member: &Member) -> bool {
        let own = self.state.universe.as_ref().map(|universe| universe.id);
        let reason = if member.ranges != self.state.ranges {
            "it was launched with another --ipalloc-range: launch all peers with the same"
        } else if own.is_some() && member.universe.is_some() && own != member.universe {
            "its addresses were founded apart from ours: reset (`weft reset`) and launch again all peers of one side, \
             best the smaller one"
        } else {
            return false;
        };
        self.foreign.insert(peer, reason.to_owned());
        if self.reported.insert((member.universe, member.ranges.clone())) {
            self.happened(AddressEvent::Conflict { peer, reason: reason.to_owned() });
        }
        true
    }

    /// Joins the universe of a peer, if it says how that was founded.
    fn adopt(&mut self, peer: PeerName, world: World<'_>) -> bool {
        let id = world.member(peer).and_then(|member| member.universe);
        let founders = world.founders(peer).map(|founders| Universe::founded(&self.state.ranges, founders));
        let Some(universe) = founders.filter(|universe| Some(universe.id) == id) else { return false };
        // One who took part in the election since it started is a founder at once: it may be the only one.
        self.found(universe, !self.was_kept);
        // What was heard before had no universe to compare with.
        let others: Vec<PeerName> = world.entries.origins().filter(|other| *other != peer).collect();
        others.into_iter().for_each(|other| self.hear(other, world));
        true
    }

    /// Which lives are over and which peers are members, as a peer says.
    fn hear_of_lives(&mut self, by: MemberId, member: &Member, world: World<'_>) {
        let is_full = member.standing == Standing::Full && !self.state.is_removed(by);
        for (key, value) in world.entries.of(by.name) {
            let Value::Lives(lives) = value else { continue };
            for life in lives {
                if let Key::Removed(name) = key
                    && (is_full || *name == by.name)
                {
                    let dead = MemberId { name: *name, life: *life };
                    self.hear_removed(dead);
                    if is_full {
                        self.tellers.entry(by.name).or_default().insert(dead);
                    }
                } else if let Key::Knows(name) = key
                    && is_full
                {
                    self.hear_known(MemberId { name: *name, life: *life });
                }
            }
        }
    }

    /// Somebody is dead, it is said.
    pub(super) fn hear_removed(&mut self, member: MemberId) {
        let own = self.own_id();
        let is_own = member.name == own.name && member.life.is_of_line(own.life);
        // Whoever was acknowledged after it was declared dead goes on, but takes no gift to the life that is over.
        if is_own && self.state.left {
            return;
        }
        if is_own && self.state.admitted.is_none_or(|since| member.life >= since) {
            self.fence("other peers declared it dead and may have taken over its addresses");
        } else if !self.state.is_removed(member) {
            self.state.bury(member, false);
            if member.name != own.name {
                self.happened(AddressEvent::Removed { peer: member.name });
            }
            self.changed();
        }
    }

    /// Somebody is a member, it is said.
    fn hear_known(&mut self, member: MemberId) {
        if member.name == self.name {
            // An earlier life of ours, of which we know nothing, or nothing any more: we say that it is over.
            if !member.life.is_of_line(self.state.life) && !self.state.is_removed(member) {
                self.state.bury(member, false);
                self.changed();
            }
        } else {
            self.admit(member);
        }
    }

    /// Takes a member into the list, unless its life is over or another life of it is there.
    pub(super) fn admit(&mut self, member: MemberId) -> bool {
        if member.name == self.name || self.state.is_removed(member) {
            return false;
        }
        let has_room = self.state.known.len() < super::entry::MEMBERS_MAX;
        match self.state.known.get_mut(&member.name) {
            Some(known) if known.life.is_of_line(member.life) && known.life < member.life => known.life = member.life,
            Some(_) => return self.state.is_known(member),
            None if has_room => {
                self.state.welcome(member);
            }
            None => return false,
        }
        self.unkept = true;
        true
    }

    fn hear_member(&mut self, id: MemberId, member: &Member) {
        match member.standing {
            Standing::Full => {
                let earlier = self.known_id(id.name).filter(|earlier| !earlier.life.is_of_line(id.life));
                if let Some(earlier) = earlier.filter(|_| !self.state.is_removed(id)) {
                    // Whoever vouched for the new life had its word that the old one is over.
                    self.hear_removed(earlier);
                }
                self.admit(id);
            }
            Standing::Joining(_) => {
                self.admit(id);
            }
            Standing::Left => {
                if self.state.is_known(id) {
                    self.state.bury(id, true);
                    self.changed();
                }
            }
            Standing::Returning(_) | Standing::Observer | Standing::Elector(_) => {}
        }
        if let Some(known) = self.state.known.get_mut(&id.name).filter(|known| known.life.is_of_line(id.life)) {
            known.version = known.version.max(member.version);
            known.nickname = Some(member.nickname.clone());
        }
    }

    /// What a peer says to us.
    fn hear_answers(&mut self, id: MemberId, member: &Member, world: World<'_>) {
        let peer = id.name;
        if member.asking().is_some_and(|asking| asking.asked.is_empty() || asking.asked.contains(&self.name)) {
            self.seekers.insert(peer);
        }
        if member.want.is_some_and(|want| want.donor == self.name) {
            self.wanters.insert(peer);
        }
        if world.gift(peer, self.name).is_some() {
            self.givers.insert(peer);
        }
        if world.reclaim(peer).is_some() {
            self.reclaimers.insert(peer);
        }
        let receipt = world.number(peer, Key::Receipt(self.name), self.state.life);
        let is_there =
            self.state.gifts.get(&peer).is_some_and(|gift| {
                gift.life.is_of_line(id.life) && receipt.is_some_and(|number| number >= gift.number)
            });
        if is_there {
            self.state.gifts.remove(&peer);
            self.changed();
        }
        let is_over = |promise: &Promise| promise.life.is_of_line(id.life) && member.reclaims_over >= promise.number;
        if self.state.promises.get(&peer).is_some_and(is_over)
            && let Some(promise) = self.state.promises.remove(&peer)
        {
            // All know of these dead, and what they had is somebody's.
            let settled = promise.removed.into_iter().filter(|_| promise.number == member.reclaimed);
            settled.for_each(|dead| self.state.bury(dead, true));
            self.changed();
        }
    }
}
