//! Flows that are spread over several ways by relays.

use std::collections::BTreeSet;

use super::*;
use crate::frame::{
    sample::Tcp,
    vnet::{Gso, GsoKind},
};

const WAYS: [usize; 3] = [1, 2, 3];
const TO: usize = 4;

/// Host 0 reaches 4 by 1, and flows are spread over 2 and 3, too.
fn spread() -> Mesh {
    let mut mesh = Mesh::full(5);
    mesh.relay_by(0, TO, &WAYS[..1]);
    mesh.peer_mut(0, TO).further = WAYS[1..].iter().map(|relay| vec![name(*relay)]).collect();
    mesh
}

fn tcp(source_port: u16, payload: &[u8]) -> Vec<u8> {
    sample::between(station(0), station(TO), Tcp { source_port, payload, ..Tcp::default() }.frame())
}

/// Where the datagrams went that host 0 has sent, and all is carried on.
fn first_relays(mesh: &mut Mesh) -> BTreeSet<SocketAddr> {
    let to = mesh.hosts[0].out.datagrams.iter().map(|(to, _)| *to).collect();
    mesh.run();
    to
}

#[test]
fn each_flow_goes_one_way_and_all_ways_carry_some() {
    let mut mesh = spread();
    let mut all = BTreeSet::new();
    for port in 0..100 {
        for payload in [&b"one"[..], b"another"] {
            mesh.send(0, &tcp(port, payload));
        }
        let ways = first_relays(&mut mesh);
        assert_eq!(ways.len(), 1);
        all.extend(ways);
    }
    assert_eq!(all, WAYS.map(address).into());
    assert_eq!((mesh.delivered(TO).len(), mesh.drops(0), mesh.drops(TO)), (200, vec![], vec![]));
}

#[test]
fn a_super_frame_and_what_is_cut_go_the_way_of_their_flow() {
    for port in 0..20 {
        let mut mesh = spread();
        mesh.send(0, &tcp(port, b"first"));
        let way = first_relays(&mut mesh);
        let frame = tcp(port, &[7; 20_000]);
        let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1200, header_len: 54 });
        mesh.send_offloaded(0, vnet::Header { checksum: Checksum::Needed { start: 34, offset: 16 }, gso }, &frame);
        assert_eq!(first_relays(&mut mesh), way);
        mesh.peer_mut(0, TO).payload_max = 600;
        mesh.send(0, &tcp(port, &[7; 1200]));
        assert_eq!(first_relays(&mut mesh), way);
        assert_eq!(mesh.delivered(TO).len(), 1 + 17 + 3);
    }
}

#[test]
fn what_is_replicated_goes_the_chosen_way() {
    let mut mesh = spread();
    for port in 0..20 {
        mesh.send(0, &sample::between(station(0), Mac::BROADCAST, tcp(port, b"all")));
        let to_others = WAYS.map(address).into_iter().collect::<Vec<_>>();
        let sent: Vec<_> = mesh.hosts[0].out.datagrams.iter().map(|(to, _)| *to).collect();
        assert_eq!(sent, [&to_others[..], &[address(1)]].concat());
        mesh.run();
    }
    assert_eq!(mesh.delivered(TO).len(), 20);
}

#[test]
fn frames_wait_for_the_sessions_of_all_ways() {
    let mut mesh = spread();
    assert!(mesh.hosts[0].forwarding.is_ready(name(TO)));
    for relay in WAYS {
        let session = mesh.peer_mut(0, relay).session.take();
        assert!(!mesh.hosts[0].forwarding.is_ready(name(TO)));
        mesh.peer_mut(0, relay).session = session;
    }
}
