//! Free ends: made once, moved by somebody else, removed wherever they are.

use weft::{
    api::endpoint::{EndpointRequest, FreeEnd},
    id::Mac,
};

use super::stage::{Container, done, launch, nets, on_a_host, ps};
use crate::{Host, HostError, Kernel, netlink::Netlink};

const MAC: Mac = Mac([2, 0x42, 10, 2, 0, 1]);

fn wanted(name: &str, address: &str) -> EndpointRequest {
    EndpointRequest { name: name.to_owned(), addresses: nets(&[address]), mac: Some(MAC), mtu: Some(1300) }
}

/// Moves a free end as a container engine does: into the container, renamed, with its address.
fn moved(end: &FreeEnd, container: &Container, address: &str) {
    let run = |words: &[&str]| {
        let done = std::process::Command::new("ip").args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    // ip takes a namespace by name or by process: this one has neither, but a name can be given to it.
    std::fs::write("/run/netns/c", "").unwrap();
    nix::mount::mount(
        Some(container.path.as_str()),
        "/run/netns/c",
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    run(&["link", "set", &end.device, "netns", "c", "name", "ethwe0"]);
    run(&["-n", "c", "addr", "add", address, "dev", "ethwe0"]);
    run(&["-n", "c", "link", "set", "ethwe0", "up"]);
}

fn make(kernel: &Kernel, request: EndpointRequest) -> Result<FreeEnd, HostError> {
    done(kernel.endpoint(request))
}

#[test]
fn a_free_end_is_made_once_and_listed_with_what_it_gets() {
    on_a_host(|| {
        let kernel = launch();
        let end = make(&kernel, wanted("docker:e1", "10.2.0.1/24")).unwrap();
        assert_eq!((end.mac, end.mtu), (MAC, 1300));
        assert_eq!(make(&kernel, wanted("docker:e1", "10.2.0.1/24")).unwrap(), end, "asked again");
        assert_eq!(ps(&kernel), [("docker:e1".to_owned(), vec![])]);
        let container = Container::new();
        moved(&end, &container, "10.2.0.1/24");
        assert_eq!(ps(&kernel), [("docker:e1".to_owned(), nets(&["10.2.0.1/24"]))]);
        assert_eq!(done(kernel.attachments()).unwrap()[0].mac, MAC);

        let again = make(&kernel, wanted("docker:e1", "10.2.0.1/24")).unwrap_err();
        assert!(matches!(again, HostError::ForeignDevice { .. }), "it is in use: {again}");
        let taken = make(&kernel, wanted("docker:e2", "10.2.0.1/24")).unwrap_err();
        assert!(matches!(taken, HostError::AddressTaken { .. }) && taken.is_request_error(), "{taken}");
        assert_eq!(ps(&kernel).len(), 1);

        for _ in 0..2 {
            done(kernel.remove_endpoint("docker:e1".to_owned())).unwrap();
            assert_eq!(ps(&kernel), []);
        }
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    on_a_host(|| {
        let kernel = launch();
        let netlink = Netlink::open().unwrap();
        let before = netlink.links().unwrap().len();
        let bad = [
            EndpointRequest { name: String::new(), ..EndpointRequest::default() },
            EndpointRequest { name: "docker:a\nb".to_owned(), ..EndpointRequest::default() },
            EndpointRequest { name: "e".to_owned(), ..EndpointRequest::default() },
            EndpointRequest { mtu: Some(10), ..wanted("docker:e", "10.2.0.1/24") },
            EndpointRequest { mac: Some(Mac::BROADCAST), ..wanted("docker:e", "10.2.0.1/24") },
            wanted("docker:e", "127.0.0.1/8"),
        ];
        for request in bad {
            make(&kernel, request.clone()).expect_err(&format!("{request:?}"));
            assert_eq!(netlink.links().unwrap().len(), before, "{request:?}");
        }
        let plain = EndpointRequest { name: "docker:e".to_owned(), ..EndpointRequest::default() };
        assert_eq!(make(&kernel, plain).unwrap().mtu, 1340, "the bridge's");
    });
}

#[test]
fn a_pair_that_was_not_finished_is_made_anew_and_another_device_is_left_alone() {
    on_a_host(|| {
        let kernel = launch();
        let netlink = Netlink::open().unwrap();
        let end = make(&kernel, wanted("docker:e", "10.2.0.1/24")).unwrap();
        let outside = end.device.replace("vethwg", "vethwl");
        done(kernel.remove_endpoint("docker:e".to_owned())).unwrap();
        let ip = |words: &[&str]| assert!(std::process::Command::new("ip").args(words).status().unwrap().success());
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", &end.device]);
        assert_eq!(make(&kernel, wanted("docker:e", "10.2.0.1/24")).unwrap().device, end.device);
        done(kernel.remove_endpoint("docker:e".to_owned())).unwrap();

        ip(&["link", "add", &outside, "type", "bridge"]);
        let link = netlink.link(&outside).unwrap().unwrap();
        netlink.set_alias(&link, "somebody's").unwrap();
        assert!(matches!(make(&kernel, wanted("docker:e", "10.2.0.1/24")), Err(HostError::ForeignDevice { .. })));
        assert!(matches!(done(kernel.remove_endpoint("docker:e".to_owned())), Err(HostError::ForeignDevice { .. })));
    });
}
