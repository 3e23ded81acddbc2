//! The cost of a link: its smoothed round-trip time on a coarse scale, so that small jitter is not worth telling anybody.
//!
//! The scale has eight steps an octave, 9 % each: step n is 2^(n/8) µs. Going to another step takes three: a round-trip
//! time must change by a quarter before the cost follows, and gossip with it.

use std::time::Duration;

/// 2^(k/8) in 16.16 fixed point, so that every machine reckons the same.
const OCTAVE: [u64; 8] = [65536, 71468, 77936, 84990, 92682, 101_070, 110_218, 120_194];

/// A quantised round-trip time: the step on the scale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Cost(pub u8);

impl Cost {
    /// The step that `rtt` is on; from 1 µs to 65 minutes.
    pub fn of(rtt: Duration) -> Self {
        let fixed = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX)) << 16;
        // The first step is below every time, so at least one step is counted.
        let below = (0..=u8::MAX).take_while(|step| Self(*step).fixed() <= fixed).count();
        Self(u8::try_from(below.saturating_sub(1)).unwrap_or(u8::MAX))
    }

    /// The cost to advertise when the last one was `self` and the time is now `rtt`: the same unless it moved clearly.
    pub fn follow(self, rtt: Duration) -> Self {
        let now = Self::of(rtt);
        if now.0.abs_diff(self.0) <= 2 { self } else { now }
    }

    /// The round-trip time in microseconds that this step begins with.
    pub fn micros(self) -> u64 {
        self.fixed() >> 16
    }

    fn fixed(self) -> u64 {
        OCTAVE[usize::from(self.0 % 8)] << (self.0 / 8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn the_scale_is_eight_steps_an_octave() {
        assert_eq!(Cost::of(us(0)), Cost(0));
        assert_eq!(Cost::of(us(1)), Cost(0));
        assert_eq!(Cost::of(us(1024)), Cost(80));
        assert_eq!(Cost::of(us(2047)), Cost(87));
        assert_eq!(Cost(80).micros(), 1024);
        assert_eq!(Cost::of(Duration::MAX), Cost(u8::MAX));
        assert!((0..u8::MAX).all(|step| Cost(step).fixed() < Cost(step + 1).fixed()));
    }

    #[test]
    fn small_jitter_changes_nothing() {
        let cost = Cost::of(us(1000));
        for rtt in [930, 1000, 1070] {
            assert_eq!(cost.follow(us(rtt)), cost, "{rtt}");
        }
        assert_eq!(cost.follow(us(2000)), Cost::of(us(2000)));
        assert_eq!(cost.follow(us(500)), Cost::of(us(500)));
    }

    proptest! {
        #[test]
        fn a_step_is_less_than_a_tenth_off(micros in 100_u64..60_000_000) {
            let step = Cost::of(us(micros)).micros();
            prop_assert!(step <= micros && micros - step <= micros / 10 + 1, "{} for {}", step, micros);
        }
    }
}
