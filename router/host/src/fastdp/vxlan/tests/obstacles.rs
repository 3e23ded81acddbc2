//! What is in the way is named; what is ours is known as such, and goes without a trace.

use std::net::UdpSocket;

use super::{
    stage::{Node, PORT},
    *,
};

/// The names of all devices of a host.
fn names(container: &Container) -> Vec<String> {
    container.inside(|| Netlink::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect())
}

/// Why the backend does not open beside what these commands made; nothing is left of the attempt.
fn refused(arguments: &'static str) -> HostError {
    let node = Node::bare(1);
    node.host.inside(move || ip(arguments));
    let before = names(&node.host);
    let error = node.open().unwrap_err();
    assert_eq!(names(&node.host), before);
    error
}

#[test]
fn devices_of_others_are_named_and_not_touched() {
    on_a_host(|| {
        assert_eq!(
            refused("link add weft-vx4 type vxlan id 7 dstport 9999").to_string(),
            "device weft-vx4 in this host is not weft's: rename or remove it"
        );
        assert_eq!(
            refused("link add mine type vxlan id 11259375 dstport 6784").to_string(),
            "VXLAN network 11259375 on UDP port 6784 is taken by a VXLAN device mine: remove it, or launch with another --port or \
             --network"
        );
        let metadata = HostError::PortInUse { port: PORT, by: "the VXLAN device mine".to_owned() };
        let node = Node::bare(1);
        node.host.inside(|| ip("link add mine type vxlan external dstport 6784"));
        node.host.inside(|| ip("link set mine up"));
        assert_eq!(node.open(), Err(metadata));
        node.host.inside(|| ip("link delete mine"));
        assert_eq!(node.open(), Ok(()));
    });
}

#[test]
fn a_program_on_the_port_is_reported() {
    on_a_host(|| {
        for address in ["0.0.0.0", "[::]"] {
            let node = Node::bare(1);
            let before = names(&node.host);
            let socket = node.host.inside(move || UdpSocket::bind(format!("{address}:{PORT}")).unwrap());
            let error = node.open().unwrap_err();
            assert_eq!(error, HostError::PortInUse { port: PORT, by: "another program".to_owned() });
            assert!(error.to_string().contains("ss -ulnp"), "{error}");
            assert_eq!(names(&node.host).iter().filter(|name| !before.contains(name)).count(), 0);
            drop(socket);
            assert_eq!(node.open(), Ok(()));
        }
    });
}

#[test]
fn without_bridge_or_tap_there_is_nothing_to_open() {
    on_a_host(|| {
        let mut node = Node::bare(1);
        node.die();
        assert_eq!(node.open(), Err(HostError::NoDevice("weft-tap".to_owned())));
        node.host.inside(|| ip("link delete weft"));
        assert_eq!(node.open(), Err(HostError::NoBridge("weft".to_owned())));
    });
}

#[test]
fn the_rest_of_the_host_knows_whose_the_devices_are() {
    on_a_host(|| {
        let (one, _two) = two();
        let ports = done(one.kernel.ports()).unwrap();
        let ours: Vec<_> = ports.iter().filter(|port| port.ours && port.container.is_none() && port.up).collect();
        assert_eq!(
            ours.iter().map(|port| port.device.as_str()).collect::<Vec<_>>(),
            ["weft-tap", "weft-vx4", "weft-vx6"]
        );
        assert_eq!(done(one.kernel.attachments()).unwrap().len(), 1);
        // Addresses that somebody gave them are no way to us.
        one.host.inside(|| ip("address add 192.0.2.200/32 dev weft-vx4"));
        let mut underlay = one.kernel.underlay();
        let own = [stage::underlay(1, false), stage::underlay(1, true)];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let seen = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, underlay.wait_for(|underlay| underlay.addresses[..] == own)).await.is_ok()
        });
        assert!(seen);

        let mtu = |node: &Node| node.host.inside(|| Netlink::open().unwrap().link("weft-vx6").unwrap().unwrap().mtu);
        done(one.kernel.ensure_bridge(crate::BridgeConfig { peer: name(1), mtu: Some(1400) })).unwrap();
        assert_eq!(mtu(&one), 1400);
        one.with(|vxlan| vxlan.set_mtu(1380)).unwrap();
        assert_eq!(mtu(&one), 1380);
        let muted = one.host.inside(|| {
            std::fs::read_to_string("/proc/thread-self/root/proc/sys/net/ipv6/conf/weft-vx6/disable_ipv6").unwrap()
        });
        assert_eq!(muted.trim(), "1");
    });
}

#[test]
fn reset_leaves_nothing_and_so_does_going_without() {
    on_a_host(|| {
        let before = names(&Container::new());
        let (one, two) = two();
        carry(&one, &two, false);
        done(one.kernel.reset()).unwrap();
        assert_eq!(names(&one.host), [&before[..], &["eth0".to_owned()]].concat());

        two.host.inside(|| Vxlan::remove("weft").unwrap());
        two.host.inside(|| Vxlan::remove("weft").unwrap());
        assert!(!names(&two.host).iter().any(|name| name.starts_with("weft-vx")));
        assert!(names(&two.host).contains(&"weft-tap".to_owned()));
    });
}

#[test]
fn a_device_whose_maker_was_killed_goes_too() {
    on_a_host(|| {
        let node = Node::bare(1);
        let half_make = || {
            node.host.inside(|| {
                for (family, name) in [(Family::V4, "weft-vx4"), (Family::V6, "weft-vx6")] {
                    let config = crate::netlink::VxlanConfig { family, vni: 9, port: 7000 };
                    Netlink::open().unwrap().add_vxlan(name, &config, 1400).unwrap();
                }
            });
        };
        half_make();
        node.host.inside(|| Vxlan::remove("weft").unwrap());
        assert!(!names(&node.host).iter().any(|name| name.starts_with("weft-vx")));
        half_make();
        done(node.kernel.reset()).unwrap();
        assert_eq!(names(&node.host), names(&Container::new()));
        node.host.inside(|| ip("link add weft-vx4 type vxlan id 7 dstport 9999"));
        done(node.kernel.reset()).unwrap();
        assert!(names(&node.host).contains(&"weft-vx4".to_owned()), "somebody else's");
    });
}
