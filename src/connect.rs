//! The connection maker: decides whom to dial and when.
//!
//! ```text
//!             poll_dial              connected
//!   Waiting ────────────▶ Dialling ────────────▶ (a connection to the peer exists: not dialled)
//!      ▲                     │ ended                        │ ended
//!      ├── back-off ─────────┼── broken                     │
//!      ├── half a minute ────┼── refused, or no room        │
//!      │          for ever ──┴── ourselves                  │
//!      └────────────────────────────────────────────────────┘
//! ```
//! It owns targets, discovered peers and their back-off. It does not own connections: the node reports those of both
//! directions, decides between two to the same peer, and sends the dials out.
//!
//! # The limit
//!
//! Connections, of both directions and in the making, are counted together:
//!
//! | connection                                 | made while there are fewer than |
//! |--------------------------------------------|---------------------------------|
//! | dialled because gossip told of the peer    | the limit                       |
//! | accepted from a peer that gossip reaches   | the limit                       |
//! | of the two, with a stranger                | the limit and a quarter         |
//! | accepted as a guest, see [`mesh`]          | the limit and 512 more           |
//! | dialled as a target: somebody wants it     | no bound, one for each target   |
//!
//! A stranger is a peer that gossip does not reach: that is how the halves of a parted network find each other when all
//! their connections are taken. A large mesh does not use up the limit: [`mesh`] says who connects with whom then, and
//! how it comes back to the limit.

mod backoff;
pub mod mesh;
mod place;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

pub use backoff::{GOOD_AFTER, RETRY_FIRST, RETRY_MAX};
use mesh::{FULL_MESH_MAX, GUESTS_MAX, MESH_LIMIT, Mesh};
use place::{KnownPlace, Phase, TargetPlace, Tries};

use crate::{
    entropy::Entropy,
    id::{ConnId, PeerName},
    node::input::Target,
    time::Time,
};

/// Most targets; more are ignored.
pub const TARGETS_MAX: usize = 1024;
/// Most dials at a time, so that a large network is not dialled all at once.
pub const DIALS_MAX: usize = 32;
/// Of two peers that learn of each other the one with the larger name waits this long, so that not both dial.
pub const YIELD: Duration = Duration::from_secs(1);
/// After a discovered peer refused us no other one is dialled for this long, and twice as long after each further one up to
/// a bound: where one has no room few have, and a mesh in which all have enough connections shall be quiet.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(50);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What does not change.
#[derive(Clone, Copy, Debug)]
pub struct MakerConfig {
    /// Our name.
    pub name: PeerName,
    /// Whether to dial peers that only gossip told of.
    pub discovery: bool,
    /// Most connections, of both directions and in the making, but for targets and strangers; 0 for no limit.
    pub conn_limit: usize,
}

/// A dial to send out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// What to call it.
    pub conn: ConnId,
    /// Where.
    pub target: Target,
    /// Who should be there, if that is known.
    pub peer: Option<PeerName>,
}

/// Why a connection or an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// What follows from it.
    pub kind: EndKind,
    /// In words for people.
    pub reason: String,
}

/// What follows from the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// It may work next time: not reachable, broken, timed out, left.
    Broken,
    /// It will not work before somebody changes something: wrong secret, other network, no common version, limit.
    Refused,
    /// There is no room for it, there or here. Who is reached through others is not tried again.
    Full,
    /// It is ourselves, or a copy of us.
    Own,
    /// Another connection to this peer exists, and that one is kept.
    Duplicate(PeerName),
}

/// The connection maker.
#[derive(Clone, Debug)]
pub struct Maker {
    config: MakerConfig,
    targets: BTreeMap<Target, TargetPlace>,
    known: BTreeMap<PeerName, KnownPlace>,
    dials: BTreeMap<ConnId, Goal>,
    connections: BTreeMap<ConnId, Connection>,
    next_conn: u64,
    mesh: Mesh,
    /// Discovered peers that refused us in a row; none is dialled before `paused_until`.
    refusals: u32,
    paused_until: Time,
    /// When the next dial is due, brought up to date by each change: asked far more often than it changes.
    due: Option<Time>,
}

/// What a dial is for.
#[derive(Clone, Debug)]
enum Goal {
    Target(Target),
    Known(PeerName, SocketAddr),
}

/// An established connection.
#[derive(Clone, Copy, Debug)]
struct Connection {
    peer: PeerName,
    since: Time,
}

impl Maker {
    /// A maker with nothing to do.
    pub fn new(config: MakerConfig) -> Self {
        Self {
            config,
            targets: BTreeMap::new(),
            known: BTreeMap::new(),
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_conn: 2,
            mesh: Mesh::default(),
            refusals: 0,
            paused_until: Time::ZERO,
            due: None,
        }
    }

    /// Takes more targets, all to be dialled now; whether the set of targets changed.
    pub fn add_targets(&mut self, targets: impl IntoIterator<Item = Target>, now: Time) -> bool {
        let before = self.targets.len();
        for target in targets {
            if let Some(place) = self.targets.get_mut(&target) {
                place.tries.revive(now);
            } else if self.targets.len() < TARGETS_MAX {
                self.targets.insert(target, TargetPlace { tries: Tries::due_at(now), peer: None });
            }
        }
        self.plan();
        self.targets.len() > before
    }

    /// Forgets targets; connections go on. Returns whether the set of targets changed.
    pub fn forget(&mut self, targets: &[Target]) -> bool {
        let before = self.targets.len();
        self.targets.retain(|target, _| !targets.contains(target));
        self.plan();
        self.targets.len() < before
    }

    /// All targets, in order.
    pub fn targets(&self) -> Vec<Target> {
        self.targets.keys().cloned().collect()
    }

    /// How many targets are others than ourselves, as far as known, and who they are, in order.
    pub fn target_peers(&self) -> (usize, BTreeSet<PeerName>) {
        let others = self.targets.values().filter(|place| !place.tries.is_own());
        let peers: BTreeSet<PeerName> = others.clone().filter_map(|place| place.peer).collect();
        // Several targets may turn out to be one peer.
        let unknown = others.filter(|place| place.peer.is_none()).count();
        (peers.len() + unknown, peers)
    }

    /// Gossip says that `peer` is at `addresses`, most likely first.
    pub fn set_known(&mut self, peer: PeerName, addresses: Vec<SocketAddr>, now: Time) {
        if peer == self.config.name {
            return;
        }
        let wait = if self.config.name > peer { YIELD } else { Duration::ZERO };
        let place = self.known.entry(peer).or_insert_with(|| KnownPlace::new(now + wait));
        if place.set_addresses(addresses, now) {
            self.mesh.count(self.known.len());
            // Whom to dial is looked at now and then in a large mesh.
            if !self.is_choosy() || self.mesh.wanted.contains(&peer) {
                self.plan();
            }
        }
    }

    /// Gossip knows `peer` no more.
    pub fn remove_known(&mut self, peer: PeerName) {
        self.known.remove(&peer);
        self.mesh.count(self.known.len());
        self.plan();
    }

    /// A connection of either direction is established with `peer`.
    pub fn connected(&mut self, conn: ConnId, peer: PeerName, now: Time, entropy: &Entropy) {
        self.met(conn, peer, now, now, entropy);
        self.connections.insert(conn, Connection { peer, since: now });
        self.refusals = 0;
        self.mesh.disturb(now);
        for tries in self.tries_at(peer) {
            tries.succeed(now);
        }
        self.plan();
    }

    /// A connection that was dialled or established is no more; unknown ones are ignored.
    pub fn ended(&mut self, conn: ConnId, end: &End, now: Time, entropy: &Entropy) {
        self.mesh.disturb(now);
        if let Some(Connection { peer, since }) = self.connections.remove(&conn) {
            if !self.is_connected(peer) {
                self.tries_at(peer).for_each(|tries| tries.lose(since, end, now, entropy));
            }
        } else if let EndKind::Duplicate(peer) = end.kind {
            // The connection that is kept may still be in its handshake.
            self.met(conn, peer, now, now + RETRY_FIRST, entropy);
        } else {
            self.failed(conn, end, now, entropy);
        }
        self.plan();
    }

    /// The host's addresses changed: what failed may work now.
    pub fn network_changed(&mut self, now: Time) {
        self.targets.values_mut().for_each(|place| place.tries.revive(now));
        self.known.values_mut().for_each(|place| place.revive(now));
        self.paused_until = now;
        self.plan();
    }

    /// Whether `conn`, of either direction, may be established. Dials are ours and counted already. A stranger is a peer
    /// that gossip does not reach: of another part of the network, or new.
    pub fn admits(&self, conn: ConnId, is_stranger: bool) -> bool {
        let limit = self.limit();
        let slack = if is_stranger { guest_slack(limit) } else { 0 };
        self.dials.contains_key(&conn) || self.count() < limit.saturating_add(slack)
    }

    /// The next dial to send out, targets first; None when there is nothing to dial now.
    pub fn poll_dial(&mut self, now: Time) -> Option<Dial> {
        self.due.filter(|due| *due <= now)?;
        let may_discover = self.may_discover() && self.paused_until <= now;
        let known = |maker: &Self| if may_discover { maker.due_known(now) } else { None };
        let goal = self.due_target(now).or_else(|| known(self))?;
        let conn = ConnId(self.next_conn);
        self.next_conn += 2;
        let dial = match &goal {
            Goal::Target(target) => {
                let place = self.targets.get_mut(target)?;
                place.tries.phase = Phase::Dialling(conn);
                Dial { conn, target: target.clone(), peer: place.peer }
            }
            Goal::Known(peer, address) => {
                self.known.get_mut(peer)?.tries.phase = Phase::Dialling(conn);
                Dial { conn, target: Target::from(*address), peer: Some(*peer) }
            }
        };
        self.dials.insert(conn, goal);
        self.plan();
        Some(dial)
    }

    /// When to call [`Self::poll_dial`] next, unless something happens earlier; may be in the past.
    pub fn deadline(&self) -> Option<Time> {
        self.due
    }

    fn plan(&mut self) {
        self.due = if self.dials.len() < DIALS_MAX { self.first_due() } else { None };
    }

    fn first_due(&self) -> Option<Time> {
        let busy = self.busy_peers();
        let targets = self.wanted_targets(&busy).filter_map(|(_, place)| place.tries.due()).min();
        if !self.may_discover() {
            return targets;
        }
        let known = self.wanted_known(&busy).filter_map(|(_, _, place)| place.tries.due()).min();
        targets.into_iter().chain(known.map(|due| due.max(self.paused_until))).min()
    }

    /// Most connections, but for strangers and targets.
    fn limit(&self) -> usize {
        match self.config.conn_limit {
            0 => usize::MAX,
            limit if limit >= MESH_LIMIT && !self.mesh.is_large => limit.max(FULL_MESH_MAX),
            limit => limit,
        }
    }

    /// Connections, also those in the making.
    fn count(&self) -> usize {
        self.dials.len() + self.connections.len()
    }

    /// Whether discovered peers may be dialled at all.
    fn has_room(&self) -> bool {
        self.count() < self.limit()
    }

    /// Whether some may be: strangers also a little above the limit.
    fn may_discover(&self) -> bool {
        let slack = if self.mesh.unreached.is_empty() { 0 } else { stranger_slack(self.limit()) };
        self.count() < self.limit().saturating_add(slack)
    }

    fn is_connected(&self, peer: PeerName) -> bool {
        self.connections.values().any(|connection| connection.peer == peer)
    }

    /// Peers that need no dial: connected, or being dialled.
    fn busy_peers(&self) -> BTreeSet<PeerName> {
        let dialled = self.dials.values().filter_map(|goal| match goal {
            Goal::Target(target) => self.targets.get(target)?.peer,
            Goal::Known(peer, _) => Some(*peer),
        });
        self.connections.values().map(|connection| connection.peer).chain(dialled).collect()
    }

    fn wanted_targets(&self, busy: &BTreeSet<PeerName>) -> impl Iterator<Item = (&Target, &TargetPlace)> {
        let is_reached = |peer: &PeerName| self.known.contains_key(peer) && !self.mesh.unreached.contains(peer);
        let is_enough = move |place: &TargetPlace| place.tries.is_full() && place.peer.as_ref().is_some_and(is_reached);
        let wanted = self.targets.iter().filter(move |(_, place)| !is_enough(place));
        wanted.filter(|(_, place)| place.peer.is_none_or(|peer| !busy.contains(&peer)))
    }

    fn wanted_known(&self, busy: &BTreeSet<PeerName>) -> impl Iterator<Item = (PeerName, SocketAddr, &KnownPlace)> {
        let (is_choosy, has_room) = (self.is_choosy(), self.has_room());
        let all = self.known.keys().filter(move |_| self.config.discovery && !is_choosy);
        let chosen = self.mesh.wanted.iter().filter(move |_| is_choosy);
        let chosen = chosen.filter(move |peer| has_room || self.mesh.unreached.contains(peer));
        let peers = all.chain(chosen).filter(|peer| !busy.contains(peer));
        peers.filter_map(|peer| self.known.get(peer).and_then(|place| Some((*peer, place.address()?, place))))
    }

    /// The target that waits longest of those that are due.
    fn due_target(&self, now: Time) -> Option<Goal> {
        let busy = self.busy_peers();
        let due = self.wanted_targets(&busy).filter(|(_, place)| place.tries.is_due(now));
        due.min_by_key(|(_, place)| place.tries.due()).map(|(target, _)| Goal::Target(target.clone()))
    }

    fn due_known(&self, now: Time) -> Option<Goal> {
        let busy = self.busy_peers();
        let due = self.wanted_known(&busy).filter(|(_, _, place)| place.tries.is_due(now));
        due.min_by_key(|(_, _, place)| place.tries.due()).map(|(peer, address, _)| Goal::Known(peer, address))
    }

    /// The tries at `peer` that are not dials on their way.
    fn tries_at(&mut self, peer: PeerName) -> impl Iterator<Item = &mut Tries> {
        let targets = self.targets.values_mut().filter(move |place| place.peer == Some(peer));
        let known = self.known.get_mut(&peer).map(|place| &mut place.tries);
        targets.map(|place| &mut place.tries).chain(known).filter(|tries| !tries.is_dialling())
    }

    /// `peer` answered on `conn`: if we dialled it, that found somebody. Not to be dialled again before `due`.
    fn met(&mut self, conn: ConnId, peer: PeerName, now: Time, due: Time, entropy: &Entropy) {
        match self.dials.remove(&conn) {
            Some(Goal::Target(target)) => {
                if let Some(place) = self.targets.get_mut(&target) {
                    place.peer = Some(peer);
                    place.tries.succeed(due);
                }
            }
            Some(Goal::Known(expected, address)) => match self.known.get_mut(&expected) {
                Some(place) if expected == peer => place.tries.succeed(due),
                Some(place) => place.is_not_at(address, now, entropy),
                None => {}
            },
            None => {}
        }
    }

    /// The dial `conn` came to nothing. Its place may have been forgotten, or be dialled anew, in the meantime.
    fn failed(&mut self, conn: ConnId, end: &End, now: Time, entropy: &Entropy) {
        match self.dials.remove(&conn) {
            Some(Goal::Target(target)) => {
                if let Some(place) = self.targets.get_mut(&target).filter(|place| place.tries.is_dialling_as(conn)) {
                    place.tries.fail(end, now, entropy);
                }
            }
            Some(Goal::Known(peer, address)) => {
                if matches!(end.kind, EndKind::Refused | EndKind::Full) {
                    let pause = REFUSED_PAUSE.saturating_mul(1 << self.refusals.min(16));
                    self.paused_until = now + pause.min(REFUSED_PAUSE_MAX);
                    self.refusals += 1;
                }
                if let Some(place) = self.known.get_mut(&peer).filter(|place| place.tries.is_dialling_as(conn)) {
                    place.fail(address, end, now, entropy);
                }
            }
            None => {}
        }
    }
}

/// Strangers that are connected with beyond a limit.
fn stranger_slack(limit: usize) -> usize {
    limit.div_ceil(4)
}

/// Strangers that are let in beyond a limit.
fn guest_slack(limit: usize) -> usize {
    stranger_slack(limit).max(if limit >= MESH_LIMIT { GUESTS_MAX } else { 0 })
}

#[cfg(test)]
mod tests;
