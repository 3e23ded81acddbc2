//! One peer as one state machine: [`Node::handle`] an input, then [`Node::poll_output`] until it is quiet, then wake it
//! at [`Node::deadline`]. The daemon, the simulator and the fuzzers all drive this type.
//!
//! ```text
//!  inputs ─▶ connections ──events──▶┐                       ┌─▶ record (told to all)
//!            links ───────changes──▶│ node ─▶ replicas ─────┼─▶ routes ─▶ relays of links
//!            maker, stations ──────▶┘                       └─▶ forwarding snapshot
//! ```
//! Each part is a state machine of its own; this file carries what one of them says to the others, until all are quiet.

mod addresses;
mod advert;
mod channel;
mod connections;
mod exchange;
mod explain;
pub mod input;
mod links;
mod load;
mod names;
pub mod output;
mod plan;
mod report;
mod routes;
mod selector;
mod snapshot;
mod spread;
mod withheld;

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use addresses::Addresses;
use advert::Advert;
use connections::{ConnectionEvent, Connections, Ended, Peer};
use exchange::{Exchange, To};
use input::{Input, Target};
use links::{LinkChange, Links};
use names::Names;
use output::{Event, Output};
use plan::Planner;
use routes::{OwnLink, Routes};

use crate::{
    connect::{EndKind, Maker, MakerConfig, mesh::View},
    control::{
        preface::{ANNOUNCEMENTS, RANGES, Versions},
        refusal::RefusalCode,
        session::ControlConfig,
    },
    crypto::{identity::Identity, session::Cipher},
    entropy::Entropy,
    fastdp::Ability,
    gossip::{ChannelId, hello::Hello, message::ControlMessage, origin::Incarnation},
    id::{ConnId, NetworkName, Nickname, PeerName, Uid},
    ipam::AllocationConfig,
    link::{direct::Change, fast::FastConfig, handshake::LinkConfig},
    secret::NetworkSecret,
    switch::{self, forwarding::Route, table::Table},
    time::Time,
    topology::{cost::Turn, record::Detail},
};

/// Snapshots of a changing mesh are not published more often than this; after a quiet time, at once.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);
/// Nor more often than this for each station and each peer: to write a snapshot and a plan takes about a microsecond for each, and
/// most of the time shall be for what changes them. When a large mesh starts, something changes all the time.
const PUBLISH_PER_STATION: Duration = Duration::from_micros(10);
const PUBLISH_PER_PEER: Duration = Duration::from_micros(100);

/// What a node is, for its whole life.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Version of the program, for reports.
    pub version: String,
    /// The static key pair.
    pub identity: Identity,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// The network.
    pub network: NetworkName,
    /// What people call this peer.
    pub nickname: Nickname,
    /// This run.
    pub uid: Uid,
    /// TCP and UDP port, ours and the default of targets; not 0.
    pub port: u16,
    /// Most control connections; 0 for no limit.
    pub conn_limit: usize,
    /// Whether to connect to peers heard of by gossip.
    pub discovery: bool,
    /// Whether to pass on frames of others.
    pub relay: bool,
    /// Subnets whose peers are trusted with unsealed frames on the fast datapath.
    pub trusted_subnets: Vec<ipnet::IpNet>,
    /// Age at which links renew their keys: [`crate::link::keys::REKEY_AFTER`], or less for tests.
    pub rekey_after: Duration,
    /// Where to connect at first.
    pub targets: Vec<Target>,
    /// What addresses are given out from; None: none are given out.
    pub allocation: Option<AllocationConfig>,
    /// The AEAD that this machine is fastest with.
    pub cipher: Cipher,
    /// Wall-clock time of [`Time::ZERO`], Unix seconds; for reports, and to be later than an earlier run.
    pub started: u64,
}

/// One peer.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    name: PeerName,
    entropy: Entropy,
    connections: Connections,
    links: Links,
    maker: Maker,
    exchange: Exchange,
    table: Table,
    names: Names,
    planner: Planner,
    addresses: Addresses,
    routes: Routes,
    advert: Advert,
    outputs: VecDeque<Output>,
    /// The forwarding snapshot is out of date.
    unpublished: bool,
    /// And it cannot wait: what is about to leave, an answer to a handshake or the word that it came, lets the peer seal with the
    /// new session.
    is_urgent: bool,
    published_at: Time,
    /// Changes of path so far, for metrics.
    path_changes: u64,
    left: bool,
}

impl Node {
    /// A node that has seen nothing yet; feed it [`Input::Timeout`] to set it going.
    pub fn new(mut config: NodeConfig, entropy: Entropy) -> Self {
        let name = config.identity.name();
        let incarnation = Incarnation::starting(config.started, &entropy);
        let hello =
            Hello { nickname: config.nickname.clone(), uid: config.uid, port: config.port, addresses: Vec::new() };
        let control = ControlConfig {
            identity: config.identity.clone(),
            secret: config.secret.clone(),
            network: config.network.clone(),
            uid: config.uid,
            versions: Versions::SPOKEN,
            capabilities: ANNOUNCEMENTS | RANGES,
            hello: hello.encode(),
        };
        let link =
            LinkConfig { identity: config.identity.clone(), secret: config.secret.clone(), cipher: config.cipher };
        let fast = FastConfig {
            own: name,
            ability: Ability::Off(String::new()),
            secret: !config.secret.is_open(),
            trusted_subnets: config.trusted_subnets.clone(),
            addresses: Vec::new(),
            mtu: 0,
            refused: None,
        };
        let addresses = Addresses::new(&mut config, &entropy);
        let mut maker = Maker::new(MakerConfig { name, discovery: config.discovery, conn_limit: config.conn_limit });
        maker.add_targets(config.targets.iter().cloned(), Time::ZERO);
        Self {
            connections: Connections::new(control, entropy.clone()),
            links: Links::new(link, config.rekey_after, fast, incarnation.0, entropy.clone()),
            maker,
            exchange: Exchange::new(name, incarnation, entropy.clone()),
            table: Table::new(name),
            names: Names::default(),
            planner: Planner::default(),
            addresses,
            routes: Routes::default(),
            advert: Advert::default(),
            outputs: VecDeque::new(),
            unpublished: true,
            is_urgent: false,
            published_at: Time::ZERO,
            path_changes: 0,
            left: false,
            name,
            entropy,
            config,
        }
    }

    /// Its name.
    pub fn name(&self) -> PeerName {
        self.name
    }

    /// How many peers have told who they are, ourselves included.
    pub fn peers_known(&self) -> usize {
        self.exchange.topology().origins().count()
    }

    /// How many peers there is a path to.
    pub fn peers_reached(&self) -> usize {
        self.routes.reached()
    }

    /// Peers with a control connection.
    pub fn neighbours(&self) -> impl Iterator<Item = PeerName> {
        self.connections.up().map(|(.., peer)| peer.name)
    }

    /// Whether `one` told that frames go straight to `other`.
    pub fn hears_of_link(&self, one: PeerName, other: PeerName) -> bool {
        let link = self.exchange.topology().get(one, &()).and_then(|record| record.link(other));
        link.is_some_and(|link| link.data.is_some())
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Time) {
        if self.left {
            return;
        }
        match input {
            Input::Timeout => {}
            Input::Accepted { conn, remote } => self.connections.accepted(conn, remote, now),
            Input::Connected { conn, remote } => self.connections.connected(conn, remote, now),
            Input::Received { conn, bytes } => {
                let admits = |conn, peer| self.maker.admits(conn, !self.routes.leads_to(peer, now));
                self.connections.received(conn, &bytes, admits, now);
            }
            Input::Closed { conn, reason } => self.connections.closed(conn, &reason),
            Input::Datagram { origin, mut bytes } => self.links.handle_datagram(origin, &mut bytes, now),
            Input::TooBig { to, payload_max } => self.links.too_big(to, payload_max, now),
            Input::Station { mac, addresses, attached } => {
                let changes = self.table.station(mac, &addresses, attached, now);
                self.share(changes);
            }
            Input::StationGone { mac } => {
                let changes = self.table.station_gone(mac);
                self.share(changes);
            }
            Input::Names(request) => {
                let result = self.names.request(self.name, &mut self.exchange, request);
                self.outputs.push_back(Output::NamesAnswer(result));
            }
            Input::Busy { peers, onward } => {
                self.routes.used(&peers, now);
                self.links.busy(&peers, &onward, now);
            }
            Input::Carried { peers } => self.links.carried(&peers, now),
            Input::Load(share) => self.advert.set_load(f64::from(share) / 1000.0, now),
            Input::SessionWanted { peer } => self.links.want(peer, now),
            Input::StraightWanted { peer } => self.seek(peer, now),
            Input::SessionWorn { index } => self.links.worn(index, now),
            Input::FastDatapath(ability) => self.links.set_ability(ability, now),
            Input::ContainerMtu(mtu) => {
                self.links.set_mtu(mtu, now);
                self.advert.soon(now);
            }
            Input::EspInstalled { peer, spi, error } => self.links.esp_installed(peer, spi, error.as_deref(), now),
            Input::FastInstalled { peer, remote, spi, error } => {
                self.links.fast_installed(peer, (remote, spi), error.as_deref(), now);
            }
            Input::PacketsRefused(why) => self.links.fast.refused = Some((why, now)),
            Input::EspEnded { spi, lost } => self.links.esp_ended(spi, lost, now),
            Input::LocalAddresses(addresses) => {
                self.links.set_addresses(addresses.clone(), now);
                if self.advert.set_local(addresses, now) {
                    self.maker.network_changed(now);
                }
            }
            Input::Connect { targets, replace } => self.connect(targets, replace, now),
            Input::Forget { targets } => self.forget_targets(&targets),
            Input::Addresses { id, request } => self.addresses.request(id, request, now),
            Input::Kept { number, error } => self.addresses.kept(number, error),
            Input::Leave => self.leave(now),
        }
        self.settle(now);
    }

    /// The next thing to do, None when quiet.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the node wants to be woken by [`Input::Timeout`].
    pub fn deadline(&self) -> Option<Time> {
        if self.left {
            return None;
        }
        let publish = self.unpublished.then(|| self.published_at + self.publish_interval());
        let parts = [
            self.connections.deadline(),
            self.links.deadline(),
            self.maker.deadline(),
            self.maker.review_due(),
            self.exchange.deadline(),
            self.table.deadline(),
            self.names.deadline(),
            self.planner.deadline(),
            self.routes.deadline(),
            self.addresses.deadline(),
            Some(self.advert.deadline()),
            publish,
        ];
        parts.into_iter().flatten().min()
    }

    /// Lets the parts react to each other until nothing is left to say.
    fn settle(&mut self, now: Time) {
        self.connections.handle_timeout(now);
        self.links.handle_timeout(now);
        let includes = included(self.name, &self.routes, &self.addresses, now);
        self.exchange.handle_timeout(&self.connections, includes, now);
        loop {
            self.connection_events(now);
            self.link_changes(now);
            let expired = self.table.expire(now);
            self.share(expired);
            if self.advert.take_due(now) {
                let record = self.advert.record(&self.config, &self.connections, &self.links);
                self.exchange.set_record(record);
            }
            self.exchange_changes(now);
            let changed = self.update_routes(now);
            self.allocate(now);
            self.review_connections(now);
            self.dial(now);
            self.send_messages(now);
            if !changed && self.connections.is_quiet() && self.links.is_quiet() {
                break;
            }
        }
        self.publish(now);
        while let Some(output) = self.connections.poll_output().or_else(|| self.links.poll_output()) {
            self.outputs.push_back(output);
        }
    }

    fn connection_events(&mut self, now: Time) {
        while let Some(event) = self.connections.poll_event() {
            match event {
                ConnectionEvent::Up(conn) => self.connection_up(conn, now),
                ConnectionEvent::Message(conn, peer, message) => self.message(conn, peer, message, now),
                ConnectionEvent::Ended(ended) => self.connection_ended(ended, now),
            }
        }
    }

    fn connection_up(&mut self, conn: ConnId, now: Time) {
        let Some((connection, peer)) = self.connections.get(conn).zip(self.connections.peer(conn)) else { return };
        let (name, public, uid) = (peer.name, peer.public, peer.uid);
        let Some(remote) = connection.remote else { return };
        // The connection's own address first: it is known to work.
        let likely = SocketAddr::new(remote.ip(), peer.hello.port);
        self.maker.connected(conn, name, now, &self.entropy);
        self.links.learn(name, public, uid, now);
        self.links.allow_direct(name, [likely], now);
        self.links.set_neighbour(name, true, now);
        self.exchange.greet(conn, remote, now);
        self.advert.soon(now);
        self.outputs.push_back(Output::Event(Event::ConnectionEstablished { peer: name, remote }));
    }

    fn message(&mut self, conn: ConnId, peer: PeerName, message: ControlMessage, now: Time) {
        match message {
            // Answered where connections are kept alive.
            ControlMessage::Ping { .. } | ControlMessage::Pong { .. } => {}
            ControlMessage::DigestHash { channel, hash } => {
                self.exchange.digest_hash(
                    conn,
                    channel,
                    hash,
                    included(self.name, &self.routes, &self.addresses, now),
                    now,
                );
            }
            ControlMessage::Digest { channel, digest } => {
                let included = included(self.name, &self.routes, &self.addresses, now);
                let result = self.exchange.digest(conn, channel, &digest, included, now);
                self.refused_gossip(peer, channel, result);
            }
            ControlMessage::Delta { channel, delta } => {
                let result = self.exchange.delta(conn, channel, &delta, now);
                self.refused_gossip(peer, channel, result);
            }
            ControlMessage::Ranges { channel, ranges } => {
                let included = included(self.name, &self.routes, &self.addresses, now);
                let result = self.exchange.ranges(conn, channel, &ranges, included);
                self.refused_gossip(peer, channel, result);
            }
            ControlMessage::Announcement { channel, known } => {
                let result = self.exchange.announced(conn, channel, &known, now);
                self.refused_gossip(peer, channel, result);
            }
            ControlMessage::Leave => {
                self.connections.refuse(conn, RefusalCode::ShuttingDown, EndKind::Broken, "the peer stopped");
            }
            ControlMessage::Observed { address } => {
                self.advert.observed(peer, SocketAddr::new(address.ip(), self.config.port), now);
            }
        }
    }

    fn refused_gossip(&mut self, peer: PeerName, channel: ChannelId, result: Result<(), String>) {
        if let Err(reason) = result {
            let event = Event::GossipRefused { peer, channel: channel.as_str(), reason };
            self.outputs.push_back(Output::Event(event));
        }
    }

    fn connection_ended(&mut self, ended: Ended, now: Time) {
        self.maker.ended(ended.conn, &ended.end, now, &self.entropy);
        if ended.was_up {
            if let Some(peer) = ended.peer {
                self.advert.forget(peer);
            }
            // What is closed as not needed is missed by nobody.
            if ended.end.kind == EndKind::Full {
                self.advert.soon(now);
            } else {
                self.advert.at_once(now);
            }
        }
        if let Some(peer) = ended.peer.filter(|_| ended.was_up) {
            self.links.hold(peer, now);
            // In a small mesh every link is one of the mesh, while the peer is known.
            if self.maker.is_large() || ended.end.kind == EndKind::Full {
                self.links.set_neighbour(peer, false, now);
            }
        }
        let event = Event::ConnectionEnded { peer: ended.peer, remote: ended.remote, reason: ended.end.reason };
        self.outputs.push_back(Output::Event(event));
    }

    fn link_changes(&mut self, now: Time) {
        while let Some((peer, change)) = self.links.poll_change() {
            self.unpublished |= !matches!(change, LinkChange::Cost | LinkChange::Told(_));
            match change {
                LinkChange::Keys => {
                    self.is_urgent |= self.links.link(peer).is_some_and(|link| link.keys.is_established());
                }
                LinkChange::Rekeyed => {
                    self.is_urgent = true;
                    self.outputs.push_back(Output::Event(Event::Rekeyed { peer }));
                }
                LinkChange::Direct(Change::Up(address)) => {
                    self.links.displace(peer, address, now);
                    self.routes.invalidate();
                    self.advert.soon(now);
                }
                LinkChange::Size => {
                    self.routes.invalidate();
                    self.advert.soon(now);
                }
                LinkChange::Cost => self.routes.invalidate(),
                LinkChange::Told(Turn::Better) => self.advert.soon(now),
                LinkChange::Told(Turn::Worse) => self.advert.at_once(now),
                LinkChange::Direct(Change::Down) => {
                    self.advert.at_once(now);
                    self.routes.invalidate();
                }
                LinkChange::Method => {
                    self.is_urgent = true;
                    self.method_changed(peer);
                }
                LinkChange::Direct(Change::Moved(address)) => {
                    self.links.displace(peer, address, now);
                    let reason = format!("the peer moved to {address}");
                    let route = Some(Route::Direct(address));
                    self.outputs.push_back(Output::Event(Event::PathChanged { peer, route, reason }));
                }
            }
        }
    }

    /// Tells everybody what changed about our own stations.
    fn share(&mut self, changes: Vec<switch::table::Change>) {
        for change in changes {
            self.exchange.share(change);
            self.unpublished = true;
        }
    }

    /// Carries what others told to where it matters.
    fn exchange_changes(&mut self, now: Time) {
        for peer in self.exchange.take_changed_peers() {
            self.routes.told(peer);
            if peer != self.name
                && let Some(record) = self.exchange.topology().get(peer, &())
            {
                if record.leaving {
                    // Not one that is back, and has not told of itself yet.
                    if self.connections.uid(peer).is_none_or(|uid| uid == record.uid) {
                        self.drop_peer(peer, now);
                    }
                } else {
                    self.links.learn(peer, record.public, record.uid, now);
                    self.unpublished |= self.links.set_peer_mtu(peer, record.mtu, now);
                    self.maker.set_known(peer, record.addresses.clone(), now);
                }
            }
        }
        self.links.set_large(self.maker.is_large());
        for (origin, mac) in self.exchange.take_changed_stations() {
            let claim = self.exchange.claim(origin, mac).cloned();
            let changes = self.table.remote(origin, mac, claim, now);
            self.share(changes);
            self.unpublished = true;
            if self.table.has_lost() {
                self.routes.invalidate();
            }
        }
        self.names.follow(&mut self.exchange);
    }

    fn update_routes(&mut self, now: Time) -> bool {
        if self.routes.deadline().is_none_or(|due| due > now) {
            return false;
        }
        let links = &self.links;
        let connected: BTreeSet<PeerName> = self.connections.up().map(|(.., peer)| peer.name).collect();
        let own_link = |peer| {
            let link = links.link(peer);
            let direct = link.and_then(|link| link.direct.as_ref());
            OwnLink {
                measured: link.and_then(|link| link.own).map(|own| (own.cost, Detail::of(own.quality))),
                is_down: direct.is_none_or(|direct| direct.address().is_none()),
                lingers: direct.is_some_and(|direct| direct.last_resort().is_some()),
                is_connected: connected.contains(&peer),
            }
        };
        let reached = self.routes.reachable().clone();
        let outcome = self.routes.update(self.name, self.exchange.topology(), own_link, links.private(), now);
        self.exchange.set_tree(self.maker.is_large().then(|| self.routes.tree().clone()));
        self.links.steer(|peer| self.routes.steering(peer), now);
        let changed: Vec<PeerName> = reached.symmetric_difference(self.routes.reachable()).copied().collect();
        self.exchange.exhume_addresses(&changed);
        self.reachability_changed(changed);
        let reclaimed = self.table.reclaim(|peer| !self.routes.is_reachable(peer));
        self.share(reclaimed);
        for &peer in &outcome.changed {
            self.path_changed(peer, now);
        }
        for &peer in &outcome.spread {
            self.spread_changed(peer);
        }
        for &peer in &outcome.gone {
            self.forget_peer(peer, now);
        }
        let changed = !outcome.changed.is_empty() || !outcome.gone.is_empty();
        self.unpublished |= changed || outcome.resized || !outcome.spread.is_empty();
        changed
    }

    fn path_changed(&mut self, peer: PeerName, now: Time) {
        let relays = self.routes.relays(peer).map(<[PeerName]>::to_vec);
        let route = self.route(peer);
        let reason = self.routes.choice(peer).map(|choice| choice.reason.clone()).unwrap_or_default();
        self.links.set_relays(peer, relays, now);
        self.path_changes += 1;
        self.outputs.push_back(Output::Event(Event::PathChanged { peer, route, reason }));
    }

    fn spread_changed(&mut self, peer: PeerName) {
        let further: Vec<Vec<PeerName>> = self.routes.further(peer).map(<[_]>::to_vec).collect();
        let first = further.iter().filter_map(|relays| relays.first().copied()).collect();
        self.links.set_further(peer, first);
        self.outputs.push_back(Output::Event(Event::SpreadChanged { peer, further }));
    }

    fn method_changed(&mut self, peer: PeerName) {
        if let Some(link) = self.links.link(peer) {
            let (fastdp, reason) = (link.fast.carries(), link.fast.reason().to_owned());
            self.outputs.push_back(Output::Event(Event::MethodChanged { peer, fastdp, reason }));
        }
    }

    /// The way to a peer as the data plane goes it.
    fn route(&self, peer: PeerName) -> Option<Route> {
        match self.routes.relays(peer)? {
            [] => {
                let direct = self.links.link(peer)?.direct.as_ref()?;
                direct.address().or_else(|| direct.last_resort()).map(Route::Direct)
            }
            relays => Some(Route::Relayed(relays.to_vec())),
        }
    }

    fn forget_peer(&mut self, peer: PeerName, now: Time) {
        self.drop_peer(peer, now);
        self.exchange.forget(peer);
        if !self.addresses.remembers(peer) {
            self.exchange.bury_addresses(peer);
        }
        self.routes.forget(peer);
    }

    /// A peer has left or is gone: nothing is sent there any more. Its record stays until it is forgotten.
    fn drop_peer(&mut self, peer: PeerName, now: Time) {
        self.maker.remove_known(peer);
        self.advert.forget(peer);
        for mac in self.exchange.forget_stations(peer) {
            let changes = self.table.remote(peer, mac, None, now);
            self.share(changes);
        }
        self.names.forget(peer, &mut self.exchange);
        if self.links.forget(peer, now) {
            self.outputs.push_back(Output::Event(Event::PeerGone { peer }));
        }
    }

    /// Looks at whom to be connected with in a large mesh, and closes what is too much.
    fn review_connections(&mut self, now: Time) {
        if self.maker.review_due().is_none_or(|due| due > now) {
            return;
        }
        let view = |peer| {
            let record = self.exchange.topology().get(peer, &());
            View {
                distance: self.routes.path_rtt(peer),
                degree: record.map_or(0, |record| record.links.iter().filter(|link| link.control).count()),
                is_reached: self.routes.leads_to(peer, now),
            }
        };
        let keeps = |without: &_| self.routes.reaches_without(without);
        for conn in self.maker.review(view, keeps, now, &self.entropy) {
            let reason = "not needed: the peer is reached through others (--conn-limit)";
            self.connections.refuse(conn, RefusalCode::ConnectionLimit, EndKind::Full, reason);
        }
    }

    /// Looks for a straight way to a peer that frames go to by relays, unless we are only to be connected with whom we were told to. So does
    /// the other end, as it answers: each opens its NAT for the other.
    fn seek(&mut self, peer: PeerName, now: Time) {
        if self.config.discovery
            && let Some(record) = self.exchange.topology().get(peer, &()).filter(|record| !record.leaving)
        {
            self.links.seek(peer, record.addresses.iter().copied(), now);
        }
    }

    fn dial(&mut self, now: Time) {
        while let Some(dial) = self.maker.poll_dial(now) {
            self.connections.dialling(dial.conn, &dial.target, now);
            self.outputs.push_back(Output::Dial { conn: dial.conn, target: dial.target });
        }
    }

    /// Hands what the exchange has to say to the connections.
    fn send_messages(&mut self, now: Time) {
        while let Some((to, message)) = self.exchange.poll_message() {
            let exchange = &self.exchange;
            let to_many = |is_for: &dyn Fn(ConnId, &Peer) -> bool| -> Vec<ConnId> {
                self.connections.up().filter(|(conn, _, peer)| is_for(*conn, peer)).map(|(conn, ..)| conn).collect()
            };
            let conns = match to {
                To::One(one) => vec![one],
                To::All => to_many(&|_, _| true),
                To::Tree(except) => to_many(&|conn, peer| Some(conn) != except && exchange.is_in_tree(peer)),
            };
            let bytes = message.encode();
            for conn in conns {
                self.connections.send_encoded(conn, &bytes);
            }
        }
        self.exchange.plan_announcement(now);
    }

    fn publish(&mut self, now: Time) {
        let is_due = self.is_urgent || now >= self.published_at + self.publish_interval();
        if self.unpublished && (is_due || self.published_at == Time::ZERO) {
            (self.unpublished, self.is_urgent) = (false, false);
            self.published_at = now;
            self.outputs.push_back(Output::Forwarding(self.snapshot()));
            self.planner.invalidate();
        }
        self.outputs.extend(self.names.publish(self.name, &self.exchange, now));
        if self.links.take_replanned() {
            self.planner.invalidate();
        }
        if self.links.has_plans()
            && let Some(plan) = self.planner.update(&self.links, &self.table, now)
        {
            self.outputs.push_back(Output::Plan(plan));
        }
    }

    fn publish_interval(&self) -> Duration {
        let count = |len| u32::try_from(len).unwrap_or(u32::MAX);
        let written = PUBLISH_PER_STATION * count(self.table.len()) + PUBLISH_PER_PEER * count(self.links.iter().len());
        PUBLISH_INTERVAL.max(written)
    }

    fn connect(&mut self, targets: Vec<Target>, replace: bool, now: Time) {
        if replace {
            let others: Vec<Target> = self.maker.targets().into_iter().filter(|old| !targets.contains(old)).collect();
            self.maker.forget(&others);
        }
        self.maker.add_targets(targets, now);
        self.targets_changed();
    }

    fn forget_targets(&mut self, targets: &[Target]) {
        self.maker.forget(targets);
        self.targets_changed();
    }

    fn targets_changed(&mut self) {
        self.outputs.push_back(Output::Event(Event::TargetsChanged { targets: self.maker.targets() }));
    }

    /// Tells everybody and closes all connections.
    fn leave(&mut self, now: Time) {
        self.advert.leaving = true;
        // Whoever is beside the tree would be told later, and there is no later.
        self.exchange.set_tree(None);
        self.exchange.set_record(self.advert.record(&self.config, &self.connections, &self.links));
        self.send_messages(now);
        let all: Vec<ConnId> = self.connections.up().map(|(conn, ..)| conn).collect();
        for conn in all {
            self.connections.send(conn, &ControlMessage::Leave);
            self.connections.refuse(conn, RefusalCode::ShuttingDown, EndKind::Broken, "stopping");
        }
        while let Some(output) = self.connections.poll_output() {
            self.outputs.push_back(output);
        }
        self.outputs.extend(self.names.last(self.name, &self.exchange));
        self.left = true;
    }
}

/// Whose entries are told to neighbours: ours, and those of peers that are not gone for long, so that the gone stay gone.
/// Whoever owns addresses does so for ever.
fn included(own: PeerName, routes: &Routes, addresses: &Addresses, now: Time) -> impl Fn(ChannelId, PeerName) -> bool {
    move |channel, peer| {
        let remembers = channel == ChannelId::Addresses && addresses.remembers(peer);
        peer == own || remembers || routes.is_told(peer, now)
    }
}

#[cfg(test)]
mod tests;
