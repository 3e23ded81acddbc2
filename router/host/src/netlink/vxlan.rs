//! VXLAN devices of ours: how they are made, and how one is told from others'.
//!
//! A device sends where its forwarding table says, and nowhere else: it has no default destination, learns nothing, and serves one
//! address family, because only those with metadata serve both.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoVxlan, VxlanDf},
};
use rtnetlink::LinkVxlan;

use super::{Link, Netlink};
use crate::error::HostError;

/// Hops that a packet may take on the underlay.
const TTL: u8 = 64;
/// The inner packet's class of traffic is also the outer's (`enum` at `IFLA_VXLAN_TOS`, iproute2's `tos inherit`).
const TOS_INHERIT: u8 = 1;

/// What the outer packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What distinguishes a device of ours from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VxlanConfig {
    /// Of the outer packets.
    pub(crate) family: Family,
    /// The network identifier, 24 bits.
    pub(crate) vni: u32,
    /// The UDP port, here and there.
    pub(crate) port: u16,
}

impl VxlanConfig {
    /// That of a VXLAN device, whoever made it; none if it is no such.
    pub(crate) fn of(link: &Link, family: Family) -> Option<Self> {
        let vni = |setting: &InfoVxlan| if let InfoVxlan::Id(vni) = setting { Some(*vni) } else { None };
        Some(Self { family, vni: link.vxlan.as_ref()?.iter().find_map(vni)?, port: vxlan_port(link)? })
    }

    /// Whether a device is as we would make it.
    pub(crate) fn fits(&self, link: &Link) -> bool {
        let Some(has) = &link.vxlan else { return false };
        self.settings().iter().all(|setting| has.contains(setting)) && !has.iter().any(is_limiting)
    }

    /// Whether a device, whoever made it, takes the same packets.
    pub(crate) fn rivals(&self, link: &Link) -> bool {
        let has = |setting| link.vxlan.as_ref().is_some_and(|settings| settings.contains(&setting));
        has(InfoVxlan::Port(self.port)) && has(InfoVxlan::Id(self.vni))
    }

    /// All but the destination, which the kernel shows of no device that has none. Without checksums over the whole of each packet:
    /// RFC 7348 §4.1 wants none, RFC 6935 allows it for IPv6; the inner packets have theirs, and ESP its own.
    fn settings(&self) -> [InfoVxlan; 9] {
        let v6 = self.family == Family::V6;
        [
            InfoVxlan::Id(self.vni),
            InfoVxlan::Port(self.port),
            InfoVxlan::Ttl(TTL),
            InfoVxlan::Tos(TOS_INHERIT),
            InfoVxlan::Learning(false),
            InfoVxlan::Df(VxlanDf::Set),
            InfoVxlan::UDPCsum(false),
            // Also what tells the two families apart: without a destination the kernel does not show it otherwise.
            InfoVxlan::UDPZeroCsumTX(v6),
            InfoVxlan::UDPZeroCsumRX(v6),
        ]
    }
}

/// The UDP port of a VXLAN device; none if it is no such.
pub(crate) fn vxlan_port(link: &Link) -> Option<u16> {
    let port = |setting: &InfoVxlan| if let InfoVxlan::Port(port) = setting { Some(*port) } else { None };
    link.vxlan.as_ref()?.iter().find_map(port)
}

/// Whether a setting makes a device send or take other packets than ours do.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel tells far more than we need")]
fn is_limiting(setting: &InfoVxlan) -> bool {
    match setting {
        InfoVxlan::Group(_) | InfoVxlan::Group6(_) | InfoVxlan::Local(_) | InfoVxlan::Local6(_) => true,
        InfoVxlan::Link(device) => *device != 0,
        InfoVxlan::CollectMetadata(on) | InfoVxlan::Proxy(on) | InfoVxlan::Rsc(on) => *on,
        InfoVxlan::Gbp | InfoVxlan::Gpe => true,
        _ => false,
    }
}

impl Netlink {
    /// Makes a VXLAN device, not yet up. EEXIST: the name, or port and identifier, are taken; EAFNOSUPPORT: no such family.
    pub(crate) fn add_vxlan(&self, name: &str, config: &VxlanConfig, mtu: u32) -> Result<(), HostError> {
        let mut builder = LinkVxlan::new(name, config.vni).mtu(mtu);
        for setting in config.settings().into_iter().skip(1) {
            builder = builder.append_info_data(setting);
        }
        if config.family == Family::V6 {
            // No destination, but of this family.
            builder = builder.append_info_data(InfoVxlan::Group6(Ipv6Addr::UNSPECIFIED));
        }
        let doing = format!("make the VXLAN device {name}");
        self.change(&doing, RouteNetlinkMessage::NewLink(builder.build()), NLM_F_CREATE | NLM_F_EXCL)
    }
}
