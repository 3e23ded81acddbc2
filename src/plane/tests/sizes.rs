//! Frames that do not fit the way, and super-frames.

use super::*;
use crate::frame::{
    Pieces, ip,
    sample::{Tcp, checked_ip, written},
    vnet::{Gso, GsoKind},
};

/// Bytes of a Data packet besides the frame.
const OVERHEAD: usize = 35;

fn super_frame(is_v6: bool, size: u16) -> (vnet::Header, Vec<u8>) {
    let payload: Vec<u8> = (0..20_000_u32).map(|index| index as u8).collect();
    let frame = Tcp { is_v6, payload: &payload, ..Tcp::default() }.frame();
    let kind = if is_v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
    let start = if is_v6 { 54 } else { 34 };
    let checksum = Checksum::Needed { start, offset: 16 };
    let header = vnet::Header { checksum, gso: Some(Gso { kind, size, header_len: start + 20 }) };
    (header, sample::between(station(0), station(1), frame))
}

/// DF set in an IPv4 frame.
fn whole(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    checksum::fill_ipv4(&mut frame, 14, 34);
    frame
}

#[test]
fn super_frames_travel_as_their_segments() {
    for (is_v6, relays) in [(false, &[][..]), (true, &[]), (false, &[2]), (true, &[2, 3])] {
        let mut mesh = Mesh::full(4);
        if !relays.is_empty() {
            mesh.relay_by(0, 1, relays);
        }
        let (header, frame) = super_frame(is_v6, 1200);
        mesh.send_offloaded(0, header, &frame);
        mesh.run();
        let expected = written(&Segments::new(&frame, &header.gso.unwrap()).unwrap());
        assert_eq!(mesh.delivered(1), expected);
        assert_eq!(mesh.traffic(0, 1).tx_packets, 17);
    }
}

#[test]
fn a_checksum_left_to_the_device_is_completed() {
    let mut mesh = Mesh::full(2);
    let whole = sample::between(station(0), station(1), sample::udp4(b"payload"));
    let mut partial = whole.clone();
    let (source, destination) = sample::addresses(false);
    let pseudo = checksum::partial(checksum::pseudo_header(source, destination, ip::UDP, 15));
    partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Needed { start: 34, offset: 6 };
    mesh.send_offloaded(0, vnet::Header { checksum, gso: None }, &partial);
    mesh.run();
    assert_eq!(mesh.delivered(1), [whole]);
}

#[test]
fn segments_that_do_not_fit_are_answered_once() {
    for is_v6 in [false, true] {
        let mut mesh = Mesh::full(3);
        mesh.relay_by(0, 1, &[2]);
        mesh.peer_mut(0, 1).payload_max = 1340 + OVERHEAD + crate::wire::sleeve::relay_overhead(1);
        let (header, frame) = super_frame(is_v6, 1400);
        let frame = if is_v6 { frame } else { whole(frame) };
        mesh.send_offloaded(0, header, &frame);
        assert_eq!(mesh.run(), 0);
        let answers = mesh.delivered(0);
        assert_eq!(answers.len(), 1);
        let ip = checked_ip(&answers[0]);
        assert_eq!(ip.source, sample::addresses(is_v6).1, "in the name of the destination");
        let mtu = &answers[0][ip.upper + 6..ip.upper + 8];
        assert_eq!(mtu, (1340_u16 - 14).to_be_bytes());
        assert_eq!(mesh.drops(0), [(Drop::TooBig, 1)]);
        let (header, frame) = super_frame(is_v6, 1340 - 74);
        mesh.send_offloaded(0, header, &frame);
        assert_eq!(mesh.run(), 32, "16 segments by one relay");
        assert_eq!(mesh.drops(0), [(Drop::TooBig, 1)]);
    }
}

#[test]
fn what_may_be_fragmented_is() {
    let mut mesh = Mesh::full(2);
    mesh.peer_mut(0, 1).payload_max = 1000;
    let (header, frame) = super_frame(false, 1400);
    mesh.send(0, &sample::between(station(0), station(1), sample::udp4(&[7; 1400])));
    mesh.send_offloaded(0, header, &frame);
    mesh.send(0, &sample::between(station(0), station(1), sample::udp6(&[7; 1232])));
    let sizes: Vec<_> = mesh.hosts[0].out.datagrams.iter().map(|(_, packet)| packet.len()).collect();
    assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
    mesh.run();
    let frames = mesh.delivered(1);
    assert_eq!(frames.len(), 2 + 15 * 2 - 1 + 2, "the last segment of 400 bytes fits");
    let bytes: usize = frames.iter().map(|frame| checked_ip(frame)).map(|ip| ip.end - ip.upper).sum();
    assert_eq!(bytes, 1408 + 20_000 + 15 * 20 + 1240);
    assert_eq!(mesh.drops(0), []);
}

#[test]
fn a_frame_fits_to_the_last_byte() {
    let mut mesh = Mesh::full(2);
    let frame = whole(sample::between(station(0), station(1), sample::udp4(&[7; 1000])));
    mesh.peer_mut(0, 1).payload_max = frame.len() + OVERHEAD;
    mesh.send(0, &frame);
    assert_eq!(mesh.run(), 1);
    mesh.peer_mut(0, 1).payload_max -= 1;
    mesh.send(0, &frame);
    assert_eq!((mesh.run(), mesh.delivered(0).len(), mesh.drops(0)), (0, 1, vec![(Drop::TooBig, 1)]));
}

#[test]
fn a_frame_fits_the_peers_containers_to_the_last_byte() {
    let mut mesh = Mesh::full(2);
    let frame = whole(sample::between(station(0), station(1), sample::udp4(&[7; 1000])));
    mesh.peer_mut(0, 1).frame_max = frame.len();
    mesh.send(0, &frame);
    assert_eq!(mesh.run(), 1);
    mesh.peer_mut(0, 1).frame_max -= 1;
    mesh.send(0, &frame);
    assert_eq!((mesh.run(), mesh.delivered(0).len(), mesh.drops(0)), (0, 1, vec![(Drop::TooBig, 1)]));
}

#[test]
fn replicated_frames_that_do_not_fit_are_not_answered() {
    let mut mesh = Mesh::full(3);
    mesh.peer_mut(0, 1).payload_max = 500;
    mesh.send(0, &sample::between(station(0), Mac([2, 9, 9, 9, 9, 9]), sample::udp6(&[7; 1300])));
    assert_eq!(mesh.run(), 1);
    assert_eq!((mesh.delivered(0), mesh.drops(0)), (vec![], vec![(Drop::TooBig, 1)]));
}

#[test]
fn a_relay_does_not_pass_on_what_its_next_link_does_not_carry() {
    let mut mesh = Mesh::full(3);
    mesh.relay_by(0, 1, &[2]);
    mesh.peer_mut(2, 1).straight = Some((address(1), 200));
    mesh.send(0, &frame(0, 1));
    let sent = mesh.hosts[0].out.datagrams[0].1.len();
    assert_eq!((sent, mesh.run(), mesh.drops(2)), (183, 2, vec![]));
    mesh.peer_mut(2, 1).straight = Some((address(1), 182));
    mesh.send(0, &frame(0, 1));
    assert_eq!((mesh.run(), mesh.drops(2)), (1, vec![(Drop::TooBig, 1)]));
}

#[test]
fn the_scratch_buffer_holds_the_longest_segment() {
    let mut mesh = Mesh::full(2);
    mesh.peer_mut(0, 1).payload_max = 1400;
    let payload = vec![7; 65_000];
    let frame = Tcp { payload: &payload, ..Tcp::default() }.frame();
    let gso = Gso { kind: GsoKind::TcpV4, size: 65_000, header_len: 54 };
    assert_eq!(Segments::new(&frame, &gso).unwrap().longest(), frame.len());
    let header = vnet::Header { checksum: Checksum::Complete, gso: Some(gso) };
    mesh.send_offloaded(0, header, &sample::between(station(0), station(1), frame));
    assert!(mesh.run() > 40, "fragments, as DF is clear");
    assert_eq!(mesh.drops(0), []);
}
