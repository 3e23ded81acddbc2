//! What goes wrong in a run: drawn from its seed, each for a while, many at a time.

use std::{collections::BTreeMap, time::Duration};

use weft::{
    entropy::Entropy,
    sim::{HostId, Network, Way},
};

use super::{MILLISECOND, SECOND};

/// Faults last from a moment to longer than control connections live without an answer (10 s).
const LASTS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(12)];

/// Random choices of one run.
#[derive(Debug)]
pub(super) struct Dice(Entropy);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut bytes = *b"what goes wrong in a random run.";
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Entropy::seeded(bytes))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number()
    }

    pub(super) fn below(&self, count: usize) -> usize {
        (self.0.number() % count as u64) as usize
    }

    pub(super) fn chance(&self, share: f64) -> bool {
        self.0.fraction() < share
    }

    /// Short ones as often as long ones.
    pub(super) fn span(&self, [least, most]: [Duration; 2]) -> Duration {
        least.mul_f64((most.as_secs_f64() / least.as_secs_f64()).powf(self.0.fraction()))
    }

    pub(super) fn pair(&self, count: usize) -> (HostId, HostId) {
        let one = self.below(count);
        (one, (one + 1 + self.below(count - 1)) % count)
    }
}

/// What is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Whatever there is.
    All,
    /// All but TCP.
    Packets,
    /// The kernel's packets only.
    Fast,
    Streams,
}

/// Something that is wrong for a while.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// All that goes from one host to another is lost, by these ways of sending.
    Cut { ways: Vec<(HostId, HostId)>, of: Cut },
    /// Hosts in different groups do not reach each other.
    Parted(Vec<usize>),
    /// More is lost, one way.
    Lossy { from: HostId, to: HostId, loss: f64 },
    /// Packets take longer, one way.
    Slow { from: HostId, to: HostId, by: Duration },
    /// A router is killed, and started again afterwards: the same, or one with another name.
    Down { host: HostId, is_another: bool },
    /// A host gets no processor.
    Stalled(HostId),
    /// A NAT forgets all that it has translated.
    Forgotten(HostId),
}

impl Fault {
    /// One of a mesh of so many hosts, and how long it lasts.
    pub(super) fn draw(dice: &Dice, count: usize, natted: &[HostId]) -> (Self, Duration) {
        let span = dice.span(LASTS);
        let (a, b) = dice.pair(count);
        let both = vec![(a, b), (b, a)];
        let cut = |ways, of| Self::Cut { ways, of };
        let fault = match dice.below(20) {
            0..3 => cut(both, Cut::All),
            3..5 => cut(both, Cut::Packets),
            5..7 => cut(vec![(a, b)], Cut::Packets),
            7 => cut(vec![(a, b)], Cut::Fast),
            8 => cut(both, Cut::Streams),
            9 => Self::Parted((0..count).map(|_| dice.below(2)).collect()),
            10 => Self::Parted((0..count).map(|id| usize::from(id == a)).collect()),
            11..14 => Self::Lossy { from: a, to: b, loss: 0.01 * (1 + dice.below(30)) as f64 },
            14..16 => Self::Slow { from: a, to: b, by: dice.span([10 * MILLISECOND, SECOND / 5]) },
            16 => Self::Down { host: a, is_another: dice.chance(0.3) },
            17 => return (Self::Down { host: a, is_another: dice.chance(0.1) }, MILLISECOND),
            18 => Self::Stalled(a),
            _ => match natted.first() {
                Some(_) => return (Self::Forgotten(natted[dice.below(natted.len())]), MILLISECOND),
                // Many at once.
                None => cut((0..count).filter(|id| *id != a).map(|id| (a, id)).collect(), Cut::Packets),
            },
        };
        (fault, span)
    }
}

/// Makes the network what it is with these faults.
pub(super) fn lay<'a>(
    network: &mut Network,
    sound: &BTreeMap<(HostId, HostId), Way>,
    faults: impl Iterator<Item = &'a Fault>,
) {
    network.heal();
    network.ways.clone_from(sound);
    for fault in faults {
        match fault {
            Fault::Cut { ways, of } => {
                if matches!(of, Cut::All | Cut::Packets) {
                    network.datagram_cuts.extend(ways);
                }
                if matches!(of, Cut::All | Cut::Packets | Cut::Fast) {
                    network.fast_cuts.extend(ways);
                }
                if matches!(of, Cut::All | Cut::Streams) {
                    network.stream_cuts.extend(ways);
                }
            }
            Fault::Parted(groups) => network.groups.clone_from(groups),
            Fault::Lossy { from, to, loss } => {
                network.ways.entry((*from, *to)).and_modify(|way| way.loss = way.loss.max(*loss));
            }
            Fault::Slow { from, to, by } => {
                network.ways.entry((*from, *to)).and_modify(|way| way.latency += *by);
            }
            Fault::Down { .. } | Fault::Stalled(_) | Fault::Forgotten(_) => {}
        }
    }
}
