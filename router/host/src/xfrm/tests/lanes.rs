//! With a kernel that has ESP: several states in one direction, and ESP in UDP.

use std::net::SocketAddr;

use socket2::SockRef;
use weft::fastdp::Protection;

use super::{
    super::*,
    esp::{plan, stage},
    stage::{OnWire, cross, has_esp, underlay},
};

/// What makes VXLAN look for a route, and with it a lane, for each packet.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// Nothing: one route for each remote address is remembered.
    Nothing,
    /// A mark on the packet, by its socket.
    Mark,
    /// A mark that the VXLAN device's egress filter gives.
    Filter,
    /// A forwarding entry that leads to a group of next hops.
    NextHops,
}

/// Packets of each sending lane of host one, after datagrams of 64 flows.
fn spread(lanes: u8, by: Spread) -> Vec<u64> {
    let mut pair = stage(false);
    pair.apply(false, 0, lanes);
    let commands: &[&str] = match by {
        Spread::Nothing | Spread::Mark => &[],
        Spread::Filter => &["tc qdisc add dev vx clsact", "tc filter add dev vx egress matchall action skbedit mark 1"],
        Spread::NextHops => &[
            "ip nexthop add id 1 via 10.9.0.2 fdb",
            "ip nexthop add id 10 group 1 fdb",
            "bridge fdb del 02:00:00:00:00:02 dev vx dst 10.9.0.2",
            "bridge fdb add 02:00:00:00:00:02 dev vx nhid 10",
        ],
    };
    for command in commands {
        pair.one.run(command);
    }
    for port in 7100..7164 {
        let flow = pair.one.station(port);
        SockRef::from(&flow).set_mark(u32::from(matches!(by, Spread::Mark))).unwrap();
        assert_eq!(cross(&flow, &pair.s2, 4), 4);
    }
    assert_eq!((pair.one.refused(), pair.two.refused()), (String::new(), String::new()));
    let counts = |xfrm: &mut Xfrm, sends| {
        let lanes = xfrm.lanes().unwrap();
        lanes.iter().filter(|lane| lane.sends == sends).map(|lane| lane.packets).collect::<Vec<_>>()
    };
    let sent = counts(&mut pair.x1, true);
    assert_eq!(sent, counts(&mut pair.x2, false), "each lane arrives by itself");
    assert_eq!((sent.len(), sent.iter().sum()), (usize::from(lanes), 256));
    println!("{lanes} lanes, {by:?}: {sent:?}");
    sent
}

#[test]
fn flows_spread_over_lanes() {
    if !has_esp() {
        return;
    }
    for lanes in [1, 2, 4, 8] {
        assert!(spread(lanes, Spread::Mark).iter().all(|&packets| packets > 0));
    }
    for by in [Spread::Filter, Spread::NextHops] {
        assert!(spread(4, by).iter().all(|&packets| packets > 0), "{by:?}");
    }
    assert_eq!(spread(4, Spread::Nothing).iter().filter(|&&packets| packets > 0).count(), 1);
}

#[test]
fn esp_in_udp_crosses_a_socket_that_takes_what_is_not_esp() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    let wire = pair.two.wire();
    let [e1, e2] = [&pair.one, &pair.two].map(|host| host.inside(|| EncapSocket::bind(4500).unwrap()));
    let at = |number| -> SocketAddr { SocketAddr::new(underlay(number, false).parse().unwrap(), 4500) };
    for (number, xfrm) in [(1, &mut pair.x1), (2, &mut pair.x2)] {
        let mut plan = plan(number, false, 0, 2);
        let Protection::Esp(esp) = &mut plan.peers.get_mut(&PeerName([2; 6])).unwrap().protection else { panic!() };
        for set in esp.send.iter_mut().chain(&mut esp.receive) {
            set.encap = Some((at(number), at(3 - number)));
        }
        xfrm.apply(&plan).unwrap();
    }
    assert_eq!(pair.both_ways(10), (10, 10));
    assert_eq!(wire.seen(), OnWire { esp_in_udp: 20, ..OnWire::default() });

    e1.send(at(2), b"not ESP").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(e2.receive(&mut buffer).unwrap(), Some((&b"not ESP"[..], at(1), at(2).ip())));
    assert_eq!(e2.receive(&mut buffer).unwrap(), None);
    assert_eq!((pair.one.refused(), pair.two.refused()), (String::new(), String::new()));

    // Without the socket nothing is taken: the datagrams are for nobody.
    drop(e2);
    assert_eq!(cross(&pair.s1, &pair.s2, 5), 0);
}
