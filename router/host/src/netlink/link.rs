//! Devices: what the kernel says of them, and changes of them.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, InfoVxlan,
        LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    },
    nsid::{NsidAttribute, NsidMessage},
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use weft::id::Mac;

use super::Netlink;
use crate::error::HostError;

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its Ethernet address; none if it has no such.
    pub(crate) mac: Option<Mac>,
    /// Bytes of the largest packet.
    pub(crate) mtu: u32,
    /// Whether it is switched on.
    pub(crate) up: bool,
    /// Whether frames pass: switched on, and the other side too, and the kernel's link watch has noticed, which takes up to a second.
    pub(crate) running: bool,
    /// Whether it is the namespace's loopback.
    pub(crate) loopback: bool,
    /// Whether it is a bridge.
    pub(crate) bridge: bool,
    /// Its settings if it is a VXLAN device.
    pub(crate) vxlan: Option<Vec<InfoVxlan>>,
    /// The text that its maker gave it.
    pub(crate) alias: Option<String>,
    /// Number of the bridge that it is a port of.
    pub(crate) controller: Option<u32>,
    /// Its settings as a port of that.
    pub(crate) port: Vec<InfoBridgePort>,
    /// Number of a veth's other side in its namespace.
    pub(crate) peer: Option<u32>,
    /// The namespace of a veth's other side, by our namespace's number for it; none if it is ours.
    pub(crate) peer_namespace: Option<i32>,
}

/// A veth pair to make, one side in another namespace.
pub(crate) struct Veth<'a> {
    /// Name of the side here.
    pub(crate) name: &'a str,
    /// Name of the side there.
    pub(crate) peer: &'a str,
    /// There.
    pub(crate) namespace: BorrowedFd<'a>,
    /// Of both.
    pub(crate) mtu: u32,
}

impl Netlink {
    /// All devices of the namespace.
    pub(crate) fn links(&self) -> Result<Vec<Link>, HostError> {
        self.links_with(Vec::new())
    }

    /// The ports of a bridge.
    pub(crate) fn ports(&self, bridge: &Link) -> Result<Vec<Link>, HostError> {
        let mut links = self.links_with(vec![LinkAttribute::Controller(bridge.index)])?;
        // A kernel that does not know the filter lists all.
        links.retain(|link| link.controller == Some(bridge.index));
        Ok(links)
    }

    /// Those that the kernel chooses by `filter`, without their counters, which would be a fifth of the answer.
    fn links_with(&self, mut filter: Vec<LinkAttribute>) -> Result<Vec<Link>, HostError> {
        filter.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut message = LinkMessage::default();
        message.attributes = filter;
        let answers = self.list("list devices", RouteNetlinkMessage::GetLink(message))?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// The device of a name.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>, HostError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
        self.one_link(&format!("look for device {name}"), message)
    }

    /// The device of a number, here or in another namespace.
    pub(crate) fn link_at(&self, index: u32, namespace: Option<i32>) -> Result<Option<Link>, HostError> {
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
        self.one_link(&format!("look for device number {index}"), message)
    }

    fn one_link(&self, doing: &str, message: LinkMessage) -> Result<Option<Link>, HostError> {
        match self.get(doing, RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => Ok(answers.into_iter().find_map(link)),
            // No such device, or no such namespace any more.
            Err(error) if error.is_errno(&[Errno::ENODEV, Errno::EINVAL]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, or makes an existing one so: up, without spanning tree and multicast snooping.
    pub(crate) fn put_bridge(&self, name: &str, mac: Mac, mtu: u32) -> Result<(), HostError> {
        let message = LinkBridge::new(name)
            .set_info_data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
            ]))
            .address(mac.0.to_vec())
            .mtu(mtu)
            .up()
            .build();
        self.change(&format!("make the bridge {name}"), RouteNetlinkMessage::NewLink(message), NLM_F_CREATE)
    }

    /// Makes a veth pair, not yet up.
    pub(crate) fn add_veth(&self, veth: &Veth<'_>) -> Result<(), HostError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.peer)
            .mtu(veth.mtu)
            .setns_by_fd(veth.namespace.as_raw_fd())
            .build();
        let message = LinkVeth::new(veth.name, veth.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(veth.mtu)
            .build();
        let doing = format!("make the veth pair {} and {}", veth.name, veth.peer);
        self.change(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a device of ours a port of the bridge: marked, at its MTU, and up.
    pub(crate) fn plug(&self, link: &Link, bridge: &Link, alias: &str) -> Result<(), HostError> {
        let message =
            LinkUnspec::new_with_index(link.index).alias(alias).mtu(bridge.mtu).controller(bridge.index).up().build();
        let doing = format!("plug {} into {}", link.name, bridge.name);
        self.change(&doing, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Changes the text of a device.
    pub(crate) fn set_alias(&self, link: &Link, alias: &str) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(link.index).alias(alias).build();
        self.change(&format!("mark {}", link.name), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Changes the Ethernet address of a device.
    pub(crate) fn set_mac(&self, link: &Link, mac: Mac) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(link.index).address(mac.0.to_vec()).build();
        self.change(
            &format!("set the Ethernet address of {} to {mac}", link.name),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Changes the MTU of a device.
    pub(crate) fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        self.change(&format!("set the MTU of {} to {mtu}", link.name), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Switches a device on.
    pub(crate) fn set_up(&self, link: &Link) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.change(&format!("switch {} on", link.name), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes a device; one that is gone already is no error.
    pub(crate) fn remove(&self, link: &Link) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(link.index).build();
        match self.change(&format!("remove {}", link.name), RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.is_errno(&[Errno::ENODEV]) => Ok(()),
            result => result,
        }
    }

    /// Our namespace's number for another; none if it has none, so that nothing of ours leads there. EINVAL: not a network namespace.
    pub(crate) fn namespace_number(&self, namespace: BorrowedFd<'_>) -> Result<Option<i32>, HostError> {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned())];
        let answers = self.get("look for a network namespace", RouteNetlinkMessage::GetNsId(message))?;
        let numbers = answers.into_iter().filter_map(|answer| match_nsid(&answer));
        Ok(numbers.into_iter().find(|number| *number >= 0))
    }
}

fn match_nsid(answer: &RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
    message.attributes.iter().find_map(|attribute| if let NsidAttribute::Id(id) = attribute { Some(*id) } else { None })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel tells far more than we need")]
fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        bridge: false,
        vxlan: None,
        alias: None,
        controller: None,
        port: Vec::new(),
        peer: None,
        peer_namespace: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
            LinkAttribute::LinkInfo(infos) => learn(&mut link, infos),
            _ => {}
        }
    }
    Some(link)
}

/// Takes in what only devices of some kinds have.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel tells far more than we need")]
fn learn(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => link.bridge = true,
            LinkInfo::Data(InfoData::Vxlan(settings)) => link.vxlan = Some(settings),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => link.port = settings,
            _ => {}
        }
    }
}
