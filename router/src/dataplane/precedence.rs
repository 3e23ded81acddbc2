//! Whether a worker goes before the other processes of its core, so that a packet does not wait for theirs.
//!
//! Frames that a kernel forwards go before all processes too, in soft interrupts, until those take too much; then they are left
//! to a thread like any other (ksoftirqd). So it is here: a worker that waits for its core is given real-time priority; one that
//! takes nearly all of it waits for its turn like everybody else. So does one that takes packets one by one: it interrupts who sends
//! them for each, and none come together in a batch. Where nobody is in the way it stays as it is, as the kernel then wakes it on the
//! core that is awake already, and does not do so with real-time priority.

use std::time::{Duration, Instant};

use weft_host::precedence::{Turns, go_before_others};

/// How often a worker that goes before others looks whether it still may, and one that does not, whether it should.
const SPAN_BEFORE: Duration = Duration::from_millis(100);
const SPAN: Duration = Duration::from_millis(10);
/// Who waits so long for a core on average is kept from it: the load's own packets wait for less than a tenth of that.
const WAITS: Duration = Duration::from_micros(50);
/// Less in all is chance: on an idle host, too, one of a few packets meets somebody.
const WAITS_IN_ALL: Duration = Duration::from_millis(1);
/// How long a worker goes before others when it was kept from its core. Whether it still would be is seen in the [`SPAN`] after that.
const LASTS: Duration = Duration::from_secs(3);
/// Of its core a worker that goes before others leaves one part in so many at least.
const LEFT: u32 = 16;
/// Who is at work for less than one part in so many of the time has nothing that piles up while it waits; and woken with real-time
/// priority on a core that sleeps it would be later than without.
const LITTLE: u32 = 8;
/// Who makes so many turns in a [`SPAN`] while it goes before others takes packets one by one: a TCP transfer, of super-frames, comes
/// to less than half of that.
const TURNS_MANY: u32 = 400;
/// How long a worker goes before nobody then.
const BATCHES: Duration = Duration::from_secs(30);

/// The precedence of the thread that made it.
#[derive(Debug)]
pub(super) struct Precedence {
    /// None if the system does not let us, or it is not wanted.
    goes_before: Option<bool>,
    /// Others are in the way, as far as is known, until then.
    until: Instant,
    /// Packets came one by one not long ago: it goes before nobody until then.
    not_until: Instant,
    /// Turns since then.
    made: u32,
    made_since: Instant,
    /// When it was last looked, how the thread had fared, and how long it had been at work.
    looked: Instant,
    turns: Turns,
    worked: Duration,
}

impl Precedence {
    /// Like any other's; if that is `wanted` and the system lets it, it goes before others when they are in the way.
    pub(super) fn new(wanted: bool, now: Instant) -> Self {
        let goes_before = wanted.then_some(false);
        Self {
            goes_before,
            until: now,
            not_until: now,
            made: 0,
            made_since: now,
            looked: now,
            turns: Turns::default(),
            worked: Duration::ZERO,
        }
    }

    /// Whether it goes before others.
    pub(super) fn goes_before(&self) -> bool {
        self.goes_before == Some(true)
    }

    /// Is told of each turn, and looks now and then. The worker has been at work, and not waiting for any, for `worked` in all;
    /// how its thread has fared since it began is in `turns`, None if the system does not say.
    pub(super) fn look(&mut self, worked: Duration, now: Instant, turns: impl FnOnce() -> Option<Turns>) {
        if self.makes_many(now) {
            self.not_until = now + BATCHES;
            self.set(false);
        }
        let passed = now - self.looked;
        if self.goes_before.is_none() || passed < if self.goes_before() { SPAN_BEFORE } else { SPAN } {
            return;
        }
        let Some(turns) = turns() else {
            self.goes_before = None;
            return;
        };
        // One that goes before others waits for cores that sleep.
        if !self.goes_before() && is_kept_waiting(self.turns, turns) {
            self.until = now + LASTS;
        }
        let ran = turns.ran.saturating_sub(self.turns.ran);
        let goes =
            (self.not_until..self.until).contains(&now) && is_fit(passed, ran, worked.saturating_sub(self.worked));
        (self.looked, self.turns, self.worked) = (now, turns, worked);
        if goes != self.goes_before() {
            self.set(goes);
        }
    }

    /// Counts a turn; whether there were many of late, all of them before others.
    fn makes_many(&mut self, now: Instant) -> bool {
        if !self.goes_before() || now - self.made_since >= SPAN {
            (self.made, self.made_since) = (0, now);
        }
        self.made += 1;
        self.made >= TURNS_MANY
    }

    fn set(&mut self, goes: bool) {
        self.goes_before = match go_before_others(goes) {
            Ok(()) => Some(goes),
            Err(error) => {
                tracing::info!(%error, "packets of the sleeve wait for other processes: no real-time priority");
                None
            }
        };
    }
}

/// Whether others were in the way of a thread between two looks.
fn is_kept_waiting(before: Turns, now: Turns) -> bool {
    let count = u32::try_from(now.count.saturating_sub(before.count)).unwrap_or(u32::MAX);
    let waited = now.waited.saturating_sub(before.waited);
    waited >= WAITS_IN_ALL && waited >= WAITS * count
}

/// Whether a worker has much to do and leaves enough of its core to others, which ran for `ran` of the time `passed`, and was at work,
/// or kept from it, for `worked`: it always is that has more to do than it can.
fn is_fit(passed: Duration, ran: Duration, worked: Duration) -> bool {
    let most = passed - passed / LEFT;
    ran <= most && (passed / LITTLE..=most).contains(&worked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_on_average_is_kept_from_its_core() {
        let turns = |waited, count| Turns { ran: Duration::ZERO, waited: Duration::from_micros(waited), count };
        assert!(!is_kept_waiting(turns(1000, 10), turns(1000, 10)), "it was not given any");
        assert!(!is_kept_waiting(turns(1000, 10), turns(1300, 110)));
        assert!(!is_kept_waiting(turns(1000, 10), turns(1100, 11)), "once, and not for long");
        assert!(is_kept_waiting(turns(1000, 10), turns(5000, 20)), "once for a tick");
    }

    #[test]
    fn who_has_little_to_do_or_takes_all_of_a_core_or_would_if_it_could_goes_before_nobody() {
        let of_100 =
            |ran, worked| is_fit(Duration::from_millis(100), Duration::from_millis(ran), Duration::from_millis(worked));
        assert!(!of_100(0, 0) && !of_100(10, 12) && of_100(10, 13), "too little to do");
        assert!(of_100(60, 80), "it was kept from work for a while");
        assert!(of_100(90, 93) && !of_100(95, 95));
        assert!(!of_100(50, 100), "it shares its core and has not waited for packets once");
    }

    #[test]
    fn a_thread_goes_before_others_while_they_are_in_the_way_unless_it_takes_too_much() {
        std::thread::spawn(|| {
            let start = Instant::now();
            let may = go_before_others(true).and_then(|()| go_before_others(false)).is_ok();
            let mut precedence = Precedence::new(true, start);
            let mut look = |millis, worked, waited| {
                let turns = Turns { ran: Duration::ZERO, waited: Duration::from_millis(waited), count: 1 };
                precedence.look(Duration::from_millis(worked), start + Duration::from_millis(millis), || Some(turns));
                precedence.goes_before()
            };
            assert!(!look(5, 3, 3), "too early");
            assert_eq!(look(10, 8, 3), may);
            assert_eq!(look(60, 9, 3), may, "too early");
            assert!(!look(110, 108, 3), "it takes too much");
            assert_eq!(look(120, 112, 3), may);
            assert_eq!(look(2900, 1000, 900), may, "it waited for a core that slept, not for others");
            assert!(!look(3200, 1100, 1800), "they were in the way more than three seconds ago");
            assert!(!look(3210, 1105, 1800), "and are not any more");
            assert_eq!(look(3220, 1110, 1803), may);
            assert_eq!((0..398).map(|_| look(3221, 1111, 1803)).last(), Some(may));
            assert!(!look(3221, 1111, 1803), "packets come one by one");
            assert!(!look(3300, 1200, 1900), "and most likely still do");
            assert_eq!(look(33_300, 9000, 2900), may);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_that_shall_not_or_is_not_told_how_it_fares_goes_before_nobody() {
        let start = Instant::now();
        let kept = Turns { ran: Duration::ZERO, waited: Duration::from_secs(1), count: 1 };
        for (is_wanted, turns) in [(false, Some(kept)), (true, None)] {
            let mut precedence = Precedence::new(is_wanted, start);
            precedence.look(Duration::from_millis(5), start + SPAN, || turns);
            assert_eq!(precedence.goes_before, None);
        }
    }
}
