use super::*;

/// A path in virtual time: what passes comes back after 10 ms.
struct Bench {
    beats: Heartbeats,
    entropy: Entropy,
    now: Time,
    echoes: Vec<(Time, u64)>,
    sent: usize,
    /// Frames are sent all the time; a look each second sees that.
    is_used: bool,
}

/// Whether frames are sent, or none, and then whether the path is one of many.
const USES: [(bool, bool); 3] = [(true, false), (false, false), (false, true)];

impl Bench {
    fn new(seed: u8) -> Self {
        let entropy = Entropy::seeded([seed; 32]);
        Self {
            beats: Heartbeats::new(Time::ZERO),
            entropy,
            now: Time::ZERO,
            echoes: Vec::new(),
            sent: 0,
            is_used: false,
        }
    }

    /// Runs until `done` or for `span`; how long that took.
    fn run(
        &mut self,
        span: Duration,
        passes: impl Fn(Size, &Entropy) -> bool,
        done: impl Fn(&Heartbeats, Time) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while self.now.since(start) < span {
            if self.is_used && self.now.since(Time::ZERO).as_millis().is_multiple_of(1000) {
                self.beats.wake(self.now);
            }
            self.beats.handle_timeout(self.now);
            while let Some((token, size)) = self.beats.poll(self.now, &self.entropy) {
                self.sent += 1;
                if passes(size, &self.entropy) {
                    self.echoes.push((self.now + Duration::from_millis(10), token));
                }
            }
            if done(&self.beats, self.now) {
                return Some(self.now.since(start));
            }
            self.now = self.now + Duration::from_millis(5);
            for (_, token) in self.echoes.extract_if(.., |(at, _)| *at <= self.now) {
                self.beats.echoed(token, 0, self.now);
            }
        }
        None
    }

    /// A path that was proven 20 s ago, used so.
    fn proven((is_used, is_one_of_many): (bool, bool)) -> Self {
        let mut bench = Self::new(1);
        bench.is_used = is_used;
        bench.beats.set_one_of_many(is_one_of_many, bench.now);
        assert!(bench.run(SECOND, |_, _| true, |beats, _| beats.is_proven()).is_some());
        bench.run(SECOND * 20, |_, _| true, |_, _| false);
        bench
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn is_faulty(beats: &Heartbeats, now: Time) -> bool {
    beats.fault(now).is_some()
}

#[test]
fn a_path_is_proven_at_first_by_one_echo_of_each_size_and_later_by_three_seconds() {
    let mut bench = Bench::new(1);
    let took = bench.run(SECOND, |_, _| true, |beats, _| beats.is_proven()).unwrap();
    assert!(took < Duration::from_millis(50), "{took:?}");
    bench.beats.restart(bench.now);
    bench.run(SECOND * 2, |_, _| false, |_, _| false);
    let took = bench.run(SECOND * 10, |_, _| true, |beats, _| beats.is_proven()).unwrap();
    assert!(took >= SECOND * 3 && took < SECOND * 5, "{took:?}");
}

#[test]
fn a_dead_path_is_found_within_a_second_and_an_idle_one_somewhat_later() {
    for (used, within) in USES.into_iter().zip([950, 1300, 5800]) {
        for millis in (0..5000).step_by(95) {
            let mut bench = Bench::proven(used);
            bench.run(Duration::from_millis(millis), |_, _| true, |_, _| false);
            let took = bench.run(SECOND * 10, |_, _| false, is_faulty).unwrap();
            assert!(took < Duration::from_millis(within), "{used:?}: {took:?}");
            assert_eq!(bench.beats.fault(bench.now), Some(Fault::Silent), "{used:?}");
            assert!(bench.beats.suspect_since(bench.now).is_some());
        }
    }
}

#[test]
fn a_path_that_died_unused_is_found_within_a_second_of_frames_beginning() {
    for (passing, fault) in [(None, Fault::Silent), (Some(Size::Small), Fault::Narrow)] {
        for used in USES {
            let passes = |size, _: &Entropy| passing == Some(size);
            let mut bench = Bench::proven(used);
            bench.run(Duration::from_millis(123), |_, _| true, |_, _| false);
            bench.beats.wake(bench.now);
            let took = bench.run(SECOND * 3, passes, is_faulty).unwrap();
            assert!(took < Duration::from_millis(1300), "{used:?}: {took:?}");
            assert_eq!(bench.beats.fault(bench.now), Some(fault), "{used:?}");
        }
    }
}

#[test]
fn a_dead_path_is_not_taken_for_a_narrow_one_whichever_heartbeat_was_due_first() {
    for (used, span) in USES.into_iter().zip([1000, 11_000, 181_000]) {
        for millis in (0..span).step_by(if used.1 { 1715 } else { 95 }) {
            let mut bench = Bench::proven(used);
            bench.run(Duration::from_millis(millis), |_, _| true, |_, _| false);
            bench.run(SECOND * 10, |_, _| false, is_faulty).unwrap();
            assert_eq!(bench.beats.fault(bench.now), Some(Fault::Silent), "{used:?}: dead after {millis} ms");
        }
    }
}

#[test]
fn a_path_that_became_narrow_is_found_and_named() {
    for (used, within) in USES.into_iter().zip([1500, 11_000, 181_000]) {
        let mut bench = Bench::proven(used);
        let took = bench.run(SECOND * 200, |size, _| size == Size::Small, is_faulty).unwrap();
        assert!(took < Duration::from_millis(within), "{used:?}: {took:?}");
        assert_eq!(bench.beats.fault(bench.now), Some(Fault::Narrow), "{used:?}");
    }
}

#[test]
fn a_narrow_path_is_never_proven() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.run(SECOND * 20, |size, _| size == Size::Small, |beats, _| beats.is_proven()), None);
    assert!(bench.beats.is_answered(bench.now));
}

#[test]
fn a_fifth_of_the_heartbeats_lost_at_random_is_no_fault() {
    for seed in 0..40 {
        let mut bench = Bench::new(seed);
        let (is_used, is_one_of_many) = USES[usize::from(seed) % USES.len()];
        bench.is_used = is_used;
        bench.beats.set_one_of_many(is_one_of_many, bench.now);
        let passes = |_, entropy: &Entropy| entropy.fraction() >= 0.2;
        assert!(bench.run(SECOND * 60, passes, |beats, _| beats.is_proven()).is_some());
        assert_eq!(bench.run(SECOND * 600, passes, is_faulty), None, "seed {seed}");
        assert!((bench.beats.loss() - 0.2).abs() < 0.2);
    }
}

#[test]
fn a_path_that_nothing_answers_is_asked_seldom() {
    let mut bench = Bench::new(1);
    bench.run(SECOND * 60, |_, _| false, |_, _| false);
    assert!(bench.sent <= 124, "{}", bench.sent);
}

#[test]
fn where_no_frames_go_heartbeats_are_few() {
    // A bit less, as the next is due after the answer.
    for (used, few) in USES.into_iter().zip([4000..=4200, 1220..=1260, 120..=124]) {
        let mut bench = Bench::proven(used);
        bench.sent = 0;
        bench.run(SECOND * 600, |_, _| true, |_, _| false);
        assert!(few.contains(&bench.sent), "{used:?}: {}", bench.sent);
    }
}

#[test]
fn a_path_rests_when_it_is_known_and_no_more_when_it_is_one_of_few() {
    let mut bench = Bench::new(1);
    bench.beats.set_one_of_many(true, bench.now);
    bench.run(SECOND * 3, |_, _| true, |_, _| false);
    assert!(bench.sent >= 15, "at first as often as a used one: {}", bench.sent);
    bench.run(SECOND * 60, |_, _| true, |_, _| false);
    bench.sent = 0;
    bench.beats.set_one_of_many(false, bench.now);
    bench.run(SECOND * 2, |_, _| true, |_, _| false);
    assert!((4..=6).contains(&bench.sent), "{}", bench.sent);
}
