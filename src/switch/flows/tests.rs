use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    frame::{
        fragment::Fragments,
        ip,
        sample::{self, Tcp, written},
    },
    id::Mac,
};

fn of(frame: &[u8]) -> u64 {
    number(&Ethernet::parse(frame).unwrap(), frame)
}

fn relays(ways: &[u8]) -> Vec<Vec<PeerName>> {
    ways.iter().map(|way| vec![PeerName([*way; 6])]).collect()
}

fn chosen(flow: u64, ways: &[Vec<PeerName>]) -> u8 {
    way(flow, ways.iter().map(Vec::as_slice)).unwrap()[0].0[0]
}

/// The same frame with a VLAN tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

#[test]
fn frames_of_one_flow_have_one_number_and_those_of_another_have_another() {
    for is_v6 in [false, true] {
        let one = Tcp { is_v6, ..Tcp::default() };
        let later = Tcp { id: 9, sequence: 1448, flags: 0x18, options: &[1, 1, 1, 1], payload: b"more", ..one.clone() };
        assert_eq!(of(&one.frame()), of(&later.frame()));
        let other = Tcp { source_port: 1001, ..one.clone() };
        assert_ne!(of(&one.frame()), of(&other.frame()));
        assert_eq!(of(&tagged(&one.frame())), of(&tagged(&later.frame())));
        assert_ne!(of(&tagged(&one.frame())), of(&tagged(&other.frame())), "ports show behind a tag");
        let from_another = sample::between(Mac([2; 6]), sample::DESTINATION, one.frame());
        assert_ne!(of(&one.frame()), of(&from_another));
    }
    let (tcp, udp) = (Tcp::default().frame(), sample::udp4(b"x"));
    assert_ne!(of(&tcp), of(&udp), "the same ports");
    let arp = |content: &[u8]| of(&sample::other(sample::DESTINATION, sample::SOURCE, content));
    assert_eq!(arp(b"one"), arp(b"two"), "of what is not IP only the stations count");
}

proptest! {
    #[test]
    fn all_fragments_of_a_packet_have_one_number(
        (is_udp, is_v6, is_tagged) in any::<(bool, bool, bool)>(),
        len in 600_usize..1200,
        max in 200_usize..500,
    ) {
        let protocol = if is_udp { ip::UDP } else if is_v6 { ip::ICMPV6 } else { ip::ICMP };
        let frame = sample::finished(is_v6, 7, protocol, &vec![7; len]);
        let frame = if is_tagged { tagged(&frame) } else { frame };
        let fragments = written(&Fragments::new(&frame, max).unwrap());
        let numbers: Vec<u64> = fragments.iter().map(|fragment| of(fragment)).collect();
        prop_assert!(numbers.len() > 1 && numbers.iter().all(|number| *number == numbers[0]));
        // What never has ports goes the way of its fragments.
        prop_assert_eq!(numbers[0] == of(&frame), !is_udp);
    }
}

/// Only the first fragment shows what is behind the destination options (RFC 8200 §4.5).
#[test]
fn fragments_that_begin_with_a_further_header_have_one_number() {
    const DESTINATION_OPTIONS: u8 = 60;
    let fragment = |offset: u16, more: u8, content: &[u8]| {
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        let message = [&[DESTINATION_OPTIONS, 0, high, low, 0, 0, 0, 1], content].concat();
        sample::finished(true, 0, ip::FRAGMENT, &message)
    };
    let options = [&[ip::UDP, 0, 1, 4, 0, 0, 0, 0][..], &sample::PORTS, &[0, 24, 0, 0]].concat();
    let (first, second) = (fragment(0, 1, &options), fragment(16, 0, &[7; 16]));
    let protocol = |frame: &[u8]| Ip::parse(frame, &Ethernet::parse(frame).unwrap()).unwrap().protocol;
    assert_eq!((protocol(&first), protocol(&second)), (ip::UDP, DESTINATION_OPTIONS));
    assert_eq!(of(&first), of(&second));
}

#[test]
fn flows_are_spread_evenly() {
    for count in 2..=4 {
        let ways = relays(&[1, 2, 3, 4][..count]);
        let mut flows = BTreeMap::<u8, usize>::new();
        for source_port in 0..4000 {
            let flow = of(&Tcp { source_port, ..Tcp::default() }.frame());
            *flows.entry(chosen(flow, &ways)).or_default() += 1;
        }
        assert_eq!(flows.len(), count);
        assert!(flows.values().all(|flows| flows.abs_diff(4000 / count) < 400 / count * 2), "{flows:?}");
    }
}

proptest! {
    #[test]
    fn only_the_flows_of_a_way_that_leaves_move(flow: u64, left in 1_u8..=4) {
        let all = relays(&[1, 2, 3, 4]);
        let rest: Vec<_> = all.iter().filter(|relays| relays[0].0[0] != left).cloned().collect();
        let before = chosen(flow, &all);
        prop_assert!(before == left || chosen(flow, &rest) == before);
        let turned: Vec<_> = all.iter().rev().cloned().collect();
        prop_assert_eq!(chosen(flow, &turned), before, "their order does not matter");
    }
}

#[test]
fn any_bytes_have_a_number_and_a_way() {
    let ways = relays(&[1, 2, 3]);
    bolero::check!().for_each(|bytes: &[u8]| {
        let whole = [&[2; 12][..], bytes].concat();
        for frame in [bytes, &whole] {
            let Some(ethernet) = Ethernet::parse(frame) else { continue };
            assert!((1..=3).contains(&chosen(number(&ethernet, frame), &ways)));
        }
    });
}
