//! Peers of whom only what they tell is simulated, so that some hosts find themselves in a mesh of thousands.
//!
//! One of them, the speaker, has a real control connection with a host; over that comes all that they tell, as from any neighbour: records of
//! as many links as hosts have, each of which changes now and then, in answers to digests as well as by itself. They have no addresses,
//! so nobody dials them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use weft::{
    control::{
        preface::{ANNOUNCEMENTS, RANGES, Versions},
        session::{ControlConfig, Session, SessionEvent},
    },
    crypto::identity::{Identity, PublicKey},
    entropy::Entropy,
    gossip::{ChannelId, hello::Hello, message::ControlMessage, origin::Incarnation, replica::Replica},
    id::{ConnId, NetworkName, PeerName, Uid},
    node::input::Input,
    sim::HostId,
    topology::{
        cost::Cost,
        record::{Detail, LinkRecord, PeerRecord, Topology},
        relaying::Relaying,
    },
};

use super::{MILLISECOND, Mesh};

/// How often the speaker looks at what it was sent: it is as far away as hosts are.
const STEP: Duration = MILLISECOND.saturating_mul(5);
/// Chords of the ring that they make; each has two ends and the ring's two: as many links as hosts of a thousand have at the median.
const CHORDS: usize = 5;

pub(super) struct Crowd {
    peers: BTreeMap<PeerName, Peer>,
    names: Vec<PeerName>,
    /// What the speaker knows.
    known: Topology,
    session: Session,
    host: HostId,
    conn: ConnId,
    entropy: Entropy,
    /// Records that change in a second.
    news: usize,
    /// Changes that are due, of which the last is not yet.
    owed: f64,
}

struct Peer {
    topology: Topology,
    record: PeerRecord,
}

impl Crowd {
    /// So many, one of which is connected with `host`; `news` of their records change in a second.
    pub(super) fn new(mesh: &mut Mesh, host: HostId, count: usize, news: usize) -> Self {
        let entropy = mesh.entropy.clone();
        let identities: Vec<Identity> = (0..count).map(|_| Identity::generate(&entropy)).collect();
        let names: Vec<PeerName> = identities.iter().map(Identity::name).collect();
        let mut links: Vec<BTreeMap<PeerName, bool>> = vec![BTreeMap::new(); count];
        for one in 0..count {
            let chords = (0..CHORDS).map(|_| (entropy.fraction() * count as f64) as usize);
            for other in [(one + 1) % count].into_iter().chain(chords).filter(|other| *other != one) {
                links[one].insert(names[other], true);
                links[other].insert(names[one], true);
            }
        }
        // The speaker's connection, by which no frames go.
        links[0].insert(mesh.name(host), false);
        let speaker = identities[0].clone();
        let hello = Hello { nickname: "speaker".parse().unwrap(), uid: Uid(1), port: 6783, addresses: Vec::new() };
        let config = ControlConfig {
            identity: speaker,
            secret: mesh.secret.clone(),
            network: NetworkName::default(),
            uid: Uid(1),
            versions: Versions::SPOKEN,
            capabilities: ANNOUNCEMENTS | RANGES,
            hello: hello.encode(),
        };
        let conn = mesh.sim.connect_from_outside(host);
        let mut crowd = Self {
            peers: BTreeMap::new(),
            known: Replica::new(names[0], Incarnation(1)),
            session: Session::initiator(&Arc::new(config), &entropy),
            host,
            conn,
            entropy,
            news,
            owed: 0.0,
            names,
        };
        for (i, (identity, links)) in identities.iter().zip(links).enumerate() {
            crowd.add(i, identity.public(), links);
        }
        crowd
    }

    fn add(&mut self, number: usize, public: PublicKey, links: BTreeMap<PeerName, bool>) {
        let link = |(peer, is_data): (PeerName, bool)| LinkRecord {
            peer,
            control: true,
            data: is_data.then_some(Cost(100)),
            payload_max: if is_data { 1472 } else { 0 },
            detail: is_data.then_some(Detail { rtt: Cost(100), jitter: Cost(70), lost: 0 }),
        };
        let name = public.peer_name();
        let record = PeerRecord {
            public,
            uid: Uid(self.entropy.number()),
            nickname: format!("crowd{number}").parse().unwrap(),
            port: 6783,
            addresses: Vec::new(),
            links: links.into_iter().map(link).collect(),
            leaving: false,
            mtu: 1340,
            relaying: Relaying::Free,
        };
        // The speaker is the origin of what it knows; each other one has a state of its own.
        let topology = Replica::new(name, Incarnation(1_700_000_000 << 24));
        self.peers.insert(name, Peer { topology, record });
        self.change(name);
    }

    /// A peer tells its record, in which a cost is another.
    fn change(&mut self, name: PeerName) -> Option<Vec<u8>> {
        let peer = self.peers.get_mut(&name).unwrap();
        let place = (self.entropy.fraction() * peer.record.links.len() as f64) as usize;
        let link = &mut peer.record.links[place];
        let step = 90 + (self.entropy.fraction() * 30.0) as u8;
        link.data = link.data.map(|_| Cost(step));
        link.detail = link.detail.map(|detail| Detail { rtt: Cost(step), ..detail });
        if name == self.names[0] {
            return self.known.set((), peer.record.clone()).unwrap();
        }
        let delta = peer.topology.set((), peer.record.clone()).unwrap()?;
        // Its first one begins after its start, of which nothing is known.
        let whole = peer.topology.delta_since(&self.known.digest_of(name), |_| true).unwrap().deltas.remove(0);
        self.known.merge(&whole).unwrap();
        Some(delta)
    }

    /// Lets time pass, in which they tell what changes.
    pub(super) fn run(&mut self, mesh: &mut Mesh, span: Duration) {
        let end = mesh.sim.now() + span;
        while mesh.sim.now() < end {
            self.listen(mesh);
            self.owed += self.news as f64 * STEP.as_secs_f64();
            while self.owed >= 1.0 && self.session.is_established() {
                self.owed -= 1.0;
                let name = self.names[(self.entropy.fraction() * self.names.len() as f64) as usize];
                if let Some(delta) = self.change(name) {
                    self.say(&ControlMessage::Delta { channel: ChannelId::Topology, delta });
                }
            }
            self.speak(mesh);
            mesh.sim.run(STEP);
        }
    }

    fn listen(&mut self, mesh: &mut Mesh) {
        let bytes = mesh.sim.take_outside(self.host, self.conn);
        self.session.handle(&bytes).unwrap();
        while let Some(event) = self.session.poll_event() {
            if let SessionEvent::Message(bytes) = event {
                self.hear(ControlMessage::decode(&bytes).unwrap().unwrap());
            }
        }
    }

    /// Answers as any neighbour does, of the topology.
    fn hear(&mut self, message: ControlMessage) {
        let channel = ChannelId::Topology;
        match message {
            ControlMessage::Ping { nonce } => self.say(&ControlMessage::Pong { nonce }),
            ControlMessage::Delta { channel: ChannelId::Topology, delta } => {
                let taken = self.known.merge(&delta).unwrap();
                for name in taken.gaps {
                    self.say(&ControlMessage::Digest { channel, digest: self.known.digest_of(name) });
                }
            }
            ControlMessage::Digest { channel: ChannelId::Topology, digest } => {
                let repair = self.known.delta_since(&digest, |_| true).unwrap();
                for delta in repair.deltas {
                    self.say(&ControlMessage::Delta { channel, delta });
                }
                for name in repair.behind {
                    self.say(&ControlMessage::Digest { channel, digest: self.known.digest_of(name) });
                }
            }
            ControlMessage::Ranges { channel: ChannelId::Topology, ranges } => {
                for digest in self.known.digest_where_other(&ranges, |_| true).unwrap() {
                    self.say(&ControlMessage::Digest { channel, digest });
                }
            }
            ControlMessage::DigestHash { channel: ChannelId::Topology, hash } => {
                if self.known.digest_hash(|_| true) != hash {
                    self.say(&ControlMessage::Ranges { channel, ranges: self.known.ranges(|_| true) });
                }
            }
            ControlMessage::Announcement { channel: ChannelId::Topology, known } => {
                for name in self.known.compare(&known).unwrap().wanting {
                    self.say(&ControlMessage::Digest { channel, digest: self.known.digest_of(name) });
                }
            }
            // It says nothing else, nor of anything else.
            ControlMessage::Pong { .. }
            | ControlMessage::DigestHash { .. }
            | ControlMessage::Digest { .. }
            | ControlMessage::Delta { .. }
            | ControlMessage::Announcement { .. }
            | ControlMessage::Ranges { .. }
            | ControlMessage::Leave
            | ControlMessage::Observed { .. } => {}
        }
    }

    fn say(&mut self, message: &ControlMessage) {
        self.session.send(&message.encode()).unwrap();
    }

    fn speak(&mut self, mesh: &mut Mesh) {
        while let Some(bytes) = self.session.poll_transmit() {
            mesh.sim.tell(self.host, Input::Received { conn: self.conn, bytes });
        }
    }
}
