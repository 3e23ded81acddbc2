mod endpoint;
mod expose;
mod plugins;
pub(crate) mod stage;

use std::{
    fs::File,
    io::Read,
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::mount::{MsFlags, mount};
use socket2::{Domain, Socket, Type};

use weft::id::Mac;

use super::*;
use crate::{netlink::Veth, testing::ip};
use stage::{Container, PEER, done, host_gets, launch, nets, on_a_host, ps, to};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_bridge_is_made_once_and_then_taken_over() {
    on_a_host(|| {
        let kernel = Kernel::start("weft").unwrap();
        let config = BridgeConfig { peer: PEER, mtu: None };
        let made = done(kernel.ensure_bridge(config)).unwrap();
        assert_eq!((made.created, made.mtu, made.mac.to_string().as_str()), (true, 1340, "7e:52:00:aa:bb:01"));
        drop(kernel);

        let kernel = Kernel::start("weft").unwrap();
        let found = done(kernel.ensure_bridge(config)).unwrap();
        assert_eq!((found.created, found.index), (false, made.index));
        let grown = done(kernel.ensure_bridge(BridgeConfig { mtu: Some(8900), ..config })).unwrap();
        assert_eq!(grown.mtu, 8900);
        assert_eq!(done(kernel.ensure_bridge(config)).unwrap().mtu, 8900);
        let tiny = done(kernel.ensure_bridge(BridgeConfig { mtu: Some(100), ..config }));
        assert_eq!(tiny.unwrap_err().to_string(), "an MTU of 100 bytes cannot be: give one of 576 to 65535");
    });
}

#[test]
fn the_bridge_keeps_its_mtu_whatever_its_ports_have() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap();
        let netlink = Netlink::open().unwrap();
        let port = netlink.link(&done(kernel.ports()).unwrap()[0].device).unwrap().unwrap();
        netlink.set_mtu(&port, 600).unwrap();
        assert_eq!(netlink.link("weft").unwrap().unwrap().mtu, 1340);
    });
}

#[test]
fn a_bridge_of_someone_else_is_not_touched() {
    on_a_host(|| {
        let netlink = Netlink::open().unwrap();
        netlink.put_bridge("weft", Mac([2, 9, 9, 9, 9, 9]), 1500).unwrap();
        let kernel = Kernel::start("weft").unwrap();
        let error = done(kernel.ensure_bridge(BridgeConfig { peer: PEER, mtu: Some(1400) })).unwrap_err();
        assert_eq!(error.to_string(), "device weft in this host is not weft's: rename or remove it");
        done(kernel.reset()).unwrap();
        assert_eq!(netlink.link("weft").unwrap().unwrap().mtu, 1500);
    });
}

#[test]
fn bad_names_of_bridges_are_refused() {
    for name in ["", "1weft", "we ft", "weft;", "abcdefghijklmnop"] {
        assert!(matches!(Kernel::start(name), Err(HostError::BadBridgeName(_))), "{name}");
    }
}

#[test]
fn it_may_be_started_and_dropped_within_tokio() {
    on_a_host(|| {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let kernel = Kernel::start("weft").unwrap();
            assert_eq!(kernel.attachments().await.unwrap(), []);
            let error = kernel.ports().await.unwrap_err();
            assert_eq!(error.to_string(), "no bridge weft on this host: launch the router first");
        });
    });
}

#[test]
fn a_request_is_done_though_nobody_waits_and_too_many_are_refused() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        drop(kernel.attach(to(&container.path, &["10.2.0.1/24"])));
        assert_eq!(ps(&kernel), [(container.path.clone(), nets(&["10.2.0.1/24"]))]);

        let (release, held) = std::sync::mpsc::channel::<()>();
        let (tell, begun) = std::sync::mpsc::channel();
        let stuck = kernel.ask(move |_| {
            tell.send(()).unwrap();
            held.recv().map_err(|_| HostError::Stopped)
        });
        begun.recv().unwrap();
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| kernel.ports()).collect();
        assert_eq!(done(kernel.ports()), Err(HostError::Busy));
        release.send(()).unwrap();
        assert_eq!(done(stuck), Ok(()));
        assert!(waiting.into_iter().all(|answer| done(answer).is_ok()));
    });
}

#[test]
fn attached_containers_talk_over_both_protocols() {
    on_a_host(|| {
        let kernel = launch();
        let (one, two) = (Container::new(), Container::new());
        let given = done(kernel.attach(to(&one.path, &["fd00:2::1/64", "10.2.0.1/24"]))).unwrap();
        assert_eq!(given, nets(&["fd00:2::1/64", "10.2.0.1/24"]));
        done(kernel.attach(to(&two.path, &["10.2.0.2/24", "fd00:2::2/64"]))).unwrap();
        for (here, there) in [("10.2.0.1:7000", "10.2.0.2:7000"), ("[fd00:2::1]:7000", "[fd00:2::2]:7000")] {
            let (here, there): (SocketAddr, SocketAddr) = (here.parse().unwrap(), there.parse().unwrap());
            let listening = two.inside(move || UdpSocket::bind(there).unwrap());
            listening.set_read_timeout(Some(PATIENCE)).unwrap();
            one.inside(move || UdpSocket::bind(here).unwrap().send_to(b"over the bridge", there).unwrap());
            let mut bytes = [0; 64];
            let (length, from) = listening.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..length], from), (&b"over the bridge"[..], here));
        }
    });
}

#[test]
fn attaching_again_adds_only_what_is_missing() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap();
        let first = done(kernel.attachments()).unwrap();
        for _ in 0..2 {
            let given =
                done(kernel.attach(to(&container.path, &["10.2.0.1/24", "10.3.0.1/16", "fd00::1/64"]))).unwrap();
            assert_eq!(given.len(), 3);
            assert_eq!(container.addresses("ethwe"), nets(&["10.2.0.1/24", "10.3.0.1/16", "fd00::1/64"]));
        }
        let again = done(kernel.attachments()).unwrap();
        assert_eq!((again.len(), again[0].mac), (1, first[0].mac));
        assert_eq!(again[0].mac.0[0] & 3, 2, "locally administered, individual");
        assert_eq!(done(kernel.ports()).unwrap().len(), 1);
    });
}

#[test]
fn the_container_gets_mtu_multicast_route_and_no_default_route() {
    on_a_host(|| {
        let kernel = launch();
        let (with, without) = (Container::new(), Container::new());
        done(kernel.attach(to(&with.path, &["10.2.0.1/24"]))).unwrap();
        let bare = AttachRequest { no_multicast_route: true, ..to(&without.path, &["10.2.0.2/24"]) };
        done(kernel.attach(bare)).unwrap();
        let routes = || std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
        let lines = |text: String| -> Vec<String> {
            text.lines().skip(1).map(|line| line.split('\t').take(3).collect::<Vec<_>>().join(" ")).collect()
        };
        // Destinations in hexadecimal, least byte first: 10.2.0.0 and 224.0.0.0; none has a gateway.
        assert_eq!(lines(with.inside(routes)), ["ethwe 0000020A 00000000", "ethwe 000000E0 00000000"]);
        assert_eq!(lines(without.inside(routes)).len(), 1);
        done(kernel.ensure_bridge(BridgeConfig { peer: PEER, mtu: Some(1400) })).unwrap();
        let mtu = with.inside(|| Netlink::open().unwrap().link("ethwe").unwrap().unwrap().mtu);
        assert_eq!(mtu, 1400);
    });
}

#[test]
fn detaching_takes_what_is_asked_and_unplugs_with_the_last() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        let path = container.path.as_str();
        done(kernel.attach(to(path, &["10.2.0.1/24", "10.2.0.2/24", "10.2.0.3/24", "fd00::1/64"]))).unwrap();
        // The first of a subnet goes, the others stay.
        assert_eq!(
            done(kernel.detach(to(path, &["10.2.0.1/24", "10.9.0.1/24", "fd00::1/128"]))).unwrap(),
            nets(&["10.2.0.1/24"])
        );
        assert_eq!(container.addresses("ethwe"), nets(&["10.2.0.2/24", "10.2.0.3/24", "fd00::1/64"]));
        assert_eq!(done(kernel.detach(to(path, &["10.2.0.1/24"]))).unwrap(), []);
        assert_eq!(done(kernel.detach(to(path, &[]))).unwrap(), nets(&["10.2.0.2/24", "10.2.0.3/24", "fd00::1/64"]));
        assert_eq!(done(kernel.detach(to(path, &[]))).unwrap(), []);
        assert!(container.inside(|| Netlink::open().unwrap().link("ethwe").unwrap().is_none()));
        assert_eq!(ps(&kernel), []);
        done(kernel.attach(to(path, &["10.2.0.1/24"]))).unwrap();
        assert_eq!(ps(&kernel), [(path.to_owned(), nets(&["10.2.0.1/24"]))]);
    });
}

#[test]
fn an_address_that_is_taken_is_refused_and_nothing_changes() {
    on_a_host(|| {
        let kernel = launch();
        let (one, two) = (Container::new(), Container::new());
        done(kernel.attach(to(&one.path, &["10.2.0.1/24"]))).unwrap();
        two.inside(|| {
            let netlink = Netlink::open().unwrap();
            netlink.add_address(&netlink.link("lo").unwrap().unwrap(), "10.8.0.1/32".parse().unwrap()).unwrap();
        });
        let by_one = format!("container \"{}\"", one.path);
        let by_two = format!("lo of container \"{}\"", two.path);
        for (address, by) in [("10.2.0.1/24", &by_one), ("10.2.0.1/8", &by_one), ("10.8.0.1/24", &by_two)] {
            let error = done(kernel.attach(to(&two.path, &["10.2.0.7/24", address]))).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{address} is taken by {by}: detach it there first, or choose another")
            );
        }
        let error = done(kernel.attach(to(&one.path, &["10.2.0.1/16"]))).unwrap_err();
        assert!(matches!(error, HostError::AddressTaken { .. }), "{error}");
        assert!(two.inside(|| Netlink::open().unwrap().link("ethwe").unwrap().is_none()));
        assert_eq!(ps(&kernel), [(one.path.clone(), nets(&["10.2.0.1/24"]))]);
    });
}

#[test]
fn a_device_of_someone_else_in_the_container_is_not_touched() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        container.inside(|| Netlink::open().unwrap().put_bridge("ethwe", Mac([2, 0, 0, 0, 0, 1]), 1500).unwrap());
        let error = done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap_err();
        let expected = format!("device ethwe in container \"{}\" is not weft's: rename or remove it", container.path);
        assert_eq!(error.to_string(), expected);
        assert_eq!(done(kernel.ports()).unwrap(), []);
    });
}

#[test]
fn half_an_attach_of_a_killed_router_is_cleared_away() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        let namespace = crate::netns::Namespace::find(&container.path).unwrap();
        let name = format!("vethwe{:08x}", namespace.inode());
        let half = Veth { name: &name, peer: "half", namespace: namespace.fd(), mtu: 1340 };
        Netlink::open().unwrap().add_veth(&half).unwrap();
        done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap();
        assert_eq!(ps(&kernel), [(container.path.clone(), nets(&["10.2.0.1/24"]))]);
    });
}

#[test]
fn a_successor_finds_what_is_attached_and_the_vanished_are_gone() {
    on_a_host(|| {
        let kernel = launch();
        let (stays, goes) = (Container::new(), Container::new());
        done(kernel.attach(to(&stays.path, &["10.2.0.1/24"]))).unwrap();
        done(kernel.attach(to(&goes.path, &["10.2.0.2/24"]))).unwrap();
        drop(kernel);
        let kernel = launch();
        assert_eq!(ps(&kernel).len(), 2);
        drop(goes);
        let deadline = Instant::now() + PATIENCE;
        while done(kernel.ports()).unwrap().len() > 1 {
            assert!(Instant::now() < deadline, "the kernel has not cleared the namespace");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(ps(&kernel), [(stays.path.clone(), nets(&["10.2.0.1/24"]))]);
        // Its address is free again.
        done(kernel.attach(to(&stays.path, &["10.2.0.2/24"]))).unwrap();
    });
}

/// A process with a namespace of its own.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn name_path_and_process_mean_the_same_container() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        let sleeper =
            Sleeper(container.inside(|| Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()));
        let pid = sleeper.0.id().to_string();
        File::create("/run/netns/c1").unwrap();
        let path = container.path.as_str();
        mount(Some(path), "/run/netns/c1", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let names = ["c1", &pid, "/run/netns/c1", path];
        for (name, address) in names.iter().zip(["10.2.0.1/24", "10.2.0.2/24", "10.2.0.3/24", "10.2.0.4/24"]) {
            done(kernel.attach(to(name, &[address]))).unwrap();
        }
        assert_eq!(
            ps(&kernel),
            [("c1".to_owned(), nets(&["10.2.0.1/24", "10.2.0.2/24", "10.2.0.3/24", "10.2.0.4/24"]))]
        );
        assert_eq!(done(kernel.detach(to(&pid, &[]))).unwrap().len(), 4);
        let missing = done(kernel.attach(to("c2", &["10.2.0.1/24"]))).unwrap_err();
        assert_eq!(missing, HostError::NoNamespace("c2".to_owned()));
        let file = done(kernel.attach(to("/run/netns", &["10.2.0.1/24"]))).unwrap_err();
        assert_eq!(file, HostError::NotANamespace("/run/netns".to_owned()));
    });
}

#[test]
fn neighbours_hear_of_new_addresses_at_once() {
    on_a_host(|| {
        let kernel = launch();
        let (listener, container) = (Container::new(), Container::new());
        done(kernel.attach(to(&listener.path, &["10.2.0.1/24"]))).unwrap();
        let mut socket = listener.inside(|| {
            // ETH_P_ALL in network byte order (packet(7)).
            Socket::new(Domain::PACKET, Type::RAW, Some(socket2::Protocol::from(0x0300))).unwrap()
        });
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        done(kernel.attach(to(&container.path, &["10.2.0.2/24", "fd00::2/64"]))).unwrap();
        let mac =
            done(kernel.attachments()).unwrap().into_iter().find(|line| line.container == container.path).unwrap().mac;
        let (mut arp, mut advertisement) = (false, false);
        while !(arp && advertisement) {
            let mut frame = [0; 1500];
            let length = socket.read(&mut frame).expect("both announcements within the time");
            let frame = &frame[..length];
            arp |=
                frame.get(12..14) == Some(&[8, 6]) && frame.get(22..32) == Some(&[&mac.0[..], &[10, 2, 0, 2]].concat());
            advertisement |= frame.get(12..14) == Some(&[0x86, 0xdd])
                && frame.get(54) == Some(&136)
                && frame.get(62..78) == Some(&"fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
    });
}

#[test]
fn a_device_becomes_a_port_once() {
    on_a_host(|| {
        let kernel = launch();
        let other = Container::new();
        let namespace = crate::netns::Namespace::find(&other.path).unwrap();
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&Veth { name: "weft-tap", peer: "x", namespace: namespace.fd(), mtu: 1500 }).unwrap();
        assert_eq!(done(kernel.add_port("no-tap".to_owned())).unwrap_err(), HostError::NoDevice("no-tap".to_owned()));
        for _ in 0..2 {
            done(kernel.add_port("weft-tap".to_owned())).unwrap();
        }
        let ports = done(kernel.ports()).unwrap();
        assert_eq!(
            ports.iter().map(|port| (port.device.as_str(), port.ours)).collect::<Vec<_>>(),
            [("weft-tap", true)]
        );
        assert_eq!(netlink.link("weft-tap").unwrap().unwrap().mtu, 1340);
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/weft-tap/disable_ipv6").unwrap().trim(), "1");
    });
}

#[test]
fn reset_leaves_the_host_as_it_was() {
    on_a_host(|| {
        let netlink = Netlink::open().unwrap();
        let names = || netlink.links().unwrap().into_iter().map(|link| link.name).collect::<Vec<_>>();
        let before = names();
        let kernel = launch();
        let container = Container::new();
        done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap();
        done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap();
        assert!(names().len() > before.len());
        for _ in 0..2 {
            done(kernel.reset()).unwrap();
            assert_eq!(names(), before);
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
        assert_eq!(expose::tables(), "");
        assert_eq!(ps(&kernel), []);
    });
}

#[test]
fn a_device_is_switched_on_though_its_other_end_is_not() {
    on_a_host(|| {
        let other = Container::new();
        let namespace = crate::netns::Namespace::find(&other.path).unwrap();
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&Veth { name: "eth0", peer: "eth0", namespace: namespace.fd(), mtu: 1500 }).unwrap();
        let link = || netlink.link("eth0").unwrap().unwrap();
        netlink.set_up(&link()).unwrap();
        other.inside(|| ip("link set eth0 down"));
        let since = Instant::now();
        while link().running {
            assert!(since.elapsed() < PATIENCE, "the link watch has noticed");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(link().up);
        ip("link set eth0 down");
        assert!(!link().up);
    });
}

#[test]
fn the_underlay_is_followed() {
    on_a_host(|| {
        let kernel = launch();
        let mut underlay = kernel.underlay();
        assert_eq!(*underlay.borrow_and_update(), Underlay::default());
        let other = Container::new();
        let namespace = crate::netns::Namespace::find(&other.path).unwrap();
        let netlink = Netlink::open().unwrap();
        netlink.add_veth(&Veth { name: "eth0", peer: "eth0", namespace: namespace.fd(), mtu: 1420 }).unwrap();
        let link = netlink.link("eth0").unwrap().unwrap();
        done(kernel.expose(host_gets(&["10.2.0.254/24"]))).unwrap();
        netlink.add_address(&link, "203.0.113.1/24".parse().unwrap()).unwrap();
        netlink.set_up(&link).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let seen = runtime.block_on(async { tokio::time::timeout(PATIENCE, underlay.changed()).await });
        seen.unwrap().unwrap();
        let addresses = vec!["203.0.113.1".parse().unwrap()];
        assert_eq!(*underlay.borrow(), Underlay { addresses, mtu: Some(1420) });
        assert_eq!(done(kernel.underlay_mtu("203.0.113.9".parse().unwrap())), Ok(1420));
        let nowhere = "198.51.100.1".parse().unwrap();
        assert_eq!(done(kernel.underlay_mtu(nowhere)), Err(HostError::NoRoute(nowhere)));
        let nowhere = "2001:db8::1".parse().unwrap();
        assert_eq!(done(kernel.underlay_mtu(nowhere)), Err(HostError::NoRoute(nowhere)));
    });
}

#[test]
fn the_hosts_name_is_known() {
    on_a_host(|| assert!(!Kernel::start("weft").unwrap().facts().hostname.is_empty()));
}

#[test]
fn routes_of_the_host_are_told_and_ours_are_not() {
    on_a_host(|| {
        let kernel = launch();
        done(kernel.expose(ExposeRequest { without_masquerade: true, ..host_gets(&["10.2.0.254/24"]) })).unwrap();
        let netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().unwrap();
        netlink.set_up(&loopback).unwrap();
        netlink.add_multicast_route(&loopback).unwrap();
        assert_eq!(done(kernel.routes()).unwrap(), []);
        let made = Command::new("ip").args(["link", "add", "dm0", "type", "veth", "peer", "dm1"]).status().unwrap();
        assert!(made.success());
        let dummy = netlink.link("dm0").unwrap().unwrap();
        netlink.set_up(&dummy).unwrap();
        netlink.set_up(&netlink.link("dm1").unwrap().unwrap()).unwrap();
        netlink.add_address(&dummy, "10.3.0.1/16".parse().unwrap()).unwrap();
        netlink.add_address(&dummy, "fd03::1/64".parse().unwrap()).unwrap();
        let mut routes = done(kernel.routes()).unwrap();
        routes.sort();
        routes.dedup();
        let to = |to: &str| HostRoute { to: to.parse().unwrap(), device: "dm0".to_owned() };
        assert_eq!(routes, [to("10.3.0.0/16"), to("fd03::/64")]);
    });
}

#[test]
fn a_container_keeps_the_name_that_it_was_plugged_in_by() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        assert_eq!(done(kernel.name_of(container.path.clone())), Ok(container.path.clone()));
        done(kernel.attach(to(&container.path, &["10.2.0.1/24"]))).unwrap();
        let link = "/run/netns/c1";
        std::os::unix::fs::symlink(&container.path, link).unwrap();
        assert_eq!(done(kernel.name_of("c1".to_owned())), Ok(container.path.clone()));
        assert_eq!(done(kernel.name_of("c2".to_owned())), Err(HostError::NoNamespace("c2".to_owned())));
    });
}
