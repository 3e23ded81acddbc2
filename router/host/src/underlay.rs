//! The host below the network: where peers may reach it, followed as it changes, and what its processor can.

use std::{collections::BTreeSet, net::IpAddr, thread::JoinHandle};

use tokio::sync::{oneshot, watch};

use crate::{
    addressing,
    error::HostError,
    host::Facts,
    kernel::spawn,
    mark::Mark,
    netlink::{Changes, Netlink, Woken},
};

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
) -> Result<(watch::Receiver<Vec<IpAddr>>, JoinHandle<()>), HostError> {
    // Subscribed before the first look, so that nothing is missed between.
    let mut changes = Changes::open()?;
    let netlink = Netlink::open()?;
    let (sender, receiver) = watch::channel(addresses(&netlink)?);
    let thread = spawn("weft-underlay", move || {
        while changes.wait(&mut stop) == Woken::Changed {
            match addresses(&netlink) {
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

fn addresses(netlink: &Netlink) -> Result<Vec<IpAddr>, HostError> {
    let links = netlink.links()?.into_iter();
    let outside = links.filter(|link| !link.loopback && link.alias.as_deref().and_then(Mark::parse).is_none());
    let outside: BTreeSet<u32> = outside.map(|link| link.index).collect();
    let all = netlink.addresses(None)?.into_iter().filter(|address| address.usable && outside.contains(&address.index));
    let usable: BTreeSet<IpAddr> =
        all.map(|address| address.net.addr()).filter(|ip| addressing::is_underlay(*ip)).collect();
    Ok(usable.into_iter().collect())
}
