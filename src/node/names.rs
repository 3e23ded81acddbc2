//! Names of this peer as they are asked for, and those of all peers as they are published.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{exchange::Exchange, output::Output};
use crate::{
    gossip::ENTRIES_MAX,
    id::PeerName,
    names::{
        ADDRESSES_MAX, DnsName, Held, NameRequest, Owner, RequestError, Table,
        entry::{Addresses, Key, is_address},
    },
    time::Time,
};

/// What others change is not published more often than this, whatever a peer floods; after a quiet time, at once.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// The names that are known, and what of them is not published yet.
#[derive(Debug, Default)]
pub(super) struct Names {
    table: Table,
    unpublished: bool,
    own_unpublished: bool,
    published_at: Option<Time>,
}

impl Names {
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Changes names of ours. Returns how many addresses were added or taken.
    pub(super) fn request(
        &mut self,
        own: PeerName,
        exchange: &mut Exchange,
        request: NameRequest,
    ) -> Result<usize, RequestError> {
        let changed = match request {
            NameRequest::Add { owner, name, addresses } => add(own, exchange, Key { owner, name }, &addresses)?,
            NameRequest::Remove { owner, name, addresses } => {
                remove(own, exchange, owner.as_ref(), name.as_ref(), &addresses)
            }
        };
        if changed > 0 {
            self.own_unpublished = true;
            // Who asked for it finds it so at once, whatever was published just now.
            self.published_at = None;
        }
        Ok(changed)
    }

    /// Takes over what changed in the channel.
    pub(super) fn follow(&mut self, exchange: &mut Exchange) {
        for (peer, key) in exchange.take_changed_names() {
            let addresses = exchange.names().get(peer, &key).map(|addresses| &*addresses.0);
            self.table.set(peer, &key.owner, &key.name, addresses);
            self.unpublished = true;
        }
    }

    /// Forgets a peer's names.
    pub(super) fn forget(&mut self, peer: PeerName, exchange: &mut Exchange) {
        for key in exchange.forget_names(peer) {
            self.table.set(peer, &key.owner, &key.name, None);
            self.unpublished = true;
        }
    }

    /// What is to be published now.
    pub(super) fn publish(&mut self, own: PeerName, exchange: &Exchange, now: Time) -> Vec<Output> {
        if self.deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.published_at = Some(now);
        let mut outputs = Vec::new();
        if std::mem::take(&mut self.unpublished) {
            outputs.push(Output::Names(self.table.clone()));
        }
        if std::mem::take(&mut self.own_unpublished) {
            outputs.push(Output::OwnNames(held(own, exchange)));
        }
        outputs
    }

    /// When [`Self::publish`] has something to publish.
    pub(super) fn deadline(&self) -> Option<Time> {
        let earliest = self.published_at.map_or(Time::ZERO, |at| at + PUBLISH_INTERVAL);
        (self.unpublished || self.own_unpublished).then_some(earliest)
    }

    /// What was not kept yet of our own names, whatever the time.
    pub(super) fn last(&mut self, own: PeerName, exchange: &Exchange) -> Option<Output> {
        std::mem::take(&mut self.own_unpublished).then(|| Output::OwnNames(held(own, exchange)))
    }
}

fn held(own: PeerName, exchange: &Exchange) -> Vec<Held> {
    let line = |(Key { owner, name }, Addresses(addresses)): (&Key, &Addresses)| Held {
        owner: owner.clone(),
        name: name.clone(),
        addresses: addresses.clone(),
    };
    exchange.names().entries(own).map(line).collect()
}

fn add(own: PeerName, exchange: &mut Exchange, key: Key, addresses: &[IpAddr]) -> Result<usize, RequestError> {
    if addresses.is_empty() {
        return Err(RequestError::NoAddress(key.name));
    }
    if let Some(bad) = addresses.iter().find(|address| !is_address(**address)) {
        return Err(RequestError::BadAddress(*bad));
    }
    let before = exchange.names().get(own, &key).map(|Addresses(before)| before.clone()).unwrap_or_default();
    let new: BTreeSet<IpAddr> = addresses.iter().copied().filter(|address| !before.contains(address)).collect();
    if before.len() + new.len() > ADDRESSES_MAX {
        return Err(RequestError::TooManyAddresses { name: key.name, owner: key.owner });
    }
    if before.is_empty() && exchange.names().entries(own).count() >= ENTRIES_MAX {
        return Err(RequestError::TooManyNames);
    }
    let count = new.len();
    // Names, owners and addresses of their lengths always fit.
    let set = exchange.set_name(key, Some(Addresses(before.into_iter().chain(new).collect())));
    set.map(|()| count).map_err(|_| RequestError::TooManyNames)
}

fn remove(
    own: PeerName,
    exchange: &mut Exchange,
    owner: Option<&Owner>,
    name: Option<&DnsName>,
    addresses: &[IpAddr],
) -> usize {
    let is_meant = |key: &Key| owner.is_none_or(|owner| *owner == key.owner) && name.is_none_or(|n| *n == key.name);
    let stays = |address: &IpAddr| !addresses.is_empty() && !addresses.contains(address);
    let mut taken = 0;
    let mut left = BTreeMap::new();
    for (key, Addresses(before)) in exchange.names().entries(own).filter(|(key, _)| is_meant(key)) {
        let rest: Vec<IpAddr> = before.iter().copied().filter(stays).collect();
        if rest.len() < before.len() {
            taken += before.len() - rest.len();
            left.insert(key.clone(), rest);
        }
    }
    for (key, rest) in left {
        // What gets smaller fits.
        let _ = exchange.set_name(key, (!rest.is_empty()).then_some(Addresses(rest)));
    }
    taken
}
