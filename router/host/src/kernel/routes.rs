//! Where the host's own routes lead: what a range of addresses may not overlap.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Edge;
use crate::{addressing, error::HostError, host::HostRoute, mark::Mark};

impl Edge {
    pub(super) fn routes(&self) -> Result<Vec<HostRoute>, HostError> {
        let links = self.netlink.links()?.into_iter();
        let others = links.filter(|link| link.alias.as_deref().and_then(Mark::parse).is_none());
        let names: BTreeMap<u32, String> = others.map(|link| (link.index, link.name)).collect();
        let is_of_interest = |to: &IpNet| !addressing::is_automatic(to.addr()) && !to.addr().is_multicast();
        let routes = self.netlink.routes()?.into_iter().filter(|(to, _)| is_of_interest(to));
        let named = routes.filter_map(|(to, index)| Some(HostRoute { to, device: names.get(&index)?.clone() }));
        Ok(named.collect())
    }
}
