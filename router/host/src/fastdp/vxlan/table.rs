//! The forwarding tables as a plan wants them, beside what the kernel has, and the changes between.
//!
//! A station of a peer that may be reached directly has two lines: in the table of the VXLAN device its host, always; in the
//! bridge's the port that its frames take now. So a change of path is one line of the bridge's table for each station of that peer.

use std::{collections::BTreeMap, net::IpAddr};

use weft::{
    fastdp::{Plan, heartbeat_mac},
    id::{Mac, PeerName},
};

use crate::netlink::Family;

/// A forwarding table. In this order lines are made, so that a frame that enters a device finds where to go from there; they are
/// removed in the opposite order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// That of a VXLAN device.
    Vxlan(Family),
    /// That of the bridge.
    Bridge,
}

/// One station in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) table: Table,
    pub(super) mac: Mac,
}

/// Where a station's frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the bridge itself.
    Bridge,
    /// To the sleeve.
    Tap,
    /// Into a VXLAN device.
    Vxlan(Family),
    /// To a host.
    Host(IpAddr),
}

/// What the kernel has for a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) way: Way,
    /// Whether it is so for good, wherever the station is heard.
    pub(super) right: bool,
    /// It was found, no plan has asked for it yet, and the time of grace lasts.
    pub(super) spared: bool,
}

/// A change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Makes the line so, in place.
    Put(Slot, Way),
    /// Removes the line.
    Remove(Slot),
}

impl Step {
    pub(super) fn slot(&self) -> Slot {
        match self {
            Self::Put(slot, _) | Self::Remove(slot) => *slot,
        }
    }
}

/// The lines that shall be.
pub(super) type Wanted = BTreeMap<Slot, Way>;

/// What all the lines of a plan depend on besides it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    /// Our name.
    pub(super) own: PeerName,
    /// The bridge's address: nobody else is taken at his word that it is his.
    pub(super) bridge: Option<Mac>,
    /// Whether there is a VXLAN device for IPv6.
    pub(super) v6: bool,
}

impl Ground {
    /// The lines that a plan comes to.
    pub(super) fn wanted(&self, plan: &Plan) -> Wanted {
        let mut wanted = Wanted::new();
        for (mac, peer) in &plan.stations {
            if mac.is_group() || Some(*mac) == self.bridge {
                continue;
            }
            let planned = plan.peers.get(peer);
            let direct = planned.and_then(|planned| self.direct(planned.remote));
            if let Some((family, remote)) = direct {
                wanted.insert(Slot { table: Table::Vxlan(family), mac: *mac }, Way::Host(remote));
            }
            let carrying = direct.filter(|_| planned.is_some_and(|planned| planned.carries));
            let way = carrying.map_or(Way::Tap, |(family, _)| Way::Vxlan(family));
            wanted.insert(Slot { table: Table::Bridge, mac: *mac }, way);
        }
        // After the stations: no station can take a heartbeat's address.
        for (peer, planned) in &plan.peers {
            let mac = heartbeat_mac(*peer);
            let mut way = Way::Bridge;
            if let Some((family, remote)) = self.direct(planned.remote) {
                wanted.insert(Slot { table: Table::Vxlan(family), mac }, Way::Host(remote));
                way = Way::Vxlan(family);
            }
            // What the bridge sends to itself it drops: better than to everybody.
            wanted.insert(Slot { table: Table::Bridge, mac }, way);
        }
        wanted.insert(Slot { table: Table::Bridge, mac: heartbeat_mac(self.own) }, Way::Bridge);
        wanted
    }

    /// The device that leads to an address.
    fn direct(&self, remote: IpAddr) -> Option<(Family, IpAddr)> {
        let remote = remote.to_canonical();
        let family = Family::of(remote);
        (family == Family::V4 || self.v6).then_some((family, remote))
    }
}

/// What lies between what the kernel has and what it shall have; what is spared stays.
pub(super) fn steps(held: &BTreeMap<Slot, Held>, wanted: &Wanted) -> Vec<Step> {
    let mut steps = Vec::new();
    for (slot, way) in wanted {
        match held.get(slot) {
            Some(Held { way: has, right: true, .. }) if has == way => {}
            Some(_) | None => steps.push(Step::Put(*slot, *way)),
        }
    }
    let gone = held.iter().rev().filter(|(slot, held)| !held.spared && !wanted.contains_key(slot));
    steps.extend(gone.map(|(slot, _)| Step::Remove(*slot)));
    steps
}

#[cfg(test)]
mod tests {
    use weft::fastdp::{PlannedPeer, Protection};

    use super::*;

    const OWN: PeerName = PeerName([0x7e, 0, 0, 0, 0, 1]);
    const NEAR: PeerName = PeerName([0x7e, 0, 0, 0, 0, 2]);
    const FAR: PeerName = PeerName([0x7e, 0, 0, 0, 0, 3]);
    const GROUND: Ground = Ground { own: OWN, bridge: Some(Mac(OWN.0)), v6: true };

    fn station(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    fn plan(carries: bool) -> Plan {
        let peer = |remote: &str| {
            let protection = Protection::Clear;
            PlannedPeer { remote: remote.parse().unwrap(), carries, protection }
        };
        Plan {
            peers: [(NEAR, peer("::ffff:10.0.0.2")), (FAR, peer("fd00::3"))].into(),
            stations: [(station(2), NEAR), (station(3), FAR), (station(9), PeerName([0x7e, 0, 0, 0, 0, 9]))].into(),
        }
    }

    fn held(wanted: &Wanted, spared: bool) -> BTreeMap<Slot, Held> {
        wanted.iter().map(|(slot, way)| (*slot, Held { way: *way, right: true, spared })).collect()
    }

    fn bridge(mac: Mac) -> Slot {
        Slot { table: Table::Bridge, mac }
    }

    fn vxlan(family: Family, mac: Mac) -> Slot {
        Slot { table: Table::Vxlan(family), mac }
    }

    #[test]
    fn a_carried_station_goes_to_its_host_and_others_to_the_sleeve() {
        let wanted = GROUND.wanted(&plan(true));
        assert_eq!(wanted[&bridge(station(2))], Way::Vxlan(Family::V4));
        assert_eq!(wanted[&vxlan(Family::V4, station(2))], Way::Host("10.0.0.2".parse().unwrap()));
        assert_eq!(wanted[&bridge(station(3))], Way::Vxlan(Family::V6));
        assert_eq!(wanted[&vxlan(Family::V6, station(3))], Way::Host("fd00::3".parse().unwrap()));
        assert_eq!(wanted[&bridge(station(9))], Way::Tap);
        assert_eq!(wanted[&bridge(heartbeat_mac(NEAR))], Way::Vxlan(Family::V4));
        assert_eq!(wanted[&vxlan(Family::V6, heartbeat_mac(FAR))], Way::Host("fd00::3".parse().unwrap()));
        assert_eq!(wanted[&bridge(heartbeat_mac(OWN))], Way::Bridge);
        assert_eq!(wanted.len(), 2 + 2 + 1 + 2 + 2 + 1);
    }

    #[test]
    fn a_change_of_path_touches_the_bridge_only() {
        let (direct, sleeve) = (GROUND.wanted(&plan(true)), GROUND.wanted(&plan(false)));
        let to_tap = |number| Step::Put(bridge(station(number)), Way::Tap);
        assert_eq!(steps(&held(&direct, false), &sleeve), [to_tap(2), to_tap(3)]);
        assert_eq!(steps(&held(&direct, true), &direct), []);
    }

    #[test]
    fn without_ipv6_nothing_goes_there_and_nobody_hears_the_heartbeats() {
        let wanted = Ground { v6: false, ..GROUND }.wanted(&plan(true));
        assert_eq!(wanted[&bridge(station(3))], Way::Tap);
        assert_eq!(wanted[&bridge(heartbeat_mac(FAR))], Way::Bridge);
        assert!(!wanted.keys().any(|slot| slot.table == Table::Vxlan(Family::V6)));
    }

    #[test]
    fn lies_about_addresses_change_nothing() {
        let mut lies = plan(true);
        for mac in [Mac(OWN.0), Mac([0xff; 6]), heartbeat_mac(OWN), heartbeat_mac(NEAR)] {
            lies.stations.insert(mac, FAR);
        }
        let (mut lied, honest) = (GROUND.wanted(&lies), GROUND.wanted(&plan(true)));
        // A line that no frame ever reaches.
        lied.remove(&vxlan(Family::V6, heartbeat_mac(OWN)));
        lied.remove(&vxlan(Family::V6, heartbeat_mac(NEAR)));
        assert_eq!(lied, honest);
    }

    #[test]
    fn what_was_found_is_spared_and_what_is_odd_is_made_right() {
        let wanted = GROUND.wanted(&Plan::default());
        let found = GROUND.wanted(&plan(true));
        assert_eq!(steps(&held(&found, true), &wanted), []);
        let removed = steps(&held(&found, false), &wanted);
        assert_eq!(removed.len(), found.len() - 1);
        assert!(matches!(removed[0], Step::Remove(Slot { table: Table::Bridge, .. })), "the bridge's first");
        let mut odd = held(&found, false);
        let slot = bridge(station(2));
        odd.get_mut(&slot).unwrap().right = false;
        assert_eq!(steps(&odd, &found), [Step::Put(slot, found[&slot])]);
    }
}
