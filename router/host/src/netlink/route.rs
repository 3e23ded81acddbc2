//! Routes: those that we add, and questions about those that are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope},
};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use weft::api::Route;

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

    /// Gives the namespace a route through a device, unless it has such a one already: the first one wins.
    pub(crate) fn add_route(&self, link: &Link, route: &Route, subnets: &[IpNet]) -> Result<(), HostError> {
        let doing = format!("route {} to {}", route.dst, link.name);
        let unusable = |_| HostError::BadRoute(route.dst);
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.dst.network(), route.dst.prefix_len())
            .map_err(unusable)?
            .output_interface(link.index)
            .scope(route.scope.map_or_else(|| default_scope(route), RouteScope::from));
        if let Some(gateway) = route.gw {
            builder = builder.gateway(gateway).map_err(unusable)?;
            if !subnets.iter().any(|subnet| subnet.contains(&gateway)) {
                builder = builder.onlink();
            }
        }
        builder = route.priority.into_iter().fold(builder, |builder, priority| builder.priority(priority));
        builder = route.table.into_iter().fold(builder, |builder, table| builder.table_id(table));
        let mut message = builder.build();
        let metrics = [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)];
        let metrics: Vec<RouteMetric> = metrics.into_iter().flatten().collect();
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        match self.change(&doing, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.is_errno(&[Errno::EEXIST]) => Ok(()),
            result => result,
        }
    }

    /// Where a device leads to, by the routes of the main table: destinations with their gateways.
    pub(crate) fn routes_through(&self, link: &Link) -> Result<Vec<(IpNet, Option<IpAddr>)>, HostError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = self.list("list routes", RouteNetlinkMessage::GetRoute(message))?;
            routes.extend(answers.iter().filter_map(|answer| route_through(answer, link.index)));
        }
        Ok(routes)
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

/// As ip-route(8) does.
fn default_scope(route: &Route) -> RouteScope {
    if route.gw.is_none() && route.dst.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe }
}

fn route_through(answer: &RouteNetlinkMessage, device: u32) -> Option<(IpNet, Option<IpAddr>)> {
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    let any: IpAddr = if route.header.address_family == AddressFamily::Inet {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let (mut destination, mut gateway, mut through) = (any, None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            through = Some(*index);
        } else if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address)?;
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip(address);
        }
    }
    let is_main = route.header.table == RouteHeader::RT_TABLE_MAIN;
    let net = IpNet::new(destination, route.header.destination_prefix_length).ok()?;
    (is_main && through == Some(device)).then_some((net, gateway))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        return Some((*v4).into());
    }
    if let RouteAddress::Inet6(v6) = address { Some((*v6).into()) } else { None }
}
