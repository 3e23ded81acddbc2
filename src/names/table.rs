//! All names of the network, to be looked up by name and by address.
//!
//! Invariant: an address leads back to exactly the names that lead to it.

use std::{collections::BTreeMap, net::IpAddr};

use super::{DnsName, Owner, shards::Shards};
use crate::{
    api,
    id::{Nickname, PeerName},
};

/// Most addresses of one name that are told at once, and most names of one address: what a message of DNS holds.
const ANSWERS_MAX: usize = 1024;

/// Who has a name, and where it leads by each of them.
type Holders = BTreeMap<(PeerName, Owner), Vec<IpAddr>>;

/// The names; a copy is cheap and stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Table {
    names: Shards<DnsName, Holders>,
    /// How many holders lead each name to an address.
    reverse: Shards<IpAddr, BTreeMap<DnsName, usize>>,
}

impl Table {
    /// Where the name leads, each address once; at most `ANSWERS_MAX` of them. None if nobody has the name.
    pub fn addresses(&self, name: &DnsName) -> Option<Vec<IpAddr>> {
        let mut addresses: Vec<IpAddr> = self.names.get(name)?.values().flatten().copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ANSWERS_MAX);
        Some(addresses)
    }

    /// The names that lead to an address, in their order; at most `ANSWERS_MAX`.
    pub fn names(&self, address: IpAddr) -> impl Iterator<Item = &DnsName> {
        self.reverse.get(&address).into_iter().flat_map(|names| names.keys()).take(ANSWERS_MAX)
    }

    /// One line for each name of each owner, in their order.
    pub fn list(&self, nickname: impl Fn(PeerName) -> Option<Nickname>) -> Vec<api::NameLine> {
        let holders = self.names.iter().flat_map(|(name, holders)| holders.iter().map(move |(by, to)| (name, by, to)));
        let line = |(hostname, (peer, owner), addresses): (&DnsName, &(PeerName, Owner), &Vec<IpAddr>)| api::NameLine {
            hostname: hostname.clone(),
            addresses: addresses.clone(),
            owner: owner.clone(),
            name: *peer,
            nickname: nickname(*peer),
        };
        let mut lines: Vec<_> = holders.map(line).collect();
        lines.sort_by(|one, other| {
            (&one.hostname, one.name, &one.owner).cmp(&(&other.hostname, other.name, &other.owner))
        });
        lines
    }

    /// What a peer says of a name of an owner is now this; None for nothing any more.
    pub(crate) fn set(&mut self, peer: PeerName, owner: &Owner, name: &DnsName, addresses: Option<&[IpAddr]>) {
        let shard = self.names.shard_mut(name);
        let by = (peer, owner.clone());
        let before = match addresses {
            Some(addresses) => shard.entry(name.clone()).or_default().insert(by, addresses.to_vec()),
            None => shard.get_mut(name).and_then(|holders| holders.remove(&by)),
        };
        if shard.get(name).is_some_and(BTreeMap::is_empty) {
            shard.remove(name);
        }
        for address in addresses.unwrap_or_default() {
            *self.reverse.shard_mut(address).entry(*address).or_default().entry(name.clone()).or_default() += 1;
        }
        for address in before.unwrap_or_default() {
            self.forget(name, address);
        }
    }

    /// One holder less leads `name` to `address`.
    fn forget(&mut self, name: &DnsName, address: IpAddr) {
        let shard = self.reverse.shard_mut(&address);
        let Some(names) = shard.get_mut(&address) else { return };
        if let Some(count) = names.get_mut(name) {
            *count -= 1;
        }
        names.retain(|_, count| *count > 0);
        if names.is_empty() {
            shard.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: PeerName = PeerName([1; 6]);
    const B: PeerName = PeerName([2; 6]);

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    fn owner(text: &str) -> Owner {
        text.parse().unwrap()
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn one_name_of_many_owners_leads_to_all_of_them() {
        let mut table = Table::default();
        table.set(A, &owner("c1"), &name("web"), Some(&[ip(1), ip(2)]));
        table.set(B, &owner("c1"), &name("web"), Some(&[ip(2), ip(3)]));
        let before = table.clone();
        assert_eq!(table.addresses(&name("web")), Some(vec![ip(1), ip(2), ip(3)]));
        table.set(B, &owner("c1"), &name("web"), None);
        assert_eq!(table.addresses(&name("web")), Some(vec![ip(1), ip(2)]));
        assert_eq!(table.names(ip(2)).collect::<Vec<_>>(), [&name("web")]);
        assert_eq!(table.names(ip(3)).count(), 0);
        table.set(A, &owner("c1"), &name("web"), None);
        assert_eq!((table.addresses(&name("web")), table.names(ip(2)).count()), (None, 0));
        assert_eq!(before.addresses(&name("web")).unwrap().len(), 3, "a copy stays as it was");
        let lines = before.list(|_| None);
        assert_eq!(lines.iter().map(|line| line.name).collect::<Vec<_>>(), [A, B]);
    }

    type Told = (u8, u8, u8, Option<Vec<u8>>);

    proptest! {
        #[test]
        fn what_is_looked_up_is_what_was_told(told in proptest::collection::vec(any::<Told>(), 0..60)) {
            let mut table = Table::default();
            let mut model: BTreeMap<(u8, u8, u8), BTreeSet<u8>> = BTreeMap::new();
            for (peer, by, of, to) in told {
                let key = (peer % 2, by % 2, of % 4);
                let to = to.map(|to| to.into_iter().map(|to| to % 8).collect::<BTreeSet<_>>());
                let addresses: Option<Vec<_>> = to.as_ref().map(|to| to.iter().copied().map(ip).collect());
                let (peer, by, of) = (PeerName([key.0; 6]), owner(&key.1.to_string()), name(&key.2.to_string()));
                table.set(peer, &by, &of, addresses.as_deref());
                match to {
                    Some(to) => drop(model.insert(key, to)),
                    None => drop(model.remove(&key)),
                }
            }
            for of in 0..4 {
                let held: Vec<_> = model.iter().filter(|((.., name), _)| *name == of).map(|(_, to)| to).collect();
                let expected = (!held.is_empty())
                    .then(|| held.iter().flat_map(|to| to.iter().copied()).collect::<BTreeSet<_>>())
                    .map(|to| to.into_iter().map(ip).collect::<Vec<_>>());
                prop_assert_eq!(table.addresses(&name(&of.to_string())), expected);
            }
            for to in 0..8 {
                let expected: BTreeSet<_> =
                    model.iter().filter(|(_, held)| held.contains(&to)).map(|((.., of), _)| name(&of.to_string())).collect();
                prop_assert_eq!(table.names(ip(to)).cloned().collect::<BTreeSet<_>>(), expected);
            }
        }
    }
}
