//! Flows spread over relays that are as good, in virtual time: by which they go, and that none is ever out of order.

use std::{collections::BTreeSet, time::Duration};

use weft::{
    id::{PeerName, Uid},
    node::{NodeConfig, input::Input},
    sim::HostId,
    time::Time,
};

use super::{
    MILLISECOND, Mesh, SECOND, frame,
    routing::{path, worsen},
    station,
};

const FLOWS: u16 = 16;
/// Between frames of one flow.
const STEP: Duration = Duration::from_millis(5);
/// Of a datagram; so long that what a relay sends besides does not count.
const PAYLOAD: usize = 1000;

const A: HostId = 0;
const RELAYS: [HostId; 2] = [1, 2];
const D: HostId = 3;

/// Datagrams from A to D, with their number in each.
struct Flows {
    sent: u32,
    heard: [(u32, Time); FLOWS as usize],
    /// The longest time that a flow heard nothing.
    gap: Duration,
}

/// A and D, between them two relays and no direct path.
fn mesh(seed: u64) -> Mesh {
    let mut mesh = Mesh::seeded(seed, 4, |_, _| (), |id| (0..id).collect());
    mesh.sim.network.latency = 2 * MILLISECOND;
    mesh.sim.network.datagram_cuts.extend([(A, D), (D, A)]);
    mesh.attach_all();
    mesh.sim.run(15 * SECOND);
    mesh
}

/// UDP in IPv4 from a port of its own for each flow.
fn datagram(flow: u16, number: u32) -> Vec<u8> {
    let ip_len = u16::try_from(28 + PAYLOAD).unwrap();
    let [high, low] = ip_len.to_be_bytes();
    let ip = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 32, 0, 1, 10, 32, 0, 4];
    let udp = [&flow.to_be_bytes()[..], &[0, 7], &(ip_len - 20).to_be_bytes(), &[0, 0]].concat();
    let mut payload = vec![0; PAYLOAD];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    [&station(D).0[..], &station(A).0, &[8, 0], &ip, &udp, &payload].concat()
}

impl Flows {
    fn new(mesh: &Mesh) -> Self {
        Self { sent: 0, heard: [(0, mesh.sim.now()); FLOWS as usize], gap: Duration::ZERO }
    }

    /// Sends for `span`; each flow comes in order and nothing twice. The longest gap in a flow.
    fn run(&mut self, mesh: &mut Mesh, span: Duration) -> Duration {
        let start = mesh.sim.now();
        self.gap = Duration::ZERO;
        while mesh.sim.now().since(start) < span {
            self.sent += 1;
            (0..FLOWS).for_each(|flow| mesh.sim.send_frame(A, &datagram(flow, self.sent)));
            mesh.sim.send_frame(D, &frame(station(D), station(A)));
            mesh.sim.run(STEP);
            for frame in mesh.sim.take_frames(D) {
                let flow = usize::from(u16::from_be_bytes([frame[34], frame[35]]));
                let number = u32::from_be_bytes(frame[42..46].try_into().unwrap());
                let (last, _) = self.heard[flow];
                assert!(number > last, "flow {flow}: {number} after {last} at {:?}", mesh.sim.now());
                self.heard[flow] = (number, mesh.sim.now());
            }
            let now = mesh.sim.now();
            self.gap = self.heard.iter().map(|(_, at)| now.since(*at)).max().unwrap().max(self.gap);
        }
        self.gap
    }

    /// How many of the frames of the next second each relay passes on.
    fn shares(&mut self, mesh: &mut Mesh) -> [f64; 2] {
        let sent = |mesh: &Mesh| RELAYS.map(|relay| mesh.sim.sent(relay).1);
        let before = sent(mesh);
        let gap = self.run(mesh, SECOND);
        assert!(gap < 50 * MILLISECOND, "nothing for {gap:?}");
        let frames = SECOND.as_secs_f64() / STEP.as_secs_f64() * f64::from(FLOWS);
        let after = sent(mesh);
        [0, 1].map(|relay| (after[relay] - before[relay]) as f64 / (frames * PAYLOAD as f64))
    }

    fn expect_spread(&mut self, mesh: &mut Mesh) {
        let shares = self.shares(mesh);
        assert!(shares.iter().all(|share| *share > 0.2), "{shares:?}: {:#?}", mesh.sim.explain(A, mesh.name(D)));
    }
}

/// The relays of the ways in use, as `weft explain` shows them; the chosen one first.
fn in_use(mesh: &Mesh) -> Vec<PeerName> {
    let ways = mesh.sim.explain(A, mesh.name(D)).unwrap().ways;
    ways.iter().filter(|way| way.in_use).map(|way| way.relays[0].name).collect()
}

#[test]
fn flows_are_spread_over_two_relays_as_good_and_none_comes_out_of_order_when_one_dies_and_comes_back() {
    for (seed, slower) in [(1, 0), (2, 0), (3, 200), (4, 200)] {
        for dies_chosen in [true, false] {
            let mut mesh = mesh(seed);
            for (one, other) in [(A, 2), (2, A), (2, D), (D, 2)] {
                worsen(&mut mesh, [(one, other)], |_| ());
                mesh.sim.network.ways.get_mut(&(one, other)).unwrap().latency += Duration::from_micros(slower);
            }
            mesh.sim.run(60 * SECOND);
            let mut flows = Flows::new(&mesh);
            flows.run(&mut mesh, SECOND);
            assert_eq!(in_use(&mesh).len(), 1, "not at once");
            flows.run(&mut mesh, 4 * SECOND);
            flows.expect_spread(&mut mesh);
            let both = in_use(&mesh);
            let line = path(&mesh, A, D);
            assert_eq!((&line.relays, &line.further), (&vec![both[0]], &vec![vec![both[1]]]));
            assert_eq!(both.iter().collect::<BTreeSet<_>>().len(), 2);

            let dies = both[usize::from(!dies_chosen)];
            let id = RELAYS.into_iter().find(|relay| mesh.name(*relay) == dies).unwrap();
            mesh.sim.kill(id);
            let gap = flows.run(&mut mesh, 5 * SECOND);
            println!("seed {seed}, the chosen one dies {dies_chosen}: nothing for {gap:?}");
            assert!(gap <= SECOND, "nothing for {gap:?}");
            assert_eq!(in_use(&mesh).len(), 1);

            let uid = Uid(mesh.entropy.number());
            let config = NodeConfig { uid, ..mesh.configs[id].clone() };
            mesh.sim.restart(id, config);
            let gap = flows.run(&mut mesh, 30 * SECOND);
            assert!(gap < 50 * MILLISECOND, "nothing for {gap:?}");
            flows.expect_spread(&mut mesh);
        }
    }
}

#[test]
fn a_relay_that_is_slower_or_has_less_to_spare_carries_no_flow() {
    let cases: [fn(&mut Mesh); 2] = [
        |mesh| worsen(mesh, [(A, 2), (2, A)], |way| way.latency += 6 * MILLISECOND),
        |mesh| mesh.sim.tell(2, Input::Load(700)),
    ];
    for worse in cases {
        let mut mesh = mesh(5);
        worse(&mut mesh);
        mesh.sim.run(60 * SECOND);
        let mut flows = Flows::new(&mesh);
        flows.run(&mut mesh, 10 * SECOND);
        let shares = flows.shares(&mut mesh);
        let told = mesh.sim.explain(A, mesh.name(D)).unwrap();
        assert!(shares[0] > 0.9 && shares[1] < 0.05, "{shares:?}: {told:#?}");
    }
}
