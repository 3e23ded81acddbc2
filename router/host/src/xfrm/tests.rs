mod esp;
mod lanes;
pub(crate) mod stage;

use std::{collections::BTreeMap, process::Command};

use weft::fastdp::{EspPlan, PlannedPeer, Protection};

use super::*;
use crate::testing::{in_namespace, ip};
use stage::{PORT, key, plan_of, set};

fn said(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_guard_closes_the_port_and_stays_when_the_router_dies() {
    in_namespace(|| {
        let mut xfrm = Xfrm::open(PORT).unwrap();
        xfrm.guard(true).unwrap();
        let policies = said("xfrm policy");
        assert_eq!(policies.matches("proto udp dport 6784").count(), 6, "{policies}");
        assert_eq!(policies.matches("action block priority 57459").count(), 6, "{policies}");
        drop(xfrm);

        let mut xfrm = Xfrm::open(PORT).unwrap();
        assert!(format!("{xfrm:?}").contains("policies: 6"));
        xfrm.guard(true).unwrap();
        xfrm.settle().unwrap();
        assert_eq!(said("xfrm policy"), policies);
        xfrm.guard(false).unwrap();
        assert_eq!(said("xfrm policy"), "");
    });
}

#[test]
fn what_an_earlier_router_left_goes_when_nobody_asked_for_it() {
    in_namespace(|| {
        Xfrm::open(PORT).unwrap().guard(true).unwrap();
        let mut xfrm = Xfrm::open(PORT).unwrap();
        xfrm.apply(&Plan::default()).unwrap();
        assert_ne!(said("xfrm policy"), "", "not before it is settled");
        xfrm.settle().unwrap();
        assert_eq!(said("xfrm policy"), "");
    });
}

#[test]
fn policies_of_others_are_not_touched() {
    in_namespace(|| {
        ip("xfrm policy add dst 10.8.0.0/16 dir out priority 57459 tmpl proto esp reqid 9 mode transport");
        ip("xfrm policy add proto udp dport 6784 dir fwd action block priority 1");
        ip("xfrm policy add dst 10.8.0.1/32 proto udp dport 6785 dir out action block priority 57451");
        let theirs = said("xfrm policy");
        let mut xfrm = Xfrm::open(PORT).unwrap();
        let error = xfrm.guard(true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an IPsec policy of another program for forwarded packets to any IPv4 address stands where ours belongs: \
             look with `ip xfrm policy`, and remove it"
        );
        assert_eq!(said("xfrm policy").matches("57459").count(), 6, "the five others are there, and theirs");
        xfrm.inspect().unwrap_err();
        xfrm.remove().unwrap();
        assert_eq!(said("xfrm policy"), theirs);
    });
}

#[test]
fn two_networks_live_beside_each_other() {
    in_namespace(|| {
        let (mut one, mut two) = (Xfrm::open(PORT).unwrap(), Xfrm::open(PORT + 2).unwrap());
        one.guard(true).unwrap();
        two.guard(true).unwrap();
        one.remove().unwrap();
        let policies = said("xfrm policy");
        assert_eq!((policies.matches("dport 6786").count(), policies.matches("dport 6784").count()), (6, 0));
    });
}

#[test]
fn trusted_peers_have_leave_while_guarded() {
    in_namespace(|| {
        let mut xfrm = Xfrm::open(PORT).unwrap();
        let remote = "10.9.0.2".parse().unwrap();
        let peer = PlannedPeer { remote, carries: true, protection: Protection::Clear };
        let plan = Plan { peers: BTreeMap::from([(PeerName([2; 6]), peer)]), ..Plan::default() };
        assert_eq!(xfrm.apply(&plan).unwrap(), []);
        assert_eq!(said("xfrm policy"), "");
        xfrm.guard(true).unwrap();
        let policies = said("xfrm policy");
        assert!(policies.contains("src 10.9.0.2/32 dst 0.0.0.0/0 proto udp dport 6784 \n\tdir in priority 57451"));
        assert!(policies.contains("src 0.0.0.0/0 dst 10.9.0.2/32 proto udp dport 6784 \n\tdir out priority 57451"));
        xfrm.apply(&Plan::default()).unwrap();
        assert!(!said("xfrm policy").contains("10.9.0.2"));
    });
}

#[test]
fn a_sealed_peer_is_closed_while_it_has_no_keys_and_what_others_removed_comes_back() {
    in_namespace(|| {
        let mut xfrm = Xfrm::open(PORT).unwrap();
        let plan = plan_of("10.9.0.2", EspPlan::default());
        xfrm.apply(&plan).unwrap();
        let policies = said("xfrm policy");
        assert!(policies.contains("dir out action block priority 57451"), "{policies}");
        assert!(policies.contains("tmpl src 0.0.0.0 dst 0.0.0.0\n\t\tproto esp reqid 1464146560 mode transport"));
        assert_eq!(xfrm.inspect().unwrap(), Damage::default());
        ip("xfrm policy flush");
        assert_eq!(xfrm.inspect().unwrap(), Damage { repaired: 2, lost: vec![] });
        assert_eq!(said("xfrm policy"), policies);
        xfrm.apply(&Plan::default()).unwrap();
        assert_eq!(said("xfrm policy"), "");
    });
}

#[test]
fn a_kernel_without_esp_says_so_and_peers_stay_closed() {
    in_namespace(|| {
        let mut xfrm = Xfrm::open(PORT).unwrap();
        let Err(why) = xfrm.ability() else { return };
        assert!(why.starts_with("this kernel lacks ESP with AES-GCM ("), "{why}");
        let receive = vec![set("10.9.0.1", 0x1000, &[key(1)])];
        let esp = EspPlan { send: Some(set("10.9.0.2", 0x2000, &[key(2)])), send_before: None, receive };
        let plan = plan_of("10.9.0.2", esp);
        let installed = xfrm.apply(&plan).unwrap();
        assert_eq!((installed.len(), installed[0].spi), (1, 0x1000));
        assert!(installed[0].error.as_ref().unwrap().starts_with("the kernel refuses SPI 0x1000 to 10.9.0.1: "));
        assert_eq!(xfrm.failures().len(), 1);
        assert!(said("xfrm policy").contains("dir out action block priority 57451"));
        assert_eq!(xfrm.apply(&plan).unwrap(), [], "told once");
        assert_eq!((xfrm.worn().unwrap(), xfrm.lanes().unwrap()), (vec![], vec![]));
    });
}

#[test]
fn nothing_shown_has_keys_in_it() {
    in_namespace(|| {
        let mut xfrm = Xfrm::open(PORT).unwrap();
        xfrm.apply(&plan_of(
            "10.9.0.2",
            EspPlan { send: Some(set("10.9.0.2", 0x800, &[key(7)])), ..EspPlan::default() },
        ))
        .unwrap();
        assert!(!format!("{xfrm:?}{:?}", xfrm.failures()).contains("7, 7"));
    });
}
