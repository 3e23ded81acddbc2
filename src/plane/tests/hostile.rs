//! Bytes that nobody honest sent.

use super::*;
use crate::{
    frame::sample::Tcp,
    wire::sleeve::{RECORD_FRAME, RECORD_RELAY, record_header},
};

/// A Data packet with `body`, sealed by `from` for `to`.
fn packet(mesh: &mut Mesh, from: usize, to: usize, body: &[u8]) -> Vec<u8> {
    let mut packet = [&[0; 16], body, &[0; 16]].concat();
    let session = mesh.peer_mut(from, to).session.clone().unwrap();
    mesh.hosts[from].plane.contexts.of(&session).seal(&session, &mut packet).unwrap();
    packet
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&record_header(kind, content.len()).unwrap(), content].concat()
}

fn relay_record(source: usize, destination: usize, hops: &[usize], packet: &[u8]) -> Vec<u8> {
    let mut content = [name(source).0, name(destination).0].concat();
    content.push(hops.len() as u8);
    content.extend(hops.iter().flat_map(|hop| name(*hop).0));
    content.extend(packet);
    record(RECORD_RELAY, &content)
}

/// The one drop that `host` counted since it was last asked.
fn only_drop(mesh: &mut Mesh, host: usize) -> Option<Drop> {
    let drops: Vec<_> = mesh.hosts[host].plane.take_counters().drops.iter().collect();
    assert!(drops.iter().map(|(_, count)| count).sum::<u64>() <= 1, "{drops:?}");
    drops.first().map(|(reason, _)| *reason)
}

#[test]
fn replays_flips_cuts_and_garbage_only_count() {
    let mut mesh = Mesh::full(2);
    mesh.send(0, &frame(0, 1));
    let (_, packet) = mesh.hosts[0].out.datagrams.pop_front().unwrap();
    for bit in 0..packet.len() * 8 {
        let mut forged = packet.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        mesh.receive(1, 0, &forged);
    }
    for len in 0..packet.len() {
        mesh.receive(1, 0, &packet[..len]);
    }
    assert_eq!(mesh.delivered(1), Vec::<Vec<u8>>::new());
    let punted = mesh.hosts[1].out.punts.len() as u64;
    let counted: u64 = mesh.drops(1).iter().map(|(_, count)| count).sum();
    assert_eq!(counted + punted, packet.len() as u64 * 9, "each was counted, or handed to the node by its type");
    assert_eq!(mesh.run(), 0);
    mesh.hosts[1].plane.take_counters();
    mesh.receive(1, 0, &packet);
    mesh.receive(1, 0, &packet);
    assert_eq!(mesh.delivered(1).len(), 1, "forgeries did not spoil the true one");
    assert_eq!(mesh.drops(1), [(Drop::Replayed, 1)]);
}

#[test]
fn each_failure_has_its_reason() {
    let mut mesh = Mesh::full(4);
    let mut strange = packet(&mut mesh, 0, 1, b"");
    strange[4] ^= 0x80;
    let unknown_type = packet(&mut mesh, 0, 1, &record(9, b"x"));
    let cut_record = packet(&mut mesh, 0, 1, &[RECORD_FRAME, 200, 0, 1]);
    let short_frame = packet(&mut mesh, 0, 1, &record(RECORD_FRAME, b"short"));
    let group_source = sample::between(Mac::BROADCAST, station(1), frame(0, 1));
    let group_source = packet(&mut mesh, 0, 1, &record(RECORD_FRAME, &group_source));
    let spanning_tree = sample::between(station(0), Mac([1, 0x80, 0xc2, 0, 0, 0]), frame(0, 1));
    let spanning_tree = packet(&mut mesh, 0, 1, &record(RECORD_FRAME, &spanning_tree));
    for (bytes, reason) in [
        (vec![9, 9, 9], Drop::NotSleeve),
        (vec![4, 1, 0], Drop::NotSleeve),
        (strange, Drop::UnknownSession),
        (unknown_type, Drop::Malformed),
        (cut_record, Drop::Malformed),
        (short_frame, Drop::BadFrame),
        (group_source, Drop::BadFrame),
        (spanning_tree, Drop::LinkLocalGroup),
    ] {
        mesh.receive(1, 0, &bytes);
        assert_eq!(only_drop(&mut mesh, 1), Some(reason));
    }
    assert_eq!((mesh.run(), mesh.delivered(1)), (0, vec![]));
}

#[test]
fn relays_refuse_what_they_should_not_pass() {
    let mut mesh = Mesh::full(4);
    mesh.relay_by(1, 3, &[2]);
    mesh.peer_mut(1, 3).straight = None;
    for (what, record) in [
        ("in the relay's own name", relay_record(1, 2, &[], b"x")),
        ("from a stranger", relay_record(9, 2, &[], b"x")),
        ("to a stranger", relay_record(0, 9, &[], b"x")),
        ("back to the sender", relay_record(2, 0, &[], b"x")),
        ("back by the sender", relay_record(2, 3, &[0], b"x")),
        ("to its source", relay_record(2, 2, &[], b"x")),
        ("by its source", relay_record(2, 3, &[2], b"x")),
        ("by the relay itself", relay_record(0, 2, &[1], b"x")),
        ("to a peer without direct link", relay_record(0, 3, &[], b"x")),
        ("for the relay, by others", relay_record(0, 1, &[2], b"x")),
    ] {
        let packet = packet(&mut mesh, 0, 1, &record);
        mesh.receive(1, 0, &packet);
        assert_eq!(only_drop(&mut mesh, 1), Some(Drop::RelayRefused), "{what}");
        assert_eq!(mesh.run(), 0, "{what}");
    }
}

#[test]
fn what_relays_bring_is_checked_like_anything_else() {
    let mut mesh = Mesh::full(3);
    let honest = packet(&mut mesh, 0, 2, &record(RECORD_FRAME, &frame(0, 2)));
    let nested = relay_record(0, 1, &[], b"x");
    let nested = packet(&mut mesh, 0, 2, &nested);
    let garbage = [&[4, 1][..], &[7; 60]].concat();
    for (what, inner, source, reason) in [
        ("sealed by the source", &honest, 0, None),
        ("replayed", &honest, 0, Some(Drop::Replayed)),
        ("a relay record inside", &nested, 0, Some(Drop::RelayRefused)),
        ("not of a session", &garbage, 0, Some(Drop::NotSleeve)),
        ("nothing", &vec![], 0, Some(Drop::NotSleeve)),
    ] {
        let outer = packet(&mut mesh, 1, 2, &relay_record(source, 2, &[], inner));
        mesh.receive(2, 1, &outer);
        assert_eq!(only_drop(&mut mesh, 2), reason, "{what}");
    }
    assert_eq!(mesh.delivered(2), [frame(0, 2)]);
    let honest = packet(&mut mesh, 0, 2, &record(RECORD_FRAME, &frame(0, 2)));
    let misnamed = packet(&mut mesh, 1, 2, &relay_record(1, 2, &[], &honest));
    mesh.receive(2, 1, &misnamed);
    assert_eq!(only_drop(&mut mesh, 2), Some(Drop::RelayRefused), "sealed by another than its source");
    assert_eq!((mesh.run(), mesh.delivered(2)), (0, vec![]));
}

#[test]
fn records_behind_a_relayed_one_are_read() {
    let mut mesh = Mesh::full(3);
    let inner = packet(&mut mesh, 0, 2, &record(RECORD_FRAME, &frame(0, 2)));
    let frame_record = record(RECORD_FRAME, &frame(1, 2));
    let body = [frame_record.clone(), relay_record(0, 2, &[], &inner), frame_record, vec![0, 1, 2]].concat();
    let outer = packet(&mut mesh, 1, 2, &body);
    mesh.receive(2, 1, &outer);
    assert_eq!(mesh.delivered(2), [frame(1, 2), frame(0, 2), frame(1, 2)]);
    assert_eq!(mesh.drops(2), []);
}

#[test]
fn no_datagram_makes_a_plane_panic() {
    let mut mesh = Mesh::full(3);
    bolero::check!().with_type::<(u8, Vec<u8>)>().for_each(|(choice, bytes)| {
        let authentic = match choice % 4 {
            0 => bytes.clone(),
            1 => packet(&mut mesh, 0, 1, bytes),
            2 => packet(&mut mesh, 0, 1, &relay_record(0, 2, &[], bytes)),
            _ => {
                let inner = packet(&mut mesh, 2, 1, bytes);
                packet(&mut mesh, 0, 1, &relay_record(2, 1, &[], &inner))
            }
        };
        mesh.receive(1, 0, &authentic);
        mesh.hosts[1].out = Memory::default();
    });
}

#[test]
fn no_frame_makes_a_plane_panic_or_send_too_much() {
    let mut mesh = Mesh::full(3);
    mesh.peer_mut(0, 1).payload_max = 300;
    mesh.relay_by(0, 2, &[1]);
    mesh.peer_mut(0, 2).payload_max = 300;
    bolero::check!().with_type::<([u8; vnet::HEADER_LEN], bool, u8, Vec<u8>)>().for_each(
        |(header, is_v6, to, bytes)| {
            let payload = bytes.repeat(1 + usize::from(*to));
            let plain = Tcp { is_v6: *is_v6, payload: &payload[..payload.len().min(20_000)], ..Tcp::default() }.frame();
            let mut frame = sample::between(station(0), station(usize::from(to % 4)), plain);
            for pair in bytes.chunks_exact(2) {
                let at = usize::from(pair[0]) % frame.len();
                frame[at] = pair[1];
            }
            let mut header = *header;
            header[1] %= 6;
            if let Some(header) = vnet::Header::parse(&header, &frame) {
                mesh.send_offloaded(0, header, &frame);
            }
            mesh.send(0, &frame);
            mesh.send(0, bytes);
            let out = std::mem::take(&mut mesh.hosts[0].out);
            assert!(out.datagrams.iter().all(|(_, packet)| packet.len() <= 300 && packet[0] == 4));
        },
    );
}
