use super::*;

const HOME: &str = "10.0.0.1:6783";
const AWAY: &str = "10.9.9.9:1024";

/// A path in virtual time: probes to the addresses in `answering` come back after 10 ms if no larger than 1472.
struct Bench {
    direct: Direct,
    entropy: Entropy,
    now: Time,
    answering: Vec<SocketAddr>,
    changes: Vec<Change>,
    sent: usize,
    /// Frames go both ways: one each 5 ms, so many so far.
    frames: Option<u32>,
}

impl Bench {
    fn new() -> Self {
        let mut direct = Direct::new(Time::ZERO);
        direct.add_candidate(HOME.parse().unwrap(), Time::ZERO);
        let entropy = Entropy::seeded([1; 32]);
        Self { direct, entropy, now: Time::ZERO, answering: Vec::new(), changes: Vec::new(), sent: 0, frames: None }
    }

    fn run(&mut self, span: Duration) -> &[Change] {
        self.changes.clear();
        let end = self.now + span;
        let mut echoes: Vec<(Time, Probe)> = Vec::new();
        while self.now < end {
            self.changes.extend(self.direct.handle_timeout(self.now));
            while let Some(probe) = self.direct.poll_probe(self.now, &self.entropy) {
                self.sent += 1;
                if self.answering.contains(&probe.to) && probe.size <= 1472 {
                    echoes.push((self.now + Duration::from_millis(10), probe));
                }
            }
            self.now = self.now + Duration::from_millis(5);
            if let Some(count) = &mut self.frames {
                *count += 1;
                self.direct.busy(Duration::from_millis(50), self.now);
                self.direct.set_counts(Counts { sealed: Some((1, *count)), opened: *count });
                if count.is_multiple_of(20) {
                    let counted = Counted { session: 2, sealed: *count, opened: *count };
                    self.direct.frames_came(Some(counted), self.now);
                }
            }
            for (_, probe) in echoes.extract_if(.., |(at, _)| *at <= self.now) {
                self.changes.extend(self.direct.echoed(
                    probe.to,
                    probe.token,
                    Came { probes: 0, opened: probe.sealed },
                    self.now,
                ));
            }
        }
        &self.changes
    }
}

#[test]
fn a_path_comes_up_with_its_size_known_and_goes_down_after_three_seconds_of_silence() {
    let mut bench = Bench::new();
    let home = HOME.parse().unwrap();
    bench.answering = vec![home];
    assert_eq!(bench.run(Duration::from_secs(1)), [Change::Up(home)]);
    assert_eq!(bench.direct.payload_max(), Some(1472));
    assert!(bench.direct.rtt().unwrap().abs_diff(Duration::from_millis(10)) < Duration::from_millis(6));
    bench.answering.clear();
    assert_eq!(bench.run(Duration::from_millis(2400)), []);
    assert_eq!(bench.run(Duration::from_millis(1200)), [Change::Down]);
    assert_eq!(bench.direct.address(), None);
    bench.answering = vec![home];
    assert_eq!(bench.run(Duration::from_millis(900)), [], "one echo is not enough to come back");
    assert_eq!(bench.run(Duration::from_secs(3)), [Change::Up(home)]);
}

#[test]
fn a_suspected_path_that_is_dead_is_left_within_a_second_and_one_that_lives_stays() {
    let mut bench = Bench::new();
    bench.answering = vec![HOME.parse().unwrap()];
    bench.direct.steer(true, false);
    bench.run(Duration::from_secs(2));
    bench.direct.suspect(bench.now);
    let suspected = bench.now;
    assert_eq!(bench.run(Duration::from_secs(1)), []);
    assert!(bench.direct.answered_at().unwrap() > suspected);
    bench.answering.clear();
    bench.direct.suspect(bench.now);
    assert_eq!(bench.run(Duration::from_millis(700)), [Change::Down]);
}

#[test]
fn a_silent_path_is_left_in_a_burst_if_there_is_another_and_comes_back_when_it_answers() {
    let home = HOME.parse().unwrap();
    for busy in [false, true] {
        let mut bench = Bench::new();
        bench.answering = vec![home];
        bench.direct.steer(true, false);
        bench.run(Duration::from_secs(2));
        if busy {
            bench.direct.busy(Duration::from_millis(50), bench.now);
        }
        bench.answering.clear();
        let patience = Duration::from_millis(if busy { 850 } else { 1300 });
        assert_eq!(bench.run(patience), [Change::Down], "busy: {busy}");
        assert_eq!((bench.direct.address(), bench.direct.last_resort()), (None, Some(home)));
        bench.answering = vec![home];
        assert_eq!(bench.run(Duration::from_millis(350)), [], "one echo is not enough to come back");
        assert_eq!(bench.run(Duration::from_millis(500)), [Change::Up(home)]);
    }
}

#[test]
fn who_slept_does_not_hold_it_against_the_path() {
    let mut bench = Bench::new();
    bench.answering = vec![HOME.parse().unwrap()];
    bench.run(Duration::from_secs(2));
    bench.now = bench.now + Duration::from_secs(10);
    assert_eq!(bench.run(Duration::from_secs(2)), []);
}

#[test]
fn a_lost_probe_has_the_path_looked_at_closely_and_not_again_at_once() {
    let mut bench = Bench::new();
    let home = HOME.parse().unwrap();
    bench.answering = vec![home];
    bench.run(Duration::from_secs(2));
    bench.direct.wanted(bench.now);
    // Half a second of silence: longer than it takes to lose the one probe of that time, and shorter than it takes to be left.
    bench.answering.clear();
    bench.run(Duration::from_millis(500));
    bench.answering = vec![home];
    bench.sent = 0;
    assert_eq!(bench.run(Duration::from_secs(4)), []);
    assert!((128..170).contains(&bench.sent), "{}", bench.sent);
    assert!(bench.direct.quality(bench.now).unwrap().loss < 1e-9);
}

#[test]
fn an_idle_path_that_loses_some_is_not_looked_at_closely() {
    let mut bench = Bench::new();
    let home = HOME.parse().unwrap();
    bench.answering = vec![home];
    bench.run(Duration::from_secs(10));
    for second in 0..40 {
        bench.answering = if second % 4 == 0 { Vec::new() } else { vec![home] };
        bench.run(Duration::from_millis(if second % 4 == 0 { 300 } else { 1000 }));
        assert!(!bench.direct.is_surveyed(), "after {second} s");
    }
    assert!(bench.direct.loss() > 0.05);
}

#[test]
fn an_idle_path_of_many_costs_little_and_its_death_is_noticed_soon_after_frames_are_sent() {
    let mut bench = Bench::new();
    bench.answering = vec![HOME.parse().unwrap()];
    bench.direct.set_one_of_many(true);
    bench.direct.steer(true, false);
    bench.run(Duration::from_secs(20));
    bench.sent = 0;
    assert_eq!(bench.run(Duration::from_secs(100)), []);
    assert!((18..=24).contains(&bench.sent), "{}", bench.sent);
    bench.answering.clear();
    bench.direct.busy(Duration::from_millis(50), bench.now);
    assert_eq!(bench.run(Duration::from_millis(500)), []);
    assert_eq!(bench.run(Duration::from_millis(500)), [Change::Down]);
}

#[test]
fn a_resting_path_that_is_the_only_one_is_given_up_after_three_seconds_of_asking() {
    let mut bench = Bench::new();
    bench.answering = vec![HOME.parse().unwrap()];
    bench.direct.set_one_of_many(true);
    bench.run(Duration::from_secs(20));
    bench.answering.clear();
    let died = bench.now;
    while bench.run(Duration::from_millis(100)).is_empty() {}
    let took = bench.now.since(died);
    assert!(took >= DOWN_AFTER - PROBE_INTERVAL && took <= REST_INTERVAL + DOWN_AFTER, "{took:?}");
}

#[test]
fn a_path_that_carries_packets_of_others_does_not_rest() {
    let mut bench = Bench::new();
    bench.answering = vec![HOME.parse().unwrap()];
    bench.direct.set_one_of_many(true);
    bench.run(Duration::from_secs(20));
    bench.sent = 0;
    for _ in 0..20 {
        bench.direct.carrying(bench.now);
        bench.run(Duration::from_millis(500));
    }
    assert!(bench.sent >= 19, "{}", bench.sent);
}

#[test]
fn a_dead_path_is_asked_less_and_less() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(60));
    let eager = std::mem::take(&mut bench.sent);
    bench.run(Duration::from_secs(60));
    assert!((50..=62).contains(&eager) && bench.sent <= 13, "{eager} {}", bench.sent);
}

#[test]
fn the_link_follows_a_peer_that_moved_once_the_new_address_answered() {
    let (home, away) = (HOME.parse().unwrap(), AWAY.parse().unwrap());
    let mut bench = Bench::new();
    bench.answering = vec![home];
    bench.run(Duration::from_secs(1));
    bench.direct.heard_from(home, true, bench.now);
    bench.direct.heard_from(away, true, bench.now);
    assert_eq!(bench.run(Duration::from_millis(900)), [], "it still probes from home");
    bench.direct.heard_from(away, true, bench.now);
    assert_eq!(bench.run(Duration::from_millis(100)), [], "unanswered, a new address is not taken");
    bench.answering = vec![away];
    bench.run(Duration::from_millis(200));
    bench.direct.heard_from(away, true, bench.now);
    assert_eq!(bench.run(Duration::from_millis(100)), [Change::Moved(away)]);
    assert_eq!(bench.direct.address(), Some(away));
    assert_eq!(bench.run(Duration::from_secs(10)), []);
}

#[test]
fn an_echo_from_elsewhere_or_of_no_probe_is_nothing() {
    let mut bench = Bench::new();
    let probe = bench.direct.poll_probe(Time::ZERO, &bench.entropy).unwrap();
    assert_eq!(bench.direct.echoed(AWAY.parse().unwrap(), probe.token, Came::default(), Time::ZERO), None);
    assert_eq!(bench.direct.echoed(probe.to, probe.token + 1, Came::default(), Time::ZERO), None);
    assert_eq!(bench.direct.rtt(), None);
}

#[test]
fn that_only_the_peers_packets_come_shows_while_its_probes_do() {
    let mut bench = Bench::new();
    bench.answering = vec![HOME.parse().unwrap()];
    let heard = |bench: &mut Bench, seconds| {
        for _ in 0..seconds {
            bench.direct.heard_from(HOME.parse().unwrap(), true, bench.now);
            bench.run(Duration::from_secs(1));
        }
        bench.direct.is_one_way(bench.now)
    };
    assert!(!heard(&mut bench, 5), "both directions pass");
    bench.answering.clear();
    assert!(heard(&mut bench, 5));
    bench.run(Duration::from_secs(13));
    assert!(!bench.direct.is_one_way(bench.now), "nothing passes");
}

#[test]
fn probes_rest_while_many_frames_go_both_ways_and_not_when_they_stop_or_the_peer_asks() {
    let mut bench = Bench::new();
    let home = HOME.parse().unwrap();
    bench.answering = vec![home];
    bench.frames = Some(1);
    bench.run(Duration::from_secs(5));
    let sent = |bench: &mut Bench, span| {
        bench.sent = 0;
        bench.run(Duration::from_millis(span));
        bench.sent
    };
    let resting = sent(&mut bench, 10_000);
    assert!((60..100).contains(&resting), "{resting}");
    // Probes of the peer's that come as seldom change nothing.
    for _ in 0..10 {
        bench.direct.heard_from(home, true, bench.now);
        assert!(sent(&mut bench, 200) <= 3);
    }
    // Two in a row do.
    while bench.sent != 1 {
        sent(&mut bench, 5);
    }
    sent(&mut bench, 60);
    bench.direct.heard_from(home, true, bench.now);
    sent(&mut bench, 50);
    bench.direct.heard_from(home, true, bench.now);
    assert_eq!(sent(&mut bench, 5), 1);
    // Nothing comes any more, and frames are still sent.
    bench.frames = None;
    let awake = sent(&mut bench, 1000);
    assert!(awake >= 15, "{awake}");
}
