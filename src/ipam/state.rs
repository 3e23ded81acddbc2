//! What a peer must not forget: all of it is stored before anybody is told.

use std::collections::{BTreeMap, BTreeSet};

use boring::sha::Sha256;

use super::{
    allotment::Allotments,
    entry::{Elector, Epoch, GRAVES_MAX, Gift, Life, MemberId, Reclaim, UniverseId},
    range::{Range, RangeMap},
};
use crate::id::{Nickname, PeerName};

/// Domain of the hash that names a universe.
const UNIVERSE_DOMAIN: &[u8] = b"weft universe 1";
/// Domain of the hash that is a seed's first life.
const SEED_DOMAIN: &[u8] = b"weft seed 1";

/// A founded universe.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Universe {
    /// Its name.
    pub(super) id: UniverseId,
    /// Who shared it at first, in order.
    pub(super) founders: Vec<MemberId>,
}

impl Universe {
    /// The universe of these ranges, shared by these peers.
    pub(super) fn founded(ranges: &[Range], founders: &[MemberId]) -> Self {
        let mut hash = Sha256::new();
        hash.update(UNIVERSE_DOMAIN);
        for range in ranges {
            hash.update(&range.first.to_be_bytes());
            hash.update(&range.last.to_be_bytes());
        }
        for founder in founders {
            hash.update(&founder.name.0);
            hash.update(&founder.life.0.to_be_bytes());
        }
        Self { id: UniverseId(first_bytes(hash)), founders: founders.to_vec() }
    }

    /// What a founder owns at first.
    pub(super) fn share(&self, ranges: &[Range], founder: MemberId) -> Vec<Range> {
        let Ok(place) = self.founders.binary_search(&founder) else { return Vec::new() };
        ranges.iter().filter_map(|range| range.shares(self.founders.len()).get(place).copied()).collect()
    }
}

/// The founders that a list of seeds stands for: their first lives are known to all who know the list.
pub(super) fn seeds(ranges: &[Range], names: &[PeerName]) -> Vec<MemberId> {
    let names: BTreeSet<PeerName> = names.iter().copied().collect();
    let life = |name: &PeerName| {
        let mut hash = Sha256::new();
        hash.update(SEED_DOMAIN);
        ranges.iter().for_each(|range| hash.update(&range.first.to_be_bytes()));
        names.iter().for_each(|name| hash.update(&name.0));
        hash.update(&name.0);
        Life::first(u64::from_be_bytes(first_bytes(hash)))
    };
    names.iter().map(|name| MemberId { name: *name, life: life(name) }).collect()
}

fn first_bytes<const N: usize>(hash: Sha256) -> [u8; N] {
    let digest = hash.finish();
    std::array::from_fn(|i| digest[i])
}

/// Another member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Known {
    /// Its life.
    pub(super) life: Life,
    /// A later life that we vouched for while nobody was a full member. It counts if we go on by the word of all; members
    /// that go on know better.
    pub(super) noted: Option<Life>,
    /// What people call it, once heard.
    pub(super) nickname: Option<Nickname>,
    /// The largest version heard.
    pub(super) version: u64,
    /// The number of the last gift taken from it.
    pub(super) taken: u64,
}

impl Known {
    /// A member of which nothing but its life is known.
    pub(super) fn new(life: Life) -> Self {
        Self { life, noted: None, nickname: None, version: 0, taken: 0 }
    }
}

/// A promise to take nothing of a reclaim's ranges from others until it is over.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Promise {
    /// Life of the peer that reclaims.
    pub(super) life: Life,
    /// Number of its reclaim.
    pub(super) number: u64,
    /// The ranges.
    pub(super) ranges: Vec<Range>,
    /// The dead whose space is taken over by it.
    pub(super) removed: Vec<MemberId>,
}

/// All that is kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    /// What is given out from.
    pub(super) ranges: Vec<Range>,
    /// Once founded.
    pub(super) universe: Option<Universe>,
    /// Our life.
    pub(super) life: Life,
    /// The last life of this line as a full member, if it ever was one.
    pub(super) admitted: Option<Life>,
    /// This life has given everything away.
    pub(super) left: bool,
    /// Changes of what is below, but for allotments, counted.
    pub(super) version: u64,
    /// Our part in the election.
    pub(super) elector: Option<Elector>,
    /// What we own.
    pub(super) claims: RangeMap<Epoch>,
    /// What we gave and nobody has yet.
    pub(super) gifts: BTreeMap<PeerName, Gift>,
    /// Other members.
    pub(super) known: BTreeMap<PeerName, Known>,
    /// Members whose lives are over, with the order in which we learned it, and whether everybody knows.
    pub(super) removed: BTreeMap<MemberId, Grave>,
    /// The reclaim that we ask consent for.
    pub(super) reclaim: Option<Reclaim>,
    /// Reclaims of ours so far.
    pub(super) reclaims: u64,
    /// The last of them that all consented to.
    pub(super) reclaimed: u64,
    /// Promises to others' reclaims.
    pub(super) promises: BTreeMap<PeerName, Promise>,
    /// Gifts of this line so far.
    pub(super) given: u64,
    /// Who has which addresses.
    pub(super) allotments: Allotments,
}

/// What is known of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Grave {
    /// The place in the order of learning.
    pub(super) order: u64,
    /// Its space is taken over.
    pub(super) settled: bool,
    /// The number of the last gift taken from it: it may come back in a later life, with gifts that it did not know taken.
    pub(super) taken: u64,
}

impl State {
    /// A new life with nothing.
    pub(super) fn fresh(ranges: Vec<Range>, life: Life) -> Self {
        Self {
            ranges,
            universe: None,
            life,
            admitted: None,
            left: false,
            version: 0,
            elector: None,
            claims: RangeMap::default(),
            gifts: BTreeMap::new(),
            known: BTreeMap::new(),
            removed: BTreeMap::new(),
            reclaim: None,
            reclaims: 0,
            reclaimed: 0,
            promises: BTreeMap::new(),
            given: 0,
            allotments: Allotments::default(),
        }
    }

    /// Whether a peer's life, or a later one of its line, is over.
    pub(super) fn is_removed(&self, member: MemberId) -> bool {
        let later = member..=MemberId { life: member.life.last(), ..member };
        self.removed.range(later).next().is_some()
    }

    /// The last life of a peer's line that is over.
    pub(super) fn last_grave(&self, member: MemberId) -> Option<Life> {
        self.graves_of_line(member).next_back().map(|(grave, _)| grave.life)
    }

    fn graves_of_line(&self, member: MemberId) -> impl DoubleEndedIterator<Item = (&MemberId, &Grave)> {
        let first = MemberId { life: Life::first(member.life.0), ..member };
        self.removed.range(first..=MemberId { life: member.life.last(), ..member })
    }

    /// Whether a peer in this life is a member.
    pub(super) fn is_known(&self, member: MemberId) -> bool {
        self.known.get(&member.name).is_some_and(|known| known.life == member.life)
    }

    /// Buries a member; the oldest settled graves are forgotten when there are too many.
    pub(super) fn bury(&mut self, member: MemberId, settled: bool) {
        let is_it = |life: Life| life.is_of_line(member.life) && life <= member.life;
        let order = self.removed.values().map(|grave| grave.order).max().unwrap_or(0) + 1;
        let grave = self.removed.entry(member).or_insert(Grave { order, settled, taken: 0 });
        grave.settled |= settled;
        if let Some(known) = self.known.get(&member.name).filter(|known| is_it(known.life)) {
            grave.taken = known.taken;
            self.known.remove(&member.name);
        }
        // By then its later lives know, and take nothing that was given to this one.
        if grave.settled {
            self.gifts.retain(|to, gift| *to != member.name || !is_it(gift.life));
        }
        self.promises.retain(|by, promise| *by != member.name || !is_it(promise.life));
        while self.removed.len() > GRAVES_MAX {
            let oldest = self.removed.iter().min_by_key(|(_, grave)| (!grave.settled, grave.order));
            let Some(oldest) = oldest.map(|(member, _)| *member) else { break };
            self.removed.remove(&oldest);
        }
    }

    /// We are a member again: whether by the word of all, or else of those who were members all the time.
    pub(super) fn settle_notes(&mut self, by_all: bool) {
        for known in self.known.values_mut() {
            let noted = known.noted.take().filter(|_| by_all);
            known.life = noted.map_or(known.life, |noted| noted.max(known.life));
        }
    }

    /// Buries a member of whom somebody else says that it is dead; whether that was new.
    pub(super) fn learn_burial(&mut self, member: MemberId, settled: bool) -> bool {
        let is_new = match self.removed.get(&member) {
            Some(grave) => settled && !grave.settled,
            None => !self.is_removed(member),
        };
        if is_new {
            self.bury(member, settled);
        }
        is_new
    }

    /// Takes a peer that is nobody yet into the list of members.
    pub(super) fn welcome(&mut self, member: MemberId) {
        let taken = self.graves_of_line(member).map(|(_, grave)| grave.taken).max().unwrap_or(0);
        self.known.insert(member.name, Known { taken, ..Known::new(member.life) });
    }

    /// Members that were removed, in order, whose space is taken over, or is not.
    pub(super) fn graves(&self, settled: bool) -> Vec<MemberId> {
        let graves = self.removed.iter().filter(|(_, grave)| grave.settled == settled);
        graves.map(|(member, _)| *member).collect()
    }

    /// Lives of a peer that are over.
    pub(super) fn lives_over(&self, name: PeerName) -> Vec<Life> {
        let all = MemberId { name, life: Life(0) }..=MemberId { name, life: Life(u64::MAX) };
        self.removed.range(all).map(|(member, _)| member.life).collect()
    }

    /// Takes a range as our own. Neighbouring ranges of different epochs become one of the later epoch, which is well as
    /// both are ours; so ranges do not become more for ever.
    pub(super) fn own(&mut self, range: Range, epoch: Epoch) {
        let before = range.first.checked_sub(1).and_then(|at| self.claims.get(at));
        let after = range.last.checked_add(1).and_then(|at| self.claims.get(at));
        let within = |range: Range| self.ranges.iter().position(|whole| whole.contains(range.first));
        let near: Vec<_> = [before, after].into_iter().flatten().filter(|(r, _)| within(*r) == within(range)).collect();
        let epoch = near.iter().map(|(_, epoch)| *epoch).fold(epoch, Epoch::max);
        near.into_iter().for_each(|(range, _)| self.claims.insert(range, epoch));
        self.claims.insert(range, epoch);
    }

    /// Whether we own, or have given to somebody who does not have it yet and lives, any of this.
    pub(super) fn holds_any(&self, range: Range) -> bool {
        let valid = self.gifts.iter().filter(|(to, gift)| !self.is_removed(MemberId { name: **to, life: gift.life }));
        let mut given = valid.flat_map(|(_, gift)| &gift.ranges);
        self.claims.overlaps(range) || given.any(|(given, _)| given.intersection(range).is_some())
    }

    /// How much of our own is free, of IPv4 and of IPv6.
    pub(super) fn free(&self) -> [u128; 2] {
        let mut free = [0_u128; 2];
        for (range, _) in self.claims.iter() {
            let family = &mut free[usize::from(!range.is_ipv4())];
            *family = family.saturating_add(range.len() - self.allotments.count(range));
        }
        free
    }

    /// What may be given of a range to somebody who asks: the biggest free subnet in it of at most half of what is free there.
    pub(super) fn spare(&self, range: Range) -> Option<(Range, Epoch)> {
        let gaps = || {
            let parts = self.claims.within(range);
            parts.flat_map(|(part, epoch)| self.allotments.gaps(part).map(move |gap| (gap, epoch)))
        };
        let free = gaps().fold(0_u128, |sum, (gap, _)| sum.saturating_add(gap.len()));
        let half = (free / 2).max(1);
        let parts = gaps().map(|(gap, epoch)| (gap.biggest_subnet(half), epoch));
        // Of equal ones the last: the owner itself takes the lowest first.
        parts.max_by_key(|(part, _)| (part.len(), part.first))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Range {
        Range::of(&text.parse().unwrap())
    }

    fn member(n: u8) -> MemberId {
        MemberId { name: PeerName([0, 0, 0, 0, 0, n]), life: Life(n.into()) }
    }

    #[test]
    fn founders_share_all_of_a_universe_whose_name_is_theirs() {
        let ranges = [range("10.0.0.0/24")];
        let universe = Universe::founded(&ranges, &[member(1), member(2)]);
        assert_eq!(universe.share(&ranges, member(1)), [range("10.0.0.0/25")]);
        assert_eq!(universe.share(&ranges, member(2)), [range("10.0.0.128/25")]);
        assert!(universe.share(&ranges, member(3)).is_empty());
        assert_ne!(universe.id, Universe::founded(&ranges, &[member(1)]).id);
        assert_ne!(universe.id, Universe::founded(&[range("10.0.0.0/25")], &universe.founders).id);
    }

    #[test]
    fn seeds_are_the_same_in_any_order() {
        let ranges = [range("10.0.0.0/24")];
        let (a, b) = (member(1).name, member(2).name);
        assert_eq!(seeds(&ranges, &[a, b]), seeds(&ranges, &[b, a, a]));
        assert_ne!(seeds(&ranges, &[a, b])[0].life, seeds(&ranges, &[a])[0].life);
    }

    #[test]
    fn neighbouring_ranges_of_ours_are_one() {
        let mut state = State::fresh(vec![range("10.0.0.0/24")], Life(1));
        state.own(range("10.0.0.0/26"), Epoch(1));
        state.own(range("10.0.0.128/26"), Epoch(1));
        state.own(range("10.0.0.64/26"), Epoch(3));
        let all: Vec<_> = state.claims.iter().collect();
        assert_eq!(all, [(Range { first: range("10.0.0.0/32").first, last: range("10.0.0.191/32").last }, Epoch(3))]);
    }

    #[test]
    fn the_graves_that_are_forgotten_are_old_and_settled() {
        let mut state = State::fresh(Vec::new(), Life(1));
        let member = |n: usize| {
            let [.., high, low] = n.to_be_bytes();
            MemberId { name: PeerName([0, 0, 0, 0, high, low]), life: Life(1) }
        };
        state.bury(member(0), false);
        (1..=GRAVES_MAX + 1).for_each(|n| state.bury(member(n), true));
        assert!(state.is_removed(member(0)) && !state.is_removed(member(1)) && !state.is_removed(member(2)));
        assert!(state.is_removed(member(GRAVES_MAX)));
    }

    #[test]
    fn who_comes_back_after_its_burial_has_its_gifts_taken_no_second_time() {
        let mut state = State::fresh(Vec::new(), Life(1));
        let back = MemberId { life: member(1).life.next(), ..member(1) };
        state.welcome(member(1));
        state.known.get_mut(&back.name).unwrap().taken = 7;
        state.bury(member(1), false);
        state.bury(member(1), true);
        assert!(!state.is_known(back) && !state.is_removed(back));
        state.welcome(back);
        assert_eq!(state.known[&back.name], Known { taken: 7, ..Known::new(back.life) });
    }

    proptest! {
        #[test]
        fn what_is_spared_is_free_and_no_more_than_half(taken in prop::collection::btree_set(0_u128..64, 0..64), first in 0_u128..32, len in 0_u128..32) {
            let mut state = State::fresh(vec![Range { first: 0, last: 63 }], Life(1));
            state.own(Range { first: 0, last: 63 }, Epoch(1));
            taken.iter().for_each(|at| state.allotments.give(*at, "c", 26));
            let range = Range { first, last: first + len };
            let free = range.len() - state.allotments.count(range);
            match state.spare(range) {
                None => prop_assert_eq!(free, 0),
                Some((part, _)) => {
                    prop_assert!(range.includes(part) && state.allotments.count(part) == 0);
                    prop_assert!(part.len() <= (free / 2).max(1) && part.len().is_power_of_two());
                }
            }
        }
    }
}
