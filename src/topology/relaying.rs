//! What a peer does for frames of others: how much it has to spare for them, or that it passes none on.
//!
//! What a busy router forwards waits: in the simplest queue, M/M/1, 1 / (1 − load) times as long as in an idle one
//! (L. Kleinrock, Queueing Systems I, 3.2). Of four levels each costs what its lower end comes to, and so relays are
//! left before they are overloaded. Going to another level takes time, as everybody is told of it.

use std::time::Duration;

use crate::time::Time;

/// What a relay costs besides its links, in microseconds: so much that a direct path which came back is a clear gain
/// (5 ms, the selector's least) over two links that happen to be a little faster than it.
pub const RELAY_PENALTY: u64 = 10_000;
/// What one costs that is full: more than any way that is good for something. Who has no other way may go by it all the same.
const FULL_PENALTY: u64 = 1_000_000;
/// A level is left for a lower one below so much less than its lower end.
const DEAD_BAND: f64 = 0.15;
/// How long the load must have been at a higher level, or at a lower one.
const BUSIER_LASTS: Duration = Duration::from_secs(2);
const CALMER_LASTS: Duration = Duration::from_secs(30);

/// How much a peer has to spare for frames of others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Relaying {
    /// At least half of what it can do.
    #[default]
    Free,
    /// Less than half.
    Busy,
    /// Less than a quarter.
    Crowded,
    /// Less than a tenth: only for who has no other way.
    Full,
    /// It passes on no frames, because it was told so.
    Off,
}

impl Relaying {
    const ALL: [Self; 5] = [Self::Free, Self::Busy, Self::Crowded, Self::Full, Self::Off];

    /// What it costs to go by such a relay, besides its links, in microseconds; None if it is none.
    pub fn penalty(self) -> Option<u64> {
        match self {
            Self::Free => Some(RELAY_PENALTY),
            Self::Busy => Some(2 * RELAY_PENALTY),
            Self::Crowded => Some(4 * RELAY_PENALTY),
            Self::Full => Some(FULL_PENALTY),
            Self::Off => None,
        }
    }

    /// The number that is told.
    pub fn to_wire(self) -> u32 {
        self as u32
    }

    /// The level of a number; one that is not known is taken for full.
    pub fn from_wire(wire: u32) -> Self {
        Self::ALL.into_iter().find(|level| level.to_wire() == wire).unwrap_or(Self::Full)
    }

    /// The level of a load, 0 to 1.
    fn of(load: f64) -> Self {
        match load {
            load if load >= 0.9 => Self::Full,
            load if load >= 0.75 => Self::Crowded,
            load if load >= 0.5 => Self::Busy,
            _ => Self::Free,
        }
    }
}

impl std::fmt::Display for Relaying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Free => "free",
            Self::Busy => "busy",
            Self::Crowded => "crowded",
            Self::Full => "full",
            Self::Off => "off",
        })
    }
}

/// Our own load, and what is told of it.
#[derive(Clone, Debug, Default)]
pub struct Spare {
    told: Relaying,
    load: f64,
    /// Since when it is at a higher level than told, or at a lower one.
    other: Option<(Direction, Time)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Busier,
    Calmer,
}

impl Spare {
    /// What is told.
    pub fn told(&self) -> Relaying {
        self.told
    }

    /// The data plane has been busy for this share of its time, 0 to 1, and is until it says otherwise.
    pub fn set_load(&mut self, load: f64, now: Time) {
        self.load = load;
        self.other = self
            .moved()
            .map(|(direction, _)| self.other.filter(|(before, _)| *before == direction).unwrap_or((direction, now)));
    }

    /// When [`Self::take_change`] may give one.
    pub fn deadline(&self) -> Option<Time> {
        self.other.map(|(direction, since)| since + direction.lasts())
    }

    /// Whether another level has lasted long enough to be told; then it is.
    pub fn take_change(&mut self, now: Time) -> bool {
        let Some((_, level)) = self.moved().filter(|_| self.deadline().is_some_and(|due| due <= now)) else {
            return false;
        };
        self.told = level;
        self.other = None;
        true
    }

    fn moved(&self) -> Option<(Direction, Relaying)> {
        let (at_least, at_most) = (Relaying::of(self.load), Relaying::of(self.load + DEAD_BAND));
        if at_least > self.told {
            Some((Direction::Busier, at_least))
        } else if at_most < self.told {
            Some((Direction::Calmer, at_most))
        } else {
            None
        }
    }
}

impl Direction {
    fn lasts(self) -> Duration {
        match self {
            Self::Busier => BUSIER_LASTS,
            Self::Calmer => CALMER_LASTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn levels_come_back_as_they_went_and_an_unknown_one_is_full() {
        for level in Relaying::ALL {
            assert_eq!(Relaying::from_wire(level.to_wire()), level);
        }
        assert_eq!(Relaying::from_wire(77), Relaying::Full);
    }

    #[test]
    fn the_more_load_the_more_it_costs() {
        let costs: Vec<_> = Relaying::ALL.iter().map(|level| level.penalty()).collect();
        assert_eq!(costs, [Some(10_000), Some(20_000), Some(40_000), Some(1_000_000), None]);
        assert_eq!(
            [0.0, 0.49, 0.5, 0.8, 1.0].map(Relaying::of),
            [Relaying::Free, Relaying::Free, Relaying::Busy, Relaying::Crowded, Relaying::Full,]
        );
    }

    /// What is told at each moment after the load was set.
    fn hear(spare: &mut Spare, loads: &[(u64, f64)]) -> Vec<Relaying> {
        let mut told = Vec::new();
        for &(millis, load) in loads {
            spare.set_load(load, at(millis));
            spare.take_change(at(millis));
            told.push(spare.told());
        }
        told
    }

    #[test]
    fn a_short_or_small_change_is_not_told() {
        let mut spare = Spare::default();
        let loads = [(0, 0.95), (1000, 0.6), (1500, 0.2), (2500, 0.95), (4400, 0.95), (4500, 0.95)];
        let told = hear(&mut spare, &loads);
        assert_eq!(told[..5], [Relaying::Free; 5]);
        assert_eq!(told[5], Relaying::Full);
        // Above 0.75 it is as if nothing had changed, and less has to last.
        let loads =
            [(10_000, 0.8), (50_000, 0.8), (60_000, 0.7), (80_000, 0.8), (90_000, 0.7), (119_900, 0.7), (120_000, 0.7)];
        let told = hear(&mut spare, &loads);
        assert_eq!(told[..6], [Relaying::Full; 6]);
        assert_eq!(told[6], Relaying::Crowded);
    }

    #[test]
    fn what_lasts_is_told_without_another_word() {
        let mut spare = Spare::default();
        spare.set_load(0.95, at(0));
        assert_eq!(spare.deadline(), Some(at(2000)));
        assert!(!spare.take_change(at(1999)) && spare.take_change(at(2000)));
        spare.set_load(0.0, at(5000));
        assert_eq!(spare.deadline(), Some(at(35_000)));
        assert!(spare.take_change(at(35_000)) && spare.deadline().is_none());
        assert_eq!(spare.told(), Relaying::Free);
    }
}
