//! Free ends: a veth pair whose one side is on the bridge, and whose other side somebody else moves into a container.
//!
//! ```text
//! weft (bridge) ── vethwl12345678   vethwg12345678 ──▶ moved and renamed by the container engine
//! ```
//! Both names come from the endpoint's; the side on the bridge is marked with it as a container's is. Before it is moved, and when the
//! engine has put it back, the other side is in our own namespace.

use std::fs::File;

use std::os::fd::AsFd;

use nix::errno::Errno;
use weft::api::endpoint::{EndpointRequest, FreeEnd, PREFIX};

use super::Edge;
use crate::{
    addressing,
    error::HostError,
    host::BridgeConfig,
    mark::{CONTAINER_NAME_MAX, Mark, is_container_name},
    netlink::{Link, Veth},
    sysctl,
};

/// How the side on the bridge begins; a hash of the endpoint's name, 32 bits, follows. "veth" keeps desktop tools away.
const OUTSIDE: &str = "vethwl";
/// How the side begins that is to be moved.
const FREE: &str = "vethwg";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

impl Edge {
    pub(super) fn endpoint(&self, request: &EndpointRequest) -> Result<FreeEnd, HostError> {
        if !is_container_name(&request.name) || !request.name.starts_with(PREFIX) {
            let shown = request.name.chars().filter(|c| !c.is_control()).take(CONTAINER_NAME_MAX).collect();
            return Err(HostError::BadContainerName { name: shown, max: CONTAINER_NAME_MAX });
        }
        let (bridge, _) = self.our_bridge()?;
        let mtu = request.mtu.unwrap_or(bridge.mtu).min(bridge.mtu);
        BridgeConfig::check_mtu(mtu)?;
        if let Some(outside) = self.outside_of(&request.name)? {
            return self.still_free(&outside);
        }
        let taken = self.taken(&bridge, &self.plugged(&bridge)?)?;
        addressing::missing(&addressing::optional(&request.addresses)?, &[], &taken)?;
        let outside = self.make_pair(&request.name, &bridge, mtu)?;
        self.let_bridged_pass();
        let prepared = self.prepare(&outside, request, &bridge);
        if prepared.is_err() {
            self.netlink.remove(&outside)?;
        }
        prepared
    }

    pub(super) fn remove_endpoint(&self, name: &str) -> Result<(), HostError> {
        self.outside_of(name)?.map_or(Ok(()), |outside| self.netlink.remove(&outside))
    }

    /// The side on the bridge of an endpoint; none if there is none. A device of that name that is another's is an error.
    fn outside_of(&self, name: &str) -> Result<Option<Link>, HostError> {
        let device = device(OUTSIDE, name);
        let Some(link) = self.netlink.link(&device)? else { return Ok(None) };
        match link.alias.as_deref().map(Mark::parse) {
            Some(Some(Mark::Container(marked))) if marked == name => Ok(Some(link)),
            // What a call that was killed half-way has left: ours by its name, but not yet marked.
            None if link.controller.is_none() => self.netlink.remove(&link).map(|()| None),
            Some(_) | None => Err(self.foreign(&device)),
        }
    }

    fn still_free(&self, outside: &Link) -> Result<FreeEnd, HostError> {
        match self.inside(outside)? {
            Some(free) if outside.peer_namespace.is_none() => Ok(free_end(free)),
            Some(_) | None => Err(self.foreign(&outside.name)),
        }
    }

    fn make_pair(&self, name: &str, bridge: &Link, mtu: u32) -> Result<Link, HostError> {
        let (outside, free) = (device(OUTSIDE, name), device(FREE, name));
        let own = File::open(OWN).map_err(|error| HostError::io("look at our own network namespace", &error))?;
        let veth = Veth { name: &outside, peer: &free, namespace: own.as_fd(), mtu: bridge.mtu };
        match self.netlink.add_veth(&veth) {
            Err(error) if error.is_errno(&[Errno::EEXIST]) => return Err(self.foreign(&free)),
            made => made?,
        }
        let outside = self.netlink.link(&outside)?.ok_or(HostError::NoDevice(outside))?;
        if let Some(link) = self.netlink.link(&free)?
            && mtu != link.mtu
        {
            self.netlink.set_mtu(&link, mtu)?;
        }
        Ok(outside)
    }

    fn prepare(&self, outside: &Link, request: &EndpointRequest, bridge: &Link) -> Result<FreeEnd, HostError> {
        let missing = || HostError::NoDevice(device(FREE, &request.name));
        let free = self.inside(outside)?.ok_or_else(missing)?;
        // Until it is moved it shall say nothing on behalf of this host.
        sysctl::mute(&free.name)?;
        if let Some(mac) = request.mac {
            self.netlink.set_mac(&free, mac)?;
        }
        sysctl::mute(&outside.name)?;
        self.netlink.plug(outside, bridge, &Mark::Container(request.name.clone()).to_string())?;
        self.inside(outside)?.map(free_end).ok_or_else(missing)
    }
}

fn free_end(link: Link) -> FreeEnd {
    FreeEnd { device: link.name, mac: link.mac.unwrap_or(weft::id::Mac([0; 6])), mtu: link.mtu }
}

/// A device's name for an endpoint: FNV-1a of its name, so that it is found again without a list.
fn device(prefix: &str, name: &str) -> String {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{prefix}{hash:08x}")
}
