//! Addresses of devices.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use super::{Link, Netlink};
use crate::error::HostError;

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Number of the device.
    pub(crate) index: u32,
    /// The address with its prefix length.
    pub(crate) net: IpNet,
    /// Whether it is in use: not on probation, and no duplicate.
    pub(crate) usable: bool,
}

impl Netlink {
    /// All addresses, here or in another namespace.
    pub(crate) fn addresses(&self, namespace: Option<i32>) -> Result<Vec<Address>, HostError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Unspec;
        message.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
        let answers = self.list("list addresses", RouteNetlinkMessage::GetAddress(message))?;
        Ok(answers.iter().filter_map(address).collect())
    }

    /// Gives a device an address. IPv6 does without duplicate detection: who gives addresses knows that they are free, and a
    /// container shall not wait for them.
    pub(crate) fn add_address(&self, link: &Link, net: IpNet) -> Result<(), HostError> {
        let mut message = message(link, net);
        if net.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let doing = format!("give {} the address {net}", link.name);
        self.change(&doing, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes an address from a device; one that is gone already is no error.
    pub(crate) fn remove_address(&self, link: &Link, net: IpNet) -> Result<(), HostError> {
        let doing = format!("take the address {net} from {}", link.name);
        match self.change(&doing, RouteNetlinkMessage::DelAddress(message(link, net)), 0) {
            Err(error) if error.is_errno(&[Errno::EADDRNOTAVAIL, Errno::ENODEV]) => Ok(()),
            result => result,
        }
    }
}

fn message(link: &Link, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(link.index)
            .address(v4.addr(), v4.prefix_len())
            .build(),
        IpNet::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(link.index)
            .address(v6.addr(), v6.prefix_len())
            .build(),
    }
}

fn address(answer: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    let mut local: Option<IpAddr> = None;
    let mut other: Option<IpAddr> = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            local = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            other = Some(*address);
        } else if let AddressAttribute::Flags(given) = attribute {
            flags = *given;
        }
    }
    // On point-to-point devices the plain attribute is the other side's (rtnetlink(7)).
    let net = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    let usable = !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated);
    Some(Address { index: message.header.index, net, usable })
}
