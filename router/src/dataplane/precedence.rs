//! Whether a worker goes before the other processes of its core, so that a packet does not wait for theirs.
//!
//! Frames that a kernel forwards go before all processes too, in soft interrupts, until those take too much; then they are left
//! to a thread like any other (ksoftirqd). So it is here: a worker that waits for its core is given real-time priority; one that
//! has more to do than it can waits for its turn like everybody else, until it has done it. So does one that takes packets one by one:
//! it interrupts who sends them for each, and none come together in a batch. Where nobody is in the way it stays as it is, as the kernel
//! then wakes it on the core that is awake already, and does not do so with real-time priority.

use std::time::{Duration, Instant};

use weft_host::precedence::{Turns, go_before_others};

/// How often it is looked whether a worker is kept from its core, and whether it has enough to do.
const SPAN: Duration = Duration::from_millis(5);
/// Who waits so long for a core on average is kept from it: the load's own packets wait for less than a tenth of that.
const WAITS: Duration = Duration::from_micros(50);
/// Less in all is chance: on an idle host, too, one of a few packets meets somebody.
const WAITS_IN_ALL: Duration = Duration::from_millis(1);
/// How long a worker goes before others when it was kept from its core. Whether it still would be is seen in the [`SPAN`] after that,
/// in which packets wait.
const LASTS: Duration = Duration::from_secs(30);
/// Who is at work for so long on end has more to do than it can. A full socket buffer takes up to 16 ms where all memory is cold.
const ON_END: Duration = Duration::from_millis(20);
/// Who takes longer from one turn to the next waits for packets: to ask whether there are any takes less.
const A_WAIT: Duration = Duration::from_micros(5);
/// Who is at work for less than one part in so many of the time has nothing that piles up while it waits; and woken with real-time
/// priority on a core that sleeps it would be later than without.
const LITTLE: u32 = 8;
/// Who makes so many turns in a [`SPAN`] while it goes before others takes packets one by one: a TCP transfer, of super-frames, comes
/// to less than half of that.
const TURNS_MANY: u32 = 200;
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
    /// When the last turn ended, how long the worker had been at work in all, and since when without waiting for packets.
    ended: Instant,
    worked: Duration,
    at_work_since: Instant,
    /// When it was last looked, how the thread had fared, and how long it had been at work; whether it may go before others since.
    looked: Instant,
    turns: Turns,
    had_worked: Duration,
    may: bool,
}

impl Precedence {
    /// Like any other's; if that is `wanted` and the system lets it, it goes before others when they are in the way.
    pub(super) fn new(wanted: bool, now: Instant) -> Self {
        Self {
            goes_before: wanted.then_some(false),
            until: now,
            not_until: now,
            made: 0,
            made_since: now,
            ended: now,
            worked: Duration::ZERO,
            at_work_since: now,
            looked: now,
            turns: Turns::default(),
            had_worked: Duration::ZERO,
            may: false,
        }
    }

    /// Whether it goes before others.
    pub(super) fn goes_before(&self) -> bool {
        self.goes_before == Some(true)
    }

    /// Is told of each turn when it ends. The worker has been at work, and not waiting for any, for `worked` in all; how its thread has
    /// fared since it began is in `turns`, None if the system does not say.
    pub(super) fn look(&mut self, worked: Duration, now: Instant, turns: impl FnOnce() -> Option<Turns>) {
        if self.goes_before.is_none() {
            return;
        }
        let began = now - worked.saturating_sub(self.worked);
        if began.saturating_duration_since(self.ended) > A_WAIT {
            self.at_work_since = began;
        }
        (self.ended, self.worked) = (now, worked);
        if self.makes_many(now) {
            (self.not_until, self.may) = (now + BATCHES, false);
        }
        if now - self.looked >= SPAN {
            let Some(turns) = turns() else {
                self.goes_before = None;
                return;
            };
            self.decide(turns);
        }
        let goes = self.may && now - self.at_work_since < ON_END;
        if goes != self.goes_before() {
            self.set(goes);
        }
    }

    /// Whether it may go before others, by how its thread has fared.
    fn decide(&mut self, turns: Turns) {
        let now = self.ended;
        // One that goes before others waits for cores that sleep.
        if !self.goes_before() && is_kept_waiting(self.turns, turns) {
            self.until = now + LASTS;
        }
        let has_little = self.worked.saturating_sub(self.had_worked) < (now - self.looked) / LITTLE;
        self.may = !has_little && (self.not_until..self.until).contains(&now);
        (self.looked, self.turns, self.had_worked) = (now, turns, self.worked);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker whose time is told.
    struct Worker {
        precedence: Precedence,
        now: Instant,
        worked: Duration,
        turns: Turns,
    }

    impl Worker {
        /// It waits for packets, and then works; so many microseconds each. Whether it goes before others then.
        fn turn(&mut self, waits: u64, works: u64) -> bool {
            self.worked += Duration::from_micros(works);
            self.now += Duration::from_micros(waits + works);
            self.turns.count += 1;
            self.precedence.look(self.worked, self.now, || Some(self.turns));
            self.precedence.goes_before()
        }

        /// So many milliseconds, half of them at work.
        fn goes_on(&mut self, millis: u64) -> bool {
            (0..millis).map(|_| self.turn(500, 500)).last().unwrap()
        }

        /// Others keep it from its core.
        fn is_kept(&mut self, millis: u64) {
            self.turns.waited += Duration::from_millis(millis);
        }
    }

    /// A scene with a worker on a thread of its own, and whether the system lets it go before others.
    fn with_worker(scene: impl FnOnce(Worker, bool) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            let may = go_before_others(true).and_then(|()| go_before_others(false)).is_ok();
            let now = Instant::now();
            let precedence = Precedence::new(true, now);
            scene(Worker { precedence, now, worked: Duration::ZERO, turns: Turns::default() }, may);
        });
        thread.join().unwrap();
    }

    #[test]
    fn who_waits_long_on_average_is_kept_from_its_core() {
        let turns = |waited, count| Turns { waited: Duration::from_micros(waited), count };
        assert!(!is_kept_waiting(turns(1000, 10), turns(1000, 10)), "it was not given any");
        assert!(!is_kept_waiting(turns(1000, 10), turns(1300, 110)));
        assert!(!is_kept_waiting(turns(1000, 10), turns(1100, 11)), "once, and not for long");
        assert!(is_kept_waiting(turns(1000, 10), turns(5000, 20)), "once for a tick");
    }

    #[test]
    fn a_thread_goes_before_others_while_they_are_in_the_way() {
        with_worker(|mut worker, may| {
            assert!(!worker.goes_on(1000), "nobody is");
            worker.is_kept(3);
            assert_eq!(worker.goes_on(5), may);
            worker.is_kept(300);
            assert_eq!(worker.goes_on(29_000), may, "for a core that sleeps it may wait");
            assert!((0..2000).any(|_| !worker.goes_on(1)), "half a minute later it is seen whether they still are");
            assert!(!worker.goes_on(1000), "they are not");
        });
    }

    #[test]
    fn who_has_little_to_do_goes_before_nobody() {
        with_worker(|mut worker, may| {
            worker.is_kept(3);
            assert!((0..10).all(|_| !worker.turn(900, 100)), "it has");
            assert_eq!((0..10).map(|_| worker.turn(850, 150)).last(), Some(may));
            assert!((0..10).map(|_| worker.turn(900, 100)).last() == Some(false));
        });
    }

    #[test]
    fn who_has_more_to_do_than_it_can_waits_for_its_turn_until_it_has_done_it() {
        with_worker(|mut worker, may| {
            worker.is_kept(3);
            assert_eq!(worker.goes_on(5), may);
            assert_eq!(worker.turn(100, 19_000), may);
            assert!(!worker.turn(1, 1001), "for too long on end: it was not waiting, but asking");
            assert!((0..100).all(|_| !worker.turn(1, 1000)));
            assert_eq!(worker.turn(100, 100), may);
        });
    }

    #[test]
    fn who_takes_packets_one_by_one_goes_before_nobody_for_a_while() {
        with_worker(|mut worker, may| {
            worker.is_kept(3);
            assert_eq!(worker.goes_on(5), may);
            assert_eq!((0..198).map(|_| worker.turn(10, 10)).last(), Some(may));
            assert!(!worker.turn(10, 10));
            worker.is_kept(3);
            assert!((0..29_000).all(|_| !worker.goes_on(1)), "most likely it still does");
            worker.is_kept(3);
            assert_eq!(worker.goes_on(1100), may);
        });
    }

    #[test]
    fn a_thread_that_shall_not_or_is_not_told_how_it_fares_goes_before_nobody() {
        let start = Instant::now();
        let kept = Turns { waited: Duration::from_secs(1), count: 1 };
        for (is_wanted, turns) in [(false, Some(kept)), (true, None)] {
            let mut precedence = Precedence::new(is_wanted, start);
            precedence.look(SPAN, start + SPAN, || turns);
            assert_eq!(precedence.goes_before, None);
        }
    }
}
