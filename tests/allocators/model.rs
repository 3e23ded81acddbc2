//! Three allocators and everything that can happen to them within small bounds, in every order.
//!
//! ```text
//! state ──each possible happening──▶ state ──▶ seen before? no: go on from there, depth first
//!                                      └─ none is possible: the faults are over; all space must find owners that live
//! ```
//! Only fingerprints of the states that were seen are kept, and the way to the present one. `WEFT_MODEL_MORE=n` allows n
//! more of each stop, start, turn of a clock and late hearing that is allowed at all.

#[path = "model/hosts.rs"]
mod hosts;
#[path = "model/print.rs"]
mod print;

use std::collections::HashSet;

use hosts::{HOSTS, Happening, Hosts, Scope, Wish, name};
use weft::ipam::Init;

/// Turns of all clocks within which space must find owners once faults are over.
const SETTLED_WITHIN: usize = 200;
/// Whoever asks for something after the faults are over.
const LATE_WISH: u64 = 1000;

/// What an exploration found.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    steps: usize,
    ends: usize,
    /// The first thing that went wrong, and how it came to that.
    violation: Option<(String, Vec<Happening>)>,
}

/// Looks at all that can come of a state.
fn explore(first: Hosts) -> Found {
    let mut seen = HashSet::from([first.print()]);
    let mut found = Found { states: 1, ..Found::default() };
    let mut open = vec![(first.possible().into_iter(), first)];
    let mut way = Vec::new();
    while let Some((possible, hosts)) = open.last_mut() {
        let Some(happening) = possible.next() else {
            open.pop();
            way.pop();
            continue;
        };
        let mut next = hosts.clone();
        next.happen(happening);
        found.steps += 1;
        if !seen.insert(next.print()) {
            continue;
        }
        found.states += 1;
        way.push(happening);
        let possible = next.possible();
        if possible.is_empty() {
            found.ends += 1;
            next.violation = next.violation.take().or_else(|| end(&next));
        }
        if let Some(violation) = next.violation {
            found.violation = Some((violation, way));
            return found;
        }
        open.push((possible.into_iter(), next));
    }
    found
}

/// What is wrong when the faults are over: with the dead back, or else removed.
fn end(hosts: &Hosts) -> Option<String> {
    let dead: Vec<usize> = (0..HOSTS).filter(|at| !hosts.runs(*at)).collect();
    let mut back = hosts.clone();
    dead.iter().for_each(|at| back.start(*at));
    settle(&mut back);
    let mut violation = back.violation.take().or_else(|| lost(&back, "everybody is back"));
    let living = (0..HOSTS).find(|at| hosts.runs(*at));
    if let (None, [_, ..], Some(by)) = (&violation, &dead[..], living) {
        let mut without = hosts.clone();
        settle(&mut without);
        for at in dead {
            without.ask(by, Wish::Remove(at), LATE_WISH + at as u64);
            settle(&mut without);
        }
        violation = without.violation.take().or_else(|| lost(&without, "the dead are removed"));
    }
    violation
}

fn lost(hosts: &Hosts, when: &str) -> Option<String> {
    (!hosts.is_whole()).then(|| format!("space is lost when {when}: {hosts:?}"))
}

/// Everybody hears everybody, and time passes.
fn settle(hosts: &mut Hosts) {
    (0..HOSTS).for_each(|at| hosts.ask(at, Wish::Prime, LATE_WISH));
    for _ in 0..SETTLED_WITHIN {
        while let Some(happening) = hosts.unheard().first() {
            hosts.happen(*happening);
        }
        if hosts.is_whole() || hosts.violation.is_some() {
            break;
        }
        (0..HOSTS).for_each(|at| hosts.pass_time(at));
    }
}

fn more() -> u8 {
    u8::try_from(super::number("WEFT_MODEL_MORE", 0)).unwrap()
}

fn scope(init: Init) -> Scope {
    let none = [0; HOSTS];
    Scope { init, wishes: Vec::new(), crashes: none, starts: none, times: none, slow: None, loses_writes: false }
}

fn seeds() -> Init {
    Init::Seed((0..HOSTS).map(name).collect())
}

/// Three members, each with its share, who know all of each other.
fn founded() -> Hosts {
    let mut hosts = Hosts::new(scope(seeds()));
    (0..HOSTS).for_each(|at| hosts.start(at));
    settle(&mut hosts);
    assert!(hosts.is_whole(), "{hosts:?}");
    hosts
}

fn with_more(mut scope: Scope) -> Scope {
    let budgets = scope.crashes.iter_mut().chain(&mut scope.starts).chain(&mut scope.times).chain(&mut scope.slow);
    budgets.filter(|budget| **budget > 0).for_each(|budget| *budget += more());
    scope
}

#[track_caller]
#[expect(clippy::print_stdout, reason = "how much was seen is what such a test has to say")]
fn assert_sound(hosts: &mut Hosts, scope: Scope) {
    hosts.within(with_more(scope));
    let started = std::time::Instant::now();
    let found = explore(hosts.clone());
    let Found { states, steps, ends, violation } = found;
    println!("{states} states, {steps} steps, {ends} ends in {:?}", started.elapsed());
    assert!(violation.is_none(), "{violation:#?}");
    assert!(ends > 0);
}

#[test]
fn founding_by_consensus_with_a_restart() {
    let wishes = vec![(0, Wish::Prime)];
    let scope =
        Scope { wishes, crashes: [0, 1, 0], starts: [0, 1, 0], slow: Some(1), ..scope(Init::Consensus(Some(3))) };
    let mut hosts = Hosts::new(scope.clone());
    (0..HOSTS).for_each(|at| hosts.start(at));
    assert_sound(&mut hosts, scope);
}

#[test]
fn founding_by_seeds_in_every_order() {
    let scope = Scope { starts: [1; HOSTS], ..scope(seeds()) };
    assert_sound(&mut Hosts::new(scope.clone()), scope);
}

#[test]
fn founding_by_seeds_with_a_restart() {
    let wishes = vec![(0, Wish::Allocate), (1, Wish::Allocate)];
    let scope = Scope { wishes, crashes: [1, 0, 0], starts: [2, 1, 1], slow: Some(1), ..scope(seeds()) };
    assert_sound(&mut Hosts::new(scope.clone()), scope);
}

#[test]
fn takeover_in_every_order() {
    let wishes = vec![(0, Wish::Remove(2)), (1, Wish::Remove(2)), (1, Wish::Allocate)];
    let scope = Scope { wishes, crashes: [0, 0, 1], times: [1; HOSTS], ..scope(seeds()) };
    assert_sound(&mut founded(), scope);
}

#[test]
fn takeover_while_the_dead_one_comes_back() {
    let wishes = vec![(0, Wish::Remove(2)), (1, Wish::Allocate)];
    let scope = Scope { wishes, crashes: [0, 0, 1], starts: [0, 0, 1], slow: Some(2), ..scope(seeds()) };
    assert_sound(&mut founded(), scope);
}

#[test]
fn takeover_by_two_while_the_dead_one_comes_back() {
    let wishes = vec![(0, Wish::Remove(2)), (1, Wish::Remove(2))];
    let scope = Scope { wishes, crashes: [0, 0, 1], starts: [0, 0, 1], slow: Some(2), ..scope(seeds()) };
    assert_sound(&mut founded(), scope);
}

/// Members of which the last one has no address left: it asks another for the next.
fn one_is_out_of_space() -> Hosts {
    let mut hosts = founded();
    (0..7).for_each(|number| hosts.ask(2, Wish::Allocate, 100 + number));
    settle(&mut hosts);
    hosts
}

#[test]
fn a_gift_whose_giver_dies_in_every_order() {
    let wishes = vec![(2, Wish::Allocate), (1, Wish::Remove(0)), (2, Wish::Remove(0))];
    let scope = Scope { wishes, crashes: [1, 0, 0], ..scope(seeds()) };
    assert_sound(&mut one_is_out_of_space(), scope);
}

#[test]
fn a_gift_whose_giver_dies_and_comes_back() {
    let wishes = vec![(2, Wish::Allocate), (1, Wish::Remove(0))];
    let scope = Scope { wishes, crashes: [1, 0, 0], starts: [1, 0, 0], slow: Some(1), ..scope(seeds()) };
    assert_sound(&mut one_is_out_of_space(), scope);
}

#[test]
fn a_gift_whose_receiver_dies_and_comes_back() {
    let wishes = vec![(2, Wish::Allocate), (0, Wish::Remove(2))];
    let scope = Scope { wishes, crashes: [0, 0, 1], starts: [0, 0, 1], slow: Some(1), ..scope(seeds()) };
    assert_sound(&mut one_is_out_of_space(), scope);
}

#[test]
fn a_write_that_is_lost_is_found_to_be_fatal() {
    let wishes = vec![(0, Wish::Allocate), (0, Wish::Allocate)];
    let crash = Scope { wishes, crashes: [1, 0, 0], starts: [1, 0, 0], slow: Some(0), ..scope(seeds()) };
    assert_sound(&mut founded(), crash.clone());
    let mut hosts = founded();
    hosts.within(Scope { loses_writes: true, ..crash });
    let Some((violation, _)) = explore(hosts).violation else { panic!("not found") };
    assert!(violation.contains("is held by"), "{violation}");
}
