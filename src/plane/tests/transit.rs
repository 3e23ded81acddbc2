//! What two planes, the coalescer behind them and a network between them that loses, repeats and reorders make of super-frames
//! and lone frames: each container's kernel gets the segments that arrived, once each, in the order of their arrival.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::frame::{
    Pieces as _,
    coalesce::Coalescer,
    flow::Key,
    ip,
    sample::{Tcp, written},
    vnet::{Gso, GsoKind},
};

/// What a container sends at once.
#[derive(Clone, Debug)]
struct Sending {
    flow: u16,
    is_v6: bool,
    is_udp: bool,
    /// Payload bytes, and how many of them in a segment.
    len: usize,
    size: u16,
    /// Words of TCP options.
    options: usize,
    is_tagged: bool,
}

/// What the network does with a datagram.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    /// After so many later ones.
    Late(usize),
}

fn sending() -> impl Strategy<Value = Sending> {
    let size = prop_oneof![Just(1200_u16), Just(536), 8_u16..1300];
    let len = prop_oneof![2 => 1_usize..12_000, 1 => 1_usize..500];
    (0_u16..3, any::<bool>(), any::<bool>(), len, size, 0_usize..4, proptest::bool::weighted(0.2)).prop_map(
        |(flow, is_v6, is_udp, len, size, options, is_tagged)| Sending {
            flow,
            is_v6,
            is_udp,
            len,
            size,
            options,
            is_tagged,
        },
    )
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        20 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => (1_usize..20).prop_map(Fate::Late),
    ]
}

impl Sending {
    /// The frame as the TAP gives it: with the pseudo-header's sum, and with the kernel's word on how to cut it.
    fn frame(&self, id: u16, sequence: u32) -> (vnet::Header, Vec<u8>) {
        let payload: Vec<u8> = (0..self.len).map(|at| (at as u16 ^ id) as u8).collect();
        let start = 14 + if self.is_v6 { 40 } else { 20 };
        let (mut frame, offset, headers) = if self.is_udp {
            let frame = if self.is_v6 { sample::udp6(&payload) } else { sample::udp4_numbered(id, &payload) };
            (frame, 6, start + 8)
        } else {
            let options = vec![1; 4 * self.options];
            let tcp = Tcp { is_v6: self.is_v6, id, sequence, options: &options, payload: &payload, ..Tcp::default() };
            (tcp.frame(), 16, start + 20 + options.len())
        };
        let (source, destination) = sample::addresses(self.is_v6);
        let protocol = if self.is_udp { ip::UDP } else { ip::TCP };
        frame[start..start + 2].copy_from_slice(&(1000 + self.flow).to_be_bytes());
        let pseudo = checksum::pseudo_header(source, destination, protocol, frame.len() - start);
        frame[start + offset..start + offset + 2].copy_from_slice(&checksum::partial(pseudo).to_be_bytes());
        let tag: &[u8] = if self.is_tagged { &[0x81, 0, 0, 5] } else { &[] };
        frame.splice(12..12, tag.iter().copied());
        let kind = match (self.is_udp, self.is_v6) {
            (true, _) => GsoKind::Udp,
            (false, true) => GsoKind::TcpV6,
            (false, false) => GsoKind::TcpV4,
        };
        let place = |at: usize| (at + tag.len()) as u16;
        let gso = Some(Gso { kind, size: self.size, header_len: place(headers) });
        let checksum = Checksum::Needed { start: place(start), offset: offset as u16 };
        (vnet::Header { checksum, gso }, sample::between(station(0), station(1), frame))
    }
}

/// The datagrams in the order in which they arrive.
fn carried<T: Clone>(sent: Vec<T>, fates: &[Fate]) -> Vec<T> {
    let mut timed = Vec::new();
    for (at, (datagram, fate)) in sent.into_iter().zip(fates.iter().cycle()).enumerate() {
        match fate {
            Fate::Arrives => timed.push((at, datagram)),
            Fate::Lost => {}
            Fate::Twice => timed.extend([(at, datagram.clone()), (at + 3, datagram)]),
            Fate::Late(by) => timed.push((at + by, datagram)),
        }
    }
    timed.sort_by_key(|(at, _)| *at);
    timed.into_iter().map(|(_, datagram)| datagram).collect()
}

fn by_flow(frames: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<Option<Key>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for frame in frames {
        flows.entry(Key::of(&frame)).or_default().push(frame);
    }
    flows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_arrives_is_what_was_cut_less_what_was_lost(
        sendings in proptest::collection::vec(sending(), 1..12),
        fates in proptest::collection::vec(fate(), 1..40),
        start: u32,
    ) {
        let mut mesh = Mesh::full(2);
        let mut next: BTreeMap<_, (u16, u32)> = BTreeMap::new();
        let mut cut = Vec::new();
        for sending in &sendings {
            let (id, sequence) = next.entry((sending.flow, sending.is_v6, sending.is_udp)).or_insert((start as u16, start));
            let (header, frame) = sending.frame(*id, *sequence);
            let segments = Segments::new(&frame, &header.gso.unwrap()).unwrap();
            *id = id.wrapping_add(segments.count() as u16);
            *sequence = sequence.wrapping_add(sending.len as u32);
            cut.extend(written(&segments));
            mesh.send_offloaded(0, header, &frame);
        }
        let datagrams: Vec<_> = mesh.hosts[0].out.datagrams.drain(..).map(|(_, packet)| packet).collect();
        prop_assert_eq!(datagrams.len(), cut.len(), "one datagram for each segment");

        let arriving = carried((0..cut.len()).collect::<Vec<_>>(), &fates);
        let mut seen = std::collections::BTreeSet::new();
        let expected = arriving.iter().filter(|index| seen.insert(**index)).map(|index| cut[*index].clone());
        let expected = by_flow(expected);
        for index in &arriving {
            mesh.receive(1, 0, &datagrams[*index]);
        }
        let (mut coalescer, mut kernel) = (Coalescer::new(true), Vec::new());
        let mut tap = |header: vnet::Header, frame: &[u8]| match &header.gso {
            None => kernel.push(frame.to_vec()),
            Some(gso) => kernel.extend(written(&Segments::new(frame, gso).unwrap())),
        };
        for frame in mesh.delivered(1) {
            coalescer.push(&frame, &mut tap);
        }
        coalescer.flush(&mut tap);
        prop_assert_eq!(by_flow(kernel), expected);
        let copies = (arriving.len() - seen.len()) as u64;
        let dropped: u64 = mesh.drops(1).iter().filter(|(reason, _)| *reason == Drop::Replayed).map(|(_, count)| count).sum();
        prop_assert_eq!(dropped, copies, "copies are told from what is new by their numbers");
    }
}
