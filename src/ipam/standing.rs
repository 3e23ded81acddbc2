//! Whether we are a full member: how one becomes it, and how one ceases to be.
//!
//! Whoever joins or returns asks some full members. Those know whether its life was declared over meanwhile, and
//! whether it told more than it has stored; whoever joins is known to them from then on. Where there is no full member
//! because all were stopped, it takes all of them together to go on. Nobody gives anything out before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    AddressEvent, Ipam,
    entry::{Asking, Life, Member, MemberId, Standing, Verdict, Vouch},
    state::State,
    world::World,
};
use crate::{entropy::Entropy, id::PeerName, time::Time};

/// How many full members are asked: one would do if none ever fell silent or lagged behind.
const ASKED: usize = 3;
/// Of whom we asked, one that has not answered for this long gives way to another, if there is one: it may be there and yet
/// store nothing, and so say nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Where nobody is a full member, this many returning peers, first by name, are answered by the others; they answer the rest.
const RETURNING_FIRST: usize = 3;
/// A peer that knows of no others but has targets waits this long for somebody who knows better.
const ALONE_AFTER: Duration = Duration::from_secs(3);

/// What we ask of others.
#[derive(Clone, Debug)]
pub(super) struct Question {
    nonce: u64,
    /// Whom, and since when.
    asked: BTreeMap<PeerName, Time>,
    /// Who gave no answer in time.
    passed_over: BTreeSet<PeerName>,
}

impl Question {
    pub(super) fn new(entropy: &Entropy) -> Self {
        Self { nonce: entropy.number(), asked: BTreeMap::new(), passed_over: BTreeSet::new() }
    }
}

impl Ipam {
    /// What we ask, as it is told.
    pub(super) fn asking(&self) -> Asking {
        let asked = self.question.asked.keys().copied().collect();
        Asking { nonce: self.question.nonce, asked, since: self.state.admitted }
    }

    /// Looks whether we may be a full member; whether we became one.
    pub(super) fn confirm(&mut self, world: World<'_>) -> bool {
        if self.full || self.state.left || self.state.universe.is_none() {
            return false;
        }
        self.choose_whom_to_ask(world);
        let by_all = self.question.asked.is_empty();
        let is_vouched = if by_all { self.may_go_on(world) } else { self.is_vouched(world) };
        let is_fine = is_vouched && !self.state.is_removed(self.own_id());
        if is_fine {
            self.state.settle_notes(by_all);
            self.become_full();
        }
        is_vouched
    }

    /// Full members that are there; those next to us by name, so that not all ask the same ones.
    fn choose_whom_to_ask(&mut self, world: World<'_>) {
        let known = &self.state.known;
        let is_there = |name: &PeerName| {
            known.get(name).is_some_and(|known| world.is_there(MemberId { name: *name, life: known.life }))
        };
        let next = known.range(self.name..).chain(known.range(..self.name)).map(|(name, _)| *name).filter(is_there);
        let is_silent =
            |name: PeerName, since: Time| self.now.since(since) >= ANSWER_WITHIN && self.answer(name, world).is_none();
        let Question { mut asked, mut passed_over, .. } = self.question.clone();
        asked.retain(|name, _| is_there(name));
        let silent: Vec<PeerName> =
            asked.iter().filter(|(name, since)| is_silent(**name, **since)).map(|(name, _)| *name).collect();
        for other in next {
            if asked.contains_key(&other) || passed_over.contains(&other) {
                continue;
            }
            let in_place_of = silent.iter().find(|name| asked.contains_key(*name));
            if let Some(name) = in_place_of {
                asked.remove(name);
                passed_over.insert(*name);
            } else if asked.len() == ASKED {
                break;
            }
            asked.insert(other, self.now);
        }
        asked.values().for_each(|since| self.look_at(*since + ANSWER_WITHIN));
        self.question = Question { asked, passed_over, ..self.question };
    }

    /// We are a member.
    pub(super) fn become_full(&mut self) {
        self.full = true;
        self.state.admitted = Some(self.state.life);
        self.changed();
    }

    /// Whether all whom we asked have answered, and for us. If against us, we are fenced.
    fn is_vouched(&mut self, world: World<'_>) -> bool {
        let answers: Vec<&Vouch> = self.question.asked.keys().filter_map(|peer| self.answer(*peer, world)).collect();
        if answers.len() < self.question.asked.len() {
            return false;
        }
        let verdicts: Vec<Verdict> = answers.iter().map(|answer| answer.verdict).collect();
        let settled: BTreeSet<MemberId> = answers.iter().flat_map(|answer| answer.removed.iter().copied()).collect();
        let unsettled: BTreeSet<MemberId> =
            answers.iter().flat_map(|answer| answer.unsettled.iter().copied()).collect();
        let is_other = |grave: &MemberId| *grave != self.own_id();
        let graves = settled.iter().map(|grave| (*grave, true)).chain(unsettled.iter().map(|grave| (*grave, false)));
        let graves: Vec<_> = graves.filter(|(grave, _)| is_other(grave)).collect();
        for (grave, settled) in graves {
            self.unkept |= self.state.learn_burial(grave, settled);
        }
        self.judge(&verdicts, true)
    }

    fn answer<'a>(&self, by: PeerName, world: World<'a>) -> Option<&'a Vouch> {
        world.vouch(by, self.name).filter(|vouch| vouch.nonce == self.question.nonce)
    }

    /// What follows from what others know of us; `wanted` if somebody must know us.
    fn judge(&mut self, verdicts: &[Verdict], wanted: bool) -> bool {
        let is_ahead = |verdict: &Verdict| matches!(verdict, Verdict::Known(version) if *version > self.state.version);
        let is_known = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Known(_)));
        if verdicts.contains(&Verdict::Removed) {
            self.fence("other peers declared it dead and may have taken over its addresses");
        } else if verdicts.iter().any(is_ahead) {
            self.fence("its stored data are older than what it told other peers");
        } else if wanted && !is_known {
            if self.state.admitted.is_some() {
                self.fence("no other peer knows it any more");
            }
        } else {
            return true;
        }
        false
    }

    /// Without any full member: whether we know nobody else, or all others are returning too and none speaks against us.
    fn may_go_on(&mut self, world: World<'_>) -> bool {
        if self.state.admitted.is_none() {
            return false;
        }
        if self.state.known.is_empty() || self.is_new_seed {
            let alone_at = if world.targets.count == 0 { self.started_at } else { self.started_at + ALONE_AFTER };
            if alone_at > self.now {
                self.look_at(alone_at);
            }
            return alone_at <= self.now;
        }
        let answers: Option<Vec<Verdict>> = self
            .state
            .known
            .keys()
            .map(|peer| self.answer(*peer, world).filter(|_| world.reachable.contains(peer)).map(|vouch| vouch.verdict))
            .collect();
        answers.is_some_and(|verdicts| self.judge(&verdicts, false))
    }

    /// Those who ask us whether they are members are so, from now on, if nothing speaks against it: noted before it is told.
    pub(super) fn acknowledge(&mut self, world: World<'_>) -> bool {
        let mut changed = false;
        for (id, asking) in self.to_be_answered(world) {
            let is_fine = matches!(self.verdict(id, asking), Verdict::Known(_)) && !self.state.is_known(id);
            changed |= is_fine && if self.full { self.admit(id) } else { self.note(id) };
        }
        changed
    }

    /// Notes a life that we vouch for together with everybody; whether it was not noted.
    fn note(&mut self, id: MemberId) -> bool {
        let known = self.state.known.get_mut(&id.name).filter(|known| known.noted != Some(id.life));
        let is_new = known.map(|known| known.noted = Some(id.life)).is_some();
        self.unkept |= is_new;
        is_new
    }

    /// What we say of those who ask.
    pub(super) fn vouches(&self, world: World<'_>) -> Vec<(PeerName, Vouch)> {
        let vouch = |(id, asking): (MemberId, &Asking)| {
            let verdict = self.verdict(id, asking);
            let (removed, unsettled) = (self.state.graves(true), self.state.graves(false));
            (id.name, Vouch { nonce: asking.nonce, verdict, removed, unsettled })
        };
        self.to_be_answered(world).into_iter().map(vouch).collect()
    }

    /// Those who ask us, with what they ask.
    fn to_be_answered<'a>(&self, world: World<'a>) -> Vec<(MemberId, &'a Asking)> {
        let is_returning = |peer: &&PeerName| {
            let standing = world.member(**peer).map(|member| &member.standing);
            matches!(standing, Some(Standing::Returning(_))) && world.reachable.contains(*peer)
        };
        let mut first = BTreeSet::new();
        if !self.full {
            first.extend(self.seekers.iter().filter(is_returning).take(RETURNING_FIRST).copied());
            first.extend(self.state.admitted.map(|_| self.name));
            while first.len() > RETURNING_FIRST {
                first.pop_last();
            }
        }
        // Nobody of whom we know went on elsewhere.
        let is_back = |peer: &PeerName| {
            let asking = world.member(*peer).and_then(Member::asking);
            world.reachable.contains(peer) && asking.is_some_and(|asking| asking.asked.is_empty())
        };
        let are_all_back = !self.full && !self.state.left && self.state.known.keys().all(is_back);
        let answer = |peer: &PeerName| {
            let member = world.member(*peer)?;
            let asking = member.asking()?;
            let is_asked = if self.full {
                asking.asked.contains(&self.name)
            } else {
                are_all_back && asking.asked.is_empty() && first.contains(peer)
            };
            let id = MemberId { name: *peer, life: member.life };
            // Another life of it is known as a member: it learns of that and says that it is over, or not.
            let is_answerable = !matches!(member.standing, Standing::Joining(_)) || self.state.is_known(id);
            (is_asked && is_answerable).then_some((id, asking))
        };
        self.seekers.iter().filter_map(answer).collect()
    }

    fn verdict(&self, id: MemberId, asking: &Asking) -> Verdict {
        let known = self.state.known.get(&id.name).filter(|known| known.life.is_of_line(id.life));
        match (known, self.state.last_grave(id)) {
            (Some(known), _) if known.life <= id.life => Verdict::Known(known.version),
            (Some(_), _) => Verdict::Removed,
            // It was acknowledged after the removal that we know of.
            (None, Some(over)) if asking.since.is_some_and(|since| over < since) => Verdict::Known(0),
            (None, Some(_)) => Verdict::Removed,
            (None, None) => Verdict::Unknown,
        }
    }

    /// This life of ours is over: we own nothing any more and begin another. Addresses of those who still run stay listed
    /// and are asked for again.
    pub(super) fn fence(&mut self, reason: &str) {
        let old = self.own_id();
        let before = std::mem::replace(&mut self.state, State::fresh(Vec::new(), Life::first(self.entropy.number())));
        self.state.ranges = before.ranges;
        self.state.universe = before.universe;
        self.state.removed = before.removed;
        self.state.known = before.known;
        self.state.settle_notes(false);
        // Reclaims of one name have one count, so that a promise to one of the old line is over by what the new one tells.
        self.state.reclaims = before.reclaims;
        self.state.allotments = before.allotments;
        self.state.bury(old, false);
        self.full = false;
        self.quest = None;
        self.question = Question::new(&self.entropy);
        self.answered.clear();
        self.refusals.clear();
        self.happened(AddressEvent::Fenced { reason: reason.to_owned() });
        self.changed();
    }

    /// The operator says that nobody declared us dead.
    pub(super) fn confirm_alone(&mut self) {
        if !self.full && self.state.admitted.is_some() && !self.state.left {
            self.state.settle_notes(true);
            self.become_full();
        }
    }

    /// Members whose word would do.
    pub(super) fn awaited(&self) -> Vec<PeerName> {
        self.state.known.keys().copied().collect()
    }
}
