//! What the allocator sees of others: their entries, and whom gossip reaches now.

use std::collections::BTreeSet;

use super::{
    entry::{Epoch, Gift, Key, Life, Member, MemberId, Reclaim, Standing, Value, Vouch},
    range::Range,
};
use crate::{gossip::replica::Replica, id::PeerName};

/// The addresses channel.
pub type Entries = Replica<Key, Value>;

/// Whom we were told to connect to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Targets {
    /// How many, without ourselves.
    pub count: u32,
    /// Who they are as far as known, in order.
    pub peers: Vec<PeerName>,
}

/// All of it, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// What everybody says.
    pub entries: &'a Entries,
    /// Whom gossip reaches.
    pub reachable: &'a BTreeSet<PeerName>,
    /// Whom we were told to connect to.
    pub targets: &'a Targets,
}

impl<'a> World<'a> {
    /// Who a peer says it is.
    pub fn member(self, peer: PeerName) -> Option<&'a Member> {
        if let Value::Member(member) = self.entries.get(peer, &Key::Member)? { Some(member) } else { None }
    }

    /// A peer with the life that it says it lives.
    pub fn id(self, peer: PeerName) -> Option<MemberId> {
        self.member(peer).map(|member| MemberId { name: peer, life: member.life })
    }

    /// Whether a peer is heard in this life, or an earlier or later one of its line.
    pub fn is_heard(self, member: MemberId) -> bool {
        self.id(member.name).is_some_and(|heard| heard.life.is_of_line(member.life))
    }

    /// Whether a peer is a full member in this life, and gossip reaches it.
    pub fn is_there(self, member: MemberId) -> bool {
        self.reachable.contains(&member.name)
            && self.member(member.name).is_some_and(|m| m.life == member.life && m.standing == Standing::Full)
    }

    /// What a peer says it owns.
    pub fn claims(self, peer: PeerName) -> impl Iterator<Item = (Range, Epoch)> + 'a {
        self.entries.of(peer).filter_map(|(key, value)| match (key, value) {
            (Key::Claim(first), Value::Claim { last, epoch }) => Some((Range::new(*first, *last)?, *epoch)),
            _ => None,
        })
    }

    /// What a peer says it gave and nobody has yet.
    pub fn gifts(self, peer: PeerName) -> impl Iterator<Item = (PeerName, &'a Gift)> {
        self.entries.of(peer).filter_map(|(key, value)| match (key, value) {
            (Key::Gift(to), Value::Gift(gift)) => Some((*to, gift)),
            _ => None,
        })
    }

    /// What a peer gave to another.
    pub fn gift(self, by: PeerName, to: PeerName) -> Option<&'a Gift> {
        if let Value::Gift(gift) = self.entries.get(by, &Key::Gift(to))? { Some(gift) } else { None }
    }

    /// A number that a peer tells under `key`, if it is of this line of the peer concerned.
    pub fn number(self, by: PeerName, key: Key, of: Life) -> Option<u64> {
        if let Value::Number { life, number } = self.entries.get(by, &key)? {
            life.is_of_line(of).then_some(*number)
        } else {
            None
        }
    }

    /// Lives that a peer tells under `key`.
    pub fn lives(self, by: PeerName, key: Key) -> &'a [Life] {
        match self.entries.get(by, &key) {
            Some(Value::Lives(lives)) => lives,
            _ => &[],
        }
    }

    /// What a peer says of another.
    pub fn vouch(self, by: PeerName, of: PeerName) -> Option<&'a Vouch> {
        if let Value::Vouch(vouch) = self.entries.get(by, &Key::Vouch(of))? { Some(vouch) } else { None }
    }

    /// What a peer takes over.
    pub fn reclaim(self, by: PeerName) -> Option<&'a Reclaim> {
        if let Value::Reclaim(reclaim) = self.entries.get(by, &Key::Reclaim)? { Some(reclaim) } else { None }
    }

    /// Who founded a peer's universe, as it says.
    pub fn founders(self, by: PeerName) -> Option<&'a [MemberId]> {
        if let Value::Founding(founders) = self.entries.get(by, &Key::Founding)? { Some(founders) } else { None }
    }
}
