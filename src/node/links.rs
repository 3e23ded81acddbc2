//! All links of the node: who has which session index, handshakes in and out, probes, and when each link is due.
//!
//! A link exists for every known peer and costs nothing until somebody wants to send there. A direct path is looked for
//! only where [`Links::allow_direct`] said so; all else goes by the relays that [`Links::set_relays`] names.

mod demand;
mod fast;
mod news;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use demand::Budget;
use news::News;

use super::{input::Origin, load::Load, output::Output};
use crate::{
    crypto::identity::PublicKey,
    drops::{Drop, DropCounts},
    entropy::Entropy,
    fastdp::PlannedPeer,
    id::{PeerName, Uid},
    link::{
        cookie::CookieJar,
        direct::{Change, Counts, Direct},
        esp::Offer,
        estimate::Quality,
        fast::{Fast, FastConfig},
        handshake::{self, LinkConfig, Stamp},
        keys::{Initiator, Keys},
        message::{Came, Message, SMALL_LEN},
        tally::Counted,
    },
    switch::forwarding::Route,
    time::Time,
    topology::cost::{Audience, Told, Turn},
    wire::sleeve::{Header, PacketType},
};

/// Between probes of a link that frames are sent by; where many are, so much for each of those that no more are sent in all.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
const BUSY_INTERVAL_PER_LINK: Duration = Duration::from_millis(6);

/// Until the peer has used a new session, it is told of it this often.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
/// An initiation goes to no more candidate addresses than this at once.
const INITIATE_TO_MAX: usize = 4;

/// A link is not serviced more often than this, whatever it finds to do.
const SERVICE_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// What changed about a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkChange {
    /// The sessions that it sends or receives with.
    Keys,
    /// It seals with a new session.
    Rekeyed,
    /// The direct path.
    Direct(Change),
    /// The size that the direct path carries.
    Size,
    /// Whether the fast datapath carries.
    Method,
    /// What it costs us.
    Cost,
    /// What it costs is to be told anew.
    Told(Turn),
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    public: PublicKey,
    uid: Uid,
    pub(super) keys: Keys,
    pub(super) direct: Option<Direct>,
    pub(super) fast: Fast,
    /// What was planned of the fast datapath when last looked.
    planned: Option<PlannedPeer>,
    pub(super) rekeys: u64,
    wanted: bool,
    /// One of the mesh, and told to all; else one on demand.
    pub(super) is_neighbour: bool,
    /// When frames were exchanged with the peer, or over it, as far as is seen.
    used_at: Time,
    stamp: Option<Stamp>,
    relays: Option<Vec<PeerName>>,
    /// The first relays of further ways that flows are spread over.
    further: Vec<PeerName>,
    confirm_at: Time,
    /// The size of the direct path as last told.
    payload_max: Option<usize>,
    /// How good it is for our own paths, and what everybody is told of that.
    pub(super) own: Option<Told>,
    pub(super) told: Option<Told>,
    /// Frames go by relays although they could go straight: that is worse.
    is_avoided: bool,
    indices: Vec<u32>,
    due: Option<Time>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Links {
    config: LinkConfig,
    rekey_after: Duration,
    pub(super) fast: FastConfig,
    /// The fast datapath of peers that are gone, whose kernels may go on.
    kept: BTreeMap<PeerName, Fast>,
    replanned: bool,
    entropy: Entropy,
    /// Wall-clock start and a count: greater at each initiation, and after a restart.
    stamp: Stamp,
    links: BTreeMap<PeerName, Link>,
    by_index: BTreeMap<u32, PeerName>,
    agenda: BTreeSet<(Time, PeerName)>,
    news: News,
    budget: Budget,
    is_large: bool,
    cookies: CookieJar,
    load: Load,
    pub(super) drops: DropCounts,
    outputs: VecDeque<Output>,
    changes: VecDeque<(PeerName, LinkChange)>,
}

impl Links {
    /// No links yet, each to have new keys after `rekey_after`; `incarnation` is greater than in any earlier run of this peer,
    /// as far as its clock can tell.
    pub(super) fn new(
        config: LinkConfig,
        rekey_after: Duration,
        fast: FastConfig,
        incarnation: u64,
        entropy: Entropy,
    ) -> Self {
        Self {
            config,
            rekey_after,
            fast,
            kept: BTreeMap::new(),
            replanned: false,
            cookies: CookieJar::new(&entropy, Time::ZERO),
            entropy,
            stamp: Stamp { incarnation, sequence: 0 },
            links: BTreeMap::new(),
            by_index: BTreeMap::new(),
            agenda: BTreeSet::new(),
            news: News::default(),
            budget: Budget::default(),
            is_large: false,
            load: Load::default(),
            drops: DropCounts::default(),
            outputs: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// The link with `peer`, if it is known.
    pub(super) fn link(&self, peer: PeerName) -> Option<&Link> {
        self.links.get(&peer)
    }

    /// All links.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (PeerName, &Link)> {
        self.links.iter().map(|(peer, link)| (*peer, link))
    }

    /// Whether nothing waits to be looked at.
    pub(super) fn is_quiet(&self) -> bool {
        self.changes.is_empty()
    }

    /// The next thing to send.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next change.
    pub(super) fn poll_change(&mut self) -> Option<(PeerName, LinkChange)> {
        self.changes.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let kept = self.kept.values().filter_map(Fast::hold_until);
        self.agenda.first().map(|(due, _)| *due).into_iter().chain(kept).min()
    }

    /// A peer is known, in this run of it; an earlier run's sessions are void.
    pub(super) fn learn(&mut self, peer: PeerName, public: PublicKey, uid: Uid, now: Time) {
        let kept = &mut self.kept;
        let link = self.links.entry(peer).or_insert_with(|| {
            let mut fast = kept.remove(&peer).unwrap_or_else(|| Fast::new(peer, now));
            fast.peer_restarted(now);
            Link::new(public, uid, fast)
        });
        if link.uid != uid {
            link.uid = uid;
            link.stamp = None;
            link.keys.clear();
            link.fast.peer_restarted(now);
            self.changes.push_back((peer, LinkChange::Keys));
        }
        self.touch(peer, now);
    }

    /// A peer is gone; whether there was a link with it.
    pub(super) fn forget(&mut self, peer: PeerName, now: Time) -> bool {
        let Some(mut link) = self.links.remove(&peer) else { return false };
        self.replanned |= link.planned.is_some();
        if !link.fast.is_held(now) {
            link.fast.hold(now);
        }
        if link.fast.is_held(now) {
            self.kept.insert(peer, link.fast);
        }
        for index in link.indices {
            self.by_index.remove(&index);
        }
        if let Some(due) = link.due {
            self.agenda.remove(&(due, peer));
        }
        self.changes.push_back((peer, LinkChange::Keys));
        true
    }

    /// Frames for `peer` need a session.
    pub(super) fn want(&mut self, peer: PeerName, now: Time) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.wanted = true;
            link.used_at = now;
            self.touch(peer, now);
        }
    }

    /// A direct path to `peer` may be looked for, at these addresses and where it is heard from.
    pub(super) fn allow_direct(&mut self, peer: PeerName, candidates: impl IntoIterator<Item = SocketAddr>, now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.wanted = true;
        let direct = link.direct.get_or_insert_with(|| Direct::new(now));
        for candidate in candidates {
            direct.add_candidate(candidate, now);
        }
        self.touch(peer, now);
    }

    /// How to reach `peer` when there is no direct path; None for not at all.
    pub(super) fn set_relays(&mut self, peer: PeerName, relays: Option<Vec<PeerName>>, now: Time) {
        if let Some(link) = self.links.get_mut(&peer).filter(|link| link.relays != relays) {
            link.relays = relays;
            self.touch(peer, now);
        }
    }

    /// Flows to `peer` go by these first relays, too.
    pub(super) fn set_further(&mut self, peer: PeerName, further: Vec<PeerName>) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.further = further;
        }
    }

    /// Frames were exchanged with these peers a moment ago, and packets of others passed on straight to those in `onward`: links that
    /// carry any are watched more closely.
    pub(super) fn busy(&mut self, peers: &[PeerName], onward: &[PeerName], now: Time) {
        let count = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        let interval = BUSY_INTERVAL.max(BUSY_INTERVAL_PER_LINK * count);
        for &peer in peers {
            let Some(link) = self.links.get_mut(&peer) else { continue };
            link.used(now);
            // What goes by relays is seen on the links to the first ones.
            let first = link.relays.as_ref().and_then(|relays| relays.first().copied()).unwrap_or(peer);
            for carrier in link.further.clone().into_iter().chain([first]) {
                self.carries(carrier, |direct| direct.busy(interval, now), now);
            }
            self.touch(peer, now);
        }
        for &peer in onward {
            self.carries(peer, |direct| direct.carrying(now), now);
        }
    }

    /// The kernel sent frames to these peers by the fast datapath a moment ago.
    pub(super) fn carried(&mut self, peers: &[PeerName], now: Time) {
        for &peer in peers {
            if let Some(link) = self.links.get_mut(&peer) {
                link.used(now);
            }
            self.touch(peer, now);
        }
    }

    fn carries(&mut self, peer: PeerName, what: impl FnOnce(&mut Direct), now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if let Some(direct) = &mut link.direct {
            link.used_at = now;
            what(direct);
            self.touch(peer, now);
        }
    }

    /// For each peer: whether frames to it have another way than straight, and whether they go it although they could go straight.
    pub(super) fn steer(&mut self, of: impl Fn(PeerName) -> (bool, bool), now: Time) {
        let mut touched = Vec::new();
        for (peer, link) in &mut self.links {
            let (has_alternative, is_avoided) = of(*peer);
            if let Some(direct) = &mut link.direct {
                direct.steer(has_alternative, is_avoided);
            }
            if link.is_avoided != is_avoided {
                link.is_avoided = is_avoided;
                touched.push(*peer);
            }
        }
        for peer in touched {
            self.service(peer, now);
            self.touch(peer, now);
        }
    }

    /// A session has sealed all it should.
    pub(super) fn worn(&mut self, index: u32, now: Time) {
        if let Some(&peer) = self.by_index.get(&index) {
            if let Some(link) = self.links.get_mut(&peer) {
                link.keys.worn(index);
            }
            self.touch(peer, now);
        }
    }

    /// The system refused to send more than `payload_max` to `to`.
    pub(super) fn too_big(&mut self, to: SocketAddr, payload_max: usize, now: Time) {
        let with_direct = self.links.iter_mut().filter_map(|(peer, link)| Some((*peer, link.direct.as_mut()?)));
        let mut touched = Vec::new();
        for (peer, direct) in with_direct {
            direct.too_big(to, payload_max, now);
            touched.push(peer);
        }
        for peer in touched {
            self.touch(peer, now);
        }
    }

    /// A handshake or Control packet arrived.
    pub(super) fn handle_datagram(&mut self, origin: Origin, packet: &mut [u8], now: Time) {
        let result = match PacketType::of(packet) {
            Some(kind) if matches!(origin, Origin::Encap { .. }) && kind != PacketType::Control => Err(Drop::NotSleeve),
            Some(PacketType::Initiation) => self.initiation(origin, packet, now),
            Some(PacketType::Response) => self.response(packet, now),
            Some(PacketType::CookieReply) => self.cookie_reply(packet, now),
            Some(PacketType::Control) => self.control(origin, packet, now),
            Some(PacketType::Data) | None => Err(Drop::NotSleeve),
        };
        if let Err(reason) = result {
            self.drops.count(reason);
        }
    }

    /// Sends what is due.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.expire_kept(now);
        let due: Vec<PeerName> = self.agenda.iter().take_while(|(due, _)| *due <= now).map(|(_, peer)| *peer).collect();
        for peer in due {
            self.service(peer, now);
            self.touch(peer, now);
        }
    }

    fn initiation(&mut self, origin: Origin, packet: &[u8], now: Time) -> Result<(), Drop> {
        let busy = self.load.is_high(now);
        if let (true, Origin::Direct(from)) = (busy, origin)
            && !self.cookies.check(packet, from.to_string().as_bytes(), now)
        {
            let ours = self.config.identity.public();
            if let Ok(reply) = self.cookies.reply(&ours, packet, from.to_string().as_bytes(), now) {
                // Nobody in particular: the address has yet to prove itself.
                let to = PeerName::default();
                self.outputs.push_back(Output::Datagram { to, route: Route::Direct(from), bytes: reply });
            }
            return Err(Drop::BadHandshake);
        }
        let local = self.free_index();
        let links = &self.links;
        let mut accepted = None;
        let accept = |public: &PublicKey, stamp: Stamp| {
            accepted = Some(stamp);
            let link = links.get(&public.peer_name()).filter(|link| link.public == *public);
            link.is_some_and(|link| link.stamp.is_none_or(|last| stamp > last))
        };
        let (established, reply) = handshake::respond(&self.config, packet, local, accept, &[], &self.entropy)
            .map_err(|_| Drop::BadHandshake)?;
        let peer = established.peer.peer_name();
        let link = self.links.get_mut(&peer).ok_or(Drop::BadHandshake)?;
        let route = match origin {
            Origin::Direct(from) => Route::Direct(from),
            Origin::Relayed(source) if source == peer => {
                Route::Relayed(link.relays.clone().filter(|relays| !relays.is_empty()).ok_or(Drop::NoRoute)?)
            }
            Origin::Relayed(_) | Origin::Fast | Origin::Encap { .. } => return Err(Drop::BadHandshake),
        };
        link.stamp = accepted;
        if !link.wanted {
            (link.wanted, link.used_at) = (true, now);
        }
        let yields = self.fast.own < peer;
        link.keys.accept(established, local, yields, now);
        if let (Origin::Direct(from), Some(direct)) = (origin, &mut link.direct) {
            direct.add_candidate(from, now);
        }
        self.outputs.push_back(Output::Datagram { to: peer, route, bytes: reply });
        self.changes.push_back((peer, LinkChange::Keys));
        self.touch(peer, now);
        Ok(())
    }

    fn response(&mut self, packet: &[u8], now: Time) -> Result<(), Drop> {
        let peer = self.receiver(packet)?;
        let link = self.links.get_mut(&peer).ok_or(Drop::UnknownSession)?;
        link.keys.finish(&self.config, packet, now).map_err(|_| Drop::BadHandshake)?;
        link.confirm_at = now;
        link.rekeys += 1;
        self.changes.push_back((peer, LinkChange::Rekeyed));
        self.service(peer, now);
        self.touch(peer, now);
        Ok(())
    }

    fn cookie_reply(&mut self, packet: &[u8], now: Time) -> Result<(), Drop> {
        let peer = self.receiver(packet)?;
        let link = self.links.get_mut(&peer).ok_or(Drop::UnknownSession)?;
        link.keys.cookie_reply(packet, now).map_err(|_| Drop::BadHandshake)?;
        self.touch(peer, now);
        Ok(())
    }

    fn control(&mut self, origin: Origin, packet: &mut [u8], now: Time) -> Result<(), Drop> {
        let header = Header::parse(packet).ok_or(Drop::NotSleeve)?;
        let len = packet.len();
        let &peer = self.by_index.get(&header.receiver).ok_or(Drop::UnknownSession)?;
        if matches!(origin, Origin::Relayed(source) if source != peer) {
            return Err(Drop::NotAuthentic);
        }
        let link = self.links.get_mut(&peer).ok_or(Drop::UnknownSession)?;
        let opened = link.keys.open(&header, packet).map_err(Drop::from)?;
        let message = Message::parse(opened.body);
        if opened.confirmed {
            link.rekeys += 1;
            self.changes.push_back((peer, LinkChange::Rekeyed));
        }
        match (message.ok_or(Drop::BadControl)?, origin) {
            (Message::Probe { token, sealed }, _) => {
                let (mut came, is_small) = (Came::default(), len <= SMALL_LEN);
                match (origin, &mut link.direct) {
                    (Origin::Direct(from), Some(direct)) => {
                        came.probes = direct.heard_from(from, is_small, now);
                        let session = header.receiver;
                        let opened = link.keys.opened(session).filter(|_| is_small && sealed > 0);
                        came.opened = opened.unwrap_or(0);
                        if is_small {
                            direct.frames_came(opened.map(|opened| Counted { session, sealed, opened }), now);
                        }
                    }
                    (Origin::Fast, _) => came.probes = link.fast.heard(!is_small, now),
                    (Origin::Encap { from, .. }, _) => link.fast.encap_heard(from),
                    (Origin::Direct(_), None) | (Origin::Relayed(_), _) => {}
                }
                if origin != Origin::Fast || link.fast.is_sending() {
                    self.send(peer, origin, Message::Echo { token, came }, SMALL_LEN);
                }
            }
            (Message::Echo { token, came }, Origin::Direct(from)) => {
                let change = link.direct.as_mut().and_then(|direct| direct.echoed(from, token, came, now));
                self.changes.extend(change.map(|change| (peer, LinkChange::Direct(change))));
            }
            // It has confirmed a session by coming; there is nothing to measure.
            (Message::Echo { .. }, Origin::Relayed(_)) => {}
            (Message::Echo { token, came }, Origin::Fast) => link.fast.echoed(token, came.probes, now),
            (Message::Echo { token, .. }, Origin::Encap { from, to }) => link.fast.encap_echoed(from, to, token, now),
            (
                Message::Hello(_) | Message::Offer { .. } | Message::Taken { .. },
                Origin::Fast | Origin::Encap { .. },
            ) => {
                return Err(Drop::BadControl);
            }
            (Message::Hello(hello), _) => self.hello(peer, hello, now),
            (Message::Offer { session, spi, lanes, in_udp }, _) => {
                self.offer(peer, Offer { session, spi, lanes, in_udp }, now);
            }
            (Message::Taken { spi }, _) => link.fast.taken(spi, now),
        }
        self.service(peer, now);
        self.touch(peer, now);
        Ok(())
    }

    fn receiver(&self, packet: &[u8]) -> Result<PeerName, Drop> {
        let index = handshake::receiver_index(packet).ok_or(Drop::BadHandshake)?;
        self.by_index.get(&index).copied().ok_or(Drop::UnknownSession)
    }

    /// Does what is due on one link.
    fn service(&mut self, peer: PeerName, now: Time) {
        self.rest(peer, now);
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.keys.handle_timeout(now) {
            self.changes.push_back((peer, LinkChange::Keys));
        }
        if link.may_initiate() && link.keys.initiation_due(self.rekey_after).is_some_and(|due| due <= now) {
            self.initiate(peer, now);
        }
        self.service_fast(peer, now);
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.keys.is_established()) else { return };
        let mut probes = Vec::new();
        if let Some(direct) = &mut link.direct {
            link.fast.set_used(direct.is_used(now));
            link.fast.set_one_of_many(self.is_large, now);
            direct.set_one_of_many(self.is_large);
            let change = direct.handle_timeout(now);
            self.changes.extend(change.map(|change| (peer, LinkChange::Direct(change))));
            if direct.is_surveyed() {
                link.fast.survey(now);
            }
            let is_straight = link.relays.as_ref().is_some_and(Vec::is_empty);
            let sealed = link.keys.sealed().filter(|_| is_straight);
            direct.set_counts(Counts { sealed, opened: link.keys.opened_in_all() });
            probes.extend(std::iter::from_fn(|| direct.poll_probe(now, &self.entropy)));
        }
        let confirm = link.keys.is_unconfirmed() && link.confirm_at <= now;
        if confirm {
            link.confirm_at = now + CONFIRM_INTERVAL;
        }
        for probe in probes {
            self.send(
                peer,
                Origin::Direct(probe.to),
                Message::Probe { token: probe.token, sealed: probe.sealed },
                probe.size,
            );
        }
        if confirm {
            let token = self.entropy.number();
            self.send(peer, Origin::Relayed(peer), Message::Probe { token, sealed: 0 }, SMALL_LEN);
        }
    }

    fn initiate(&mut self, peer: PeerName, now: Time) {
        let local = self.free_index();
        let Some(link) = self.links.get_mut(&peer) else { return };
        self.stamp.sequence += 1;
        let by = Initiator { config: &self.config, peer: link.public, local, stamp: self.stamp };
        let Ok(packet) = link.keys.initiate(by, now, &self.entropy) else {
            return self.drops.count(Drop::BadHandshake);
        };
        for route in link.initiation_routes() {
            self.outputs.push_back(Output::Datagram { to: peer, route, bytes: packet.clone() });
        }
    }

    /// Seals and sends a message the way that `towards` came, or would have come.
    fn send(&mut self, peer: PeerName, towards: Origin, message: Message, size: usize) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let route = match towards {
            Origin::Direct(address) => Some(Route::Direct(address)),
            Origin::Relayed(_) => link.route(),
            Origin::Fast => return self.beat(peer, message, size),
            Origin::Encap { from, .. } => return self.send_encap(peer, from, message),
        };
        let mut bytes = message.packet(size);
        match (route, link.keys.seal(&mut bytes)) {
            (Some(route), Ok(())) => self.outputs.push_back(Output::Datagram { to: peer, route, bytes }),
            (None, _) => self.drops.count(Drop::NoRoute),
            (_, Err(error)) => self.drops.count(error.into()),
        }
    }

    fn free_index(&self) -> u32 {
        loop {
            let index = u32::from_le_bytes(self.entropy.array());
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    /// Brings the index map and the agenda up to date with a link that may have changed, and tells of another size.
    fn touch(&mut self, peer: PeerName, now: Time) {
        let peers = self.links.len();
        let Some(link) = self.links.get_mut(&peer) else { return };
        let indices: Vec<u32> = link.keys.indices().collect();
        if indices != link.indices {
            for index in &link.indices {
                self.by_index.remove(index);
            }
            self.by_index.extend(indices.iter().map(|index| (*index, peer)));
            link.indices = indices;
        }
        let payload_max = link.direct.as_ref().and_then(Direct::payload_max);
        if payload_max != link.payload_max {
            link.payload_max = payload_max;
            self.changes.push_back((peer, LinkChange::Size));
        }
        self.changes.extend(link.measure(now).then_some((peer, LinkChange::Cost)));
        self.changes.extend(link.tell(&mut self.news, peers, now).map(|turn| (peer, LinkChange::Told(turn))));
        let due = link.deadline(self.rekey_after, &self.fast, self.is_large, now);
        if due != link.due {
            if let Some(old) = link.due {
                self.agenda.remove(&(old, peer));
            }
            self.agenda.extend(due.map(|due| (due, peer)));
            link.due = due;
        }
    }
}

impl Link {
    fn new(public: PublicKey, uid: Uid, fast: Fast) -> Self {
        Self {
            public,
            uid,
            keys: Keys::default(),
            direct: None,
            fast,
            planned: None,
            rekeys: 0,
            wanted: false,
            is_neighbour: false,
            used_at: Time::ZERO,
            stamp: None,
            relays: None,
            further: Vec::new(),
            confirm_at: Time::ZERO,
            payload_max: None,
            own: None,
            told: None,
            is_avoided: false,
            indices: Vec::new(),
            due: None,
        }
    }

    /// Frames were exchanged with the peer a moment ago.
    fn used(&mut self, now: Time) {
        self.used_at = now;
        self.fast.wake(now);
        if let Some(direct) = &mut self.direct {
            direct.wanted(now);
        }
    }

    /// Whether frames go by the fast datapath.
    pub(super) fn is_carried(&self) -> bool {
        self.fast.carries() && !self.is_avoided
    }

    /// How good the direct path is, by the method that carries or would; None while there is none. Loss counts if frames are sent
    /// to the peer: else it is known from too few probes.
    pub(super) fn quality(&self, now: Time) -> Option<Quality> {
        let direct = self.direct.as_ref()?;
        let sleeve = direct.quality(now)?;
        let quality = self.fast.quality(now).filter(|_| self.fast.carries()).unwrap_or(sleeve);
        Some(if direct.is_used(now) { quality } else { Quality { loss: 0.0, ..quality } })
    }

    /// Compares the cost that our own paths are chosen by with what is; whether it is another now.
    fn measure(&mut self, now: Time) -> bool {
        let quality = self.quality(now);
        let (Some(quality), Some(own)) = (quality, &mut self.own) else {
            self.own = quality.map(|quality| Told::new(Audience::Own, quality));
            return false;
        };
        let moved = own.follow(quality, now);
        if let Some(moved) = moved {
            own.tell(quality, moved.turn, now);
        }
        moved.is_some()
    }

    /// Compares what everybody is told with what is; Some if that is to be told anew. What may not be told yet is told when the link
    /// is looked at the next time.
    fn tell(&mut self, news: &mut News, peers: usize, now: Time) -> Option<Turn> {
        let quality = self.quality(now).filter(|_| self.is_neighbour);
        let (Some(quality), Some(told)) = (quality, &mut self.told) else {
            self.told = quality.map(|quality| Told::new(Audience::All, quality));
            return None;
        };
        let moved = told.follow(quality, now).filter(|moved| news.take(*moved, peers, now))?;
        told.tell(quality, moved.turn, now);
        Some(moved.turn)
    }

    /// Straight if that works, else by relays, else to the likeliest address.
    fn route(&self) -> Option<Route> {
        let straight = self.direct.as_ref().and_then(Direct::address).map(Route::Direct);
        let relayed = || self.relays.clone().filter(|relays| !relays.is_empty()).map(Route::Relayed);
        let guessed = || self.direct.as_ref()?.candidates().next().map(Route::Direct);
        straight.or_else(relayed).or_else(guessed)
    }

    fn may_initiate(&self) -> bool {
        self.wanted
            && (self.direct.as_ref().is_some_and(|direct| direct.candidates().next().is_some())
                || self.relays.is_some())
    }

    /// Straight if that works; else every way that may.
    fn initiation_routes(&self) -> Vec<Route> {
        if let Some(address) = self.direct.as_ref().and_then(Direct::address) {
            return vec![Route::Direct(address)];
        }
        let candidates = self.direct.iter().flat_map(Direct::candidates).take(INITIATE_TO_MAX).map(Route::Direct);
        let relayed = self.relays.clone().filter(|relays| !relays.is_empty()).map(Route::Relayed);
        candidates.chain(relayed).collect()
    }

    fn deadline(&self, rekey_after: Duration, config: &FastConfig, is_large: bool, now: Time) -> Option<Time> {
        let initiation = if self.may_initiate() { self.keys.initiation_due(rekey_after) } else { None };
        let probe = self.direct.as_ref().filter(|_| self.keys.is_established()).and_then(Direct::deadline);
        let confirm = self.keys.is_unconfirmed().then_some(self.confirm_at);
        let fast = self.fast.deadline(config, self.keys.is_established(), now);
        [initiation, probe, confirm, fast, self.keys.expiry(), self.idle_at(is_large)]
            .into_iter()
            .flatten()
            .min()
            .map(|due| due.max(now + SERVICE_INTERVAL_MIN))
    }
}
