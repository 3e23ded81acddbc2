//! Frames from port to port of our bridge pass the host's packet filter.
//!
//! With `br_netfilter`, which container engines switch on, the kernel shows bridged IP packets to the filter's FORWARD chain as if they
//! were forwarded; and engines have that chain drop what they do not know. Only a rule in that very chain lets them pass. An engine may
//! be started after us, and others may change the filter at any time, so it is looked at again and again.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::Edge;

/// The filter's programs, and the switch by which bridged packets are shown to each (`ip-sysctl`, bridge-nf-call-iptables).
const FILTERS: [(&str, &str); 2] = [("iptables", "bridge-nf-call-iptables"), ("ip6tables", "bridge-nf-call-ip6tables")];
/// A chain that drops nothing, as the programs list it.
const HARMLESS: &str = "-P FORWARD ACCEPT";
/// How long it is taken for granted that the filter is as it was. Running the program takes milliseconds.
const TRUSTED: Duration = Duration::from_secs(10);
/// How long a program may wait for others that change the filter, in seconds.
const WAIT: &str = "5";
/// Where programs may be, if our own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// When we looked at each filter last, by its program.
pub(super) type Looked = RefCell<BTreeMap<&'static str, Instant>>;

impl Edge {
    /// As [`Self::let_bridged_pass`], unless that was done a moment ago.
    pub(super) fn keep_bridged_passing(&self) {
        let is_new = |program: &str| self.looked.borrow().get(program).is_none_or(|at| at.elapsed() >= TRUSTED);
        if needed().any(is_new) {
            self.let_bridged_pass();
        }
    }

    /// Puts the rule in its place where it is needed. Without the program it is told, once, what to do.
    pub(super) fn let_bridged_pass(&self) {
        for program in needed() {
            let first = self.looked.borrow_mut().insert(program, Instant::now()).is_none();
            if !self.passes(program) && first {
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
            if self.rule(program, "-C") {
                self.rule(program, "-D");
            }
        }
    }

    /// Whether frames pass, for which a rule is put in the first place if need be.
    fn passes(&self, program: &str) -> bool {
        let chain = run(program, &["-S", "FORWARD"]).map(|done| String::from_utf8_lossy(&done.stdout).into_owned());
        let is_harmless = chain.is_some_and(|chain| chain.trim() == HARMLESS);
        is_harmless || self.rule(program, "-C") || self.rule(program, "-I")
    }

    /// Does something with the rule; whether that succeeded.
    fn rule(&self, program: &str, verb: &str) -> bool {
        let done = run(program, &[verb, "FORWARD", "-i", &self.bridge, "-o", &self.bridge, "-j", "ACCEPT"]);
        done.is_some_and(|done| done.status.success())
    }
}

/// Runs a filter's program to its end; none if there is no such program.
fn run(program: &str, args: &[&str]) -> Option<Output> {
    // Our environment may hold the password of the network.
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut command = Command::new(program);
    command.args(["-w", WAIT]).args(args).env_clear().env("PATH", path).stdin(Stdio::null());
    command.output().ok()
}

/// The filters that bridged packets are shown to.
fn needed() -> impl Iterator<Item = &'static str> {
    let is_on = |key: &str| fs::read_to_string(format!("/proc/sys/net/bridge/{key}")).is_ok_and(|on| on.trim() != "0");
    FILTERS.into_iter().filter(move |(_, key)| is_on(key)).map(|(program, _)| program)
}
