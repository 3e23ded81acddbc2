//! Frames from port to port of our bridge pass the host's packet filter.
//!
//! With `br_netfilter`, which container engines switch on, the kernel shows bridged IP packets to the filter's FORWARD chain as if they
//! were forwarded; and engines have that chain drop what they do not know. Only a rule in that very chain lets them pass.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::Edge;

/// The filter's programs, and the switch by which bridged packets are shown to each (`ip-sysctl`, bridge-nf-call-iptables).
const FILTERS: [(&str, &str); 2] = [("iptables", "bridge-nf-call-iptables"), ("ip6tables", "bridge-nf-call-ip6tables")];
/// How long a program may wait for others that change the filter, in seconds.
const WAIT: &str = "5";
/// Where programs may be, if our own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Edge {
    /// Puts the rule in its place where it is needed. Without the program it is told what to do.
    pub(super) fn let_bridged_pass(&self) {
        for program in needed() {
            if self.filter(program, "-C") == Some(true) {
                continue;
            }
            if self.filter(program, "-I") != Some(true) {
                tracing::warn!(
                    program,
                    bridge = self.bridge,
                    "the packet filter may drop frames between containers: add a rule that accepts what comes from the bridge and goes to it"
                );
            }
        }
    }

    /// Takes the rule away again, if it is there.
    pub(super) fn forget_bridged(&self) {
        for program in needed() {
            if self.filter(program, "-C") == Some(true) {
                self.filter(program, "-D");
            }
        }
    }

    /// Whether the program does it; none if there is no such program.
    fn filter(&self, program: &str, verb: &str) -> Option<bool> {
        // Our environment may hold the password of the network.
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        let status = Command::new(program)
            .args(["-w", WAIT, verb, "FORWARD", "-i", &self.bridge, "-o", &self.bridge, "-j", "ACCEPT"])
            .env_clear()
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.ok().map(|status| status.success())
    }
}

/// The filters that bridged packets are shown to.
fn needed() -> impl Iterator<Item = &'static str> {
    let is_on = |key: &str| fs::read_to_string(format!("/proc/sys/net/bridge/{key}")).is_ok_and(|on| on.trim() != "0");
    FILTERS.into_iter().filter(move |(_, key)| is_on(key)).map(|(program, _)| program)
}
