//! The bridge: made, taken over, and its ports.

use super::{Edge, device::inode_of};
use crate::{
    error::HostError,
    host::{Bridge, BridgeConfig, Port},
    mark::{BridgeMark, Mark},
    netlink::Link,
    netns::Namespace,
    sysctl,
};

impl Edge {
    pub(super) fn ensure_bridge(&self, wanted: &BridgeConfig) -> Result<Bridge, HostError> {
        wanted.check()?;
        let found = self.netlink.link(&self.bridge)?;
        // One whose maker died before it could leave a mark is known by its Ethernet address.
        let unmarked = |link: &Link| link.bridge && link.alias.is_none() && link.mac == Some(wanted.mac());
        if let Some(link) = &found
            && bridge_mark(link).is_none()
            && !unmarked(link)
        {
            return Err(self.foreign(&self.bridge));
        }
        let kept = found.as_ref().map_or(BridgeConfig::DEFAULT_MTU, |link| link.mtu);
        let mtu = wanted.mtu.unwrap_or(kept);
        self.netlink.put_bridge(&self.bridge, wanted.mac(), mtu)?;
        let link = self.netlink.link(&self.bridge)?.ok_or_else(|| self.no_bridge())?;
        if found.is_none() {
            // Only an MTU that was changed is kept: else the bridge takes on the least of its ports', whoever sets that.
            self.netlink.set_mtu(&link, mtu - 1)?;
            self.netlink.set_mtu(&link, mtu)?;
        }
        let mark = bridge_mark(&link).unwrap_or_default();
        self.netlink.set_alias(&link, &Mark::Bridge(mark.clone()).to_string())?;
        sysctl::prepare_station(&self.bridge)?;
        sysctl::skip_duplicate_detection(&self.bridge)?;
        self.spread_mtu(&link, kept)?;
        self.restore_exposure(&link, &mark)?;
        self.let_bridged_pass();
        Ok(Bridge { name: link.name, index: link.index, mac: wanted.mac(), mtu: link.mtu, created: found.is_none() })
    }

    pub(super) fn add_port(&self, device: &str) -> Result<(), HostError> {
        let (bridge, _) = self.our_bridge()?;
        let link = self.netlink.link(device)?.ok_or_else(|| HostError::NoDevice(device.to_owned()))?;
        if link.controller.is_some_and(|index| index != bridge.index) {
            return Err(self.foreign(device));
        }
        sysctl::mute(device)?;
        self.netlink.plug(&link, &bridge, &Mark::Port.to_string())
    }

    pub(super) fn ports(&self) -> Result<Vec<Port>, HostError> {
        let (bridge, _) = self.our_bridge()?;
        let mut ports: Vec<Port> = self.netlink.ports(&bridge)?.into_iter().map(port).collect();
        ports.sort_by(|a, b| a.device.cmp(&b.device));
        Ok(ports)
    }

    /// The bridge, if there is one and it is ours, and what it remembers.
    pub(super) fn our_bridge(&self) -> Result<(Link, BridgeMark), HostError> {
        let link = self.netlink.link(&self.bridge)?.ok_or_else(|| self.no_bridge())?;
        let Some(mark) = bridge_mark(&link) else { return Err(self.foreign(&self.bridge)) };
        Ok((link, mark))
    }

    /// As [`Self::our_bridge`]; none if there is no bridge at all.
    pub(super) fn bridge_if_there(&self) -> Result<Option<Link>, HostError> {
        match self.our_bridge() {
            Err(HostError::NoBridge(_)) => Ok(None),
            found => found.map(|(bridge, _)| Some(bridge)),
        }
    }

    pub(super) fn foreign(&self, device: &str) -> HostError {
        HostError::ForeignDevice { device: device.to_owned(), place: "this host".to_owned() }
    }

    fn no_bridge(&self) -> HostError {
        HostError::NoBridge(self.bridge.clone())
    }

    /// Gives all ports of ours and the containers behind them the MTU of the bridge, but for those that have a lesser one of their own,
    /// which was given at attach or by somebody else.
    fn spread_mtu(&self, bridge: &Link, before: u32) -> Result<(), HostError> {
        let follows = |link: &Link| link.mtu != bridge.mtu && (link.mtu == before || link.mtu > bridge.mtu);
        for link in &self.netlink.ports(bridge)? {
            let Some(mark) = link.alias.as_deref().and_then(Mark::parse) else { continue };
            if follows(link) {
                self.netlink.set_mtu(link, bridge.mtu)?;
            }
            if let Mark::Container(name) = mark
                && let Some(inside) = self.inside(link)?.filter(follows)
                && let Err(error) = self.set_mtu_inside(&name, link, &inside, bridge.mtu)
            {
                // No name and no process may lead there any more.
                tracing::warn!(container = name, %error, "cannot set the MTU inside the container");
            }
        }
        Ok(())
    }

    fn set_mtu_inside(&self, name: &str, outside: &Link, inside: &Link, mtu: u32) -> Result<(), HostError> {
        let is_it = |namespace: &Namespace| self.number(namespace).is_ok_and(|n| n == outside.peer_namespace);
        let by_inode = || Namespace::of_inode(inode_of(&outside.name)?);
        let found = Namespace::find(name).ok().filter(is_it).or_else(|| by_inode().filter(is_it));
        let namespace = found.ok_or_else(|| HostError::NoNamespace(name.to_owned()))?;
        namespace.enter(|netlink| netlink.set_mtu(inside, mtu))
    }
}

/// What a device remembers that is a bridge of ours.
pub(crate) fn bridge_mark(link: &Link) -> Option<BridgeMark> {
    match link.alias.as_deref().and_then(Mark::parse)? {
        Mark::Bridge(mark) if link.bridge => Some(mark),
        Mark::Bridge(_) | Mark::Port | Mark::Container(_) => None,
    }
}

fn port(link: Link) -> Port {
    let mark = link.alias.as_deref().and_then(Mark::parse);
    let ours = mark.is_some();
    let container = match mark {
        Some(Mark::Container(name)) => Some(name),
        Some(Mark::Bridge(_) | Mark::Port) | None => None,
    };
    Port { device: link.name, index: link.index, container, ours, up: link.running }
}
