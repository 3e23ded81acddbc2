//! How long it takes to be given an address: of a router's own space, and of another router's, which first gives some of its.
//! Through the HTTP API of real routers, with each answer on the disk. `make bench-allocation` runs it; it needs root.
//!
//! Read from the environment: `BENCH_TRIALS` (500), `WEFT_BIN`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;
use weft_integration::{
    bench,
    demo::screen,
    lab::{Lab, host::Host, wait::wait_for},
};

/// For routers to find each other.
const SETTLING: Duration = Duration::from_secs(20);
/// Smallest subnets, of two usable addresses: one of the other router's for each donation.
const SUBNET: u8 = 30;

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<bool> {
    let trials = bench::number("BENCH_TRIALS", 500, 1..=10_000)?;
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["A", "B"])?;
    a.launch::<&str>(&[])?;
    allocate(&a, "first", None)?;
    b.launch(&[a.v4().to_string()])?;
    wait_for("they are connected", SETTLING, || a.expect_established("B"))?;
    let donated = measure(trials, |number| allocate(&b, &format!("far{number}"), Some(subnet(number))))?;
    let local = measure(trials, |number| allocate(&a, &format!("near{number}"), None))?;
    let freed = measure(trials, |number| a.post("/ipam/free", &json!({ "owner": format!("near{number}") })).map(drop))?;
    screen::line("ms                    p50     p99     max")?;
    for (what, times) in [("allocate, own space", local), ("allocate, by donation", donated), ("free", freed)] {
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        screen::line(format_args!("{what:21} {:7.2} {:7.2} {:7.2}", at(0.5), at(0.99), at(1.0)))?;
    }
    Ok(true)
}

/// How long each takes, in order of length.
fn measure(trials: u32, mut work: impl FnMut(u32) -> Result<()>) -> Result<Vec<Duration>> {
    let timed = |number| {
        let started = Instant::now();
        work(number)?;
        Ok(started.elapsed())
    };
    let mut times = (0..trials).map(timed).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times)
}

fn allocate(host: &Host, owner: &str, subnet: Option<String>) -> Result<()> {
    let subnets: Vec<String> = subnet.into_iter().collect();
    host.post("/ipam/allocate", &json!({ "owner": owner, "subnets": subnets })).map(drop)
}

/// A subnet of its own for each number, in the half of the default range that the first router keeps.
fn subnet(number: u32) -> String {
    let at = (10 << 24) + (40 << 16) + number * (1 << (32 - u32::from(SUBNET)));
    format!("{}/{SUBNET}", std::net::Ipv4Addr::from(at))
}
