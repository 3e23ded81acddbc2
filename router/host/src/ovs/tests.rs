//! On kernels that have Open vSwitch; the others say loudly that they skip it.

mod stage;

use std::time::{Duration, Instant};

use weft::fastdp::{Plan, heartbeat_mac};

use super::*;
use crate::{
    Host as _,
    kernel::tests::stage::{Container, done, launch, on_a_host},
    tap,
    testing::ip,
};
use stage::{Family, Host, MTU, TWO, config, has_ovs, many, peer, say, station, two_hosts};

#[test]
fn containers_talk_by_flows_alone_over_both_protocols() {
    for family in [Family::V4, Family::V6] {
        let Some((one, two)) = two_hosts(family) else { return };
        one.apply(&one.plan_to(&two, true));
        two.apply(&two.plan_to(&one, true));
        one.ping(&two, "-c 3 -i 0.2").unwrap();
        // Full-size frames, which may not be cut.
        let most = MTU - 28;
        one.ping(&two, &format!("-c 2 -i 0.2 -M do -s {most}")).unwrap();
        two.ping(&one, &format!("-c 2 -i 0.2 -M do -s {most}")).unwrap();
        let (flows, lost) = one.counts();
        assert_eq!((flows, lost), (4 + 2 * 2, 0), "a frame found no flow");
        // Without the flows nothing comes over.
        one.apply(&Plan::default());
        one.ping(&two, "-c 2 -i 0.2 -W 1").unwrap_err();
    }
}

#[test]
fn a_host_without_open_vswitch_is_no_other_peer() {
    for family in [Family::V4, Family::V6] {
        let Some((one, two)) = two_hosts(family) else { return };
        one.apply(&one.plan_to(&two, true));
        let _vxlan = two.turn_to_vxlan(&two.plan_to(&one, true));
        one.ping(&two, &format!("-c 2 -i 0.2 -M do -s {}", MTU - 28)).unwrap();
        // Container to container with checksums of both levels left to the devices.
        one.transfer(&two);
        two.transfer(&one);
    }
}

#[test]
fn frames_with_a_vlan_tag_pass_too() {
    let Some((one, two)) = two_hosts(Family::V4) else { return };
    one.apply(&one.plan_to(&two, true));
    two.apply(&two.plan_to(&one, true));
    for (host, other) in [(&one, &two), (&two, &one)] {
        let neighbour = format!("neighbour add {} lladdr {} dev tag nud permanent", other.tagged(), other.mac);
        let address = format!("address add {}/24 dev tag", host.tagged());
        host.container.inside(move || {
            ip("link add link ethwe name tag type vlan id 7");
            ip("link set tag up");
            ip(&address);
            ip(&neighbour);
        });
    }
    one.ping_address(&two.tagged(), "-c 3 -i 0.2").unwrap();
    assert_eq!(one.counts().1, 0, "a frame found no flow");
}

#[test]
fn heartbeats_arrive_at_the_bridge_of_the_peer_only() {
    let Some((one, two)) = two_hosts(Family::V4) else { return };
    // Not carried: heartbeats pass all the same.
    one.apply(&one.plan_to(&two, false));
    two.apply(&two.plan_to(&one, false));
    let heard = two.listen();
    one.beat(&two);
    assert!(heard.recv_timeout(Duration::from_secs(5)).unwrap(), "a heartbeat at the bridge");
    one.ping(&two, "-c 1 -W 1").unwrap_err();
}

#[test]
fn it_is_seen_to_whom_frames_go_and_heartbeats_are_none() {
    let Some((one, two)) = two_hosts(Family::V4) else { return };
    one.apply(&one.plan_to(&two, true));
    two.apply(&two.plan_to(&one, true));
    let used = || one.with(|ovs| ovs.used().unwrap());
    used();
    one.ping(&two, "-c 1").unwrap();
    assert_eq!(used(), [two.mac]);
    one.beat(&two);
    // What the kernel tells of one use wavers from look to look.
    for look in 0..100 {
        assert_eq!(used(), [], "look {look}");
        std::thread::sleep(Duration::from_millis(7));
    }
    one.ping(&two, "-c 1").unwrap();
    assert_eq!(used(), [two.mac]);
}

#[test]
fn a_switch_of_one_peer_touches_its_own_stations_only() {
    let Some(host) = Host::alone() else { return };
    let mut plan = many(40);
    let all = host.apply(&plan);
    // For each of four peers and ten stations of each two flows and one line.
    assert_eq!(all, 3 * 44);
    assert_eq!(host.apply(&plan), 0);
    plan.peers.get_mut(&peer(1)).unwrap().carries = false;
    assert_eq!(host.apply(&plan), 10);
    plan.peers.get_mut(&peer(1)).unwrap().carries = true;
    assert_eq!(host.apply(&plan), 10);
    // It moves: its flows, and that of its heartbeat.
    plan.peers.get_mut(&peer(2)).unwrap().remote = "10.9.0.99".parse().unwrap();
    assert_eq!(host.apply(&plan), 2 * 11);
    plan.stations.remove(&station(3));
    assert_eq!(host.apply(&plan), 3);
    assert_eq!(host.with(|ovs| ovs.inspect().unwrap()), [""; 0]);
}

#[test]
fn a_successor_takes_over_while_frames_pass() {
    let Some((one, two)) = two_hosts(Family::V4) else { return };
    let plan = one.plan_to(&two, true);
    one.apply(&plan);
    two.apply(&two.plan_to(&one, true));
    let pinging = one.ping_meanwhile(&two, "-c 40 -i 0.1");
    for _ in 0..3 {
        one.restart();
        assert_eq!(one.apply(&plan), 0);
        assert_eq!(one.with(|ovs| ovs.settle().unwrap()), 0);
    }
    pinging.join().unwrap().unwrap();
}

#[test]
fn what_was_found_is_spared_until_it_settles() {
    let Some(host) = Host::alone() else { return };
    host.apply(&many(8));
    host.restart();
    // The successor knows less yet.
    let mut plan = many(8);
    let lost = plan.stations.split_off(&station(4));
    assert_eq!(host.apply(&plan), 0);
    assert_eq!(host.with(|ovs| ovs.settle().unwrap()), 3 * lost.len());
    assert_eq!(host.with(|ovs| ovs.settle().unwrap()), 0);
    assert_eq!(host.apply(&many(8)), 3 * lost.len());
}

#[test]
fn ten_thousand_stations() {
    let Some(host) = Host::alone() else { return };
    for count in [1, 1_000, 10_000] {
        let plan = many(count);
        let begun = Instant::now();
        let messages = host.apply(&plan);
        let took = begun.elapsed();
        say(&format!("{count} stations: {messages} messages in {took:?}"));
        let begun = Instant::now();
        host.apply(&plan);
        let same = begun.elapsed();
        let begun = Instant::now();
        assert_eq!(host.with(|ovs| ovs.inspect().unwrap()), [""; 0]);
        let inspected = begun.elapsed();
        let begun = Instant::now();
        assert_eq!(host.with(|ovs| ovs.used().unwrap()), [], "no frame went");
        let asked = begun.elapsed();
        let begun = Instant::now();
        host.restart();
        let taken = begun.elapsed();
        say(&format!(
            "{count} stations: again {same:?}, inspected {inspected:?}, asked whom frames went to {asked:?}, taken over {taken:?}"
        ));
        let begun = Instant::now();
        assert_eq!(host.apply(&plan), 0);
        assert_eq!(host.with(|ovs| ovs.settle().unwrap()), 0);
        host.apply(&Plan::default());
        say(&format!("{count} stations: removed {:?}", begun.elapsed()));
    }
}

#[test]
fn what_somebody_deleted_is_mended() {
    let Some((one, two)) = two_hosts(Family::V4) else { return };
    one.apply(&one.plan_to(&two, true));
    two.apply(&two.plan_to(&one, true));
    let by_hand = [
        "link del weft-ov",
        "link del weft-ox",
        "link set weft-ov down",
        "link set weft-od down",
        "link set weft-ox down",
        "link set weft-ov nomaster",
        "link set weft-od mtu 1000",
    ];
    for command in by_hand {
        one.place.inside(|| ip(command));
        let mended = one.with(|ovs| ovs.inspect().unwrap());
        assert!(!mended.is_empty(), "{command}");
        assert_eq!(one.with(|ovs| ovs.inspect().unwrap()), [""; 0], "after {command}: {mended:?}");
        one.reach(&two, &format!("-s {}", MTU - 28)).unwrap_or_else(|text| panic!("{command}: {mended:?}\n{text}"));
    }
    one.place.inside(|| Datapaths::open().unwrap().remove("weft-dp").unwrap());
    let mended = one.with(|ovs| ovs.inspect().unwrap());
    assert!(mended.iter().any(|text| text == "weft-dp was not there"), "{mended:?}");
    one.reach(&two, "").unwrap();
    // Flows, too.
    one.with(|ovs| {
        let datapath = ovs.devices.datapath;
        let matching = Match { frames: flow::Frames::To(heartbeat_mac(TWO)), tagged: false };
        ovs.datapaths.change(datapath, ovs.network, &[Change::Remove(matching)]).unwrap();
        assert_eq!(ovs.inspect().unwrap().len(), 1);
        assert_eq!(ovs.inspect().unwrap(), [""; 0]);
    });
}

#[test]
fn a_new_mtu_is_for_both_sides() {
    let Some(host) = Host::alone() else { return };
    host.with(|ovs| ovs.set_mtu(1280).unwrap());
    host.place.inside(|| {
        let netlink = Netlink::open().unwrap();
        for device in ["weft-ov", "weft-od"] {
            assert_eq!(netlink.link(device).unwrap().unwrap().mtu, 1280);
        }
    });
}

#[test]
fn another_port_or_network_is_taken_over_with_new_flows() {
    let Some(host) = Host::alone() else { return };
    host.apply(&many(8));
    for other in [FastConfig { port: 7784, ..config() }, FastConfig { vni: 0x2b, port: 7784, ..config() }] {
        host.restart_as(other);
        host.apply(&many(8));
        assert_eq!(host.counts().0, 4 + 2 * (4 + 8));
        assert_eq!(host.with(|ovs| ovs.inspect().unwrap()), [""; 0]);
    }
}

#[test]
fn what_is_not_ours_is_named_and_stays() {
    on_a_host(|| {
        if !has_ovs() {
            return;
        }
        let kernel = launch();
        let _tap = tap::create("weft-tap", 1).unwrap();
        done(kernel.add_port("weft-tap".to_owned())).unwrap();
        let mut datapaths = Datapaths::open().unwrap();
        datapaths.create("other-dp").unwrap();
        // One of our name, that somebody uses.
        let foreign = datapaths.create("weft-dp").unwrap();
        ip("link add p0 type dummy");
        let port = datapath::VPort { number: 7, name: "p0".to_owned(), kind: datapath::VPortKind::Device };
        datapaths.add_port(foreign, &port).unwrap();
        let error = Ovs::open(config()).unwrap_err();
        assert_eq!(error.to_string(), "device weft-dp in this host is not weft's: rename or remove it");
        done(kernel.reset()).unwrap();
        assert!(datapaths.find("weft-dp").unwrap().is_some());
        datapaths.remove("weft-dp").unwrap();
        assert!(datapaths.find("other-dp").unwrap().is_some());
    });
}

#[test]
fn a_udp_port_in_use_is_named() {
    on_a_host(|| {
        if !has_ovs() {
            return;
        }
        let kernel = launch();
        let _tap = tap::create("weft-tap", 1).unwrap();
        done(kernel.add_port("weft-tap".to_owned())).unwrap();
        let socket = std::net::UdpSocket::bind(("0.0.0.0", config().port)).unwrap();
        let error = Ovs::open(config()).unwrap_err();
        assert!(matches!(error, HostError::PortInUse { port: 6784, .. }), "{error}");
        drop(socket);
        Ovs::open(config()).unwrap();
    });
}

#[test]
fn a_reset_leaves_nothing() {
    on_a_host(|| {
        if !has_ovs() {
            return;
        }
        let names =
            || -> Vec<String> { Netlink::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect() };
        let before = names();
        let kernel = launch();
        let _tap = tap::create("weft-tap", 1).unwrap();
        done(kernel.add_port("weft-tap".to_owned())).unwrap();
        let mut ovs = Ovs::open(config()).unwrap();
        ovs.apply(&many(8)).unwrap();
        assert!(names().len() >= before.len() + 6, "{:?}", names());
        drop(ovs);
        done(kernel.reset()).unwrap();
        assert_eq!(names(), before);
        assert_eq!(Datapaths::open().unwrap().find("weft-dp").unwrap(), None);
        // Without anything to remove.
        done(kernel.reset()).unwrap();
        Ovs::remove("weft").unwrap();
    });
}

#[test]
fn half_made_things_of_a_killed_router_are_taken_over() {
    on_a_host(|| {
        if !has_ovs() {
            return;
        }
        let kernel = launch();
        let _tap = tap::create("weft-tap", 1).unwrap();
        done(kernel.add_port("weft-tap".to_owned())).unwrap();
        Datapaths::open().unwrap().create("weft-dp").unwrap();
        ip("link add weft-ov type veth peer name weft-od");
        let mut ovs = Ovs::open(config()).unwrap();
        assert_eq!(ovs.inspect().unwrap(), [""; 0]);
        done(kernel.reset()).unwrap();
        assert_eq!(Datapaths::open().unwrap().find("weft-dp").unwrap(), None);
    });
}

#[test]
fn a_kernel_without_open_vswitch_says_so() {
    on_a_host(|| {
        if has_ovs() {
            return;
        }
        let error = Ovs::open(config()).unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no Open vSwitch datapath (module openvswitch)");
        done(launch().reset()).unwrap();
        drop(Container::new());
    });
}
