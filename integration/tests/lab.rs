//! Acceptance tests: real routers on the hosts of a lab, driven by the `weft` command line. They need root, and say so.

#[cfg(test)]
mod lab {
    mod attachments;
    mod capture;
    mod crowd;
    mod cuts;
    mod demo;
    mod discovery;
    mod docker;
    mod lab_itself;
    mod mtu;
    mod nat;
    mod promises;
    mod refusals;
    mod restarts;
    mod three_hosts;
    mod tidy;
    mod uml;
}
