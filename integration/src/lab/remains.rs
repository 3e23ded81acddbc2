//! What of a router's can stay in a host's kernel, as text to compare; and the same kind of things of somebody else's.

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::{
    command::Run,
    host::{Host, UNDERLAY},
    namespace::Namespace,
};
use crate::uml;

/// SPI, VXLAN network and port of what is placed: not ours.
const SPI: &str = "0xabcd01";
const VNI: u32 = 99;
const VXLAN_PORT: u16 = 4789;

/// All of a namespace that a router could leave something in: one text for each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains(Vec<(&'static str, String)>);

impl Remains {
    /// What is there now.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let looks: [(&'static str, &[&str]); 11] = [
            ("security associations", &["ip", "xfrm", "state"]),
            ("security policies", &["ip", "xfrm", "policy"]),
            ("nftables", &["nft", "list", "ruleset"]),
            ("links", &["ip", "-o", "link"]),
            ("addresses", &["ip", "-o", "-br", "addr"]),
            ("routes", &["ip", "route", "show", "table", "all"]),
            ("IPv6 routes", &["ip", "-6", "route", "show", "table", "all"]),
            ("rules", &["ip", "rule"]),
            ("forwarding entries", &["bridge", "fdb", "show"]),
            ("forwarding", &["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]),
            ("datapaths", &["ovs-dpctl", "dump-dps"]),
        ];
        let mut remains = Vec::new();
        for (what, words) in looks {
            // Only a guest has Open vSwitch, and only some kernels keep security associations.
            let optional = words[0] == "ovs-dpctl" || words[1] == "xfrm";
            let run = namespace.run(words[0]).args(&words[1..]);
            let text = match run.checked() {
                Ok(text) => text,
                Err(_) if optional => String::new(),
                Err(error) => return Err(error),
            };
            remains.push((what, lasting(what, &text)));
        }
        Ok(Self(remains))
    }

    /// Lines that were not in `before` or are missing now, with their kind; none if all is as it was.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let pairs = self.0.iter().zip(&before.0);
        pairs.flat_map(|((what, now), (_, before))| differences(what, before, now)).collect()
    }

    /// Lines, of whatever kind, that name `word`.
    pub fn naming(&self, word: &str) -> Vec<String> {
        let lines = self.0.iter().flat_map(|(what, text)| text.lines().map(move |line| (what, line)));
        let named = lines.filter(|(_, line)| line.split([' ', '/', '\t']).any(|part| part == word));
        named.map(|(what, line)| format!("{what}: {line}")).collect()
    }
}

fn differences(what: &str, before: &str, now: &str) -> Vec<String> {
    let missing = |from: &str, in_other: &str, sign: char| {
        let lines = from.lines().filter(|line| in_other.lines().all(|other| other != *line));
        lines.map(|line| format!("{what}: {sign} {line}")).collect::<Vec<_>>()
    };
    [missing(now, before, '+'), missing(before, now, '-')].concat()
}

/// Without what changes by itself.
fn lasting(what: &str, text: &str) -> String {
    let lines = text.lines();
    if what == "security associations" {
        // Counters and times of use.
        return lines
            .filter(|line| !line.contains("anti-replay") && !line.contains("lastused"))
            .collect::<Vec<_>>()
            .join("\n");
    }
    lines.collect::<Vec<_>>().join("\n")
}

/// Places a security association and a policy, an nftables table and a VXLAN device of somebody else's on a host; gives
/// what this kernel could not take.
pub fn place_foreign(host: &Host, other: &Host) -> Result<Vec<String>> {
    let (own, their) = (host.v4().to_string(), other.v4().to_string());
    let key = format!("0x{}", "5a".repeat(36));
    let namespace = host.namespace();
    let run = |program: &str, words: &str| namespace.run(program).args(words.split(' '));
    // A guest's kernel has no nftables for IP.
    let family = if uml::is_here() { "bridge" } else { "inet" };
    namespace.ip(&format!(
        "link add theirs type vxlan id {VNI} dstport {VXLAN_PORT} local {own} dev {UNDERLAY}\nlink set theirs addrgenmode none\nlink set theirs up\n"
    ))?;
    run("nft", &format!("add table {family} theirs")).checked()?;
    let xfrm: [Run; 2] = [
        run(
            "ip",
            &format!(
                "xfrm state add src {own} dst {their} proto esp spi {SPI} mode tunnel aead rfc4106(gcm(aes)) {key} 128"
            ),
        ),
        run(
            "ip",
            &format!(
                "xfrm policy add src 192.0.2.0/24 dst 198.51.100.0/24 dir out tmpl src {own} dst {their} proto esp mode tunnel"
            ),
        ),
    ];
    let refused = xfrm.iter().filter_map(|run| run.checked().err()).map(|error| format!("{error:#}"));
    Ok(refused.collect())
}

/// Whether anything in the kernel of `host` still leads to `address`, besides the neighbour itself.
pub fn traces_of(host: &Host, address: IpAddr) -> Result<Vec<String>> {
    let remains = Remains::of(host.namespace()).with_context(|| host.name().to_owned())?;
    Ok(remains.naming(&address.to_string()))
}
