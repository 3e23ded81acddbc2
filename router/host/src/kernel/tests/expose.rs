//! The host on its network, and what passes through it.

use std::{net::UdpSocket, process::Command};

use super::*;
use stage::host_gets;

/// The packet filter's tables in this namespace.
pub(super) fn tables() -> String {
    String::from_utf8(Command::new("nft").args(["list", "tables"]).output().unwrap().stdout).unwrap()
}

fn rules() -> String {
    String::from_utf8(Command::new("nft").args(["list", "table", "inet", "weft"]).output().unwrap().stdout).unwrap()
}

/// Whether the bridge is without IPv6.
fn muted() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/weft/disable_ipv6").unwrap().trim().to_owned()
}

fn forwarding() -> [String; 2] {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
        .map(|key| std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned())
}

#[test]
fn the_host_is_exposed_and_hidden_again() {
    on_a_host(|| {
        let kernel = launch();
        for _ in 0..2 {
            let given = done(kernel.expose(host_gets(&["10.2.0.254/24", "fd00:2::fe/64"]))).unwrap();
            assert_eq!(given, nets(&["10.2.0.254/24", "fd00:2::fe/64"]));
            assert_eq!(ps(&kernel), [(crate::EXPOSED.to_owned(), nets(&["10.2.0.254/24", "fd00:2::fe/64"]))]);
        }
        assert_eq!(done(kernel.attachments()).unwrap()[0].mac.0, PEER.0);
        assert_eq!(rules().matches("masquerade").count(), 4);
        assert_eq!(forwarding(), ["1", "1"]);
        assert_eq!(muted(), "0");
        assert_eq!(done(kernel.hide(host_gets(&["10.2.0.254/24"]))).unwrap(), nets(&["10.2.0.254/24"]));
        assert_eq!(rules().matches("masquerade").count(), 2);
        assert_eq!(forwarding(), ["0", "1"]);
        assert_eq!(done(kernel.hide(host_gets(&[]))).unwrap(), nets(&["fd00:2::fe/64"]));
        assert_eq!(done(kernel.hide(host_gets(&[]))).unwrap(), []);
        assert_eq!((tables().as_str(), forwarding()), ("", ["0".to_owned(), "0".to_owned()]));
        assert_eq!(ps(&kernel), []);
        assert_eq!(muted(), "1");
    });
}

#[test]
fn containers_cannot_reach_a_host_that_is_not_exposed() {
    on_a_host(|| {
        let kernel = launch();
        assert_eq!(muted(), "1");
        done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap();
        assert_eq!(muted(), "1");
        let netlink = Netlink::open().unwrap();
        let bridge = netlink.link("weft").unwrap().unwrap();
        let has: Vec<_> =
            netlink.addresses(None).unwrap().into_iter().filter(|has| has.index == bridge.index).collect();
        assert_eq!(has.iter().map(|has| has.net).collect::<Vec<_>>(), nets(&["10.2.0.254/24"]));
    });
}

#[test]
fn forwarding_that_was_on_stays_on_and_other_tables_stay() {
    on_a_host(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        crate::nft::apply("make a table", "table ip foreign {}").unwrap();
        let kernel = launch();
        done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap();
        done(kernel.reset()).unwrap();
        assert_eq!(forwarding()[0], "1");
        assert_eq!(tables(), "table ip foreign\n");
    });
}

#[test]
fn a_successor_puts_flushed_rules_back_and_knows_the_exceptions() {
    on_a_host(|| {
        let kernel = launch();
        done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap();
        let plain = ExposeRequest { without_masquerade: true, ..host_gets(&["10.3.0.254/24"]) };
        done(kernel.expose(plain)).unwrap();
        let before = rules();
        assert!(before.contains("10.2.0.0/24") && !before.contains("10.3.0.0/24"));
        crate::nft::apply("flush", "flush ruleset").unwrap();
        drop(kernel);
        let kernel = launch();
        assert_eq!(rules(), before);
        // Exposing once more may change what happens to it.
        done(kernel.expose(host_gets(&["10.3.0.254/24"]))).unwrap();
        assert!(rules().contains("10.3.0.0/24"));
        done(kernel.hide(host_gets(&[]))).unwrap();
        assert_eq!(forwarding()[0], "0");
    });
}

#[test]
fn the_host_cannot_take_what_others_have() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap();
        let error = done(kernel.expose(host_gets(&["10.2.0.1/24"]))).unwrap_err();
        assert!(matches!(error, HostError::AddressTaken { .. }), "{error}");
        done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap();
        let error = done(kernel.attach(to(&container.path, &["10.2.0.254/24"]))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.2.0.254/24 is taken by weft:expose: detach it there first, or choose another"
        );
        let netlink = Netlink::open().unwrap();
        netlink.add_address(&netlink.link("lo").unwrap().unwrap(), "192.0.2.1/32".parse().unwrap()).unwrap();
        let error = done(kernel.expose(host_gets(&["192.0.2.1/24"]))).unwrap_err();
        assert!(error.to_string().contains("lo of this host"), "{error}");
    });
}

#[test]
fn a_host_that_lives_by_router_advertisements_is_not_made_a_router() {
    on_a_host(|| {
        let kernel = launch();
        let outside = Container::new();
        connect(&outside);
        let route = "-6 route add default dev eth0 proto ra";
        assert!(Command::new("ip").args(route.split(' ')).status().unwrap().success());
        let error = done(kernel.expose(host_gets(&["10.2.0.254/24", "fd00:2::fe/64"]))).unwrap_err();
        assert_eq!(error, HostError::ForwardingRisky);
        assert_eq!((ps(&kernel), tables().as_str(), forwarding()), (vec![], "", ["0".to_owned(), "0".to_owned()]));
        let plain = ExposeRequest { without_masquerade: true, ..host_gets(&["fd00:2::fe/64"]) };
        assert_eq!(done(kernel.expose(plain)).unwrap(), nets(&["fd00:2::fe/64"]));
        assert_eq!(done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap(), nets(&["10.2.0.254/24"]));
    });
}

#[test]
fn too_many_exceptions_are_refused_before_anything_changes() {
    on_a_host(|| {
        let kernel = launch();
        let many: Vec<String> = (1..=40).map(|n| format!("10.2.{n}.254/24")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let plain = ExposeRequest { without_masquerade: true, ..host_gets(&many) };
        assert_eq!(done(kernel.expose(plain)).unwrap_err(), HostError::TooManyExposed);
        assert_eq!(ps(&kernel), []);
        assert_eq!(done(kernel.expose(host_gets(&many))).unwrap().len(), 40);
    });
}

#[test]
fn what_leaves_the_network_takes_the_hosts_address_unless_told_not_to() {
    on_a_host(|| {
        let kernel = launch();
        let (inside, outside) = (Container::new(), Container::new());
        done(kernel.attach(to(&inside.path, &["10.2.0.1/24"]))).unwrap();
        connect(&outside);
        let listening = outside.inside(|| UdpSocket::bind("192.0.2.2:7000").unwrap());
        listening.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sources = Vec::new();
        for without_masquerade in [false, true] {
            done(kernel.expose(ExposeRequest { without_masquerade, ..host_gets(&["10.2.0.254/24"]) })).unwrap();
            // Forwarding is the user's affair without masquerade.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            inside.inside(|| {
                let ip = |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success());
                ip("route replace default via 10.2.0.254");
                UdpSocket::bind("10.2.0.1:0").unwrap().send_to(b"out", "192.0.2.2:7000").unwrap();
            });
            sources.push(listening.recv_from(&mut [0; 8]).unwrap().1.ip().to_string());
        }
        assert_eq!(sources, ["192.0.2.1", "10.2.0.1"]);
    });
}

/// Puts a neighbour beside the host, outside the network: 192.0.2.1 here, 192.0.2.2 there, which knows the way back.
fn connect(outside: &Container) {
    let namespace = crate::netns::Namespace::find(&outside.path).unwrap();
    let netlink = Netlink::open().unwrap();
    netlink.add_veth(&Veth { name: "eth0", peer: "eth0", namespace: namespace.fd(), mtu: 1500 }).unwrap();
    let link = netlink.link("eth0").unwrap().unwrap();
    netlink.add_address(&link, "192.0.2.1/24".parse().unwrap()).unwrap();
    netlink.set_up(&link).unwrap();
    outside.inside(|| {
        let netlink = Netlink::open().unwrap();
        let link = netlink.link("eth0").unwrap().unwrap();
        netlink.add_address(&link, "192.0.2.2/24".parse().unwrap()).unwrap();
        netlink.set_up(&link).unwrap();
        assert!(Command::new("ip").args("route add 10.2.0.0/24 via 192.0.2.1".split(' ')).status().unwrap().success());
    });
}
