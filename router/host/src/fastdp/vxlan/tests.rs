mod adoption;
mod lanes;
mod obstacles;
mod stage;

use std::{
    io::{ErrorKind, IoSlice},
    time::Instant,
};

use weft::fastdp::{HEARTBEAT_ETHERTYPE, PlannedPeer, Protection};

use super::*;
use crate::{
    HeartbeatSocket, Host,
    kernel::tests::stage::{Container, done, on_a_host, to},
    packet_socket::PacketSocket,
    poll::Poller,
    testing::ip,
};
use stage::{PATIENCE, carry, lost, name, passes, plan, talk, two, underlay};

fn station(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([0x02, 0x51, 0, 0, high, low])
}

/// Sends a frame out of a container.
fn shout(container: &Container, frame: Vec<u8>) {
    container.inside(move || {
        let device = Netlink::open().unwrap().link("ethwe").unwrap().unwrap().index;
        PacketSocket::open(device, 0).unwrap().send(&[IoSlice::new(&frame)]).unwrap();
    });
}

fn frame(to: Mac, from: Mac) -> Vec<u8> {
    [&to.0[..], &from.0, &0x88b6_u16.to_be_bytes(), &[0; 46]].concat()
}

#[test]
fn containers_talk_by_the_tables_alone() {
    on_a_host(|| {
        let (one, two) = two();
        assert!(lost(&one, &two, 100), "nobody was told of anybody");
        assert!(one.sleeve_hears(two.station()));
        for v6 in [false, true] {
            carry(&one, &two, v6);
            assert!(talk(&one, &two), "IPv6: {v6}");
            // The largest that the bridge takes: 1340 less IP and UDP.
            assert!(passes(&one, &two, 1312));
            assert!(one.sleeve_misses(two.station()));
        }
    });
}

#[test]
fn unknown_stations_and_groups_go_to_the_sleeve_alone() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&one, &two, false);
        for to in [station(1), Mac::BROADCAST, Mac([0x01, 0, 0x5e, 0, 0, 9])] {
            shout(&one.container, frame(to, one.station()));
            assert!(one.sleeve_hears(to));
            assert!(two.sleeve_misses(to));
        }
        // What the sleeve hands over is for our own stations, not for the fast datapath again.
        for to in [Mac::BROADCAST, two.station()] {
            one.sleeve_says(&frame(to, station(2)));
            assert!(two.sleeve_misses(to));
        }
    });
}

#[test]
fn heartbeats_reach_the_right_peer_at_full_size_and_unfragmented() {
    on_a_host(|| {
        let (one, two) = two();
        let open = |number| move || HeartbeatSocket::open("weft", name(number)).unwrap();
        let (here, there) = (one.host.inside(open(1)), two.host.inside(open(2)));
        let poller = Poller::new().unwrap();
        poller.add(&there, 0).unwrap();
        let mut buffer = [0; 1500];
        for v6 in [false, true] {
            // Heartbeats go ahead of what they prove.
            for (node, peer) in [(&one, 2), (&two, 1)] {
                let plan = plan(peer, underlay(peer, v6), false, []);
                node.with(move |vxlan| vxlan.apply(&plan)).unwrap();
            }
            // The other addresses of heartbeats lead nowhere else.
            shout(&two.container, frame(heartbeat_mac(name(2)), station(1)));
            for length in [64, 1340] {
                let packet: Vec<u8> = (0..length).map(|number: u16| number as u8).collect();
                here.send(name(2), name(1), &packet).unwrap();
                assert!(poller.wait(PATIENCE).unwrap().contains(0));
                assert_eq!(there.receive(&mut buffer).unwrap(), Some(packet.len()));
                assert_eq!(buffer[..packet.len()], packet);
            }
            assert_eq!(there.receive(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
            assert!(one.sleeve_misses(heartbeat_mac(name(2))) && two.sleeve_misses(heartbeat_mac(name(2))));

            // A path that takes less: full packets are lost, not cut up.
            one.host.inside(|| ip("link set eth0 mtu 1380"));
            here.send(name(2), name(1), &[1; 1340]).unwrap();
            here.send(name(2), name(1), &[2; 1300]).unwrap();
            assert!(poller.wait(PATIENCE).unwrap().contains(0));
            assert_eq!((there.receive(&mut buffer).unwrap(), buffer[0]), (Some(1300), 2));
            one.host.inside(|| ip("link set eth0 mtu 1500"));
        }
        let error = here.send(name(2), name(1), &[0; 1341]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(here.receive(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

/// To whom frames went since the last time this was asked.
fn used(node: &stage::Node) -> Vec<Mac> {
    // What comes of a frame and what the kernel counts in ticks is over.
    std::thread::sleep(4 * TICKS);
    node.with(|vxlan| {
        assert_eq!(vxlan.inspect().unwrap(), Vec::<String>::new());
        vxlan.used().unwrap()
    })
}

#[test]
fn it_is_seen_to_whom_frames_go_and_heartbeats_are_none() {
    on_a_host(|| {
        let (one, two) = two();
        let beats = one.host.inside(|| HeartbeatSocket::open("weft", name(1)).unwrap());
        for lanes in [1, 4] {
            for v6 in [false, true] {
                let there = two.station();
                let stations = (0..9).map(station).chain([there]);
                let plan = stage::laned(plan(2, underlay(2, v6), true, stations), lanes);
                one.with(move |vxlan| vxlan.apply(&plan)).unwrap();
                used(&one);
                assert_eq!(used(&one), [], "a line that was made is not used for ever: {lanes} lanes, IPv6 {v6}");
                beats.send(name(2), name(1), &[1; 64]).unwrap();
                assert_eq!(used(&one), [], "{lanes} lanes, IPv6 {v6}");
                shout(&one.container, frame(there, one.station()));
                assert_eq!(used(&one), [there], "{lanes} lanes, IPv6 {v6}");
                assert_eq!(used(&one), [], "{lanes} lanes, IPv6 {v6}");
                // Of the host itself, by the bridge.
                one.host.inside(move || {
                    let device = Netlink::open().unwrap().link("weft").unwrap().unwrap().index;
                    let frame = frame(station(3), station(77));
                    PacketSocket::open(device, 0).unwrap().send(&[IoSlice::new(&frame)]).unwrap();
                });
                assert_eq!(used(&one), [station(3)], "{lanes} lanes, IPv6 {v6}");
            }
        }
    });
}

#[test]
fn a_heartbeat_socket_takes_its_own_only() {
    on_a_host(|| {
        let node = stage::Node::new(1);
        assert_eq!(
            HeartbeatSocket::open("weft9", name(1)).unwrap_err().to_string(),
            "no bridge weft9 on this host: launch the router first"
        );
        let socket = node.host.inside(|| HeartbeatSocket::open("weft", name(1)).unwrap());
        let kind = HEARTBEAT_ETHERTYPE.to_be_bytes();
        let poller = Poller::new().unwrap();
        poller.add(&socket, 0).unwrap();
        let receive = || {
            assert!(poller.wait(PATIENCE).unwrap().contains(0));
            socket.receive(&mut [0; 64])
        };
        for to in [Mac::BROADCAST, heartbeat_mac(name(1))] {
            shout(&node.container, [&to.0[..], &[2; 6], &kind, &[5; 70]].concat());
            assert_eq!(receive().unwrap(), None, "not for us, or too long");
        }
        shout(&node.container, [&heartbeat_mac(name(1)).0[..], &[2; 6], &kind, &[5; 64]].concat());
        assert_eq!(receive().unwrap(), Some(64));
        node.host.inside(|| ip("link delete weft"));
        assert_eq!(receive().unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        assert_eq!(socket.send(name(2), name(1), &[0]).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    });
}

#[test]
fn a_change_of_path_changes_what_it_must() {
    on_a_host(|| {
        let (one, two) = two();
        let stations: Vec<Mac> = (0..9).map(station).chain([two.station()]).collect();
        let carried = |carries| {
            let mut plan = plan(2, underlay(2, false), carries, stations.clone());
            let other = PlannedPeer { remote: underlay(3, true), carries: true, protection: Protection::Clear };
            plan.peers.insert(name(3), other);
            plan.stations.extend((100..120).map(|number| (station(number), name(3))));
            plan
        };
        let apply = |plan: Plan| one.with(move |vxlan| vxlan.apply(&plan)).unwrap();
        // Of each station two lines, of each heartbeat two.
        assert_eq!(apply(carried(true)), 2 * (10 + 20 + 2));
        assert_eq!(apply(carried(true)), 0);
        assert!(passes(&one, &two, 100));

        let others = |node: &stage::Node| {
            let mut lines = node.with(|vxlan| vxlan.fdb.list(vxlan.devices.bridge).unwrap());
            lines.retain(|line| line.kind != LineKind::Other && (100..120).any(|number| station(number) == line.mac));
            lines.sort_by_key(|line| (line.device, line.mac));
            // Some kernels tell a line twice.
            let mut lines: Vec<_> = lines.iter().map(|line| (line.device, line.mac, line.kind)).collect();
            lines.dedup();
            lines
        };
        let before = others(&one);
        assert_eq!(before.len(), 40);
        assert_eq!(apply(carried(false)), 10);
        assert!(lost(&one, &two, 100) && one.sleeve_hears(two.station()));
        assert_eq!(apply(carried(true)), 10);
        assert!(passes(&one, &two, 100) && one.sleeve_misses(two.station()));
        assert_eq!(others(&one), before);

        // Another address: its host's lines only. Another family: also the bridge's, and the old ones go.
        let moved = |to| {
            let mut plan = carried(true);
            plan.peers.get_mut(&name(2)).unwrap().remote = to;
            plan
        };
        assert_eq!(apply(moved(underlay(9, false))), 11);
        assert_eq!(apply(moved(underlay(2, true))), 33);
        assert!(passes(&one, &two, 100));
        assert_eq!(apply(Plan::default()), 2 * (10 + 20 + 2));
        assert_eq!(others(&one), []);
    });
}

#[test]
fn who_spoofs_a_station_does_not_move_it() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&one, &two, false);
        let spoofer = Container::new();
        done(one.kernel.attach(to(&spoofer.path, &["10.2.0.66/24"]))).unwrap();
        for spoofed in [two.station(), heartbeat_mac(name(2)), heartbeat_mac(name(1))] {
            shout(&spoofer, frame(Mac::BROADCAST, spoofed));
        }
        // From the other host, and from the sleeve.
        shout(&two.container, frame(one.station(), one.station()));
        one.sleeve_says(&frame(Mac::BROADCAST, one.station()));
        one.sleeve_says(&frame(Mac::BROADCAST, two.station()));
        assert!(talk(&one, &two));
        assert_eq!(one.with(|vxlan| vxlan.inspect()).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn the_bridge_tells_whom_it_heard() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&one, &two, true);
        assert!(talk(&one, &two));
        shout(&one.container, frame(Mac::BROADCAST, station(5)));
        let mut heard = [one.station(), station(5)];
        heard.sort();
        let deadline = Instant::now() + PATIENCE;
        while one.with(|vxlan| vxlan.learnt()).unwrap() != heard {
            assert!(Instant::now() < deadline, "not heard");
        }
    });
}

#[test]
fn ten_thousand_stations_are_quick() {
    on_a_host(|| {
        let node = stage::Node::new(1);
        let everyone = |carries| {
            let mut plan = plan(2, underlay(2, false), carries, (0..10_000).map(station));
            let other = PlannedPeer { remote: underlay(3, true), carries: true, protection: Protection::Clear };
            plan.peers.insert(name(3), other);
            plan.stations.extend((10_000..20_000).map(|number| (station(number), name(3))));
            plan
        };
        let timed = |what: &str, plan: Plan, expected: usize| {
            let (took, messages) = node.with(move |vxlan| {
                let begin = Instant::now();
                let messages = vxlan.apply(&plan).unwrap();
                (begin.elapsed(), messages)
            });
            println!("{what}: {messages} messages in {took:?}");
            assert_eq!(messages, expected);
            assert!(took < PATIENCE, "{what}: {took:?}");
        };
        timed("two peers with 10 000 stations each", everyone(true), 40_004);
        timed("the same again", everyone(true), 0);
        timed("one of them to the sleeve", everyone(false), 10_000);
        timed("and back", everyone(true), 10_000);
        let begin = Instant::now();
        assert_eq!(node.with(|vxlan| vxlan.inspect()).unwrap(), Vec::<String>::new());
        println!("inspection: {:?}", begin.elapsed());
        let begin = Instant::now();
        assert!(node.with(|vxlan| vxlan.learnt()).unwrap().len() <= 1, "the container, if it spoke");
        println!("whom the bridge heard: {:?}", begin.elapsed());
        timed("four lanes", stage::laned(everyone(true), 4), 4 + 2 * (2 + 2 * 10_001));
        timed("and one", everyone(true), 4 + 2 * (2 + 2 * 10_001));
        timed("nobody", Plan::default(), 40_004);
    });
}
