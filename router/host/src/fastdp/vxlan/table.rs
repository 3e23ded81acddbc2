//! The forwarding tables as a plan wants them, beside what the kernel has, and the changes between.
//!
//! A station of a peer that may be reached directly has two lines: in the table of the VXLAN device its host, always; in the
//! bridge's the port that its frames take now. So a change of path is one line of the bridge's table for each station of that peer.
//!
//! The kernel turns no line that leads to a host into one that leads to a group, nor back: such a line is removed and made anew.
//! Meanwhile a line for all stations without one leads to that host, so that no frame is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weft::{
    fastdp::{Plan, PlannedPeer, Protection, heartbeat_mac},
    id::{Mac, PeerName},
};

use super::hops::Groups;
use crate::{fdb::NOBODY, netlink::Family};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// To the bridge itself.
    Bridge,
    /// To the sleeve.
    Tap,
    /// Into a VXLAN device.
    Vxlan(Family),
    /// To a host.
    Host(IpAddr),
    /// To a host, each flow by a lane of its own.
    Lanes(IpAddr),
}

impl Way {
    /// The host of a way by lanes.
    pub(super) fn spread_host(self) -> Option<IpAddr> {
        match self {
            Self::Lanes(host) => Some(host),
            Self::Bridge | Self::Tap | Self::Vxlan(_) | Self::Host(_) => None,
        }
    }

    /// The host, of a line that cannot be turned into this one in place.
    fn host_anew(self, from: Self) -> Option<IpAddr> {
        match (self, from) {
            (Self::Host(host), Self::Lanes(_)) | (Self::Lanes(host), Self::Host(_)) => Some(host),
            (Self::Bridge | Self::Tap | Self::Vxlan(_) | Self::Host(_) | Self::Lanes(_), _) => None,
        }
    }
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
pub(super) struct Ground<'a> {
    /// Our name.
    pub(super) own: PeerName,
    /// The bridge's address: nobody else is taken at his word that it is his.
    pub(super) bridge: Option<Mac>,
    /// Whether there is a VXLAN device for IPv6.
    pub(super) v6: bool,
    /// The hosts that groups of next hops lead to.
    pub(super) groups: &'a Groups,
}

impl Ground<'_> {
    /// The lines that a plan comes to.
    pub(super) fn wanted(&self, plan: &Plan) -> Wanted {
        let mut wanted = Wanted::new();
        for (mac, peer) in &plan.stations {
            if mac.is_group() || Some(*mac) == self.bridge {
                continue;
            }
            let planned = plan.peers.get(peer);
            let direct = planned.and_then(|planned| self.direct(planned.remote));
            if let (Some(planned), Some((family, remote))) = (planned, direct) {
                wanted.insert(Slot { table: Table::Vxlan(family), mac: *mac }, self.towards(planned, remote));
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
                wanted.insert(Slot { table: Table::Vxlan(family), mac }, self.towards(planned, remote));
                way = Way::Vxlan(family);
            }
            // What the bridge sends to itself it drops: better than to everybody.
            wanted.insert(Slot { table: Table::Bridge, mac }, way);
        }
        wanted.insert(Slot { table: Table::Bridge, mac: heartbeat_mac(self.own) }, Way::Bridge);
        wanted
    }

    /// The way to the host of a peer. While nobody knows how many lanes it has, one that was found serves on.
    fn towards(&self, planned: &PlannedPeer, remote: IpAddr) -> Way {
        let lanes = lanes(planned).is_none_or(|lanes| lanes > 1);
        if lanes && self.groups.contains_key(&remote) { Way::Lanes(remote) } else { Way::Host(remote) }
    }

    /// The device that leads to an address.
    fn direct(&self, remote: IpAddr) -> Option<(Family, IpAddr)> {
        let remote = remote.to_canonical();
        let family = Family::of(remote);
        (family == Family::V4 || self.v6).then_some((family, remote))
    }
}

/// The hosts that packets go to by several lanes.
pub(super) fn spread_hosts(plan: &Plan, v6: bool) -> BTreeSet<IpAddr> {
    let several = plan.peers.values().filter(|planned| lanes(planned).is_some_and(|lanes| lanes > 1));
    several.map(|planned| planned.remote.to_canonical()).filter(|host| v6 || host.is_ipv4()).collect()
}

/// How many lanes packets to a peer may take; None while it has told of no keys. Within UDP (behind a NAT) all lanes are one flow to
/// the hosts' cards: nothing is gained there by more than one.
fn lanes(planned: &PlannedPeer) -> Option<usize> {
    let Protection::Esp(esp) = &planned.protection else { return Some(1) };
    let set = esp.send.as_ref().or(esp.send_before.as_ref())?;
    Some(if set.encap.is_some() { 1 } else { set.keys.len() })
}

/// What lies between what the kernel has and what it shall have; what is spared stays.
pub(super) fn steps(held: &BTreeMap<Slot, Held>, wanted: &Wanted) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut anew: BTreeMap<(Table, IpAddr), Vec<Step>> = BTreeMap::new();
    for (slot, way) in wanted {
        let put = Step::Put(*slot, *way);
        let host = held.get(slot).and_then(|held| way.host_anew(held.way));
        match (held.get(slot), host) {
            (Some(Held { way: has, right: true, .. }), _) if has == way => {}
            (_, Some(host)) => anew.entry((slot.table, host)).or_default().extend([Step::Remove(*slot), put]),
            (Some(_) | None, None) => steps.push(put),
        }
    }
    steps.extend(anew.into_iter().flat_map(|((table, host), lines)| {
        let all = Slot { table, mac: NOBODY };
        let left = held.contains_key(&all).then_some(Step::Remove(all));
        left.into_iter().chain([Step::Put(all, Way::Host(host))]).chain(lines).chain([Step::Remove(all)])
    }));
    let gone = held.iter().rev().filter(|(slot, held)| !held.spared && !wanted.contains_key(slot));
    steps.extend(gone.map(|(slot, _)| Step::Remove(*slot)));
    steps
}

#[cfg(test)]
mod tests {
    use weft::fastdp::{EspPlan, SA_KEY_LEN, SaKey, SaSet};

    use super::*;

    const OWN: PeerName = PeerName([0x7e, 0, 0, 0, 0, 1]);
    const NEAR: PeerName = PeerName([0x7e, 0, 0, 0, 0, 2]);
    const FAR: PeerName = PeerName([0x7e, 0, 0, 0, 0, 3]);
    const GROUND: Ground<'_> = Ground { own: OWN, bridge: Some(Mac(OWN.0)), v6: true, groups: &Groups::new() };

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

    /// The same, with the near peer behind so many lanes.
    fn laned(lanes: usize) -> Plan {
        let keys = vec![SaKey([7; SA_KEY_LEN].into()); lanes];
        let set = SaSet { spi: 0x800, destination: "10.0.0.2".parse().unwrap(), keys, encap: None };
        let mut plan = plan(true);
        let esp = EspPlan { send: Some(set), ..EspPlan::default() };
        plan.peers.get_mut(&NEAR).unwrap().protection = Protection::Esp(Box::new(esp));
        plan
    }

    fn esp(plan: &mut Plan) -> &mut EspPlan {
        let Protection::Esp(esp) = &mut plan.peers.get_mut(&NEAR).unwrap().protection else { panic!() };
        esp
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

    #[test]
    fn between_numbers_of_lanes_a_line_for_all_leads_to_the_host() {
        let near: IpAddr = "10.0.0.2".parse().unwrap();
        let groups = Groups::from([(near, 7)]);
        let ground = Ground { groups: &groups, ..GROUND };
        let (one, several) = (ground.wanted(&laned(1)), ground.wanted(&laned(2)));
        for (from, to, way) in [(&one, &several, Way::Lanes(near)), (&several, &one, Way::Host(near))] {
            let all = vxlan(Family::V4, NOBODY);
            let lines = [heartbeat_mac(NEAR), station(2)].map(|mac| vxlan(Family::V4, mac));
            let mut anew: Vec<_> =
                lines.into_iter().flat_map(|slot| [Step::Remove(slot), Step::Put(slot, way)]).collect();
            anew.sort_by_key(Step::slot);
            let (begin, end) = (Step::Put(all, Way::Host(near)), Step::Remove(all));
            assert_eq!(steps(&held(from, false), to), [&[begin][..], &anew, &[end]].concat());

            // One that somebody was killed over leads elsewhere, perhaps.
            let mut left = held(from, true);
            left.insert(all, Held { way: Way::Host("10.0.0.9".parse().unwrap()), right: true, spared: true });
            assert_eq!(steps(&left, to), [&[end, begin][..], &anew, &[end]].concat());
        }
    }

    #[test]
    fn lanes_count_where_they_are_flows_of_their_own() {
        let near: IpAddr = "10.0.0.2".parse().unwrap();
        assert_eq!(
            (spread_hosts(&laned(1), true), spread_hosts(&laned(2), true)),
            (BTreeSet::new(), BTreeSet::from([near]))
        );
        let mut natted = laned(4);
        let at = |port| (near, port).into();
        esp(&mut natted).send.as_mut().unwrap().encap = Some((at(1), at(2)));
        assert_eq!(spread_hosts(&natted, true), BTreeSet::new());

        // A restarted router does not know yet: what it finds goes on, and nothing new is made.
        let mut unknown = laned(4);
        let known = std::mem::take(esp(&mut unknown));
        assert_eq!(spread_hosts(&unknown, true), BTreeSet::new());
        let groups = Groups::from([(near, 7)]);
        let ground = Ground { groups: &groups, ..GROUND };
        assert_eq!(ground.wanted(&unknown), ground.wanted(&laned(4)));
        assert_eq!(GROUND.wanted(&unknown), GROUND.wanted(&laned(1)));
        esp(&mut unknown).send_before = known.send;
        assert_eq!(spread_hosts(&unknown, true), BTreeSet::from([near]));
    }
}
