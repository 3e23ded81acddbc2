//! Where packets to elsewhere go: which routes a container gets.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft::api::{Addresses, Route};
use weft_host::station;

use super::{failure::Failure, outcome::Outcome, session::Session};

/// Completes the result of the plugin for addresses: without any route, a default route by each gateway, which is this host if the
/// network itself gives out addresses and nobody says otherwise; a route without a gateway goes by that of its family.
pub(super) fn settle(session: &Session<'_>, outcome: &mut Outcome) -> Result<(), Failure> {
    let is_alone = outcome.routes.is_empty();
    if is_alone && session.config.is_own_ipam() {
        for ip in outcome.ips.iter_mut().filter(|ip| ip.gateway.is_none()) {
            ip.gateway = Some(host(session, ip.address)?);
        }
    }
    let gateways: Vec<IpAddr> = outcome.ips.iter().filter_map(|ip| ip.gateway).collect();
    let of_family = |is_ipv4: bool| gateways.iter().find(|gateway| gateway.is_ipv4() == is_ipv4).copied();
    if is_alone {
        let families = [of_family(true), of_family(false)];
        outcome.routes = families.into_iter().flatten().map(default_route).collect();
    }
    for route in outcome.routes.iter_mut().filter(|route| route.gw.is_none()) {
        route.gw = of_family(route.dst.addr().is_ipv4());
    }
    Ok(())
}

/// The address of this host in a subnet of the network; it is given one if it has none.
fn host(session: &Session<'_>, net: IpNet) -> Result<IpAddr, Failure> {
    if let Some(address) = station::exposed(net)? {
        return Ok(address);
    }
    let request = serde_json::json!({ "addresses": [format!("net:{}", net.trunc())] });
    let given: Addresses = session.router.post("/expose", &request)?;
    let address = given.addresses.first().map(IpNet::addr);
    address.ok_or_else(|| {
        Failure::new(super::Code::Refused, format!("the router gave this host no address in {}", net.trunc()))
    })
}

fn default_route(gateway: IpAddr) -> Route {
    let everywhere = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    Route::new(everywhere, Some(gateway))
}
