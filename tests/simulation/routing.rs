//! Paths in virtual time: which is taken, how soon a bad one is left, and that nothing changes without a reason.

use std::time::Duration;

use weft::{
    api::Path,
    node::input::Input,
    sim::{HostId, Nat, Simulation, Way},
};

use super::{MILLISECOND, Mesh, SECOND, everybody, fast::ready, frame, station};

/// Hosts that all know each other, on a network of so much latency one way, with traffic nowhere.
pub(super) fn settled(count: usize, seed: u64, latency: Duration) -> Mesh {
    let mut mesh = Mesh::seeded(seed, count, |_, _| (), |id| (0..id).collect());
    mesh.sim.network.latency = latency;
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.sim.run(10 * SECOND);
    mesh
}

pub(super) fn path(mesh: &Mesh, from: HostId, to: HostId) -> Path {
    let name = mesh.name(to);
    mesh.sim.report(from).paths.into_iter().find(|path| path.name == name).unwrap()
}

pub(super) fn is_relayed(mesh: &Mesh, [a, b]: [HostId; 2]) -> bool {
    [(a, b), (b, a)].iter().all(|(from, to)| path(mesh, *from, *to).path == "relay")
}

/// Path changes of all of these so far.
fn changes(sim: &Simulation, ids: &[HostId]) -> u64 {
    ids.iter().map(|id| sim.report(*id).counters["path_changes"]).sum()
}

/// Sends a frame both ways each 20 ms for `span`, or until `done`; how long it took, and the longest time without a frame in one
/// of the directions.
fn talk(mesh: &mut Mesh, pair: [HostId; 2], span: Duration, done: impl Fn(&Mesh) -> bool) -> (Duration, Duration) {
    exchange(mesh, pair, (20 * MILLISECOND, 1), span, done)
}

/// The same with so many frames each `step`.
pub(super) fn exchange(
    mesh: &mut Mesh,
    [a, b]: [HostId; 2],
    (step_span, frames): (Duration, usize),
    span: Duration,
    done: impl Fn(&Mesh) -> bool,
) -> (Duration, Duration) {
    let start = mesh.sim.now();
    let (mut heard, mut longest) = ([start; 2], Duration::ZERO);
    for step in 0.. {
        let now = mesh.sim.now();
        // To ask costs more than to talk.
        if now.since(start) >= span || (step % 5 == 0 && done(mesh)) {
            break;
        }
        for _ in 0..frames {
            mesh.sim.send_frame(a, &frame(station(a), station(b)));
            mesh.sim.send_frame(b, &frame(station(b), station(a)));
        }
        mesh.sim.run(step_span);
        for (heard, id) in heard.iter_mut().zip([a, b]) {
            if !mesh.sim.take_frames(id).is_empty() {
                *heard = mesh.sim.now();
            }
            longest = longest.max(mesh.sim.now().since(*heard));
        }
    }
    (mesh.sim.now().since(start), longest)
}

/// Makes some ways of the network worse.
pub(super) fn worsen<const COUNT: usize>(mesh: &mut Mesh, ways: [(HostId, HostId); COUNT], worse: fn(&mut Way)) {
    for (from, to) in ways {
        let mut way = mesh.sim.network.way(from, to);
        worse(&mut way);
        mesh.sim.network.ways.insert((from, to), way);
    }
}

pub(super) fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Makes the direct path of a talking pair bad; how long until both go by the third, and until both are back after it is good.
fn leaves_and_returns(seed: u64, latency: Duration, worse: fn(&mut Way)) -> (Duration, Duration) {
    let mut mesh = settled(3, seed, latency);
    talk(&mut mesh, [0, 2], 3 * SECOND, |_| false);
    assert_eq!(path(&mesh, 0, 2).path, "direct");
    worsen(&mut mesh, [(0, 2), (2, 0)], worse);
    let (left, _) = talk(&mut mesh, [0, 2], 20 * SECOND, |mesh| is_relayed(mesh, [0, 2]));
    expect_explained(&mesh);
    // While it stays bad it stays left.
    let before = changes(&mesh.sim, &[0, 2]);
    talk(&mut mesh, [0, 2], 40 * SECOND, |_| false);
    assert!(is_relayed(&mesh, [0, 2]), "{:?}", path(&mesh, 0, 2));
    assert_eq!(changes(&mesh.sim, &[0, 2]), before);
    mesh.sim.network.ways.clear();
    let is_direct = |mesh: &Mesh| path(mesh, 0, 2).path == "direct" && path(mesh, 2, 0).path == "direct";
    let (back, gap) = talk(&mut mesh, [0, 2], 90 * SECOND, is_direct);
    assert!(gap < SECOND / 2, "nothing is lost by going back: {gap:?}");
    (left, back)
}

/// Why the direct path was left, what it would cost, and what would have to change.
fn expect_explained(mesh: &Mesh) {
    let told = mesh.sim.explain(0, mesh.name(2)).unwrap();
    assert!(told.path.reason.contains("worse"), "{told:#?}");
    assert_eq!(
        told.changes.last().map(|change| (change.from.as_str(), &change.reason)),
        Some(("direct", &told.path.reason))
    );
    let [by_relay, direct] = &told.ways[..] else { panic!("{told:#?}") };
    assert_eq!((by_relay.in_use, by_relay.relays[0].name, direct.in_use), (true, mesh.name(1), false));
    assert!(direct.cost_us > by_relay.cost_us + 5000 && told.cost_us == Some(by_relay.cost_us), "{told:#?}");
    let sleeve = told.methods.iter().find(|method| method.method == "sleeve").unwrap();
    assert_eq!(sleeve.state, "ready");
    assert!(told.better.iter().any(|better| better.contains("direct path")), "{told:#?}");
}

/// As [`talk`], on hosts whose routers get no processor for a moment once in a second, each by itself.
fn talk_on_busy_hosts(mesh: &mut Mesh, pair: [HostId; 2], span: Duration, done: impl Fn(&Mesh) -> bool) -> Duration {
    const STEP: Duration = Duration::from_millis(100);
    let start = mesh.sim.now();
    while mesh.sim.now().since(start) < span && !done(mesh) {
        for id in 0..mesh.len() {
            let number = mesh.entropy.number();
            if number.is_multiple_of(10) {
                mesh.sim.stall(id, Duration::from_millis(30 + (number >> 32) % 120));
            }
        }
        talk(mesh, pair, STEP, |_| false);
    }
    mesh.sim.now().since(start)
}

fn expect_left_in_time(mut left: Vec<Duration>) {
    let worst = left.iter().copied().max().unwrap();
    let typical = median(&mut left);
    assert!(typical >= SECOND && typical <= 5 * SECOND && worst <= 7 * SECOND, "{left:?}");
}

#[test]
fn a_direct_path_that_loses_a_twentieth_is_left_within_seconds_and_taken_again_when_it_has_stayed_good() {
    let mut left = Vec::new();
    for seed in 0..8 {
        let (after, back) = leaves_and_returns(seed, MILLISECOND, |way| way.loss = 0.05);
        assert!((10 * SECOND..60 * SECOND).contains(&back), "back after {back:?}");
        left.push(after);
    }
    expect_left_in_time(left);
}

#[test]
fn a_direct_path_that_became_slow_is_left_within_seconds_and_taken_again_when_it_has_stayed_good() {
    let mut left = Vec::new();
    for (seed, latency) in [(1, 1), (2, 1), (3, 10), (4, 10), (5, 20)] {
        let (after, back) = leaves_and_returns(seed, latency * MILLISECOND, |way| way.latency += 50 * MILLISECOND);
        assert!((7 * SECOND..30 * SECOND).contains(&back), "back after {back:?}");
        left.push(after);
    }
    expect_left_in_time(left);
}

#[test]
fn a_direct_path_that_became_slow_is_left_within_seconds_by_busy_hosts_too() {
    let mut left = Vec::new();
    for seed in 0..20 {
        let mut mesh = settled(3, 300 + seed, MILLISECOND / 2);
        let is_direct = |mesh: &Mesh| path(mesh, 0, 2).path == "direct" && path(mesh, 2, 0).path == "direct";
        talk_on_busy_hosts(&mut mesh, [0, 2], 15 * SECOND, |_| false);
        talk_on_busy_hosts(&mut mesh, [0, 2], 30 * SECOND, is_direct);
        worsen(&mut mesh, [(0, 2), (2, 0)], |way| way.latency += 50 * MILLISECOND);
        left.push(talk_on_busy_hosts(&mut mesh, [0, 2], 40 * SECOND, |mesh| is_relayed(mesh, [0, 2])));
    }
    let typical = median(&mut left);
    println!("left after {typical:?}, at worst after {:?}", left.last());
    assert!(typical >= SECOND && typical <= 4 * SECOND && left.last() <= Some(&(6 * SECOND)), "{left:?}");
}

/// The direct path of 0 and 2 dies: both ways, there, or back.
pub(super) const CUTS: [fn(&mut weft::sim::Network); 3] = [
    |network| network.cut(0, 2),
    |network| network.datagram_cuts.extend([(0, 2)]),
    |network| network.datagram_cuts.extend([(2, 0)]),
];

#[test]
fn a_direct_path_that_dies_either_way_or_both_ways_costs_a_second() {
    for cut in CUTS {
        let mut gaps = Vec::new();
        for trial in 0..20_u32 {
            let mut mesh = settled(4, 100 + u64::from(trial), 2 * MILLISECOND);
            talk(&mut mesh, [0, 2], SECOND + 37 * MILLISECOND * trial, |_| false);
            cut(&mut mesh.sim.network);
            let (_, gap) = talk(&mut mesh, [0, 2], 4 * SECOND, |_| false);
            gaps.push(gap);
        }
        let worst = gaps.iter().copied().max().unwrap();
        let typical = median(&mut gaps);
        println!("nothing for {typical:?}, at worst for {worst:?}");
        assert!(typical <= SECOND && worst <= 3 * SECOND, "{gaps:?}");
        assert!(typical >= 300 * MILLISECOND, "the cut cut: {gaps:?}");
    }
}

/// The relay that cannot go on tells everybody, and so the source, which takes the next best way at once.
#[test]
fn a_relay_that_does_not_get_on_costs_a_second() {
    let mut gaps = Vec::new();
    for seed in 0..8 {
        let mut mesh = Mesh::seeded(seed, 4, |_, _| (), |id| (0..id).collect());
        mesh.sim.network.latency = 5 * MILLISECOND;
        mesh.sim.network.datagram_cuts.extend([(0, 1), (1, 0)]);
        mesh.attach_all();
        mesh.sim.run(15 * SECOND);
        talk(&mut mesh, [0, 1], 3 * SECOND, |_| false);
        let [relay] = path(&mesh, 0, 1).relays[..] else { panic!("{:?}", path(&mesh, 0, 1)) };
        let relay = (0..4).find(|id| mesh.name(*id) == relay).unwrap();
        mesh.sim.network.datagram_cuts.extend([(relay, 1), (1, relay)]);
        let (_, gap) = talk(&mut mesh, [0, 1], 5 * SECOND, |_| false);
        assert_eq!(path(&mesh, 0, 1).relays, [mesh.name(5 - relay)], "by the other");
        gaps.push(gap);
    }
    let worst = gaps.iter().copied().max().unwrap();
    let typical = median(&mut gaps);
    assert!(typical <= SECOND && worst <= 3 * SECOND, "{gaps:?}");
}

/// From when a relay's record says that its link to the destination is down until the source sends by another: the relay is 10 ms away,
/// there and back.
fn takes_up_what_a_relay_tells(seed: u64, is_neighbour: bool) -> Duration {
    const RELAY: HostId = 2;
    let mut mesh = Mesh::seeded(seed, 5, |_, _| (), |id| (0..id).collect());
    mesh.sim.network.latency = 10 * MILLISECOND;
    for pair in [(0, RELAY), (RELAY, 0), (1, RELAY), (RELAY, 1)] {
        worsen(&mut mesh, [pair], |way| way.latency = 5 * MILLISECOND);
    }
    mesh.sim.network.datagram_cuts.extend([(0, 1), (1, 0)]);
    mesh.attach_all();
    mesh.sim.run(15 * SECOND);
    if !is_neighbour {
        mesh.sim.network.stream_cuts.insert((0, RELAY));
        mesh.sim.run(20 * SECOND);
    }
    assert_eq!(mesh.sim.neighbours(0).contains(&RELAY), is_neighbour);
    talk(&mut mesh, [0, 1], 3 * SECOND + 7 * MILLISECOND * u32::try_from(seed).unwrap(), |_| false);
    assert_eq!(path(&mesh, 0, 1).relays, [mesh.name(RELAY)]);
    mesh.sim.network.datagram_cuts.extend([(RELAY, 1), (1, RELAY)]);
    let cut = mesh.sim.now();
    let mut told = None;
    loop {
        mesh.sim.send_frame(0, &frame(station(0), station(1)));
        mesh.sim.run(MILLISECOND);
        let now = mesh.sim.now();
        assert!(now.since(cut) < 3 * SECOND, "{:?}", path(&mesh, 0, 1));
        if !mesh.sim.hears_of_link(RELAY, RELAY, 1) {
            told.get_or_insert(now);
        }
        // The other end may have told it first.
        if path(&mesh, 0, 1).relays != [mesh.name(RELAY)] {
            return told.map_or(Duration::ZERO, |told| now.since(told));
        }
    }
}

#[test]
fn what_a_relay_tells_of_its_link_is_acted_on_within_a_round_trip_also_where_others_bring_it() {
    for is_neighbour in [true, false] {
        let took: Vec<Duration> = (0..8).map(|seed| takes_up_what_a_relay_tells(seed, is_neighbour)).collect();
        println!("a neighbour {is_neighbour}: {took:?}");
        assert!(took.iter().all(|took| *took <= 30 * MILLISECOND), "{took:?}");
        assert!(took.iter().any(|took| !took.is_zero()), "the relay told nothing");
    }
}

#[test]
fn noise_of_a_fifth_changes_no_path_in_ten_minutes() {
    let mut mesh = settled(8, 7, 16 * MILLISECOND);
    mesh.sim.network.jitter = 8 * MILLISECOND;
    let all = everybody(&mesh);
    mesh.sim.run(20 * SECOND);
    let before = changes(&mesh.sim, &all);
    for _ in 0..600 {
        mesh.sim.send_frame(0, &frame(station(0), station(2)));
        mesh.sim.run(SECOND);
    }
    assert_eq!(changes(&mesh.sim, &all), before);
}

#[test]
fn a_relay_that_has_little_to_spare_is_left_for_another_and_one_that_passes_on_nothing_is_none() {
    // Whoever they are, 0 and 1 cannot reach each other straight.
    let mut mesh = Mesh::seeded(3, 5, |config, id| config.relay = id != 4, |id| (0..id).collect());
    mesh.sim.network.datagram_cuts.extend([(0, 1), (1, 0)]);
    mesh.attach_all();
    mesh.sim.run(15 * SECOND);
    let relay = |mesh: &Mesh| (0..5).find(|id| path(mesh, 0, 1).relays == [mesh.name(*id)]).unwrap();
    let first = relay(&mesh);
    let other = 5 - first;
    assert!([2, 3].contains(&first), "{first} was chosen, and passes on nothing");
    mesh.sim.tell(first, Input::Load(700));
    let (left, gap) = talk(&mut mesh, [0, 1], 20 * SECOND, |mesh| relay(mesh) == other);
    assert!(left <= 8 * SECOND && gap < SECOND / 2, "left after {left:?}, silent for {gap:?}");
    let told = mesh.sim.explain(0, mesh.name(1)).unwrap();
    let ways: Vec<_> = told.ways.iter().map(|way| way.relaying.as_deref().unwrap_or_default()).collect();
    assert_eq!(ways[..2], ["free", "busy"], "{told:#?}");
    // When both are as busy, or it is calm again, there is no reason to go back.
    let before = changes(&mesh.sim, &[0, 1]);
    mesh.sim.tell(other, Input::Load(600));
    talk(&mut mesh, [0, 1], 10 * SECOND, |_| false);
    mesh.sim.tell(first, Input::Load(0));
    mesh.sim.tell(other, Input::Load(0));
    talk(&mut mesh, [0, 1], 60 * SECOND, |_| false);
    assert_eq!((changes(&mesh.sim, &[0, 1]), relay(&mesh)), (before, other));
    // Full ones are better than none.
    for id in [2, 3] {
        mesh.sim.tell(id, Input::Load(1000));
    }
    let (_, gap) = talk(&mut mesh, [0, 1], 10 * SECOND, |_| false);
    assert!(gap < SECOND / 2 && path(&mesh, 0, 1).path == "relay");
    mesh.sim.kill(2);
    mesh.sim.kill(3);
    mesh.sim.run(10 * SECOND);
    assert_eq!(path(&mesh, 0, 1).path, "none", "the last one passes on nothing");
}

#[test]
fn what_was_slow_while_all_started_is_direct_soon_after() {
    const HOSTS: usize = 20;
    let mut mesh = Mesh::seeded(9, HOSTS, |_, _| (), |id| (0..id).collect());
    mesh.sim.network.latency = 2 * MILLISECOND;
    // Some are served later than others, as are processes on a machine that has too many of them.
    for (from, to) in (0..HOSTS).flat_map(|from| (0..HOSTS).map(move |to| (from, to))) {
        let mut way = mesh.sim.network.way(from, to);
        way.latency = MILLISECOND * u32::try_from(2 + (from * 7 + to * 13) % 60).unwrap();
        mesh.sim.network.ways.insert((from, to), way);
    }
    mesh.attach_all();
    mesh.sim.run(12 * SECOND);
    mesh.sim.network.ways.clear();
    let is_direct = |mesh: &Mesh| {
        let mut paths = (0..HOSTS).flat_map(|id| mesh.sim.report(id).paths);
        paths.all(|path| path.path == "direct")
    };
    assert!(!is_direct(&mesh), "some took relays");
    let calm = mesh.sim.now();
    while !is_direct(&mesh) {
        mesh.sim.run(SECOND / 2);
        assert!(mesh.sim.now().since(calm) < 15 * SECOND, "still by relay");
    }
}

#[test]
fn hosts_that_get_no_processor_change_no_path_among_the_rest() {
    let mut mesh = settled(12, 8, 2 * MILLISECOND);
    let rest: Vec<HostId> = (3..12).collect();
    let kinds = |mesh: &Mesh| {
        let of =
            |id: &HostId| mesh.sim.report(*id).paths.into_iter().filter(|p| (3..12).any(|id| mesh.name(id) == p.name));
        rest.iter().flat_map(of).map(|path| (path.name, path.path, path.relays, path.since)).collect::<Vec<_>>()
    };
    let before = kinds(&mesh);
    for _ in 0..4 {
        for id in 0..3 {
            mesh.sim.stall(id, 10 * SECOND);
        }
        mesh.sim.run(15 * SECOND);
        assert_eq!(kinds(&mesh), before);
    }
    mesh.sim.run(10 * SECOND);
    let all = everybody(&mesh);
    mesh.assert_broadcast_exactly_once(&all);
}

/// It is at the end of a chain: whoever is beyond has no other way to it.
#[test]
fn a_host_that_got_no_processor_for_seconds_is_back_soon() {
    for (is_fast, is_natted, stalled) in
        [(false, false, 4100), (false, true, 4100), (true, false, 4100), (true, true, 4100), (true, true, 8000)]
    {
        let mut mesh = Mesh::seeded(5, 3, |c, _| c.discovery = false, |id| if id == 0 { vec![] } else { vec![0] });
        if is_natted {
            mesh.sim.network.nats = vec![Nat::new([192, 0, 2, 1].into(), [1])];
        }
        if is_fast {
            (0..3).for_each(|id| ready(&mut mesh.sim, id, None));
        }
        mesh.attach_all();
        mesh.settle(&[0, 1, 2], 10 * SECOND);
        talk(&mut mesh, [1, 2], 5 * SECOND, |_| false);
        mesh.sim.stall(1, stalled * MILLISECOND);
        talk(&mut mesh, [1, 2], stalled * MILLISECOND, |_| false);
        let (took, _) = talk(&mut mesh, [1, 2], 20 * SECOND, |mesh| {
            path(mesh, 1, 2).path == "relay" && path(mesh, 2, 1).path == "relay" && path(mesh, 0, 1).path == "direct"
        });
        println!("fast {is_fast}, behind a NAT {is_natted}, stalled for {stalled} ms, back after {took:?}");
        assert!(took < 5 * SECOND, "{took:?} after {stalled} ms");
    }
}

#[test]
fn where_nothing_is_sent_loss_changes_no_path() {
    let mut mesh = Mesh::seeded(9, 20, |_, _| (), |id| (0..id).collect());
    mesh.sim.network.latency = 10 * MILLISECOND;
    mesh.sim.network.loss = 0.02;
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.sim.run(10 * SECOND);
    let before = changes(&mesh.sim, &all);
    mesh.sim.run(80 * SECOND);
    assert_eq!(changes(&mesh.sim, &all), before);
}

#[test]
fn two_that_cannot_dial_each_other_behind_nats_find_a_direct_path() {
    let mut mesh = Mesh::new(3, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    mesh.sim.network.nats = [1, 2].map(|id| Nat::new([192, 0, 2, id as u8].into(), [id])).into();
    mesh.attach_all();
    mesh.settle(&[0, 1, 2], 10 * SECOND);
    mesh.sim.run(30 * SECOND);
    let is_direct = |mesh: &Mesh| path(mesh, 1, 2).path == "direct" && path(mesh, 2, 1).path == "direct";
    assert!(is_relayed(&mesh, [1, 2]), "nothing is looked for before frames are sent");
    let (met, gap) = talk(&mut mesh, [1, 2], 30 * SECOND, is_direct);
    assert!(is_direct(&mesh), "{:#?}", mesh.sim.explain(1, mesh.name(2)));
    assert!(met < 5 * SECOND && gap < SECOND / 2, "after {met:?}, {gap:?} without a frame");
    assert_eq!(mesh.sim.report(1).connections.iter().filter(|it| it.method != "none").count(), 1, "no connection");
}
