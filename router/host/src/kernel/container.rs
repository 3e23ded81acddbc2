//! Containers: a veth pair from the bridge into their namespace, and addresses.
//!
//! ```text
//! weft (bridge) ── vethweINODE │ ethwe (container)
//! ```
//! The host's side is marked with the container's name. Which namespace the other side is in, the kernel tells of it (and lets us read
//! addresses there without going in), so names may be given up or used again meanwhile.

use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::errno::Errno;
use weft::{
    api::{AttachRequest, Attachment},
    id::Mac,
};

use super::Edge;
use crate::{
    addressing, announce,
    error::HostError,
    host::EXPOSED,
    mark::Mark,
    netlink::{Address, Link, Netlink, Veth},
    netns::Namespace,
    sysctl,
};

/// The container's side, as Weave Net names it.
const INSIDE: &str = "ethwe";
/// How the host's side begins; the namespace's inode number, 32 bits, makes it unique. "veth" keeps desktop tools away.
const OUTSIDE: &str = "vethwe";
/// How long a new veth may take until it passes frames: the kernel switches it on in the background, in milliseconds when idle.
const CARRIER: Duration = Duration::from_secs(2);
/// How often to look.
const LOOK: Duration = Duration::from_millis(5);

/// A container on the bridge.
pub(super) struct Plugged {
    pub(super) name: String,
    outside: Link,
    inside: Link,
    pub(super) addresses: Vec<IpNet>,
}

/// What is in a container's namespace before an attach.
struct Survey {
    /// Addresses of other devices, with who has them.
    others: Vec<(IpNet, String)>,
    /// Whether a device has the name of ours.
    named: bool,
}

impl Edge {
    pub(super) fn name_of(&self, container: &str) -> Result<String, HostError> {
        let namespace = Namespace::find(container)?;
        let plugged = self.plugged_in(&namespace)?;
        Ok(plugged.map_or_else(|| namespace.name().to_owned(), |plugged| plugged.name))
    }

    pub(super) fn attach(&self, request: &AttachRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        let asked = addressing::checked(&request.addresses)?;
        let namespace = Namespace::find(&request.container)?;
        let (bridge, _) = self.our_bridge()?;
        let plugged = self.plugged_in(&namespace)?;

        let (ours, named): (Vec<IpNet>, bool) =
            plugged.as_ref().map_or_else(|| (Vec::new(), false), |plugged| (plugged.addresses.clone(), true));
        let inside = plugged.as_ref().map(|plugged| plugged.inside.index);
        let survey = namespace.enter(|netlink| survey(netlink, namespace.name(), inside))?;
        if survey.named && !named {
            let place = format!("container \"{}\"", namespace.name());
            return Err(HostError::ForeignDevice { device: INSIDE.to_owned(), place });
        }
        let mut others = survey.others;
        others.extend(self.taken(inside.and(plugged.as_ref()))?);
        let missing = addressing::missing(&asked, &ours, &others)?;

        let outside = match &plugged {
            Some(plugged) => plugged.outside.clone(),
            None => self.plug_in(&namespace, &bridge)?,
        };
        let given = self.give(&namespace, &outside, &missing, &asked, !request.no_multicast_route);
        if given.is_err() && plugged.is_none() {
            self.netlink.remove(&outside)?;
        }
        given.map(|()| asked)
    }

    pub(super) fn detach(&self, request: &AttachRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        let namespace = Namespace::find(&request.container)?;
        let Some(plugged) = self.plugged_in(&namespace)? else { return Ok(Vec::new()) };
        let leaving = addressing::leaving(&request.addresses, &plugged.addresses);
        if leaving.len() == plugged.addresses.len() {
            self.netlink.remove(&plugged.outside)?;
            return Ok(leaving);
        }
        namespace.enter(|netlink| leaving.iter().try_for_each(|net| netlink.remove_address(&plugged.inside, *net)))?;
        Ok(leaving)
    }

    pub(super) fn attachments(&self) -> Result<Vec<Attachment>, HostError> {
        let bridge = match self.our_bridge() {
            Err(HostError::NoBridge(_)) => return Ok(Vec::new()),
            found => found?.0,
        };
        let mut containers: Vec<Attachment> = self.plugged(&bridge)?.into_iter().map(Plugged::attachment).collect();
        containers.sort_by(|a, b| a.container.cmp(&b.container));
        let exposed = Attachment {
            container: EXPOSED.to_owned(),
            mac: bridge.mac.unwrap_or(Mac([0; 6])),
            addresses: self.exposed(&bridge)?,
        };
        let all = std::iter::once(exposed).filter(|bridge| !bridge.addresses.is_empty()).chain(containers);
        Ok(all.collect())
    }

    /// All containers on the bridge.
    pub(super) fn plugged(&self, bridge: &Link) -> Result<Vec<Plugged>, HostError> {
        let mut plugged = Vec::new();
        for outside in self.netlink.links()? {
            if outside.controller == Some(bridge.index)
                && let Some(Mark::Container(name)) = outside.alias.as_deref().and_then(Mark::parse)
                && let Some(inside) = self.inside(&outside)?
                && let Some(addresses) = self.addresses_inside(&outside, &inside)?
            {
                plugged.push(Plugged { name, outside, inside, addresses });
            }
        }
        Ok(plugged)
    }

    /// The container's side of a veth; none if it is gone.
    pub(super) fn inside(&self, outside: &Link) -> Result<Option<Link>, HostError> {
        let Some(index) = outside.peer else { return Ok(None) };
        self.netlink.link_at(index, outside.peer_namespace)
    }

    /// Our namespace's number for a container's.
    pub(super) fn number(&self, namespace: &Namespace) -> Result<Option<i32>, HostError> {
        match self.netlink.namespace_number(namespace.fd()) {
            Err(error) if error.is_errno(&[Errno::EINVAL]) => {
                Err(HostError::NotANamespace(namespace.name().to_owned()))
            }
            number => number,
        }
    }

    /// The addresses of all on the bridge but one container, with who has them.
    pub(super) fn taken(&self, except: Option<&Plugged>) -> Result<Vec<(IpNet, String)>, HostError> {
        let (bridge, _) = self.our_bridge()?;
        let except = except.map(|plugged| plugged.outside.index);
        let mut taken: Vec<(IpNet, String)> =
            self.exposed(&bridge)?.into_iter().map(|net| (net, EXPOSED.to_owned())).collect();
        for plugged in self.plugged(&bridge)? {
            if Some(plugged.outside.index) != except {
                let by = format!("container \"{}\"", plugged.name);
                taken.extend(plugged.addresses.iter().map(|net| (*net, by.clone())));
            }
        }
        Ok(taken)
    }

    fn plugged_in(&self, namespace: &Namespace) -> Result<Option<Plugged>, HostError> {
        let Some(number) = self.number(namespace)? else { return Ok(None) };
        let bridge = match self.our_bridge() {
            Err(HostError::NoBridge(_)) => return Ok(None),
            found => found?.0,
        };
        Ok(self.plugged(&bridge)?.into_iter().find(|plugged| plugged.outside.peer_namespace == Some(number)))
    }

    /// None if the container is gone.
    fn addresses_inside(&self, outside: &Link, inside: &Link) -> Result<Option<Vec<IpNet>>, HostError> {
        match self.netlink.addresses(outside.peer_namespace) {
            Ok(addresses) => Ok(Some(given(&addresses, inside.index))),
            Err(error) if error.is_errno(&[Errno::EINVAL]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the veth pair, marked, on the bridge, its inner side still down.
    fn plug_in(&self, namespace: &Namespace, bridge: &Link) -> Result<Link, HostError> {
        let name = format!("{OUTSIDE}{:08x}", namespace.inode());
        // What an attach that was killed half-way has left: ours by its name, but not yet marked.
        if let Some(left) = self.netlink.link(&name)?
            && left.alias.is_none()
            && left.controller.is_none()
        {
            self.netlink.remove(&left)?;
        }
        self.netlink.add_veth(&Veth { name: &name, peer: INSIDE, namespace: namespace.fd(), mtu: bridge.mtu })?;
        let missing = || HostError::NoDevice(name.clone());
        let outside = self.netlink.link(&name)?.ok_or_else(missing)?;
        let mark = Mark::Container(namespace.name().to_owned());
        let plugged = sysctl::mute(&name).and_then(|()| self.netlink.plug(&outside, bridge, &mark.to_string()));
        if let Err(error) = plugged {
            self.netlink.remove(&outside)?;
            return Err(error);
        }
        // Once more: what it is now, with the number of the other namespace.
        self.netlink.link(&name)?.ok_or_else(missing)
    }

    /// Switches the container's side on and gives it addresses, all or none, and tells the neighbours.
    fn give(
        &self,
        namespace: &Namespace,
        outside: &Link,
        missing: &[IpNet],
        all: &[IpNet],
        multicast: bool,
    ) -> Result<(), HostError> {
        let inside = self.inside(outside)?.ok_or_else(|| HostError::NoDevice(INSIDE.to_owned()))?;
        namespace.enter(|netlink| {
            sysctl::prepare_station(&inside.name)?;
            if missing.iter().any(|net| net.addr().is_ipv6()) {
                // Container engines like to switch it off.
                sysctl::unmute(&inside.name)?;
            }
            netlink.set_up(&inside)?;
            add_all(netlink, &inside, missing)?;
            if multicast { netlink.add_multicast_route(&inside) } else { Ok(()) }
        })?;
        self.await_carrier(outside)?;
        let addresses: Vec<IpAddr> = all.iter().map(IpNet::addr).collect();
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

impl Plugged {
    fn attachment(self) -> Attachment {
        Attachment { container: self.name, mac: self.inside.mac.unwrap_or(Mac([0; 6])), addresses: self.addresses }
    }
}

/// Gives a device addresses: all or none.
pub(super) fn add_all(netlink: &Netlink, link: &Link, addresses: &[IpNet]) -> Result<(), HostError> {
    for (n, net) in addresses.iter().enumerate() {
        if let Err(error) = netlink.add_address(link, *net) {
            for net in &addresses[..n] {
                netlink.remove_address(link, *net)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The addresses of a device that were given, not made by the kernel itself, in order.
pub(super) fn given(addresses: &[Address], index: u32) -> Vec<IpNet> {
    let of_device = addresses.iter().filter(|address| address.index == index).map(|address| address.net);
    let mut given: Vec<IpNet> = of_device.filter(|net| !addressing::is_automatic(net.addr())).collect();
    given.sort();
    given
}

fn survey(netlink: &Netlink, container: &str, ours: Option<u32>) -> Result<Survey, HostError> {
    let links = netlink.links()?;
    let name =
        |index: u32| links.iter().find(|link| link.index == index).map_or("another device", |link| link.name.as_str());
    let foreign = netlink.addresses(None)?.into_iter().filter(|address| Some(address.index) != ours);
    let others =
        foreign.map(|address| (address.net, format!("{} of container \"{container}\"", name(address.index)))).collect();
    let named = links.iter().any(|link| link.name == INSIDE);
    Ok(Survey { others, named })
}
