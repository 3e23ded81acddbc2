//! Addresses as numbers, ranges of them, and maps from ranges to something.
//!
//! An IPv4 address is the number of its mapped IPv6 address (RFC 4291 §2.5.5.2), so that both families live on one line
//! and nothing below has to know of two. A range includes both ends and never spans families.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

/// Where IPv4 lies among all numbers.
const IPV4_BASE: u128 = 0xffff_0000_0000;
/// Bits by which a prefix of IPv4 is shorter than that of its mapped addresses.
const IPV4_BITS: u8 = 96;

/// The number of an address.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => IPV4_BASE | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with this number.
pub fn address(number: u128) -> IpAddr {
    Ipv6Addr::from_bits(number).to_canonical()
}

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first.
    pub first: u128,
    /// The last, not less than the first.
    pub last: u128,
}

impl Range {
    /// A range; None if it would be empty.
    pub fn new(first: u128, last: u128) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The range of one address.
    pub fn single(at: u128) -> Self {
        Self { first: at, last: at }
    }

    /// All addresses of a subnet.
    pub fn of(net: &IpNet) -> Self {
        Self { first: number(net.network()), last: number(net.broadcast()) }
    }

    /// How many addresses; all of IPv6 counts one less than it has.
    #[expect(clippy::len_without_is_empty, reason = "a range has one address at least")]
    pub fn len(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether it holds the address.
    pub fn contains(self, at: u128) -> bool {
        self.first <= at && at <= self.last
    }

    /// Whether it holds all of `other`.
    pub fn includes(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// What both hold.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// Whether it is IPv4.
    pub fn is_ipv4(self) -> bool {
        self.first >> 32 == IPV4_BASE >> 32
    }

    /// Its largest part of at most `most` addresses that is a subnet.
    pub fn biggest_subnet(self, most: u128) -> Self {
        let mut bits = 127 - most.min(self.len()).max(1).leading_zeros();
        loop {
            let mask = (1_u128 << bits) - 1;
            let aligned = self.first.checked_add(mask).map(|first| first & !mask);
            if let Some(part) = aligned.and_then(|first| Self::new(first, first | mask)).filter(|p| self.includes(*p)) {
                return part;
            }
            bits -= 1;
        }
    }

    /// Divides it among `count`, as evenly as halving allows, so that each share is a subnet if this is one; shares that
    /// would be empty are missing at the end.
    pub fn shares(self, count: usize) -> Vec<Self> {
        if count <= 1 || self.first == self.last {
            return vec![self; count.min(1)];
        }
        let middle = self.first + (self.last - self.first) / 2;
        let mut shares = Self { first: self.first, last: middle }.shares(count.div_ceil(2));
        shares.extend(Self { first: middle + 1, last: self.last }.shares(count / 2));
        shares
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", address(self.first), address(self.last))
    }
}

/// The bits of the prefix of a range that is a subnet, as its family counts them.
pub fn prefix_len(range: Range) -> u8 {
    // A range has at least one address, so there is a leading zero for each bit of the prefix.
    let bits = u8::try_from((range.last - range.first).leading_zeros()).unwrap_or(0);
    if range.is_ipv4() { bits - IPV4_BITS } else { bits }
}

/// Ranges that do not overlap, each with a value; neighbours with equal values are one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RangeMap<V> {
    ranges: BTreeMap<u128, (u128, V)>,
}

/// Addresses as ranges.
pub type RangeSet = RangeMap<()>;

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new() }
    }
}

impl<V: Copy + PartialEq> RangeMap<V> {
    /// Gives all of `range` this value.
    pub fn insert(&mut self, range: Range, value: V) {
        self.remove(range);
        let (mut first, mut last) = (range.first, range.last);
        if let Some((&before, &(end, held))) = self.ranges.range(..first).next_back()
            && end.checked_add(1) == Some(first)
            && held == value
        {
            first = before;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(&(end, held)) = self.ranges.get(&next)
            && held == value
        {
            last = end;
            self.ranges.remove(&next);
        }
        self.ranges.insert(first, (last, value));
    }

    /// Takes all of `range` out.
    pub fn remove(&mut self, range: Range) {
        let overlapping: Vec<_> = self.whole(range).collect();
        for (held, value) in overlapping {
            self.ranges.remove(&held.first);
            if held.first < range.first {
                self.ranges.insert(held.first, (range.first - 1, value));
            }
            if held.last > range.last {
                self.ranges.insert(range.last + 1, (held.last, value));
            }
        }
    }

    /// The range and value that an address lies in.
    pub fn get(&self, at: u128) -> Option<(Range, V)> {
        self.whole(Range::single(at)).next()
    }

    /// Parts of ranges that lie in `range`, in order, with their values.
    pub fn within(&self, range: Range) -> impl Iterator<Item = (Range, V)> + '_ {
        self.whole(range).filter_map(move |(held, value)| Some((held.intersection(range)?, value)))
    }

    /// Whether any address of `range` is here.
    pub fn overlaps(&self, range: Range) -> bool {
        self.whole(range).next().is_some()
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range, V)> + '_ {
        self.ranges.iter().map(|(first, (last, value))| (Range { first: *first, last: *last }, *value))
    }

    /// How many ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many addresses.
    pub fn addresses(&self) -> u128 {
        self.iter().fold(0, |sum, (range, _)| sum.saturating_add(range.len()))
    }

    /// Ranges that overlap `range`, whole, in order.
    fn whole(&self, range: Range) -> impl Iterator<Item = (Range, V)> + '_ {
        let before = self.ranges.range(..range.first).next_back().filter(|(_, (last, _))| *last >= range.first);
        let rest = self.ranges.range(range.first..=range.last);
        before.into_iter().chain(rest).map(|(first, (last, value))| (Range { first: *first, last: *last }, *value))
    }
}

impl RangeSet {
    /// The addresses of these ranges.
    pub fn of(ranges: impl IntoIterator<Item = Range>) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range, ()));
        set
    }

    /// Its ranges.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.iter().map(|(range, ())| range)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_of_both_families_are_numbers_and_come_back() {
        for text in ["10.32.0.1", "255.255.255.255", "0.0.0.0", "fd00::1", "2001:db8::", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(number(ip)), ip);
        }
    }

    #[test]
    fn subnets_are_ranges_and_have_their_prefix() {
        for text in ["10.32.0.0/12", "10.0.0.4/30", "10.0.0.1/32", "fd00::/64", "fd00::1/128"] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(prefix_len(Range::of(&net)), net.prefix_len(), "{text}");
        }
        assert_eq!(Range::of(&"10.0.0.0/8".parse().unwrap()).len(), 1 << 24);
    }

    #[test]
    fn a_range_is_shared_in_subnets() {
        let range = Range::of(&"10.32.0.0/12".parse().unwrap());
        let shares = |count| range.shares(count).iter().map(|s| format!("{s:?}")).collect::<Vec<_>>();
        assert_eq!(shares(1), ["10.32.0.0-10.47.255.255"]);
        assert_eq!(shares(2), ["10.32.0.0-10.39.255.255", "10.40.0.0-10.47.255.255"]);
        assert_eq!(shares(3), ["10.32.0.0-10.35.255.255", "10.36.0.0-10.39.255.255", "10.40.0.0-10.47.255.255"]);
        assert_eq!(Range { first: 4, last: 7 }.shares(9).len(), 4, "no more shares than addresses");
    }

    /// The same as [`RangeMap`], address by address.
    type Model = BTreeMap<u128, u8>;

    fn model_ranges(model: &Model) -> Vec<(Range, u8)> {
        let mut ranges: Vec<(Range, u8)> = Vec::new();
        for (&at, &value) in model {
            match ranges.last_mut() {
                Some((range, held)) if range.last + 1 == at && *held == value => range.last = at,
                _ => ranges.push((Range::single(at), value)),
            }
        }
        ranges
    }

    fn any_range() -> impl Strategy<Value = Range> {
        (0_u128..64, 0_u128..20).prop_map(|(first, more)| Range { first, last: first + more })
    }

    proptest! {
        #[test]
        fn a_map_of_ranges_is_a_map_of_addresses(steps in prop::collection::vec((any_range(), prop::option::of(0_u8..3)), 1..40), probe in any_range()) {
            let (mut map, mut model) = (RangeMap::default(), Model::new());
            for (range, value) in steps {
                match value {
                    Some(value) => {
                        map.insert(range, value);
                        model.extend((range.first..=range.last).map(|at| (at, value)));
                    }
                    None => {
                        map.remove(range);
                        model.retain(|at, _| !range.contains(*at));
                    }
                }
                prop_assert_eq!(map.iter().collect::<Vec<_>>(), model_ranges(&model));
            }
            prop_assert_eq!(map.addresses(), model.len() as u128);
            prop_assert_eq!(map.overlaps(probe), model.keys().any(|at| probe.contains(*at)));
            let held: Model = model.iter().filter(|(at, _)| probe.contains(**at)).map(|(a, v)| (*a, *v)).collect();
            let found: Model = map.within(probe).flat_map(|(r, v)| (r.first..=r.last).map(move |at| (at, v))).collect();
            prop_assert_eq!(found, held);
            let one = map.get(probe.first).map(|(range, value)| (range.contains(probe.first), value));
            prop_assert_eq!(one, model.get(&probe.first).map(|value| (true, *value)));
        }

        #[test]
        fn shares_cover_a_range_without_overlap(range in any_range(), count in 1_usize..20) {
            let shares = range.shares(count);
            prop_assert_eq!(shares.len() as u128, (count as u128).min(range.len()));
            prop_assert_eq!(shares[0].first, range.first);
            prop_assert_eq!(shares[shares.len() - 1].last, range.last);
            prop_assert!(shares.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
        }

        #[test]
        fn the_biggest_subnet_is_aligned_and_none_is_bigger(range in any_range(), most in 1_u128..40) {
            let part = range.biggest_subnet(most);
            let len = part.len();
            prop_assert!(range.includes(part) && len <= most && len.is_power_of_two() && part.first % len == 0);
            let is_better = |bits: u32| {
                let len = 1_u128 << bits;
                len > part.len() && len <= most && range.first.next_multiple_of(len) + len - 1 <= range.last
            };
            prop_assert!(!(0..7).any(is_better));
        }

        #[test]
        fn extreme_ranges_do_not_overflow(first in any::<u128>(), last in any::<u128>(), most in any::<u128>()) {
            let range = Range { first: first.min(last), last: first.max(last) };
            prop_assert!(range.includes(range.biggest_subnet(most)));
            let mut map = RangeMap::default();
            map.insert(range, 1);
            map.insert(Range { first: 0, last: u128::MAX }, 2);
            map.remove(range);
            prop_assert!(!map.overlaps(range));
        }
    }
}
