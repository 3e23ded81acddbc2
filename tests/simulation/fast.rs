//! The fast datapath in virtual time: proven, carried, left in time, kept while routers are replaced, and its keys.

use std::time::Duration;

use weft::{
    api::{Connection, Path},
    crypto::identity::Identity,
    fastdp::Ability,
    id::Uid,
    node::{NodeConfig, input::Input, output::Event},
    secret::NetworkSecret,
    sim::{HostId, Nat, Simulation},
};

use super::{Mesh, SECOND, everybody, frame, station, station_address};

/// Frames that are on their way when one stops counting: 1 ms at one each 100 µs, both ways.
const IN_FLIGHT: usize = 24;

fn open_network(config: &mut NodeConfig) {
    config.secret = NetworkSecret::open(&config.network);
}

/// Hosts whose kernels can do all, fast towards each other.
fn carried(count: usize, adjust: impl Fn(&mut NodeConfig, HostId)) -> Mesh {
    carried_by(count, Vec::new(), adjust)
}

/// Some of them behind NATs.
fn carried_by(count: usize, nats: Vec<Nat>, adjust: impl Fn(&mut NodeConfig, HostId)) -> Mesh {
    let mut mesh = Mesh::new(count, adjust, |id| if id == 0 { vec![] } else { vec![0] });
    mesh.sim.network.nats = nats;
    for id in 0..count {
        ready(&mut mesh.sim, id, None);
    }
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 10 * SECOND);
    let took = mesh.sim.run_until(20 * SECOND, |sim| all.iter().all(|id| is_all_fast(sim, *id)));
    let slow = |id: &HostId| !is_all_fast(&mesh.sim, *id);
    assert!(took.is_some(), "{:#?}", all.iter().copied().find(slow).map(|id| mesh.sim.report(id)));
    mesh.sim.run(2 * SECOND);
    expect_nothing_refused(&mesh);
    mesh
}

/// Nothing was sent that the kernel there, or the other, would not have.
fn expect_nothing_refused(mesh: &Mesh) {
    for id in everybody(mesh) {
        assert_eq!(mesh.sim.refused(id), 0, "host {id}");
    }
}

pub(super) fn ready(sim: &mut Simulation, id: HostId, no_esp: Option<&str>) {
    let no_esp = no_esp.map(str::to_owned);
    let ability = Ability::Ready { backend: "vxlan".to_owned(), no_esp, encap: Ok(6785), lanes: 2 };
    sim.tell(id, Input::ContainerMtu(1340));
    sim.tell(id, Input::FastDatapath(ability));
}

fn is_all_fast(sim: &Simulation, id: HostId) -> bool {
    sim.report(id).paths.iter().all(|path| path.method == "fastdp")
}

fn path(mesh: &Mesh, from: HostId, to: HostId) -> Path {
    let name = mesh.name(to);
    mesh.sim.report(from).paths.into_iter().find(|path| path.name == name).unwrap()
}

fn connection(mesh: &Mesh, from: HostId, to: HostId) -> Connection {
    let name = Some(mesh.name(to));
    mesh.sim.report(from).connections.into_iter().find(|connection| connection.name == name).unwrap()
}

/// Sends frames both ways between two hosts, one each 10 ms, for `span`; how many were lost, and the longest gap.
fn talk(mesh: &mut Mesh, pair: [HostId; 2], span: Duration) -> (usize, Duration) {
    talk_often(mesh, pair, span, Duration::from_millis(10))
}

fn talk_often(mesh: &mut Mesh, [a, b]: [HostId; 2], span: Duration, step: Duration) -> (usize, Duration) {
    let (mut lost, mut longest, mut gap) = (0, Duration::ZERO, Duration::ZERO);
    for _ in 0..span.as_micros() / step.as_micros() {
        mesh.sim.send_frame(a, &frame(station(a), station(b)));
        mesh.sim.send_frame(b, &frame(station(b), station(a)));
        mesh.sim.run(step);
        let missing = 2_usize.saturating_sub(mesh.sim.take_frames(a).len() + mesh.sim.take_frames(b).len());
        lost += missing;
        gap = if missing == 0 { Duration::ZERO } else { gap + step };
        longest = longest.max(gap);
    }
    (lost, longest)
}

fn method_changes(mesh: &mut Mesh, id: HostId) -> usize {
    let events = mesh.sim.take_events(id);
    events.iter().filter(|event| matches!(event, Event::MethodChanged { .. })).count()
}

#[test]
fn hosts_without_a_secret_are_fast_in_clear_and_with_one_by_esp() {
    let mut mesh = carried(3, |config, _| open_network(config));
    let line = connection(&mesh, 0, 1);
    assert_eq!((line.method.as_str(), line.encrypted, line.info.as_str(), line.mtu), ("fastdp", false, "", Some(1340)));
    assert_eq!(talk(&mut mesh, [0, 2], SECOND).0, 0);

    let mut mesh = carried(3, |_, _| ());
    let line = connection(&mesh, 0, 1);
    assert_eq!((line.method.as_str(), line.encrypted, line.info.as_str()), ("fastdp", true, "ESP, 2 lanes"));
    assert_eq!(path(&mesh, 0, 2).reason, "proven by heartbeats");
    assert_eq!(talk(&mut mesh, [0, 2], SECOND).0, 0);
    let all = everybody(&mesh);
    mesh.assert_broadcast_exactly_once(&all);
}

#[test]
fn trust_must_be_mutual_to_go_in_clear() {
    let trusts = |config: &mut NodeConfig| config.trusted_subnets = vec!["10.0.0.0/16".parse().unwrap()];
    let mesh = carried(2, |config, _| trusts(config));
    let line = connection(&mesh, 0, 1);
    assert!(!line.encrypted && line.info.contains("trusted subnets"), "{line:?}");
    let mesh = carried(2, |config, id| {
        if id == 0 {
            trusts(config)
        }
    });
    assert!(connection(&mesh, 0, 1).encrypted);
}

#[test]
fn without_esp_sealed_frames_stay_with_the_sleeve_which_says_why() {
    let mut mesh = Mesh::new(3, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    ready(&mut mesh.sim, 0, None);
    ready(&mut mesh.sim, 1, Some("no module esp4"));
    mesh.attach_all();
    mesh.settle(&[0, 1, 2], 10 * SECOND);
    mesh.sim.run(10 * SECOND);
    let info = |from, to| connection(&mesh, from, to).info;
    assert_eq!(connection(&mesh, 0, 1).method, "sleeve");
    assert!(info(0, 1).contains("the peer's kernel has no ESP"), "{}", info(0, 1));
    assert!(info(1, 0).contains("this kernel cannot: no module esp4"), "{}", info(1, 0));
    assert!(info(0, 2).contains("the peer's fast datapath is off"), "{}", info(0, 2));
    assert_eq!(info(2, 0), "", "nobody wants it there");
}

#[test]
fn a_dead_fast_path_is_left_within_a_second_and_taken_again_within_ten() {
    type Cut = fn(&mut weft::sim::Network);
    let cuts: [(&str, Cut, &str); 4] = [
        ("both ways", |network| network.fast_cuts.extend([(0, 1), (1, 0)]), "not answered any more"),
        ("there", |network| network.fast_cuts.extend([(0, 1)]), "not answered any more"),
        ("back", |network| network.fast_cuts.extend([(1, 0)]), "not answered any more"),
        ("full size", |network| network.fast_max = 1000, "full size"),
    ];
    for (what, cut, reason) in cuts {
        let mut mesh = carried(3, |_, _| ());
        method_changes(&mut mesh, 2);
        assert_eq!(talk(&mut mesh, [0, 1], 2 * SECOND).0, 0);
        cut(&mut mesh.sim.network);
        // The frames of this talk are small: where those of full size are lost, what is shown is that the path is left.
        let (_, gap) = talk(&mut mesh, [0, 1], 4 * SECOND);
        assert!(gap <= SECOND, "{what}: {gap:?}");
        for (from, to) in [(0, 1), (1, 0)] {
            let path = path(&mesh, from, to);
            assert_eq!((path.path.as_str(), path.method.as_str()), ("direct", "sleeve"), "{what}");
            assert!(path.reason.contains(reason), "{what}: {}", path.reason);
        }
        mesh.sim.run(4 * SECOND);
        let info = connection(&mesh, 0, 1).info;
        let direction = match what {
            "there" => "comes from there but does not arrive there",
            "back" => "gets there but not back",
            "both ways" => "passes in neither direction",
            _ => reason,
        };
        assert!(info.contains(direction), "{what}: {info}");
        if what != "full size" {
            assert_eq!(method_changes(&mut mesh, 2), 0, "others are not touched");
        }
        mesh.sim.network.heal();
        mesh.sim.network.fast_max = 1400;
        let back = mesh.sim.run_until(10 * SECOND, |sim| is_all_fast(sim, 0) && is_all_fast(sim, 1));
        assert!(back.is_some_and(|took| took >= 2 * SECOND), "{what}: {back:?} {:#?}", mesh.sim.report(0));
        assert_eq!(talk(&mut mesh, [0, 1], SECOND).0, 0, "{what}");
    }
}

#[test]
fn a_fast_path_that_dies_while_no_frames_go_is_left_soon_and_before_frames_of_full_size_are_missed_for_long() {
    for millis in (0..1000).step_by(130) {
        let mut mesh = carried(2, |_, _| ());
        mesh.sim.run(10 * SECOND + Duration::from_millis(millis));
        mesh.sim.network.fast_cuts.extend([(0, 1)]);
        mesh.sim.run(Duration::from_millis(1500));
        assert_eq!([path(&mesh, 0, 1).method, path(&mesh, 1, 0).method], ["sleeve", "sleeve"], "{millis} ms");

        let mut mesh = carried(2, |_, _| ());
        mesh.sim.run(10 * SECOND + Duration::from_millis(millis));
        mesh.sim.network.fast_max = 1000;
        // A look at whether frames go, and the burst.
        let (_, gap) = talk(&mut mesh, [0, 1], 2 * SECOND);
        assert_eq!(gap, Duration::ZERO, "those are small");
        assert_eq!([path(&mesh, 0, 1).method, path(&mesh, 1, 0).method], ["sleeve", "sleeve"], "{millis} ms");
    }
}

#[test]
fn hosts_that_carry_no_frames_greet_each_other_no_oftener_for_that() {
    let mut mesh = carried(2, |_, _| ());
    mesh.sim.run(10 * SECOND);
    let before = mesh.sim.sent(0).0;
    mesh.sim.run(100 * SECOND);
    let sent = mesh.sim.sent(0).0 - before;
    // Each second two small heartbeats, two probes, and their echoes; now and then full ones, greetings, gossip.
    assert!((700..1000).contains(&sent), "{sent} messages in 100 s");
}

#[test]
fn what_is_lost_where_the_kernel_carries_frames_counts() {
    let mut mesh = carried(2, |_, _| ());
    mesh.sim.network.heartbeat_loss = 0.1;
    let name = mesh.name(1);
    let cost = |mesh: &Mesh| mesh.sim.explain(0, name).unwrap().cost_us.unwrap();
    mesh.sim.run(120 * SECOND);
    assert!(cost(&mesh) < 50_000, "no frames, no loss: {} µs", cost(&mesh));
    talk(&mut mesh, [0, 1], 60 * SECOND);
    assert!(cost(&mesh) > 100_000, "{} µs", cost(&mesh));
}

#[test]
fn with_both_methods_cut_a_relay_takes_over_in_time() {
    for trial in 0..5 {
        let mut mesh = carried(3, |_, _| ());
        mesh.sim.run(Duration::from_millis(137 * trial));
        mesh.sim.network.cut(0, 1);
        let (_, gap) = talk(&mut mesh, [0, 1], 6 * SECOND);
        assert!(gap <= Duration::from_millis(2500), "trial {trial}: {gap:?}");
        assert_eq!(path(&mesh, 0, 1).path, "relay");
        mesh.sim.network.heal();
        let back = mesh.sim.run_until(20 * SECOND, |sim| is_all_fast(sim, 0));
        assert!(back.is_some(), "{:#?}", mesh.sim.report(0));
    }
}

#[test]
fn random_loss_of_heartbeats_alone_changes_nothing() {
    let mut mesh = carried(2, |_, _| ());
    mesh.sim.network.heartbeat_loss = 0.2;
    method_changes(&mut mesh, 0);
    mesh.sim.run(600 * SECOND);
    assert_eq!(method_changes(&mut mesh, 0), 0);
    assert!(path(&mesh, 0, 1).loss.unwrap() > 0.1);
}

#[test]
fn not_a_frame_is_lost_by_new_keys() {
    let mut mesh = carried(2, |_, _| ());
    let before = mesh.sim.report(0).counters["rekeys"];
    // 20 renewals, each 120 s.
    let (lost, _) = talk(&mut mesh, [0, 1], 2500 * SECOND);
    assert!(mesh.sim.report(0).counters["rekeys"] - before >= 20);
    assert_eq!(lost, 0);
    expect_nothing_refused(&mesh);
}

#[test]
fn frames_go_on_while_a_router_is_killed_or_stopped_and_started_anew() {
    for stops in [false, true] {
        let mut mesh = carried(3, |_, _| ());
        for round in 0..3 {
            if stops {
                mesh.sim.tell(1, Input::Leave);
            }
            mesh.sim.run(Duration::from_millis(20));
            mesh.sim.kill(1);
            let (lost, _) = talk(&mut mesh, [0, 1], 5 * SECOND);
            assert_eq!(lost, 0, "while it is away, round {round}, stops {stops}");
            let mut config = mesh.configs[1].clone();
            config.uid = Uid(mesh.entropy.number());
            config.started += 10 * (round + 1);
            mesh.sim.restart(1, config);
            ready(&mut mesh.sim, 1, None);
            mesh.sim.tell(1, Input::Station { mac: station(1), addresses: vec![station_address(1)], attached: true });
            // Less than latency and handshakes take: no moment is missed.
            let (lost, _) = talk_often(&mut mesh, [0, 1], 5 * SECOND, Duration::from_micros(100));
            assert!(lost <= IN_FLIGHT, "the moment it is back, round {round}, stops {stops}: {lost}");
            let (lost, _) = talk(&mut mesh, [0, 1], 60 * SECOND);
            assert_eq!(lost, 0, "when it is back, round {round}, stops {stops}");
            assert!(is_all_fast(&mesh.sim, 0) && is_all_fast(&mesh.sim, 1), "{:#?}", mesh.sim.report(0));
            expect_nothing_refused(&mesh);
        }
    }
}

#[test]
fn nothing_is_planned_for_a_peer_that_is_gone_for_a_minute() {
    let mut mesh = carried(2, |_, _| ());
    mesh.sim.kill(1);
    mesh.sim.run(30 * SECOND);
    assert_eq!(mesh.sim.planned(0), 1, "its kernel may go on");
    mesh.sim.run(20 * SECOND);
    assert_eq!(mesh.sim.planned(0), 0);
}

#[test]
fn a_peer_that_takes_the_address_of_a_dead_one_is_carried_at_once() {
    let mut mesh = carried(2, |_, _| ());
    let old = mesh.name(1);
    mesh.sim.kill(1);
    mesh.sim.run(SECOND);
    let mut config = mesh.configs[1].clone();
    config.identity = Identity::generate(&mesh.entropy);
    mesh.configs[1] = config.clone();
    mesh.sim.replace(1, config);
    ready(&mut mesh.sim, 1, None);
    mesh.sim.tell(1, Input::Station { mac: station(7), addresses: vec![station_address(7)], attached: true });
    let new = mesh.name(1);
    let is_fast = |sim: &Simulation| sim.report(0).paths.iter().any(|path| path.name == new && path.method == "fastdp");
    assert!(mesh.sim.run_until(10 * SECOND, is_fast).is_some(), "{:#?}", mesh.sim.report(0));
    let is_old_gone = |sim: &Simulation| sim.report(0).paths.iter().all(|path| path.name != old || path.path == "none");
    assert!(mesh.sim.run_until(5 * SECOND, is_old_gone).is_some(), "{:#?}", mesh.sim.report(0));
    mesh.sim.send_frame(0, &frame(station(0), station(7)));
    mesh.sim.run(SECOND);
    assert_eq!(mesh.sim.take_frames(1).len(), 1);
}

#[test]
fn clocks_twenty_minutes_apart_have_no_effect() {
    let mut mesh = carried(2, |config, id| config.started += 1200 * id as u64);
    assert_eq!(talk(&mut mesh, [0, 1], 10 * SECOND).0, 0);
}

fn nat(last: u8, inside: impl IntoIterator<Item = HostId>) -> Nat {
    Nat::new([192, 0, 2, last].into(), inside)
}

#[test]
fn nats_are_crossed_by_esp_in_udp_and_only_they() {
    let mut mesh = carried_by(3, vec![nat(1, [1])], |_, _| ());
    for (from, to, info) in [
        (0, 1, "ESP in UDP, 2 lanes"),
        (1, 0, "ESP in UDP, 2 lanes"),
        (2, 1, "ESP in UDP, 2 lanes"),
        (0, 2, "ESP, 2 lanes"),
    ] {
        let line = connection(&mesh, from, to);
        assert_eq!((line.method.as_str(), line.encrypted, line.info.as_str()), ("fastdp", true, info), "{from} {to}");
    }
    // Also with new keys every two minutes.
    for pair in [[0, 1], [1, 2]] {
        assert_eq!(talk(&mut mesh, pair, 300 * SECOND).0, 0, "{pair:?}");
    }
    expect_nothing_refused(&mesh);
}

#[test]
fn a_nat_that_forgets_is_followed() {
    let mut mesh = carried_by(3, vec![nat(1, [1])], |_, _| ());
    for round in 0..4 {
        // Only what ESP goes by, or the sleeve's port too, which takes longer to be followed.
        let all = round % 2 == 1;
        mesh.sim.network.nats[0].forget(|port| all || port == 6785);
        let (_, gap) = talk(&mut mesh, [0, 1], 5 * SECOND);
        assert!(gap <= if all { 3 * SECOND } else { SECOND }, "round {round}: {gap:?}");
        let back = mesh.sim.run_until(10 * SECOND, |sim| is_all_fast(sim, 0) && is_all_fast(sim, 1));
        assert!(back.is_some(), "round {round}: {:#?}", mesh.sim.report(0));
        assert_eq!(talk(&mut mesh, [0, 1], 130 * SECOND).0, 0, "round {round}");
        assert_eq!(talk(&mut mesh, [0, 2], SECOND).0, 0, "others are not touched");
    }
}

#[test]
fn of_two_peers_behind_one_nat_one_is_fast_and_the_other_says_why_not() {
    let mut mesh = Mesh::new(3, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    mesh.sim.network.nats = vec![nat(1, [1, 2])];
    (0..3).for_each(|id| ready(&mut mesh.sim, id, None));
    mesh.attach_all();
    mesh.settle(&[0, 1, 2], 20 * SECOND);
    mesh.sim.run(20 * SECOND);
    let methods = [1, 2].map(|to| connection(&mesh, 0, to).method);
    let slow = methods.iter().position(|method| method == "sleeve").unwrap() + 1;
    assert_eq!(methods[2 - slow], "fastdp", "{methods:?}");
    let info = |from, to| connection(&mesh, from, to).info;
    assert!(info(0, slow).contains("is that of another peer behind it"), "{}", info(0, slow));
    assert!(info(slow, 0).contains("another's behind the same NAT"), "{}", info(slow, 0));
    assert_eq!(talk(&mut mesh, [0, slow], SECOND).0 + talk(&mut mesh, [0, 3 - slow], SECOND).0, 0);
    expect_nothing_refused(&mesh);
    // Its turn comes when the other is gone for good.
    mesh.sim.kill(3 - slow);
    let name = mesh.name(slow);
    let is_fast =
        |sim: &Simulation| sim.report(0).paths.iter().any(|path| path.name == name && path.method == "fastdp");
    assert!(mesh.sim.run_until(80 * SECOND, is_fast).is_some(), "{:#?}", mesh.sim.report(0));
}

#[test]
fn across_a_nat_each_obstacle_is_named_and_the_sleeve_carries() {
    let blocked = |network: &mut weft::sim::Network| network.fast_cuts.extend([(0, 1), (1, 0)]);
    for (open, why) in [(true, "the network has no secret"), (false, "our UDP 6785 is not answered")] {
        let adjust = |config: &mut NodeConfig, _| {
            if open {
                open_network(config)
            }
        };
        let mut mesh = Mesh::new(2, adjust, |id| if id == 0 { vec![] } else { vec![0] });
        mesh.sim.network.nats = vec![nat(1, [1])];
        blocked(&mut mesh.sim.network);
        (0..2).for_each(|id| ready(&mut mesh.sim, id, None));
        mesh.attach_all();
        mesh.settle(&[0, 1], 20 * SECOND);
        mesh.sim.run(10 * SECOND);
        for (from, to) in [(0, 1), (1, 0)] {
            let line = connection(&mesh, from, to);
            assert!(line.method == "sleeve" && line.info.contains("a NAT lies between"), "{line:?}");
            assert!(line.info.contains(why), "{line:?}");
        }
        mesh.sim.network.heal();
        let is_fast = mesh.sim.run_until(10 * SECOND, |sim| is_all_fast(sim, 0) && is_all_fast(sim, 1)).is_some();
        assert_eq!(is_fast, !open);
        assert_eq!(talk(&mut mesh, [0, 1], SECOND).0, 0);
    }
}

#[test]
fn a_router_behind_a_nat_that_is_started_anew_is_fast_again() {
    let mut mesh = carried_by(2, vec![nat(1, [1])], |_, _| ());
    mesh.sim.kill(1);
    mesh.sim.run(5 * SECOND);
    let mut config = mesh.configs[1].clone();
    config.uid = Uid(mesh.entropy.number());
    config.started += 10;
    mesh.sim.restart(1, config);
    ready(&mut mesh.sim, 1, None);
    mesh.sim.tell(1, Input::Station { mac: station(1), addresses: vec![station_address(1)], attached: true });
    let back = mesh
        .sim
        .run_until(10 * SECOND, |sim| is_all_fast(sim, 0) && is_all_fast(sim, 1) && sim.report(1).paths.len() == 1);
    assert!(back.is_some(), "{:#?}", mesh.sim.report(0));
    mesh.sim.run(5 * SECOND);
    assert_eq!(talk(&mut mesh, [0, 1], 10 * SECOND).0, 0);
}
