//! What a mesh costs as it grows: how long it takes from zero, what it sends when nothing happens, how far news travels.
//!
//! `WEFT_SCALE=1000` runs [`a_large_mesh_is_soon_whole_by_few_connections`] with so many hosts (`make sim-large`), and with
//! `WEFT_CROWD=4900` besides [`hosts_in_a_crowd_send_little_when_idle`] with so many others (`make sim-crowd`), of whose records
//! `WEFT_NEWS` change in a second.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use weft::sim::{HostId, Simulation};

use super::{MILLISECOND, Mesh, SECOND, crowd::Crowd, everybody, fast, frame, station};

/// Hosts of which a test that runs with all others can afford so many.
const USUAL: usize = 60;
/// And so many others who are only told of.
const USUAL_CROWD: usize = 150;
/// And so many of their records change in a second: what a mesh of any size has to spare for news of costs (`docs/routing.md`).
const USUAL_NEWS: usize = 2;
/// What each message has besides the bytes that the simulator counts: headers of IPv4 and TCP, which are more than UDP's.
const HEADERS: u64 = 40;

/// Hosts that are all told of the same two, as with a rollout of any size. Two are 4 to 16 ms apart.
fn rollout(count: usize) -> Mesh {
    let mut mesh =
        Mesh::new(count, |config, _| config.conn_limit = 16, |id| [0, 1].into_iter().filter(|to| *to != id).collect());
    mesh.sim.network.latency = 4 * MILLISECOND;
    mesh.sim.network.jitter = 4 * MILLISECOND;
    mesh
}

/// What the environment asks for instead of the usual.
fn size(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

fn is_whole(sim: &Simulation, ids: &[HostId]) -> bool {
    ids.iter().all(|id| sim.peers_reached(*id) + 1 >= ids.len())
}

/// Connections of each host, in order of their number.
fn degrees(mesh: &Mesh, ids: &[HostId]) -> Vec<usize> {
    let mut degrees: Vec<usize> = ids.iter().map(|id| mesh.sim.neighbours(*id).len()).collect();
    degrees.sort_unstable();
    degrees
}

/// Bytes that each host sent so far, headers included.
fn sent(mesh: &Mesh) -> Vec<u64> {
    (0..mesh.len()).map(|id| mesh.sim.sent(id)).map(|(messages, bytes)| bytes + messages * HEADERS).collect()
}

/// Memory of this process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4)
}

/// Bytes that an idle host sends in a second, at most.
fn idle_max(count: usize) -> u64 {
    match count {
        0..=200 => 4000,
        201..=1000 => 6000,
        _ => 10_000,
    }
}

fn percentile(sorted: &[Duration], share: usize) -> Duration {
    sorted[(sorted.len() - 1) * share / 100]
}

/// From when one end tells that a link is down until each host knows it, in order.
fn news(mesh: &mut Mesh) -> Vec<Duration> {
    let count = mesh.len();
    let one = count / 2;
    let other = mesh.sim.neighbours(one).into_iter().find(|id| *id > 1).unwrap();
    mesh.sim.network.cut(one, other);
    let told = |sim: &Simulation, at: HostId| !sim.hears_of_link(at, one, other);
    let cut = mesh.sim.now();
    while !told(&mesh.sim, one) {
        assert!(mesh.sim.now().since(cut) < 30 * SECOND, "the link is not told to be down");
        mesh.sim.run(MILLISECOND);
    }
    let start = mesh.sim.now();
    let (mut waiting, mut known): (BTreeSet<HostId>, Vec<Duration>) = ((0..count).collect(), Vec::new());
    while !waiting.is_empty() && mesh.sim.now().since(start) < 20 * SECOND {
        let now = mesh.sim.now().since(start);
        waiting.retain(|id| !told(&mesh.sim, *id));
        known.resize(count - waiting.len(), now);
        mesh.sim.run(10 * MILLISECOND);
    }
    assert!(waiting.is_empty(), "{waiting:?} do not know after 20 s");
    mesh.sim.network.heal();
    known
}

#[test]
fn a_large_mesh_is_soon_whole_by_few_connections() {
    let count = size("WEFT_SCALE", USUAL);
    let (wall, before) = (Instant::now(), resident());
    let mut mesh = rollout(count);
    let all = everybody(&mesh);
    let took = mesh.sim.run_until(120 * SECOND, |sim| is_whole(sim, &all)).unwrap();
    println!("{count} hosts: all reach all after {took:?} ({:?} on the clock)", wall.elapsed());
    let start = sent(&mesh).iter().sum::<u64>() / count as u64;
    println!("each sent {} kB until then", start / 1000);
    // Until the links of those who were connected only to learn of others are given up, and the first news of costs is told.
    mesh.sim.run(240 * SECOND);
    let degrees = degrees(&mesh, &all);
    println!("connections: {} to {}, {} at the median", degrees[0], degrees[count - 1], degrees[count / 2]);

    let earlier = sent(&mesh);
    mesh.sim.run(60 * SECOND);
    let mut idle: Vec<u64> = sent(&mesh).iter().zip(earlier).map(|(now, before)| (now - before) / 60).collect();
    idle.sort_unstable();
    println!("idle, each sends {} bytes/s, {} at most", idle.iter().sum::<u64>() / count as u64, idle[count - 1]);

    let known = news(&mut mesh);
    let (half, most) = (percentile(&known, 50), percentile(&known, 99));
    println!("a link's end is known everywhere: p50 {half:?}, p99 {most:?}, last {:?}", known[count - 1]);
    println!("memory of a host: {} kB; {:?} on the clock in all", (resident() - before) / count as u64, wall.elapsed());

    let settled_max = match count {
        0..=200 => 10,
        201..=1000 => 30,
        _ => 60,
    };
    let idle = idle.iter().sum::<u64>() / count as u64;
    assert!(idle < idle_max(count), "{idle} bytes/s when idle");
    assert!(took <= settled_max * SECOND, "{took:?}");
    assert!(degrees[count - 1] <= 16 && degrees[0] >= 3, "{degrees:?}");
    assert!(half < SECOND / 2 && most < SECOND, "{half:?} {most:?}");
}

#[test]
fn heartbeats_of_a_large_mesh_with_the_fast_datapath_are_few_when_idle() {
    let count = size("WEFT_SCALE", USUAL);
    let wall = Instant::now();
    let mut mesh = rollout(count);
    let all = everybody(&mesh);
    all.iter().for_each(|id| fast::ready(&mut mesh.sim, *id, None));
    mesh.sim.run_until(120 * SECOND, |sim| is_whole(sim, &all)).unwrap();
    mesh.sim.run(240 * SECOND);
    let report = mesh.sim.report(count / 2);
    let links = |method: &str| report.connections.iter().filter(|line| line.method == method).count();
    assert!(links("fastdp") >= 3 && links("sleeve") == 0, "{:?}", report.connections);

    let earlier = sent(&mesh);
    mesh.sim.run(60 * SECOND);
    let mut idle: Vec<u64> = sent(&mesh).iter().zip(earlier).map(|(now, before)| (now - before) / 60).collect();
    idle.sort_unstable();
    let (mean, most) = (idle.iter().sum::<u64>() / count as u64, idle[count - 1]);
    println!(
        "{count} hosts with the fast datapath: idle, each sends {mean} bytes/s, {most} at most ({:?} on the clock)",
        wall.elapsed()
    );
    assert!(mean < idle_max(count), "{mean} bytes/s when idle");
}

#[test]
fn hosts_in_a_crowd_send_little_when_idle() {
    let (count, others) = (size("WEFT_SCALE", USUAL), size("WEFT_CROWD", USUAL_CROWD));
    let news = size("WEFT_NEWS", USUAL_NEWS);
    let (wall, before) = (Instant::now(), resident());
    let mut mesh = rollout(count);
    let all = everybody(&mesh);
    mesh.sim.run_until(60 * SECOND, |sim| is_whole(sim, &all)).unwrap();
    let mut crowd = Crowd::new(&mut mesh, 2, others, news);
    crowd.run(&mut mesh, 240 * SECOND);
    let knows_all = |id: &HostId| mesh.sim.peers_known(*id) == count + others;
    assert!(all.iter().all(knows_all), "somebody does not know all {others} others");

    let earlier = sent(&mesh);
    crowd.run(&mut mesh, 60 * SECOND);
    let idle: Vec<u64> = sent(&mesh).iter().zip(earlier).map(|(now, before)| (now - before) / 60).collect();
    // Not the host that all of the crowd's news comes by.
    let mut idle: Vec<u64> = (0..).zip(idle).filter(|(id, _)| *id != 2).map(|(_, sent)| sent).collect();
    idle.sort_unstable();
    let (mean, most) = (idle.iter().sum::<u64>() / idle.len() as u64, idle[idle.len() - 1]);
    println!(
        "idle among {others} others with {news} news/s, each of {count} hosts sends {mean} bytes/s, {most} at most"
    );
    println!("memory of a host: {} kB; {:?} on the clock in all", (resident() - before) / count as u64, wall.elapsed());
    let degrees = degrees(&mesh, &all);
    println!("connections: {} to {}, {} at the median", degrees[0], degrees[count - 1], degrees[count / 2]);
    assert!(mean < 10_000, "{mean} bytes/s when idle");
}

/// A mesh of sixty with a station at each host, so long after its start that those who were connected only to learn of others have
/// given up the links of that.
fn at_rest() -> Mesh {
    at_rest_with(false)
}

/// The same, with the fast datapath or without.
fn at_rest_with(fastdp: bool) -> Mesh {
    let mut mesh = rollout(USUAL);
    let all = everybody(&mesh);
    all.iter().filter(|_| fastdp).for_each(|id| fast::ready(&mut mesh.sim, *id, None));
    mesh.attach_all();
    mesh.sim.run_until(20 * SECOND, |sim| is_whole(sim, &all)).unwrap();
    mesh.sim.run(200 * SECOND);
    mesh
}

/// Sends a frame each 20 ms for `span`; the longest time without one that came.
fn talk(mesh: &mut Mesh, [from, to]: [HostId; 2], span: Duration) -> Duration {
    let end = mesh.sim.now() + span;
    let (mut heard, mut longest) = (mesh.sim.now(), Duration::ZERO);
    while mesh.sim.now() < end {
        mesh.sim.send_frame(from, &frame(station(from), station(to)));
        mesh.sim.run(20 * MILLISECOND);
        if !mesh.sim.take_frames(to).is_empty() {
            heard = mesh.sim.now();
        }
        longest = longest.max(mesh.sim.now().since(heard));
    }
    longest
}

#[test]
fn the_first_frame_to_a_peer_never_contacted_arrives_and_those_that_follow_find_a_straight_way() {
    let mut mesh = at_rest();
    let all = everybody(&mesh);
    let (from, name) = (20, mesh.name(20));
    let strange = |to: &HostId| {
        let path = |at: HostId, of| mesh.sim.report(at).paths.into_iter().find(|path| path.name == of).unwrap();
        *to != from && path(from, mesh.name(*to)).path == "relay" && path(*to, name).path == "relay"
    };
    let to = all.iter().copied().find(strange).unwrap();
    let mut came = 0;
    for _ in 0..100 {
        mesh.sim.send_frame(from, &frame(station(from), station(to)));
        mesh.sim.run(SECOND / 10);
        came += mesh.sim.take_frames(to).len();
    }
    assert_eq!(came, 100, "also the first");
    let path = |mesh: &Mesh| mesh.sim.report(from).paths.into_iter().find(|path| path.name == mesh.name(to)).unwrap();
    assert_eq!(path(&mesh).path, "direct");
    assert!(!mesh.sim.neighbours(from).contains(&to), "without a connection");
    assert!(!all.iter().any(|at| mesh.sim.hears_of_link(*at, from, to)), "and nobody is told");
    mesh.sim.run(400 * SECOND);
    assert_eq!(path(&mesh).path, "relay", "unused, it is given up");
    mesh.sim.send_frame(from, &frame(station(from), station(to)));
    mesh.sim.run(SECOND);
    assert_eq!(mesh.sim.take_frames(to).len(), 1);
}

#[test]
fn a_straight_way_of_the_fast_datapath_is_given_up_when_the_kernel_carries_no_frames_and_not_before() {
    let mut mesh = at_rest_with(true);
    let (from, count) = (20, mesh.len());
    let path = |mesh: &Mesh, to: HostId| {
        mesh.sim.report(from).paths.into_iter().find(|path| path.name == mesh.name(to)).unwrap()
    };
    let to = (0..count).find(|to| *to != from && path(&mesh, *to).path == "relay").unwrap();
    let planned = mesh.sim.planned(from);
    let frame_each_second = |mesh: &mut Mesh, seconds: u32| {
        for _ in 0..seconds {
            mesh.sim.send_frame(from, &frame(station(from), station(to)));
            mesh.sim.send_frame(to, &frame(station(to), station(from)));
            mesh.sim.run(SECOND);
        }
        (mesh.sim.take_frames(from).len(), mesh.sim.take_frames(to).len())
    };
    assert_eq!(frame_each_second(&mut mesh, 300), (300, 300));
    assert_eq!((path(&mesh, to).path.as_str(), path(&mesh, to).method.as_str()), ("direct", "fastdp"));
    assert_eq!(mesh.sim.planned(from), planned + 1);
    let frames_one_way = |mesh: &mut Mesh, seconds: usize| {
        for _ in 0..seconds {
            mesh.sim.send_frame(from, &frame(station(from), station(to)));
            mesh.sim.run(SECOND);
        }
        assert_eq!(mesh.sim.take_frames(to).len(), seconds);
        path(mesh, to)
    };
    assert_eq!(frames_one_way(&mut mesh, 400).method, "fastdp", "also where one end only receives");
    mesh.sim.run(190 * SECOND);
    assert_eq!(path(&mesh, to).path, "relay");
    assert_eq!(mesh.sim.planned(from), planned, "by the kernel, too");
    assert_eq!(frame_each_second(&mut mesh, 20), (20, 20), "and found again");
    assert_eq!((path(&mesh, to).path.as_str(), path(&mesh, to).method.as_str()), ("direct", "fastdp"));
}

#[test]
fn a_resting_link_of_the_fast_datapath_that_dies_is_left_soon_after_frames_begin() {
    let mut mesh = at_rest_with(true);
    let from = 20;
    let neighbours: Vec<HostId> = mesh.sim.neighbours(from).into_iter().filter(|id| *id > 1).collect();
    for (trial, to) in (0_u32..).zip(neighbours) {
        mesh.sim.run(Duration::from_millis(u64::from(trial) * 370));
        let is_whole = trial % 2 == 0;
        if is_whole {
            mesh.sim.network.cut(from, to);
        } else {
            mesh.sim.network.fast_cuts.extend([(from, to), (to, from)]);
        }
        let longest = talk(&mut mesh, [from, to], 6 * SECOND);
        let most = if is_whole { 2900 } else { 2000 };
        assert!(longest >= 100 * MILLISECOND && longest <= most * MILLISECOND, "nothing came for {longest:?}");
        println!("trial {trial}, the sleeve too {is_whole}: {longest:?}");
        mesh.sim.network.heal();
    }
}

/// Sends a frame each 20 ms, and answers each that comes; the longest time without an answer.
fn converse(mesh: &mut Mesh, [from, to]: [HostId; 2], span: Duration) -> Duration {
    let end = mesh.sim.now() + span;
    let (mut heard, mut longest) = (mesh.sim.now(), Duration::ZERO);
    while mesh.sim.now() < end {
        mesh.sim.send_frame(from, &frame(station(from), station(to)));
        for _ in mesh.sim.take_frames(to) {
            mesh.sim.send_frame(to, &frame(station(to), station(from)));
        }
        mesh.sim.run(20 * MILLISECOND);
        if !mesh.sim.take_frames(from).is_empty() {
            heard = mesh.sim.now();
        }
        longest = longest.max(mesh.sim.now().since(heard));
    }
    longest
}

#[test]
fn who_answers_by_a_resting_link_of_the_fast_datapath_that_died_is_heard_within_three_seconds() {
    let mut mesh = at_rest_with(true);
    let from = 20;
    let neighbours: Vec<HostId> = mesh.sim.neighbours(from).into_iter().filter(|id| *id > 1).collect();
    for (trial, to) in (0_u32..).zip(neighbours) {
        // What the trial before wakened is at rest again.
        mesh.sim.run(15 * SECOND + Duration::from_millis(u64::from(trial) * 370));
        match trial % 3 {
            0 => mesh.sim.network.cut(from, to),
            1 => mesh.sim.network.fast_cuts.extend([(from, to), (to, from)]),
            _ => mesh.sim.network.fast_cuts.extend([(to, from)]),
        }
        let longest = converse(&mut mesh, [from, to], 6 * SECOND);
        println!("trial {trial}: {longest:?}");
        assert!(longest >= 100 * MILLISECOND && longest <= 2900 * MILLISECOND, "nothing came for {longest:?}");
        mesh.sim.network.heal();
    }
}

#[test]
fn a_resting_link_of_a_relay_that_dies_is_left_as_soon_as_any() {
    let mut mesh = at_rest();
    let all = everybody(&mesh);
    let from = 20;
    let relayed = mesh.sim.report(from).paths.into_iter().find(|path| path.relays.len() == 1).unwrap();
    let host = |name| all.iter().copied().find(|id| mesh.name(*id) == name).unwrap();
    let (relay, to) = (host(relayed.relays[0]), host(relayed.name));
    // So that they do not find a straight way.
    mesh.sim.network.datagram_cuts.extend([(from, to), (to, from)]);
    talk(&mut mesh, [from, to], 10 * SECOND);
    mesh.sim.network.datagram_cuts.extend([(relay, to), (to, relay)]);
    let longest = talk(&mut mesh, [from, to], 10 * SECOND);
    assert!(longest >= 100 * MILLISECOND && longest <= 2500 * MILLISECOND, "nothing came for {longest:?}");
}

#[test]
fn a_large_mesh_repairs_itself_after_a_third_is_gone_and_after_it_was_parted() {
    const COUNT: usize = 90;
    let mut mesh = rollout(COUNT);
    let all = everybody(&mesh);
    mesh.sim.run_until(20 * SECOND, |sim| is_whole(sim, &all)).unwrap();
    mesh.sim.run(10 * SECOND);
    let (gone, left): (Vec<HostId>, Vec<HostId>) = all.iter().partition(|id| *id % 3 == 0);
    gone.iter().for_each(|id| mesh.sim.kill(*id));
    // Those that only the gone led to are found again.
    let names: Vec<_> = left.iter().map(|id| mesh.name(*id)).collect();
    mesh.sim.run(30 * SECOND);
    for id in &left {
        assert!(super::knows_all(&mesh.sim.report(*id), &names), "host {id}");
    }
    let degrees = degrees(&mesh, &left);
    assert!(degrees[0] >= 3 && degrees[left.len() - 1] <= 16, "{degrees:?}");

    mesh.sim.network.groups = (0..COUNT).map(|id| id % 2).collect();
    mesh.sim.run(40 * SECOND);
    mesh.sim.network.heal();
    let is_one = |sim: &Simulation| left.iter().all(|id| super::knows_all(&sim.report(*id), &names));
    let healed = mesh.sim.run_until(60 * SECOND, is_one);
    assert!(healed.is_some(), "two halves stay two");
}
