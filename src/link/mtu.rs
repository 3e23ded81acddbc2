//! How large a UDP payload a direct path carries: packetization layer path MTU discovery after RFC 8899, by probes alone.
//!
//! ```text
//!            all sizes asked at once          halving what is left          now and then the size in use
//!  start ──▶ Sweep ─────────────────────────▶ Search ────────────────────▶ Verify ──┐ lost twice: Sweep
//!              ▲                                                             │       │ 60 s (RFC 8899's PMTU_RAISE_TIMER,
//!              └─────────────────────────────────────────────────────────────┴───────┘  shortened: it costs eight packets)
//! ```
//! Whose frames are lost wants to know soon that a path has narrowed; where none are sent, these packets would be the most that is.
//! So the size in use is looked at every 500 ms while frames are sent, and when they begin to be, else every 10 s, or every 180 s
//! where a path rests as one of many; and larger ones every minute, else every ten (RFC 8899's own), or every hour.
//!
//! ICMP is neither needed nor believed; what the system itself refuses to send is not asked again. While a sweep runs the
//! earlier result stays in use, unless it was just found lost: then what is answered is taken at once. A sweep that nothing answered
//! says that the path is dead, not that it is narrow, and changes nothing; the first one is made again until something is. Of the first
//! one what was answered is in use as soon as no more comes, which is long before the rest is known to be lost where a path is slow, or
//! was a moment ago.

use std::time::Duration;

use crate::time::Time;

/// UDP payloads asked for in a sweep: the least that IPv6 promises (1280 − 48), tunnels, Ethernet by IPv6 and IPv4
/// (1500 − 48, − 28), and jumbo frames (9000 − 48).
const SWEEP: [usize; 7] = [MINIMUM, 1232, 1372, 1452, 1472, 4052, 8952];
/// The least that is asked for: 576 (RFC 1122 §3.3.3) less IPv4 and UDP headers.
const MINIMUM: usize = 548;
/// Used until the first sweep ends.
pub const BASE: usize = 1232;
/// A search ends when it is this near: a few bytes are not worth more probes.
const NEAR: usize = 8;
/// A lost probe is tried again once before it counts.
const TRIES: u8 = 2;
/// Between looks at the size in use, and between searches for a larger one, while frames are sent and while none are.
const VERIFY_INTERVAL: Duration = Duration::from_millis(500);
const VERIFY_INTERVAL_IDLE: Duration = Duration::from_secs(10);
const VERIFY_INTERVAL_RESTING: Duration = Duration::from_secs(180);
const RAISE_INTERVAL: Duration = Duration::from_secs(60);
const RAISE_INTERVAL_IDLE: Duration = Duration::from_secs(600);
const RAISE_INTERVAL_RESTING: Duration = Duration::from_secs(3600);

/// Between sweeps while none has been answered: the path is not used before.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);

/// How long after an answer of the first sweep no more is expected: answers come as close together as what they answer.
const ANSWERS_TOGETHER: Duration = Duration::from_millis(200);

/// What a path is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Frames are sent this way.
    Busy,
    /// None are.
    Idle,
    /// None are, and it is one of many.
    Resting,
}

/// One asked size.
#[derive(Clone, Debug)]
struct Ask {
    size: usize,
    sent: Option<Time>,
    tries: u8,
}

#[derive(Clone, Debug)]
enum Phase {
    /// All sizes at once; the largest answered so far.
    Sweep { asks: Vec<Ask>, best: Option<usize> },
    /// Between the size in use and one too large.
    Search { ask: Ask, too_large: usize },
    /// Resting, looking now and then whether the size in use still passes.
    Verify { ask: Option<Ask>, since: Time },
}

/// The search on one path.
#[derive(Clone, Debug)]
pub struct MtuSearch {
    phase: Phase,
    /// What passes, as far as known.
    usable: Option<usize>,
    /// What was usable passes no more: take what passes as soon as that is known.
    narrowed: bool,
    /// The least that the system refused to send.
    refused: usize,
    /// When the last sweep began, and when something was answered last.
    swept_at: Time,
    answered_at: Time,
    used: Use,
}

impl MtuSearch {
    /// A search that begins with a sweep at `now`.
    pub fn new(now: Time) -> Self {
        Self {
            phase: sweep(),
            usable: None,
            narrowed: false,
            refused: usize::MAX,
            swept_at: now,
            answered_at: now,
            used: Use::Idle,
        }
    }

    /// What the path is used for from now on.
    pub fn set_use(&mut self, used: Use) {
        self.used = used;
    }

    /// The UDP payload in use; None until the first sweep ended.
    pub fn usable(&self) -> Option<usize> {
        self.usable
    }

    /// The next size to probe at `now`; `patience` is how long an answer may take.
    pub fn poll(&mut self, now: Time, patience: Duration) -> Option<usize> {
        if self.first_result().is_some_and(|(_, at)| at <= now) {
            self.usable = self.first_result().map(|(best, _)| best);
        }
        let (verify, raise) = self.intervals();
        if matches!(self.phase, Phase::Verify { .. }) && now.since(self.swept_at) >= raise {
            self.restart(now);
        }
        if let Phase::Verify { ask: ask @ None, since } = &mut self.phase {
            if now.since(*since) < verify {
                return None;
            }
            *since = now;
            *ask = self.usable.map(|size| Ask { size, sent: None, tries: 0 });
        }
        if let Some(size) = self.asks().iter_mut().find_map(|ask| ask.poll(now, patience)) {
            return Some(size);
        }
        let asks = self.asks();
        if asks.is_empty() || asks.iter().any(|ask| !ask.is_lost(now, patience)) {
            return None;
        }
        self.conclude(now);
        self.poll(now, patience)
    }

    /// A probe of `size` was answered; one that is smaller than any that is asked for says nothing.
    pub fn answered(&mut self, size: usize, now: Time) {
        if size < MINIMUM {
            return;
        }
        self.answered_at = now;
        match &mut self.phase {
            Phase::Sweep { asks, best } => {
                asks.retain(|ask| ask.size > size);
                *best = (*best).max(Some(size));
                // Not the smallest ones, which are answered first: senders would be told of them and remember.
                if self.narrowed && size >= BASE {
                    self.usable = *best;
                }
                if asks.is_empty() {
                    self.conclude(now);
                }
            }
            Phase::Search { ask, too_large } if ask.size == size => {
                let too_large = *too_large;
                self.usable = Some(size);
                self.phase = search(size, too_large, now);
            }
            Phase::Verify { ask: ask @ Some(_), .. } if self.usable == Some(size) => *ask = None,
            Phase::Search { .. } | Phase::Verify { .. } => {}
        }
    }

    /// The system refused to send a packet larger than `limit`.
    pub fn too_big(&mut self, limit: usize, now: Time) {
        self.refused = limit + 1;
        if let Phase::Search { ask, too_large } = &self.phase
            && ask.size > limit
        {
            let too_large = (*too_large).min(self.refused);
            self.phase = search(self.usable.unwrap_or(MINIMUM), too_large, now);
        }
        if let Phase::Sweep { asks, .. } = &mut self.phase {
            asks.retain(|ask| ask.size <= limit);
            if asks.is_empty() {
                self.conclude(now);
            }
        }
        if self.usable.is_some_and(|usable| usable > limit) {
            self.restart(now);
        }
    }

    /// Starts over; the earlier result stays in use meanwhile.
    pub fn restart(&mut self, now: Time) {
        self.phase = sweep();
        self.swept_at = now;
        self.refused = usize::MAX;
    }

    /// When [`Self::poll`] has something to do.
    pub fn deadline(&self, patience: Duration) -> Option<Time> {
        match &self.phase {
            Phase::Sweep { asks, .. } => {
                let first_result = self.first_result().map(|(_, at)| at);
                asks.iter().map(|ask| ask.deadline(patience)).chain(first_result).min()
            }
            Phase::Search { ask, .. } => Some(ask.deadline(patience)),
            Phase::Verify { ask: Some(ask), .. } => Some(ask.deadline(patience)),
            Phase::Verify { ask: None, since } => {
                let (verify, raise) = self.intervals();
                Some((*since + verify).min(self.swept_at + raise))
            }
        }
    }

    /// What the first sweep has found so far, and when it is to be used.
    fn first_result(&self) -> Option<(usize, Time)> {
        match self.phase {
            Phase::Sweep { best: Some(best), .. } if self.usable.is_none() && best >= BASE => {
                Some((best, self.answered_at + ANSWERS_TOGETHER))
            }
            Phase::Sweep { .. } | Phase::Search { .. } | Phase::Verify { .. } => None,
        }
    }

    fn intervals(&self) -> (Duration, Duration) {
        let (verify, raise) = match self.used {
            Use::Busy => (VERIFY_INTERVAL, RAISE_INTERVAL),
            Use::Idle => (VERIFY_INTERVAL_IDLE, RAISE_INTERVAL_IDLE),
            Use::Resting => (VERIFY_INTERVAL_RESTING, RAISE_INTERVAL_RESTING),
        };
        (verify, if self.usable.is_some() { raise } else { SWEEP_AGAIN })
    }

    fn asks(&mut self) -> &mut [Ask] {
        match &mut self.phase {
            Phase::Sweep { asks, .. } => asks,
            Phase::Search { ask, .. } => std::slice::from_mut(ask),
            Phase::Verify { ask, .. } => ask.as_mut_slice(),
        }
    }

    /// Every open ask was lost, or a sweep has none left.
    fn conclude(&mut self, now: Time) {
        self.narrowed = matches!(self.phase, Phase::Verify { .. });
        self.phase = match &self.phase {
            Phase::Sweep { best: None, .. } => rest(now),
            Phase::Sweep { best: Some(best), .. } => {
                let best = *best;
                self.usable = Some(best);
                match SWEEP.iter().find(|size| **size > best) {
                    Some(&larger) => search(best, larger.min(self.refused), now),
                    None => rest(now),
                }
            }
            Phase::Search { ask, .. } => search(self.usable.unwrap_or(MINIMUM), ask.size, now),
            Phase::Verify { .. } => sweep(),
        };
    }
}

impl Ask {
    fn poll(&mut self, now: Time, patience: Duration) -> Option<usize> {
        if self.sent.is_some_and(|sent| now < sent + patience) || self.tries == TRIES {
            return None;
        }
        self.sent = Some(now);
        self.tries += 1;
        Some(self.size)
    }

    fn is_lost(&self, now: Time, patience: Duration) -> bool {
        self.tries == TRIES && self.sent.is_some_and(|sent| now >= sent + patience)
    }

    fn deadline(&self, patience: Duration) -> Time {
        self.sent.map_or(Time::ZERO, |sent| sent + patience)
    }
}

fn sweep() -> Phase {
    Phase::Sweep { asks: SWEEP.iter().map(|&size| Ask { size, sent: None, tries: 0 }).collect(), best: None }
}

fn search(usable: usize, too_large: usize, now: Time) -> Phase {
    if too_large.saturating_sub(usable) <= NEAR {
        return rest(now);
    }
    Phase::Search { ask: Ask { size: usize::midpoint(usable, too_large), sent: None, tries: 0 }, too_large }
}

fn rest(now: Time) -> Phase {
    Phase::Verify { ask: None, since: now }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// Runs the search for `span` on a path which carries payloads up to `limit` and answers within a millisecond.
    fn run(search: &mut MtuSearch, limit: usize, now: &mut Time, span: Duration) -> u32 {
        let end = *now + span;
        let mut sent = 0;
        loop {
            while let Some(size) = search.poll(*now, PATIENCE) {
                sent += 1;
                if size <= limit {
                    search.answered(size, *now + Duration::from_millis(1));
                }
            }
            match search.deadline(PATIENCE) {
                Some(next) if next <= end => *now = (*now + Duration::from_millis(1)).max(next),
                _ => break,
            }
        }
        *now = end;
        sent
    }

    #[test]
    fn any_limit_is_found_within_a_few_bytes_and_seconds() {
        for limit in [548, 600, 1231, 1232, 1272, 1400, 1452, 1472, 1500, 8952, 9000] {
            let mut now = Time::ZERO;
            let mut search = MtuSearch::new(now);
            run(&mut search, limit, &mut now, Duration::from_secs(6));
            let usable = search.usable().unwrap();
            assert!(usable <= limit && usable + NEAR >= limit.min(8952), "{limit}: {usable}");
        }
    }

    #[test]
    fn the_usual_sizes_are_known_at_once() {
        let mut now = Time::ZERO;
        let mut search = MtuSearch::new(now);
        run(&mut search, 1472, &mut now, Duration::from_millis(500));
        assert_eq!(search.usable(), Some(1472));
    }

    #[test]
    fn a_path_that_narrows_is_noticed_within_a_second_and_a_half_and_one_that_widens_in_a_minute() {
        let mut now = Time::ZERO;
        let mut search = MtuSearch::new(now);
        search.set_use(Use::Busy);
        run(&mut search, 1472, &mut now, Duration::from_secs(5));
        run(&mut search, 1272, &mut now, Duration::from_millis(1500));
        assert!(search.usable().unwrap() <= 1272, "{search:?}");
        run(&mut search, 1472, &mut now, Duration::from_secs(65));
        assert_eq!(search.usable(), Some(1472));
    }

    #[test]
    fn an_idle_path_costs_little_and_is_looked_at_when_it_is_not_idle_any_more() {
        let mut now = Time::ZERO;
        let mut search = MtuSearch::new(now);
        run(&mut search, 1472, &mut now, Duration::from_secs(5));
        let sent = run(&mut search, 1472, &mut now, Duration::from_secs(100));
        assert!((5..=12).contains(&sent), "{sent}");
        search.set_use(Use::Busy);
        run(&mut search, 1272, &mut now, Duration::from_millis(1500));
        assert!(search.usable().unwrap() <= 1272, "{search:?}");
    }

    #[test]
    fn a_dead_path_is_not_taken_for_a_narrow_one_and_costs_little() {
        let mut now = Time::ZERO;
        let mut search = MtuSearch::new(now);
        run(&mut search, 1472, &mut now, Duration::from_secs(2));
        let sent = run(&mut search, 0, &mut now, Duration::from_secs(10));
        assert_eq!(search.usable(), Some(1472));
        assert!(sent < 200, "{sent}");
    }

    #[test]
    fn a_path_that_answered_nothing_yet_is_asked_again_and_small_answers_say_nothing() {
        let mut now = Time::ZERO;
        let mut search = MtuSearch::new(now);
        search.poll(now, PATIENCE);
        search.answered(64, now);
        run(&mut search, 0, &mut now, Duration::from_secs(3));
        assert_eq!(search.usable(), None);
        run(&mut search, 1472, &mut now, Duration::from_millis(1500));
        assert_eq!(search.usable(), Some(1472));
    }

    #[test]
    fn what_the_first_sweep_found_is_used_long_before_the_rest_is_lost() {
        const SLOW: Duration = Duration::from_secs(4);
        let mut search = MtuSearch::new(Time::ZERO);
        while let Some(size) = search.poll(Time::ZERO, SLOW) {
            if size <= 1472 {
                search.answered(size, Time::ZERO + Duration::from_millis(1));
            }
        }
        assert_eq!((search.usable(), search.deadline(SLOW)), (None, Some(Time::ZERO + Duration::from_millis(201))));
        assert_eq!(search.poll(Time::ZERO + Duration::from_millis(201), SLOW), None);
        assert_eq!(search.usable(), Some(1472));
        assert_eq!(search.deadline(SLOW), Some(Time::ZERO + SLOW));
    }

    #[test]
    fn the_systems_word_may_come_when_all_else_was_answered() {
        let (mut now, mut search) = (Time::ZERO, MtuSearch::new(Time::ZERO));
        while let Some(size) = search.poll(now, PATIENCE) {
            if size <= 1472 {
                search.answered(size, now);
            }
        }
        search.too_big(1472, now);
        assert_eq!(search.usable(), Some(1472));
        search.set_use(Use::Busy);
        run(&mut search, 1300, &mut now, Duration::from_millis(1500));
        assert!(search.usable().is_some_and(|size| size <= 1300), "{search:?}");
    }

    #[test]
    fn the_systems_word_ends_the_asking_for_larger_ones() {
        let mut search = MtuSearch::new(Time::ZERO);
        search.too_big(1472, Time::ZERO);
        let mut now = Time::ZERO;
        run(&mut search, 1472, &mut now, Duration::from_millis(100));
        assert_eq!(search.usable(), Some(1472), "no waiting for the sizes that cannot be sent");
    }
}
