//! A container's device seen from the host that it is on, without a router: for plugins, whose calls have to be answered also while
//! none runs.

use std::net::IpAddr;

use ipnet::IpNet;
use weft::id::Mac;

use crate::{
    error::HostError,
    kernel::{bridge_mark, container_of, given},
    netlink::{Link, Netlink},
    netns::Namespace,
};

/// A device in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its Ethernet address; none if it has no such.
    pub mac: Option<Mac>,
    /// Bytes of its largest IP packet.
    pub mtu: u32,
    /// Its addresses but those that the kernel chose.
    pub addresses: Vec<IpNet>,
    /// Destinations that it leads to, with their gateways.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// The other side of it, if that is ours.
    pub outside: Option<Outside>,
}

/// The host's side of a container's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Its name.
    pub device: String,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Bytes of its largest IP packet.
    pub mtu: u32,
    /// The container that it is marked for.
    pub container: String,
    /// Whether it is plugged into a bridge.
    pub plugged: bool,
}

/// Looks at a device in a container's namespace; none if there is no such device. Blocks.
///
/// # Errors
/// No such namespace, one that cannot be used or is our own; or what the kernel says.
pub fn inspect(namespace: &str, device: &str) -> Result<Option<Station>, HostError> {
    let namespace = Namespace::find(namespace)?;
    let found = namespace.enter(|netlink| {
        let Some(link) = netlink.link(device)? else { return Ok(None) };
        let addresses = given(&netlink.addresses(None)?, link.index);
        let routes = netlink.routes_through(&link)?;
        Ok(Some((link, addresses, routes)))
    })?;
    let Some((link, addresses, routes)) = found else { return Ok(None) };
    let outside = match link.peer {
        Some(index) => Netlink::open()?.link_at(index, None)?.and_then(|link| outside(&link)),
        None => None,
    };
    Ok(Some(Station { mac: link.mac, mtu: link.mtu, addresses, routes, outside }))
}

/// Whether a text is the path, the name or the process of a namespace that a container can have. Blocks.
///
/// # Errors
/// As for [`inspect`], and [`HostError::NotANamespace`].
pub fn is_namespace(namespace: &str) -> Result<(), HostError> {
    Namespace::find(namespace)?.enter(|_| Ok(()))
}

/// The address that the host itself has on the network in a subnet, if it has one: that of a bridge of ours. Blocks.
///
/// # Errors
/// What the kernel says.
pub fn exposed(subnet: IpNet) -> Result<Option<IpAddr>, HostError> {
    let netlink = Netlink::open()?;
    for address in netlink.addresses(None)?.iter().filter(|address| address.net.trunc() == subnet.trunc()) {
        if netlink.link_at(address.index, None)?.is_some_and(|link| bridge_mark(&link).is_some()) {
            return Ok(Some(address.net.addr()));
        }
    }
    Ok(None)
}

/// Removes what is attached under a name, as a router would. Answers with the number of devices. Blocks.
///
/// # Errors
/// What the kernel says.
pub fn unplug(name: &str) -> Result<usize, HostError> {
    let netlink = Netlink::open()?;
    let mut links = netlink.links()?;
    links.retain(|link| container_of(link).as_deref() == Some(name));
    links.iter().try_for_each(|link| netlink.remove(link))?;
    Ok(links.len())
}

fn outside(link: &Link) -> Option<Outside> {
    let container = container_of(link)?;
    let (device, plugged) = (link.name.clone(), link.controller.is_some());
    Some(Outside { device, mac: link.mac, mtu: link.mtu, container, plugged })
}
