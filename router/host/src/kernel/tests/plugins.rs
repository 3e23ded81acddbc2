//! What plugins ask for: devices with names, addresses and routes of their own, found and removed by the name of the container.

use weft::api::Route;

use super::*;
use crate::station;

fn named(container: &Container, name: &str, device: &str, addresses: &[&str]) -> AttachRequest<IpNet> {
    let (name, device) = (Some(name.to_owned()), Some(device.to_owned()));
    AttachRequest { name, device, ..to(&container.path, addresses) }
}

fn route(dst: &str, gw: Option<&str>) -> Route {
    Route::new(dst.parse().unwrap(), gw.map(|gw| gw.parse().unwrap()))
}

#[test]
fn a_device_is_as_it_is_asked_for() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        let mac = Mac([2, 0, 0, 0, 0, 0x51]);
        let routes = vec![
            route("0.0.0.0/0", Some("10.2.0.254")),
            route("::/0", Some("fd00::fe")),
            // Not in a subnet of the device.
            route("10.9.0.0/16", Some("10.77.0.1")),
            Route { mtu: Some(1000), priority: Some(7), ..route("10.8.0.0/16", None) },
        ];
        let request = AttachRequest {
            mac: Some(mac),
            mtu: Some(1300),
            hairpin: Some(true),
            routes,
            no_multicast_route: true,
            ..named(&container, "weft/0a/eth0", "eth0", &["10.2.0.1/24", "fd00::1/64"])
        };
        for _ in 0..2 {
            done(kernel.attach(request.clone())).unwrap();
            let seen = station::inspect(&container.path, "eth0").unwrap().unwrap();
            assert_eq!((seen.mac, seen.mtu), (Some(mac), 1300));
            assert_eq!(seen.addresses, nets(&["10.2.0.1/24", "fd00::1/64"]));
            for route in &request.routes {
                assert!(seen.routes.contains(&(route.dst, route.gw)), "{route:?} is not in {:?}", seen.routes);
            }
            let outside = seen.outside.unwrap();
            assert_eq!((outside.container.as_str(), outside.mtu, outside.plugged), ("weft/0a/eth0", 1300, true));
            let port = Netlink::open().unwrap().link(&outside.device).unwrap().unwrap().port;
            assert!(port.contains(&netlink_packet_route::link::InfoBridgePort::HairpinMode(true)));
        }
        assert_eq!(ps(&kernel), [("weft/0a/eth0".to_owned(), nets(&["10.2.0.1/24", "fd00::1/64"]))]);
    });
}

#[test]
fn a_container_may_have_several_devices() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        done(kernel.attach(named(&container, "a/0/eth0", "eth0", &["10.2.0.1/24"]))).unwrap();
        done(kernel.attach(named(&container, "b/0/eth1", "eth1", &["10.3.0.1/24"]))).unwrap();
        done(kernel.attach(to(&container.path, &["10.4.0.1/24"]))).unwrap();
        assert_eq!(ps(&kernel).len(), 3);
        let error = done(kernel.attach(named(&container, "b/0/eth1", "eth1", &["10.2.0.1/16"]))).unwrap_err();
        assert!(matches!(error, HostError::AddressTaken { .. }), "{error}");
        assert_eq!(done(kernel.detach(to(&container.path, &[]))).unwrap(), nets(&["10.4.0.1/24"]));
        assert_eq!(done(kernel.detach(named(&container, "a/0/eth0", "", &[]))).unwrap(), nets(&["10.2.0.1/24"]));
        assert_eq!(ps(&kernel), [("b/0/eth1".to_owned(), nets(&["10.3.0.1/24"]))]);
        for n in 0..10 {
            let (device, address) = (format!("n{n}"), format!("10.5.0.{}/24", n + 1));
            done(kernel.attach(named(&container, &device, &device, &[&address]))).unwrap();
        }
        let error = done(kernel.attach(named(&container, "one/too/many", "n", &["10.6.0.1/24"]))).unwrap_err();
        assert_eq!(error, HostError::TooManyDevices(container.path.clone()));
    });
}

#[test]
fn what_is_named_is_detached_by_name_whatever_became_of_its_namespace() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        done(kernel.attach(named(&container, "weft/0/eth0", "eth0", &["10.2.0.1/24", "10.2.0.2/24"]))).unwrap();
        let gone = AttachRequest { container: "/run/netns/gone".to_owned(), ..to("", &[]) };
        assert_eq!(done(kernel.detach(gone.clone())), Err(HostError::NoNamespace("/run/netns/gone".to_owned())));
        // Addresses of it cannot be taken one by one without going there.
        let part =
            AttachRequest { addresses: nets(&["10.2.0.1/24"]), name: Some("weft/0/eth0".to_owned()), ..gone.clone() };
        assert_eq!(done(kernel.detach(part)), Err(HostError::NoNamespace("/run/netns/gone".to_owned())));
        let whole = AttachRequest { name: Some("weft/0/eth0".to_owned()), ..gone };
        assert_eq!(done(kernel.detach(whole.clone())).unwrap().len(), 2);
        assert_eq!(done(kernel.detach(whole)).unwrap(), [], "it is well if it is not there");
        assert_eq!(ps(&kernel), []);
        // By hand, too.
        done(kernel.attach(named(&container, "weft/0/eth0", "eth0", &["10.2.0.1/24"]))).unwrap();
        assert_eq!(done(kernel.detach(to("weft/0/eth0", &[]))).unwrap(), nets(&["10.2.0.1/24"]));
    });
}

#[test]
fn a_name_belongs_to_one_device() {
    on_a_host(|| {
        let kernel = launch();
        let (first, second) = (Container::new(), Container::new());
        done(kernel.attach(named(&first, "weft/0/eth0", "eth0", &["10.2.0.1/24"]))).unwrap();
        done(kernel.attach(named(&second, "weft/0/eth0", "eth0", &["10.2.0.1/24"]))).unwrap();
        assert_eq!(ps(&kernel), [("weft/0/eth0".to_owned(), nets(&["10.2.0.1/24"]))]);
        assert_eq!(first.addresses("eth0"), []);
        // The other way round: the device is another's from now on.
        done(kernel.attach(named(&second, "weft/1/eth0", "eth0", &["10.2.0.1/24"]))).unwrap();
        assert_eq!(ps(&kernel), [("weft/1/eth0".to_owned(), nets(&["10.2.0.1/24"]))]);
        assert_eq!(station::unplug("weft/0/eth0").unwrap(), 0);
        assert_eq!(station::unplug("weft/1/eth0").unwrap(), 1);
        assert_eq!(station::inspect(&second.path, "eth0").unwrap(), None);
    });
}

#[test]
fn what_cannot_be_is_refused_and_nothing_changes() {
    on_a_host(|| {
        let kernel = launch();
        let container = Container::new();
        let good = named(&container, "weft/0/eth0", "eth0", &["10.2.0.1/24"]);
        let bad = [
            AttachRequest { device: Some("a/b".to_owned()), ..good.clone() },
            AttachRequest { device: Some("0123456789abcdef".to_owned()), ..good.clone() },
            AttachRequest { device: Some("lo".to_owned()), ..good.clone() },
            AttachRequest { name: Some(String::new()), ..good.clone() },
            AttachRequest { mac: Some(Mac([1, 0, 0, 0, 0, 1])), ..good.clone() },
            AttachRequest { mtu: Some(1341), ..good.clone() },
            AttachRequest { mtu: Some(500), ..good.clone() },
            AttachRequest { routes: vec![route("10.9.0.0/16", Some("fd00::1"))], ..good },
        ];
        for request in bad {
            let error = done(kernel.attach(request)).unwrap_err();
            assert!(error.is_request_error(), "{error}");
            assert_eq!(done(kernel.ports()).unwrap(), [], "{error}");
        }
    });
}

#[test]
fn an_mtu_of_its_own_is_kept_while_it_fits() {
    on_a_host(|| {
        let kernel = launch();
        let (own, follows) = (Container::new(), Container::new());
        // Neither is attached under the name that leads there.
        for container in [&own, &follows] {
            let name = format!("/run/netns/{}", &container.path[1..].replace('/', "-"));
            File::create(&name).unwrap();
            mount(Some(container.path.as_str()), name.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        done(kernel.attach(AttachRequest { mtu: Some(1300), ..named(&own, "own", "eth0", &["10.2.0.1/24"]) })).unwrap();
        done(kernel.attach(named(&follows, "follows", "eth0", &["10.2.0.2/24"]))).unwrap();
        for (bridge, expected) in [(1400, [1300, 1400]), (1310, [1300, 1310]), (1200, [1200, 1200])] {
            done(kernel.ensure_bridge(BridgeConfig { peer: PEER, mtu: Some(bridge) })).unwrap();
            for (container, mtu) in [&own, &follows].iter().zip(expected) {
                let seen = station::inspect(&container.path, "eth0").unwrap().unwrap();
                assert_eq!((seen.mtu, seen.outside.unwrap().mtu), (mtu, mtu), "of a bridge of {bridge}");
            }
        }
    });
}
