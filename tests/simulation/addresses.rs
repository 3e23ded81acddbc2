//! Addresses given out by whole nodes.

use ipnet::IpNet;
use weft::{
    api::allocation::{AddressAnswer, AddressRequest, AddressStatus, AllocationError},
    ipam::{AllocationConfig, Init},
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
    assert_eq!(mesh.addresses(1, claim("10.32.0.77/12")).len(), 1);
    assert_eq!(mesh.addresses(1, claim("192.168.1.1/24")).len(), 1, "not ours to give, but known");
    let (answer, _) = mesh.ask(0, claim("10.32.0.77/12"));
    assert!(matches!(answer, Err(AllocationError::Taken { .. })), "{answer:?}");
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
