//! The underlay: a bridge in a namespace of its own, with a port for each host.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::namespace::Namespace;

/// The bridge's name in the switch's namespace.
pub const BRIDGE: &str = "br0";

/// A bridge that hosts are plugged into.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
}

/// The addresses of a host on the underlay, by its number.
pub fn addresses(index: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 77, 0, index), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(index)))
}

impl Switch {
    /// A switch without ports.
    pub fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::create(name)?;
        // The switch itself is silent: no IPv6 of its own, no snooping that would need a querier.
        namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        namespace
            .ip(&format!("link add {BRIDGE} type bridge mcast_snooping 0 forward_delay 0\nlink set {BRIDGE} up\n"))?;
        Ok(Self { namespace })
    }

    /// Where it is.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Plugs the new device `device` of `namespace` into the port `port`.
    pub fn plug(&self, namespace: &Namespace, device: &str, port: &str) -> Result<()> {
        let switch = self.namespace.name();
        namespace.ip(&format!("link add {device} type veth peer name {port} netns {switch}\n"))?;
        self.namespace.ip(&format!("link set {port} master {BRIDGE} up\n"))?;
        namespace.ip(&format!("link set {device} addrgenmode none\nlink set {device} up\n"))
    }
}
