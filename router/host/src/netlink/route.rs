//! Routes: the one that we add, and questions about the host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope},
};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::{Link, Netlink};
use crate::error::HostError;

/// IPv4 multicast (RFC 5771), 224.0.0.0/4.
const MULTICAST: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);

impl Netlink {
    /// Sends multicast out of a device, unless the namespace has such a route already. IPv6 has its own by itself.
    pub(crate) fn add_multicast_route(&self, link: &Link) -> Result<(), HostError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(MULTICAST.0, MULTICAST.1)
            .output_interface(link.index)
            .scope(RouteScope::Link)
            .build();
        let doing = format!("route multicast to {}", link.name);
        match self.change(&doing, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.is_errno(&[Errno::EEXIST]) => Ok(()),
            result => result,
        }
    }

    /// Bytes of the largest packet that may leave towards an address: of the route if it says, else of its device.
    pub(crate) fn route_mtu(&self, towards: IpAddr) -> Result<u32, HostError> {
        let message = match towards {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
        };
        let message = question(message);
        let answers = match self.get(&format!("look for a route to {towards}"), RouteNetlinkMessage::GetRoute(message))
        {
            Err(error) if error.is_errno(&[Errno::ENETUNREACH, Errno::EHOSTUNREACH]) => {
                return Err(HostError::NoRoute(towards));
            }
            answers => answers?,
        };
        let (metric, device) = answers.iter().find_map(mtu_and_device).ok_or(HostError::NoRoute(towards))?;
        if let Some(mtu) = metric {
            return Ok(mtu);
        }
        let link = self.link_at(device, None)?.ok_or(HostError::NoRoute(towards))?;
        Ok(link.mtu)
    }

    /// Whether an IPv6 default route comes from router advertisements.
    pub(crate) fn lives_by_advertisements(&self) -> Result<bool, HostError> {
        let message = question(RouteMessageBuilder::<Ipv6Addr>::new().build());
        let answers = self.list("list routes", RouteNetlinkMessage::GetRoute(message))?;
        Ok(answers.iter().any(|answer| {
            let RouteNetlinkMessage::NewRoute(route) = answer else { return false };
            route.header.protocol == RouteProtocol::Ra && route.header.destination_prefix_length == 0
        }))
    }
}

/// In questions the kernel wants nothing said of what a route would be.
fn question(mut message: RouteMessage) -> RouteMessage {
    message.header.table = 0;
    message.header.protocol = RouteProtocol::Unspec;
    message.header.scope = RouteScope::Universe;
    message.header.kind = netlink_packet_route::route::RouteType::Unspec;
    message
}

fn mtu_and_device(answer: &RouteNetlinkMessage) -> Option<(Option<u32>, u32)> {
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    let mut mtu = None;
    let mut device = None;
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
        }
    }
    device.map(|device| (mtu.filter(|mtu| *mtu > 0), device))
}
