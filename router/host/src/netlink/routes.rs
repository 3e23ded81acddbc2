//! The routes that the host has already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::RouteMessageBuilder;

use super::Netlink;
use crate::error::HostError;

impl Netlink {
    /// Where the routes of the main table lead, with the numbers of their devices; default routes are left out.
    pub(crate) fn routes(&self) -> Result<Vec<(IpNet, u32)>, HostError> {
        let questions =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        let mut routes = Vec::new();
        for mut question in questions {
            question.header.table = RouteHeader::RT_TABLE_MAIN;
            question.header.protocol = RouteProtocol::Unspec;
            question.header.scope = RouteScope::Universe;
            question.header.kind = RouteType::Unspec;
            let answers = self.list("list routes", RouteNetlinkMessage::GetRoute(question))?;
            routes.extend(answers.iter().filter_map(|answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer { destination(route) } else { None }
            }));
        }
        Ok(routes)
    }
}

fn destination(route: &RouteMessage) -> Option<(IpNet, u32)> {
    if route.header.table != RouteHeader::RT_TABLE_MAIN || route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut address, mut device) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(v4)) = attribute {
            address = Some(IpAddr::from(*v4));
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(v6)) = attribute {
            address = Some(IpAddr::from(*v6));
        } else if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        }
    }
    let to = IpNet::new(address?, route.header.destination_prefix_length).ok()?;
    device.map(|device| (to, device))
}
