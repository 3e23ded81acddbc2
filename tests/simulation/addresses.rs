//! Addresses given out by whole nodes.

use ipnet::IpNet;
use weft::{
    api::allocation::{AddressAnswer, AddressRequest, AddressStatus, AllocationError},
    ipam::{AddressEvent, AllocationConfig, Init},
    node::output::Event,
};

use super::*;

const RANGE: &str = "10.32.0.0/12";

fn allocation(init: Init) -> AllocationConfig {
    let ranges = vec![RANGE.parse().unwrap()];
    AllocationConfig { ranges, default_subnets: Vec::new(), init, kept: None }
}

fn consensus(config: &mut NodeConfig) {
    config.allocation = Some(allocation(Init::Consensus(None)));
}

/// Hosts that all know the first one, and consent as they are told.
fn mesh(count: usize) -> Mesh {
    Mesh::new(count, |config, _| consensus(config), |id| if id == 0 { vec![] } else { vec![0] })
}

fn allocate(owner: &str) -> AddressRequest {
    AddressRequest::Allocate { owner: owner.to_owned(), subnets: Vec::new() }
}

fn allocate_in(owner: &str, subnet: &str) -> AddressRequest {
    AddressRequest::Allocate { owner: owner.to_owned(), subnets: vec![subnet.parse().unwrap()] }
}

fn remove(peers: &[PeerName]) -> AddressRequest {
    AddressRequest::RemovePeers { peers: peers.iter().map(PeerName::to_string).collect() }
}

impl Mesh {
    /// Asks and waits for the answer; how long that took.
    fn ask(&mut self, id: HostId, request: AddressRequest) -> (Result<AddressAnswer, AllocationError>, Duration) {
        let asked_at = self.sim.now();
        let number = self.sim.ask(id, request.clone());
        let waited = self.sim.run_until(10 * SECOND, |sim| sim.answer(id, number).is_some());
        assert!(waited.is_some(), "no answer to {request:?} at {id}");
        let (answer, at) = self.sim.answer(id, number).unwrap();
        (answer.clone(), at.since(asked_at))
    }

    fn addresses(&mut self, id: HostId, request: AddressRequest) -> Vec<IpNet> {
        match self.ask(id, request.clone()) {
            (Ok(AddressAnswer::Addresses(addresses)), _) => addresses,
            (other, _) => panic!("{request:?} at {id}: {other:?}; {:#?}", self.status(id)),
        }
    }

    fn address(&mut self, id: HostId, owner: &str) -> IpNet {
        self.addresses(id, allocate(owner))[0]
    }

    fn status(&self, id: HostId) -> AddressStatus {
        self.sim.report(id).ipam
    }

    /// Restarts a router with the data that it stored `ago` times of storing ago; with none if there are none.
    fn restart_with(&mut self, id: HostId, ago: Option<usize>) {
        let kept = ago.and_then(|ago| self.sim.kept(id, ago));
        let mut config = self.configs[id].clone();
        config.uid = Uid(self.entropy.number());
        config.started += 1 + self.sim.now().since(weft::time::Time::ZERO).as_secs();
        if let Some(allocation) = &mut config.allocation {
            allocation.kept = kept;
        }
        self.sim.restart(id, config);
    }
}

#[test]
fn a_single_host_gives_out_addresses_at_once_and_the_same_to_the_same_owner() {
    let mut mesh = mesh(1);
    mesh.sim.run(SECOND);
    assert_eq!(mesh.status(0).state, "idle");
    assert_eq!(mesh.address(0, "c1").to_string(), "10.32.0.1/12");
    assert_eq!(mesh.address(0, "c2").to_string(), "10.32.0.2/12");
    assert_eq!(mesh.address(0, "c1").to_string(), "10.32.0.1/12");
    let lookup = mesh.addresses(0, AddressRequest::Lookup { owner: "c2".to_owned() });
    assert_eq!(lookup, ["10.32.0.2/12".parse().unwrap()]);
    assert_eq!(mesh.addresses(0, allocate_in("c1", "10.33.0.0/24"))[0].to_string(), "10.33.0.1/24");
    let status = mesh.status(0);
    assert_eq!((status.state.as_str(), status.peers.len(), status.owners.len()), ("ready", 1, 2));
    assert!((status.peers[0].share - 1.0).abs() < 1e-9);
    let free = AddressRequest::Free { owner: "c1".to_owned(), addresses: Vec::new(), keep_ms: 30_000 };
    assert_eq!(mesh.addresses(0, free).len(), 2);
    assert_eq!(mesh.address(0, "c3").to_string(), "10.32.0.3/12", "c1 may come back");
    assert_eq!(mesh.address(0, "c1").to_string(), "10.32.0.1/12");
}

#[test]
fn hosts_that_start_together_share_the_range_and_give_each_other_more() {
    let mut mesh = mesh(5);
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.address(3, "c");
    mesh.sim.run(SECOND);
    let status = mesh.status(1);
    assert_eq!(status.peers.len(), 5, "{status:#?}");
    let shares: f64 = status.peers.iter().map(|peer| peer.share).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{status:#?}");
    // A subnet lies in one share: all others are given some of it.
    let mut given = BTreeSet::new();
    for id in all {
        let address = mesh.addresses(id, allocate_in("c", "10.34.5.0/24"))[0];
        assert!(given.insert(address), "{address} twice");
    }
}

#[test]
fn the_first_to_ask_need_not_be_the_one_that_others_were_told_of() {
    // At various moments of the two hosts' meeting.
    for step in 0..40 {
        let mut mesh = mesh(2);
        mesh.sim.run(Duration::from_millis(5 * step));
        let first = mesh.address(1, "b");
        assert_ne!(first.addr(), mesh.address(0, "a").addr(), "step {step}");
    }
}

#[test]
fn who_joins_later_is_given_space() {
    let mut mesh = mesh(3);
    mesh.sim.kill(2);
    mesh.settle(&[0, 1], 10 * SECOND);
    let first = mesh.address(0, "c");
    mesh.restart_with(2, None);
    mesh.settle(&[0, 1, 2], 20 * SECOND);
    let (answer, took) = mesh.ask(2, allocate("c"));
    let Ok(AddressAnswer::Addresses(addresses)) = answer else { panic!("{answer:?} {:#?}", mesh.status(2)) };
    assert_ne!(addresses[0], first);
    assert!(took < SECOND, "{took:?}");
    let owned: u128 = mesh.status(2).peers.iter().map(|peer| peer.addresses).sum();
    assert_eq!(owned, 1 << 20, "{:#?}", mesh.status(2));
}

#[test]
fn an_address_is_claimed_from_whoever_owns_it_unless_it_is_in_use() {
    let mut mesh = mesh(2);
    mesh.settle(&[0, 1], 10 * SECOND);
    let theirs = mesh.address(0, "c");
    let claim = |net: &str| AddressRequest::Claim { owner: "d".to_owned(), addresses: vec![net.parse().unwrap()] };
    let (answer, _) = mesh.ask(1, claim(&theirs.to_string()));
    assert!(matches!(answer, Err(AllocationError::Taken { .. })), "{answer:?}");
    assert_eq!(mesh.addresses(1, claim("192.168.1.1/24")).len(), 1, "not ours to give, but known");
    // One of each half: each host owns one.
    for net in ["10.32.0.77/12", "10.40.0.77/12"] {
        assert_eq!(mesh.addresses(1, claim(net)).len(), 1);
        let (answer, _) = mesh.ask(0, claim(net));
        assert!(matches!(answer, Err(AllocationError::Taken { .. })), "{answer:?}");
    }
}

#[test]
fn a_restarted_host_remembers_and_waits_for_another_before_it_gives_out_more() {
    let mut mesh = mesh(2);
    mesh.settle(&[0, 1], 10 * SECOND);
    let (first, other) = (mesh.address(0, "c"), mesh.address(1, "c"));
    mesh.sim.run(SECOND);
    mesh.sim.kill(1);
    mesh.restart_with(0, Some(0));
    assert_eq!(mesh.address(0, "c"), first);
    let (answer, _) = mesh.ask(0, allocate("new"));
    assert!(matches!(answer, Err(AllocationError::Unconfirmed { .. })), "{answer:?}");
    mesh.restart_with(1, Some(0));
    mesh.settle(&[0, 1], 40 * SECOND);
    assert_ne!(mesh.address(0, "new"), other);
    assert_eq!(mesh.address(1, "c"), other);
}

#[test]
fn a_dead_host_is_removed_by_one_and_all_its_space_is_given_out_by_all() {
    let mut mesh = mesh(4);
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.address(0, "c");
    mesh.sim.run(2 * SECOND);
    let dead = mesh.name(3);
    let (answer, _) = mesh.ask(1, remove(&[dead]));
    assert!(matches!(answer, Err(AllocationError::PeerAlive(_))), "{answer:?}");
    let old_life = mesh.sim.kept(3, 0);
    mesh.sim.kill(3);
    mesh.sim.run(15 * SECOND);
    let (answer, took) = mesh.ask(1, remove(&[dead]));
    let Ok(AddressAnswer::Removed(removal)) = answer else { panic!("{answer:?}") };
    assert!(removal.reclaimed > 0 && removal.waiting_for.is_empty(), "{removal:?}");
    assert!(took < 5 * SECOND, "{took:?}");
    let owned: u128 = mesh.status(2).peers.iter().map(|peer| peer.addresses).sum();
    assert_eq!(owned, 1 << 20, "{:#?}", mesh.status(2));
    let (answer, _) = mesh.ask(2, remove(&["02:00:00:00:00:99".parse().unwrap()]));
    assert!(matches!(answer, Err(AllocationError::NoSuchPeer(_))), "{answer:?}");
    // It comes back with what it had: it owns nothing of that any more, and joins anew.
    let mut config = mesh.configs[3].clone();
    config.uid = Uid(77);
    config.started += 100;
    config.allocation.as_mut().unwrap().kept = old_life;
    mesh.sim.restart(3, config);
    mesh.settle(&all, 40 * SECOND);
    mesh.address(3, "new");
    let fenced = |event: &Event| matches!(event, Event::Addresses(AddressEvent::Fenced { .. }));
    assert!(mesh.sim.take_events(3).iter().any(fenced));
}

#[test]
fn a_removal_names_those_who_have_to_agree_and_cannot_be_reached() {
    let mut mesh = mesh(4);
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.address(0, "c");
    mesh.sim.run(2 * SECOND);
    mesh.sim.kill(2);
    mesh.sim.kill(3);
    mesh.sim.run(15 * SECOND);
    let (answer, _) = mesh.ask(0, remove(&[mesh.name(3)]));
    let Ok(AddressAnswer::Removed(removal)) = answer else { panic!("{answer:?}") };
    assert_eq!(removal.waiting_for.iter().map(|peer| peer.name).collect::<Vec<_>>(), [mesh.name(2)]);
    let (answer, _) = mesh.ask(1, AddressRequest::RemovePeers { peers: vec!["host2".to_owned()] });
    let Ok(AddressAnswer::Removed(removal)) = answer else { panic!("{answer:?}") };
    assert!(removal.waiting_for.is_empty() && removal.reclaimed > 0, "{removal:?}");
    mesh.sim.run(5 * SECOND);
    let owned: u128 = mesh.status(0).peers.iter().map(|peer| peer.addresses).sum();
    assert_eq!(owned, 1 << 20, "{:#?}", mesh.status(0));
}

#[test]
fn both_halves_of_a_parted_network_give_out_their_own() {
    let mut mesh = mesh(4);
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.address(0, "first");
    mesh.sim.network.groups = vec![0, 0, 1, 1];
    mesh.sim.run(20 * SECOND);
    let mut given = BTreeSet::new();
    for id in [0, 1, 2, 3, 0, 1, 2, 3] {
        let owner = format!("c{}", given.len());
        assert!(given.insert(mesh.address(id, &owner)), "twice");
    }
    mesh.sim.network.heal();
    mesh.settle(&all, 60 * SECOND);
    assert!(given.insert(mesh.address(2, "last")), "twice");
    assert_eq!(mesh.status(2).state, "ready");
}

#[test]
fn two_networks_that_meet_keep_their_addresses_apart_and_their_traffic_together() {
    let mut mesh = Mesh::new(
        4,
        |config, _| consensus(config),
        |id| match id {
            1 => vec![0],
            3 => vec![2],
            _ => vec![],
        },
    );
    mesh.attach_all();
    mesh.settle(&[0, 1], 10 * SECOND);
    mesh.settle(&[2, 3], 10 * SECOND);
    mesh.address(1, "c");
    mesh.address(3, "c");
    mesh.sim.run(2 * SECOND);
    for id in 0..4 {
        mesh.sim.take_events(id);
    }
    mesh.sim.tell(1, Input::Connect { targets: vec![Simulation::target(2)], replace: false });
    let all = everybody(&mesh);
    mesh.settle(&all, 30 * SECOND);
    mesh.sim.run(60 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
    for id in all {
        let status = mesh.status(id);
        assert_eq!((status.state.as_str(), status.conflicts.len()), ("conflict", 1), "{status:#?}");
        assert!(status.conflicts[0].contains("weft reset"), "{status:#?}");
        let conflict = |event: &&Event| matches!(event, Event::Addresses(AddressEvent::Conflict { .. }));
        assert_eq!(mesh.sim.take_events(id).iter().filter(conflict).count(), 1, "reported once at {id}");
        mesh.address(id, "another");
    }
}

#[test]
fn observers_start_others_and_do_not_vote() {
    let init = |id: HostId| if id == 2 { Init::Consensus(Some(2)) } else { Init::Observer };
    let adjust = |config: &mut NodeConfig, id: HostId| config.allocation = Some(allocation(init(id)));
    let mut mesh = Mesh::new(3, adjust, |id| if id == 0 { vec![] } else { vec![0] });
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.sim.run(5 * SECOND);
    assert!(all.iter().all(|id| mesh.status(*id).peers.is_empty()), "nobody asked yet");
    // One elector of two: nothing comes of it.
    let (answer, _) = mesh.ask(0, allocate("c"));
    assert!(matches!(answer, Err(AllocationError::NotStarted { .. })), "{answer:?}");
    // An observer becomes the second one.
    let mut config = mesh.configs[1].clone();
    config.uid = Uid(78);
    config.started += 100;
    config.allocation = Some(allocation(Init::Consensus(Some(2))));
    mesh.sim.restart(1, config);
    mesh.settle(&all, 20 * SECOND);
    mesh.address(0, "c");
}

#[test]
fn seeds_start_apart_and_fit_together() {
    let mut mesh = Mesh::new(2, |_, _| (), |_| vec![]);
    let seeds = vec![mesh.name(0), mesh.name(1)];
    for id in 0..2 {
        mesh.configs[id].allocation = Some(allocation(Init::Seed(seeds.clone())));
        mesh.restart_with(id, None);
    }
    let (first, second) = (mesh.address(0, "c"), mesh.address(1, "c"));
    assert_ne!(first, second);
    mesh.sim.tell(0, Input::Connect { targets: vec![Simulation::target(1)], replace: false });
    mesh.settle(&[0, 1], 20 * SECOND);
    mesh.sim.run(5 * SECOND);
    for id in 0..2 {
        assert_eq!((mesh.status(id).state.as_str(), mesh.status(id).peers.len()), ("ready", 2));
    }
}

#[test]
fn hosts_are_reset_one_after_the_other() {
    let mut mesh = mesh(3);
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.address(0, "c");
    mesh.sim.run(2 * SECOND);
    for id in 0..3 {
        assert_eq!(mesh.ask(id, AddressRequest::Leave).0, Ok(AddressAnswer::Done));
        mesh.sim.run(SECOND);
        mesh.sim.tell(id, Input::Leave);
        mesh.restart_with(id, None);
        mesh.settle(&all, 60 * SECOND);
        mesh.address(id, "again");
    }
    let owned: u128 = mesh.status(0).peers.iter().map(|peer| peer.addresses).sum();
    assert_eq!((owned, mesh.status(0).peers.len()), (1 << 20, 3), "{:#?}", mesh.status(0));
}

#[test]
fn another_range_begins_anew() {
    let mut mesh = mesh(1);
    mesh.address(0, "c");
    let ranges = vec!["10.128.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
    mesh.configs[0].allocation.as_mut().unwrap().ranges = ranges;
    mesh.restart_with(0, Some(0));
    let both: Vec<String> = mesh.addresses(0, allocate("d")).iter().map(IpNet::to_string).collect();
    assert_eq!(both, ["10.128.0.1/16", "fd00::1/64"]);
}

#[test]
fn all_hosts_are_stopped_and_started_again() {
    let mut mesh = mesh(3);
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    let held: Vec<IpNet> = all.iter().map(|id| mesh.address(*id, "c")).collect();
    mesh.sim.run(2 * SECOND);
    all.iter().for_each(|id| mesh.sim.kill(*id));
    all.iter().for_each(|id| mesh.restart_with(*id, Some(0)));
    mesh.settle(&all, 60 * SECOND);
    for id in all {
        assert_eq!(mesh.address(id, "c"), held[id]);
        assert!(!held.contains(&mesh.address(id, "new")));
    }
}

#[test]
fn after_a_restart_alone_the_operator_may_say_that_nobody_declared_it_dead() {
    let mut mesh = mesh(2);
    mesh.settle(&[0, 1], 10 * SECOND);
    mesh.address(0, "c");
    mesh.sim.run(SECOND);
    mesh.sim.kill(1);
    mesh.restart_with(0, Some(0));
    assert_eq!(mesh.ask(0, AddressRequest::Prime { alone: true }).0, Ok(AddressAnswer::Done));
    mesh.address(0, "new");
}

#[test]
fn a_host_whose_disk_is_full_keeps_its_links_and_tells_nothing_that_is_not_stored() {
    let mut mesh = mesh(3);
    let all = everybody(&mesh);
    mesh.attach_all();
    mesh.settle(&all, 20 * SECOND);
    let held = mesh.address(0, "c");
    mesh.sim.run(2 * SECOND);
    let shares =
        |mesh: &Mesh, id: HostId| -> Vec<u128> { mesh.status(id).peers.iter().map(|peer| peer.addresses).collect() };
    let (before, stored) = (shares(&mesh, 1), mesh.sim.kept(0, 0));
    for id in 0..3 {
        mesh.sim.take_events(id);
    }
    mesh.sim.set_disk_fault(0, Some("no space left on device"));
    // What is asked before that is known ends at its deadline, what is asked then at once.
    let (answer, took) = mesh.ask(0, allocate("early"));
    assert!(matches!(&answer, Err(AllocationError::Unstored { reason }) if reason.contains("no space")), "{answer:?}");
    assert!(took > 9 * SECOND, "{took:?}");
    let (answer, took) = mesh.ask(0, allocate("late"));
    assert!(matches!(answer, Err(AllocationError::Unstored { .. })) && took < SECOND, "{answer:?} {took:?}");
    let status = mesh.status(0);
    assert_eq!(status.state, "unstored");
    assert!(status.info.contains("no space left on device"), "{status:?}");
    // It gives nothing to others meanwhile.
    let near = IpNet::new(held.addr(), 24).unwrap().trunc().to_string();
    let (answer, _) = mesh.ask(1, allocate_in("d", &near));
    assert!(answer.is_err(), "{answer:?}");
    mesh.sim.run(90 * SECOND);
    assert_eq!((mesh.sim.kept(0, 0), shares(&mesh, 1)), (stored, before), "told, but not stored");
    mesh.assert_broadcast_exactly_once(&all);
    let is_end = |event: &Event| matches!(event, Event::ConnectionEnded { .. });
    assert!(!mesh.sim.take_events(0).iter().any(is_end), "a link broke");
    mesh.sim.set_disk_fault(0, None);
    mesh.sim.run(5 * SECOND);
    assert_eq!(mesh.status(0).state, "ready");
    let early = mesh.address(0, "early");
    assert_ne!(early, held);
    let near = mesh.addresses(1, allocate_in("d", &near))[0];
    assert!(near.addr() != held.addr() && near.addr() != early.addr(), "{near} twice");
    mesh.restart_with(0, Some(0));
    mesh.settle(&all, 40 * SECOND);
    assert_eq!((mesh.address(0, "c"), mesh.address(0, "early")), (held, early));
}

#[test]
fn without_a_range_there_are_no_addresses() {
    let mut mesh = Mesh::new(1, |_, _| (), |_| vec![]);
    assert_eq!(mesh.ask(0, allocate("c")).0, Err(AllocationError::Off));
    assert_eq!(mesh.status(0).state, "off");
}
