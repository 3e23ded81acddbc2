//! What it costs to send by a link: the time that a small exchange over it is expected to take, on a coarse scale.
//!
//! ```text
//! cost = rtt + 2 jitter + P (rtt + max(200 ms, 4 jitter)),   P = 1 − (1 − loss)^10
//! ```
//! The exchange is a request and the first ten segments of its answer (RFC 6928). Whoever needs them in order waits for the
//! latest: two mean jitters more. With probability P one of them is lost, and is sent again after Linux's least retransmission
//! timeout. So 1 % of loss costs 19 ms and 5 % cost 80 ms; see `docs/routing.md`.
//!
//! The scale has eight steps an octave, 9 % each: step n is 2^(n/8) µs. Going to another step takes three, a quarter, and
//! some time, so that small and short changes are not worth telling anybody.

use std::time::Duration;

use crate::{link::estimate::Quality, time::Time};

/// 2^(k/8) in 16.16 fixed point, so that every machine reckons the same.
const OCTAVE: [u64; 8] = [65536, 71468, 77936, 84990, 92682, 101_070, 110_218, 120_194];

/// Segments of the exchange: TCP's initial window (RFC 6928).
const SEGMENTS: usize = 10;
/// What Linux adds to the round-trip time, at least, before it sends again (TCP_RTO_MIN).
const RETRANSMIT_MIN: Duration = Duration::from_millis(200);
/// Steps that a cost must move to be another: a quarter.
const DEAD_BAND: u8 = 3;
/// Steps that are much: twice as much, or half.
const MUCH: u8 = 8;
/// How long a cost must have been worse, or better, to be reckoned with here: bad news has proof in its numbers, good news is in
/// no hurry.
const WORSE_LASTS: Duration = Duration::from_millis(300);
const BETTER_LASTS: Duration = Duration::from_secs(5);
/// And to be told to everybody, if it is not much. What is much worse may be worth a detour to others too.
const WORSE_LASTS_TOLD: Duration = Duration::from_secs(5);
const BETTER_LASTS_TOLD: Duration = Duration::from_secs(30);
/// What gets worse again this soon after it was told to be better: that takes twice as long the next time, 32 times at most. Each such
/// span of calm halves it.
const WAVERS_WITHIN: Duration = Duration::from_secs(300);
const WAVERS_MAX: u32 = 5;

/// A quantised cost: the step on the scale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Cost(pub u8);

impl Cost {
    /// The step of a link of this quality.
    pub fn of(quality: Quality) -> Self {
        Self::step(expected(quality))
    }

    /// The step that `time` is on; from 1 µs to 65 minutes.
    pub fn step(time: Duration) -> Self {
        let fixed = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX)) << 16;
        // The first step is below every time, so at least one step is counted.
        let below = (0..=u8::MAX).take_while(|step| Self(*step).fixed() <= fixed).count();
        Self(u8::try_from(below.saturating_sub(1)).unwrap_or(u8::MAX))
    }

    /// The time in microseconds that this step begins with.
    pub fn micros(self) -> u64 {
        self.fixed() >> 16
    }

    fn fixed(self) -> u64 {
        OCTAVE[usize::from(self.0 % 8)] << (self.0 / 8)
    }
}

/// The time that the exchange is expected to take.
pub fn expected(Quality { rtt, jitter, loss }: Quality) -> Duration {
    let all_pass: f64 = std::iter::repeat_n(1.0 - loss.clamp(0.0, 1.0), SEGMENTS).product();
    let again = rtt + RETRANSMIT_MIN.max(jitter * 4);
    rtt + jitter * 2 + again.mul_f64(1.0 - all_pass)
}

/// Who goes by a cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// The router that measures it: for its own paths, soon.
    Own,
    /// Everybody: so it is told seldom. How seldom in all is up to who tells.
    All,
}

/// What is told of a link, and whether it still holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Told {
    /// The cost.
    pub cost: Cost,
    /// What it was made of.
    pub quality: Quality,
    audience: Audience,
    /// Since when it is clearly another, and whether that is worse.
    other: Option<(Turn, Time)>,
    /// The last change that was told, and how often it was one back and forth.
    last: Option<(Turn, Time)>,
    wavers: u32,
}

/// A change of a cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which way.
    pub turn: Turn,
    /// Whether it is twice as much, or half.
    pub is_much: bool,
}

/// Which way a cost moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Up.
    Worse,
    /// Down.
    Better,
}

impl Told {
    /// Told for the first time.
    pub fn new(audience: Audience, quality: Quality) -> Self {
        Self { cost: Cost::of(quality), quality, audience, other: None, last: None, wavers: 0 }
    }

    /// Compares with the quality of now. Some if that has been another for long enough and is to be told.
    pub fn follow(&mut self, quality: Quality, now: Time) -> Option<Move> {
        let cost = Cost::of(quality);
        let steps = cost.0.abs_diff(self.cost.0);
        if steps < DEAD_BAND {
            self.other = None;
            return None;
        }
        let turn = if cost > self.cost { Turn::Worse } else { Turn::Better };
        let (_, since) = *self.other.insert(self.other.filter(|(before, _)| *before == turn).unwrap_or((turn, now)));
        let moved = Move { turn, is_much: steps >= MUCH };
        (now.since(since) >= self.lasts(moved, now)).then_some(moved)
    }

    /// It is told.
    pub fn tell(&mut self, quality: Quality, turn: Turn, now: Time) {
        self.wavers = self.wavers_now(now);
        let is_back = matches!(self.last, Some((Turn::Better, at)) if now.since(at) < WAVERS_WITHIN);
        if turn == Turn::Worse && is_back {
            self.wavers = (self.wavers + 1).min(WAVERS_MAX);
        }
        (self.cost, self.quality, self.other, self.last) = (Cost::of(quality), quality, None, Some((turn, now)));
    }

    fn lasts(&self, moved: Move, now: Time) -> Duration {
        match (self.audience, moved.turn, moved.is_much) {
            (Audience::Own, Turn::Worse, _) | (Audience::All, Turn::Worse, true) => WORSE_LASTS,
            (Audience::All, Turn::Worse, false) => WORSE_LASTS_TOLD,
            (Audience::Own, Turn::Better, _) => BETTER_LASTS,
            (Audience::All, Turn::Better, true) => BETTER_LASTS * 2_u32.pow(self.wavers_now(now)),
            (Audience::All, Turn::Better, false) => BETTER_LASTS_TOLD * 2_u32.pow(self.wavers_now(now)),
        }
    }

    fn wavers_now(&self, now: Time) -> u32 {
        let calm = self.last.map_or(0, |(_, at)| now.since(at).as_secs() / WAVERS_WITHIN.as_secs());
        self.wavers.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn quality(millis: u64, jitter: u64, loss: f64) -> Quality {
        Quality { rtt: us(millis * 1000), jitter: us(jitter * 1000), loss }
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + us(millis * 1000)
    }

    #[test]
    fn the_scale_is_eight_steps_an_octave() {
        assert_eq!(Cost::step(us(0)), Cost(0));
        assert_eq!(Cost::step(us(1)), Cost(0));
        assert_eq!(Cost::step(us(1024)), Cost(80));
        assert_eq!(Cost::step(us(2047)), Cost(87));
        assert_eq!(Cost(80).micros(), 1024);
        assert_eq!(Cost::step(Duration::MAX), Cost(u8::MAX));
        assert!((0..u8::MAX).all(|step| Cost(step).fixed() < Cost(step + 1).fixed()));
    }

    #[test]
    fn loss_costs_what_waiting_for_the_second_copy_takes() {
        assert_eq!(expected(quality(10, 0, 0.0)), us(10_000));
        assert_eq!(expected(quality(10, 3, 0.0)), us(16_000));
        let millis = |loss| expected(quality(0, 0, loss)).as_millis();
        assert_eq!([0.001, 0.01, 0.05, 1.0].map(millis), [1, 19, 80, 200]);
        // A relay of 20 ms more and its penalty are less than 5 % of loss.
        assert!(expected(quality(10, 0, 0.05)) > expected(quality(30, 0, 0.0)) + us(10_000 + 5_000));
    }

    /// Whether this is told at that moment, and which way it moved.
    fn hear(told: &mut Told, millis: u64, moment: u64) -> Option<Turn> {
        let moved = told.follow(quality(millis, 0, 0.0), at(moment))?;
        told.tell(quality(millis, 0, 0.0), moved.turn, at(moment));
        Some(moved.turn)
    }

    #[test]
    fn what_is_small_or_short_is_nothing() {
        let mut told = Told::new(Audience::Own, quality(100, 0, 0.0));
        for (millis, moment) in [(85, 0), (115, 1000), (200, 2000), (100, 2200), (200, 2300), (50, 2500), (100, 6000)] {
            assert_eq!(hear(&mut told, millis, moment), None, "{millis} ms at {moment}");
        }
        assert_eq!(hear(&mut told, 200, 7000), None);
        assert_eq!(hear(&mut told, 220, 7300), Some(Turn::Worse));
        assert_eq!(told.cost, Cost::step(us(220_000)));
        assert_eq!(hear(&mut told, 100, 8000), None);
        assert_eq!(hear(&mut told, 100, 12_999), None);
        assert_eq!(hear(&mut told, 100, 13_000), Some(Turn::Better));
    }

    #[test]
    fn everybody_is_told_at_once_what_is_much_worse_and_later_what_is_not() {
        for (millis, lasts) in [(250, 300), (150, 5000), (70, 30_000), (40, 5000)] {
            let mut told = Told::new(Audience::All, quality(100, 0, 0.0));
            assert_eq!(hear(&mut told, millis, 0), None);
            assert_eq!(hear(&mut told, millis, lasts - 1), None, "{millis} ms");
            assert!(hear(&mut told, millis, lasts).is_some(), "{millis} ms");
        }
    }

    #[test]
    fn everybody_is_told_less_and_less_of_what_wavers() {
        let mut told = Told::new(Audience::All, quality(100, 0, 0.0));
        let mut waits = Vec::new();
        let mut now = 0;
        for _ in 0..9 {
            for (millis, turn) in [(300, Turn::Worse), (100, Turn::Better)] {
                let since = now;
                while hear(&mut told, millis, now) != Some(turn) {
                    now += 100;
                }
                waits.push((now - since) / 1000);
            }
        }
        let better: Vec<_> = waits.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(better, [5, 10, 20, 40, 80, 160, 160, 160, 160]);
        now += 40 * 60 * 1000;
        assert_eq!(hear(&mut told, 300, now), None);
        assert_eq!(hear(&mut told, 300, now + 300), Some(Turn::Worse));
        assert_eq!(hear(&mut told, 100, now + 400), None);
        assert_eq!(hear(&mut told, 100, now + 5400), Some(Turn::Better));
    }

    proptest! {
        #[test]
        fn a_step_is_less_than_a_tenth_off(micros in 100_u64..60_000_000) {
            let step = Cost::step(us(micros)).micros();
            prop_assert!(step <= micros && micros - step <= micros / 10 + 1, "{} for {}", step, micros);
        }

        #[test]
        fn worse_is_never_cheaper(rtt in 0_u64..1000, jitter in 0_u64..100, loss in 0.0..0.9, more in 0.0..0.1) {
            let cost = |rtt, jitter, loss| expected(quality(rtt, jitter, loss));
            let now = cost(rtt, jitter, loss);
            prop_assert!(now <= cost(rtt + 1, jitter, loss) && now <= cost(rtt, jitter + 1, loss));
            prop_assert!(now <= cost(rtt, jitter, loss + more));
        }
    }
}
