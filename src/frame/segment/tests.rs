use proptest::prelude::*;

use super::*;
use crate::frame::sample::{self, Tcp, checked_ip, written};

fn gso(kind: GsoKind, size: u16) -> Gso {
    Gso { kind, size, header_len: 0 }
}

fn tcp_kind(is_v6: bool) -> GsoKind {
    if is_v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 }
}

proptest! {
    #[test]
    fn tcp_segments_are_what_the_sender_would_have_sent(
        is_v6: bool,
        id: u16,
        sequence: u32,
        options in 0_usize..=10,
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 8_u16..1500,
        flags: u8,
    ) {
        let options = vec![1; options * 4];
        let tcp = Tcp { is_v6, id, sequence, flags, options: &options, payload: &payload, ..Tcp::default() };
        let frame = tcp.frame();
        let segments = Segments::new(&frame, &gso(tcp_kind(is_v6), size)).unwrap();
        let written = written(&segments);
        let expected: Vec<Vec<u8>> = payload
            .chunks(usize::from(size))
            .enumerate()
            .map(|(index, payload)| {
                let mut flags = flags;
                if index > 0 {
                    flags &= !CWR;
                }
                if index + 1 < segments.count() {
                    flags &= !(FIN | PSH);
                }
                let sequence = sequence.wrapping_add(index as u32 * u32::from(size));
                Tcp { id: id.wrapping_add(index as u16), sequence, flags, payload, ..tcp.clone() }.frame()
            })
            .collect();
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn udp_segments_are_datagrams_with_right_checksums(
        is_v6: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 8_u16..1500,
    ) {
        let frame = if is_v6 { sample::udp6(&payload) } else { sample::udp4(&payload) };
        let segments = Segments::new(&frame, &gso(GsoKind::Udp, size)).unwrap();
        let mut joined = Vec::new();
        for (index, segment) in written(&segments).iter().enumerate() {
            let ip = checked_ip(segment);
            prop_assert!(checksum::is_valid(segment, &ip));
            prop_assert_eq!(ip.end, segment.len());
            prop_assert_eq!(usize::from(read_u16(segment, ip.upper + 4).unwrap()), ip.end - ip.upper);
            let is_last = index + 1 == segments.count();
            prop_assert!(is_last || ip.end - ip.upper - 8 == usize::from(size));
            joined.extend_from_slice(&segment[ip.upper + 8..]);
        }
        prop_assert_eq!(joined, payload);
    }
}

#[test]
fn a_frame_that_is_not_what_was_announced_is_refused() {
    let frame = Tcp { payload: &[1; 100], ..Tcp::default() }.frame();
    assert!(Segments::new(&frame, &gso(GsoKind::TcpV4, 50)).is_some());
    assert!(Segments::new(&frame, &gso(GsoKind::TcpV6, 50)).is_none(), "version");
    assert!(Segments::new(&frame, &gso(GsoKind::Udp, 50)).is_none(), "protocol");
    assert!(Segments::new(&frame, &gso(GsoKind::TcpV4, 7)).is_none(), "too many segments");
    assert!(Segments::new(&Tcp::default().frame(), &gso(GsoKind::TcpV4, 50)).is_none(), "nothing to cut");
    let mut fragment = frame.clone();
    fragment[20] |= 0x20;
    assert!(Segments::new(&fragment, &gso(GsoKind::TcpV4, 50)).is_none(), "a fragment");
    let mut bad_offset = frame;
    bad_offset[46] = 0x40;
    assert!(Segments::new(&bad_offset, &gso(GsoKind::TcpV4, 50)).is_none(), "TCP header of 16 bytes");
}

#[test]
fn any_frame_is_cut_or_refused_without_panic() {
    bolero::check!().with_type::<(u8, u16, Vec<u8>)>().for_each(|(kind, size, bytes)| {
        let kind = match kind % 3 {
            0 => GsoKind::TcpV4,
            1 => GsoKind::TcpV6,
            _ => GsoKind::Udp,
        };
        let template = match kind {
            GsoKind::TcpV4 => Tcp::default().frame(),
            GsoKind::TcpV6 => Tcp { is_v6: true, ..Tcp::default() }.frame(),
            GsoKind::Udp => sample::udp4(&[0; 40]),
        };
        // Mutated where the bytes say, so that most headers stay plausible.
        let mut frame = template;
        for pair in bytes.chunks_exact(2) {
            let at = usize::from(pair[0]) % frame.len();
            frame[at] = pair[1];
        }
        frame.extend_from_slice(bytes);
        if let Some(segments) = Segments::new(&frame, &gso(kind, *size)) {
            assert!(written(&segments).iter().all(|segment| segment.len() <= segments.longest()));
        }
    });
}
