//! A container of a host: a namespace that `weft attach` gives an interface and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use weft::{api::Addresses, id::Mac};

use super::{host::Host, namespace::Namespace, ping::Ping};

/// The container's device on the network.
pub const DEVICE: &str = "ethwe";

/// A container; without addresses until attached.
#[derive(Clone, Debug)]
pub struct Container {
    name: String,
    host: Host,
    namespace: Namespace,
    addresses: Vec<IpNet>,
}

impl Container {
    pub(super) fn new(host: &Host, name: &str) -> Result<Self> {
        let namespace = Namespace::create(&format!("{}-{name}", host.namespace().name()))?;
        Ok(Self { name: name.to_owned(), host: host.clone(), namespace, addresses: Vec::new() })
    }

    /// `weft attach ADDRESS… CONTAINER`.
    pub fn attach(mut self, addresses: &[&str]) -> Result<Self> {
        let words = [&["attach"], addresses, &[self.namespace.name()]].concat();
        let given: Addresses = self.host.json(&words)?;
        self.addresses.extend(given.addresses);
        Ok(self)
    }

    /// Its name within the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host that it is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its network namespace, whose name is the container's name for `weft`.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its first IPv4 address on the network.
    pub fn v4(&self) -> Result<Ipv4Addr> {
        let v4 = self.addresses.iter().find_map(|net| if let IpAddr::V4(ip) = net.addr() { Some(ip) } else { None });
        v4.with_context(|| format!("{} has no IPv4 address", self.name))
    }

    /// Its first IPv6 address on the network.
    pub fn v6(&self) -> Result<Ipv6Addr> {
        let v6 = self.addresses.iter().find_map(|net| if let IpAddr::V6(ip) = net.addr() { Some(ip) } else { None });
        v6.with_context(|| format!("{} has no IPv6 address", self.name))
    }

    /// Its first address of a kind.
    pub fn address(&self, ipv6: bool) -> Result<IpAddr> {
        Ok(if ipv6 { self.v6()?.into() } else { self.v4()?.into() })
    }

    /// Its Ethernet address, by `weft ps`.
    pub fn mac(&self) -> Result<Mac> {
        let attachments = self.host.ps()?;
        let own = attachments.iter().find(|attachment| attachment.container == self.namespace.name());
        own.map(|own| own.mac).with_context(|| format!("{} is not in {attachments:?}", self.name))
    }

    /// A ping from it.
    pub fn ping(&self, to: impl Into<IpAddr>) -> Ping {
        Ping::new(&self.namespace, to.into())
    }
}
