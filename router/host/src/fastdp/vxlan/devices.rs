//! The devices of the backend: made, taken over, mended; and how the bridge treats them.
//!
//! ```text
//!            learning  flood  isolated
//! VXLAN         no       no      yes     only what the tables send there; nothing to the sleeve or the other family
//! TAP           no      yes      yes     unknown stations and groups; who is behind it is for the plan to say
//! others        yes     yes      no      as the kernel makes them
//! ```

use nix::errno::Errno;
use weft::id::Mac;

use crate::{
    error::HostError,
    fastdp::FastConfig,
    mark::Mark,
    netlink::{Family, Link, Netlink, PortRules, VxlanConfig, vxlan_port},
    sysctl,
};

const VXLAN_RULES: PortRules = PortRules { learning: false, flood: false, isolated: true };
const TAP_RULES: PortRules = PortRules { learning: false, flood: true, isolated: true };

/// What was mended, in words.
pub(super) type Mended = Vec<String>;

/// The devices by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) bridge: u32,
    pub(super) bridge_mac: Option<Mac>,
    pub(super) tap: u32,
    pub(super) v4: u32,
    /// None: the kernel has no IPv6.
    pub(super) v6: Option<u32>,
}

/// The name of the VXLAN device of a family.
pub(super) fn name(bridge: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{bridge}-vx4"),
        Family::V6 => format!("{bridge}-vx6"),
    }
}

/// Removes our VXLAN devices of a bridge; the forwarding that leads there goes with them.
pub(super) fn remove(netlink: &Netlink, bridge: &str) -> Result<(), HostError> {
    let mut failed = Vec::new();
    for family in [Family::V4, Family::V6] {
        let found = netlink.link(&name(bridge, family))?;
        if let Some(link) = found.filter(|link| is_marked(link) || is_half_made(link, family)) {
            failed.extend(netlink.remove(&link).err());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(HostError::Incomplete(failed)) }
}

/// Makes everything right, and says what was not.
pub(super) fn ensure(netlink: &Netlink, config: &FastConfig) -> Result<(Devices, Mended), HostError> {
    let links = netlink.links()?;
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let bridge = find(&config.bridge).filter(|link| link.bridge);
    let bridge = bridge.ok_or_else(|| HostError::NoBridge(config.bridge.clone()))?;
    let tap = find(&config.tap).ok_or_else(|| HostError::NoDevice(config.tap.clone()))?;
    let mut workshop = Workshop { netlink, config, links: &links, bridge, mended: Mended::new() };
    workshop.tap(tap)?;
    let v4 = workshop.vxlan(Family::V4)?;
    let v4 = v4.ok_or_else(|| HostError::kernel("make a VXLAN device for IPv4", Errno::EAFNOSUPPORT))?;
    let v6 = if sysctl::has_ipv6() { workshop.vxlan(Family::V6)? } else { None };
    let devices = Devices { bridge: bridge.index, bridge_mac: bridge.mac, tap: tap.index, v4, v6 };
    Ok((devices, workshop.mended))
}

struct Workshop<'a> {
    netlink: &'a Netlink,
    config: &'a FastConfig,
    links: &'a [Link],
    bridge: &'a Link,
    mended: Mended,
}

impl Workshop<'_> {
    fn tap(&mut self, tap: &Link) -> Result<(), HostError> {
        if tap.controller != Some(self.bridge.index) {
            self.mend(&tap.name, "was not plugged into the bridge");
            self.netlink.plug(tap, self.bridge, &Mark::Port.to_string())?;
        }
        self.rules(tap, TAP_RULES)
    }

    /// The number of the device; none if the kernel does not have the family.
    fn vxlan(&mut self, family: Family) -> Result<Option<u32>, HostError> {
        let name = name(&self.config.bridge, family);
        let wanted = VxlanConfig { family, vni: self.config.vni, port: self.config.port };
        let mut found = self.links.iter().find(|link| link.name == name);
        if let Some(link) = found {
            if !self.is_ours(link, &wanted) {
                return Err(HostError::ForeignDevice { device: name, place: "this host".to_owned() });
            }
            if !wanted.fits(link) {
                self.mend(&name, "had other settings");
                self.netlink.remove(link)?;
                found = None;
            }
        } else {
            self.mend(&name, "was not there");
        }
        if let Some(link) = found {
            self.plug(link)?;
            return Ok(Some(link.index));
        }
        let made = self.make(&name, &wanted);
        if made.is_err()
            && let Some(half) = self.netlink.link(&name)?.filter(|half| self.is_ours(half, &wanted))
        {
            self.netlink.remove(&half)?;
        }
        match made {
            // A kernel that knows IPv6 and was told to go without.
            Err(error) if family == Family::V6 && error.is_errno(&[Errno::EAFNOSUPPORT]) => Ok(None),
            made => made.map(Some),
        }
    }

    fn make(&mut self, name: &str, wanted: &VxlanConfig) -> Result<u32, HostError> {
        let rival = self.others().find(|link| wanted.rivals(link));
        let taken =
            |device: &str| HostError::VxlanTaken { device: device.to_owned(), port: wanted.port, vni: wanted.vni };
        if let Some(rival) = rival {
            return Err(taken(&rival.name));
        }
        match self.netlink.add_vxlan(name, wanted, self.bridge.mtu) {
            // One that was moved into another namespace keeps its port here.
            Err(error) if error.is_errno(&[Errno::EEXIST]) => return Err(taken("in another network namespace")),
            made => made?,
        }
        let link = self.netlink.link(name)?.ok_or_else(|| HostError::NoDevice(name.to_owned()))?;
        self.plug(&link)?;
        Ok(link.index)
    }

    /// Everything that a VXLAN device needs besides being there; what is right is left alone.
    fn plug(&mut self, link: &Link) -> Result<(), HostError> {
        sysctl::mute(&link.name)?;
        if link.controller != Some(self.bridge.index) || !is_marked(link) {
            self.mend(&link.name, "was not plugged into the bridge");
            self.netlink.plug_silently(link, self.bridge, &Mark::Port.to_string())?;
        }
        self.rules(link, VXLAN_RULES)?;
        if link.mtu != self.bridge.mtu {
            self.mend(&link.name, "had another MTU");
            self.netlink.set_mtu(link, self.bridge.mtu)?;
        }
        if !link.up {
            self.mend(&link.name, "was down");
            self.netlink.set_up(link).map_err(|error| self.explain(error))?;
        }
        Ok(())
    }

    /// The devices that are not those of this backend.
    fn others(&self) -> impl Iterator<Item = &Link> {
        let ours = [Family::V4, Family::V6].map(|family| name(&self.config.bridge, family));
        self.links.iter().filter(move |link| !ours.contains(&link.name))
    }

    fn rules(&mut self, link: &Link, rules: PortRules) -> Result<(), HostError> {
        if rules.hold(link) {
            return Ok(());
        }
        self.mend(&link.name, "had other settings as a port of the bridge");
        self.netlink.set_port_rules(link, rules)
    }

    /// Notes what was wrong with a device; of several things the first tells the others.
    fn mend(&mut self, device: &str, what: &str) {
        if !self.mended.iter().any(|text| text.strip_prefix(device).is_some_and(|rest| rest.starts_with(' '))) {
            self.mended.push(format!("{device} {what}"));
        }
    }

    /// Of a device that we marked, or were about to when an earlier run was killed; in our bridge, or in none.
    fn is_ours(&self, link: &Link, wanted: &VxlanConfig) -> bool {
        let free = link.controller.is_none_or(|index| index == self.bridge.index);
        let half_made = wanted.fits(link) && is_half_made(link, wanted.family);
        free && link.vxlan.is_some() && (is_marked(link) || half_made)
    }

    /// The kernel opens the UDP port when the device is switched on.
    fn explain(&self, error: HostError) -> HostError {
        if !error.is_errno(&[Errno::EADDRINUSE]) {
            return error;
        }
        let holder = self.others().find(|link| vxlan_port(link) == Some(self.config.port));
        let by = holder.map_or_else(|| "another program".to_owned(), |link| format!("the VXLAN device {}", link.name));
        HostError::PortInUse { port: self.config.port, by }
    }
}

/// Whether a device is as its maker leaves it that was killed before he could mark it.
fn is_half_made(link: &Link, family: Family) -> bool {
    link.alias.is_none() && link.controller.is_none() && VxlanConfig::of(link, family).is_some_and(|has| has.fits(link))
}

fn is_marked(link: &Link) -> bool {
    link.alias.as_deref().and_then(Mark::parse) == Some(Mark::Port)
}
