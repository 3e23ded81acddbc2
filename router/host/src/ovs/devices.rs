//! The devices of the backend: made, taken over, mended; how the bridge treats them, and the ports of the datapath.
//!
//! ```text
//!   bridge `weft` ─┬─ weft-ov ══ veth pair ══ weft-od ─┬─ datapath `weft-dp` ─┬─ weft-ox: VXLAN over IPv4 and IPv6
//!                  └─ weft-tap ── sleeve               └─ port 2       port 1 ┘
//!
//!            learning  flood  isolated
//! veth          no       no      yes     only what the table sends there; nothing to the sleeve
//! TAP           no      yes      yes     unknown stations and groups; who is behind it is for the plan to say
//! ```
//! A datapath is ours if its device has our mark. One without any mark that has neither ports nor flows is one whose maker was killed
//! before it could leave it.

use std::{fs::File, os::fd::AsFd as _};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use weft::id::Mac;

use super::{
    datapath::{self, Datapath, Datapaths, VPort, VPortKind},
    flow,
};
use crate::{
    error::HostError,
    fastdp::FastConfig,
    mark::Mark,
    netlink::{Link, Netlink, PortRules, Veth},
    sysctl,
};

const VETH_RULES: PortRules = PortRules { learning: false, flood: false, isolated: true };
const TAP_RULES: PortRules = PortRules { learning: false, flood: true, isolated: true };
/// The namespace of the calling thread.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// What was mended, in words.
pub(super) type Mended = Vec<String>;

/// The devices by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) bridge: u32,
    pub(super) bridge_mac: Option<Mac>,
    pub(super) tap: u32,
    /// The veth's side on the bridge.
    pub(super) veth: u32,
    pub(super) datapath: Datapath,
}

/// Names of the devices of one bridge.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) datapath: String,
    /// The veth's side on the bridge, and its side in the datapath.
    pub(super) outside: String,
    pub(super) inside: String,
    pub(super) vxlan: String,
}

impl Names {
    pub(super) fn new(bridge: &str) -> Self {
        let name = |end: &str| format!("{bridge}-{end}");
        Self { datapath: name("dp"), outside: name("ov"), inside: name("od"), vxlan: name("ox") }
    }
}

/// Removes our datapath of a bridge with all that belongs to it. Nothing of ours there, or no Open vSwitch, is no error.
pub(crate) fn remove(netlink: &Netlink, bridge: &str) -> Result<(), HostError> {
    let names = Names::new(bridge);
    if netlink.link(&names.datapath)?.is_some_and(|link| is_marked(&link)) {
        Datapaths::open()?.remove(&names.datapath)?;
    }
    match netlink.link(&names.outside)?.filter(is_marked) {
        Some(link) => netlink.remove(&link),
        None => Ok(()),
    }
}

/// Whether a device is one of those that only the removal of the datapath removes.
pub(crate) fn is_datapath(link: &Link, bridge: &str) -> bool {
    link.name == Names::new(bridge).datapath && is_marked(link)
}

/// Makes everything right, and says what was not.
pub(super) fn ensure(
    netlink: &Netlink,
    datapaths: &mut Datapaths,
    config: &FastConfig,
) -> Result<(Devices, Mended), HostError> {
    let link = |name: &str| netlink.link(name);
    let bridge = link(&config.bridge)?.filter(|link| link.bridge);
    let bridge = bridge.ok_or_else(|| HostError::NoBridge(config.bridge.clone()))?;
    let tap = link(&config.tap)?.ok_or_else(|| HostError::NoDevice(config.tap.clone()))?;
    let names = Names::new(&config.bridge);
    let mut workshop = Workshop { netlink, datapaths, config, names, bridge: &bridge, mended: Mended::new() };
    workshop.plugged(&tap, TAP_RULES)?;
    let datapath = workshop.datapath()?;
    let outside = workshop.veth()?;
    workshop.ports(datapath)?;
    let mended = workshop.mended;
    let devices =
        Devices { bridge: bridge.index, bridge_mac: bridge.mac, tap: tap.index, veth: outside.index, datapath };
    Ok((devices, mended))
}

struct Workshop<'a> {
    netlink: &'a Netlink,
    datapaths: &'a mut Datapaths,
    config: &'a FastConfig,
    names: Names,
    bridge: &'a Link,
    mended: Mended,
}

impl Workshop<'_> {
    /// The datapath, whose own device stays down: it is there only for its name.
    fn datapath(&mut self) -> Result<Datapath, HostError> {
        let name = self.names.datapath.clone();
        let datapath = match (self.datapaths.find(&name)?, self.netlink.link(&name)?) {
            (Some(found), Some(link)) if is_marked(&link) => return Ok(found),
            (Some(found), Some(link)) if link.alias.is_none() && self.is_empty(found)? => found,
            (None, None) => {
                self.mend(&name, "was not there");
                self.datapaths.create(&name)?
            }
            (Some(_) | None, _) => return Err(foreign(&name)),
        };
        let link = self.device(&name)?;
        sysctl::mute(&name)?;
        self.netlink.set_alias(&link, &Mark::Port.to_string())?;
        Ok(datapath)
    }

    fn is_empty(&mut self, datapath: Datapath) -> Result<bool, HostError> {
        Ok(datapath.flows == 0 && self.datapaths.ports(datapath)?.iter().all(|port| port.number == 0))
    }

    /// The veth pair, up; answers with the side on the bridge.
    fn veth(&mut self) -> Result<Link, HostError> {
        let (name, inside) = (self.names.outside.clone(), self.names.inside.clone());
        let found = match (self.netlink.link(&name)?, self.netlink.link(&inside)?) {
            (Some(outside), Some(inside)) if outside.peer == Some(inside.index) && self.is_ours(&outside) => {
                (outside, inside)
            }
            (None, None) => {
                self.mend(&name, "was not there");
                self.make_veth()?;
                (self.device(&name)?, self.device(&inside)?)
            }
            (Some(_), _) => return Err(foreign(&name)),
            (None, Some(_)) => return Err(foreign(&inside)),
        };
        let (outside, inside) = found;
        sysctl::mute(&inside.name)?;
        self.plugged(&outside, VETH_RULES)?;
        for side in [&outside, &inside] {
            if side.mtu != self.bridge.mtu {
                self.mend(&name, "had another MTU");
                self.netlink.set_mtu(side, self.bridge.mtu)?;
            }
            if !side.up {
                self.mend(&side.name, "was down");
                self.netlink.set_up(side)?;
            }
        }
        Ok(outside)
    }

    fn make_veth(&self) -> Result<(), HostError> {
        let failed = |error| HostError::io("look at our own network namespace", &error);
        let namespace = File::open(OWN_NAMESPACE).map_err(failed)?;
        let (name, peer) = (&self.names.outside, &self.names.inside);
        self.netlink.add_veth(&Veth { name, peer, namespace: namespace.as_fd(), mtu: self.bridge.mtu })
    }

    /// Plugs a device into the bridge, with its rules.
    fn plugged(&mut self, link: &Link, rules: PortRules) -> Result<(), HostError> {
        sysctl::mute(&link.name)?;
        if link.controller != Some(self.bridge.index) || !is_marked(link) {
            self.mend(&link.name, "was not plugged into the bridge");
            self.netlink.plug_silently(link, self.bridge, &Mark::Port.to_string())?;
        }
        if !rules.hold(link) {
            self.mend(&link.name, "had other settings as a port of the bridge");
            self.netlink.set_port_rules(link, rules)?;
        }
        Ok(())
    }

    /// The ports of the datapath, by the numbers that the flows know them by.
    fn ports(&mut self, datapath: Datapath) -> Result<(), HostError> {
        let found = self.datapaths.ports(datapath)?;
        let vxlan = VPortKind::Vxlan(self.config.port);
        let vxlan = VPort { number: flow::VXLAN, name: self.names.vxlan.clone(), kind: vxlan };
        let veth = VPort { number: flow::VETH, name: self.names.inside.clone(), kind: VPortKind::Device };
        for port in [&vxlan, &veth] {
            if found.contains(port) {
                continue;
            }
            self.mend(&port.name, "was not a port of the datapath");
            for other in found.iter().filter(|other| other.number == port.number || other.name == port.name) {
                self.datapaths.remove_port(datapath, other)?;
            }
            self.add_port(datapath, port)?;
        }
        self.vxlan_up()
    }

    /// Sees to the VXLAN device, which was up when it was made.
    fn vxlan_up(&mut self) -> Result<(), HostError> {
        let link = self.device(&self.names.vxlan)?;
        if link.up {
            return Ok(());
        }
        self.mend(&link.name, "was down");
        match self.netlink.set_up(&link) {
            Err(error) if error.is_errno(&[Errno::EADDRINUSE]) => Err(datapath::port_in_use(self.config.port)),
            result => result,
        }
    }

    fn add_port(&mut self, datapath: Datapath, port: &VPort) -> Result<(), HostError> {
        if let VPortKind::Vxlan(_) = port.kind {
            if self.netlink.link(&port.name)?.is_some() {
                return Err(foreign(&port.name));
            }
            load_ipv6();
        }
        self.datapaths.add_port(datapath, port)?;
        sysctl::mute(&port.name)?;
        let link = self.device(&port.name)?;
        self.netlink.set_alias(&link, &Mark::Port.to_string())
    }

    fn device(&self, name: &str) -> Result<Link, HostError> {
        self.netlink.link(name)?.ok_or_else(|| HostError::NoDevice(name.to_owned()))
    }

    /// Of a veth that we marked, or were about to when an earlier run was killed; in our bridge, or in none.
    fn is_ours(&self, link: &Link) -> bool {
        let half_made = link.alias.is_none() && link.controller.is_none();
        let free = link.controller.is_none_or(|index| index == self.bridge.index);
        free && (is_marked(link) || half_made)
    }

    /// Notes what was wrong with a device; of several things the first tells the others.
    fn mend(&mut self, device: &str, what: &str) {
        if !self.mended.iter().any(|text| text.strip_prefix(device).is_some_and(|rest| rest.starts_with(' '))) {
            self.mended.push(format!("{device} {what}"));
        }
    }
}

/// Has the kernel load its module for IPv6 now, if it is one: a VXLAN port opens sockets of both protocols under the lock for devices,
/// which that module's start needs too, and both would wait for ever.
fn load_ipv6() {
    // A kernel without IPv6 does without.
    drop(Socket::new(Domain::IPV6, Type::DGRAM, None));
}

fn foreign(device: &str) -> HostError {
    HostError::ForeignDevice { device: device.to_owned(), place: "this host".to_owned() }
}

fn is_marked(link: &Link) -> bool {
    link.alias.as_deref().and_then(Mark::parse) == Some(Mark::Port)
}
