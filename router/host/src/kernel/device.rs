//! A container's device: the veth pair from the bridge into the namespace, as it is wanted.

use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft::{
    api::{AttachRequest, Route},
    id::Mac,
};

use super::{
    DEVICE_NAME_MAX, Edge,
    container::{Plugged, add_all},
};
use crate::{
    announce,
    error::HostError,
    host::BridgeConfig,
    mark::{CONTAINER_NAME_MAX, Mark, is_container_name},
    netlink::{Link, Veth},
    netns::Namespace,
    sysctl,
};

/// The container's side if nobody says otherwise, as Weave Net names it.
const INSIDE: &str = "ethwe";
/// How the host's side begins; "veth" keeps desktop tools away.
const OUTSIDE: &str = "vethw";
/// What follows, for the first device of a namespace, for the second, and so on; then the namespace's inode number, 32 bits, which
/// makes the name unique.
const NUMBERS: &str = "e0123456789";
/// Base of the inode number in the name.
const HEXADECIMAL: u32 = 16;
/// How long a new veth may take until it passes frames: the kernel switches it on in the background, in milliseconds when idle.
const CARRIER: Duration = Duration::from_secs(2);
/// How often to look.
const LOOK: Duration = Duration::from_millis(1);

/// The inode number of the namespace that a device of this name leads to, as [`Edge::plug_in`] names them.
pub(super) fn inode_of(outside: &str) -> Option<u64> {
    let (_number, inode) = outside.strip_prefix(OUTSIDE)?.split_at_checked(1)?;
    u64::from_str_radix(inode, HEXADECIMAL).ok()
}

/// A device as it is wanted, checked.
pub(super) struct Wanted<'a> {
    /// What the container is called.
    pub(super) name: &'a str,
    /// The device in it.
    pub(super) device: &'a str,
    request: &'a AttachRequest<IpNet>,
    addresses: &'a [IpNet],
    mtu: u32,
}

impl<'a> Wanted<'a> {
    /// Checks all but the addresses, which are checked already.
    pub(super) fn of(
        request: &'a AttachRequest<IpNet>,
        addresses: &'a [IpNet],
        bridge: &Link,
    ) -> Result<Self, HostError> {
        let name = request.name.as_deref().unwrap_or(&request.container);
        if !is_container_name(name) {
            let shown = name.chars().filter(|c| !c.is_control()).take(CONTAINER_NAME_MAX).collect();
            return Err(HostError::BadContainerName { name: shown, max: CONTAINER_NAME_MAX });
        }
        if let Some(mac) = request.mac.filter(|mac| mac.is_group() || *mac == Mac([0; 6])) {
            return Err(HostError::BadMac(mac));
        }
        let is_mixed = |route: &&Route| route.gw.is_some_and(|gw| gw.is_ipv4() != route.dst.addr().is_ipv4());
        if let Some(route) = request.routes.iter().find(is_mixed) {
            return Err(HostError::BadRoute(route.dst));
        }
        let (least, greatest) = (BridgeConfig::LEAST_MTU, bridge.mtu);
        let mtu = request.mtu.unwrap_or(bridge.mtu);
        if !(least..=greatest).contains(&mtu) {
            return Err(HostError::BadMtu { mtu, least, greatest });
        }
        Ok(Self { name, device: Self::device(request)?, request, addresses, mtu })
    }

    /// The device that is asked for.
    pub(super) fn device(request: &'a AttachRequest<IpNet>) -> Result<&'a str, HostError> {
        let Some(name) = request.device.as_deref() else { return Ok(INSIDE) };
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > DEVICE_NAME_MAX || matches!(name, "." | "..") || name.contains(bad) {
            return Err(HostError::BadDeviceName(name.chars().take(DEVICE_NAME_MAX).collect()));
        }
        Ok(name)
    }
}

impl Edge {
    /// Makes the veth pair, marked, on the bridge, its inner side still down.
    pub(super) fn plug_in(&self, namespace: &Namespace, bridge: &Link, wanted: &Wanted<'_>) -> Result<Link, HostError> {
        let name = self.free_name(namespace)?;
        let (peer, mtu) = (wanted.device, wanted.mtu);
        self.netlink.add_veth(&Veth { name: &name, peer, namespace: namespace.fd(), mtu })?;
        let missing = || HostError::NoDevice(name.clone());
        let outside = self.netlink.link(&name)?.ok_or_else(missing)?;
        let mark = Mark::Container(wanted.name.to_owned()).to_string();
        let plugged = sysctl::mute(&name)
            .and_then(|()| self.netlink.plug(&outside, bridge, &mark))
            .and_then(|()| if mtu == bridge.mtu { Ok(()) } else { self.netlink.set_mtu(&outside, mtu) })
            .and_then(|()| self.set_hairpin(&outside, wanted));
        if let Err(error) = plugged {
            self.netlink.remove(&outside)?;
            return Err(error);
        }
        // Once more: what it is now, with the number of the other namespace.
        self.netlink.link(&name)?.ok_or_else(missing)
    }

    /// Makes a device that is there what it is wanted to be now; with a name of its own, it is that one's from now on.
    pub(super) fn plug_again(
        &self,
        namespace: &Namespace,
        plugged: &Plugged,
        wanted: &Wanted<'_>,
        is_named: bool,
    ) -> Result<Link, HostError> {
        let outside = &plugged.outside;
        if is_named && plugged.name != wanted.name {
            self.netlink.set_alias(outside, &Mark::Container(wanted.name.to_owned()).to_string())?;
        }
        if wanted.request.mtu.is_some() {
            self.netlink.set_mtu(outside, wanted.mtu)?;
            namespace.enter(|netlink| netlink.set_mtu(&plugged.inside, wanted.mtu))?;
        }
        self.set_hairpin(outside, wanted)?;
        Ok(outside.clone())
    }

    fn set_hairpin(&self, outside: &Link, wanted: &Wanted<'_>) -> Result<(), HostError> {
        wanted.request.hairpin.map_or(Ok(()), |on| self.netlink.set_hairpin(outside, on))
    }

    /// A name for the host's side of one more device of a namespace.
    fn free_name(&self, namespace: &Namespace) -> Result<String, HostError> {
        for number in NUMBERS.chars() {
            let name = format!("{OUTSIDE}{number}{:08x}", namespace.inode());
            let Some(there) = self.netlink.link(&name)? else { return Ok(name) };
            // What an attach that was killed half-way has left: ours by its name, but not yet marked.
            if there.alias.is_none() && there.controller.is_none() {
                self.netlink.remove(&there)?;
                return Ok(name);
            }
        }
        Err(HostError::TooManyDevices(namespace.name().to_owned()))
    }

    /// Switches the container's side on and gives it addresses, all or none, and routes, and tells the neighbours.
    pub(super) fn give(
        &self,
        namespace: &Namespace,
        outside: &Link,
        missing: &[IpNet],
        wanted: &Wanted<'_>,
    ) -> Result<(), HostError> {
        let mut inside = self.inside(outside)?.ok_or_else(|| HostError::NoDevice(wanted.device.to_owned()))?;
        namespace.enter(|netlink| {
            sysctl::prepare_station(&inside.name)?;
            if missing.iter().any(|net| net.addr().is_ipv6()) {
                // Container engines like to switch it off.
                sysctl::unmute(&inside.name)?;
            }
            if let Some(mac) = wanted.request.mac.filter(|mac| inside.mac != Some(*mac)) {
                netlink.set_mac(&inside, mac)?;
                inside.mac = Some(mac);
            }
            netlink.set_up(&inside)?;
            add_all(netlink, &inside, missing)?;
            wanted.request.routes.iter().try_for_each(|route| netlink.add_route(&inside, route, wanted.addresses))?;
            if wanted.request.no_multicast_route { Ok(()) } else { netlink.add_multicast_route(&inside) }
        })?;
        self.await_carrier(outside)?;
        let addresses: Vec<IpAddr> = wanted.addresses.iter().map(IpNet::addr).collect();
        let announced = namespace.enter(|_| announce::announce(&inside, &addresses));
        if let Err(error) = announced {
            // It is there all the same; neighbours will find it by asking.
            tracing::warn!(container = namespace.name(), %error, "neighbours are not told of the new addresses");
        }
        Ok(())
    }

    /// Waits until a veth passes frames. On a bridge that is down it never does, which is for others to notice.
    fn await_carrier(&self, outside: &Link) -> Result<(), HostError> {
        let deadline = Instant::now() + CARRIER;
        while Instant::now() < deadline {
            if self.netlink.link_at(outside.index, None)?.is_some_and(|link| link.running) {
                return Ok(());
            }
            sleep(LOOK);
        }
        tracing::warn!(device = outside.name, "still not passing frames");
        Ok(())
    }
}
