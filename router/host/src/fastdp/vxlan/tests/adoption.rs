//! A successor takes over what it finds, and what somebody breaks is mended.

use super::{
    stage::{Node, VNI, config},
    *,
};

#[test]
fn a_successor_goes_on_with_what_it_finds() {
    on_a_host(|| {
        let (mut one, two) = two();
        carry(&one, &two, false);
        let known = plan(2, underlay(2, false), true, [two.station(), station(1)]);
        one.with({
            let known = known.clone();
            move |vxlan| vxlan.apply(&known).unwrap()
        });
        one.die();
        assert!(talk(&one, &two), "while no router runs");
        one.succeed();
        assert!(talk(&one, &two));
        // It finds its peers again one by one.
        one.with(|vxlan| assert_eq!(vxlan.apply(&Plan::default()).unwrap(), 0));
        assert!(talk(&one, &two), "spared");
        let mut part = known;
        part.stations.remove(&station(1));
        one.with(move |vxlan| {
            assert_eq!(vxlan.apply(&part).unwrap(), 0, "found as it shall be");
            assert_eq!(vxlan.settle().unwrap(), 2, "of a station that nobody knows any more");
            assert_eq!(vxlan.settle().unwrap(), 0);
        });
        assert!(talk(&one, &two));
        one.with(|vxlan| assert_eq!(vxlan.apply(&Plan::default()).unwrap(), 4));
        assert!(lost(&one, &two, 100));
    });
}

#[test]
fn what_a_plan_asked_for_is_not_spared_when_it_does_so_no_more() {
    on_a_host(|| {
        let (mut one, two) = two();
        carry(&one, &two, true);
        one.die();
        one.succeed();
        let again = plan(2, underlay(2, true), true, [two.station()]);
        one.with(move |vxlan| {
            vxlan.apply(&again).unwrap();
            assert_eq!(vxlan.apply(&Plan::default()).unwrap(), 4);
        });
    });
}

#[test]
fn what_others_break_is_mended() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&one, &two, false);
        let inspect = || one.with(|vxlan| vxlan.inspect()).unwrap();
        assert_eq!(inspect(), Vec::<String>::new());
        let mac = two.station();
        let breaks: [(&str, String, &[&str]); 9] = [
            (
                "link delete weft-vx4",
                String::new(),
                &["weft-vx4 was not there", "4 lines of the forwarding tables were not right"],
            ),
            ("link set weft-vx4 down", String::new(), &["weft-vx4 was down"]),
            ("link set weft-vx4 mtu 1000", String::new(), &["weft-vx4 had another MTU"]),
            (
                "link set weft-vx4 nomaster",
                String::new(),
                &["weft-vx4 was not plugged into the bridge", "2 lines of the forwarding tables were not right"],
            ),
            (
                "link set weft-vx4 type bridge_slave flood on learning on",
                String::new(),
                &["weft-vx4 had other settings as a port of the bridge"],
            ),
            (
                "link set weft-tap type bridge_slave isolated off",
                String::new(),
                &["weft-tap had other settings as a port of the bridge"],
            ),
            (
                "",
                format!("fdb replace {mac} dev weft-tap master static"),
                &["1 lines of the forwarding tables were not right"],
            ),
            ("", format!("fdb delete {mac} dev weft-vx4 master"), &["1 lines of the forwarding tables were not right"]),
            (
                "",
                format!("fdb replace {mac} dev weft-vx4 dst 192.0.2.77 self"),
                &["1 lines of the forwarding tables were not right"],
            ),
        ];
        for (link, fdb, expected) in breaks {
            one.host.inside(move || {
                if !link.is_empty() {
                    ip(link);
                }
                if !fdb.is_empty() {
                    let done = std::process::Command::new("bridge").args(fdb.split(' ')).status().unwrap();
                    assert!(done.success(), "bridge {fdb}");
                }
            });
            assert_eq!(inspect(), expected, "{link}");
            assert!(talk(&one, &two), "{link}");
            assert_eq!(inspect(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_bridge_that_vanished_is_said_and_a_new_one_is_served() {
    on_a_host(|| {
        let node = Node::new(1);
        let known = plan(2, underlay(2, false), true, [station(1)]);
        node.with({
            let known = known.clone();
            move |vxlan| vxlan.apply(&known).unwrap()
        });
        node.host.inside(|| ip("link delete weft"));
        let error = node.with(move |vxlan| {
            assert!(vxlan.apply(&plan(2, underlay(2, false), false, [station(2)])).is_err());
            vxlan.inspect().unwrap_err()
        });
        assert_eq!(error, HostError::NoBridge("weft".to_owned()));
        done(node.kernel.ensure_bridge(crate::BridgeConfig { peer: name(1), mtu: Some(1400) })).unwrap();
        node.with(move |vxlan| {
            assert_eq!(vxlan.inspect().unwrap().len(), 4, "three ports and what they lead to");
            assert_eq!(vxlan.apply(&known).unwrap(), 4);
        });
    });
}

#[test]
fn a_device_of_another_network_is_made_anew() {
    on_a_host(|| {
        let mut node = Node::new(1);
        let index = |node: &Node| node.with(|vxlan| vxlan.devices.v4);
        let first = index(&node);
        node.die();
        node.succeed();
        assert_eq!(index(&node), first);
        node.die();
        node.host.inside(|| {
            let _taps = crate::tap::create("weft-tap", 1).unwrap();
            Vxlan::open(FastConfig { vni: VNI + 1, ..config(1) }).unwrap();
        });
        node.succeed();
        assert_ne!(index(&node), first);
    });
}
