//! The host below the network: where peers may reach it, followed as it changes, and what its processor can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread::JoinHandle,
};

use tokio::sync::{oneshot, watch};

use crate::{
    addressing,
    error::HostError,
    host::{Facts, Underlay},
    kernel::spawn,
    mark::Mark,
    netlink::{Changes, Netlink, Woken},
};

/// Addresses that no device has, where only default routes lead (RFC 5737 §3, RFC 3849 §2).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// What does not change while we run.
pub(crate) fn facts() -> Facts {
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    Facts {
        hostname: hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned()),
        aes: has_aes(),
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// Follows the addresses of the calling thread's namespace, in a thread that ends when `stop` is dropped.
pub(crate) fn follow(
    mut stop: oneshot::Receiver<()>,
) -> Result<(watch::Receiver<Underlay>, JoinHandle<()>), HostError> {
    // Subscribed before the first look, so that nothing is missed between.
    let mut changes = Changes::open()?;
    let netlink = Netlink::open()?;
    let (sender, receiver) = watch::channel(look(&netlink)?);
    let thread = spawn("weft-underlay", move || {
        while changes.wait(&mut stop) == Woken::Changed {
            match look(&netlink) {
                Ok(now) => {
                    sender.send_if_modified(|last| {
                        let changed = *last != now;
                        *last = now;
                        changed
                    });
                }
                Err(error) => tracing::warn!(%error, "the addresses of this host may have changed unseen"),
            }
        }
    })?;
    Ok((receiver, thread))
}

fn look(netlink: &Netlink) -> Result<Underlay, HostError> {
    let links = netlink.links()?.into_iter();
    let outside = links.filter(|link| !link.loopback && link.alias.as_deref().and_then(Mark::parse).is_none());
    let mtus: BTreeMap<u32, u32> = outside.map(|link| (link.index, link.mtu)).collect();
    let all = netlink.addresses(None)?.into_iter();
    let usable = all.filter(|address| {
        address.usable && mtus.contains_key(&address.index) && addressing::is_underlay(address.net.addr())
    });
    let usable: Vec<_> = usable.collect();
    let addresses: BTreeSet<IpAddr> = usable.iter().map(|address| address.net.addr()).collect();
    // Peers are mostly behind the default route; other devices with addresses may be bridges of other programs.
    let outward = ELSEWHERE.iter().filter_map(|elsewhere| netlink.route_mtu(*elsewhere).ok()).min();
    let mtu = outward.or_else(|| usable.iter().filter_map(|address| mtus.get(&address.index)).min().copied());
    Ok(Underlay { addresses: addresses.into_iter().collect(), mtu })
}
