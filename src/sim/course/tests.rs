use super::*;
use crate::sim::{
    outcome::Phase,
    scenario::{Links, Targets},
};

fn run(text: &str) -> Outcome {
    let mut course = Course::new(Scenario::parse(text, Scenario::default()).unwrap()).unwrap();
    while course.advance().is_some() {}
    course.outcome()
}

#[test]
fn one_seed_gives_one_outcome_and_another_another() {
    let text = "peers = 8\nfor = \"20s\"\n[network]\nloss = \"2%\"\nspread = \"40ms\"\njitter = \"5ms\"\n\
                [churn]\nevery = \"3s\"\ndown = \"2s\"\n[[event]]\nat = \"10s\"\npartition = [[\"peer1\", \"peer2\"]]";
    let first = run(text);
    assert_eq!(first, run(text));
    let other = run(&format!("seed = 2\n{text}"));
    assert_ne!(first.phases, other.phases);
}

/// Two ends 100 ms apart, with 20 ms by the one between: which is taken, until it is gone, and again when it is back; half a
/// second after the direct way has become the best, it is not taken yet.
#[test]
fn the_path_taken_is_held_against_the_best() {
    let text = "peers = [\"a\", \"b\", \"c\"]\nfor = \"60s\"\n[network]\nlatency = \"10ms\"\n\
                [[link]]\nbetween = [\"a\", \"c\"]\nlatency = \"100ms\"\n\
                [[event]]\nat = \"10s\"\ncrash = [\"b\"]\n[[event]]\nat = \"20s\"\nrestart = [\"b\"]\n\
                [[event]]\nat = \"40s\"\nlink = [\"a\", \"c\"]\nlatency = \"5ms\"\n\
                [[event]]\nat = \"40.5s\"\nlink = [\"a\", \"b\"]\none_way = true\nlatency = \"11ms\"\n\
                [expect]\nsettled = \"5s\"\nstretch_max = 2";
    let outcome = run(text);
    let [start, crashed, back, soon, later] = &outcome.phases[..] else { panic!("{outcome:#?}") };
    assert!(start.settled_ms < Some(2000) && start.settled_ms > Some(0), "{outcome:#?}");
    let pairs_and_max = |phase: &Phase| phase.stretch.as_ref().map(|stretch| (stretch.pairs, stretch.max));
    assert_eq!(pairs_and_max(start), Some((6, 1.0)), "{outcome:#?}");
    assert_eq!(crashed.gaps.count, 2, "a and c, both ways: {outcome:#?}");
    assert!((100..10_000).contains(&crashed.gaps.longest_ms), "{outcome:#?}");
    assert_eq!(crashed.settled_ms, Some(crashed.gaps.longest_ms));
    assert_eq!(pairs_and_max(crashed), Some((2, 1.0)), "{outcome:#?}");
    assert_eq!((pairs_and_max(back), back.gaps.count), (Some((6, 1.0)), 0), "{outcome:#?}");
    let stretch = soon.stretch.as_ref().unwrap();
    assert_eq!(
        (soon.event.as_str(), stretch.max, &stretch.worst.by[..]),
        ("a–c latency 5ms", 4.0, &["b".to_owned()][..])
    );
    assert_eq!((stretch.worst.time_ms, stretch.worst.best_ms), (40.0, 10.0), "{outcome:#?}");
    assert_eq!(
        (pairs_and_max(later), later.settled_ms, later.gaps.count),
        (Some((6, 1.0)), Some(0), 0),
        "{outcome:#?}"
    );
    let judged: Vec<_> = outcome.expectations.iter().map(|judged| (judged.what, judged.met)).collect();
    assert_eq!(judged, [("settled", true), ("stretch_max", false)]);
    assert!(!outcome.is_as_expected());
}

#[test]
fn peers_parted_have_no_path_and_no_gap_and_find_each_other_again() {
    let text = "peers = 4\nfor = \"60s\"\n[[event]]\nat = \"10s\"\npartition = [[\"peer1\", \"peer2\"]]\n\
                [[event]]\nat = \"20s\"\nheal = [\"*\", \"*\"]";
    let outcome = run(text);
    let [_, parted, healed] = &outcome.phases[..] else { panic!("{outcome:#?}") };
    assert_eq!((parted.pairs_parted, parted.pairs_without_path, parted.gaps.count), (8, 0, 0), "{outcome:#?}");
    assert_eq!((healed.pairs_parted, healed.pairs_without_path), (0, 0), "{outcome:#?}");
    assert!(healed.settled_ms.is_some_and(|after| after < 30_000), "{outcome:#?}");
    assert!(healed.calm_bytes_per_second.is_some() && parted.calm_bytes_per_second.is_none());
    assert!(healed.connections.mean >= 2.0, "{outcome:#?}");
}

#[test]
fn a_restarted_router_and_one_behind_a_forgetful_nat_are_reached_again() {
    let text = "peers = [\"a\", \"b\", \"home\"]\nfor = \"80s\"\n[[nat]]\npeers = [\"home\"]\n\
                [[event]]\nat = \"10s\"\ncrash = [\"a\"]\n[[event]]\nat = \"20s\"\nrestart = [\"a\"]\n\
                [[event]]\nat = \"40s\"\nnat_forgets = [\"home\"]";
    let outcome = run(text);
    assert!(outcome.phases.iter().all(|phase| phase.settled_ms.is_some()), "{outcome:#?}");
    let forgotten = outcome.phases.last().unwrap();
    assert_eq!((forgotten.pairs_without_path, forgotten.pairs_parted), (0, 0), "{outcome:#?}");
}

/// What a router reports of a network that is known: from it the same network is made, as well as routers measured it.
#[test]
fn the_network_of_a_report_is_the_one_that_was_measured() {
    let text = "peers = [\"a\", \"b\", \"c\", \"d\"]\nfor = \"30s\"\n[network]\nlatency = \"10ms\"\n\
                [[link]]\nbetween = [\"a\", \"b\"]\nlatency = \"40ms\"\n\
                [[link]]\nbetween = [\"c\", \"d\"]\ncut = \"udp\"\n[[link]]\nbetween = [\"b\", \"d\"]\ncut = \"all\"";
    let mut course = Course::new(Scenario::parse(text, Scenario::default()).unwrap()).unwrap();
    while course.advance().is_some() {}
    let report = course.sim.report(0);
    let recorded = Scenario::recorded(&report, Scenario::default()).unwrap();
    recorded.check().unwrap();
    let network = recorded.network(&Entropy::seeded([1; 32]));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| recorded.host(name).unwrap());
    let millis = |x, y| network.way(x, y).latency.as_secs_f64() * 1000.0;
    // Reports tell round-trip times on a scale of 9 % a step, and of 28 % at most until they follow.
    for ((x, y), truly) in [((a, b), 40.0), ((a, c), 10.0), ((d, a), 10.0), ((b, c), 10.0)] {
        assert!((truly * 0.8..truly * 1.3).contains(&millis(x, y)), "{} for {truly}: {report:#?}", millis(x, y));
        assert!(network.passes(x, y) && network.passes(y, x));
    }
    assert!(!network.passes(c, d) && network.stream(c, d).is_some(), "only frames do not pass");
    assert!(!network.passes(b, d) && network.stream(b, d).is_none(), "it would have been tried");
    let mut again = Course::new(recorded).unwrap();
    while again.advance().is_some() {}
    let outcome = again.outcome();
    assert!(outcome.phases[0].settled_ms.is_some(), "{outcome:#?}");
    assert_eq!(outcome.phases[0].pairs_without_path, 0, "{outcome:#?}");
}

#[test]
fn a_report_of_routers_at_their_limit_says_nothing_of_links_they_do_not_have() {
    let base = Scenario { discovery: false, ..Scenario::default() };
    let scenario = Scenario {
        peers: Scenario::numbered(3),
        targets: Targets::Listed(vec![vec![1], vec![], vec![1]]),
        links: Links::default(),
        span: Duration::from_secs(10),
        ..base
    };
    let mut course = Course::new(scenario).unwrap();
    while course.advance().is_some() {}
    let recorded = Scenario::recorded(&course.sim.report(1), Scenario::default()).unwrap();
    let [one, two, three] = ["peer1", "peer2", "peer3"].map(|name| recorded.host(name).unwrap());
    let network = recorded.network(&Entropy::seeded([1; 32]));
    assert!(network.passes(one, three), "nobody tried");
    let by_two = network.way(one, two).latency + network.way(two, three).latency;
    assert_eq!(network.way(one, three).latency, by_two);
    assert!(!recorded.may_link(one, three) && recorded.may_link(one, two));
    let none = crate::api::Report { peers: Vec::new(), ..course.sim.report(1) };
    let error = Scenario::recorded(&none, Scenario::default()).unwrap_err();
    assert_eq!(error.to_string(), "the report has 0 peers: the simulator takes 2 to 5000");
}
