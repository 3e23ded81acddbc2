use proptest::prelude::*;

use super::*;
use crate::frame::{
    checksum::is_valid_ipv4,
    sample::{self, checked_ip, written},
};

/// What the destination makes of fragments: the message, and whether its end is known.
fn reassembled(fragments: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let mut message = Vec::new();
    let mut is_ended = false;
    for fragment in fragments {
        let ip = checked_ip(fragment);
        assert_eq!(ip.fragment_offset, message.len(), "no gap, no overlap");
        assert_eq!(ip.end, fragment.len());
        message.extend_from_slice(&fragment[ip.upper..]);
        is_ended = !ip.more_fragments;
    }
    (message, is_ended)
}

proptest! {
    #[test]
    fn ipv4_fragments_fit_and_make_the_packet(
        payload in proptest::collection::vec(any::<u8>(), 0..5000),
        max in 42_usize..1600,
    ) {
        let frame = sample::udp4(&payload);
        let fragments = written(&Fragments::new(&frame, max).unwrap());
        prop_assert!(fragments.iter().all(|fragment| fragment.len() <= max && fragment[18..20] == frame[18..20]));
        prop_assert_eq!(reassembled(&fragments), (frame[34..].to_vec(), true));
    }

    #[test]
    fn fragments_are_cut_again(payload in proptest::collection::vec(any::<u8>(), 1400..3000), max in 62_usize..700) {
        let frame = sample::udp4(&payload);
        let once = written(&Fragments::new(&frame, 1000).unwrap());
        let twice: Vec<_> = once.iter().flat_map(|fragment| written(&Fragments::new(fragment, max).unwrap())).collect();
        prop_assert!(twice.iter().all(|fragment| fragment.len() <= max));
        prop_assert_eq!(reassembled(&twice), (frame[34..].to_vec(), true));
    }

    #[test]
    fn ipv6_packets_of_the_least_mtu_pass_smaller_links(
        len in 500_usize..=1232,
        max in 100_usize..540,
        middle in 600_usize..1000,
    ) {
        let frame = sample::udp6(&vec![7; len]);
        let once = written(&Fragments::new(&frame, middle).unwrap());
        let twice: Vec<_> = once
            .iter()
            .flat_map(|fragment| match fragment.len() > max {
                true => written(&Fragments::new(fragment, max).unwrap()),
                false => vec![fragment.clone()],
            })
            .collect();
        prop_assert!(twice.iter().all(|fragment| fragment.len() <= max && fragment[58..62] == twice[0][58..62]));
        prop_assert_eq!(reassembled(&twice), (frame[54..].to_vec(), true));
    }
}

#[test]
fn what_may_not_be_fragmented_is_not() {
    assert!(Fragments::new(&sample::udp4_whole(&[0; 2000]), 1000).is_none(), "DF");
    assert!(Fragments::new(&sample::udp6(&[0; 1233]), 1000).is_none(), "IPv6 longer than 1280");
    assert!(Fragments::new(&sample::udp6(&[0; 1232]), 1000).is_some());
    assert!(Fragments::new(&sample::udp4(&[0; 2000]), 41).is_none(), "no room for 8 bytes");
    assert!(Fragments::new(&sample::other(sample::DESTINATION, sample::SOURCE, &[0; 2000]), 1000).is_none(), "not IP");
}

#[test]
fn a_message_beyond_64_kib_is_refused() {
    let mut frame = sample::udp4(&[0; 100]);
    frame[20..22].copy_from_slice(&[0x1f, 0xff]);
    assert!(Fragments::new(&frame, 60).is_none());
}

#[test]
fn only_copied_options_are_repeated() {
    let mut frame = sample::udp4(&[7; 100]);
    // A router alert (copied, RFC 2113), a record-route option (not copied), and the end.
    frame.splice(34..34, [0x94, 4, 0, 0, 7, 3, 4, 0]);
    frame[14] = 0x47;
    frame[16..18].copy_from_slice(&136_u16.to_be_bytes());
    let fragments = written(&Fragments::new(&frame, 90).unwrap());
    assert_eq!(fragments.len(), 3);
    assert_eq!(fragments[0][34..42], [0x94, 4, 0, 0, 7, 3, 4, 0]);
    assert_eq!(fragments[1][34..42], [0x94, 4, 0, 0, 1, 1, 1, 0]);
    assert!(fragments.iter().all(|fragment| is_valid_ipv4(fragment, 14, 42)));
}

#[test]
fn any_packet_is_cut_or_refused_without_panic() {
    bolero::check!().with_type::<(bool, u16, Vec<u8>)>().for_each(|(is_v6, max, bytes)| {
        let mut frame = if *is_v6 { sample::udp6(&[0; 40]) } else { sample::udp4(&[0; 40]) };
        for pair in bytes.chunks_exact(2) {
            let at = usize::from(pair[0]) % frame.len();
            frame[at] = pair[1];
        }
        if let Some(fragments) = Fragments::new(&frame, usize::from(*max)) {
            assert!(written(&fragments).iter().all(|fragment| fragment.len() <= usize::from(*max)));
        }
    });
}
