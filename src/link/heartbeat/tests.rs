use super::*;

/// A path in virtual time: what passes comes back after 10 ms.
struct Bench {
    beats: Heartbeats,
    entropy: Entropy,
    now: Time,
    echoes: Vec<(Time, u64)>,
    sent: usize,
}

impl Bench {
    fn new(seed: u8) -> Self {
        let entropy = Entropy::seeded([seed; 32]);
        Self { beats: Heartbeats::new(Time::ZERO), entropy, now: Time::ZERO, echoes: Vec::new(), sent: 0 }
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

    fn proven() -> Self {
        let mut bench = Self::new(1);
        assert!(bench.run(SECOND, |_, _| true, |beats, _| beats.is_proven()).is_some());
        bench.run(SECOND * 5, |_, _| true, |_, _| false);
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
fn a_dead_path_is_found_within_a_second() {
    let mut bench = Bench::proven();
    let took = bench.run(SECOND * 3, |_, _| false, is_faulty).unwrap();
    assert!(took < Duration::from_millis(950), "{took:?}");
    assert_eq!(bench.beats.fault(bench.now), Some(Fault::Silent));
    assert!(bench.beats.suspect_since(bench.now).is_some());
}

#[test]
fn a_dead_path_is_not_taken_for_a_narrow_one_whichever_heartbeat_was_due_first() {
    for millis in (0..1000).step_by(5) {
        let mut bench = Bench::proven();
        bench.run(Duration::from_millis(millis), |_, _| true, |_, _| false);
        bench.run(SECOND * 3, |_, _| false, is_faulty).unwrap();
        assert_eq!(bench.beats.fault(bench.now), Some(Fault::Silent), "dead after {millis} ms");
    }
}

#[test]
fn a_path_that_became_narrow_is_found_and_named() {
    let mut bench = Bench::proven();
    let took = bench.run(SECOND * 3, |size, _| size == Size::Small, is_faulty).unwrap();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(bench.beats.fault(bench.now), Some(Fault::Narrow));
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
    let mut bench = Bench::proven();
    bench.sent = 0;
    bench.run(SECOND * 60, |_, _| true, |_, _| false);
    assert!((400..=430).contains(&bench.sent), "five small and two full a second: {}", bench.sent);
}
