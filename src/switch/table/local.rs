//! Stations on our own bridge.

use std::{collections::BTreeMap, net::IpAddr};

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
            let Some(oldest) = self.oldest_learnt() else { return (Vec::new(), None) };
            self.stations.remove(&oldest);
            Some(oldest)
        };
        let mut touched = self.take_addresses(mac, addresses);
        let is_new = !self.stations.contains_key(&mac);
        let fresh = Station { attached, addresses: Vec::new(), moves, seen: now };
        let station = self.stations.entry(mac).or_insert(fresh);
        let before = station.claim();
        station.attached |= attached;
        (station.seen, station.moves) = (now, moves);
        for address in addresses.iter().filter(|address| is_single(**address) && !address.is_loopback()) {
            // A station with too many keeps the first ones: dropping old ones would be told to everybody again and again.
            if !station.addresses.contains(address) && station.addresses.len() < STATION_ADDRESSES_MAX {
                station.addresses.push(*address);
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
            self.stations.remove(&mac);
        }
        self.lost.retain(|_, lost| now.since(*lost) < MOVE_PAUSE);
        if self.lost.len() < STATIONS_MAX {
            self.lost.insert(mac, now);
        }
        is_withdrawn
    }

    pub(super) fn remove(&mut self, mac: Mac) -> Option<Station> {
        self.stations.remove(&mac)
    }

    /// Takes out learnt stations that were not seen for long.
    pub(super) fn expire(&mut self, now: Time) -> Vec<Mac> {
        let is_old = |_: &Mac, station: &mut Station| !station.attached && now.since(station.seen) >= LEARNT_FOR;
        self.stations.extract_if(.., is_old).map(|(mac, _)| mac).collect()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.learnt().map(|(_, seen)| seen + LEARNT_FOR).min()
    }

    fn learnt(&self) -> impl Iterator<Item = (Mac, Time)> {
        self.stations.iter().filter(|(_, station)| !station.attached).map(|(mac, station)| (*mac, station.seen))
    }

    fn oldest_learnt(&self) -> Option<Mac> {
        self.learnt().min_by_key(|(_, seen)| *seen).map(|(mac, _)| mac)
    }

    /// On one bridge an address is where it was seen last: learnt stations that had it have it no more.
    fn take_addresses(&mut self, mac: Mac, addresses: &[IpAddr]) -> Vec<Mac> {
        let mut touched = Vec::new();
        for (other, station) in self.stations.iter_mut().filter(|(other, station)| **other != mac && !station.attached)
        {
            let before = station.addresses.len();
            station.addresses.retain(|address| !addresses.contains(address));
            if station.addresses.len() < before {
                touched.push(*other);
            }
        }
        touched
    }
}
