use std::{net::IpAddr, sync::Arc};

use super::*;
use crate::{
    api::Report,
    control::session::{Session, SessionEvent},
    gossip::{origin::Incarnation, replica::Replica},
    id::Mac,
    node::input::Origin,
    topology::{
        record::{PeerRecord, Topology},
        relaying::Relaying,
    },
};

const HERE: ConnId = ConnId(1);

fn secret() -> NetworkSecret {
    NetworkSecret::from_text("a long enough password for a test!", &NetworkName::default(), true).unwrap()
}

fn config(secret: NetworkSecret, entropy: &Entropy) -> NodeConfig {
    NodeConfig {
        version: "test".to_owned(),
        identity: Identity::generate(entropy),
        secret,
        network: NetworkName::default(),
        nickname: "here".parse().unwrap(),
        uid: Uid(7),
        port: 6783,
        conn_limit: 8,
        discovery: true,
        relay: true,
        trusted_subnets: Vec::new(),
        rekey_after: crate::link::keys::REKEY_AFTER,
        targets: vec!["10.0.0.9".parse().unwrap()],
        allocation: None,
        cipher: Cipher::Aes256Gcm,
        started: 1_700_000_000,
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A node, and a neighbour of it that says what the test wants.
struct Pair {
    node: Node,
    neighbour: Session,
    heard: Vec<ControlMessage>,
    /// All that the node was told, to be told again.
    told: Vec<(Time, Input)>,
    config: NodeConfig,
    now: Time,
}

impl Pair {
    fn connected() -> Self {
        let entropy = Entropy::seeded([5; 32]);
        let secret = secret();
        let hello = Hello { nickname: "there".parse().unwrap(), uid: Uid(8), port: 6783, addresses: Vec::new() };
        let theirs = ControlConfig {
            identity: Identity::generate(&entropy),
            secret: secret.clone(),
            network: NetworkName::default(),
            uid: Uid(8),
            versions: Versions::SPOKEN,
            capabilities: 0,
            hello: hello.encode(),
        };
        let neighbour = Session::initiator(&Arc::new(theirs), &entropy);
        let config = config(secret, &entropy);
        let node = Node::new(config.clone(), Entropy::seeded([6; 32]));
        let now = Time::ZERO + Duration::from_secs(1);
        let mut pair = Self { node, neighbour, heard: Vec::new(), told: Vec::new(), config, now };
        pair.tell(Input::Accepted { conn: HERE, remote: address("10.0.0.2:40000") });
        pair.talk();
        assert!(pair.is_up(), "{:#?}", pair.node.report(pair.now));
        pair
    }

    fn tell(&mut self, input: Input) {
        self.told.push((self.now, input.clone()));
        self.node.handle(input, self.now);
    }

    /// Carries bytes to and fro until both are quiet.
    fn talk(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(bytes) = self.neighbour.poll_transmit() {
                is_quiet = false;
                self.tell(Input::Received { conn: HERE, bytes });
            }
            while let Some(output) = self.node.poll_output() {
                if let Output::Send { conn: HERE, bytes } = output {
                    is_quiet = false;
                    self.neighbour.handle(&bytes).unwrap();
                }
            }
            while let Some(event) = self.neighbour.poll_event() {
                if let SessionEvent::Message(bytes) = event {
                    self.heard.extend(ControlMessage::decode(&bytes).unwrap());
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn say(&mut self, message: &ControlMessage) {
        self.neighbour.send(&message.encode()).unwrap();
        self.talk();
    }

    fn is_up(&self) -> bool {
        self.node.connections.peer(HERE).is_some()
    }

    /// The report but for the counter of refused gossip, which it returns beside.
    fn report(&self) -> (u64, Report) {
        let mut report = self.node.report(self.now);
        let refused = report.counters.insert("gossip_refused".to_owned(), 0);
        (refused.unwrap(), report)
    }
}

/// The delta that tells one more peer to who knows nothing of it.
fn delta_of_a_peer(entropy: &Entropy) -> (PeerName, Vec<u8>) {
    let identity = Identity::generate(entropy);
    let mut topology: Topology = Replica::new(identity.name(), Incarnation::starting(1_700_000_000, entropy));
    let record = PeerRecord {
        public: identity.public(),
        uid: Uid(9),
        nickname: "yonder".parse().unwrap(),
        port: 6783,
        links: Vec::new(),
        addresses: Vec::new(),
        mtu: 0,
        leaving: false,
        relaying: Relaying::default(),
    };
    topology.set((), record).unwrap();
    let nothing = Topology::new(PeerName::default(), Incarnation::default()).digest(|_| false);
    (identity.name(), topology.delta_since(&nothing[0], |_| true).unwrap().deltas.remove(0))
}

#[test]
fn malformed_gossip_of_a_neighbour_is_refused_as_a_whole_and_changes_nothing_else() {
    let mut pair = Pair::connected();
    let (peer, good) = delta_of_a_peer(&Entropy::seeded([9; 32]));
    let (_, before) = pair.report();
    // After a good part: what is no protobuf, the same origin again, an origin without a name, and half of it missing.
    let garbage = [
        [&good[..], &[0xff; 9]].concat(),
        [&good[..], &good].concat(),
        [&good[..], &[0x0a, 0x00]].concat(),
        good[..good.len() - 1].to_vec(),
        vec![0xa5; 40_000],
    ];
    let mut told = 0;
    for bytes in garbage {
        for channel in ChannelId::ALL {
            for message in [
                ControlMessage::Delta { channel, delta: bytes.clone() },
                ControlMessage::Digest { channel, digest: bytes.clone() },
            ] {
                pair.say(&message);
                told += 1;
                let (refused, report) = pair.report();
                assert_eq!((refused, &report), (told, &before), "{message:?}");
            }
        }
    }
    pair.heard.clear();
    pair.say(&ControlMessage::Ping { nonce: 77 });
    assert!(pair.is_up() && pair.heard.contains(&ControlMessage::Pong { nonce: 77 }), "{:?}", pair.heard);
    // The good part by itself is taken.
    pair.say(&ControlMessage::Delta { channel: ChannelId::Topology, delta: good });
    assert_eq!(pair.report().0, told);
    assert!(pair.node.exchange.topology().get(peer, &()).is_some());
}

#[test]
fn what_a_neighbour_says_last_is_heard_though_it_arrives_with_the_end() {
    let mut pair = Pair::connected();
    let (peer, delta) = delta_of_a_peer(&Entropy::seeded([9; 32]));
    pair.neighbour.send(&ControlMessage::Delta { channel: ChannelId::Topology, delta }.encode()).unwrap();
    pair.neighbour.refuse(RefusalCode::ShuttingDown);
    let bytes = std::iter::from_fn(|| pair.neighbour.poll_transmit()).flatten().collect();
    pair.tell(Input::Received { conn: HERE, bytes });
    assert!(!pair.is_up() && pair.node.exchange.topology().get(peer, &()).is_some());
}

#[test]
fn a_fresh_node_that_is_told_the_same_says_the_same() {
    let mut pair = Pair::connected();
    let (peer, delta) = delta_of_a_peer(&Entropy::seeded([9; 32]));
    pair.say(&ControlMessage::Delta { channel: ChannelId::Topology, delta });
    pair.tell(Input::Station { mac: Mac([2; 6]), addresses: vec![[10, 32, 0, 1].into()], attached: true });
    pair.tell(Input::SessionWanted { peer });
    for _ in 0..100 {
        pair.now = pair.now + Duration::from_millis(130);
        pair.tell(Input::Timeout);
        pair.talk();
    }
    let mut again = Node::new(pair.config.clone(), Entropy::seeded([6; 32]));
    for (now, input) in std::mem::take(&mut pair.told) {
        again.handle(input, now);
    }
    let report = pair.node.report(pair.now);
    assert!(!report.connections.is_empty() && report.endpoints.len() == 1, "{report:#?}");
    assert_eq!(again.report(pair.now), report);
    // And decides the same from here on, keys and all.
    while again.poll_output().is_some() {}
    let later = pair.now + Duration::from_secs(30);
    let outputs = |node: &mut Node| {
        node.handle(Input::Timeout, later);
        std::iter::from_fn(|| node.poll_output()).map(|output| format!("{output:?}")).collect::<Vec<_>>()
    };
    let said = outputs(&mut pair.node);
    assert!(!said.is_empty());
    assert_eq!(outputs(&mut again), said);
}

#[test]
fn a_delta_that_was_merged_is_merged_again_after_its_peer_was_forgotten() {
    let mut pair = Pair::connected();
    let (peer, delta) = delta_of_a_peer(&Entropy::seeded([9; 32]));
    let message = ControlMessage::Delta { channel: ChannelId::Topology, delta };
    let is_known = |pair: &Pair| pair.node.exchange.topology().get(peer, &()).is_some();
    pair.say(&message);
    pair.say(&message);
    assert!(is_known(&pair));
    pair.node.forget_peer(peer, pair.now);
    assert!(!is_known(&pair));
    pair.say(&message);
    assert!(is_known(&pair));
}

#[test]
fn strangers_cannot_make_the_node_keep_more_and_more() {
    let entropy = Entropy::seeded([5; 32]);
    let mut node = Node::new(config(secret(), &entropy), Entropy::seeded([6; 32]));
    let now = Time::ZERO + Duration::from_secs(1);
    for number in 0..2000_u32 {
        let conn = ConnId(u64::from(number) * 2 + 1);
        let from = SocketAddr::from((number.to_be_bytes(), 40_000));
        node.handle(Input::Accepted { conn, remote: from }, now);
        node.handle(Input::Received { conn, bytes: entropy.array::<64>().to_vec() }, now);
        let mut bytes = entropy.array::<148>().to_vec();
        bytes[0] = u8::try_from(number % 8).unwrap();
        node.handle(Input::Datagram { origin: Origin::Direct(from), bytes }, now);
        node.handle(Input::SessionWanted { peer: PeerName(entropy.array()) }, now);
        while node.poll_output().is_some() {}
    }
    assert!(node.connections.handshaking().count() <= 256);
    assert_eq!(node.links.iter().count(), 0);
    assert_eq!(node.report(now).peers.len(), 1, "ourselves");
    node.handle(Input::Timeout, now + Duration::from_secs(11));
    assert_eq!(node.connections.handshaking().count(), 0);
}

#[test]
fn any_inputs_in_any_order_are_taken() {
    let secret = secret();
    let config = config(secret, &Entropy::seeded([5; 32]));
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut node = Node::new(config.clone(), Entropy::seeded([6; 32]));
        let mut now = Time::ZERO;
        let mut rest = bytes;
        while let Some((input, millis, more)) = any_input(rest) {
            rest = more;
            now = now + Duration::from_millis(millis);
            node.handle(input, now);
            while node.poll_output().is_some() {}
            assert!(node.deadline().is_none_or(|at| at >= now), "{:?} at {now:?}", node.deadline());
        }
        // Five bytes at least make an input, and an input at most one connection, station or target.
        let report = node.report(now);
        assert!(report.connections.len() <= 2 + bytes.len() / 5 && report.endpoints.len() <= bytes.len() / 5);
        assert!(report.peers.len() <= 1, "nobody but ourselves is known without a handshake");
    });
}

/// An input and how many milliseconds it comes after the last: kind, connection or peer, milliseconds, length, bytes.
fn any_input(bytes: &[u8]) -> Option<(Input, u64, &[u8])> {
    let ([kind, who, high, low, len], rest) = bytes.split_first_chunk::<5>()?;
    let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*len)));
    let conn = ConnId(u64::from(who % 8));
    let remote = SocketAddr::from(([10, 0, 0, *who], 6783));
    let mac = Mac([2, 0, 0, 0, 0, *who]);
    let peer = PeerName([2, 0, 0, 0, 0, *who]);
    let addresses = bytes.chunks_exact(4).map(|b| IpAddr::from([b[0], b[1], b[2], b[3]]));
    let input = match kind % 18 {
        0 => Input::Timeout,
        1 => Input::Accepted { conn, remote },
        2 => Input::Connected { conn, remote },
        3 | 4 => Input::Received { conn, bytes: bytes.to_vec() },
        5 => Input::Closed { conn, reason: "gone".to_owned() },
        6 | 7 => Input::Datagram { origin: Origin::Direct(remote), bytes: bytes.to_vec() },
        8 => Input::Datagram { origin: Origin::Relayed(peer), bytes: bytes.to_vec() },
        9 => Input::TooBig { to: remote, payload_max: bytes.len() },
        10 => Input::Station { mac, addresses: addresses.collect(), attached: bytes.len() % 2 == 0 },
        11 => Input::StationGone { mac },
        12 => Input::SessionWanted { peer },
        13 => Input::SessionWorn { index: u32::from(*who) },
        14 => Input::LocalAddresses(addresses.collect()),
        15 => Input::Connect { targets: vec![remote.into()], replace: bytes.is_empty() },
        16 => Input::Forget { targets: vec![remote.into()] },
        _ => Input::Kept { number: u64::from(*who), error: bytes.first().map(|_| "full".to_owned()) },
    };
    Some((input, u64::from(u16::from_be_bytes([*high, *low])), rest))
}
