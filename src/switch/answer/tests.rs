use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{
    frame::{
        ip::ICMPV6,
        sample::{self, V4_DESTINATION, V4_SOURCE, V6_DESTINATION, V6_SOURCE},
    },
    id::PeerName,
    switch::forwarding::{PeerForwarding, Route},
};

const REMOTE: Mac = Mac([2, 0, 0, 0, 0, 0xd]);
const PEER: PeerName = PeerName([2; 6]);

/// A table where [`REMOTE`] is on [`PEER`] with the destination addresses.
fn forwarding() -> Forwarding {
    let route = Some(Route::Direct("192.0.2.1:6783".parse().unwrap()));
    let mut forwarding = Forwarding::default();
    forwarding.peers.insert(
        PEER,
        PeerForwarding {
            further: Vec::new(),
            session: None,
            route,
            straight: None,
            payload_max: 1400,
            carried: false,
            frame_max: usize::MAX,
        },
    );
    forwarding.stations.insert(REMOTE, PEER);
    forwarding.addresses.insert(V4_DESTINATION.into(), REMOTE);
    forwarding.addresses.insert(V6_DESTINATION.into(), REMOTE);
    forwarding
}

fn request() -> Arp {
    Arp {
        operation: Operation::Request,
        sender_mac: sample::SOURCE,
        sender_ip: V4_SOURCE,
        target_mac: Mac([0; 6]),
        target_ip: V4_DESTINATION,
    }
}

fn broadcast(message: &Arp) -> Vec<u8> {
    sample::between(message.sender_mac, Mac::BROADCAST, message.frame().to_vec())
}

fn solicitation(source: Ipv6Addr, target: Ipv6Addr, option: &[u8]) -> Vec<u8> {
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), option].concat();
    let mut frame = sample::finished(true, 0, ICMPV6, &message);
    frame[21] = 255;
    frame[22..38].copy_from_slice(&source.octets());
    let ip = sample::checked_ip(&frame);
    let pseudo = crate::frame::checksum::pseudo_header(source.into(), ip.destination, ICMPV6, message.len());
    let checksum = crate::frame::checksum::finish(pseudo + crate::frame::checksum::sum(&message));
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn source_option() -> [u8; 8] {
    [1, 1, 2, 0, 0, 0, 0, 5]
}

fn seen(frame: &[u8]) -> Option<Sighting> {
    sighting(frame, &Ethernet::parse(frame).unwrap())
}

#[test]
fn a_request_for_a_remote_address_is_answered() {
    let answer = answer(&forwarding(), &broadcast(&request())).unwrap();
    let expected = Arp {
        operation: Operation::Reply,
        sender_mac: REMOTE,
        sender_ip: V4_DESTINATION,
        target_mac: sample::SOURCE,
        target_ip: V4_SOURCE,
    };
    assert_eq!(Arp::parse(answer.frame()), Some(expected));
    assert_eq!(answer.frame()[..12], [sample::SOURCE.0, REMOTE.0].concat());
}

#[test]
fn a_solicitation_for_a_remote_address_is_answered() {
    let answer = answer(&forwarding(), &solicitation(V6_SOURCE, V6_DESTINATION, &source_option())).unwrap();
    let told = Neighbour::parse(answer.frame()).unwrap();
    assert_eq!((told.kind, told.target, told.mac), (Kind::Advertisement, V6_DESTINATION, Some(REMOTE)));
    assert_eq!(answer.frame()[..12], [sample::SOURCE.0, REMOTE.0].concat());
}

#[test]
fn probes_announcements_replies_and_unknown_addresses_are_left_to_the_owner() {
    let table = forwarding();
    for (what, message) in [
        ("probe", Arp { sender_ip: Ipv4Addr::UNSPECIFIED, ..request() }),
        ("announcement", Arp { sender_ip: V4_DESTINATION, ..request() }),
        ("reply", Arp { operation: Operation::Reply, ..request() }),
        ("unknown", Arp { target_ip: Ipv4Addr::new(10, 0, 0, 9), ..request() }),
    ] {
        assert_eq!(answer(&table, &broadcast(&message)), None, "{what}");
    }
    let forged = sample::between(Mac([2, 0, 0, 0, 0, 9]), Mac::BROADCAST, request().frame().to_vec());
    assert_eq!(answer(&table, &forged), None, "one station asking in another's name");
    assert_eq!(answer(&table, &solicitation(Ipv6Addr::UNSPECIFIED, V6_DESTINATION, &[])), None, "probe");
    assert_eq!(answer(&table, &solicitation(V6_SOURCE, V6_SOURCE, &source_option())), None, "unknown");
}

#[test]
fn stations_that_cannot_be_reached_or_are_here_are_not_answered_for() {
    let mut here = forwarding();
    here.local.insert(REMOTE);
    let mut no_route = forwarding();
    no_route.peers.get_mut(&PEER).unwrap().route = None;
    let mut no_station = forwarding();
    no_station.stations.clear();
    for table in [here, no_route, no_station] {
        assert_eq!(answer(&table, &broadcast(&request())), None);
    }
}

#[test]
fn addresses_are_learnt_from_arp_and_neighbour_discovery_only() {
    let at = |address: Option<IpAddr>| Some(Sighting { mac: sample::SOURCE, address });
    let advertisement = nd::advertisement(V6_SOURCE, sample::SOURCE, V6_DESTINATION, REMOTE);
    let probe = Arp { sender_ip: Ipv4Addr::UNSPECIFIED, ..request() };
    assert_eq!(seen(&broadcast(&request())), at(Some(V4_SOURCE.into())));
    assert_eq!(seen(&broadcast(&probe)), at(None));
    assert_eq!(seen(&solicitation(V6_SOURCE, V6_DESTINATION, &source_option())), at(Some(V6_SOURCE.into())));
    assert_eq!(seen(&solicitation(V6_SOURCE, V6_DESTINATION, &[])), at(None), "no Ethernet address in it");
    assert_eq!(seen(&advertisement), at(Some(V6_SOURCE.into())));
    assert_eq!(seen(&sample::udp4(b"x")), at(None));
    let mut tagged = broadcast(&request());
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(seen(&tagged), at(None));
}

#[test]
fn groups_and_nobody_are_no_stations() {
    for source in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0; 6])] {
        assert_eq!(seen(&sample::other(REMOTE, source, b"")), None);
    }
}

#[test]
fn no_frame_makes_it_panic() {
    let table = forwarding();
    bolero::check!().with_type::<(bool, Vec<u8>)>().for_each(|(is_arp, bytes)| {
        let mut frame =
            if *is_arp { broadcast(&request()) } else { solicitation(V6_SOURCE, V6_DESTINATION, &source_option()) };
        for pair in bytes.chunks_exact(2) {
            let at = usize::from(pair[0]) % frame.len();
            frame[at] = pair[1];
        }
        answer(&table, &frame);
        seen(&frame);
    });
}

#[test]
fn stations_that_the_kernel_alone_leads_to_are_answered_for() {
    let mut forwarding = forwarding();
    forwarding.peers.get_mut(&PEER).unwrap().route = None;
    assert_eq!(answer(&forwarding, &broadcast(&request())), None);
    forwarding.peers.get_mut(&PEER).unwrap().carried = true;
    assert!(answer(&forwarding, &broadcast(&request())).is_some());
}
