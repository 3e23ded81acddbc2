//! Several ESP lanes to a host: groups of next hops where there are some, and nothing where there are none. Without policies of IPsec, as
//! on most of this stage, packets of all lanes go in clear.

use std::{
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use weft::fastdp::{EspPlan, Plan, SaSet};

use super::{
    stage::{Node, PORT, bind, laned},
    *,
};
use crate::xfrm::{
    Xfrm,
    tests::stage::{has_esp, key},
};

/// What a command says on a host.
fn said(host: &Container, command: &str) -> String {
    let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    host.inside(move || {
        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    })
}

/// The next hops of a host, one a line, in order.
fn next_hops(node: &Node) -> Vec<String> {
    let all = said(&node.host, "ip nexthop show fdb");
    let mut lines: Vec<String> = all.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn apply(node: &Node, plan: &Plan) -> usize {
    let plan = plan.clone();
    node.with(move |vxlan| vxlan.apply(&plan)).unwrap()
}

/// From one to the other, behind so many lanes.
fn towards(other: &Node, v6: bool, lanes: u8) -> Plan {
    laned(plan(other.number, underlay(other.number, v6), true, [other.station(), station(1)]), lanes)
}

#[test]
fn only_a_peer_with_several_lanes_has_a_group() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&two, &one, false);
        for v6 in [false, true] {
            let lanes = |lanes| towards(&two, v6, lanes);
            apply(&one, &lanes(1));
            assert_eq!(next_hops(&one), Vec::<String>::new());
            // A hop, a group, a line for all and its end, and three lines anew.
            assert_eq!(apply(&one, &lanes(2)), 2 + 2 + 3 * 2);
            let first = one.with(|vxlan| *vxlan.hops.groups().values().next().unwrap()) - 1;
            let host = format!("id {first} via {} scope link proto 87 fdb", underlay(2, v6));
            assert_eq!(next_hops(&one)[0].trim_end(), host);
            let device = if v6 { "weft-vx6" } else { "weft-vx4" };
            let table = said(&one.host, &format!("bridge fdb show dev {device}"));
            assert_eq!(table.matches(&format!(" nhid {} self permanent", first + 1)).count(), 3, "{table}");
            assert!(!table.contains("00:00:00:00:00:00") && !table.contains(" dst "), "{table}");
            assert!(passes(&one, &two, 100));
            assert_eq!(one.with(|vxlan| vxlan.inspect()).unwrap(), Vec::<String>::new());

            // More of them, and changes of path, leave it alone.
            assert_eq!(apply(&one, &lanes(8)), 0);
            let mut sleeve = lanes(8);
            sleeve.peers.get_mut(&name(2)).unwrap().carries = false;
            assert_eq!(apply(&one, &sleeve), 2);
            assert_eq!(apply(&one, &lanes(8)), 2);
            assert!(passes(&one, &two, 100));

            // Another address: a new group, and lines changed in place.
            let mut moved = lanes(4);
            moved.peers.get_mut(&name(2)).unwrap().remote = underlay(9, v6);
            assert_eq!(apply(&one, &moved), 2 + 3 + 2);
            assert_eq!(apply(&one, &lanes(4)), 2 + 3 + 2);
            assert!(passes(&one, &two, 100));
            assert_eq!(apply(&one, &lanes(1)), 2 + 3 * 2 + 2);
            assert_eq!(next_hops(&one), Vec::<String>::new());
            assert!(passes(&one, &two, 100));
            assert_eq!(one.with(|vxlan| vxlan.inspect()).unwrap(), Vec::<String>::new());
        }
        apply(&one, &towards(&two, true, 4));
        apply(&one, &Plan::default());
        assert_eq!(next_hops(&one), Vec::<String>::new());
    });
}

/// Does something over and over while datagrams go, and counts those and the lost among them.
fn lost_while(one: &Node, two: &Node, rounds: usize, mut round: impl FnMut()) -> (u32, u32) {
    let there: SocketAddr = "10.2.0.2:7001".parse().unwrap();
    let listening = two.container.inside(move || bind(there));
    listening.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let sending = one.container.inside(|| bind("10.2.0.1:7001".parse().unwrap()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut sent, mut lost) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                sending.send_to(&[0; 64], there).unwrap();
                sent += 1;
                lost += u32::from(listening.recv(&mut [0; 64]).is_err());
            }
            (sent, lost)
        });
        (0..rounds).for_each(|_| round());
        over.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    })
}

#[test]
fn nothing_is_lost_between_numbers_of_lanes() {
    on_a_host(|| {
        let (one, two) = two();
        for v6 in [false, true] {
            let plans = [1, 4].map(|lanes| {
                let mut plan = towards(&two, v6, lanes);
                // More than one batch, ours among them.
                plan.stations.extend((100..1_500).map(|number| (station(number), name(2))));
                plan
            });
            apply(&one, &plans[0]);
            assert!(passes(&one, &two, 100));
            let (sent, lost) = lost_while(&one, &two, 25, || {
                for plan in &plans {
                    apply(&one, plan);
                }
            });
            println!("IPv6 {v6}: {lost} of {sent} lost");
            assert!(sent > 100 && lost == 0, "IPv6 {v6}: {lost} of {sent} lost");
        }
    });
}

#[test]
fn a_successor_takes_groups_over_and_what_nobody_asks_for_goes() {
    on_a_host(|| {
        let (mut one, two) = two();
        carry(&two, &one, false);
        let known = towards(&two, false, 4);
        apply(&one, &known);
        let before = next_hops(&one);
        assert_eq!(before.len(), 2);
        one.die();
        assert!(passes(&one, &two, 100), "while no router runs");
        one.succeed();
        assert_eq!(apply(&one, &Plan::default()), 0);
        assert!(passes(&one, &two, 100), "spared");
        // The peer is back, and has told of no keys yet; then it does.
        let mut untold = known.clone();
        untold.peers.get_mut(&name(2)).unwrap().protection = Protection::Esp(Box::default());
        assert_eq!(apply(&one, &untold), 0);
        assert_eq!(apply(&one, &known), 0);
        one.with(|vxlan| assert_eq!(vxlan.settle().unwrap(), 0));
        assert_eq!(next_hops(&one), before);

        // One whose peers never come back.
        one.die();
        one.succeed();
        one.with(|vxlan| assert_eq!(vxlan.settle().unwrap(), 2 * 3 + 2));
        assert_eq!(next_hops(&one), Vec::<String>::new());
    });
}

#[test]
fn what_others_break_of_it_is_mended() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&two, &one, false);
        apply(&one, &towards(&two, false, 4));
        let (mac, peer) = (two.station(), "192.0.2.77");
        let breaks = [
            ("ip nexthop flush", String::new(), 2 + 3),
            ("ip nexthop del id", " GROUP".to_owned(), 2 + 3 + 1),
            // The group leads elsewhere now: another takes its place.
            ("ip nexthop replace id", format!(" HOP via {peer} fdb proto 87"), 2 + 3 + 2),
            ("bridge fdb delete", format!(" {mac} dev weft-vx4 self"), 1),
            // A killed router left the line for all; it goes when the time of grace has passed.
            ("bridge fdb add", format!(" 00:00:00:00:00:00 dev weft-vx4 dst {peer} self permanent"), 1),
        ];
        one.with(|vxlan| vxlan.settle()).unwrap();
        for (command, rest, messages) in breaks {
            let group = one.with(|vxlan| *vxlan.hops.groups().values().next().unwrap());
            let rest = rest.replace("GROUP", &group.to_string()).replace("HOP", &(group - 1).to_string());
            said(&one.host, &format!("{command}{rest}"));
            let mended = one.with(|vxlan| vxlan.inspect()).unwrap();
            assert_eq!(mended, [format!("{messages} lines of the forwarding tables were not right")], "{command}");
            assert!(passes(&one, &two, 100), "{command}");
            assert_eq!(one.with(|vxlan| vxlan.inspect()).unwrap(), Vec::<String>::new(), "{command}");
        }
        assert_eq!(next_hops(&one).len(), 2);
    });
}

#[test]
fn those_of_others_are_left_alone_and_ours_go_without_a_trace() {
    on_a_host(|| {
        let (one, two) = two();
        let taken = one.with(|vxlan| vxlan.hops.first);
        said(&one.host, &format!("ip nexthop add id {taken} via 192.0.2.9 fdb"));
        said(&one.host, "ip nexthop add id 5 via 192.0.2.9 fdb proto 87");
        let theirs = next_hops(&one);
        for gone in [false, true] {
            // Looked at by the next inspection.
            one.with(|vxlan| vxlan.inspect()).unwrap();
            apply(&one, &towards(&two, false, 2));
            assert_eq!(next_hops(&one).len(), 4);
            if gone {
                done(one.kernel.reset()).unwrap();
            } else {
                one.host.inside(|| Vxlan::remove("weft").unwrap());
            }
            assert_eq!(next_hops(&one), theirs);
        }
    });
}

#[test]
fn a_kernel_without_next_hops_goes_by_one_lane() {
    on_a_host(|| {
        let (one, two) = two();
        carry(&two, &one, false);
        one.with(|vxlan| vxlan.hops.unknown = true);
        assert_eq!(apply(&one, &towards(&two, false, 8)), 2, "of the station that is new");
        assert!(passes(&one, &two, 100));
        assert_eq!(next_hops(&one), Vec::<String>::new());
        assert_eq!(one.with(|vxlan| vxlan.inspect()).unwrap(), Vec::<String>::new());
    });
}

/// Keys for packets to a host, so many lanes of them.
fn set(number: u8, v6: bool, lanes: u8) -> SaSet {
    let keys = (0..lanes).map(|lane| key(16 * number + 8 * u8::from(lanes > 1) + lane)).collect();
    SaSet { spi: 0x1000 + 8 * u32::from(lanes), destination: underlay(number, v6), keys, encap: None }
}

/// A plan of one for the other, whose packets are sealed.
fn sealing(one: &Node, other: &Node, v6: bool, send: u8, send_before: Option<u8>) -> Plan {
    let to = |node: &Node, lanes| set(node.number, v6, lanes);
    let lanes = [Some(send), send_before].into_iter().flatten();
    let receive = lanes.map(|lanes| to(one, lanes)).collect();
    let before = send_before.map(|lanes| to(other, lanes));
    let esp = EspPlan { send: Some(to(other, send)), send_before: before, receive };
    let mut plan = plan(other.number, underlay(other.number, v6), true, [other.station()]);
    plan.peers.get_mut(&name(other.number)).unwrap().protection = Protection::Esp(Box::new(esp));
    plan
}

fn open_xfrm(node: &Node) -> Xfrm {
    let mut xfrm = node.host.inside(|| Xfrm::open(PORT).unwrap());
    xfrm.guard(true).unwrap();
    xfrm
}

/// Packets of each lane from one to the other after `count` datagrams of each of 128 flows, none of which got lost.
fn sealed(lanes: u8, v6: bool, count: u32) -> Vec<u64> {
    let (one, two) = two();
    let mut xfrms = [&one, &two].map(open_xfrm);
    for (xfrm, (here, there)) in xfrms.iter_mut().zip([(&one, &two), (&two, &one)]) {
        let plan = sealing(here, there, v6, lanes, None);
        xfrm.apply(&plan).unwrap();
        apply(here, &plan);
    }
    assert_eq!(next_hops(&one).len(), if lanes == 1 { 0 } else { 2 });
    let there: SocketAddr = "10.2.0.2:7000".parse().unwrap();
    let listening = two.container.inside(move || bind(there));
    listening.set_read_timeout(Some(PATIENCE)).unwrap();
    for port in 7100..7228 {
        let flow = one.container.inside(move || bind(([10, 2, 0, 1], port).into()));
        for _ in 0..count {
            flow.send_to(&[7; 100], there).unwrap();
            assert_eq!(listening.recv(&mut [0; 100]).unwrap(), 100);
        }
    }
    let [sent, arrived] = [0, 1].map(|at| packets(&mut xfrms[at], at == 0));
    assert_eq!(sent, arrived, "each lane arrives by itself");
    println!("{lanes} lanes, IPv6 {v6}: {sent:?}");
    assert_eq!(sent.iter().sum::<u64>(), u64::from(128 * count));
    sent
}

/// Packets of each state of a direction.
fn packets(xfrm: &mut Xfrm, sends: bool) -> Vec<u64> {
    let all = xfrm.lanes().unwrap();
    all.iter().filter(|lane| lane.sends == sends).map(|lane| lane.packets).collect()
}

#[test]
fn every_lane_is_used_by_sealed_packets() {
    if !has_esp() {
        return;
    }
    on_a_host(|| {
        for v6 in [false, true] {
            for lanes in [1, 2, 4, 8] {
                assert!(sealed(lanes, v6, 2).iter().all(|&packets| packets > 0), "{lanes} lanes, IPv6 {v6}");
            }
        }
    });
}

#[test]
fn new_keys_of_other_lanes_lose_no_sealed_packet() {
    if !has_esp() {
        return;
    }
    on_a_host(|| {
        let (one, two) = two();
        let [mut x1, mut x2] = [&one, &two].map(open_xfrm);
        let plan = sealing(&two, &one, false, 1, Some(4));
        x2.apply(&plan).unwrap();
        apply(&two, &plan);
        let plans = [(4, 1), (1, 4)].map(|(send, before)| sealing(&one, &two, false, send, Some(before)));
        let round = |x1: &mut Xfrm| {
            for plan in &plans {
                // As the router does: first what seals, then what leads there.
                x1.apply(plan).unwrap();
                apply(&one, plan);
            }
        };
        round(&mut x1);
        // On one core the sender may have its turns while the same plan is in force, again and again.
        let is_by_both = (0..20).any(|_| {
            let (sent, lost) = lost_while(&one, &two, 50, || round(&mut x1));
            let by_lane = packets(&mut x1, true);
            println!("{lost} of {sent} lost: {by_lane:?}");
            assert!(sent > 100 && lost == 0, "{lost} of {sent} lost");
            by_lane[0] > 0 && by_lane[1..].iter().sum::<u64>() > 0
        });
        assert!(is_by_both, "one plan's lanes were never used");
    });
}
