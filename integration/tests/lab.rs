//! Acceptance tests: real routers on the hosts of a lab, driven by the `weft` command line. They need root, and say so.

#[cfg(test)]
mod lab {
    mod addresses;
    mod attachments;
    mod capture;
    mod cni;
    mod cni_addresses;
    mod cni_runtimes;
    mod crowd;
    mod cuts;
    mod demo;
    mod discovery;
    mod docker;
    mod explain;
    mod failover;
    mod lab_itself;
    mod mtu;
    mod names;
    mod nat;
    mod one_host;
    mod promises;
    mod refusals;
    mod relays;
    mod restarts;
    mod tidy;
    mod uml;
}
