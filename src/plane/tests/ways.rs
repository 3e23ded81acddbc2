//! Which way frames go, and what the node is told.

use super::*;
use crate::frame::arp::{Arp, Operation};

#[test]
fn a_frame_reaches_its_station_over_a_direct_link() {
    let mut mesh = Mesh::full(2);
    mesh.send(0, &frame(0, 1));
    let (to, packet) = mesh.hosts[0].out.datagrams[0].clone();
    assert_eq!((to, packet.len()), (address(1), 100 + 3 + 32));
    let is_readable = |part: &[u8]| packet.windows(part.len()).any(|bytes| bytes == part);
    assert!(!is_readable(&station(0).0) && !is_readable(&[0x40; 4]));
    assert_eq!(mesh.run(), 1);
    assert_eq!(mesh.delivered(1), [frame(0, 1)]);
    let (sent, received) = (mesh.traffic(0, 1), mesh.traffic(1, 0));
    assert_eq!((sent.tx_packets, sent.tx_bytes, received.rx_packets, received.rx_bytes), (1, 100, 1, 100));
    assert_eq!((mesh.drops(0), mesh.drops(1)), (vec![], vec![]));
}

#[test]
fn relays_pass_on_what_they_cannot_read() {
    for relays in [&[1][..], &[1, 2], &[1, 2, 3, 4]] {
        let mut mesh = Mesh::full(6);
        mesh.relay_by(0, 5, relays);
        mesh.send(0, &frame(0, 5));
        let first = mesh.hosts[0].out.datagrams[0].clone();
        let overhead = crate::wire::sleeve::relay_overhead(relays.len());
        assert_eq!((first.0, first.1.len()), (address(1), 100 + 3 + 32 + overhead));
        assert_eq!(mesh.run(), relays.len() + 1);
        assert_eq!(mesh.delivered(5), [frame(0, 5)]);
        for host in 0..6 {
            assert_eq!(mesh.drops(host), [], "host {host}");
            let relayed = mesh.traffic(host, 0).relayed_packets;
            assert_eq!(relayed, u64::from(relays.contains(&host)), "host {host}");
        }
        assert_eq!((mesh.traffic(0, 5).tx_packets, mesh.traffic(5, 0).rx_packets), (1, 1));
    }
}

#[test]
fn who_was_told_not_to_relay_passes_on_nothing_and_takes_what_is_its_own() {
    let mut mesh = Mesh::full(3);
    mesh.relay_by(0, 2, &[1]);
    mesh.hosts[1].forwarding.relays = false;
    mesh.send(0, &frame(0, 2));
    assert_eq!((mesh.run(), mesh.drops(1)), (1, vec![(Drop::RelayRefused, 1)]));
    mesh.hosts[2].forwarding.relays = false;
    mesh.hosts[1].forwarding.relays = true;
    mesh.send(0, &frame(0, 2));
    mesh.run();
    assert_eq!(mesh.delivered(2), [frame(0, 2)]);
}

#[test]
fn a_relay_passes_on_straight_although_its_own_frames_go_another_way() {
    let mut mesh = Mesh::full(4);
    mesh.relay_by(0, 2, &[1]);
    mesh.relay_by(1, 2, &[3]);
    mesh.send(0, &frame(0, 2));
    assert_eq!(mesh.run(), 2);
    assert_eq!(mesh.delivered(2), [frame(0, 2)]);
    mesh.peer_mut(1, 2).straight = None;
    mesh.send(0, &frame(0, 2));
    assert_eq!((mesh.run(), mesh.drops(1)), (1, vec![(Drop::RelayRefused, 1)]));
}

#[test]
fn broadcast_reaches_each_peer_once_and_never_comes_back() {
    let mut mesh = Mesh::full(4);
    mesh.relay_by(0, 3, &[1]);
    let groups = [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 5]), Mac([2, 9, 9, 9, 9, 9])];
    for group in groups {
        let broadcast = sample::between(station(0), group, frame(0, 1));
        mesh.send(0, &broadcast);
        assert_eq!(mesh.run(), 4, "one of three by a relay");
        assert_eq!(mesh.delivered(0), Vec::<Vec<u8>>::new());
        for host in 1..4 {
            assert_eq!(mesh.delivered(host), std::slice::from_ref(&broadcast));
        }
    }
}

#[test]
fn peers_without_a_session_or_a_route_miss_the_broadcast_and_a_session_is_asked_for_once() {
    let mut mesh = Mesh::full(4);
    mesh.peer_mut(0, 1).session = None;
    mesh.peer_mut(0, 2).route = None;
    let broadcast = sample::between(station(0), Mac::BROADCAST, frame(0, 1));
    mesh.send(0, &broadcast);
    mesh.send(0, &broadcast);
    let wanted = Input::SessionWanted { peer: name(1) };
    assert_eq!(mesh.hosts[0].out.punts.iter().filter(|punt| **punt == wanted).count(), 1);
    assert_eq!(mesh.drops(0), [(Drop::NoSession, 2)]);
    mesh.run();
    assert_eq!([1, 2, 3].map(|host| mesh.delivered(host).len()), [0, 0, 2]);
    mesh.hosts[0].plane.tick();
    mesh.send(0, &broadcast);
    assert_eq!(mesh.hosts[0].out.punts.iter().filter(|punt| **punt == wanted).count(), 2);
}

#[test]
fn the_first_frames_to_a_peer_wait_for_the_session_that_they_ask_for() {
    let mut mesh = Mesh::full(2);
    let session = mesh.peer_mut(0, 1).session.take();
    mesh.send(0, &frame(0, 1));
    mesh.send(0, &frame(0, 1));
    assert!(mesh.hosts[0].plane.is_holding() && mesh.drops(0).is_empty());
    mesh.hosts[0].release();
    assert_eq!(mesh.run(), 0);
    mesh.peer_mut(0, 1).session = session;
    mesh.hosts[0].release();
    assert_eq!((mesh.run(), mesh.delivered(1).len()), (2, 2));
    mesh.peer_mut(0, 1).session = None;
    mesh.send(0, &frame(0, 1));
    (0..30).for_each(|_| mesh.hosts[0].plane.tick());
    assert_eq!((mesh.hosts[0].plane.is_holding(), mesh.drops(0)), (false, vec![(Drop::NoSession, 1)]));
}

#[test]
fn a_first_relay_without_a_session_is_asked_for() {
    let mut mesh = Mesh::full(3);
    mesh.relay_by(0, 2, &[1]);
    mesh.peer_mut(0, 1).session = None;
    mesh.send(0, &frame(0, 2));
    assert!(mesh.hosts[0].plane.is_holding());
    assert!(mesh.hosts[0].out.punts.contains(&Input::SessionWanted { peer: name(1) }));
}

#[test]
fn frames_that_are_not_for_the_mesh_stay() {
    let mut mesh = Mesh::full(2);
    let cases = [
        (sample::between(station(0), Mac([1, 0x80, 0xc2, 0, 0, 0xe]), frame(0, 1)), Drop::LinkLocalGroup),
        (frame(9, 0), Drop::Looped),
        (sample::between(Mac::BROADCAST, station(1), frame(0, 1)), Drop::BadFrame),
        (vec![2; 13], Drop::BadFrame),
    ];
    for (count, (frame, reason)) in cases.iter().enumerate() {
        mesh.send(0, frame);
        assert_eq!(mesh.run(), 0, "{reason:?}");
        let total: u64 = mesh.drops(0).iter().map(|(_, count)| count).sum();
        assert!(total == count as u64 + 1 && mesh.drops(0).iter().any(|(drop, _)| drop == reason), "{reason:?}");
    }
}

#[test]
fn a_full_outlet_is_counted() {
    let mut mesh = Mesh::full(2);
    mesh.hosts[0].out.is_full = true;
    mesh.send(0, &frame(0, 1));
    assert_eq!(mesh.drops(0), [(Drop::QueueFull, 1)]);
}

#[test]
fn questions_for_known_addresses_are_answered_here() {
    let mut mesh = Mesh::full(3);
    let (IpAddr::V4(sender_ip), IpAddr::V4(target_ip)) = (station_v4(0), station_v4(1)) else { panic!() };
    let ask = |target_ip| {
        let (operation, target_mac) = (Operation::Request, Mac([0; 6]));
        let request = Arp { operation, sender_mac: station(0), sender_ip, target_mac, target_ip };
        sample::between(station(0), Mac::BROADCAST, request.frame().to_vec())
    };
    mesh.send(0, &ask(target_ip));
    assert_eq!(mesh.run(), 0);
    let replies = mesh.delivered(0);
    assert_eq!(Arp::parse(&replies[0]).map(|reply| reply.sender_mac), Some(station(1)));
    mesh.send(0, &ask([10, 0, 1, 77].into()));
    assert_eq!(mesh.run(), 2, "nobody known: both peers are asked");
    let told = Input::Station { mac: station(0), addresses: vec![station_v4(0)], attached: false };
    assert_eq!(mesh.hosts[0].out.punts, [told], "the sender's address, once");
}

#[test]
fn new_and_moved_stations_are_told_once() {
    let mut mesh = Mesh::full(2);
    for source in [7, 1] {
        for _ in 0..3 {
            mesh.send(0, &sample::between(station(source), Mac::BROADCAST, frame(0, 1)));
        }
        let told = Input::Station { mac: station(source), addresses: vec![], attached: false };
        assert_eq!(std::mem::take(&mut mesh.hosts[0].out.punts), [told]);
    }
}

#[test]
fn frames_with_our_own_stations_as_source_are_not_taken_from_the_mesh() {
    let mut mesh = Mesh::full(2);
    mesh.send(0, &sample::between(station(1), station(1), frame(0, 1)));
    mesh.run();
    assert_eq!((mesh.delivered(1), mesh.drops(1)), (vec![], vec![(Drop::Looped, 1)]));
}

#[test]
fn a_worn_session_is_told_once_per_tick() {
    let mut mesh = Mesh::full(2);
    mesh.hosts[0].plane.rekey_after = 3;
    let index = mesh.peer_mut(0, 1).session.as_ref().unwrap().local_index();
    let worn =
        |mesh: &Mesh| mesh.hosts[0].out.punts.iter().filter(|punt| **punt == Input::SessionWorn { index }).count();
    mesh.send(0, &frame(0, 1));
    mesh.send(0, &frame(0, 1));
    assert_eq!(worn(&mesh), 0);
    mesh.send(0, &frame(0, 1));
    mesh.send(0, &frame(0, 1));
    assert_eq!(worn(&mesh), 1);
}

#[test]
fn packets_of_the_node_go_to_the_node() {
    let mut mesh = Mesh::full(4);
    for kind in [PacketType::Initiation, PacketType::Response, PacketType::CookieReply, PacketType::Control] {
        let packet = [&[kind as u8, 1][..], &[7; 60]].concat();
        mesh.receive(3, 1, &packet);
        let direct = Input::Datagram { origin: Origin::Direct(address(1)), bytes: packet.clone() };
        let Host { plane, forwarding, out } = &mut mesh.hosts[0];
        plane.relay(forwarding, name(3), &[name(1), name(2)], &packet, out);
        assert_eq!(mesh.run(), 3);
        let relayed = Input::Datagram { origin: Origin::Relayed(name(0)), bytes: packet };
        assert_eq!(std::mem::take(&mut mesh.hosts[3].out.punts), [direct, relayed]);
    }
}

#[test]
fn frames_arrive_over_a_session_renewed_and_its_predecessor() {
    let mut mesh = Mesh::full(2);
    mesh.send(0, &frame(0, 1));
    mesh.join(0, 1);
    mesh.send(0, &frame(0, 1));
    assert_eq!(mesh.run(), 2);
    assert_eq!(mesh.delivered(1).len(), 2);
}
