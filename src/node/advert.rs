//! What this node tells everybody of itself: its record in the topology, rebuilt when its links or addresses change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{NodeConfig, connections::Connections, links::Links};
use crate::{
    id::PeerName,
    link::direct::Direct,
    time::Time,
    topology::{
        record::{ADDRESSES_MAX, Detail, LINKS_MAX, LinkRecord, PeerRecord},
        relaying::{Relaying, Spare},
    },
};

/// Bad news goes at once, unless there was news this recently: where one link breaks others do.
const BAD_NEWS_INTERVAL: Duration = Duration::from_millis(200);
/// Good news waits this long for more of it, and until the last news is [`GOOD_NEWS_INTERVAL`] old.
const GATHER: Duration = Duration::from_millis(100);
/// A large mesh that starts would otherwise tell everybody of each link by itself.
const GOOD_NEWS_INTERVAL: Duration = Duration::from_secs(1);
/// The record is compared with what was told this often at least.
const REFRESH: Duration = Duration::from_secs(10);

/// The record's inputs that are kept here, and when it is to be rebuilt.
#[derive(Debug, Default)]
pub(super) struct Advert {
    local: Vec<IpAddr>,
    observed: BTreeMap<PeerName, SocketAddr>,
    due: Option<Time>,
    refresh_at: Time,
    told_at: Option<Time>,
    pub(super) leaving: bool,
    spare: Spare,
}

impl Advert {
    /// The host's own addresses; whether they are others than before.
    pub(super) fn set_local(&mut self, addresses: Vec<IpAddr>, now: Time) -> bool {
        let changed = self.local != addresses;
        if changed {
            self.local = addresses;
            self.soon(now);
        }
        changed
    }

    /// A neighbour told where it sees us.
    pub(super) fn observed(&mut self, by: PeerName, address: SocketAddr, now: Time) {
        if self.observed.insert(by, address) != Some(address) {
            self.soon(now);
        }
    }

    /// A peer is not a neighbour any more.
    pub(super) fn forget(&mut self, peer: PeerName) {
        self.observed.remove(&peer);
    }

    /// The data plane was busy for so much of its time, 0 to 1.
    pub(super) fn set_load(&mut self, load: f64, now: Time) {
        self.spare.set_load(load, now);
    }

    /// What we do for frames of others.
    pub(super) fn relaying(&self, config: &NodeConfig) -> Relaying {
        if config.relay { self.spare.told() } else { Relaying::Off }
    }

    /// Something got better: tell it, perhaps with more.
    pub(super) fn soon(&mut self, now: Time) {
        self.tell_at(self.after_last(GOOD_NEWS_INTERVAL).max(now + GATHER));
    }

    /// Something broke: tell it now, or almost.
    pub(super) fn at_once(&mut self, now: Time) {
        self.tell_at(self.after_last(BAD_NEWS_INTERVAL).max(now));
    }

    fn after_last(&self, interval: Duration) -> Time {
        self.told_at.map_or(Time::ZERO, |told| told + interval)
    }

    fn tell_at(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Whether the record is to be rebuilt now.
    pub(super) fn take_due(&mut self, now: Time) -> bool {
        let due = self.deadline() <= now;
        self.spare.take_change(now);
        if due {
            self.due = None;
            self.refresh_at = now + REFRESH;
            self.told_at = Some(now);
        }
        due
    }

    /// When that is.
    pub(super) fn deadline(&self) -> Time {
        let spare = self.spare.deadline().unwrap_or(Time::MAX);
        self.due.unwrap_or(Time::MAX).min(self.refresh_at).min(spare)
    }

    /// Addresses where we may be found, most likely first.
    pub(super) fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let local = self.local.iter().map(|ip| SocketAddr::new(*ip, port));
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in local.chain(self.observed.values().copied()) {
            if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                addresses.push(address);
            }
        }
        addresses
    }

    /// An address that others see us at and that is not our own: that of a NAT.
    pub(super) fn seen_elsewhere(&self) -> Option<IpAddr> {
        self.observed.values().map(|seen| seen.ip().to_canonical()).find(|ip| !self.local.contains(ip))
    }

    /// The record as of now.
    pub(super) fn record(&self, config: &NodeConfig, connections: &Connections, links: &Links) -> PeerRecord {
        let control: BTreeSet<PeerName> = connections.up().map(|(_, _, peer)| peer.name).collect();
        let ours = links.iter().filter(|(_, link)| link.is_neighbour);
        let direct = ours.filter(|(_, link)| link.direct.as_ref().is_some_and(|d| d.address().is_some()));
        let mut peers: BTreeSet<PeerName> = direct.map(|(peer, _)| peer).collect();
        peers.extend(&control);
        let records = peers.into_iter().take(LINKS_MAX).map(|peer| {
            let direct = links.link(peer).and_then(|link| link.direct.as_ref());
            let up = direct.filter(|direct| direct.address().is_some());
            let told = up.and_then(|_| links.link(peer)?.told);
            LinkRecord {
                peer,
                control: control.contains(&peer),
                data: told.map(|told| told.cost),
                payload_max: up.and_then(Direct::payload_max).and_then(|max| u16::try_from(max).ok()).unwrap_or(0),
                detail: told.map(|told| Detail::of(told.quality)),
            }
        });
        PeerRecord {
            public: config.identity.public(),
            uid: config.uid,
            nickname: config.nickname.clone(),
            port: config.port,
            links: records.collect(),
            addresses: self.addresses(config.port),
            leaving: self.leaving,
            mtu: links.fast.mtu,
            relaying: self.relaying(config),
        }
    }
}
