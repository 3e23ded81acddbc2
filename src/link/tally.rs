//! What packets of frames say of loss in one direction of a link: one end counts those that it seals, the other those that come.
//!
//! The sender writes its count into a probe, and the receiver reads its own when the probe comes: what was sent before has come
//! before, or was lost. Of what is under way or overtaken all the same, one interval has too much and the next too little.

use std::time::Duration;

use crate::time::Time;

/// An interval that says something: at least so long, with at least so many packets, and no longer than until they are stale.
const INTERVAL: Duration = Duration::from_millis(500);
const PACKETS_MIN: u32 = 100;
/// Without so many for this long nothing is known any more.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// What the intervals before count for beside a new one: some five are looked at.
const KEPT: f64 = 0.8;
/// So many in a row are more than a queue that ran over once.
const INTERVALS_SURE: u32 = 4;

/// Both counts of one session's packets at one moment, their low bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// The session, by the receiver's index of it.
    pub session: u32,
    /// Packets that were sealed.
    pub sealed: u32,
    /// Packets that came.
    pub opened: u32,
}

/// The packets of one direction.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    base: Option<(Counted, Time)>,
    /// Of late, older ones counting less.
    sent: f64,
    lost: f64,
    /// Intervals in a row that said something, and when the last one ended.
    intervals: u32,
    at: Time,
}

impl Tally {
    /// Takes in the counts of now.
    pub fn count(&mut self, counted: Counted, now: Time) {
        let Some((base, since)) = self.base.filter(|(base, _)| base.session == counted.session) else {
            self.base = Some((counted, now));
            return;
        };
        let sent = counted.sealed.wrapping_sub(base.sealed);
        // One that was overtaken says less than the one that overtook it.
        let is_old = sent > u32::MAX / 2;
        if is_old || now.since(since) < INTERVAL || (sent < PACKETS_MIN && now.since(since) < STALE_AFTER) {
            return;
        }
        self.base = Some((counted, now));
        let came = counted.opened.wrapping_sub(base.opened);
        // Where nothing comes at all, probes say whether anything can.
        if sent < PACKETS_MIN || came == 0 {
            self.intervals = 0;
            return;
        }
        let kept = if self.loss(now).is_some() { KEPT } else { 0.0 };
        let lost = f64::from(sent) - f64::from(came);
        (self.sent, self.lost) = (self.sent * kept + f64::from(sent), self.lost * kept + lost);
        (self.intervals, self.at) = (if kept > 0.0 { self.intervals + 1 } else { 1 }, now);
    }

    /// The other end does not count: what it sends goes another way.
    pub fn pause(&mut self) {
        *self = Self::default();
    }

    /// Share that was lost of late, 0 to 1; None if too few packets are sent.
    pub fn loss(&self, now: Time) -> Option<f64> {
        let is_known = self.intervals > 0 && now.since(self.at) < STALE_AFTER;
        is_known.then(|| (self.lost / self.sent).clamp(0.0, 1.0))
    }

    /// The same, if that has been looked at for seconds.
    pub fn sure_loss(&self, now: Time) -> Option<f64> {
        self.loss(now).filter(|_| self.intervals >= INTERVALS_SURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Duration = Duration::from_millis(50);

    /// Counts each 50 ms for so many seconds; `lost` of a hundred packets are, and some are still under way each time.
    fn run(
        tally: &mut Tally,
        from: Counted,
        (per_probe, lost): (u32, u32),
        seconds: u32,
        start: Time,
    ) -> (Counted, Time) {
        let (mut counted, mut now, mut came) = (from, start, from.opened);
        for probe in 0..seconds * 20 {
            counted.sealed = counted.sealed.wrapping_add(per_probe);
            came = came.wrapping_add(per_probe * (100 - lost) / 100);
            counted.opened = came.wrapping_sub(if lost < 100 { probe % 4 } else { 0 });
            now = now + PROBE;
            tally.count(counted, now);
        }
        (counted, now)
    }

    const FRESH: Counted = Counted { session: 1, sealed: u32::MAX - 500, opened: u32::MAX - 20_000 };

    #[test]
    fn what_is_lost_is_known_within_a_second_and_sure_within_three() {
        let mut tally = Tally::default();
        let (counted, now) = run(&mut tally, FRESH, (100, 5), 1, Time::ZERO);
        assert!(tally.loss(now).is_some_and(|loss| (0.045..0.055).contains(&loss)), "{tally:?}");
        assert_eq!(tally.sure_loss(now), None);
        let (counted, now) = run(&mut tally, counted, (100, 5), 2, now);
        assert!(tally.sure_loss(now).is_some_and(|loss| (0.045..0.055).contains(&loss)), "{tally:?}");
        let (_, now) = run(&mut tally, counted, (100, 0), 5, now);
        assert!(tally.loss(now).is_some_and(|loss| loss < 0.01), "{tally:?}");
        assert_eq!(tally.loss(now + STALE_AFTER), None);
    }

    #[test]
    fn few_packets_none_that_come_and_another_session_say_nothing() {
        let mut tally = Tally::default();
        let (counted, now) = run(&mut tally, FRESH, (2, 50), 10, Time::ZERO);
        assert_eq!(tally.loss(now), None);
        let (_, now) = run(&mut tally, Counted { session: 3, ..counted }, (100, 100), 10, now);
        assert_eq!(tally.loss(now), None);
        // The counts begin anew, and nothing of that is taken for loss.
        let (_, now) = run(&mut tally, FRESH, (100, 0), 3, now);
        let renewed = Counted { session: 2, sealed: 100, opened: 40 };
        let (_, now) = run(&mut tally, renewed, (100, 0), 1, now);
        assert!(tally.loss(now).is_some_and(|loss| loss < 0.005), "{tally:?}");
        tally.pause();
        assert_eq!(tally.loss(now), None);
    }

    #[test]
    fn counts_that_were_overtaken_are_passed_over() {
        let mut tally = Tally::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let counted = |sealed| Counted { session: 1, sealed, opened: sealed };
        tally.count(counted(1000), at(0));
        tally.count(counted(900), at(600));
        assert_eq!(tally.loss(at(600)), None);
        tally.count(counted(2000), at(700));
        assert_eq!(tally.loss(at(700)), Some(0.0));
    }
}
