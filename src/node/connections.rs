//! Control connections: handshakes, keep-alive, and which of several to one peer stays.
//!
//! ```text
//!   Handshaking ──accepted──────────────────────▶ Up
//!        ├── dialled ─▶ Welcomed ──first message──▶ ▲
//!        └── same peer, other run ─▶ Contested ─────┘ the old one did not answer
//!                                        └─ the old one answered: it is a copy, refuse the new
//! ```
//! Who dialled waits for the first message: until then the other side may have no room, and nobody shall be told of a
//! link that never was.
//! A second connection to a peer in the same run is settled by rule, the same on both sides. One that shows another run of
//! the peer is either the peer restarted, and then the old connection is dead, or a copy of its data directory on another
//! host, and then the old one is alive: it is asked.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use super::{input::Target, output::Output};
use crate::{
    api::Direction,
    connect::{End, EndKind},
    control::{
        preface::{ANNOUNCEMENTS, RANGES},
        refusal::{Refusal, RefusalCode},
        session::{ControlConfig, Session, SessionEvent},
    },
    crypto::identity::PublicKey,
    entropy::Entropy,
    gossip::{hello::Hello, message::ControlMessage},
    id::{ConnId, PeerName, Uid},
    time::Time,
};

/// From the first byte to an established session.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked whether it lives when nothing came for this long, and given up after the other.
const PING_AFTER: Duration = Duration::from_secs(3);
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// How long an old connection has to answer while a new one of another run of its peer waits.
const CONTEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages kept of a connection that is contested; more do not come in a second from a peer that has just started.
const BACKLOG_MAX: usize = 256;
/// Handshakes under way at once that others began; the oldest goes.
const INBOUND_HANDSHAKES_MAX: usize = 256;

/// What happened on a control connection.
#[derive(Debug)]
pub(super) enum ConnectionEvent {
    /// It is established, and the only one with its peer.
    Up(ConnId),
    /// A message of this peer arrived on an established one, which may have ended since.
    Message(ConnId, PeerName, ControlMessage),
    /// It ended, or never came to be.
    Ended(Ended),
}

/// The end of a connection.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) conn: ConnId,
    pub(super) peer: Option<PeerName>,
    /// Its address, or the target's text.
    pub(super) remote: String,
    pub(super) end: End,
    /// Whether it had been up.
    pub(super) was_up: bool,
}

/// The other side of an established connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    pub(super) public: PublicKey,
    pub(super) uid: Uid,
    pub(super) hello: Hello,
    /// It knows announcements, so that it need not be sent everything by everybody.
    pub(super) takes_announcements: bool,
    /// It knows ranges, so that it need not be sent whole digests where little differs.
    pub(super) takes_ranges: bool,
}

#[derive(Debug)]
enum State {
    Dialling,
    Handshaking { until: Time },
    Welcomed { peer: Peer, until: Time },
    Contested { peer: Peer, old: ConnId, until: Time, backlog: Vec<Vec<u8>> },
    Up { peer: Peer, pinged: bool },
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) direction: Direction,
    pub(super) remote: Option<SocketAddr>,
    /// The other side as people know it before it has an address.
    target: String,
    session: Option<Session>,
    state: State,
    heard_at: Time,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Connections {
    config: Arc<ControlConfig>,
    entropy: Entropy,
    connections: BTreeMap<ConnId, Connection>,
    /// No connection is due before: there may be hundreds, and something is heard from one of them all the time.
    due: Option<Time>,
    outputs: VecDeque<Output>,
    events: VecDeque<ConnectionEvent>,
}

impl Connections {
    /// None yet.
    pub(super) fn new(config: ControlConfig, entropy: Entropy) -> Self {
        Self {
            config: Arc::new(config),
            entropy,
            connections: BTreeMap::new(),
            due: None,
            outputs: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether nothing waits to be looked at.
    pub(super) fn is_quiet(&self) -> bool {
        self.events.is_empty()
    }

    /// The next thing to send.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next thing that happened.
    pub(super) fn poll_event(&mut self) -> Option<ConnectionEvent> {
        self.events.pop_front()
    }

    /// Those that are up, with their peers.
    pub(super) fn up(&self) -> impl Iterator<Item = (ConnId, &Connection, &Peer)> {
        self.connections.iter().filter_map(|(conn, connection)| Some((*conn, connection, connection.peer()?)))
    }

    /// When something came last on the connection with `peer` that is up.
    pub(super) fn heard_at(&self, peer: PeerName) -> Option<Time> {
        self.up().find(|(.., other)| other.name == peer).map(|(_, connection, _)| connection.heard_at)
    }

    /// Which life of `peer` a connection is up with.
    pub(super) fn uid(&self, peer: PeerName) -> Option<Uid> {
        self.up().find(|(.., other)| other.name == peer).map(|(.., other)| other.uid)
    }

    /// The peer of a connection that is up.
    pub(super) fn peer(&self, conn: ConnId) -> Option<&Peer> {
        self.connections.get(&conn)?.peer()
    }

    /// A connection by its number.
    pub(super) fn get(&self, conn: ConnId) -> Option<&Connection> {
        self.connections.get(&conn)
    }

    /// Those that are neither up nor being dialled: handshakes under way.
    pub(super) fn handshaking(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        let is_handshaking = |c: &Connection| match c.state {
            State::Handshaking { .. } | State::Welcomed { .. } | State::Contested { .. } => true,
            State::Dialling | State::Up { .. } => false,
        };
        self.connections.iter().filter(move |(_, c)| is_handshaking(c)).map(|(conn, c)| (*conn, c))
    }

    /// The node decided to dial.
    pub(super) fn dialling(&mut self, conn: ConnId, target: &Target, now: Time) {
        let connection = Connection::new(Direction::Outbound, None, None, State::Dialling, now);
        self.connections.insert(conn, Connection { target: target.to_string(), ..connection });
    }

    /// A dialled connection is open.
    pub(super) fn connected(&mut self, conn: ConnId, remote: SocketAddr, now: Time) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return self.outputs.push_back(Output::Close { conn });
        };
        connection.remote = Some(remote);
        connection.session = Some(Session::initiator(&self.config, &self.entropy));
        connection.state = State::Handshaking { until: now + HANDSHAKE_TIMEOUT };
        self.expect(now + HANDSHAKE_TIMEOUT);
        self.flush(conn);
    }

    /// Somebody dialled us.
    pub(super) fn accepted(&mut self, conn: ConnId, remote: SocketAddr, now: Time) {
        let inbound = self.handshaking().filter(|(_, c)| c.direction == Direction::Inbound);
        let inbound: Vec<ConnId> = inbound.map(|(conn, _)| conn).collect();
        if let Some(oldest) = inbound.first().filter(|_| inbound.len() >= INBOUND_HANDSHAKES_MAX) {
            self.end(*oldest, EndKind::Broken, "too many handshakes under way");
        }
        let session = Session::responder(&self.config, &self.entropy);
        let state = State::Handshaking { until: now + HANDSHAKE_TIMEOUT };
        self.connections.insert(conn, Connection::new(Direction::Inbound, Some(remote), Some(session), state, now));
        self.expect(now + HANDSHAKE_TIMEOUT);
        self.flush(conn);
    }

    /// Bytes arrived; `admits` says whether a connection with a peer is wanted.
    pub(super) fn received(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        admits: impl Fn(ConnId, PeerName) -> bool,
        now: Time,
    ) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(session) = &mut connection.session else { return };
        let result = session.handle(bytes);
        self.flush(conn);
        self.drain_session(conn, admits, now);
        if let Err(refusal) = result {
            let kind = match (&refusal, self.connections.get(&conn).map(|connection| &connection.state)) {
                (Refusal::RefusedByPeer(RefusalCode::AlreadyConnected), Some(State::Welcomed { peer, .. })) => {
                    EndKind::Duplicate(peer.name)
                }
                _ => kind_of(&refusal),
            };
            self.end(conn, kind, &refusal.to_string());
        }
    }

    /// The system says that it is over.
    pub(super) fn closed(&mut self, conn: ConnId, reason: &str) {
        if let Some(connection) = self.connections.remove(&conn) {
            self.report_end(conn, connection, EndKind::Broken, reason);
        }
    }

    /// Sends a message; false if the connection is not up.
    pub(super) fn send(&mut self, conn: ConnId, message: &ControlMessage) -> bool {
        self.send_encoded(conn, &message.encode())
    }

    /// The same with the message in its encoded form.
    pub(super) fn send_encoded(&mut self, conn: ConnId, message: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&conn).filter(|c| matches!(c.state, State::Up { .. })) else {
            return false;
        };
        let sent = connection.session.as_mut().is_some_and(|session| session.send(message).is_ok());
        self.flush(conn);
        sent
    }

    /// Ends a connection, telling the other side why.
    pub(super) fn refuse(&mut self, conn: ConnId, code: RefusalCode, kind: EndKind, reason: &str) {
        if let Some(session) = self.connections.get_mut(&conn).and_then(|c| c.session.as_mut()) {
            session.refuse(code);
            self.flush(conn);
        }
        self.end(conn, kind, reason);
    }

    /// Pings the quiet, ends the dead, settles contests.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let due: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for conn in due {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            match &mut connection.state {
                State::Dialling => {}
                State::Handshaking { .. } | State::Welcomed { .. } => {
                    self.end(conn, EndKind::Broken, "handshake timed out");
                }
                State::Contested { old, .. } => {
                    let old = *old;
                    self.end(old, EndKind::Broken, "replaced: the peer was started anew");
                    self.win_contest(conn, now);
                }
                State::Up { pinged, .. } if now.since(connection.heard_at) < DEAD_AFTER => {
                    *pinged = true;
                    self.send(conn, &ControlMessage::Ping { nonce: 0 });
                }
                State::Up { .. } => {
                    self.end(conn, EndKind::Broken, &format!("no answer for {} s", DEAD_AFTER.as_secs()))
                }
            }
        }
        self.due = self.connections.values().filter_map(Connection::deadline).min();
    }

    /// When [`Self::handle_timeout`] may have something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// A connection is due then, if not earlier.
    fn expect(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn drain_session(&mut self, conn: ConnId, admits: impl Fn(ConnId, PeerName) -> bool, now: Time) {
        loop {
            let Some(connection) = self.connections.get_mut(&conn) else { return };
            let Some(event) = connection.session.as_mut().and_then(Session::poll_event) else { return };
            match event {
                SessionEvent::Established { public, name, uid, hello, capabilities, .. } => match Hello::decode(&hello)
                {
                    Ok(hello) => {
                        let takes_announcements = capabilities & ANNOUNCEMENTS != 0;
                        let takes_ranges = capabilities & RANGES != 0;
                        let peer = Peer { name, public, uid, hello, takes_announcements, takes_ranges };
                        self.established(conn, peer, admits(conn, name), now);
                    }
                    Err(error) => {
                        self.refuse(conn, RefusalCode::Malformed, EndKind::Refused, &error.to_string());
                    }
                },
                SessionEvent::Message(bytes) => self.message(conn, &bytes, now),
            }
        }
    }

    fn established(&mut self, conn: ConnId, peer: Peer, is_admitted: bool, now: Time) {
        let rival = self.up().find(|(_, _, other)| other.name == peer.name);
        let rival = rival.map(|(id, connection, other)| (id, connection.direction, other.uid));
        let contested = self
            .connections
            .values()
            .any(|c| matches!(&c.state, State::Contested { peer: other, .. } if other.name == peer.name));
        match rival {
            _ if contested => {
                let reason = "another connection with this peer is being looked at";
                self.refuse(conn, RefusalCode::AlreadyConnected, EndKind::Broken, reason);
            }
            Some((old, _, uid)) if uid != peer.uid => self.contest(conn, peer, old, now),
            Some((old, direction, _)) => self.settle(conn, peer, old, direction, now),
            None if !is_admitted => {
                let reason = "connection limit reached here (--conn-limit)";
                self.refuse(conn, RefusalCode::ConnectionLimit, EndKind::Full, reason);
            }
            None => self.come_up_when_wanted(conn, peer, now),
        }
    }

    /// Up at once if the other side dialled; else when its first message shows that it wants us.
    fn come_up_when_wanted(&mut self, conn: ConnId, peer: Peer, now: Time) {
        match self.connections.get_mut(&conn) {
            Some(Connection { state: state @ State::Handshaking { .. }, direction: Direction::Outbound, .. }) => {
                *state = State::Welcomed { peer, until: now + HANDSHAKE_TIMEOUT };
                self.expect(now + HANDSHAKE_TIMEOUT);
            }
            Some(_) | None => self.come_up(conn, peer, now),
        }
    }

    /// Two connections with one run of a peer: of one direction the newer stays, as nobody dials twice unless the first is
    /// lost; of two directions the one that the smaller name dialled.
    fn settle(&mut self, conn: ConnId, peer: Peer, old: ConnId, old_direction: Direction, now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let ours_is_smaller = self.config.identity.name() < peer.name;
        let dialled_by_smaller = (connection.direction == Direction::Outbound) == ours_is_smaller;
        if connection.direction == old_direction || dialled_by_smaller {
            let reason = "replaced by another connection with this peer";
            self.refuse(old, RefusalCode::AlreadyConnected, EndKind::Duplicate(peer.name), reason);
            self.come_up(conn, peer, now);
        } else {
            let reason = "already connected with this peer";
            self.refuse(conn, RefusalCode::AlreadyConnected, EndKind::Duplicate(peer.name), reason);
        }
    }

    fn contest(&mut self, conn: ConnId, peer: Peer, old: ConnId, now: Time) {
        self.send(old, &ControlMessage::Ping { nonce: conn.0 });
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.state = State::Contested { peer, old, until: now + CONTEST_TIMEOUT, backlog: Vec::new() };
            self.expect(now + CONTEST_TIMEOUT);
        }
    }

    fn win_contest(&mut self, conn: ConnId, now: Time) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let State::Contested { peer, backlog, .. } = &mut connection.state else { return };
        let (peer, backlog) = (peer.clone(), std::mem::take(backlog));
        self.come_up(conn, peer, now);
        for bytes in backlog {
            self.message(conn, &bytes, now);
        }
    }

    fn come_up(&mut self, conn: ConnId, peer: Peer, now: Time) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.state = State::Up { peer, pinged: false };
            connection.heard_at = now;
            self.expect(now + PING_AFTER);
            self.events.push_back(ConnectionEvent::Up(conn));
        }
    }

    fn message(&mut self, conn: ConnId, bytes: &[u8], now: Time) {
        if let Some(State::Welcomed { peer, .. }) = self.connections.get(&conn).map(|connection| &connection.state) {
            self.established(conn, peer.clone(), true, now);
        }
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let peer = match &mut connection.state {
            State::Up { pinged, peer, .. } => {
                *pinged = false;
                peer.name
            }
            // The other side does not know that it is contested.
            State::Contested { backlog, .. } if backlog.len() < BACKLOG_MAX => return backlog.push(bytes.to_vec()),
            State::Contested { .. } | State::Welcomed { .. } | State::Handshaking { .. } | State::Dialling => return,
        };
        connection.heard_at = now;
        match ControlMessage::decode(bytes) {
            Ok(Some(ControlMessage::Ping { nonce })) => {
                self.send(conn, &ControlMessage::Pong { nonce });
            }
            Ok(Some(ControlMessage::Pong { nonce })) => self.lose_contest(conn, nonce),
            Ok(Some(message)) => self.events.push_back(ConnectionEvent::Message(conn, peer, message)),
            // Of a newer version.
            Ok(None) => {}
            Err(error) => self.refuse(conn, RefusalCode::Malformed, EndKind::Broken, &error.to_string()),
        }
    }

    /// The old connection answered, so the new one is of a copy.
    fn lose_contest(&mut self, old: ConnId, nonce: u64) {
        let contested = self.connections.get(&ConnId(nonce)).map(|connection| &connection.state);
        if matches!(contested, Some(State::Contested { old: rival, .. }) if *rival == old) {
            let reason = "cloned identity: another router with the same key is connected; give each host a data directory of its own";
            self.refuse(ConnId(nonce), RefusalCode::ClonedIdentity, EndKind::Refused, reason);
        }
    }

    fn end(&mut self, conn: ConnId, kind: EndKind, reason: &str) {
        if let Some(connection) = self.connections.remove(&conn) {
            self.outputs.push_back(Output::Close { conn });
            self.report_end(conn, connection, kind, reason);
        }
    }

    fn report_end(&mut self, conn: ConnId, connection: Connection, kind: EndKind, reason: &str) {
        self.events.push_back(ConnectionEvent::Ended(Ended {
            conn,
            peer: connection.peer().map(|peer| peer.name),
            was_up: connection.peer().is_some(),
            remote: connection.remote.map_or(connection.target, |remote| remote.to_string()),
            end: End { kind, reason: reason.to_owned() },
        }));
    }

    fn flush(&mut self, conn: ConnId) {
        let Some(session) = self.connections.get_mut(&conn).and_then(|connection| connection.session.as_mut()) else {
            return;
        };
        while let Some(bytes) = session.poll_transmit() {
            self.outputs.push_back(Output::Send { conn, bytes });
        }
    }
}

impl Connection {
    fn new(
        direction: Direction,
        remote: Option<SocketAddr>,
        session: Option<Session>,
        state: State,
        now: Time,
    ) -> Self {
        Self { direction, remote, target: String::new(), session, state, heard_at: now }
    }

    fn peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Up { peer, .. } => Some(peer),
            State::Dialling | State::Handshaking { .. } | State::Welcomed { .. } | State::Contested { .. } => None,
        }
    }

    fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Dialling => None,
            State::Handshaking { until } | State::Welcomed { until, .. } | State::Contested { until, .. } => {
                Some(*until)
            }
            State::Up { pinged: false, .. } => Some(self.heard_at + PING_AFTER),
            State::Up { pinged: true, .. } => Some(self.heard_at + DEAD_AFTER),
        }
    }
}

/// What a refusal means for the next try.
fn kind_of(refusal: &Refusal) -> EndKind {
    let by_peer = if let Refusal::RefusedByPeer(code) = refusal { Some(*code) } else { None };
    match by_peer.or(refusal.code()) {
        Some(RefusalCode::Self_) => EndKind::Own,
        Some(RefusalCode::ConnectionLimit) => EndKind::Full,
        Some(RefusalCode::ClonedIdentity) if by_peer.is_none() => EndKind::Own,
        Some(
            RefusalCode::AlreadyConnected | RefusalCode::ShuttingDown | RefusalCode::Malformed | RefusalCode::TooLarge,
        ) => EndKind::Broken,
        Some(
            RefusalCode::WrongSecret
            | RefusalCode::OtherNetwork
            | RefusalCode::NoCommonVersion
            | RefusalCode::ClonedIdentity
            | RefusalCode::SecretMissing
            | RefusalCode::SecretUnexpected
            | RefusalCode::Other(_),
        ) => EndKind::Refused,
        None => EndKind::Broken,
    }
}
