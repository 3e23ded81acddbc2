//! What a plan comes to: flows of the datapath, lines of the bridge's forwarding table; and what lies between that and what the kernel has.
//!
//! A station of a peer that may be reached directly has its flows always, and a line of the bridge that says which port its frames take
//! now. So a change of path is one line for each station of that peer, and no flow.

use std::{collections::BTreeMap, net::IpAddr};

use weft::{
    fastdp::{Plan, PlannedPeer, Protection, heartbeat_mac},
    id::{Mac, PeerName},
};

use super::flow::{Action, Frames, Match};

/// The mark of packets that the kernel must look at one by one. It is the bit that Weave Net marked its own packets for IPsec with,
/// which other programs therefore leave alone.
const FRESH: u32 = 0x2_0000;

/// Where the bridge sends a station's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// To itself.
    Bridge,
    /// To the sleeve.
    Tap,
    /// To the datapath.
    Datapath,
}

/// All that shall be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Flows of the datapath.
    pub(super) flows: BTreeMap<Match, Action>,
    /// Lines of the bridge's forwarding table.
    pub(super) lines: BTreeMap<Mac, Side>,
}

/// What the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held<V> {
    /// None: something that we would not have made, or nobody knows.
    pub(super) value: Option<V>,
    /// It was found, no plan has asked for it yet, and the time of grace lasts.
    pub(super) spared: bool,
}

/// What the kernel has of flows or of lines.
pub(super) type Holdings<K, V> = BTreeMap<K, Held<V>>;

/// Changes to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Steps<K, V> {
    /// Made, or made so in place.
    pub(super) put: Vec<(K, V)>,
    /// Removed.
    pub(super) remove: Vec<K>,
}

impl Wanted {
    /// What a plan comes to on the host of `own`, whose bridge has the address `bridge`.
    pub(super) fn of(plan: &Plan, own: PeerName, bridge: Option<Mac>) -> Self {
        let mut wanted = Self::default();
        for frames in [Frames::From4, Frames::From6] {
            wanted.add_flows(frames, Action::Deliver);
        }
        for (mac, peer) in &plan.stations {
            // Nobody is taken at his word that he is a group, or us.
            if mac.is_group() || Some(*mac) == bridge {
                continue;
            }
            let planned = plan.peers.get(peer);
            let send = planned.and_then(send);
            if let Some(action) = send {
                wanted.add_flows(Frames::To(*mac), action);
            }
            let carried = send.is_some() && planned.is_some_and(|planned| planned.carries);
            wanted.lines.insert(*mac, if carried { Side::Datapath } else { Side::Tap });
        }
        // After the stations: no station can take a heartbeat's address.
        for (peer, planned) in &plan.peers {
            let mac = heartbeat_mac(*peer);
            wanted.remove_flows(mac);
            if let Some(action) = send(planned) {
                wanted.add_flows(Frames::To(mac), action);
            }
            wanted.lines.insert(mac, Side::Datapath);
        }
        let own = heartbeat_mac(own);
        wanted.remove_flows(own);
        wanted.lines.insert(own, Side::Bridge);
        wanted
    }

    fn add_flows(&mut self, frames: Frames, action: Action) {
        for tagged in [false, true] {
            self.flows.insert(Match { frames, tagged }, action);
        }
    }

    fn remove_flows(&mut self, mac: Mac) {
        for tagged in [false, true] {
            self.flows.remove(&Match { frames: Frames::To(mac), tagged });
        }
    }
}

/// How frames get to a peer; none while it must not, for lack of something to seal with.
fn send(planned: &PlannedPeer) -> Option<Action> {
    let mark = match &planned.protection {
        Protection::Clear => None,
        // Packets of several lanes differ in their source port only: which policy they are for is to be asked for each.
        Protection::Esp(plan) => (plan.send.as_ref()?.keys.len() > 1).then_some(FRESH),
    };
    let remote: IpAddr = planned.remote.to_canonical();
    Some(Action::Send { remote, mark })
}

/// What lies between what the kernel has and what it shall have; what is spared stays.
pub(super) fn steps<K: Ord + Copy, V: PartialEq + Copy>(held: &Holdings<K, V>, wanted: &BTreeMap<K, V>) -> Steps<K, V> {
    let right = |key: &K, value: &V| held.get(key).is_some_and(|held| held.value.as_ref() == Some(value));
    let put = wanted.iter().filter(|(key, value)| !right(key, value)).map(|(key, value)| (*key, *value));
    let gone = held.iter().filter(|(key, held)| !held.spared && !wanted.contains_key(key)).map(|(key, _)| *key);
    Steps { put: put.collect(), remove: gone.collect() }
}

/// Ends the grace of what a plan has asked for.
pub(super) fn claim<K: Ord, V>(held: &mut Holdings<K, V>, wanted: &BTreeMap<K, V>) {
    for (key, held) in held.iter_mut() {
        held.spared &= !wanted.contains_key(key);
    }
}

#[cfg(test)]
mod tests {
    use weft::fastdp::{EspPlan, SA_KEY_LEN, SaKey, SaSet};

    use super::*;

    const OWN: PeerName = PeerName([0x7e, 0, 0, 0, 0, 1]);
    const NEAR: PeerName = PeerName([0x7e, 0, 0, 0, 0, 2]);
    const FAR: PeerName = PeerName([0x7e, 0, 0, 0, 0, 3]);
    const BRIDGE: Mac = Mac(OWN.0);

    fn station(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    fn esp(lanes: Option<usize>) -> Protection {
        let key = SaKey([7; SA_KEY_LEN].into());
        let send = lanes.map(|lanes| SaSet {
            spi: 256,
            destination: "fd00::3".parse().unwrap(),
            keys: vec![key; lanes],
            encap: None,
        });
        Protection::Esp(Box::new(EspPlan { send, ..EspPlan::default() }))
    }

    fn plan(carries: bool, protection: Protection) -> Plan {
        let near = PlannedPeer { remote: "::ffff:10.0.0.2".parse().unwrap(), carries, protection: Protection::Clear };
        let far = PlannedPeer { remote: "fd00::3".parse().unwrap(), carries, protection };
        Plan {
            peers: [(NEAR, near), (FAR, far)].into(),
            stations: [(station(2), NEAR), (station(3), FAR), (station(9), PeerName([0x7e, 0, 0, 0, 0, 9]))].into(),
        }
    }

    fn wanted(plan: &Plan) -> Wanted {
        Wanted::of(plan, OWN, Some(BRIDGE))
    }

    fn to(wanted: &Wanted, mac: Mac) -> Option<Action> {
        let [plain, tagged] = [false, true].map(|tagged| wanted.flows.get(&Match { frames: Frames::To(mac), tagged }));
        assert_eq!(plain, tagged);
        plain.copied()
    }

    fn action(remote: &str, mark: Option<u32>) -> Option<Action> {
        Some(Action::Send { remote: remote.parse().unwrap(), mark })
    }

    fn held<K: Ord + Copy, V: Copy>(wanted: &BTreeMap<K, V>, spared: bool) -> Holdings<K, V> {
        wanted.iter().map(|(key, value)| (*key, Held { value: Some(*value), spared })).collect()
    }

    #[test]
    fn stations_and_heartbeats_have_flows_and_lines() {
        let wanted = wanted(&plan(true, esp(Some(1))));
        assert_eq!(to(&wanted, station(2)), action("10.0.0.2", None));
        assert_eq!(to(&wanted, heartbeat_mac(NEAR)), action("10.0.0.2", None));
        assert_eq!(to(&wanted, station(3)), action("fd00::3", None));
        assert_eq!((to(&wanted, station(9)), to(&wanted, heartbeat_mac(OWN))), (None, None));
        assert_eq!(wanted.flows.len(), 4 + 2 * 4);
        let side = |mac: Mac| wanted.lines[&mac];
        assert_eq!([side(station(2)), side(station(3)), side(station(9))], [Side::Datapath, Side::Datapath, Side::Tap]);
        assert_eq!([side(heartbeat_mac(FAR)), side(heartbeat_mac(OWN))], [Side::Datapath, Side::Bridge]);
        assert_eq!(wanted.lines.len(), 6);
    }

    #[test]
    fn packets_of_several_lanes_are_marked() {
        let wanted = wanted(&plan(true, esp(Some(4))));
        assert_eq!(to(&wanted, station(3)), action("fd00::3", Some(FRESH)));
        assert_eq!(to(&wanted, heartbeat_mac(FAR)), action("fd00::3", Some(FRESH)));
        assert_eq!(to(&wanted, station(2)), action("10.0.0.2", None));
    }

    #[test]
    fn nothing_leaves_for_a_peer_without_keys() {
        let wanted = wanted(&plan(true, esp(None)));
        assert_eq!((to(&wanted, station(3)), to(&wanted, heartbeat_mac(FAR))), (None, None));
        assert_eq!(wanted.lines[&station(3)], Side::Tap);
    }

    #[test]
    fn a_change_of_path_touches_the_bridge_only() {
        let (direct, sleeve) = (wanted(&plan(true, esp(Some(1)))), wanted(&plan(false, esp(Some(1)))));
        assert_eq!(direct.flows, sleeve.flows);
        let steps = steps(&held(&direct.lines, false), &sleeve.lines);
        assert_eq!(steps.put, [(station(2), Side::Tap), (station(3), Side::Tap)]);
        assert!(steps.remove.is_empty());
    }

    #[test]
    fn lies_about_addresses_change_nothing() {
        let honest = plan(true, esp(Some(1)));
        let mut lies = honest.clone();
        for mac in [BRIDGE, Mac([0xff; 6]), heartbeat_mac(OWN), heartbeat_mac(NEAR)] {
            lies.stations.insert(mac, FAR);
        }
        assert_eq!(wanted(&lies), wanted(&honest));
    }

    #[test]
    fn what_was_found_is_spared_until_a_plan_asks_for_it() {
        let (none, some) = (wanted(&Plan::default()), wanted(&plan(true, esp(Some(1)))));
        let mut found = held(&some.flows, true);
        assert_eq!(steps(&found, &none.flows), Steps { put: vec![], remove: vec![] });
        claim(&mut found, &some.flows);
        assert_eq!(steps(&found, &some.flows), Steps { put: vec![], remove: vec![] });
        let left = steps(&found, &none.flows);
        assert_eq!((left.put.len(), left.remove.len()), (0, some.flows.len() - none.flows.len()));
    }

    #[test]
    fn what_is_odd_is_made_right() {
        let wanted = wanted(&plan(true, esp(Some(1))));
        let mut found = held(&wanted.lines, true);
        found.insert(station(2), Held { value: None, spared: true });
        assert_eq!(steps(&found, &wanted.lines).put, [(station(2), Side::Datapath)]);
    }
}
