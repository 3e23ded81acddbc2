//! Acceptance tests of the ways frames may go, the kernel's and the sleeve: each scenario over each backend.
//!
//! A program of its own instead of test functions, so that the list is one: natively a pair is a test
//! (`connect::two_hosts::vxlan`), and so is each guest (`uml::ovs::1`), which runs this program again for a handful of
//! pairs of its own. Test programs of other crates that want a guest's kernel are run in one too (`uml::suite::…`).

fn main() {
    fastdp::trials::run()
}

#[cfg(test)]
mod fastdp {
    pub(crate) mod block;
    pub(crate) mod capture;
    pub(crate) mod connect;
    pub(crate) mod list;
    pub(crate) mod many;
    pub(crate) mod mtu;
    pub(crate) mod plain;
    pub(crate) mod rekey;
    pub(crate) mod replaced;
    pub(crate) mod trials;
    pub(crate) mod upgrade;
}
