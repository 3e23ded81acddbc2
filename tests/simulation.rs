//! Whole meshes in virtual time: what hundreds of nodes do together, from a seed.
//!
//! `WEFT_SEED=n` runs all of them from another seed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "simulation/addresses.rs"]
mod addresses;
#[path = "simulation/crowd.rs"]
mod crowd;
#[path = "simulation/fast.rs"]
mod fast;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/losses.rs"]
mod losses;
#[path = "simulation/names.rs"]
mod names;
#[path = "simulation/routing.rs"]
mod routing;
#[path = "simulation/scale.rs"]
mod scale;
#[path = "simulation/spread.rs"]
mod spread;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use weft::{
    api::{ConnectionState, Report},
    crypto::{identity::Identity, session::Cipher},
    entropy::Entropy,
    id::{Mac, NetworkName, PeerName, Uid},
    node::{NodeConfig, input::Input},
    secret::NetworkSecret,
    sim::{HostId, Simulation},
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A network of nodes with identities, clocks and targets from a seed.
struct Mesh {
    sim: Simulation,
    configs: Vec<NodeConfig>,
    secret: NetworkSecret,
    entropy: Entropy,
}

impl Mesh {
    /// `count` hosts; `targets` says whom each is told to connect to.
    fn new(count: usize, adjust: impl Fn(&mut NodeConfig, HostId), targets: impl Fn(HostId) -> Vec<HostId>) -> Self {
        let seed = std::env::var("WEFT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        Self::seeded(seed, count, adjust, targets)
    }

    fn seeded(
        seed: u64,
        count: usize,
        adjust: impl Fn(&mut NodeConfig, HostId),
        targets: impl Fn(HostId) -> Vec<HostId>,
    ) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
        let entropy = Entropy::seeded(bytes);
        // To stretch a password takes longer than many a simulation.
        static SECRET: LazyLock<NetworkSecret> = LazyLock::new(|| {
            let password = "a long enough password for 200 nodes!";
            NetworkSecret::from_text(password, &NetworkName::default(), true).unwrap()
        });
        let mut mesh = Self { sim: Simulation::new(seed), configs: Vec::new(), secret: SECRET.clone(), entropy };
        for id in 0..count {
            let mut config = mesh.config(id, targets(id));
            adjust(&mut config, id);
            mesh.configs.push(config.clone());
            // Clocks run up to 500 ppm fast or slow.
            let rate = 1.0 + (mesh.entropy.fraction() - 0.5) / 1000.0;
            mesh.sim.add(config, rate);
        }
        mesh
    }

    fn config(&self, id: HostId, targets: Vec<HostId>) -> NodeConfig {
        NodeConfig {
            version: "test".to_owned(),
            identity: Identity::generate(&self.entropy),
            secret: self.secret.clone(),
            network: NetworkName::default(),
            nickname: format!("host{id}").parse().unwrap(),
            uid: Uid(self.entropy.number()),
            port: 6783,
            conn_limit: 200,
            discovery: true,
            relay: true,
            trusted_subnets: Vec::new(),
            rekey_after: weft::link::keys::REKEY_AFTER,
            targets: targets.into_iter().map(Simulation::target).collect(),
            allocation: None,
            cipher: Cipher::Aes256Gcm,
            // Wall clocks are up to a day apart.
            started: 1_700_000_000 + self.entropy.number() % 86_400,
        }
    }

    fn len(&self) -> usize {
        self.configs.len()
    }

    fn name(&self, id: HostId) -> PeerName {
        self.configs[id].identity.name()
    }

    /// A station on the host's bridge, told to everybody.
    fn attach_all(&mut self) {
        for id in 0..self.len() {
            let addresses = vec![station_address(id)];
            self.sim.tell(id, Input::Station { mac: station(id), addresses, attached: true });
        }
    }

    /// Until each of `ids` knows each other and has a path there; how long it took.
    fn settle(&mut self, ids: &[HostId], limit: Duration) -> Duration {
        let names: Vec<PeerName> = ids.iter().map(|id| self.name(*id)).collect();
        // Whoever lagged the last time is asked first.
        let mut laggard = ids[0];
        let settled = self.sim.run_until(limit, |sim| {
            let lags = |id: &HostId| !knows_all(&sim.report(*id), &names);
            let found = if lags(&laggard) { Some(laggard) } else { ids.iter().copied().find(lags) };
            laggard = found.unwrap_or(laggard);
            found.is_none()
        });
        settled.unwrap_or_else(|| panic!("not settled in {limit:?}: {:#?}", self.lagging(ids, &names)))
    }

    fn lagging(&self, ids: &[HostId], names: &[PeerName]) -> Vec<Report> {
        ids.iter().map(|id| self.sim.report(*id)).filter(|report| !knows_all(report, names)).take(2).collect()
    }

    /// Sends one broadcast from each of `ids` and counts, for each host, how often each came.
    fn broadcasts(&mut self, ids: &[HostId]) -> BTreeMap<(HostId, HostId), u32> {
        for id in 0..self.len() {
            self.sim.take_frames(id);
        }
        for &id in ids {
            self.sim.send_frame(id, &frame(station(id), Mac::BROADCAST));
        }
        self.sim.run(2 * SECOND);
        let mut came = BTreeMap::new();
        for to in 0..self.len() {
            for frame in self.sim.take_frames(to) {
                let from = (0..self.len()).find(|id| frame.get(6..12) == Some(&station(*id).0[..])).unwrap();
                *came.entry((from, to)).or_default() += 1;
            }
        }
        came
    }

    /// Asserts that a broadcast of each of `ids` comes to each other one of them exactly once, and nowhere twice.
    fn assert_broadcast_exactly_once(&mut self, ids: &[HostId]) {
        // The first ones ask for the sessions that do not exist yet.
        self.broadcasts(ids);
        self.sim.run(3 * SECOND);
        let came = self.broadcasts(ids);
        for (&(from, to), &count) in &came {
            assert!(count == 1 && from != to, "from {from} to {to}: {count} times");
        }
        for &from in ids {
            for &to in ids {
                assert!(from == to || came.contains_key(&(from, to)), "nothing from {from} to {to}");
            }
        }
    }
}

fn knows_all(report: &Report, names: &[PeerName]) -> bool {
    let known: BTreeSet<PeerName> = report.peers.iter().map(|peer| peer.name).collect();
    let mut led_to: BTreeSet<PeerName> = report.paths.iter().filter(|p| p.path != "none").map(|p| p.name).collect();
    led_to.insert(report.router.name);
    names.iter().all(|name| known.contains(name) && led_to.contains(name))
}

fn station(id: HostId) -> Mac {
    let [high, low] = u16::try_from(id).unwrap().to_be_bytes();
    Mac([0x02, 0x57, 0, 0, high, low])
}

fn station_address(id: HostId) -> std::net::IpAddr {
    let [high, low] = u16::try_from(id + 1).unwrap().to_be_bytes();
    [10, 32, high, low].into()
}

/// An Ethernet frame of a local experimental type (IEEE 802, 0x88b5), which nothing answers.
fn frame(from: Mac, to: Mac) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], b"some payload that is long enough for the smallest frame"].concat()
}

fn everybody(mesh: &Mesh) -> Vec<HostId> {
    (0..mesh.len()).collect()
}

#[test]
fn three_hosts_find_each_other_through_the_one_they_know() {
    let mut mesh = Mesh::new(3, |_, _| (), |id| if id == 1 { vec![] } else { vec![1] });
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
    let report = mesh.sim.report(0);
    assert!(report.connections.iter().any(|c| c.name == Some(mesh.name(2))), "A dialled C: {report:#?}");
    assert_eq!(report.endpoints.len(), 3);
}

#[test]
fn without_discovery_frames_go_through_the_middle_and_no_further_when_it_stops() {
    let mut mesh = Mesh::new(3, |config, _| config.discovery = false, |id| if id == 1 { vec![] } else { vec![1] });
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
    let report = mesh.sim.report(0);
    let path = report.paths.iter().find(|path| path.name == mesh.name(2)).unwrap();
    assert_eq!((path.path.as_str(), &path.relays[..]), ("relay", &[mesh.name(1)][..]));
    mesh.sim.tell(1, Input::Leave);
    mesh.sim.run(SECOND / 2);
    let report = mesh.sim.report(0);
    assert!(report.paths.iter().all(|path| path.path == "none"), "{report:#?}");
}

#[test]
fn a_chain_of_six_without_discovery_carries_frames_from_end_to_end() {
    let mut mesh = Mesh::new(6, |c, _| c.discovery = false, |id| if id == 0 { vec![] } else { vec![id - 1] });
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 20 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
}

#[test]
fn a_cut_path_is_left_for_a_relay_within_five_seconds_and_taken_again_when_it_heals() {
    type Cut = fn(&mut weft::sim::Network);
    let cuts: [(&str, Cut); 3] = [
        ("everything", |network| network.cut(0, 2)),
        ("only datagrams", |network| network.datagram_cuts.extend([(0, 2), (2, 0)])),
        ("one direction of datagrams", |network| network.datagram_cuts.extend([(0, 2)])),
    ];
    for (what, cut) in cuts {
        let mut mesh = Mesh::new(3, |_, _| (), |_| vec![0, 1, 2]);
        mesh.attach_all();
        let all = everybody(&mesh);
        mesh.settle(&all, 10 * SECOND);
        let (a, b, c) = (mesh.name(0), mesh.name(1), mesh.name(2));
        let path_kind = |sim: &Simulation, from: HostId, to: PeerName| {
            let path = sim.report(from).paths.into_iter().find(|path| path.name == to);
            path.map(|path| (path.path, path.relays)).unwrap_or_default()
        };
        mesh.sim.run(5 * SECOND);
        assert_eq!(path_kind(&mesh.sim, 0, c).0, "direct", "{what}");
        cut(&mut mesh.sim.network);
        let relayed = |sim: &Simulation| {
            path_kind(sim, 0, c) == ("relay".to_owned(), vec![b])
                && path_kind(sim, 2, a) == ("relay".to_owned(), vec![b])
        };
        let left = mesh.sim.run_until(5 * SECOND, relayed);
        assert!(left.is_some(), "{what}: {:#?}", mesh.sim.report(0));
        mesh.assert_broadcast_exactly_once(&all);
        mesh.sim.network.heal();
        let direct = |sim: &Simulation| path_kind(sim, 0, c).0 == "direct" && path_kind(sim, 2, a).0 == "direct";
        assert!(mesh.sim.run_until(30 * SECOND, direct).is_some(), "{what}: {:#?}", mesh.sim.report(0));
    }
}

#[test]
fn a_restarted_router_is_back_within_five_seconds() {
    let mut mesh = Mesh::new(4, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
    let mut config = mesh.configs[2].clone();
    config.uid = Uid(mesh.entropy.number());
    // Even with a clock set back by a day.
    config.started -= 86_400;
    mesh.sim.restart(2, config);
    mesh.sim.tell(2, Input::Station { mac: station(2), addresses: vec![station_address(2)], attached: true });
    mesh.settle(&all, 5 * SECOND);
    mesh.sim.run(2 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
}

#[test]
fn a_router_that_comes_back_when_it_would_be_forgotten_is_not() {
    const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
    for millis in (0..250).step_by(5) {
        let mut mesh = Mesh::new(2, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
        mesh.sim.network.latency = 20 * MILLISECOND;
        mesh.settle(&[0, 1], 10 * SECOND);
        mesh.sim.tell(1, Input::Leave);
        mesh.sim.run(50 * MILLISECOND);
        mesh.sim.kill(1);
        // Connected again while the other end has not read yet that it is back.
        mesh.sim.run(FORGOTTEN_AFTER - 50 * MILLISECOND - millis * MILLISECOND);
        let mut config = mesh.configs[1].clone();
        config.uid = Uid(mesh.entropy.number());
        config.started += 10;
        mesh.sim.restart(1, config);
        mesh.sim.run(3 * SECOND);
        for id in [0, 1] {
            let report = mesh.sim.report(id);
            assert!(report.paths.iter().all(|path| path.path == "direct"), "{millis} ms before: {report:#?}");
        }
    }
}

#[test]
fn sessions_are_renewed_without_losing_a_frame() {
    let mut mesh = Mesh::new(2, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    mesh.attach_all();
    mesh.settle(&[0, 1], 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&[0, 1]);
    let before = mesh.sim.report(0).counters["rekeys"];
    let mut came = 0;
    for _ in 0..4000 {
        mesh.sim.send_frame(0, &frame(station(0), station(1)));
        mesh.sim.run(Duration::from_millis(100));
        came += mesh.sim.take_frames(1).len();
    }
    mesh.sim.run(SECOND);
    came += mesh.sim.take_frames(1).len();
    let rekeys = mesh.sim.report(0).counters["rekeys"] - before;
    assert!(rekeys >= 3, "in 400 s: {rekeys}");
    assert_eq!(came, 4000);
}

#[test]
fn sessions_are_renewed_without_losing_a_frame_while_stations_come() {
    let often = |config: &mut NodeConfig, _| config.rekey_after = 2 * SECOND;
    let mut mesh = Mesh::new(2, often, |id| if id == 0 { vec![] } else { vec![0] });
    mesh.attach_all();
    mesh.settle(&[0, 1], 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&[0, 1]);
    let before = mesh.sim.report(0).counters["rekeys"];
    let mut came = [0, 0];
    for number in 0..20_000_u32 {
        // So that there is always a reason to publish a snapshot, and one was published just now.
        if number % 4 == 0 {
            let [_, a, b, c] = number.to_be_bytes();
            let station = Input::Station { mac: Mac([2, 9, 9, a, b, c]), addresses: vec![], attached: false };
            mesh.sim.tell((number / 4 % 2) as HostId, station);
        }
        for (from, to) in [(0, 1), (1, 0)] {
            mesh.sim.send_frame(from, &frame(station(from), station(to)));
        }
        mesh.sim.run(Duration::from_millis(1));
        for (id, came) in came.iter_mut().enumerate() {
            *came += mesh.sim.take_frames(id).len();
        }
    }
    mesh.sim.run(SECOND);
    for (id, came) in came.iter_mut().enumerate() {
        *came += mesh.sim.take_frames(id).len();
    }
    let rekeys = mesh.sim.report(0).counters["rekeys"] - before;
    assert!(rekeys >= 9, "in 20 s: {rekeys}");
    assert_eq!(came, [20_000; 2]);
}

/// Two that dial each other initiate at once, and again when both hold the other for the one who renews.
#[test]
fn sessions_are_renewed_in_time_and_without_losing_a_frame_although_handshakes_cross() {
    let often = |config: &mut NodeConfig, _| config.rekey_after = 2 * SECOND;
    let mut mesh = Mesh::new(2, often, |id| vec![1 - id]);
    mesh.sim.network.latency = 20 * MILLISECOND;
    mesh.sim.network.jitter = 10 * MILLISECOND;
    mesh.attach_all();
    mesh.settle(&[0, 1], 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&[0, 1]);
    let before = mesh.sim.report(0).counters["rekeys"];
    let mut came = [0, 0];
    for _ in 0..40_000 {
        for (from, to) in [(0, 1), (1, 0)] {
            mesh.sim.send_frame(from, &frame(station(from), station(to)));
        }
        mesh.sim.run(MILLISECOND);
        for (id, came) in came.iter_mut().enumerate() {
            *came += mesh.sim.take_frames(id).len();
        }
    }
    mesh.sim.run(SECOND);
    for (id, came) in came.iter_mut().enumerate() {
        *came += mesh.sim.take_frames(id).len();
    }
    let rekeys = mesh.sim.report(0).counters["rekeys"] - before;
    assert_eq!(came, [40_000; 2]);
    assert!((18..=21).contains(&rekeys), "in 40 s: {rekeys}");
}

#[test]
fn not_a_frame_is_lost_from_the_first_path_on_although_handshakes_cross() {
    for trial in 0..4 {
        // Each dials the other.
        let mut mesh = Mesh::new(2, |_, _| (), |id| vec![1 - id]);
        mesh.sim.network.latency = Duration::from_micros(100 + 300 * trial);
        mesh.attach_all();
        let (mut sent, mut came) = (0, 0);
        while sent < 1000 {
            for (from, to) in [(0, 1), (1, 0)] {
                if mesh.sim.report(from).paths.iter().any(|path| path.path == "direct") {
                    mesh.sim.send_frame(from, &frame(station(from), station(to)));
                    sent += 1;
                }
            }
            mesh.sim.run(Duration::from_micros(100));
            came += (0..2).map(|id| mesh.sim.take_frames(id).len()).sum::<usize>();
        }
        mesh.sim.run(SECOND);
        came += (0..2).map(|id| mesh.sim.take_frames(id).len()).sum::<usize>();
        assert_eq!(sent, came, "trial {trial}");
    }
}

#[test]
fn the_data_plane_is_told_when_a_path_narrows() {
    let mut mesh = Mesh::new(2, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    mesh.attach_all();
    mesh.settle(&[0, 1], 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&[0, 1]);
    // Twice, as routes are looked at anew now and then for other reasons.
    for payload_max in [1272, 1000] {
        mesh.sim.network.payload_max = payload_max;
        // Idle, nobody would look for a while.
        for _ in 0..3 {
            mesh.sim.send_frame(0, &frame(station(0), station(1)));
            mesh.sim.run(SECOND);
        }
        mesh.sim.take_frames(1);
        // An IPv4 packet of 1340 bytes that may be fragmented.
        let mut large = [&station(1).0[..], &station(0).0, &[0x08, 0x00, 0x45, 0, 0x05, 0x3c], &[0; 1336]].concat();
        large[14 + 8..14 + 10].copy_from_slice(&[64, 253]);
        mesh.sim.send_frame(0, &large);
        mesh.sim.run(SECOND);
        assert_eq!(mesh.sim.take_frames(1).len(), 2, "it comes in two fragments of {payload_max}");
    }
}

#[test]
fn a_station_that_moves_is_found_at_its_new_host() {
    let mut mesh = Mesh::new(3, |_, _| (), |_| vec![0, 1, 2]);
    mesh.attach_all();
    let all = everybody(&mesh);
    mesh.settle(&all, 10 * SECOND);
    mesh.assert_broadcast_exactly_once(&all);
    mesh.sim.tell(2, Input::StationGone { mac: station(2) });
    mesh.sim.tell(1, Input::Station { mac: station(2), addresses: vec![station_address(2)], attached: true });
    mesh.sim.run(SECOND);
    mesh.sim.send_frame(0, &frame(station(0), station(2)));
    mesh.sim.run(SECOND);
    assert_eq!((mesh.sim.take_frames(1).len(), mesh.sim.take_frames(2).len()), (1, 0));
    assert!(mesh.sim.report(0).endpoints.iter().all(|e| e.mac != station(2) || e.name == mesh.name(1)));
}

#[test]
fn a_host_that_lost_its_identity_keeps_its_stations() {
    for seed in 0..6 {
        let mut mesh = Mesh::seeded(seed, 3, |_, _| (), |_| vec![0, 1, 2]);
        mesh.attach_all();
        let all = everybody(&mesh);
        mesh.settle(&all, 10 * SECOND);
        mesh.configs[2].identity = Identity::generate(&mesh.entropy);
        let config = mesh.configs[2].clone();
        mesh.sim.replace(2, config);
        // It is told of its station before it hears what others remember of who was there.
        mesh.sim.tell(2, Input::Station { mac: station(2), addresses: vec![station_address(2)], attached: true });
        mesh.settle(&all, 10 * SECOND);
        mesh.sim.run(2 * SECOND);
        mesh.sim.send_frame(0, &frame(station(0), station(2)));
        mesh.sim.run(SECOND);
        assert_eq!(mesh.sim.take_frames(2).len(), 1, "seed {seed}");
    }
}

#[test]
fn a_copy_of_a_peer_is_refused_and_the_original_stays() {
    let mut mesh = Mesh::new(3, |_, _| (), |id| if id == 0 { vec![] } else { vec![0] });
    mesh.settle(&[0, 1, 2], 10 * SECOND);
    let mut copy = mesh.configs[1].clone();
    copy.uid = Uid(mesh.entropy.number());
    let id = mesh.sim.add(copy, 1.0);
    mesh.sim.run(10 * SECOND);
    let copy = mesh.sim.report(id);
    assert!(copy.targets.iter().any(|target| target.info.contains("cloned")), "{copy:#?}");
    mesh.settle(&[0, 1, 2], SECOND);
}

#[test]
fn two_hundred_nodes_agree_lose_nothing_twice_and_stay_bounded() {
    const COUNT: usize = 200;
    // A ring of targets with a few long ones; each holds a dozen connections.
    let targets = |id: HostId| vec![(id + 1) % COUNT, (id + 17) % COUNT];
    let mut mesh = Mesh::new(COUNT, |config, _| config.conn_limit = 12, targets);
    mesh.sim.network.latency = Duration::from_millis(5);
    mesh.sim.network.jitter = Duration::from_millis(5);
    mesh.sim.network.loss = 0.01;
    mesh.attach_all();
    let all = everybody(&mesh);
    let took = mesh.settle(&all, 60 * SECOND);
    println!("200 nodes settled in {took:?} of virtual time");
    mesh.sim.run(20 * SECOND);

    // Everybody knows every station.
    for id in [0, 99, 199] {
        assert_eq!(mesh.sim.report(id).endpoints.len(), COUNT, "host {id}");
    }

    // Nothing comes twice, and what is not lost comes: with 1 % loss on up to five hops, most does.
    let sources = [0, 50, 150];
    mesh.broadcasts(&sources);
    mesh.sim.run(3 * SECOND);
    let came = mesh.broadcasts(&sources);
    assert!(came.iter().all(|(_, count)| *count == 1), "{came:?}");
    assert!(came.len() > sources.len() * (COUNT - 1) * 9 / 10, "{} of {}", came.len(), sources.len() * (COUNT - 1));

    // Two halves part for longer than the gone are remembered, and meet again.
    mesh.sim.network.groups = (0..COUNT).map(|id| id % 2).collect();
    mesh.sim.run(75 * SECOND);
    let half: Vec<HostId> = all.iter().copied().filter(|id| id % 2 == 0).collect();
    mesh.settle(&half, 60 * SECOND);
    let report = mesh.sim.report(0);
    assert_eq!(report.peers.len(), COUNT / 2, "the other half is forgotten");
    mesh.sim.network.heal();
    let took = mesh.settle(&all, 120 * SECOND);
    println!("agreed again {took:?} after the partition healed");
    mesh.sim.run(40 * SECOND);
    let reference = mesh.sim.report(0);
    // Its own come first in each report.
    let stations = |r: &Report| r.endpoints.iter().map(|e| (e.mac, e.clone())).collect::<BTreeMap<_, _>>();
    for id in [1, 100, 177] {
        let report = mesh.sim.report(id);
        let names = |r: &Report| r.peers.iter().map(|p| p.name).collect::<Vec<_>>();
        assert_eq!(names(&report), names(&reference), "host {id}");
        assert_eq!(stations(&report), stations(&reference), "host {id}");
    }

    // Idle, nothing grows: state is per peer and station, traffic per connection.
    let before: Vec<_> = (0..COUNT).map(|id| mesh.sim.sent(id)).collect();
    mesh.sim.run(30 * SECOND);
    let mut sent = Vec::new();
    for (id, before) in before.into_iter().enumerate() {
        let report = mesh.sim.report(id);
        // The limit, a quarter for strangers when the halves met again, and two targets of its own.
        let up = report.connections.iter().filter(|c| c.state <= ConnectionState::Pending).count();
        assert!(up <= 12 + 3 + 2, "host {id}: {up} connections");
        assert_eq!(report.peers.len(), COUNT);
        let bytes = mesh.sim.sent(id).1 - before.1;
        // Two small probes and two full ones a second and link and their echoes are 6 kB; now and then comes a sweep of
        // sizes, and what is told again to compare.
        let links = up.max(12) as u64;
        assert!(bytes / 30 < 7000 * links, "host {id} sends {} bytes/s on {links} links when idle", bytes / 30);
        sent.push(bytes / 30);
    }
    let (sum, most) = (sent.iter().sum::<u64>(), sent.iter().max());
    println!("idle, a node sends {} bytes/s, and {most:?} at most", sum / sent.len() as u64);
}
