//! Where frames go: the endpoint table, the snapshot that the data plane forwards by, answers to ARP and ND.

pub mod forwarding;
