//! One run: a mesh from a seed, settled, then faults and frames.

use std::{collections::BTreeMap, time::Duration};

use weft::{
    api::text,
    crypto::identity::Identity,
    id::{Mac, Uid},
    node::input::Input,
    sim::{HostId, Nat, Way},
    time::Time,
};

use super::{
    MILLISECOND, Mesh, SECOND,
    events::{Dice, Fault, lay},
    fast::ready,
    frame,
    oracle::{Layout, Oracle},
    station, station_address,
};

/// Hosts of a run.
const HOSTS: [usize; 2] = [4, 9];
/// How long all is well at first, and then is not.
const CALM: Duration = Duration::from_secs(10);
const TROUBLE: Duration = Duration::from_secs(25);
/// No pair is silent for longer while a path exists.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long two hosts talk with each other before others do, and how long a fault is in coming.
const TALKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];
const FAULT_COMES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(4)];
/// The same in a run of each kind: where much goes wrong, little is promised.
const CALMER: [u32; 3] = [1, 2, 4];
/// Between broadcasts, on average.
const BROADCASTS: Duration = Duration::from_secs(2);
/// Packets that a host may send in a second for each peer, all told: twenty probes and as many echoes, fifty of each while a loss is
/// looked at, and frames of its own and of others.
const PACKETS_MAX: u64 = 300;

/// What came of a run, or of several.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) runs: u64,
    pub(super) virtual_time: Duration,
    pub(super) faults: u64,
    pub(super) sent: u64,
    pub(super) delivered: u64,
    /// The longest time that a pair was silent while it had been promised a path.
    pub(super) longest: Duration,
    /// How often it was looked whether a pair that talks is promised a path, and how often it was.
    pub(super) looks: u64,
    pub(super) promised: u64,
    /// The most packets that a host sent in a second for each peer.
    pub(super) packets: u64,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.virtual_time += other.virtual_time;
        self.faults += other.faults;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.longest = self.longest.max(other.longest);
        self.looks += other.looks;
        self.promised += other.promised;
        self.packets = self.packets.max(other.packets);
    }
}

/// Two hosts that send frames to each other.
#[derive(Debug)]
struct Talk {
    ends: [HostId; 2],
    until: Time,
    /// When each end last heard the other, or began to wait.
    heard: [Time; 2],
}

/// A frame that was sent: from whom, to whom if not to all, and where it came.
#[derive(Debug)]
struct Sent {
    from: HostId,
    to: Option<HostId>,
    came: u32,
}

pub(super) struct Trial {
    mesh: Mesh,
    dice: Dice,
    layout: Layout,
    oracle: Oracle,
    /// The network as it is without faults.
    sound: BTreeMap<(HostId, HostId), Way>,
    faults: Vec<(Time, Fault)>,
    fault_at: Time,
    fault_comes: [Duration; 2],
    /// Whether the kernels can carry frames.
    is_fast: bool,
    talks: Vec<Talk>,
    frames: Vec<Sent>,
    step: Duration,
    outcome: Outcome,
    /// What happened, for who looks for the reason of a failure.
    story: Vec<String>,
}

/// Goes through the run of a seed.
///
/// # Errors
/// What was broken of what is promised, and all that led to it.
pub(super) fn run(seed: u64) -> Result<Outcome, String> {
    let mut trial = Trial::new(seed);
    trial.go().map_err(|what| format!("WEFT_SEED={seed}: {what}\n{}", trial.story.join("\n")))?;
    Ok(trial.outcome)
}

impl Trial {
    fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let count = HOSTS[0] + dice.below(HOSTS[1] - HOSTS[0] + 1);
        let layout = layout(&dice, count);
        let adjust = |config: &mut weft::node::NodeConfig, id: HostId| {
            config.discovery = layout.discovers[id];
            config.relay = layout.relays[id];
        };
        let mut mesh = Mesh::seeded(seed, count, adjust, |id| layout.targets[id].clone());
        let near = dice.chance(0.3);
        let mut sound = BTreeMap::new();
        for (a, b) in pairs(count) {
            let latency =
                dice.span(if near { [MILLISECOND / 5, 2 * MILLISECOND] } else { [MILLISECOND, 40 * MILLISECOND] });
            let jitter = if dice.chance(0.5) { latency / 10 } else { Duration::ZERO };
            let way = Way { latency, jitter, loss: if dice.chance(0.1) { 0.005 } else { 0.0 } };
            sound.extend([((a, b), way), ((b, a), way)]);
        }
        let nats = layout.natted().into_iter().map(|id| Nat::new([192, 0, 2, id as u8].into(), [id]));
        mesh.sim.network.nats = nats.collect();
        mesh.sim.network.ways.clone_from(&sound);
        mesh.attach_all();
        let is_fast = dice.chance(0.4);
        if is_fast {
            (0..count).for_each(|id| ready(&mut mesh.sim, id, None));
        }
        let calmer = CALMER[dice.below(CALMER.len())];
        Self {
            oracle: Oracle::new(layout.clone()),
            story: vec![format!("{count} hosts, fast {is_fast}, {layout:?}")],
            step: MILLISECOND * (20 + dice.below(31) as u32),
            mesh,
            dice,
            layout,
            sound,
            faults: Vec::new(),
            fault_at: Time::ZERO,
            fault_comes: FAULT_COMES.map(|span| span * calmer),
            is_fast,
            talks: Vec::new(),
            frames: Vec::new(),
            outcome: Outcome { runs: 1, ..Outcome::default() },
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.mesh.sim.run(CALM);
        let end = self.now() + TROUBLE;
        self.fault_at = self.now() + SECOND;
        let sent_before: Vec<u64> = (0..self.mesh.len()).map(|id| self.mesh.sim.sent(id).0).collect();
        while self.now() < end {
            self.begin_and_end_faults();
            self.begin_and_end_talks();
            self.send();
            self.mesh.sim.run(self.step);
            self.oracle.look(&self.mesh.sim.network, |id| runs(&self.faults, id), self.now());
            self.receive()?;
            self.expect_no_silence()?;
        }
        for (id, before) in sent_before.into_iter().enumerate() {
            let packets = (self.mesh.sim.sent(id).0.saturating_sub(before)) / TROUBLE.as_secs();
            let packets = packets / (self.mesh.len() - 1) as u64;
            self.outcome.packets = self.outcome.packets.max(packets);
            if packets > PACKETS_MAX {
                return Err(format!("host {id} sent {packets} packets a second for each peer"));
            }
        }
        self.outcome.virtual_time = self.now().since(Time::ZERO);
        self.outcome.sent = self.frames.len() as u64;
        Ok(())
    }

    fn now(&self) -> Time {
        self.mesh.sim.now()
    }

    fn tell(&mut self, what: &str) {
        let at = self.now().since(Time::ZERO);
        self.story.push(format!("{:7.3} {what}", at.as_secs_f64()));
    }

    fn begin_and_end_faults(&mut self) {
        let now = self.now();
        let (over, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.faults).into_iter().partition(|(until, _)| *until <= now);
        self.faults = rest;
        let is_changed = !over.is_empty() || self.fault_at <= now;
        for (_, fault) in over {
            self.tell(&format!("over: {fault:?}"));
            if let Fault::Down { host, is_another } = fault {
                self.restart(host, is_another);
            }
        }
        while self.fault_at <= now {
            self.fault_at = self.fault_at + self.dice.span(self.fault_comes);
            let (fault, span) = Fault::draw(&self.dice, self.mesh.len(), &self.layout.natted());
            self.begin(fault, span);
        }
        if is_changed {
            lay(&mut self.mesh.sim.network, &self.sound, self.faults.iter().map(|(_, fault)| fault));
        }
    }

    fn begin(&mut self, fault: Fault, span: Duration) {
        match fault {
            Fault::Down { host, .. } | Fault::Stalled(host) if !runs(&self.faults, host) => return,
            Fault::Down { host, .. } => self.mesh.sim.kill(host),
            Fault::Stalled(host) => self.mesh.sim.stall(host, span),
            Fault::Forgotten(host) => {
                let shown = std::net::IpAddr::from([192, 0, 2, host as u8]);
                for nat in self.mesh.sim.network.nats.iter_mut().filter(|nat| nat.outer == shown) {
                    nat.forget(|_| true);
                }
                self.oracle.disturb(host, self.mesh.sim.now());
            }
            Fault::Cut { .. } | Fault::Parted(_) | Fault::Lossy { .. } | Fault::Slow { .. } => {}
        }
        self.tell(&format!("for {span:.1?}: {fault:?}"));
        self.outcome.faults += 1;
        let until = self.now() + span;
        self.faults.push((until, fault));
    }

    /// Another run of a router, with a clock that may have been set back, or another peer at its place.
    fn restart(&mut self, host: HostId, is_another: bool) {
        let config = &mut self.mesh.configs[host];
        config.uid = Uid(self.dice.number());
        config.started = 1_700_000_000 + self.dice.number() % 86_400;
        if is_another {
            config.identity = Identity::generate(&self.mesh.entropy);
        }
        let config = config.clone();
        if is_another {
            self.mesh.sim.replace(host, config);
        } else {
            self.mesh.sim.restart(host, config);
        }
        if self.is_fast {
            ready(&mut self.mesh.sim, host, None);
        }
        let addresses = vec![station_address(host)];
        self.mesh.sim.tell(host, Input::Station { mac: station(host), addresses, attached: true });
        self.oracle.disturb(host, self.mesh.sim.now());
    }

    fn begin_and_end_talks(&mut self) {
        let now = self.now();
        self.talks.retain(|talk| talk.until > now);
        while self.talks.len() < self.mesh.len() / 2 + 1 {
            let (a, b) = self.dice.pair(self.mesh.len());
            let until = now + self.dice.span(TALKS);
            match self.talks.iter_mut().find(|talk| talk.ends == [a, b] || talk.ends == [b, a]) {
                Some(talk) => talk.until = talk.until.max(until),
                None => self.talks.push(Talk { ends: [a, b], until, heard: [now; 2] }),
            }
        }
    }

    fn send(&mut self) {
        for at in 0..self.talks.len() {
            let [a, b] = self.talks[at].ends;
            self.send_one(a, Some(b));
            self.send_one(b, Some(a));
        }
        if self.dice.chance(self.step.as_secs_f64() / BROADCASTS.as_secs_f64()) {
            self.send_one(self.dice.below(self.mesh.len()), None);
        }
    }

    fn send_one(&mut self, from: HostId, to: Option<HostId>) {
        if runs(&self.faults, from) {
            let number = (self.frames.len() as u32).to_be_bytes();
            self.frames.push(Sent { from, to, came: 0 });
            let frame = frame(station(from), to.map_or(Mac::BROADCAST, station));
            self.mesh.sim.send_frame(from, &[&frame[..], &number].concat());
        }
    }

    fn receive(&mut self) -> Result<(), String> {
        let now = self.now();
        for at in 0..self.mesh.len() {
            for frame in self.mesh.sim.take_frames(at) {
                let number = frame.last_chunk().map_or(0, |number| u32::from_be_bytes(*number));
                let Some(sent) = self.frames.get_mut(number as usize) else {
                    return Err("what nobody sent".to_owned());
                };
                let (from, to) = (sent.from, sent.to);
                if sent.came & (1 << at) != 0 {
                    return Err(format!("frame {number} from {from} to {to:?} came twice to {at}"));
                }
                let is_astray = |to| to != at && self.oracle.is_acquainted(from, to, now);
                if at == from || to.is_some_and(is_astray) {
                    return Err(format!("frame {number} from {from} to {to:?} came to {at}"));
                }
                sent.came |= 1 << at;
                self.outcome.delivered += 1;
                let talk = self.talks.iter_mut().find(|talk| talk.ends == [from, at] || talk.ends == [at, from]);
                if let Some(talk) = talk.filter(|_| to.is_some()) {
                    talk.heard[usize::from(talk.ends[1] == at)] = now;
                }
            }
        }
        Ok(())
    }

    fn expect_no_silence(&mut self) -> Result<(), String> {
        let now = self.now();
        let looks = now.micros() / 1_000_000 != (now.micros() - self.step.as_micros() as u64) / 1_000_000;
        for talk in &mut self.talks {
            let [a, b] = talk.ends;
            if !runs(&self.faults, a) || !runs(&self.faults, b) {
                talk.heard = [now; 2];
                continue;
            }
            for (from, to, heard) in [(b, a, talk.heard[0]), (a, b, talk.heard[1])] {
                let silence = now.since(heard);
                if !looks && silence < SECOND / 4 {
                    continue;
                }
                let is_promised = self.oracle.is_promised(from, to, now);
                self.outcome.looks += u64::from(looks);
                self.outcome.promised += u64::from(looks && is_promised);
                if is_promised {
                    self.outcome.longest = self.outcome.longest.max(silence);
                }
                if is_promised && silence > SILENCE_MAX {
                    let why = explanation(&self.mesh, from, to);
                    return Err(format!("nothing from {from} to {to} for {silence:?} at {now:?}\n{why}"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a host has a router that runs.
fn runs(faults: &[(Time, Fault)], host: HostId) -> bool {
    let is_out = |fault: &Fault| matches!(fault, Fault::Down { host: id, .. } | Fault::Stalled(id) if *id == host);
    !faults.iter().any(|(_, fault)| is_out(fault))
}

fn pairs(count: usize) -> Vec<(HostId, HostId)> {
    (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect()
}

/// Who is told of whom, who is behind a NAT: a chain of targets joins all, and the first can be dialled by all.
fn layout(dice: &Dice, count: usize) -> Layout {
    let some = |share: f64, of: f64| -> Vec<bool> {
        let is_any = dice.chance(share);
        (0..count).map(|id| is_any && id > 0 && dice.chance(of)).collect()
    };
    let not = |ids: Vec<bool>| -> Vec<bool> { ids.into_iter().map(|id| !id).collect() };
    let natted = some(0.3, 0.3);
    let discovers = not(some(0.3, 0.6));
    let relays = not(some(0.3, 0.3));
    let knows_all = dice.chance(0.5);
    let targets = (0..count).map(|id| {
        let open = (0..count).filter(|to| *to != id && !natted[*to]);
        let is_told = |to: &HostId| knows_all || *to == 0 || (*to < id && dice.chance(0.4));
        open.filter(is_told).collect()
    });
    Layout { targets: targets.collect(), relays, natted, discovers }
}

fn explanation(mesh: &Mesh, from: HostId, to: HostId) -> String {
    let now = mesh.sim.report(from).router.uptime_s + mesh.configs[from].started;
    let explanation = mesh.sim.explain(from, mesh.name(to));
    let names: Vec<String> = (0..mesh.len()).map(|id| format!("{id} is {}", mesh.name(id))).collect();
    let tables = explanation.map(|explanation| text::peer(&explanation, now)).unwrap_or_default();
    names.join(", ") + "\n" + &tables.iter().map(ToString::to_string).collect::<String>()
}
