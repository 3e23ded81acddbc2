//! Queries for names: how many a second, and how long each takes, of Weft's name server and of dnsmasq with the same names, in
//! one network namespace, asked from one container. `make bench-names` runs it; it needs root, dnsmasq and a quiet machine.
//!
//! Read from the environment: `BENCH_SECONDS` (3), the length of each run; `BENCH_ROUNDS` (5); `WEFT_BIN`.

mod names {
    pub(super) mod dnsmasq;
    pub(super) mod load;
}

use std::{net::Ipv4Addr, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use weft_integration::{
    bench,
    demo::screen,
    lab::{Lab, mesh::attached, resolver::Resolver, wait::wait_until},
};

use names::{
    dnsmasq::Dnsmasq,
    load::{Load, Measured},
};

/// Names in the zone; one in sixteen that are asked for is not there.
const NAMES: usize = 200;
/// Queries under way at once: one for the time of each, more for the number of all.
const WINDOWS: [usize; 3] = [1, 16, 128];
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<bool> {
    let (span, rounds) = (
        Duration::from_secs(bench::number("BENCH_SECONDS", 3, 1..=600)?.into()),
        bench::number("BENCH_ROUNDS", 5, 1..=600)?,
    );
    let lab = Lab::new()?;
    let host = lab.host("A")?;
    let (ours, theirs) = (Ipv4Addr::new(10, 32, 1, 1), Ipv4Addr::new(10, 32, 1, 2));
    let conf = lab.dir().join("resolv.conf");
    std::fs::write(&conf, "")?;
    host.launch(&[format!("--dns-listen={ours}"), format!("--resolv-conf={}", conf.display())])?;
    host.weft(&["expose", &format!("{ours}/16"), &format!("{theirs}/16")])?.checked()?;
    let container = attached(&host, "c1", 1)?;
    let zone: Vec<(String, Ipv4Addr)> =
        (0..NAMES).map(|n| (format!("n{n}.weft.local"), Ipv4Addr::from(0x0a20_0200 + n as u32))).collect();
    for (name, address) in &zone {
        host.weft(&["dns-add", name, &address.to_string()])?.checked()?;
    }
    let dnsmasq = Dnsmasq::start(host.namespace(), lab.dir(), theirs, &zone)?;
    for server in [ours, theirs] {
        let resolver = Resolver::new(container.namespace(), server);
        let look = || Ok(resolver.expect("n7.weft.local", domain::base::Rtype::A, &["10.32.2.7"]).is_ok());
        wait_until("both servers have all names", PATIENCE, look)?;
    }
    screen::line(format_args!("{NAMES} names, {rounds} rounds of {span:?}; {}", bench::load()?))?;
    let mut all: Vec<(usize, &str, Vec<Measured>)> = Vec::new();
    for window in WINDOWS {
        all.extend([("weft", Vec::new()), ("dnsmasq", Vec::new())].map(|(name, runs)| (window, name, runs)));
    }
    for _ in 0..rounds {
        for (window, name, runs) in &mut all {
            let server = if *name == "weft" { ours } else { theirs };
            runs.push(Load { server, window: *window, names: NAMES, span }.run(container.namespace())?);
        }
    }
    dnsmasq.stop()?;
    screen::line("| queries under way | server | queries/s | p50, µs | p99, µs | lost |")?;
    screen::line("|--:|---|--:|--:|--:|--:|")?;
    for (window, name, runs) in &all {
        let median = |value: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().context("a run")
        };
        let (rate, p50, p99) = (median(|m| m.rate)?, median(|m| m.p50_us)?, median(|m| m.p99_us)?);
        let lost: u64 = runs.iter().map(|run| run.lost).sum();
        screen::line(format_args!("| {window} | {name} | {rate:.0} | {p50:.0} | {p99:.0} | {lost} |"))?;
    }
    screen::line(bench::load()?)?;
    Ok(true)
}
