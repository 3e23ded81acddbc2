//! Where addresses are given out: subnets of the ranges, checked once.

use ipnet::IpNet;

use super::range::{Range, RangeSet, number, prefix_len};
use crate::api::allocation::AllocationError;

/// Fewest addresses of a subnet: the first, the last, and two to talk to each other.
const ADDRESSES_MIN: u128 = 4;

/// A subnet that addresses are given out in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Subnet {
    net: IpNet,
    range: Range,
}

impl Subnet {
    /// Takes a subnet of one of `ranges`.
    pub(super) fn new(net: IpNet, ranges: &[Range]) -> Result<Self, AllocationError> {
        let range = Range::of(&net);
        let bad = |reason: &str| Err(AllocationError::BadSubnet { subnet: net, reason: reason.to_owned() });
        if net.addr() != net.network() {
            return bad("it has host bits");
        }
        if range.len() < ADDRESSES_MIN {
            return bad("it is smaller than 4 addresses");
        }
        if !ranges.iter().any(|whole| whole.includes(range)) {
            return bad("it is not part of --ipalloc-range");
        }
        Ok(Self { net, range })
    }

    /// As it is written.
    pub(super) fn net(&self) -> IpNet {
        self.net
    }

    /// All its addresses.
    pub(super) fn range(&self) -> Range {
        self.range
    }

    /// Those that may be given out: not the first, which names the subnet, nor for IPv4 the last, which is everybody's.
    pub(super) fn usable(&self) -> Range {
        let last = if self.range.is_ipv4() { self.range.last - 1 } else { self.range.last };
        Range { first: self.range.first + 1, last }
    }

    /// An address with the subnet's prefix length.
    pub(super) fn with_prefix(&self, at: u128) -> IpNet {
        with_prefix(at, prefix_len(self.range))
    }
}

/// An address with a prefix length, which is cut to what its family has.
pub(super) fn with_prefix(at: u128, prefix: u8) -> IpNet {
    let address = super::range::address(at);
    let most = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new_assert(address, prefix.min(most))
}

/// The ranges that can be given out from: at most one of each family, and IPv6 without what stands for IPv4.
pub(super) fn universe(nets: &[IpNet]) -> Vec<Range> {
    let mapped = Range { first: number([0, 0, 0, 0].into()), last: number([255, 255, 255, 255].into()) };
    let mut ranges: Vec<Range> = Vec::new();
    for range in nets.iter().map(|net| Range::of(&net.trunc())) {
        let spans = range.intersection(mapped).is_some() != range.is_ipv4();
        let has_family = ranges.iter().any(|other| other.is_ipv4() == range.is_ipv4());
        if !spans && !has_family {
            ranges.push(range);
        }
    }
    RangeSet::of(ranges).ranges().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Result<Subnet, String> {
        let ranges = universe(&["10.32.0.0/12".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        Subnet::new(text.parse().unwrap(), &ranges).map_err(|error| error.to_string())
    }

    #[test]
    fn subnets_of_a_range_are_taken() {
        let v4 = subnet("10.32.1.0/24").unwrap();
        assert_eq!(format!("{:?}", v4.usable()), "10.32.1.1-10.32.1.254");
        assert_eq!(v4.with_prefix(v4.usable().first).to_string(), "10.32.1.1/24");
        let v6 = subnet("fd00::/64").unwrap();
        assert_eq!(format!("{:?}", v6.usable()), "fd00::1-fd00::ffff:ffff:ffff:ffff");
        assert!(subnet("10.32.0.0/30").is_ok());
    }

    #[test]
    fn others_are_refused_with_a_reason() {
        for (text, reason) in [
            ("10.32.1.5/24", "host bits"),
            ("10.32.1.0/31", "smaller than 4"),
            ("10.32.1.1/32", "smaller than 4"),
            ("10.0.0.0/8", "not part of"),
            ("192.168.0.0/24", "not part of"),
        ] {
            let error = subnet(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn one_range_of_each_family_is_used() {
        let nets = ["10.0.0.0/8", "192.168.0.0/16", "fd00::/8", "::/0"].map(|text| text.parse().unwrap());
        assert_eq!(universe(&nets).len(), 2);
        assert!(universe(&["::/0".parse().unwrap()]).is_empty(), "it would hold IPv4 twice");
    }
}
