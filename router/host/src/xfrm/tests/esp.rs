//! With a kernel that has ESP: what leaves, what is taken, and what is left behind. `integration` runs these in a kernel of their own.

use std::net::UdpSocket;

use weft::fastdp::{EspPlan, Protection};

use super::{
    super::*,
    stage::{Host, OnWire, PORT, cross, has_esp, key, pair, plan_of, set, underlay},
};

/// Keys of one direction, generation `byte`.
fn keys(byte: u8, lanes: u8) -> Vec<SaKey> {
    (0..lanes).map(|lane| key(byte.wrapping_mul(8).wrapping_add(lane))).collect()
}

fn spi(generation: u8) -> u32 {
    0x1000 + 8 * u32::from(generation)
}

/// What host `number` plans for the other: it sends and receives under `generation`, and receives under the one before.
pub(super) fn plan(number: u8, ipv6: bool, generation: u8, lanes: u8) -> Plan {
    let (us, them) = (underlay(number, ipv6), underlay(3 - number, ipv6));
    let to = |to: u8, generation: u8| {
        let byte = generation.wrapping_mul(2).wrapping_add(to);
        set(if to == number { &us } else { &them }, spi(generation), &keys(byte, lanes))
    };
    let before = generation.checked_sub(1);
    plan_of(
        &them,
        EspPlan {
            send: Some(to(3 - number, generation)),
            send_before: before.map(|before| to(3 - number, before)),
            receive: [Some(generation), before]
                .into_iter()
                .flatten()
                .map(|generation| to(number, generation))
                .collect(),
        },
    )
}

pub(super) struct Pair {
    pub(super) one: Host,
    pub(super) two: Host,
    pub(super) x1: Xfrm,
    pub(super) x2: Xfrm,
    pub(super) s1: UdpSocket,
    pub(super) s2: UdpSocket,
}

pub(super) fn stage(ipv6: bool) -> Pair {
    let (one, two) = pair(ipv6);
    let (x1, x2, s1, s2) = (one.xfrm(), two.xfrm(), one.station(7000), two.station(7000));
    Pair { one, two, x1, x2, s1, s2 }
}

impl Pair {
    pub(super) fn apply(&mut self, ipv6: bool, generation: u8, lanes: u8) {
        self.x1.apply(&plan(1, ipv6, generation, lanes)).unwrap();
        self.x2.apply(&plan(2, ipv6, generation, lanes)).unwrap();
    }

    pub(super) fn both_ways(&self, count: u32) -> (u32, u32) {
        (cross(&self.s1, &self.s2, count), cross(&self.s2, &self.s1, count))
    }
}

fn esp_crosses(ipv6: bool) {
    let mut pair = stage(ipv6);
    let wire = pair.two.wire();
    pair.x1.guard(true).unwrap();
    pair.x2.guard(true).unwrap();
    assert_eq!(pair.both_ways(5), (0, 0), "guarded");
    let installed = pair.x1.apply(&plan(1, ipv6, 0, 1)).unwrap();
    assert_eq!(installed, [Installed { peer: PeerName([2; 6]), spi: spi(0), error: None }]);
    pair.x2.apply(&plan(2, ipv6, 0, 1)).unwrap();
    wire.seen();
    assert_eq!(pair.both_ways(20), (20, 20));
    assert_eq!(wire.seen(), OnWire { esp: 40, ..OnWire::default() });
    let lanes = pair.x1.lanes().unwrap();
    assert_eq!(lanes.iter().map(|lane| (lane.sends, lane.packets)).collect::<Vec<_>>(), [(false, 20), (true, 20)]);
    assert!(pair.x1.worn().unwrap().is_empty() && pair.x1.failures().is_empty());
}

#[test]
fn frames_cross_sealed_over_ipv4() {
    if has_esp() {
        esp_crosses(false);
    }
}

#[test]
fn frames_cross_sealed_over_ipv6() {
    if has_esp() {
        esp_crosses(true);
    }
}

#[test]
fn what_is_under_other_keys_or_in_clear_is_dropped() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    let Pair { one, two, x1, x2, s1, s2 } = &mut pair;
    x1.apply(&plan(1, false, 0, 1)).unwrap();
    let Protection::Esp(mut wrong) = plan(2, false, 0, 1).peers.remove(&PeerName([2; 6])).unwrap().protection else {
        panic!()
    };
    wrong.receive = vec![set("10.9.0.2", spi(0), &[key(99)])];
    x2.apply(&plan_of("10.9.0.1", *wrong)).unwrap();
    assert_eq!(cross(s1, s2, 5), 0);
    assert_eq!(two.refused(), "XfrmInStateProtoError=5");
    let trouble = two.inside(|| x2.trouble());
    assert!(trouble.0.is_empty() || trouble.0[0].packets == 5);

    x1.apply(&Plan::default()).unwrap();
    let wire = two.wire();
    assert_eq!(cross(s1, s2, 5), 0);
    assert_eq!(wire.seen(), OnWire { clear: 5, ..OnWire::default() });
    assert_eq!(two.refused(), "XfrmInStateProtoError=5 XfrmInTmplMismatch=5");

    assert_eq!(one.refused(), "");
    x1.apply(&plan_of("10.9.0.2", EspPlan::default())).unwrap();
    wire.seen();
    assert_eq!(cross(s1, s2, 5), 0);
    assert_eq!((wire.seen(), one.refused().as_str()), (OnWire::default(), "XfrmOutPolBlock=5"));
}

#[test]
fn twenty_new_keys_under_traffic_lose_nothing() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    pair.apply(false, 0, 2);
    let wire = pair.two.wire();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (sent, arrived) = std::thread::scope(|scope| {
        let (s1, s2) = (pair.s1.try_clone().unwrap(), pair.s2.try_clone().unwrap());
        let stop = &stop;
        let traffic = scope.spawn(move || {
            let (mut sent, mut arrived) = (0, 0);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                arrived += cross(&s1, &s2, 16);
                sent += 16;
            }
            (sent, arrived)
        });
        for generation in 1..=20_u8 {
            // As the core does it: the receiver first, then the sender.
            let lanes = if generation.is_multiple_of(2) { 2 } else { 4 };
            let mut receive = plan(2, false, generation, lanes);
            let Protection::Esp(esp) = &mut receive.peers.get_mut(&PeerName([2; 6])).unwrap().protection else {
                panic!()
            };
            esp.receive.truncate(1);
            esp.receive.extend(generations(2, generation - 1));
            (esp.send, esp.send_before) = (None, None);
            pair.x2.apply(&receive).unwrap();
            let mut send = plan(1, false, generation, lanes);
            let Protection::Esp(esp) = &mut send.peers.get_mut(&PeerName([2; 6])).unwrap().protection else { panic!() };
            esp.send_before = generations(2, generation - 1).pop();
            pair.x1.apply(&send).unwrap();
            assert!(pair.x1.failures().is_empty());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert!(sent > 500, "{sent}");
    assert_eq!(arrived, sent);
    assert_eq!((pair.one.refused(), pair.two.refused()), (String::new(), String::new()));
    let seen = wire.seen();
    assert_eq!((seen.clear, seen.esp > 0), (0, true));
    let last = pair.x1.lanes().unwrap().into_iter().filter(|lane| lane.sends && lane.spi & !7 == spi(20));
    assert!(last.map(|lane| lane.packets).sum::<u64>() > 0, "the last keys are in use");
    println!("{sent} datagrams, 20 new sets of keys");
}

/// The set to host `to` of a generation of the test above.
fn generations(to: u8, generation: u8) -> Vec<SaSet> {
    let lanes = if generation.is_multiple_of(2) { 2 } else { 4 };
    let byte = generation.wrapping_mul(2).wrapping_add(to);
    vec![set(&underlay(to, false), spi(generation), &keys(byte, lanes))]
}

#[test]
fn a_successor_takes_over_and_settling_leaves_what_is_not_ours() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    pair.one.run(
        "ip xfrm state add src 10.9.0.1 dst 10.9.0.77 proto esp spi 0x900 reqid 5 mode transport aead rfc4106(gcm(aes)) \
         0x0101010101010101010101010101010101010101 128",
    );
    pair.one.run("ip xfrm policy add dst 10.9.0.77/32 dir out tmpl proto esp reqid 5 mode transport");
    let theirs = (pair.one.run("ip xfrm state"), pair.one.run("ip xfrm policy"));
    pair.x1.guard(true).unwrap();
    pair.x1.apply(&plan(1, false, 1, 4)).unwrap();
    pair.x2.apply(&plan(2, false, 1, 4)).unwrap();
    assert_eq!(pair.both_ways(10), (10, 10));

    let before = (spis(&pair.one), pair.one.run("ip xfrm policy"));
    pair.x1 = pair.one.xfrm();
    pair.x1.guard(true).unwrap();
    let installed = pair.x1.apply(&plan(1, false, 1, 4)).unwrap();
    assert_eq!((installed.len(), installed.iter().filter(|i| i.error.is_some()).count()), (2, 0));
    pair.x1.settle().unwrap();
    assert_eq!((spis(&pair.one), pair.one.run("ip xfrm policy")), before);
    assert_eq!(pair.both_ways(10), (10, 10));
    assert_eq!(
        pair.x1.lanes().unwrap().iter().filter(|l| l.sends).map(|l| l.packets).sum::<u64>(),
        20,
        "the same states"
    );

    // One without keys yet: what there is goes on until it is settled, then nothing leaves.
    pair.x1 = pair.one.xfrm();
    pair.x1.guard(true).unwrap();
    pair.x1.apply(&plan_of("10.9.0.2", EspPlan::default())).unwrap();
    assert_eq!(pair.both_ways(10), (10, 10));
    pair.x1.settle().unwrap();
    assert_eq!(pair.both_ways(5), (0, 0));
    pair.x1.remove().unwrap();
    assert_eq!((pair.one.run("ip xfrm state"), pair.one.run("ip xfrm policy")), theirs);
}

fn spis(host: &Host) -> Vec<String> {
    let states = host.run("ip xfrm state");
    states.lines().filter(|line| line.contains(" spi ")).map(str::to_owned).collect()
}

#[test]
fn taken_spis_are_told_and_lost_keys_too() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    pair.one.run(
        "ip xfrm state add src 10.9.0.7 dst 10.9.0.1 proto esp spi 0x1001 reqid 5 mode transport aead rfc4106(gcm(aes)) \
         0x0101010101010101010101010101010101010101 128",
    );
    let installed = pair.x1.apply(&plan(1, false, 0, 2)).unwrap();
    let error = installed[0].error.as_deref().unwrap();
    assert_eq!(error, "the kernel refuses SPI 0x1001 to 10.9.0.1: File exists");
    assert_eq!(spis(&pair.one).iter().filter(|line| line.contains("reqid 1464146560")).count(), 2, "none of that set");
    assert_eq!(pair.x1.worn().unwrap(), []);
    pair.one.run("ip xfrm state flush");
    assert_eq!(pair.x1.worn().unwrap(), [spi(0)]);
    assert_eq!(pair.x1.worn().unwrap(), [], "told once");
    assert_eq!(pair.x1.inspect().unwrap(), Damage { repaired: 0, lost: vec![spi(0)] });
    let mut moved = plan(1, false, 0, 2);
    moved.peers.get_mut(&PeerName([2; 6])).unwrap().remote = "10.9.0.9".parse().unwrap();
    let told = pair.x1.apply(&moved).unwrap();
    assert_eq!(told[0].error.as_deref(), Some("its peer has another address now: new keys are needed"));
    assert!(pair.x1.failures()[&PeerName([2; 6])].contains("in use before"), "never the same keys again");
    assert!(pair.one.run("ip xfrm policy").contains("dir out action block"));
}

#[test]
fn a_peer_cannot_pretend_to_be_another() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    pair.apply(false, 0, 1);
    // Host one takes the address of a peer of host two that is not here, and seals by its own keys.
    for command in ["ip addr add 10.9.0.3/24 dev eth0", "ip link set vx type vxlan local 10.9.0.3"] {
        pair.one.run(command);
    }
    let mut two = plan(2, false, 0, 1);
    let mut other = two.peers[&PeerName([2; 6])].clone();
    other.remote = "10.9.0.3".parse().unwrap();
    other.protection = Protection::Esp(Box::default());
    two.peers.insert(PeerName([4; 6]), other);
    pair.x2.apply(&two).unwrap();
    assert_eq!(cross(&pair.s1, &pair.s2, 5), 0);
    assert_eq!(pair.two.refused(), "XfrmInStateMismatch=5");
}

#[test]
fn what_containers_send_to_the_port_is_not_sealed_as_ours() {
    if !has_esp() {
        return;
    }
    let mut pair = stage(false);
    pair.x1.guard(true).unwrap();
    pair.apply(false, 0, 1);
    let container = Host::beside(&pair.one);
    pair.two.run("ip route add 10.7.0.0/24 via 10.9.0.1");
    let inside = container.inside(|| UdpSocket::bind("10.7.0.2:7000").unwrap());
    let wire = pair.two.wire();
    for port in [PORT, PORT + 1] {
        for _ in 0..5 {
            inside.send_to(b"not a frame of ours", format!("10.9.0.2:{port}")).unwrap();
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    let seen = wire.seen();
    assert_eq!((seen.esp, seen.clear, seen.other), (0, 0, 5), "forwarding works, but not to our port");
    assert!(pair.one.refused().starts_with("XfrmInPolBlock=5"), "{}", pair.one.refused());
    // It is the guard that does it.
    pair.one.run("ip xfrm policy delete proto udp dport 6784 dir fwd");
    inside.send_to(b"not a frame of ours", format!("10.9.0.2:{PORT}")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(wire.seen().esp, 1);
}
