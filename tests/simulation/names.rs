//! Names in virtual time: told to all, gone with their removal or their peer, never stale, never without bound.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use weft::{
    gossip::ENTRIES_MAX,
    id::Uid,
    names::{ADDRESSES_MAX, DnsName, Held, NameRequest, Owner, RequestError},
    node::input::Input,
    sim::{HostId, Simulation},
};

use super::{Mesh, SECOND, everybody};

fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

fn owner(text: &str) -> Owner {
    text.parse().unwrap()
}

fn ip(last: u8) -> IpAddr {
    [10, 32, 0, last].into()
}

fn add(of: &str, to: &str, addresses: &[IpAddr]) -> NameRequest {
    NameRequest::Add { owner: owner(of), name: name(to), addresses: addresses.to_vec() }
}

fn remove(of: Option<&str>, from: Option<&str>, addresses: &[IpAddr]) -> NameRequest {
    NameRequest::Remove { owner: of.map(owner), name: from.map(name), addresses: addresses.to_vec() }
}

fn found(sim: &Simulation, id: HostId, of: &str) -> Option<Vec<IpAddr>> {
    sim.names(id).addresses(&name(of))
}

/// Until the name leads there as all of `ids` see it; how long that took.
fn wait_found(mesh: &mut Mesh, ids: &[HostId], of: &str, expected: Option<&[IpAddr]>, limit: Duration) -> Duration {
    let took = mesh.sim.run_until(limit, |sim| ids.iter().all(|id| found(sim, *id, of).as_deref() == expected));
    took.unwrap_or_else(|| {
        let seen: Vec<_> = ids.iter().map(|id| found(&mesh.sim, *id, of)).collect();
        panic!("{of} is not {expected:?} everywhere within {limit:?}: {seen:?}")
    })
}

fn change(mesh: &mut Mesh, id: HostId, request: NameRequest) -> Result<usize, RequestError> {
    mesh.sim.change_names(id, request).unwrap()
}

fn settled(count: usize) -> Mesh {
    let mut mesh = Mesh::new(count, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    let all = everybody(&mesh);
    mesh.settle(&all, 10 * SECOND);
    mesh
}

fn restart(mesh: &mut Mesh, id: HostId) {
    let mut config = mesh.configs[id].clone();
    config.uid = Uid(mesh.entropy.number());
    mesh.sim.restart(id, config);
}

#[test]
fn a_name_is_found_everywhere_and_gone_everywhere_once_removed() {
    let mut mesh = settled(3);
    let all = everybody(&mesh);
    assert_eq!(change(&mut mesh, 0, add("c1", "web.weft.local", &[ip(1), ip(2)])), Ok(2));
    assert_eq!(change(&mut mesh, 1, add("c2", "WEB.weft.local.", &[ip(3)])), Ok(1));
    wait_found(&mut mesh, &all, "web.weft.local", Some(&[ip(1), ip(2), ip(3)]), SECOND);
    assert_eq!(mesh.sim.names(2).names(ip(3)).collect::<Vec<_>>(), [&name("web.weft.local")]);
    assert_eq!(change(&mut mesh, 0, add("c1", "web.weft.local", &[ip(1)])), Ok(0), "it is so already");

    // One address, of one owner; others' names are not ours to remove.
    assert_eq!(change(&mut mesh, 0, remove(None, Some("web.weft.local"), &[ip(1), ip(3)])), Ok(1));
    wait_found(&mut mesh, &all, "web.weft.local", Some(&[ip(2), ip(3)]), SECOND);
    assert_eq!(change(&mut mesh, 0, add("c1", "db.weft.local", &[ip(2)])), Ok(1));
    wait_found(&mut mesh, &all, "db.weft.local", Some(&[ip(2)]), SECOND);
    assert_eq!(mesh.sim.names(2).names(ip(2)).count(), 2);
    let lines = mesh.sim.report(2).names;
    assert_eq!((lines.len(), lines[0].owner.as_str(), lines[0].name), (3, "c1", mesh.name(0)));
    // All of an owner.
    assert_eq!(change(&mut mesh, 0, remove(Some("c1"), None, &[])), Ok(2));
    wait_found(&mut mesh, &all, "web.weft.local", Some(&[ip(3)]), SECOND);
    wait_found(&mut mesh, &all, "db.weft.local", None, SECOND);
    assert_eq!(mesh.sim.names(2).names(ip(2)).count(), 0);
}

#[test]
fn who_changes_names_finds_them_so_at_once_however_fast_the_changes_come() {
    let mut mesh = settled(1);
    for last in 1..=50 {
        change(&mut mesh, 0, add("c1", "web", &[ip(last)])).unwrap();
        assert_eq!(found(&mesh.sim, 0, "web").map(|found| found.len()), Some(last.into()));
        assert_eq!(mesh.sim.own_names(0)[0].addresses.len(), usize::from(last));
    }
}

#[test]
fn names_that_lead_nowhere_are_refused_and_nothing_changes() {
    let mut mesh = settled(1);
    let many: Vec<IpAddr> = (0..=ADDRESSES_MAX).map(|i| ip(i as u8 + 1)).collect();
    assert_eq!(change(&mut mesh, 0, add("c1", "a", &[])), Err(RequestError::NoAddress(name("a"))));
    let loopback: IpAddr = [127, 0, 0, 1].into();
    assert_eq!(change(&mut mesh, 0, add("c1", "a", &[ip(1), loopback])), Err(RequestError::BadAddress(loopback)));
    assert!(matches!(change(&mut mesh, 0, add("c1", "a", &many)), Err(RequestError::TooManyAddresses { .. })));
    assert_eq!(change(&mut mesh, 0, remove(None, Some("a"), &[])), Ok(0));
    mesh.sim.run(SECOND);
    assert_eq!((found(&mesh.sim, 0, "a"), mesh.sim.own_names(0).len()), (None, 0));
}

#[test]
fn halves_that_parted_know_all_names_again_when_they_meet_and_none_that_is_gone() {
    let mut mesh = settled(4);
    let all = everybody(&mesh);
    for id in 0..4_u8 {
        change(&mut mesh, id.into(), add("c1", &format!("n{id}"), &[ip(id)])).unwrap();
    }
    wait_found(&mut mesh, &all, "n3", Some(&[ip(3)]), SECOND);
    mesh.sim.network.groups = vec![0, 0, 1, 1];
    // Short of being forgotten, and long after it.
    for pause in [15, 150] {
        change(&mut mesh, 0, add("c2", "new", &[ip(pause)])).unwrap();
        change(&mut mesh, 3, remove(Some("c1"), Some("n3"), &[])).unwrap();
        mesh.sim.run(u32::from(pause) * SECOND);
        wait_found(&mut mesh, &[2, 3], "n3", None, SECOND);
        assert_eq!(found(&mesh.sim, 3, "new"), None);
        if pause == 150 {
            assert_eq!(found(&mesh.sim, 0, "n3"), None, "who is gone for long is forgotten with all names");
            assert_eq!(found(&mesh.sim, 3, "n0"), None);
        } else {
            assert_eq!(found(&mesh.sim, 0, "n3"), Some(vec![ip(3)]), "nobody could tell");
        }
        mesh.sim.network.heal();
        wait_found(&mut mesh, &all, "new", Some(&[ip(pause)]), 60 * SECOND);
        wait_found(&mut mesh, &all, "n3", None, 60 * SECOND);
        wait_found(&mut mesh, &all, "n0", Some(&[ip(0)]), 60 * SECOND);
        wait_found(&mut mesh, &all, "n2", Some(&[ip(2)]), 60 * SECOND);
        change(&mut mesh, 0, remove(Some("c2"), None, &[])).unwrap();
        change(&mut mesh, 3, add("c1", "n3", &[ip(3)])).unwrap();
        wait_found(&mut mesh, &all, "n3", Some(&[ip(3)]), 60 * SECOND);
        mesh.sim.network.groups = vec![0, 0, 1, 1];
    }
}

#[test]
fn the_names_of_a_dead_peer_vanish_and_those_of_one_that_leaves_at_once() {
    let mut mesh = settled(4);
    for id in [1, 2] {
        change(&mut mesh, id, add("c1", &format!("n{id}"), &[ip(id as u8)])).unwrap();
    }
    wait_found(&mut mesh, &[0, 1, 2, 3], "n2", Some(&[ip(2)]), SECOND);
    mesh.sim.tell(1, Input::Leave);
    wait_found(&mut mesh, &[0, 2, 3], "n1", None, SECOND);
    mesh.sim.kill(2);
    let took = wait_found(&mut mesh, &[0, 3], "n2", None, 120 * SECOND);
    println!("a killed peer's names are gone after {took:?}");
    assert_eq!(mesh.sim.names(0).names(ip(2)).count(), 0);
}

#[test]
fn a_restarted_router_is_believed_at_once_whatever_others_remember() {
    // A, B, C in a line; C is cut off from B while A restarts without its names, and meets C first.
    let mut mesh = Mesh::new(3, |config, _| config.discovery = false, |id| if id == 1 { vec![] } else { vec![1] });
    mesh.settle(&[0, 1, 2], 10 * SECOND);
    change(&mut mesh, 0, add("c1", "old", &[ip(1)])).unwrap();
    change(&mut mesh, 0, add("c2", "kept", &[ip(2)])).unwrap();
    wait_found(&mut mesh, &[0, 1, 2], "kept", Some(&[ip(2)]), SECOND);
    let kept: Vec<Held> = mesh.sim.own_names(0).to_vec();
    assert_eq!(kept.len(), 2);
    mesh.sim.network.cut(1, 2);
    mesh.sim.network.cut(0, 1);
    mesh.sim.run(SECOND);
    // Even with a clock set back by a day.
    mesh.configs[0].started -= 86_400;
    restart(&mut mesh, 0);
    let Held { owner, name, addresses } = kept[1].clone();
    change(&mut mesh, 0, NameRequest::Add { owner, name, addresses }).unwrap();
    mesh.sim.tell(0, Input::Connect { targets: vec![Simulation::target(2)], replace: true });
    wait_found(&mut mesh, &[0, 2], "old", None, 20 * SECOND);
    mesh.sim.network.heal();
    // B still says what it knew of A.
    wait_found(&mut mesh, &[1], "old", None, 60 * SECOND);
    for _ in 0..20 {
        mesh.sim.run(SECOND);
        wait_found(&mut mesh, &[0, 1, 2], "old", None, Duration::ZERO);
        wait_found(&mut mesh, &[0, 1, 2], "kept", Some(&[ip(2)]), Duration::ZERO);
    }
}

#[test]
fn a_flood_of_names_is_bounded_and_the_mesh_goes_on() {
    let mut mesh = settled(3);
    let all = everybody(&mesh);
    change(&mut mesh, 0, add("c1", "mine", &[ip(1)])).unwrap();
    let mut accepted = 0;
    for number in 0..ENTRIES_MAX + 100 {
        let [high, low] = (number as u16).to_be_bytes();
        let address: IpAddr = [10, 33, high, low].into();
        match change(&mut mesh, 1, add("flood", &format!("n{number}"), &[address])) {
            Ok(count) => accepted += count,
            Err(error) => assert_eq!(error, RequestError::TooManyNames),
        }
        if number % 64 == 0 {
            mesh.sim.run(Duration::from_millis(10));
        }
    }
    assert_eq!(accepted, ENTRIES_MAX);
    mesh.sim.run(2 * SECOND);
    assert_eq!(mesh.sim.report(2).names.len(), ENTRIES_MAX + 1);
    // Names that come and go leave nothing behind.
    for round in 0..2000_u32 {
        let of = format!("x{round}");
        change(&mut mesh, 2, add("churn", &of, &[ip(9)])).unwrap();
        change(&mut mesh, 2, remove(Some("churn"), None, &[])).unwrap();
    }
    assert_eq!(change(&mut mesh, 1, remove(Some("flood"), None, &[])), Ok(ENTRIES_MAX));
    mesh.sim.run(5 * SECOND);
    for id in all.iter().copied() {
        let report = mesh.sim.report(id);
        assert_eq!(report.names.len(), 1, "host {id}");
        assert_eq!(report.counters["gossip_refused"], 0);
    }
    mesh.settle(&all, SECOND);
}

/// As many peers as `WEFT_NAMES_PEERS` says, each with a name: how long a new one takes to be everywhere, and what all
/// of them cost. The figures of docs/performance.md are those of 1000.
#[test]
fn names_are_everywhere_within_a_second_however_many_peers_there_are() {
    let count = std::env::var("WEFT_NAMES_PEERS").ok().and_then(|text| text.parse().ok()).unwrap_or(60_usize);
    let started = Instant::now();
    let targets = move |id: HostId| vec![(id + 1) % count, (id + 31) % count, (id + 17 * 17) % count];
    let mut mesh = Mesh::new(
        count,
        |config, _| {
            config.discovery = false;
            config.conn_limit = 0;
        },
        targets,
    );
    mesh.sim.network.latency = Duration::from_millis(5);
    mesh.sim.network.jitter = Duration::from_millis(5);
    let all = everybody(&mesh);
    let peers_known = |sim: &Simulation, id: HostId| sim.peers_known(id);
    let took = mesh.sim.run_until(60 * SECOND, |sim| all.iter().all(|id| peers_known(sim, *id) == count));
    println!("{count} peers know each other after {:?} ({:?} of real time)", took.unwrap(), started.elapsed());
    mesh.sim.run(SECOND);

    let sent = |mesh: &Mesh| (0..count).map(|id| mesh.sim.sent(id).1).sum::<u64>();
    let before = sent(&mesh);
    mesh.sim.run(SECOND);
    let idle = sent(&mesh) - before;
    let measure = |mesh: &mut Mesh, what: &str, done: &dyn Fn(&Simulation, HostId) -> bool| {
        let before = sent(mesh);
        let took = mesh.sim.run_until(10 * SECOND, |sim| (0..count).all(|id| done(sim, id)));
        let took = took.unwrap_or_else(|| panic!("{what}: not everywhere within 10 s"));
        // Probes and all else that goes on anyway.
        let other = took.mul_f64(idle as f64).as_secs();
        let bytes = (sent(mesh) - before).saturating_sub(other) / count as u64;
        println!("{what}: everywhere after {took:?}, {bytes} bytes sent by each peer ({:?} real)", started.elapsed());
        took
    };
    change(&mut mesh, 0, add("c1", "one.weft.local", &[ip(1)])).unwrap();
    let took = measure(&mut mesh, "one new name", &|sim, id| found(sim, id, "one.weft.local") == Some(vec![ip(1)]));
    assert!(took < SECOND, "{took:?}");
    for id in all {
        change(&mut mesh, id, add("c1", "all.weft.local", &[super::station_address(id)])).unwrap();
    }
    let took = measure(&mut mesh, "a name of each peer at once", &|sim, id| {
        found(sim, id, "all.weft.local").is_some_and(|found| found.len() == count)
    });
    assert!(took < 2 * SECOND, "{took:?}");
}
