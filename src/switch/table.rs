//! The endpoint table: which station is on whose bridge, and which addresses it has.
//!
//! Every peer claims its own stations in the endpoints channel. A station that moves is claimed by its new peer with a
//! move counter above all that were ever seen for it, so the later claim wins; of equal ones that of the smaller name.
//! A peer that loses a station that it only learnt from frames withdraws its claim; an attached one stays claimed, and is
//! its again when the winner withdraws, or is gone. A station whose frames come from two bridges at once (a loop) would change hands
//! with every frame: who just lost one does not learn it again for [`MOVE_PAUSE`].
//!
//! The table does not own the channel: it takes what changed in it, and says what to set or remove there.

mod claim;
mod local;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

pub use claim::{Claim, MOVES_MAX, STATION_ADDRESSES_MAX};
use local::{Local, Station};

use crate::{
    api,
    id::{Mac, Nickname, PeerName},
    time::Time,
};

/// How long a learnt station is remembered without being seen: as Weave Net, and longer than ARP caches remember.
pub const LEARNT_FOR: Duration = Duration::from_secs(600);
/// Most stations on our own bridge: what one origin of the channel may have.
pub const STATIONS_MAX: usize = crate::gossip::ENTRIES_MAX;
/// How long a station that was lost to another peer is not learnt again.
pub const MOVE_PAUSE: Duration = Duration::from_secs(1);

/// What to change in our own part of the endpoints channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Claim a station, or tell its new addresses.
    Set(Mac, Claim),
    /// Withdraw a claim.
    Remove(Mac),
}

/// All stations of the network.
#[derive(Clone, Debug)]
pub struct Table {
    name: PeerName,
    local: Local,
    remote: BTreeMap<Mac, BTreeMap<PeerName, Claim>>,
    /// Attached stations of ours that others won, when last looked.
    lost: BTreeSet<Mac>,
}

impl Table {
    /// An empty table of the peer `name`.
    pub fn new(name: PeerName) -> Self {
        Self { name, local: Local::default(), remote: BTreeMap::new(), lost: BTreeSet::new() }
    }

    /// A station is on our bridge: attached, or seen as the source of a frame; `addresses` are added to its own.
    pub fn station(&mut self, mac: Mac, addresses: &[IpAddr], attached: bool, now: Time) -> Vec<Change> {
        if !claim::is_station(mac) || (!attached && self.local.is_paused(mac, now)) {
            return Vec::new();
        }
        let moves = self.moves_to_own(mac);
        let (touched, evicted) = self.local.see(mac, addresses, attached, moves, now);
        let removed = evicted.into_iter().map(Change::Remove);
        removed.chain(touched.into_iter().filter_map(|mac| self.own_claim(mac))).collect()
    }

    /// A station was detached.
    pub fn station_gone(&mut self, mac: Mac) -> Vec<Change> {
        self.local.remove(mac).map(|_| Change::Remove(mac)).into_iter().collect()
    }

    /// Another peer's claim of a station is now this; None if it withdrew it or is gone.
    pub fn remote(&mut self, peer: PeerName, mac: Mac, claim: Option<Claim>, now: Time) -> Vec<Change> {
        let claims = self.remote.entry(mac).or_default();
        match claim {
            Some(claim) => drop(claims.insert(peer, claim)),
            None => drop(claims.remove(&peer)),
        }
        if claims.is_empty() {
            self.remote.remove(&mac);
        }
        if self.owner(mac).is_none_or(|owner| owner == self.name) {
            return Vec::new();
        }
        let is_withdrawn = self.local.lose(mac, now);
        if self.local.get(mac).is_some() {
            self.lost.insert(mac);
        }
        is_withdrawn.then_some(Change::Remove(mac)).into_iter().collect()
    }

    /// Whether others won stations that are attached here.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Claims attached stations anew that peers won which are gone: those cannot withdraw their claims, and nothing gets there. Such a
    /// peer may be what a router was before it lost its identity.
    pub fn reclaim(&mut self, is_gone: impl Fn(PeerName) -> bool) -> Vec<Change> {
        let mut changes = Vec::new();
        for mac in std::mem::take(&mut self.lost) {
            let Some(winner) = self.owner(mac).filter(|winner| *winner != self.name) else { continue };
            if is_gone(winner) {
                let moves = self.moves_to_own(mac);
                self.local.claim_anew(mac, moves);
                changes.extend(self.own_claim(mac));
            } else if self.local.get(mac).is_some() {
                self.lost.insert(mac);
            }
        }
        changes
    }

    /// Withdraws claims of learnt stations that were not seen for [`LEARNT_FOR`].
    pub fn expire(&mut self, now: Time) -> Vec<Change> {
        self.local.expire(now).into_iter().map(Change::Remove).collect()
    }

    /// When to call [`Self::expire`] next.
    pub fn deadline(&self) -> Option<Time> {
        self.local.deadline()
    }

    /// How many stations there are at most: one that is claimed by us and by others counts twice.
    pub fn len(&self) -> usize {
        self.local.len() + self.remote.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whose bridge the station is on, ours included.
    pub fn owner(&self, mac: Mac) -> Option<PeerName> {
        self.best(mac).map(|(name, _, _)| name)
    }

    /// Stations on our own bridge.
    pub fn local(&self) -> impl Iterator<Item = Mac> + '_ {
        self.local.stations().map(|(mac, _)| mac).filter(|mac| self.owner(*mac) == Some(self.name))
    }

    /// Stations on others' bridges, and whose.
    pub fn stations(&self) -> impl Iterator<Item = (Mac, PeerName)> + '_ {
        let owned = self.remote.keys().filter_map(|mac| Some((*mac, self.owner(*mac)?)));
        owned.filter(|(_, owner)| *owner != self.name)
    }

    /// Which remote station has an address. An address that several stations of the network claim is left out: the
    /// stations themselves shall answer for it.
    pub fn addresses(&self) -> BTreeMap<IpAddr, Mac> {
        let mut holders: BTreeMap<IpAddr, Option<(Mac, PeerName)>> = BTreeMap::new();
        for (mac, owner, addresses) in self.all() {
            for address in addresses {
                let holder = holders.entry(*address).or_insert(Some((mac, owner)));
                *holder = holder.filter(|(known, _)| *known == mac);
            }
        }
        let remote = |(address, holder): (IpAddr, Option<(Mac, PeerName)>)| {
            holder.filter(|(_, owner)| *owner != self.name).map(|(mac, _)| (address, mac))
        };
        holders.into_iter().filter_map(remote).collect()
    }

    /// One line for each station, for people.
    pub fn list(&self, nickname: impl Fn(PeerName) -> Option<Nickname>) -> Vec<api::Endpoint> {
        let line = |(mac, name, addresses): (Mac, PeerName, &[IpAddr])| api::Endpoint {
            mac,
            addresses: addresses.to_vec(),
            name,
            nickname: nickname(name),
        };
        self.all().map(line).collect()
    }

    /// All stations with owner and addresses, our own first.
    fn all(&self) -> impl Iterator<Item = (Mac, PeerName, &[IpAddr])> {
        let remote = self.remote.keys().filter(|mac| self.local.get(**mac).is_none());
        let macs = self.local.stations().map(|(mac, _)| mac).chain(remote.copied());
        macs.filter_map(|mac| self.best(mac).map(|(name, _, addresses)| (mac, name, addresses)))
    }

    /// The winning claim: the most moves, then the smallest name.
    fn best(&self, mac: Mac) -> Option<(PeerName, u64, &[IpAddr])> {
        let own = self.local.get(mac).map(|station| (self.name, station.moves(), station.addresses()));
        let others = self.remote.get(&mac).into_iter().flatten();
        let claims = own.into_iter().chain(others.map(|(name, claim)| (*name, claim.moves, &*claim.addresses)));
        claims.max_by_key(|(name, moves, _)| (*moves, std::cmp::Reverse(*name)))
    }

    /// The move counter of a claim of ours that is made now: what it was if the station is ours, else above all others'.
    fn moves_to_own(&self, mac: Mac) -> u64 {
        match self.best(mac) {
            Some((owner, moves, _)) if owner == self.name => moves,
            Some((_, moves, _)) => moves.saturating_add(1).min(MOVES_MAX),
            None => 0,
        }
    }

    fn own_claim(&self, mac: Mac) -> Option<Change> {
        self.local.get(mac).map(|station: &Station| Change::Set(mac, station.claim()))
    }
}

#[cfg(test)]
mod tests;
