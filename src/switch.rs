//! Where frames go: the endpoint table, the snapshot that the data plane forwards by, answers to ARP and ND.

pub mod answer;
pub mod flows;
pub mod forwarding;
pub mod quick_hash;
pub mod table;
