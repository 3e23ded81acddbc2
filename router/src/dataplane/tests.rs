//! Data planes on hosts of their own (network namespaces) joined by a switch, with sessions made by hand.

mod lab;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use weft::{
    id::PeerName,
    node::input::{Input, Origin},
};

use self::lab::{Family, Host, Lab, PATIENCE};
use super::*;

/// Bytes that neither repeat soon nor start alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A handshake packet as far as the data plane can tell: its type and version, then anything.
fn handshake(len: usize) -> Vec<u8> {
    let mut packet = pattern(len);
    packet[..2].copy_from_slice(&[1, 1]);
    packet
}

/// The next input for the node that is not about stations: the kernel sends a frame or two by itself.
fn next_punt(host: &mut Host) -> Input {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match host.punts.try_recv() {
            Ok(Input::Station { .. }) => continue,
            Ok(input) => return input,
            Err(_) => assert!(Instant::now() < deadline, "nothing was punted"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn transfer(lab: &Lab, family: Family, len: usize) {
    let address: IpAddr = lab.hosts[1].inner(family);
    let listener = lab.hosts[1].inside(|| std::net::TcpListener::bind((address, 5000)).unwrap());
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    let mut stream = lab.hosts[0]
        .inside(|| std::net::TcpStream::connect_timeout(&SocketAddr::new(address, 5000), PATIENCE).unwrap());
    let sent = pattern(len);
    stream.write_all(&sent).unwrap();
    drop(stream);
    assert!(receiver.join().unwrap() == sent, "{len} bytes arrive as they were sent");
}

#[test]
fn bulk_tcp_crosses_complete_and_in_super_frames() {
    for (underlay, inner) in [(Family::V4, Family::V4), (Family::V6, Family::V4), (Family::V4, Family::V6)] {
        let lab = Lab::new(2, underlay);
        lab.join_all();
        transfer(&lab, inner, 20_000_000);
        let written = lab.hosts[1].mean_frame_written();
        assert!(written > 4000, "{underlay:?}/{inner:?}: frames of {written} bytes to the TAP");
        // Published with a delay.
        let deadline = Instant::now() + PATIENCE;
        let peer = lab.hosts[1].name;
        loop {
            let counters = lab.hosts[0].plane.meter().read().counters;
            if counters.peers.get(&peer).is_some_and(|traffic| traffic.tx_bytes >= 20_000_000) {
                break;
            }
            assert!(Instant::now() < deadline, "{underlay:?}/{inner:?}: {counters:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn packets_for_the_node_are_punted_with_their_source() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::new(2, family);
        let (from, to) = (lab.hosts[0].underlay(), lab.hosts[1].underlay());
        let packet = handshake(100);
        lab.hosts[0].plane.send(to, &packet);
        assert_eq!(next_punt(&mut lab.hosts[1]), Input::Datagram { origin: Origin::Direct(from), bytes: packet });
    }
}

#[test]
fn packets_for_the_node_pass_by_a_relay() {
    let mut lab = Lab::new(3, Family::V4);
    lab.join_all();
    let names: Vec<PeerName> = lab.hosts.iter().map(|host| host.name).collect();
    let packet = handshake(200);
    lab.hosts[0].plane.relay(names[2], &names[1..2], &packet);
    let expected = Input::Datagram { origin: Origin::Relayed(names[0]), bytes: packet };
    assert_eq!(next_punt(&mut lab.hosts[2]), expected);
}

#[test]
fn what_does_not_fit_the_interface_comes_back_as_too_big() {
    let mut lab = Lab::new(2, Family::V4);
    let to = lab.hosts[1].underlay();
    lab.hosts[0].plane.send(to, &handshake(1472));
    assert!(matches!(next_punt(&mut lab.hosts[1]), Input::Datagram { .. }), "1500 bytes fit");
    lab.hosts[0].plane.send(to, &handshake(1473));
    assert_eq!(next_punt(&mut lab.hosts[0]), Input::TooBig { to, payload_max: 1472 });
}

#[test]
fn a_flood_for_the_node_is_bounded() {
    let mut lab = Lab::new(2, Family::V4);
    let to = lab.hosts[1].underlay();
    let deadline = Instant::now() + PATIENCE;
    loop {
        for _ in 0..500 {
            lab.hosts[0].plane.send(to, &handshake(100));
        }
        let drops = lab.hosts[1].plane.meter().read().counters.drops;
        if drops.iter().any(|(reason, _)| reason == Reason::QueueFull) {
            break;
        }
        assert!(Instant::now() < deadline, "{drops:?}");
    }
    assert_eq!(lab.hosts[1].punts.len(), PUNTS_MAX);
}

#[test]
fn a_lost_tap_is_told_and_the_rest_stops_in_time() {
    let lab = Lab::new(2, Family::V4);
    let mut hosts = lab.hosts.into_iter();
    let (Some(lost), Some(kept)) = (hosts.next(), hosts.next()) else { panic!("two hosts") };
    let failure = lost.plane.failure();
    assert!(lost.plane.is_running() && failure.borrow().is_none());
    lost.ip("link delete weft-tap");
    let deadline = Instant::now() + PATIENCE;
    while lost.plane.is_running() || failure.borrow().is_none() {
        assert!(Instant::now() < deadline, "nobody noticed");
        thread::sleep(Duration::from_millis(1));
    }
    let words = failure.borrow().clone().unwrap();
    assert!(words.contains("TAP"), "{words}");
    let started = Instant::now();
    assert!(kept.plane.stop());
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[test]
fn queues_and_sockets_come_in_pairs() {
    let (punts, _keep) = channel();
    let error = DataPlane::start(DataPlaneConfig { taps: Vec::new(), sockets: Vec::new(), punts, realtime: false })
        .unwrap_err();
    assert!(matches!(error, StartError::Uneven(0, 0)), "{error}");
}
