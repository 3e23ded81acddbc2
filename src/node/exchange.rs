//! The replicated channels and what neighbours say about them: hashes, digests, deltas.
//!
//! What changed is flooded at once; every half minute neighbours compare eight bytes, and repair what was missed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::connections::Connections;
use crate::{
    entropy::Entropy,
    gossip::{
        ChannelId,
        message::ControlMessage,
        origin::Incarnation,
        replica::{Merged, Replica},
    },
    id::{ConnId, Mac, PeerName},
    switch::table::{Change, Endpoints},
    time::Time,
    topology::record::{PeerRecord, Topology},
};

/// Between comparisons with all neighbours; jittered by a quarter.
const COMPARE_INTERVAL: Duration = Duration::from_secs(30);
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
    /// All neighbours but the one that it came from.
    AllBut(Option<ConnId>),
}

/// The channels.
#[derive(Debug)]
pub(super) struct Exchange {
    name: PeerName,
    entropy: Entropy,
    topology: Topology,
    endpoints: Endpoints,
    messages: VecDeque<(To, ControlMessage)>,
    /// Deltas merged lately, without a gap. To merge them again would change nothing.
    seen: VecDeque<(ChannelId, Vec<u8>)>,
    changed_peers: BTreeSet<PeerName>,
    changed_stations: BTreeSet<(PeerName, Mac)>,
    owed: BTreeMap<(ConnId, ChannelId), Owed>,
    compare_at: Time,
    restarts: u32,
    /// Messages refused so far.
    pub(super) refused: u64,
}

/// A digest to be sent to a neighbour, no more often than [`DIGEST_INTERVAL`].
#[derive(Debug)]
struct Owed {
    due: Option<Time>,
    /// When the last one went; zero for never.
    sent: Time,
}

impl Exchange {
    pub(super) fn new(name: PeerName, incarnation: Incarnation, entropy: Entropy) -> Self {
        Self {
            name,
            entropy,
            topology: Replica::new(name, incarnation),
            endpoints: Replica::new(name, incarnation),
            messages: VecDeque::new(),
            seen: VecDeque::new(),
            changed_peers: BTreeSet::new(),
            changed_stations: BTreeSet::new(),
            compare_at: Time::ZERO + COMPARE_INTERVAL,
            owed: BTreeMap::new(),
            restarts: 0,
            refused: 0,
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The next message to send.
    pub(super) fn poll_message(&mut self) -> Option<(To, ControlMessage)> {
        self.messages.pop_front()
    }

    /// Peers whose records changed since last asked.
    pub(super) fn take_changed_peers(&mut self) -> BTreeSet<PeerName> {
        std::mem::take(&mut self.changed_peers)
    }

    /// Stations of others that changed since last asked.
    pub(super) fn take_changed_stations(&mut self) -> BTreeSet<(PeerName, Mac)> {
        std::mem::take(&mut self.changed_stations)
    }

    /// Tells all what we are now.
    pub(super) fn set_record(&mut self, record: PeerRecord) {
        // A record with at most LINKS_MAX links and ADDRESSES_MAX addresses always fits.
        if let Ok(Some(delta)) = self.topology.set((), record) {
            self.changed_peers.insert(self.name);
            self.flood(ChannelId::Topology, delta, None);
        }
    }

    /// Tells all that a station is here, or not any more.
    pub(super) fn share(&mut self, change: Change) {
        let delta = match change {
            // The table holds no more stations, and no larger claims, than the replica takes.
            Change::Set(mac, claim) => self.endpoints.set(mac, claim).ok().flatten(),
            Change::Remove(mac) => self.endpoints.remove(&mac),
        };
        if let Some(delta) = delta {
            self.flood(ChannelId::Endpoints, delta, None);
        }
    }

    /// A connection came up: say where we see the other side, and what we know.
    pub(super) fn greet(&mut self, conn: ConnId, remote: SocketAddr, now: Time) {
        self.say(conn, ControlMessage::Observed { address: remote });
        for channel in ChannelId::ALL {
            self.owe_digest(conn, channel, now);
        }
    }

    /// A neighbour told its hash: if ours differs, it is told our digest.
    pub(super) fn digest_hash(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        hash: u64,
        include: impl Fn(PeerName) -> bool,
        now: Time,
    ) {
        let ours = match channel {
            ChannelId::Topology => self.topology.digest_hash(include),
            ChannelId::Endpoints => self.endpoints.digest_hash(include),
        };
        if ours != hash {
            self.owe_digest(conn, channel, now);
        }
    }

    /// A neighbour told its digest: it gets what it lacks, and is asked for what we lack.
    pub(super) fn digest(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        digest: &[u8],
        include: impl Fn(PeerName) -> bool,
        now: Time,
    ) -> Result<(), String> {
        let repair = match channel {
            ChannelId::Topology => self.topology.delta_since(digest, include),
            ChannelId::Endpoints => self.endpoints.delta_since(digest, include),
        };
        let repair = repair.map_err(|error| self.refuse(&error))?;
        for delta in repair.deltas {
            self.say(conn, ControlMessage::Delta { channel, delta });
        }
        if repair.behind {
            self.owe_digest(conn, channel, now);
        }
        Ok(())
    }

    /// A neighbour told changes: what is new is passed on to all others.
    pub(super) fn delta(&mut self, conn: ConnId, channel: ChannelId, delta: &[u8], now: Time) -> Result<(), String> {
        if self.seen.iter().any(|(of, seen)| *of == channel && seen == delta) {
            return Ok(());
        }
        match channel {
            ChannelId::Topology => {
                let merged = self.topology.merge(delta).map_err(|error| self.refuse(&error))?;
                let own_restart = self.pass_on(conn, channel, delta, &merged, now);
                self.changed_peers.extend(merged.changed.into_iter().map(|(peer, _)| peer));
                if let Some(above) = own_restart {
                    let deltas = self.topology.restart(above, &self.entropy);
                    self.flood_all(channel, deltas);
                }
            }
            ChannelId::Endpoints => {
                let merged = self.endpoints.merge(delta).map_err(|error| self.refuse(&error))?;
                let own_restart = self.pass_on(conn, channel, delta, &merged, now);
                let stations =
                    merged.changed.into_iter().flat_map(|(peer, macs)| macs.into_iter().map(move |mac| (peer, mac)));
                self.changed_stations.extend(stations);
                if let Some(above) = own_restart {
                    let deltas = self.endpoints.restart(above, &self.entropy);
                    self.flood_all(channel, deltas);
                }
            }
        }
        Ok(())
    }

    /// Forgets a peer's record.
    pub(super) fn forget(&mut self, peer: PeerName) {
        self.seen.clear();
        self.topology.remove_origin(peer);
    }

    /// Forgets a peer's stations; returns them.
    pub(super) fn forget_stations(&mut self, peer: PeerName) -> Vec<Mac> {
        self.seen.clear();
        self.endpoints.remove_origin(peer)
    }

    /// Sends digests that are owed, and compares with all neighbours now and then.
    pub(super) fn handle_timeout(&mut self, connections: &Connections, include: impl Fn(PeerName) -> bool, now: Time) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<_> =
            self.owed.extract_if(.., |_, owed| owed.due.is_some_and(|due| due <= now)).map(|(key, _)| key).collect();
        for (conn, channel) in due {
            let digests = match channel {
                ChannelId::Topology => self.topology.digest(&include),
                ChannelId::Endpoints => self.endpoints.digest(&include),
            };
            for digest in digests {
                self.say(conn, ControlMessage::Digest { channel, digest });
            }
            self.owed.insert((conn, channel), Owed { due: None, sent: now });
        }
        if now >= self.compare_at {
            self.compare_at = now + COMPARE_INTERVAL.mul_f64(0.75 + self.entropy.fraction() / 2.0);
            self.owed.retain(|(conn, _), _| connections.peer(*conn).is_some());
            let hashes = [
                (ChannelId::Topology, self.topology.digest_hash(&include)),
                (ChannelId::Endpoints, self.endpoints.digest_hash(&include)),
            ];
            for (channel, hash) in hashes {
                self.messages.push_back((To::AllBut(None), ControlMessage::DigestHash { channel, hash }));
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let owed = self.owed.values().filter_map(|owed| owed.due).min();
        Some(owed.map_or(self.compare_at, |owed| owed.min(self.compare_at)))
    }

    /// Floods what was new, and asks for what is missing; returns a later life of ours that others know of.
    fn pass_on<K>(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        delta: &[u8],
        merged: &Merged<K>,
        now: Time,
    ) -> Option<Incarnation> {
        if let Some(delta) = &merged.forward {
            self.flood(channel, delta.clone(), Some(conn));
        }
        if merged.gap {
            self.owe_digest(conn, channel, now);
        } else if delta.len() <= SEEN_LEN_MAX {
            self.seen.truncate(SEEN_MAX - 1);
            self.seen.push_front((channel, delta.to_vec()));
        }
        let above = merged.outdated_self?;
        self.restarts += 1;
        (self.restarts <= RESTARTS_MAX).then_some(above)
    }

    fn owe_digest(&mut self, conn: ConnId, channel: ChannelId, now: Time) {
        let owed = self.owed.entry((conn, channel)).or_insert(Owed { due: None, sent: Time::ZERO });
        let earliest = if owed.sent == Time::ZERO { now } else { owed.sent + DIGEST_INTERVAL };
        owed.due.get_or_insert(earliest.max(now));
    }

    fn refuse(&mut self, error: &dyn std::error::Error) -> String {
        self.refused += 1;
        error.to_string()
    }

    fn flood_all(&mut self, channel: ChannelId, deltas: Vec<Vec<u8>>) {
        for delta in deltas {
            self.flood(channel, delta, None);
        }
    }

    fn flood(&mut self, channel: ChannelId, delta: Vec<u8>, except: Option<ConnId>) {
        self.messages.push_back((To::AllBut(except), ControlMessage::Delta { channel, delta }));
    }

    fn say(&mut self, conn: ConnId, message: ControlMessage) {
        self.messages.push_back((To::One(conn), message));
    }
}
