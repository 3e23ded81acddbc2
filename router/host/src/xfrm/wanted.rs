//! What a [`Plan`] means in states and policies. Nothing here speaks to the kernel.
//!
//! Policies of one network, the least priority first:
//!
//! | for | in | out | forwarded |
//! |---|---|---|---|
//! | lane n > 0 of a peer | | sealed by the SPI of lane n | |
//! | a sealed peer | only what came by ESP | sealed by the SPI of lane 0, or blocked while there is none | |
//! | a peer in clear while guarded | allowed | allowed | |
//! | all, while guarded | blocked | blocked | blocked |
//!
//! Lane 0 takes all that no other lane takes, so between numbers of lanes nothing is ever without one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use weft::{
    fastdp::{EspPlan, Plan, Protection, SaSet},
    id::PeerName,
};

use super::message::{Selector, State, StateId, Verdict, Way};

/// Priorities are how our policies are told from others'. Less than those of IKE daemons, which begin near 100 000: a tunnel of the
/// host between the same addresses must not take our packets away from us.
const LANE_PRIORITY: u32 = 57_450;
const PEER_PRIORITY: u32 = 57_451;
const GUARD_PRIORITY: u32 = 57_459;

/// The policies that shall be, each with its priority.
pub(super) type Policies = BTreeMap<Selector, (u32, Verdict)>;

/// Whether a policy of this priority can be ours.
pub(super) fn is_priority(priority: u32) -> bool {
    [LANE_PRIORITY, PEER_PRIORITY, GUARD_PRIORITY].contains(&priority)
}

/// The states that a set of a direction is made of. Those that receive take packets from `source` alone.
pub(super) fn states(set: &SaSet, source: Option<IpAddr>) -> impl Iterator<Item = (StateId, State)> {
    let encap = set.encap.map(|(ours, theirs)| match source {
        Some(_) => (theirs.port(), ours.port()),
        None => (ours.port(), theirs.port()),
    });
    set.lanes().map(move |(spi, key)| {
        let id = StateId { destination: set.destination.to_canonical(), spi };
        (id, State { source, key: key.clone(), encap })
    })
}

/// Which states a set is made of.
pub(super) fn ids(set: &SaSet) -> impl Iterator<Item = StateId> {
    set.lanes().map(|(spi, _)| StateId { destination: set.destination.to_canonical(), spi })
}

/// All sets of the plan with their peers' names and addresses, those that receive first.
pub(super) fn sets(plan: &Plan) -> impl Iterator<Item = (PeerName, Direction, &SaSet)> {
    let peers = || {
        plan.peers.iter().filter_map(|(&name, peer)| Some((name, peer.remote.to_canonical(), esp(&peer.protection)?)))
    };
    let receive = peers().flat_map(|(name, remote, esp)| {
        esp.receive.iter().map(move |set| (name, Direction::Receive { from: remote }, set))
    });
    let send = peers().flat_map(|(name, _, esp)| {
        let before = esp.send_before.iter().map(move |set| (name, Direction::SendBefore, set));
        esp.send.iter().map(move |set| (name, Direction::Send, set)).chain(before)
    });
    receive.chain(send)
}

/// What a set is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Receive { from: IpAddr },
    Send,
    SendBefore,
}

impl Direction {
    /// The address that packets must come from; None for those that we send.
    pub(super) fn source(self) -> Option<IpAddr> {
        match self {
            Self::Receive { from } => Some(from),
            Self::Send | Self::SendBefore => None,
        }
    }
}

/// The policies for a plan. `is_ready` tells whether the kernel has the states of a set.
pub(super) fn policies(plan: &Plan, guarded: bool, is_ready: impl Fn(&SaSet) -> bool) -> Policies {
    let mut policies = if guarded { guard() } else { Policies::new() };
    // Of two peers with one address, which no packet tells apart, the sealed one has it.
    for (peer, esp) in plan.peers.values().filter_map(|peer| Some((peer.remote, esp(&peer.protection)?))) {
        let peer = peer.to_canonical();
        let inward = Selector { way: Way::In, peer, lane: (0, 0) };
        policies.entry(inward).or_insert((PEER_PRIORITY, Verdict::Esp(0)));
        let outward = Selector { way: Way::Out, peer, lane: (0, 0) };
        if policies.contains_key(&outward) {
            continue;
        }
        let set = [&esp.send, &esp.send_before].into_iter().flatten().find(|set| is_ready(set));
        policies.insert(outward, (PEER_PRIORITY, set.map_or(Verdict::Block, |set| Verdict::Esp(set.spi))));
        let lanes = set.map_or(0, |set| set.keys.len());
        let mask = u16::try_from(lanes.saturating_sub(1)).unwrap_or(0);
        for (lane, (spi, _)) in (0..).zip(set.iter().flat_map(|set| set.lanes())).skip(1) {
            policies.insert(Selector { lane: (lane, mask), ..outward }, (LANE_PRIORITY, Verdict::Esp(spi)));
        }
    }
    for peer in plan.peers.values().filter(|peer| guarded && peer.protection == Protection::Clear) {
        for way in [Way::In, Way::Out] {
            let selector = Selector { way, peer: peer.remote.to_canonical(), lane: (0, 0) };
            policies.entry(selector).or_insert((PEER_PRIORITY, Verdict::Allow));
        }
    }
    policies
}

/// Nothing passes, forwarded packets neither: a container that sends to our port at a peer would have them sealed as ours.
fn guard() -> Policies {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let ways = [Way::In, Way::Out, Way::Forward];
    let selectors = ways.into_iter().flat_map(|way| all.map(|peer| Selector { way, peer, lane: (0, 0) }));
    selectors.map(|selector| (selector, (GUARD_PRIORITY, Verdict::Block))).collect()
}

fn esp(protection: &Protection) -> Option<&EspPlan> {
    match protection {
        Protection::Clear => None,
        Protection::Esp(esp) => Some(esp),
    }
}

#[cfg(test)]
mod tests {
    use weft::fastdp::{PlannedPeer, SaKey};

    use super::*;

    fn set(spi: u32, lanes: usize) -> SaSet {
        let keys = vec![SaKey([7; 36].into()); lanes];
        SaSet { spi, destination: "10.9.0.2".parse().unwrap(), keys, encap: None }
    }

    fn plan(last: u8, protection: Protection) -> Plan {
        let peer = PlannedPeer { remote: [10, 9, 0, last].into(), carries: true, protection };
        Plan { peers: BTreeMap::from([(PeerName([2, 0, 0, 0, 0, last]), peer)]), ..Plan::default() }
    }

    fn esp_plan(send: Option<SaSet>, send_before: Option<SaSet>) -> Plan {
        plan(2, Protection::Esp(Box::new(EspPlan { send, send_before, receive: vec![] })))
    }

    fn outward(policies: &Policies) -> Vec<((u16, u16), Verdict)> {
        let out = policies.iter().filter(|(selector, _)| selector.way == Way::Out);
        out.map(|(selector, (_, verdict))| (selector.lane, *verdict)).collect()
    }

    #[test]
    fn each_lane_takes_its_source_ports() {
        let lanes = |n| outward(&policies(&esp_plan(Some(set(0x800, n)), None), false, |_| true));
        assert_eq!(lanes(1), [((0, 0), Verdict::Esp(0x800))]);
        assert_eq!(lanes(2), [((0, 0), Verdict::Esp(0x800)), ((1, 1), Verdict::Esp(0x801))]);
        assert_eq!(lanes(8).last(), Some(&((7, 7), Verdict::Esp(0x807))));
    }

    #[test]
    fn without_states_nothing_leaves_and_old_ones_serve_until_the_new_are_there() {
        assert_eq!(outward(&policies(&esp_plan(None, None), false, |_| true)), [((0, 0), Verdict::Block)]);
        let both = esp_plan(Some(set(0x900, 1)), Some(set(0x800, 1)));
        let with = |ready: u32| outward(&policies(&both, false, |set| set.spi <= ready));
        assert_eq!(with(0x900), [((0, 0), Verdict::Esp(0x900))]);
        assert_eq!(with(0x800), [((0, 0), Verdict::Esp(0x800))]);
        assert_eq!(with(0), [((0, 0), Verdict::Block)]);
    }

    #[test]
    fn clear_peers_need_leave_only_while_guarded() {
        let clear = plan(2, Protection::Clear);
        assert!(policies(&clear, false, |_| true).is_empty());
        let guarded = policies(&clear, true, |_| true);
        assert_eq!(guarded.values().filter(|(_, verdict)| *verdict == Verdict::Allow).count(), 2);
        assert_eq!(guarded.values().filter(|(_, verdict)| *verdict == Verdict::Block).count(), 6);
    }

    #[test]
    fn of_two_peers_at_one_address_the_sealed_one_has_it() {
        let mut both = esp_plan(None, None);
        let clear = PlannedPeer { remote: [10, 9, 0, 2].into(), carries: true, protection: Protection::Clear };
        both.peers.insert(PeerName([0; 6]), clear);
        assert!(policies(&both, true, |_| true).values().all(|(_, verdict)| *verdict != Verdict::Allow));
    }
}
