//! dnsmasq with a zone of its own.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::Result;
use weft_integration::lab::namespace::Namespace;

/// A running dnsmasq; it ends with its namespace at the latest.
pub(crate) struct Dnsmasq(Child);

impl Dnsmasq {
    /// Serves `zone` at `address` of `namespace`, and nothing else.
    pub(crate) fn start(
        namespace: &Namespace,
        dir: &Path,
        address: Ipv4Addr,
        zone: &[(String, Ipv4Addr)],
    ) -> Result<Self> {
        let hosts = dir.join("hosts");
        let lines: String = zone.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        fs::write(&hosts, lines)?;
        let child = namespace
            .run("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file="])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--no-poll",
                "--bind-interfaces",
                "--local=/weft.local/",
                "--local-ttl=1",
            ])
            .args([format!("--listen-address={address}"), format!("--addn-hosts={}", hosts.display())])
            .args(["--except-interface=lo", "--log-facility=-"])
            .spawn(Stdio::null(), Stdio::null())?;
        Ok(Self(child))
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}
