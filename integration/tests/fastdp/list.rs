//! The list: scenarios with what they cost in a guest, and test programs that want a guest's kernel.

use std::time::Duration;

use weft_integration::scenario::{Scenario, backend::Backend, suite::Suite};

use super::{block, capture, connect, many, mtu, plain, rekey, replaced, upgrade};

type Except = &'static [(Backend, &'static str)];

// Guests are slow and one at a time: what a backend shares with another is tried over that one.
const LIKE_OVS_ESP: &str = "tried over ovs+esp";
const LIKE_OTHERS: &str = "tried over vxlan and over ovs+esp";
const NOTHING_BELOW: &str = "there is nothing below the sleeve to fall back to";
const WITH_ITS_ROUTER: &str = "the sleeve ends with its router";
const IN_CLEAR: &str = "in clear by its nature";

const TAKES_LONG: &str = "ten thousand of anything are too many for a guest";
const TAKES_MEGABYTES: &str = "a hundred megabytes, packet by packet, are too many for a guest";
const LIKE_FASTDP: &str = "the sleeve reads stations where it sends: nothing is programmed";

const NONE: Except = &[];
const NO_CLEAR: Except = &[(Backend::Vxlan, IN_CLEAR), (Backend::Ovs, IN_CLEAR)];
const NO_SLEEVE: Except = &[(Backend::Sleeve, NOTHING_BELOW)];
const NO_SLEEVE_NOR_OVS: Except = &[(Backend::Sleeve, NOTHING_BELOW), (Backend::Ovs, LIKE_OVS_ESP)];
const ONE_OF_EACH: Except =
    &[(Backend::Sleeve, NOTHING_BELOW), (Backend::Ovs, LIKE_OVS_ESP), (Backend::VxlanEsp, LIKE_OTHERS)];
const NO_OVS: Except = &[(Backend::Ovs, LIKE_OVS_ESP)];
const NO_OVS_NOR_VXLAN_ESP: Except = &[(Backend::Ovs, LIKE_OVS_ESP), (Backend::VxlanEsp, LIKE_OTHERS)];
const VXLAN_ONLY: Except = &[
    (Backend::Sleeve, LIKE_FASTDP),
    (Backend::VxlanEsp, TAKES_LONG),
    (Backend::Ovs, TAKES_LONG),
    (Backend::OvsEsp, TAKES_LONG),
];
const NATIVE: Except =
    &[(Backend::VxlanEsp, TAKES_MEGABYTES), (Backend::Ovs, TAKES_MEGABYTES), (Backend::OvsEsp, TAKES_MEGABYTES)];
const NO_SLEEVE_AS_IT_ENDS: Except = &[(Backend::Sleeve, WITH_ITS_ROUTER)];

/// All scenarios, with what they cost in a guest in seconds.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("connect::two_hosts", connect::two_hosts, 15, NO_OVS_NOR_VXLAN_ESP),
    Scenario::new("connect::two_hosts_over_ipv6", connect::two_hosts_over_ipv6, 15, NO_OVS_NOR_VXLAN_ESP),
    Scenario::new("connect::three_hosts", connect::three_hosts, 25, NONE),
    Scenario::new("connect::three_hosts_over_ipv6", connect::three_hosts_over_ipv6, 25, NONE),
    Scenario::new("connect::across_nat", connect::across_nat, 35, NO_CLEAR),
    Scenario::new("capture::nothing_in_clear", capture::nothing_in_clear, 35, NO_CLEAR),
    Scenario::new("capture::reset_leaves_others_alone", capture::reset_leaves_others_alone, 15, NO_OVS),
    Scenario::new("block::at_the_start", block::at_the_start, 20, ONE_OF_EACH),
    Scenario::new("block::later", block::later, 60, NO_SLEEVE),
    Scenario::new("block::one_way", block::one_way, 30, NO_SLEEVE_NOR_OVS),
    Scenario::new("block::both_ports", block::both_ports, 30, NO_OVS_NOR_VXLAN_ESP),
    Scenario::new("mtu::becomes_narrow", mtu::becomes_narrow, 30, NONE),
    Scenario::new("mtu::jumbo", mtu::jumbo, 15, NO_OVS),
    Scenario::new("mtu::told_wrong", mtu::told_wrong, 15, NO_OVS_NOR_VXLAN_ESP),
    Scenario::new("plain::without_offloads", plain::without_offloads, 60, NATIVE),
    Scenario::new("upgrade::loses_nothing", upgrade::loses_nothing, 40, NO_SLEEVE_AS_IT_ENDS),
    Scenario::new("rekey::loses_nothing", rekey::loses_nothing, 80, NO_CLEAR),
    Scenario::new("many::stations_of_one_peer", many::stations_of_one_peer, 60, VXLAN_ONLY),
    Scenario::new("replaced::by_another", replaced::by_another, 20, NO_OVS),
    Scenario::new("replaced::by_nobody", replaced::by_nobody, 80, NO_OVS),
];

/// Test programs that are run in a guest.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "weft-host",
        package: "weft-host",
        target: "weft_host",
        args: &["xfrm", "ovs", "lanes"],
        limit: Duration::from_secs(480),
    },
    // That the lab works there: what cuts, captures and translates.
    Suite {
        name: "lab",
        package: "weft-integration",
        target: "lab",
        args: &["a_cut_may", "a_capture_sees", "nat_hides", "a_killed_router_comes", "--skip", "over_ipv6"],
        limit: Duration::from_secs(480),
    },
];
