//! Who has which addresses here, and for how long an address is kept for somebody who gave it back.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    range::{Range, number},
    subnet::{Subnet, with_prefix},
};
use crate::{api::allocation::Allotment, time::Time};

/// An address that is somebody's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Holding {
    /// Whose.
    pub(super) owner: String,
    /// Bits of its subnet's prefix.
    pub(super) prefix: u8,
    /// Given back: kept for the owner until then. [`Time::ZERO`]: since before the start.
    pub(super) kept_until: Option<Time>,
}

/// All addresses given out here, and those that somebody here has from elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Allotments {
    held: BTreeMap<u128, Holding>,
}

impl Allotments {
    /// Gives an address to an owner.
    pub(super) fn give(&mut self, at: u128, owner: &str, prefix: u8) {
        self.held.insert(at, Holding { owner: owner.to_owned(), prefix, kept_until: None });
    }

    /// As it was stored.
    pub(super) fn restore(&mut self, at: u128, holding: Holding) {
        self.held.insert(at, holding);
    }

    /// Who has this address.
    pub(super) fn holder(&self, at: u128) -> Option<&Holding> {
        self.held.get(&at)
    }

    /// What the owner has in a subnet, of what `may_have` allows; it takes it back if it was kept for it.
    pub(super) fn retake(&mut self, owner: &str, subnet: &Subnet, may_have: impl Fn(u128) -> bool) -> Option<u128> {
        let mut own = self.held.range_mut(subnet.range().first..=subnet.range().last);
        let (at, holding) = own.find(|(at, holding)| holding.owner == owner && may_have(**at))?;
        holding.kept_until = None;
        Some(*at)
    }

    /// The owner of an address takes it back if it was kept for it; whether it was.
    pub(super) fn take_back(&mut self, at: u128) -> bool {
        self.held.get_mut(&at).is_some_and(|holding| holding.kept_until.take().is_some())
    }

    /// After a restart: what was kept is kept until then.
    pub(super) fn keep_from(&mut self, until: Time) {
        self.held.values_mut().for_each(|holding| holding.kept_until = holding.kept_until.map(|_| until));
    }

    /// Frees an address, whoever has it; whether somebody had.
    pub(super) fn free(&mut self, at: u128) -> bool {
        self.held.remove(&at).is_some()
    }

    /// Frees addresses of an owner, all if none are named; if `until` is given they are kept until then, or else those that
    /// are kept are free, too.
    pub(super) fn release(&mut self, owner: &str, addresses: &[IpAddr], until: Option<Time>) -> Vec<IpNet> {
        let named: Vec<u128> = addresses.iter().copied().map(number).collect();
        let is_meant = |at: u128, holding: &Holding| {
            let is_had = holding.kept_until.is_none() || until.is_none();
            holding.owner == owner && (named.is_empty() || named.contains(&at)) && is_had
        };
        let meant: Vec<_> =
            self.held.iter().filter(|(at, holding)| is_meant(**at, holding)).map(|(at, h)| (*at, h.prefix)).collect();
        for (at, _) in &meant {
            match until {
                Some(_) => self.held.entry(*at).and_modify(|holding| holding.kept_until = until),
                None => {
                    self.held.remove(at);
                    continue;
                }
            };
        }
        meant.into_iter().map(|(at, prefix)| with_prefix(at, prefix)).collect()
    }

    /// Frees what was kept until now; whether there was any.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let before = self.held.len();
        self.held.retain(|_, holding| holding.kept_until.is_none_or(|until| until > now));
        self.held.len() < before
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.held.values().filter_map(|holding| holding.kept_until).min()
    }

    /// What an owner has.
    pub(super) fn of(&self, owner: &str) -> Vec<IpNet> {
        let own = self.held.iter().filter(|(_, holding)| holding.owner == owner && holding.kept_until.is_none());
        own.map(|(at, holding)| with_prefix(*at, holding.prefix)).collect()
    }

    /// All of it, in the order of addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &Holding)> {
        self.held.iter().map(|(at, holding)| (*at, holding))
    }

    /// Held addresses of a range, in order.
    pub(super) fn within(&self, range: Range) -> impl Iterator<Item = u128> + '_ {
        self.held.range(range.first..=range.last).map(|(at, _)| *at)
    }

    /// How many addresses of a range are held.
    pub(super) fn count(&self, range: Range) -> u128 {
        self.within(range).count() as u128
    }

    /// The lowest address of a range that nobody has.
    pub(super) fn lowest_free(&self, range: Range) -> Option<u128> {
        self.gaps(range).next().map(|gap| gap.first)
    }

    /// Parts of a range that nobody has, in order.
    pub(super) fn gaps(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let mut next = Some(range.first);
        let ends = self.within(range).map(Some).chain([None]);
        ends.filter_map(move |held| {
            let first = next?;
            let last = match held {
                Some(at) => {
                    next = at.checked_add(1).filter(|next| *next <= range.last);
                    at.checked_sub(1)?
                }
                None => range.last,
            };
            Range::new(first, last)
        })
    }

    /// Owners with what they have.
    pub(super) fn list(&self) -> Vec<Allotment> {
        let mut owners: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
        for (at, holding) in self.iter().filter(|(_, holding)| holding.kept_until.is_none()) {
            owners.entry(&holding.owner).or_default().push(with_prefix(at, holding.prefix));
        }
        owners.into_iter().map(|(owner, addresses)| Allotment { owner: owner.to_owned(), addresses }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::ipam::range::RangeSet;

    fn subnet() -> Subnet {
        let net = "10.0.0.0/24".parse().unwrap();
        Subnet::new(net, &[Range::of(&net)]).unwrap()
    }

    #[test]
    fn an_owner_takes_back_what_was_kept_for_it() {
        let mut held = Allotments::default();
        let at = subnet().usable().first;
        held.give(at, "c1", 24);
        let until = Time::ZERO + Duration::from_secs(30);
        assert_eq!(held.release("c1", &[], Some(until)).len(), 1);
        assert!(held.of("c1").is_empty() && held.holder(at).is_some(), "kept, but not had");
        assert_eq!(held.lowest_free(subnet().usable()), Some(at + 1));
        assert_eq!(held.retake("c1", &subnet(), |_| true), Some(at));
        assert!(!held.expire(until), "it is had again");
        held.release("c1", &[], Some(until));
        assert_eq!(held.deadline(), Some(until));
        assert!(held.expire(until) && held.holder(at).is_none());
    }

    #[test]
    fn what_is_kept_can_be_freed_at_once() {
        let mut held = Allotments::default();
        let at = subnet().usable().first;
        held.give(at, "c1", 24);
        let until = Some(Time::ZERO + Duration::from_secs(30));
        held.release("c1", &[], until);
        assert!(held.release("c1", &[], until).is_empty(), "it is kept already");
        assert_eq!(held.release("c1", &[], None), ["10.0.0.1/24".parse().unwrap()]);
        assert!(held.holder(at).is_none());
    }

    #[test]
    fn only_named_addresses_of_the_owner_are_released() {
        let mut held = Allotments::default();
        let first = subnet().usable().first;
        for (offset, owner) in [(0, "c1"), (1, "c1"), (2, "c2")] {
            held.give(first + offset, owner, 24);
        }
        let named = ["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()];
        assert_eq!(held.release("c1", &named, None), ["10.0.0.2/24".parse().unwrap()]);
        assert_eq!(held.list().len(), 2);
    }

    proptest! {
        #[test]
        fn gaps_are_what_nobody_has(taken in prop::collection::btree_set(0_u128..40, 0..30), first in 0_u128..20, len in 0_u128..25) {
            let mut held = Allotments::default();
            taken.iter().for_each(|at| held.give(*at, "c", 24));
            let range = Range { first, last: first + len };
            let free = RangeSet::of((range.first..=range.last).filter(|at| !taken.contains(at)).map(Range::single));
            prop_assert_eq!(held.gaps(range).collect::<Vec<_>>(), free.ranges().collect::<Vec<_>>());
            prop_assert_eq!(held.lowest_free(range), free.ranges().next().map(|range| range.first));
            prop_assert_eq!(held.count(range), range.len() - free.addresses());
        }
    }
}
