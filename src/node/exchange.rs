//! The replicated channels and what neighbours say about them: hashes, digests, deltas.
//!
//! What changed is flooded at once; every half minute neighbours compare eight bytes, and repair what was missed. Where thousands tell
//! something, there is always news on its way that one of two has and the other not: a large mesh compares hashes of ranges of names
//! then, and digests only of those that differ.
//!
//! In a large mesh it is flooded along a tree of connections that all find alike in what is known of them ([`Graph::tree`]), so that it
//! comes to each once and not from each neighbour. Those beside the tree are told a moment later in a few bytes how much there
//! is, and ask for what did not come: when the tree is broken, or not the same for all.
//!
//! [`Graph::tree`]: crate::topology::graph::Graph::tree

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{
    channel::{Channel, Replicating, Taken},
    connections::{Connections, Peer},
};
use crate::{
    entropy::Entropy,
    gossip::{
        ChannelId,
        message::ControlMessage,
        origin::Incarnation,
        replica::{Replica, SetError},
    },
    id::{ConnId, Mac, PeerName},
    ipam::{
        entry::{Key as AddressKey, Value as AddressValue},
        world::Entries,
    },
    names::entry::{Addresses, Key as NameKey},
    switch::table::{Change, Claim},
    time::Time,
    topology::record::{PeerRecord, Topology},
};

/// Between comparisons with all neighbours; jittered by a quarter.
const COMPARE_INTERVAL: Duration = Duration::from_secs(30);
/// What is new is announced beside the tree this long after it came, or up to half as long again, so that not both ends tell each other:
/// the tree has brought it by then, if it does.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(250);
/// An origin is not asked for again so soon; and for more than so many at once a whole digest is sent.
const ASK_AGAIN: Duration = Duration::from_millis(300);
const ASK_MAX: usize = 16;
/// Between whole digests to different neighbours of a large mesh: all of them know the same, and one answer is enough.
const DIGEST_SPACING: Duration = Duration::from_millis(50);
/// A neighbour is sent no digest of a channel more often than this, however much is missing.
const DIGEST_INTERVAL: Duration = Duration::from_millis(200);
/// Deltas that are remembered to know them again: each comes from all neighbours within a few round trips.
const SEEN_MAX: usize = 64;
/// Longer ones are rare, and not remembered.
const SEEN_LEN_MAX: usize = 4096;
/// Lives that we take over somebody else's word about ourselves. More means that a copy of us does the same.
const RESTARTS_MAX: u32 = 16;

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    One(ConnId),
    All,
    /// Those in the tree, but the one that it came from.
    Tree(Option<ConnId>),
}

/// The channels.
#[derive(Debug)]
pub(super) struct Exchange {
    name: PeerName,
    entropy: Entropy,
    topology: Channel<(), PeerRecord>,
    endpoints: Channel<Mac, Claim>,
    addresses: Channel<AddressKey, AddressValue>,
    names: Channel<NameKey, Addresses>,
    messages: VecDeque<(To, ControlMessage)>,
    /// Deltas merged lately, without a gap. To merge them again would change nothing.
    seen: VecDeque<(ChannelId, Vec<u8>)>,
    owed: BTreeMap<(ConnId, ChannelId), Owed>,
    /// The earliest of their times: asked far more often than it changes.
    owed_due: Option<Time>,
    compare_at: Time,
    /// The neighbours in the tree; None while all are sent everything.
    tree: Option<BTreeSet<PeerName>>,
    /// Those that came into it since the last announcement: they missed what was flooded before.
    joined: BTreeSet<PeerName>,
    /// Of what there is something new that those beside the tree have not been told of but for some who know it, and when they are.
    unannounced: BTreeMap<ChannelId, BTreeMap<PeerName, Vec<ConnId>>>,
    announce_at: Option<Time>,
    asked: BTreeMap<(ChannelId, PeerName), Time>,
    /// Of each channel, before when no other neighbour is sent a whole digest.
    spaced: BTreeMap<ChannelId, Time>,
    restarts: u32,
    /// Messages refused so far.
    pub(super) refused: u64,
}

/// A digest to be sent to a neighbour, no more often than [`DIGEST_INTERVAL`].
#[derive(Debug)]
struct Owed {
    due: Option<Time>,
    /// The hashes of ranges do not do: much is missing.
    is_whole: bool,
    /// When the last one went; zero for never.
    sent: Time,
}

impl Exchange {
    pub(super) fn new(name: PeerName, incarnation: Incarnation, entropy: Entropy) -> Self {
        Self {
            name,
            entropy,
            topology: Channel::new(name, incarnation),
            endpoints: Channel::new(name, incarnation),
            addresses: Channel::new(name, incarnation),
            names: Channel::new(name, incarnation),
            messages: VecDeque::new(),
            seen: VecDeque::new(),
            compare_at: Time::ZERO + COMPARE_INTERVAL,
            owed: BTreeMap::new(),
            owed_due: None,
            tree: None,
            joined: BTreeSet::new(),
            unannounced: BTreeMap::new(),
            announce_at: None,
            asked: BTreeMap::new(),
            spaced: BTreeMap::new(),
            restarts: 0,
            refused: 0,
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology.replica
    }

    /// What a peer says of a station on its bridge.
    pub(super) fn claim(&self, peer: PeerName, mac: Mac) -> Option<&Claim> {
        self.endpoints.replica.get(peer, &mac)
    }

    /// Who may give out which addresses, as everybody says.
    pub(super) fn addresses(&self) -> &Entries {
        &self.addresses.replica
    }

    /// The next message to send.
    pub(super) fn poll_message(&mut self) -> Option<(To, ControlMessage)> {
        self.messages.pop_front()
    }

    /// Which neighbours are in the tree from now on; None if all are to be sent everything.
    pub(super) fn set_tree(&mut self, tree: Option<BTreeSet<PeerName>>) {
        if let (Some(old), Some(new)) = (&self.tree, &tree) {
            self.joined.extend(new.difference(old));
        }
        self.tree = tree;
    }

    /// Whether changes are sent to this neighbour at once.
    pub(super) fn is_in_tree(&self, peer: &Peer) -> bool {
        self.tree.as_ref().is_none_or(|tree| !peer.takes_announcements || tree.contains(&peer.name))
    }

    /// What was flooded until now is announced in a moment.
    pub(super) fn plan_announcement(&mut self, now: Time) {
        if !self.unannounced.is_empty() {
            self.announce_at.get_or_insert_with(|| now + ANNOUNCE_AFTER.mul_f64(1.0 + self.entropy.fraction() / 2.0));
        }
    }

    /// Peers whose records changed since last asked.
    pub(super) fn take_changed_peers(&mut self) -> BTreeSet<PeerName> {
        self.topology.take_changed().into_iter().map(|(peer, ())| peer).collect()
    }

    /// Stations of others that changed since last asked.
    pub(super) fn take_changed_stations(&mut self) -> BTreeSet<(PeerName, Mac)> {
        self.endpoints.take_changed()
    }

    /// Peers that say something else of addresses than when last asked.
    pub(super) fn take_changed_addresses(&mut self) -> BTreeSet<PeerName> {
        self.addresses.take_changed().into_iter().map(|(peer, _)| peer).collect()
    }

    /// Tells all something of our own about addresses, or takes it back. Refused is what is too much to tell.
    pub(super) fn set_address(&mut self, key: AddressKey, value: Option<AddressValue>) -> Result<(), SetError> {
        let replica = &mut self.addresses.replica;
        let delta = match value {
            Some(value) => replica.set(key, value)?,
            None => replica.remove(&key),
        };
        if let Some(delta) = delta {
            self.flood(ChannelId::Addresses, delta);
        }
        Ok(())
    }

    /// All peers' names.
    pub(super) fn names(&self) -> &Replica<NameKey, Addresses> {
        &self.names.replica
    }

    /// Names, ours included, that changed since last asked.
    pub(super) fn take_changed_names(&mut self) -> BTreeSet<(PeerName, NameKey)> {
        self.names.take_changed()
    }

    /// Tells all where a name of ours leads now; None for nowhere. Fails when there is no room for it.
    pub(super) fn set_name(&mut self, key: NameKey, addresses: Option<Addresses>) -> Result<(), SetError> {
        let delta = match addresses {
            Some(addresses) => self.names.replica.set(key.clone(), addresses)?,
            None => self.names.replica.remove(&key),
        };
        if let Some(delta) = delta {
            self.names.note(self.name, key);
            self.flood(ChannelId::Names, delta);
        }
        Ok(())
    }

    /// Forgets what a peer said of addresses, until it comes back.
    pub(super) fn bury_addresses(&mut self, peer: PeerName) {
        self.addresses.replica.bury(peer);
    }

    /// These peers came or went.
    pub(super) fn exhume_addresses(&mut self, peers: &[PeerName]) {
        if !peers.is_empty() {
            self.seen.clear();
        }
        peers.iter().for_each(|peer| self.addresses.replica.exhume(*peer));
    }

    /// Tells all what we are now.
    pub(super) fn set_record(&mut self, record: PeerRecord) {
        // A record with at most LINKS_MAX links and ADDRESSES_MAX addresses always fits.
        if let Ok(Some(delta)) = self.topology.replica.set((), record) {
            self.topology.note(self.name, ());
            self.flood(ChannelId::Topology, delta);
        }
    }

    /// Tells all that a station is here, or not any more.
    pub(super) fn share(&mut self, change: Change) {
        let endpoints = &mut self.endpoints.replica;
        let delta = match change {
            // The table holds no more stations, and no larger claims, than the replica takes.
            Change::Set(mac, claim) => endpoints.set(mac, claim).ok().flatten(),
            Change::Remove(mac) => endpoints.remove(&mac),
        };
        if let Some(delta) = delta {
            self.flood(ChannelId::Endpoints, delta);
        }
    }

    /// A connection came up: say where we see the other side, and what we know.
    pub(super) fn greet(&mut self, conn: ConnId, remote: SocketAddr, now: Time) {
        self.say(conn, ControlMessage::Observed { address: remote });
        for channel in ChannelId::ALL {
            self.owe_digest(conn, channel, true, now);
        }
    }

    /// A neighbour told its hash: if ours differs, it is told our digest, or where that is large our hashes of ranges.
    pub(super) fn digest_hash(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        hash: u64,
        include: impl Fn(ChannelId, PeerName) -> bool,
        now: Time,
    ) {
        if self.channel(channel).digest_hash(&|peer| include(channel, peer)) != hash {
            self.owe_digest(conn, channel, false, now);
        }
    }

    /// A neighbour told its hashes of ranges: it is told our digest of those that differ.
    pub(super) fn ranges(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        ranges: &[u8],
        include: impl Fn(ChannelId, PeerName) -> bool,
    ) -> Result<(), String> {
        let digests = self
            .channel(channel)
            .digest_where_other(ranges, &|peer| include(channel, peer))
            .map_err(|error| self.refuse(&error))?;
        for digest in digests {
            self.say(conn, ControlMessage::Digest { channel, digest });
        }
        Ok(())
    }

    /// A neighbour told its digest: it gets what it lacks, and is asked for what we lack.
    pub(super) fn digest(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        digest: &[u8],
        include: impl Fn(ChannelId, PeerName) -> bool,
        now: Time,
    ) -> Result<(), String> {
        let repair = self
            .channel(channel)
            .delta_since(digest, &|peer| include(channel, peer))
            .map_err(|error| self.refuse(&error))?;
        for delta in repair.deltas {
            self.say(conn, ControlMessage::Delta { channel, delta });
        }
        if repair.behind.len() > ASK_MAX || (self.tree.is_none() && !repair.behind.is_empty()) {
            self.owe_digest(conn, channel, true, now);
        } else {
            // Also when another one was asked a moment ago, which may be dead: this one answers, and is compared with seldom.
            for name in repair.behind {
                self.ask_for(conn, channel, name, now);
            }
        }
        Ok(())
    }

    /// A neighbour told how much it knows of something new: it is asked for what we lack.
    pub(super) fn announced(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        known: &[u8],
        now: Time,
    ) -> Result<(), String> {
        let compared = self.channel(channel).compare(known).map_err(|error| self.refuse(&error))?;
        if let Some(unannounced) = self.unannounced.get_mut(&channel) {
            for name in &compared.same {
                if let Some(knowing) = unannounced.get_mut(name).filter(|knowing| !knowing.contains(&conn)) {
                    knowing.push(conn);
                }
            }
        }
        self.ask(conn, channel, &compared.wanting, now);
        Ok(())
    }

    /// A neighbour told changes: what is new is passed on to all others.
    pub(super) fn delta(&mut self, conn: ConnId, channel: ChannelId, delta: &[u8], now: Time) -> Result<(), String> {
        if self.seen.iter().any(|(of, seen)| *of == channel && seen == delta) {
            return Ok(());
        }
        let taken = self.channel_mut(channel).merge(delta).map_err(|error| self.refuse(&error))?;
        let own_restart = self.pass_on(conn, channel, delta, taken, now);
        if let Some(above) = own_restart {
            let entropy = self.entropy.clone();
            for delta in self.channel_mut(channel).restart(above, &entropy) {
                self.flood(channel, delta);
            }
        }
        Ok(())
    }

    /// Forgets a peer's record.
    pub(super) fn forget(&mut self, peer: PeerName) {
        self.seen.clear();
        self.topology.replica.remove_origin(peer);
    }

    /// Forgets a peer's stations; returns them.
    pub(super) fn forget_stations(&mut self, peer: PeerName) -> Vec<Mac> {
        self.seen.clear();
        self.endpoints.replica.remove_origin(peer)
    }

    /// Forgets a peer's names; returns them.
    pub(super) fn forget_names(&mut self, peer: PeerName) -> Vec<NameKey> {
        self.seen.clear();
        self.names.replica.remove_origin(peer)
    }

    /// Sends digests that are owed, and compares with all neighbours now and then.
    pub(super) fn handle_timeout(
        &mut self,
        connections: &Connections,
        include: impl Fn(ChannelId, PeerName) -> bool,
        now: Time,
    ) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<_> = self.owed.extract_if(.., |_, owed| owed.due.is_some_and(|due| due <= now)).collect();
        for ((conn, channel), owed) in due {
            let takes_ranges = connections.peer(conn).is_some_and(|peer| peer.takes_ranges);
            let include = |peer| include(channel, peer);
            if owed.is_whole || !takes_ranges || self.tree.is_none() {
                for digest in self.channel(channel).digest(&include) {
                    self.say(conn, ControlMessage::Digest { channel, digest });
                }
            } else {
                let ranges = self.channel(channel).ranges(&include);
                self.say(conn, ControlMessage::Ranges { channel, ranges });
            }
            self.owed.insert((conn, channel), Owed { due: None, is_whole: false, sent: now });
        }
        self.owed_due = self.owed.values().filter_map(|owed| owed.due).min();
        if now >= self.compare_at {
            self.asked.retain(|_, at| now.since(*at) < ASK_AGAIN);
            self.compare_at = now + COMPARE_INTERVAL.mul_f64(0.75 + self.entropy.fraction() / 2.0);
            self.owed.retain(|(conn, _), _| connections.peer(*conn).is_some());
            for channel in ChannelId::ALL {
                let hash = self.channel(channel).digest_hash(&|peer| include(channel, peer));
                self.messages.push_back((To::All, ControlMessage::DigestHash { channel, hash }));
            }
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            let joined = std::mem::take(&mut self.joined);
            let may_lack = |peer: &Peer| !self.is_in_tree(peer) || joined.contains(&peer.name);
            let neighbours = connections.up().filter(|(.., peer)| may_lack(peer)).map(|(conn, ..)| conn);
            self.announce(&neighbours.collect::<Vec<_>>());
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        [Some(self.compare_at), self.owed_due, self.announce_at].into_iter().flatten().min()
    }

    fn channel(&self, channel: ChannelId) -> &dyn Replicating {
        match channel {
            ChannelId::Topology => &self.topology,
            ChannelId::Endpoints => &self.endpoints,
            ChannelId::Addresses => &self.addresses,
            ChannelId::Names => &self.names,
        }
    }

    fn channel_mut(&mut self, channel: ChannelId) -> &mut dyn Replicating {
        match channel {
            ChannelId::Topology => &mut self.topology,
            ChannelId::Endpoints => &mut self.endpoints,
            ChannelId::Addresses => &mut self.addresses,
            ChannelId::Names => &mut self.names,
        }
    }

    /// Floods what was new, and asks for what is missing; returns a later life of ours that others know of.
    fn pass_on(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        delta: &[u8],
        taken: Taken,
        now: Time,
    ) -> Option<Incarnation> {
        if let Some(delta) = taken.forward {
            self.send_on(channel, taken.news, delta, Some(conn));
        }
        if !taken.gaps.is_empty() {
            self.ask(conn, channel, &taken.gaps, now);
        } else if delta.len() <= SEEN_LEN_MAX {
            self.seen.truncate(SEEN_MAX - 1);
            self.seen.push_front((channel, delta.to_vec()));
        }
        let above = taken.later?;
        self.restarts += 1;
        (self.restarts <= RESTARTS_MAX).then_some(above)
    }

    /// Tells these neighbours how much there is that is new, unless they have said so themselves.
    fn announce(&mut self, neighbours: &[ConnId]) {
        for (channel, news) in std::mem::take(&mut self.unannounced) {
            for conn in neighbours {
                let unknown = news.iter().filter(|(_, knowing)| !knowing.contains(conn));
                let names: BTreeSet<PeerName> = unknown.map(|(name, _)| *name).collect();
                for known in self.channel(channel).announcements(&names).into_iter().filter(|_| !names.is_empty()) {
                    self.say(*conn, ControlMessage::Announcement { channel, known });
                }
            }
        }
    }

    /// Asks a neighbour for what it knows of these origins.
    fn ask(&mut self, conn: ConnId, channel: ChannelId, names: &[PeerName], now: Time) {
        if names.len() > ASK_MAX {
            return self.owe_digest(conn, channel, true, now);
        }
        for name in names {
            let asked = self.asked.get(&(channel, *name));
            if asked.is_none_or(|at| now.since(*at) >= ASK_AGAIN) {
                self.ask_for(conn, channel, *name, now);
            }
        }
    }

    fn ask_for(&mut self, conn: ConnId, channel: ChannelId, name: PeerName, now: Time) {
        self.asked.insert((channel, name), now);
        let digest = self.channel(channel).digest_of(name);
        self.say(conn, ControlMessage::Digest { channel, digest });
    }

    fn owe_digest(&mut self, conn: ConnId, channel: ChannelId, is_whole: bool, now: Time) {
        let spaced = self.spaced.get(&channel).copied().filter(|_| self.tree.is_some()).unwrap_or(Time::ZERO);
        let owed = self.owed.entry((conn, channel)).or_insert(Owed { due: None, is_whole, sent: Time::ZERO });
        owed.is_whole |= is_whole;
        let earliest = if owed.sent == Time::ZERO { now } else { owed.sent + DIGEST_INTERVAL };
        let due = *owed.due.get_or_insert(earliest.max(now).max(spaced));
        self.spaced.insert(channel, due.max(spaced) + DIGEST_SPACING);
        self.owed_due = Some(self.owed_due.map_or(due, |earlier| earlier.min(due)));
    }

    fn refuse(&mut self, error: &dyn std::error::Error) -> String {
        self.refused += 1;
        error.to_string()
    }

    /// Tells all something of our own.
    fn flood(&mut self, channel: ChannelId, delta: Vec<u8>) {
        self.send_on(channel, [self.name], delta, None);
    }

    fn send_on(
        &mut self,
        channel: ChannelId,
        news: impl IntoIterator<Item = PeerName>,
        delta: Vec<u8>,
        except: Option<ConnId>,
    ) {
        if self.tree.is_some() {
            let unannounced = self.unannounced.entry(channel).or_default();
            unannounced.extend(news.into_iter().map(|name| (name, except.into_iter().collect())));
        }
        self.messages.push_back((To::Tree(except), ControlMessage::Delta { channel, delta }));
    }

    fn say(&mut self, conn: ConnId, message: ControlMessage) {
        self.messages.push_back((To::One(conn), message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: PeerName = PeerName([1; 6]);
    const NEW: PeerName = PeerName([2; 6]);
    const CHANNEL: ChannelId = ChannelId::Endpoints;

    /// Who was sent a digest since last asked.
    fn asked(exchange: &mut Exchange) -> Vec<ConnId> {
        let messages = std::iter::from_fn(|| exchange.poll_message());
        messages
            .filter_map(
                |sent| if let (To::One(conn), ControlMessage::Digest { .. }) = sent { Some(conn) } else { None },
            )
            .collect()
    }

    #[test]
    fn who_answers_is_asked_also_when_another_one_was_a_moment_ago() {
        let mut exchange = Exchange::new(OWN, Incarnation(1), Entropy::seeded([1; 32]));
        exchange.set_tree(Some(BTreeSet::new()));
        let known = Replica::<Mac, Claim>::new(NEW, Incarnation(1));
        let now = Time::ZERO + Duration::from_secs(1);
        let announcement = known.announcements(&BTreeSet::from([NEW])).remove(0);
        exchange.announced(ConnId(1), CHANNEL, &announcement, now).unwrap();
        exchange.announced(ConnId(2), CHANNEL, &announcement, now).unwrap();
        assert_eq!(asked(&mut exchange), [ConnId(1)], "one of many who announce it");
        let digest = known.digest(|_| true).remove(0);
        exchange.digest(ConnId(3), CHANNEL, &digest, |_, _| true, now).unwrap();
        assert_eq!(asked(&mut exchange), [ConnId(3)], "which may be dead, and this one is not");
    }
}
