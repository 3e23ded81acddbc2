//! A gateway between a host and the switch that translates addresses, IPv4 and IPv6 alike, as home routers do.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;

use super::{
    namespace::Namespace,
    switch::{self, Switch},
};
use crate::uml;

/// The gateway's addresses on the inner side, and the host's.
pub const INNER: [(Ipv4Addr, Ipv6Addr); 2] = [
    (Ipv4Addr::new(192, 168, 9, 1), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1)),
    (Ipv4Addr::new(192, 168, 9, 2), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2)),
];

/// A translating gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    namespace: Namespace,
    outer: Arc<Mutex<u8>>,
}

impl Gateway {
    /// A gateway `namespace` on the switch's port `port`, with the outer addresses of number `index`.
    pub fn new(namespace: &str, port: &str, switch: &Switch, index: u8) -> Result<Self> {
        let namespace = Namespace::create(namespace)?;
        namespace.sysctl("ipv4/ip_forward", "1")?;
        namespace.sysctl("ipv6/conf/all/forwarding", "1")?;
        switch.plug(&namespace, "wan", port)?;
        let gateway = Self { namespace, outer: Arc::new(Mutex::new(index)) };
        gateway.outer_address("add", index)?;
        gateway.translate()?;
        Ok(gateway)
    }

    /// Begins to translate; by iptables in a guest, whose kernel has no nftables for IP.
    fn translate(&self) -> Result<()> {
        if uml::is_here() {
            let masquerade = ["-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE"];
            let run = |program: &&str| self.namespace.run(program).args(masquerade).checked().map(drop);
            return ["iptables", "ip6tables"].iter().try_for_each(run);
        }
        let script = "table inet nat {\n  chain post {\n    type nat hook postrouting priority 100;\n    \
                      oifname \"wan\" masquerade\n  }\n}\n";
        self.namespace.run("nft").args(["-f", "-"]).input(script).checked().map(drop)
    }

    /// Drops from now on what comes from outside and nobody inside asked for, as home routers do; without it the gateway's own refusal
    /// has a translation made that is in the way of the host's. And with `scattered` ports it gives another port to each whom the host
    /// talks to, so that nobody else finds the host there.
    pub fn close(&self, scattered: bool) -> Result<()> {
        let scatter = if scattered {
            "flush chain inet nat post; add rule inet nat post oifname wan masquerade random"
        } else {
            ""
        };
        let script = format!(
            "table inet nat {{\n  chain in {{\n    type filter hook input priority 0;\n    \
             iifname \"wan\" ct state new meta l4proto {{ tcp, udp }} drop\n  }}\n}}\n{scatter}\n"
        );
        self.namespace.run("nft").args(["-f", "-"]).input(script).checked().map(drop)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What the world sees of the host behind, now.
    pub fn outer(&self) -> (Ipv4Addr, Ipv6Addr) {
        switch::addresses(*self.lock())
    }

    /// Takes other outer addresses, those of number `index`, at another Ethernet address: the kernel forgets earlier translations,
    /// but on a busy machine some time later, and would pass until then what neighbours still send to the old address.
    pub fn move_to(&self, index: u8) -> Result<()> {
        let mut outer = self.lock();
        // In this order: with the first address of a subnet the kernel removes all others of it.
        self.outer_address("del", *outer)?;
        self.outer_address("add", index)?;
        self.namespace.ip(&format!("link set dev wan address 02:00:00:00:99:{index:02x}\n"))?;
        *outer = index;
        Ok(())
    }

    fn outer_address(&self, verb: &str, index: u8) -> Result<()> {
        let (v4, v6) = switch::addresses(index);
        let nodad = if verb == "add" { "nodad" } else { "" };
        self.namespace.ip(&format!("addr {verb} {v4}/24 dev wan\naddr {verb} {v6}/64 dev wan {nodad}\n"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u8> {
        self.outer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
