//! Stations on our own bridge.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Claim, LEARNT_FOR, MOVE_PAUSE, STATION_ADDRESSES_MAX, STATIONS_MAX};
use crate::{gossip::address::is_single, id::Mac, time::Time};

/// A station of ours.
#[derive(Clone, Debug)]
pub(super) struct Station {
    attached: bool,
    addresses: Vec<IpAddr>,
    moves: u64,
    seen: Time,
}

/// All stations of ours, and those just lost.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    stations: BTreeMap<Mac, Station>,
    /// Learnt ones, by when they were seen last.
    learnt: BTreeSet<(Time, Mac)>,
    /// Who has an address.
    holders: BTreeMap<IpAddr, BTreeSet<Mac>>,
    lost: BTreeMap<Mac, Time>,
}

impl Station {
    pub(super) fn claim(&self) -> Claim {
        Claim { addresses: self.addresses.clone(), moves: self.moves }
    }

    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Local {
    pub(super) fn get(&self, mac: Mac) -> Option<&Station> {
        self.stations.get(&mac)
    }

    pub(super) fn len(&self) -> usize {
        self.stations.len()
    }

    pub(super) fn stations(&self) -> impl Iterator<Item = (Mac, &Station)> {
        self.stations.iter().map(|(mac, station)| (*mac, station))
    }

    /// Whether the station was lost to another peer so recently that frames do not make it ours.
    pub(super) fn is_paused(&self, mac: Mac, now: Time) -> bool {
        self.lost.get(&mac).is_some_and(|lost| now.since(*lost) < MOVE_PAUSE)
    }

    /// A station is here. Returns those whose claims changed, and one that had to make room.
    pub(super) fn see(
        &mut self,
        mac: Mac,
        addresses: &[IpAddr],
        attached: bool,
        moves: u64,
        now: Time,
    ) -> (Vec<Mac>, Option<Mac>) {
        let evicted = if self.stations.contains_key(&mac) || self.stations.len() < STATIONS_MAX {
            None
        } else {
            let Some((_, oldest)) = self.learnt.first().copied() else { return (Vec::new(), None) };
            self.remove(oldest);
            Some(oldest)
        };
        let mut touched = self.take_addresses(mac, addresses);
        let is_new = !self.stations.contains_key(&mac);
        let fresh = Station { attached, addresses: Vec::new(), moves, seen: now };
        let station = self.stations.entry(mac).or_insert(fresh);
        let before = station.claim();
        self.learnt.remove(&(station.seen, mac));
        station.attached |= attached;
        (station.seen, station.moves) = (now, moves);
        if !station.attached {
            self.learnt.insert((now, mac));
        }
        for address in addresses.iter().filter(|address| is_single(**address) && !address.is_loopback()) {
            // A station with too many keeps the first ones: dropping old ones would be told to everybody again and again.
            if !station.addresses.contains(address) && station.addresses.len() < STATION_ADDRESSES_MAX {
                station.addresses.push(*address);
                self.holders.entry(*address).or_default().insert(mac);
            }
        }
        if is_new || station.claim() != before {
            touched.push(mac);
        }
        (touched, evicted)
    }

    /// Another peer's claim wins; whether ours is withdrawn.
    pub(super) fn lose(&mut self, mac: Mac, now: Time) -> bool {
        let Some(station) = self.stations.get(&mac) else { return false };
        let is_withdrawn = !station.attached;
        if is_withdrawn {
            self.remove(mac);
        }
        self.lost.retain(|_, lost| now.since(*lost) < MOVE_PAUSE);
        if self.lost.len() < STATIONS_MAX {
            self.lost.insert(mac, now);
        }
        is_withdrawn
    }

    /// A station is claimed with this move counter.
    pub(super) fn claim_anew(&mut self, mac: Mac, moves: u64) {
        if let Some(station) = self.stations.get_mut(&mac) {
            station.moves = moves;
        }
    }

    pub(super) fn remove(&mut self, mac: Mac) -> Option<Station> {
        let station = self.stations.remove(&mac)?;
        self.learnt.remove(&(station.seen, mac));
        for address in &station.addresses {
            self.release(*address, mac);
        }
        Some(station)
    }

    /// Takes out learnt stations that were not seen for long.
    pub(super) fn expire(&mut self, now: Time) -> Vec<Mac> {
        let is_old = |(seen, _): &&(Time, Mac)| now.since(*seen) >= LEARNT_FOR;
        let old: Vec<Mac> = self.learnt.iter().take_while(is_old).map(|(_, mac)| *mac).collect();
        old.iter().for_each(|mac| drop(self.remove(*mac)));
        old
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.learnt.first().map(|(seen, _)| *seen + LEARNT_FOR)
    }

    /// On one bridge an address is where it was seen last: learnt stations that had it have it no more.
    fn take_addresses(&mut self, mac: Mac, addresses: &[IpAddr]) -> Vec<Mac> {
        let mut touched = BTreeSet::new();
        for address in addresses {
            let others: Vec<Mac> = self.holders.get(address).into_iter().flatten().copied().collect();
            for other in others.into_iter().filter(|other| *other != mac) {
                if let Some(station) = self.stations.get_mut(&other).filter(|station| !station.attached) {
                    station.addresses.retain(|had| had != address);
                    self.release(*address, other);
                    touched.insert(other);
                }
            }
        }
        touched.into_iter().collect()
    }

    /// A station has an address no more.
    fn release(&mut self, address: IpAddr, mac: Mac) {
        if let Some(holders) = self.holders.get_mut(&address) {
            holders.remove(&mac);
            if holders.is_empty() {
                self.holders.remove(&address);
            }
        }
    }
}
