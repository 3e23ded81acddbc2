use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::frame::{
    sample::{self, Tcp, written},
    segment::Segments,
};

/// What the coalescer wrote for `frames`, in one batch.
fn coalesced(frames: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    let mut coalescer = Coalescer::new(true);
    let mut out = Vec::new();
    let mut sink = |header: Header, frame: &[u8]| out.push((header, frame.to_vec()));
    for frame in frames {
        coalescer.push(frame, &mut sink);
    }
    coalescer.flush(&mut sink);
    out
}

/// What the kernel makes of it.
fn segmented(out: &[(Header, Vec<u8>)]) -> Vec<Vec<u8>> {
    out.iter()
        .flat_map(|(header, frame)| {
            assert_eq!(Header::parse(&header.bytes(), frame), Some(*header));
            match &header.gso {
                None => vec![frame.clone()],
                Some(gso) => written(&Segments::new(frame, gso).unwrap()),
            }
        })
        .collect()
}

fn by_flow(frames: Vec<Vec<u8>>) -> BTreeMap<Option<Key>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for frame in frames {
        flows.entry(Key::of(&frame)).or_default().push(frame);
    }
    flows
}

/// A bulk transfer: `count` segments of 1000 bytes, and a last one of `last` with PSH.
fn transfer(is_v6: bool, source_port: u16, count: usize, last: usize) -> Vec<Vec<u8>> {
    let segment = |index: usize, len: usize, flags| {
        let (id, sequence) = (index as u16, (index * 1000) as u32);
        Tcp { is_v6, source_port, id, sequence, flags, payload: &vec![index as u8; len], ..Tcp::default() }.frame()
    };
    (0..count).map(|index| segment(index, 1000, ACK)).chain([segment(count, last, ACK | PSH)]).collect()
}

#[test]
fn a_transfer_becomes_one_super_frame() {
    for is_v6 in [false, true] {
        let frames = transfer(is_v6, 1000, 20, 500);
        let out = coalesced(&frames);
        assert_eq!(out.len(), 1);
        let (header, joined) = &out[0];
        let ip = sample::checked_ip(joined);
        assert_eq!((ip.end, ip.end - ip.upper - 20), (joined.len(), 20_500));
        let start = ip.upper as u16;
        assert_eq!(header.checksum, Checksum::Needed { start, offset: 16 });
        // The device's part of the work makes the checksum of the whole right.
        let mut completed = joined.clone();
        checksum::complete(&mut completed, ip.upper, 16).unwrap();
        assert!(checksum::is_valid(&completed, &ip));
        assert_eq!(segmented(&out), frames);
    }
}

#[test]
fn interleaved_flows_are_joined_each() {
    let flows: Vec<_> = (0..4).map(|port| transfer(port % 2 == 0, port, 9, 10)).collect();
    let mixed: Vec<_> = (0..10).flat_map(|index| flows.iter().map(move |flow| flow[index].clone())).collect();
    let out = coalesced(&mixed);
    assert_eq!(out.len(), 4);
    assert_eq!(by_flow(segmented(&out)), by_flow(mixed));
}

#[test]
fn more_flows_than_slots_only_lose_joining() {
    let flows: Vec<_> = (0..SLOTS as u16 + 3).map(|port| transfer(false, port, 5, 10)).collect();
    let mixed: Vec<_> = (0..6).flat_map(|index| flows.iter().map(move |flow| flow[index].clone())).collect();
    assert_eq!(by_flow(segmented(&coalesced(&mixed))), by_flow(mixed));
}

#[test]
fn a_super_frame_ends_at_64_kib() {
    let frames = transfer(false, 1000, 100, 1000);
    let out = coalesced(&frames);
    assert_eq!(out.iter().map(|(_, frame)| frame.len() > 60_000).collect::<Vec<_>>(), [true, false]);
    assert!(out.iter().all(|(_, frame)| frame.len() <= 14 + PACKET_MAX));
    assert_eq!(segmented(&out), frames);
}

#[test]
fn datagrams_of_one_size_are_joined_when_the_tap_takes_them() {
    let frames: Vec<_> = (0..70).map(|id| sample::udp4_numbered(id, &[id as u8; 100])).collect();
    let out = coalesced(&frames);
    assert_eq!(out.len(), 2, "64 datagrams and 6");
    assert_eq!(segmented(&out), frames);
    let mut passed = 0;
    let mut coalescer = Coalescer::new(false);
    for frame in &frames {
        coalescer.push(frame, &mut |header, _| passed += usize::from(header == Header::default()));
    }
    assert_eq!(passed, 70);
}

#[test]
fn what_segmentation_could_not_restore_is_not_joined() {
    let frames = transfer(false, 1000, 2, 1000);
    assert_eq!(coalesced(&frames[..2]).len(), 1);
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 11] = [
        ("source MAC", |frame| frame[6] ^= 4),
        ("type of service", |frame| frame[15] = 4),
        ("identification", |frame| frame[19] += 1),
        ("DF", |frame| frame[20] ^= 0x40),
        ("time to live", |frame| frame[22] -= 1),
        ("sequence", |frame| frame[41] += 1),
        ("acknowledgement", |frame| frame[45] += 1),
        ("flags", |frame| frame[47] |= 1),
        ("window", |frame| frame[49] += 1),
        ("urgent pointer", |frame| frame[53] += 1),
        ("padding", |frame| frame.push(0)),
    ];
    for (what, change) in changes {
        let mut changed = frames.clone();
        change(&mut changed[1]);
        checksum::fill_ipv4(&mut changed[1], 14, 34);
        let ip = sample::checked_ip(&changed[1]);
        checksum::fill_transport(&mut changed[1], &ip, Kind::Tcp);
        let out = coalesced(&changed[..2]);
        assert_eq!(out.len(), 2, "{what}");
        assert_eq!(segmented(&out), changed[..2], "{what}");
    }
}

#[test]
fn damaged_frames_pass_as_they_are_and_in_order() {
    let mut frames = transfer(false, 1000, 5, 1000);
    frames[2][100] ^= 1;
    frames[4][24] ^= 1;
    let out = coalesced(&frames);
    assert_eq!(out.len(), 5, "two, the damaged one, one, the damaged one, the last");
    assert_eq!(out[1], (Header::default(), frames[2].clone()));
    assert_eq!(out[3], (Header::default(), frames[4].clone()));
}

#[test]
fn nothing_overtakes_within_a_flow() {
    let mut frames = transfer(false, 1000, 3, 1000);
    frames.insert(2, Tcp { id: 50, sequence: 77, ..Tcp::default() }.frame());
    let mut fragment = Tcp { payload: b"first", ..Tcp::default() }.frame();
    fragment[20] |= 0x20;
    frames.insert(1, fragment);
    assert_eq!(segmented(&coalesced(&frames)), frames);
}

#[test]
fn what_is_complete_waits_for_the_rest_and_goes_in_order() {
    let mut frames = [transfer(false, 1000, 5, 10), transfer(true, 1001, 5, 10)].concat();
    frames.extend(transfer(false, 1000, 5, 10));
    let (mut coalescer, mut out) = (Coalescer::new(true), Vec::new());
    for frame in &frames {
        coalescer.push(frame, &mut |_, _| panic!("before the end of the batch"));
    }
    coalescer.flush(&mut |header, frame| out.push((header, frame.to_vec())));
    assert_eq!((out.len(), segmented(&out)), (3, frames));
}

#[test]
fn a_fragment_lets_go_only_what_it_may_belong_to() {
    let (tcp, udp) = (transfer(false, 1000, 2, 10), sample::udp4(b"first"));
    let mut fragment = sample::udp4(b"second");
    fragment[20] |= 0x20;
    let (mut coalescer, mut out) = (Coalescer::new(true), Vec::new());
    for frame in [&tcp[0], &udp, &tcp[1], &fragment] {
        coalescer.push(frame, &mut |_, frame| out.push(frame.to_vec()));
    }
    assert_eq!(out, [udp, fragment]);
    coalescer.flush(&mut |_, frame| out.push(frame.to_vec()));
    assert_eq!(out.len(), 3, "the transfer's two are joined");
}

#[derive(Clone, Debug)]
struct Step {
    port: u16,
    len: usize,
    flags: u8,
    skip: bool,
    is_udp: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![4 => Just(200_usize), 1 => 0_usize..300];
    let flags = prop_oneof![8 => Just(ACK), 1 => Just(ACK | PSH), 1 => any::<u8>()];
    let step = (0_u16..3, len, flags, proptest::bool::weighted(0.1), proptest::bool::weighted(0.3))
        .prop_map(|(port, len, flags, skip, is_udp)| Step { port, len, flags, skip, is_udp });
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn segmenting_undoes_coalescing(steps in steps(), is_v6: bool, start: u32) {
        let mut next: BTreeMap<u16, (u16, u32)> = BTreeMap::new();
        let frames: Vec<_> = steps
            .iter()
            .map(|step| {
                let (id, sequence) = next.entry(step.port).or_insert((start as u16, start));
                *id = id.wrapping_add(1);
                *sequence = sequence.wrapping_add(u32::from(step.skip));
                let payload = vec![*id as u8; step.len];
                if step.is_udp {
                    return sample::udp4_numbered(*id, &payload);
                }
                let tcp = Tcp {
                    is_v6,
                    source_port: step.port,
                    id: *id,
                    sequence: *sequence,
                    flags: step.flags,
                    payload: &payload,
                    ..Tcp::default()
                };
                *sequence = sequence.wrapping_add(step.len as u32);
                tcp.frame()
            })
            .collect();
        let out = coalesced(&frames);
        prop_assert!(out.len() <= frames.len());
        prop_assert_eq!(by_flow(segmented(&out)), by_flow(frames));
    }
}

/// One frame of a mix: what it is, and what is odd about it.
#[derive(Clone, Debug)]
struct Odd {
    step: Step,
    is_v6: bool,
    options: usize,
    ecn: u8,
    is_tagged: bool,
    is_damaged: bool,
    /// 0: arrives; 1: is lost; 2: twice; 3: after the next one.
    fate: u8,
}

fn odd() -> impl Strategy<Value = Odd> {
    let step = (0_u16..2, prop_oneof![4 => Just(200_usize), 1 => 0_usize..300], Just(ACK), Just(false), any::<bool>())
        .prop_map(|(port, len, flags, skip, is_udp)| Step { port, len, flags, skip, is_udp });
    let fate = prop_oneof![12 => Just(0_u8), 1 => Just(1), 1 => Just(2), 1 => Just(3)];
    let rarely = proptest::bool::weighted;
    (step, any::<bool>(), 0_usize..3, 0_u8..4, rarely(0.3), rarely(0.1), fate).prop_map(
        |(step, is_v6, options, ecn, is_tagged, is_damaged, fate)| Odd {
            step,
            is_v6,
            options,
            ecn,
            is_tagged,
            is_damaged,
            fate,
        },
    )
}

impl Odd {
    fn frame(&self, id: u16, sequence: u32) -> Vec<u8> {
        let payload = vec![id as u8; self.step.len];
        let options = vec![1; 4 * self.options];
        let mut frame = match (self.step.is_udp, self.is_v6) {
            (true, true) => sample::udp6(&payload),
            (true, false) => sample::udp4_numbered(id, &payload),
            (false, is_v6) => {
                let source_port = self.step.port;
                Tcp { is_v6, source_port, id, sequence, options: &options, payload: &payload, flags: ACK }.frame()
            }
        };
        if self.is_v6 {
            frame[15] |= self.ecn << 4;
        } else {
            frame[15] |= self.ecn;
            checksum::fill_ipv4(&mut frame, 14, 34);
        }
        if self.is_damaged
            && let Some(last) = frame.last_mut()
        {
            *last ^= 0x55;
        }
        if self.is_tagged {
            frame.splice(12..12, [0x81, 0, 0, 5]);
        }
        frame
    }
}

proptest! {
    #[test]
    fn the_kernel_gets_every_mix_as_it_arrived(mix in proptest::collection::vec(odd(), 1..60), start: u32) {
        let mut next: BTreeMap<(u16, bool, bool), (u16, u32)> = BTreeMap::new();
        let (mut frames, mut late) = (Vec::new(), None);
        for odd in &mix {
            let (id, sequence) = next.entry((odd.step.port, odd.is_v6, odd.step.is_udp)).or_insert((start as u16, start));
            let frame = odd.frame(*id, *sequence);
            *id = id.wrapping_add(1);
            *sequence = sequence.wrapping_add(odd.step.len as u32);
            match odd.fate {
                0 => frames.push(frame),
                1 => {}
                2 => frames.extend([frame.clone(), frame]),
                _ => {
                    frames.extend(late.replace(frame));
                    continue;
                }
            }
            frames.extend(late.take());
        }
        frames.extend(late);
        prop_assert_eq!(by_flow(segmented(&coalesced(&frames))), by_flow(frames));
    }
}

#[test]
fn no_frames_make_it_panic() {
    bolero::check!().with_type::<Vec<Vec<u8>>>().for_each(|changes| {
        let frames: Vec<_> = transfer(changes.len() % 2 == 0, 1000, changes.len(), 9)
            .into_iter()
            .zip(changes)
            .map(|(mut frame, change)| {
                for pair in change.chunks_exact(2) {
                    let at = usize::from(pair[0]) % frame.len();
                    frame[at] = pair[1];
                }
                frame
            })
            .collect();
        assert!(segmented(&coalesced(&frames)).len() == frames.len());
    });
}
