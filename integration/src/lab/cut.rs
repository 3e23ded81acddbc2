//! Cuts: packets between two hosts that vanish on the path, in the switch, unseen by either.
//!
//! Each cut in force is an nftables table of the bridge family with a chain on the forward hook; healing deletes the table.
//! Address resolution (ARP, neighbour discovery) always passes: a path that fails beyond the first router looks so.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use super::{command::Run, host::PORT, switch::Switch};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Which packets vanish.
#[derive(Clone, Debug)]
pub struct Cut {
    ways: Vec<(String, String)>,
    matches: Vec<String>,
    percent: u8,
}

/// A cut in force; ends when healed or dropped.
#[derive(Debug)]
pub struct ActiveCut {
    switch: Arc<Switch>,
    table: String,
    healed: bool,
}

impl Cut {
    /// All IP packets between two hosts, both ways.
    pub fn between(one: &str, other: &str) -> Self {
        Self::ways(vec![(one.to_owned(), other.to_owned()), (other.to_owned(), one.to_owned())])
    }

    /// All IP packets from one host to another.
    pub fn one_way(from: &str, to: &str) -> Self {
        Self::ways(vec![(from.to_owned(), to.to_owned())])
    }

    fn ways(ways: Vec<(String, String)>) -> Self {
        Self { ways, matches: vec!["meta protocol { ip, ip6 }".to_owned()], percent: 100 }
    }

    /// Of these only UDP.
    #[must_use]
    pub fn udp(self) -> Self {
        self.only(["meta l4proto udp".to_owned()])
    }

    /// Of these only TCP.
    #[must_use]
    pub fn tcp(self) -> Self {
        self.only(["meta l4proto tcp".to_owned()])
    }

    /// Of these only TCP and UDP from or to a port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        let transport = "meta l4proto { tcp, udp } th";
        self.only([format!("{transport} sport {port}"), format!("{transport} dport {port}")])
    }

    /// Of these only what the fast datapath sends, in clear or sealed.
    #[must_use]
    pub fn fastdp(self) -> Self {
        let (vxlan, encap) = (PORT + 1, PORT + 2);
        self.only([
            format!("meta l4proto udp th dport {vxlan}"),
            "meta l4proto esp".to_owned(),
            format!("meta l4proto udp th sport {encap}"),
            format!("meta l4proto udp th dport {encap}"),
        ])
    }

    /// Of these only ICMP and ICMPv6.
    #[must_use]
    pub fn icmp(self) -> Self {
        self.only(["meta l4proto { icmp, icmpv6 }".to_owned()])
    }

    /// Of these only IP packets of more than `bytes` bytes.
    #[must_use]
    pub fn longer_than(self, bytes: usize) -> Self {
        self.only([format!("meta protocol {{ ip, ip6 }} meta length > {bytes}")])
    }

    /// Of these so many of a hundred, by chance.
    #[must_use]
    pub fn percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }

    fn only<const N: usize>(mut self, matches: [String; N]) -> Self {
        self.matches = matches.to_vec();
        self
    }

    /// The nftables table `name` that does it.
    pub fn table(&self, name: &str) -> String {
        let mut rules = String::new();
        let chance =
            if self.percent < 100 { format!("numgen random mod 100 < {}", self.percent) } else { String::new() };
        for (from, to) in &self.ways {
            for what in &self.matches {
                rules += &format!("    iifname \"{from}\" oifname \"{to}\" {what} {chance} counter name lost drop\n");
            }
        }
        format!(
            "table bridge {name} {{\n  counter lost {{ }}\n  chain path {{\n    \
             type filter hook forward priority 0; policy accept;\n    \
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n{rules}  }}\n}}\n"
        )
    }
}

impl ActiveCut {
    /// Puts `cut` in force.
    pub fn new(switch: &Arc<Switch>, cut: &Cut) -> Result<Self> {
        let table = format!("cut{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let script = cut.table(&table);
        switch.namespace().run("nft").args(["-f", "-"]).input(script.clone()).checked().with_context(|| script)?;
        Ok(Self { switch: Arc::clone(switch), table, healed: false })
    }

    /// Packets lost in it so far.
    pub fn lost(&self) -> Result<u64> {
        let text = self.nft(&["-j", "list", "counter", "bridge", &self.table, "lost"]).checked()?;
        let json: serde_json::Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        json["nftables"]
            .as_array()
            .and_then(|items| items.iter().find_map(|item| item["counter"]["packets"].as_u64()))
            .with_context(|| format!("no counter in {text}"))
    }

    /// Ends it.
    pub fn heal(mut self) -> Result<()> {
        self.healed = true;
        self.nft(&["delete", "table", "bridge", &self.table]).checked().map(drop)
    }

    fn nft(&self, args: &[&str]) -> Run {
        self.switch.namespace().run("nft").args(args)
    }
}

impl Drop for ActiveCut {
    fn drop(&mut self) {
        if !self.healed && self.switch.namespace().path().exists() {
            // The lab is about to go, or the path heals late: nothing to tell anybody.
            let _ = self.nft(&["delete", "table", "bridge", &self.table]).output();
        }
    }
}
