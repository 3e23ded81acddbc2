//! How addresses are given out, from flags and file.

use anyhow::{bail, ensure};
use ipnet::IpNet;
use weft::ipam::{AllocationConfig, Init};
use weft_router::config::DEFAULT_RANGE;

use crate::flags::{IpallocInit, RouterFlags, Subnet};

/// How addresses are given out; None for not at all.
pub(super) fn settled(flags: &RouterFlags, file: &RouterFlags) -> anyhow::Result<Option<AllocationConfig>> {
    let (flags, file) = (Said::of(flags), Said::of(file));
    ensure!(
        !file.off || !file.says_something(),
        "the file of --config has both `no_ipalloc` and other options of addresses: keep one"
    );
    if flags.off || (file.off && !flags.says_something()) {
        return Ok(None);
    }
    // Subnets of the file are of the range of the file.
    let file_subnets = if flags.ranges.is_some() { None } else { file.default_subnets };
    let ranges =
        flags.ranges.or(file.ranges).map_or_else(|| Ok(vec![DEFAULT_RANGE.parse()?]), Ok::<_, anyhow::Error>)?;
    let default_subnets = flags.default_subnets.or(file_subnets).unwrap_or_else(|| ranges.clone());
    for (nets, option) in [(&ranges, "--ipalloc-range"), (&default_subnets, "--ipalloc-default-subnet")] {
        for is_v4 in [true, false] {
            let family: Vec<_> = nets.iter().filter(|net| net.addr().is_ipv4() == is_v4).collect();
            if let [one, another, ..] = family[..] {
                bail!("{option} has {one} and {another}: give at most one of IPv4 and one of IPv6");
            }
        }
    }
    for subnet in &default_subnets {
        ensure!(
            ranges.iter().any(|range| range.contains(subnet)),
            "{subnet} of --ipalloc-default-subnet is not within {} of --ipalloc-range",
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
        );
    }
    let init = flags.init.or(file.init).unwrap_or(Init::Consensus(None));
    Ok(Some(AllocationConfig { ranges, default_subnets, init, kept: None }))
}

/// What flags or the file say of it.
struct Said {
    off: bool,
    ranges: Option<Vec<IpNet>>,
    default_subnets: Option<Vec<IpNet>>,
    init: Option<Init>,
}

impl Said {
    fn of(flags: &RouterFlags) -> Self {
        let nets =
            |subnets: &Option<Vec<Subnet>>| subnets.as_ref().map(|all| all.iter().map(|subnet| subnet.0).collect());
        Self {
            off: flags.no_ipalloc,
            ranges: nets(&flags.ipalloc_range),
            default_subnets: nets(&flags.ipalloc_default_subnet),
            init: flags.ipalloc_init.clone().map(|IpallocInit(init)| init),
        }
    }

    fn says_something(&self) -> bool {
        self.ranges.is_some() || self.default_subnets.is_some() || self.init.is_some()
    }
}
