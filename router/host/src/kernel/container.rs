//! Containers: which are on the bridge, what they get, and what is taken from them.
//!
//! ```text
//! weft (bridge) ── vethweINODE │ ethwe (container)
//! ```
//! The host's side is marked with the container's name. Which namespace the other side is in, the kernel tells of it (and lets us read
//! addresses there without going in), so names may be given up or used again meanwhile. How a device is made: [`device`](super::device).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::errno::Errno;
use weft::{
    api::{AttachRequest, Attachment},
    id::Mac,
};

use super::{Edge, device::Wanted};
use crate::{
    addressing,
    error::HostError,
    host::EXPOSED,
    mark::Mark,
    netlink::{Address, Link, Netlink},
    netns::Namespace,
};

/// How long we rely on what a container's addresses were. Asking costs two questions a container, which hundreds of them would pay at
/// each attach; what we change ourselves is known at once, and others seldom change addresses of containers.
const FRESH: Duration = Duration::from_secs(10);

/// What is known of containers, by the index of the host's side, and since when.
pub(super) type Seen = RefCell<BTreeMap<u32, (Instant, Plugged)>>;

/// A container on the bridge.
#[derive(Clone)]
pub(super) struct Plugged {
    pub(super) name: String,
    pub(super) outside: Link,
    pub(super) inside: Link,
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
        let request = AttachRequest { container: container.to_owned(), ..AttachRequest::default() };
        match self.meant(&request)?.first().and_then(container_of) {
            Some(name) => Ok(name),
            None => Ok(Namespace::find(container)?.name().to_owned()),
        }
    }

    pub(super) fn attach(&self, request: &AttachRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        let asked = addressing::checked(&request.addresses)?;
        let namespace = Namespace::find(&request.container)?;
        let (bridge, _) = self.our_bridge()?;
        let wanted = Wanted::of(request, &asked, &bridge)?;
        let number = self.number(&namespace)?;
        let (ours, mut others): (Vec<Plugged>, Vec<Plugged>) =
            self.plugged(&bridge)?.into_iter().partition(|plugged| plugged.is(number, wanted.device));
        // Of this one, what it is right now.
        let plugged = ours.first().map(|ours| self.plugged_at(&ours.outside)).transpose()?.flatten();
        let stale: Vec<Plugged> =
            others.extract_if(.., |other| request.name.is_some() && other.name == wanted.name).collect();

        let inside = plugged.as_ref().map(|plugged| plugged.inside.index);
        let survey = namespace.enter(|netlink| survey(netlink, namespace.name(), wanted.device, inside))?;
        if survey.named && plugged.is_none() {
            let place = format!("container \"{}\"", namespace.name());
            return Err(HostError::ForeignDevice { device: wanted.device.to_owned(), place });
        }
        let has = plugged.as_ref().map(|plugged| plugged.addresses.as_slice()).unwrap_or_default();
        let taken = [survey.others, self.taken(&bridge, &others)?].concat();
        let missing = addressing::missing(&asked, has, &taken)?;

        stale.iter().try_for_each(|stale| self.netlink.remove(&stale.outside))?;
        let outside = match &plugged {
            Some(plugged) => self.plug_again(&namespace, plugged, &wanted, request.name.is_some())?,
            None => self.plug_in(&namespace, &bridge, &wanted)?,
        };
        self.keep_bridged_passing();
        let given = self.give(&namespace, &outside, &missing, &wanted);
        self.forget(&outside);
        if given.is_err() && plugged.is_none() {
            self.netlink.remove(&outside)?;
        }
        given.map(|()| asked)
    }

    pub(super) fn detach(&self, request: &AttachRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        let found = match &request.name {
            Some(name) => self.named(name)?,
            None => self.meant(request)?,
        };
        let taken = found.iter().map(|outside| self.take(outside, request)).collect::<Result<Vec<_>, _>>()?;
        Ok(taken.concat())
    }

    /// Takes addresses from a container, and unplugs it with the last.
    fn take(&self, outside: &Link, request: &AttachRequest<IpNet>) -> Result<Vec<IpNet>, HostError> {
        self.forget(outside);
        let Some(plugged) = self.plugged_at(outside)? else {
            // The other side is gone, and this one about to go.
            return self.netlink.remove(outside).map(|()| Vec::new());
        };
        let leaving = addressing::leaving(&request.addresses, &plugged.addresses);
        if leaving.len() == plugged.addresses.len() {
            self.netlink.remove(outside)?;
            return Ok(leaving);
        }
        let namespace = Namespace::find(&request.container)?;
        if self.number(&namespace)? != outside.peer_namespace {
            return Err(HostError::NoNamespace(request.container.clone()));
        }
        namespace.enter(|netlink| leaving.iter().try_for_each(|net| netlink.remove_address(&plugged.inside, *net)))?;
        Ok(leaving)
    }

    /// The host's sides of what a person means: of the device in a namespace; if there is no such any more, of what was attached under
    /// this name.
    fn meant(&self, request: &AttachRequest<IpNet>) -> Result<Vec<Link>, HostError> {
        let namespace = match Namespace::find(&request.container) {
            Err(HostError::NoNamespace(name)) => {
                let named = self.named(&name)?;
                return if named.is_empty() { Err(HostError::NoNamespace(name)) } else { Ok(named) };
            }
            found => found?,
        };
        let number = self.number(&namespace)?;
        let device = Wanted::device(request)?;
        let Some(bridge) = self.bridge_if_there()? else { return Ok(Vec::new()) };
        let plugged = self.plugged(&bridge)?.into_iter();
        Ok(plugged.filter(|plugged| plugged.is(number, device)).map(|plugged| plugged.outside).collect())
    }

    /// The host's sides of what is attached under a name.
    fn named(&self, name: &str) -> Result<Vec<Link>, HostError> {
        let Some(bridge) = self.bridge_if_there()? else { return Ok(Vec::new()) };
        let mut links = self.netlink.ports(&bridge)?;
        links.retain(|link| container_of(link).as_deref() == Some(name));
        Ok(links)
    }

    pub(super) fn attachments(&self) -> Result<Vec<Attachment>, HostError> {
        let Some(bridge) = self.bridge_if_there()? else { return Ok(Vec::new()) };
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

    /// All containers on the bridge: those that are there now, with addresses that are at most [`FRESH`] old.
    pub(super) fn plugged(&self, bridge: &Link) -> Result<Vec<Plugged>, HostError> {
        let links = self.netlink.ports(bridge)?;
        let mut known = std::mem::take(&mut *self.seen.borrow_mut());
        let mut seen = BTreeMap::new();
        for outside in links {
            let fresh = known.remove(&outside.index).filter(|(when, known)| known.is_still(&outside, *when));
            let found = match fresh {
                Some(known) => Some(known),
                None => self.plugged_at(&outside)?.map(|plugged| (Instant::now(), plugged)),
            };
            seen.extend(found.map(|found| (outside.index, found)));
        }
        let plugged = seen.values().map(|(_, plugged)| plugged.clone()).collect();
        *self.seen.borrow_mut() = seen;
        Ok(plugged)
    }

    /// What is known of a container is not so any more.
    pub(super) fn forget(&self, outside: &Link) {
        self.seen.borrow_mut().remove(&outside.index);
    }

    /// The container at a port of the bridge; none if it is gone, or the port is another's.
    fn plugged_at(&self, outside: &Link) -> Result<Option<Plugged>, HostError> {
        let Some(name) = container_of(outside) else { return Ok(None) };
        let Some(inside) = self.inside(outside)? else { return Ok(None) };
        let addresses = self.addresses_inside(outside, &inside)?;
        Ok(addresses.map(|addresses| Plugged { name, outside: outside.clone(), inside, addresses }))
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

    /// The addresses of these and of the host on the bridge, with who has them.
    pub(super) fn taken(&self, bridge: &Link, plugged: &[Plugged]) -> Result<Vec<(IpNet, String)>, HostError> {
        let exposed = self.exposed(bridge)?.into_iter().map(|net| (net, EXPOSED.to_owned()));
        let of_containers = plugged.iter().flat_map(|plugged| {
            let by = format!("container \"{}\"", plugged.name);
            plugged.addresses.iter().map(move |net| (*net, by.clone()))
        });
        Ok(exposed.chain(of_containers).collect())
    }

    /// None if the container is gone.
    fn addresses_inside(&self, outside: &Link, inside: &Link) -> Result<Option<Vec<IpNet>>, HostError> {
        match self.netlink.addresses(outside.peer_namespace) {
            Ok(addresses) => Ok(Some(given(&addresses, inside.index))),
            Err(error) if error.is_errno(&[Errno::EINVAL]) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Plugged {
    /// Whether it is the device of that name in the namespace of that number.
    fn is(&self, namespace: Option<i32>, device: &str) -> bool {
        namespace.is_some() && self.outside.peer_namespace == namespace && self.inside.name == device
    }

    /// Whether it may be taken for what is behind a port now.
    fn is_still(&self, outside: &Link, since: Instant) -> bool {
        let same = |link: &Link| (link.peer, link.peer_namespace, link.alias.clone());
        since.elapsed() < FRESH && same(&self.outside) == same(outside)
    }

    fn attachment(self) -> Attachment {
        Attachment { container: self.name, mac: self.inside.mac.unwrap_or(Mac([0; 6])), addresses: self.addresses }
    }
}

/// The container that the host's side of a veth is marked for.
pub(crate) fn container_of(outside: &Link) -> Option<String> {
    match outside.alias.as_deref().and_then(Mark::parse)? {
        Mark::Container(name) => Some(name),
        Mark::Bridge(_) | Mark::Port => None,
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
pub(crate) fn given(addresses: &[Address], index: u32) -> Vec<IpNet> {
    let of_device = addresses.iter().filter(|address| address.index == index).map(|address| address.net);
    let mut given: Vec<IpNet> = of_device.filter(|net| !addressing::is_automatic(net.addr())).collect();
    given.sort();
    given
}

fn survey(netlink: &Netlink, container: &str, device: &str, ours: Option<u32>) -> Result<Survey, HostError> {
    let links = netlink.links()?;
    let name =
        |index: u32| links.iter().find(|link| link.index == index).map_or("another device", |link| link.name.as_str());
    let foreign = netlink.addresses(None)?.into_iter().filter(|address| Some(address.index) != ours);
    let others =
        foreign.map(|address| (address.net, format!("{} of container \"{container}\"", name(address.index)))).collect();
    let named = links.iter().any(|link| link.name == device);
    Ok(Survey { others, named })
}
