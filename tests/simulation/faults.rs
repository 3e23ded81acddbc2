//! Random cuts, partitions, churn, stalls and loss, and what is promised all the same.
//!
//! One run is a mesh of four to nine hosts, in four of ten with the fast datapath: some of them behind NATs, some connected only with whom they were told of, some that
//! pass on no frames. It settles for ten seconds, and for 25 s a fault comes each second to each fourth or so, while pairs send each other
//! frames each 20 to 50 ms. Then
//!
//! - no frame comes twice, or comes back; none comes to whom it was not for, once the two routers have had the time to learn of each
//!   other's stations: before, frames go to all, as in any switch;
//! - no pair is silent for longer than three seconds, in either direction, while a path exists: a chain of at most two relays that
//!   pass on frames, whose links pass packets both ways and lose no more than 5 % one way. What broke and came back counts after 12 s
//!   (links), 16 s (routers) or 20 s (TCP), which is the longest that routers may take to find it again; and the hosts of the path must
//!   be joined by control connections, over whomever, as nobody else tells the source that a link of its relay died;
//! - no host sends more packets than its probes and its frames need.
//!
//! `make sim-large` goes through 10 000 runs (`WEFT_RUNS`), on all cores. `WEFT_SEED=n` repeats one.

#[path = "faults/events.rs"]
mod events;
#[path = "faults/oracle.rs"]
mod oracle;
#[path = "faults/trial.rs"]
mod trial;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use trial::Outcome;

use super::{MILLISECOND, Mesh, SECOND, fast, frame, station, station_address};

/// Runs that a test which runs with all others can afford.
const USUAL: u64 = 32;
/// How often it is told how far many of them are.
const PROGRESS: u64 = 500;
/// Failures that are told at length.
const TOLD_MAX: usize = 8;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|value| value.parse().ok())
}

/// Goes through the runs of these seeds, on all cores; what came of them, and the seeds that failed with the reasons.
#[expect(clippy::print_stdout, reason = "who waits for many runs sees how far they are")]
fn run_all(seeds: std::ops::Range<u64>) -> (Outcome, Vec<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let done = Mutex::new((Outcome::default(), Vec::new()));
    let started = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let result = thread::Builder::new().spawn(move || trial::run(seed)).map(thread::JoinHandle::join);
            let result = result.unwrap().unwrap_or_else(|_| Err(format!("WEFT_SEED={seed}: a panic")));
            let mut done = done.lock().unwrap();
            match result {
                Ok(outcome) => done.0.add(&outcome),
                Err(reason) => {
                    if done.1.len() < TOLD_MAX {
                        println!("{reason}");
                    }
                    done.1.push((seed, reason));
                }
            }
            let runs = done.0.runs + done.1.len() as u64;
            if runs.is_multiple_of(PROGRESS) {
                println!("{runs} runs in {:.0?}, {} failed, {:?}", started.elapsed(), done.1.len(), done.0);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    done.into_inner().unwrap()
}

#[test]
fn whatever_breaks_no_frame_comes_twice_and_none_is_long_in_coming_while_a_path_exists() {
    let seeds = match (number("WEFT_RUNS"), number("WEFT_SEED")) {
        (Some(runs), first) => first.unwrap_or(0)..first.unwrap_or(0) + runs,
        (None, Some(seed)) => seed..seed + 1,
        (None, None) => 0..USUAL,
    };
    let started = Instant::now();
    let (outcome, failed) = run_all(seeds);
    println!("in {:.1?}: {outcome:#?}", started.elapsed());
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "these seeds failed: {seeds:?}; the first: {}", failed[0].1);
    // Else nothing was tried.
    let is_tried = outcome.promised * 3 > outcome.looks && outcome.longest > SECOND / 2;
    assert!(outcome.runs < USUAL || (is_tried && outcome.faults > outcome.runs * 8), "{outcome:#?}");
}
