//! What plugging a container in and out costs by CNI: `weft-net` beside the reference plugin `bridge`, both with `host-local` for
//! addresses, and with the network's own where the router gives out addresses; hundreds of containers on each host, in turns.
//! `make bench-cni` runs it; it needs root and a quiet machine.
//!
//! Read from the environment: `BENCH_PODS` (500), `BENCH_OUT` (a file that gets one JSON line for each call appended), `WEFT_BIN`.

use std::{env, fs::OpenOptions, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_integration::{
    bench,
    demo::screen,
    lab::{
        Lab,
        cni::{Pod, Runtime},
    },
    spread::Spread,
};

/// Calls that the first and the last line of each table are about.
const SLICE: usize = 50;

/// One plugin on a host of its own.
struct Candidate {
    name: &'static str,
    runtime: Runtime,
    pods: Vec<Pod>,
    /// Milliseconds of each call, in order.
    adds: Vec<f64>,
    dels: Vec<f64>,
}

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<bool> {
    let count = bench::number("BENCH_PODS", 500, 1..=2000)? as usize;
    screen::line(format_args!("{count} containers on each host; {}", bench::load()?))?;
    let lab = Lab::new()?;
    let mut candidates = candidates(&lab)?;
    for number in 0..count {
        for candidate in &mut candidates {
            let pod = candidate.runtime.pod(number)?;
            let answer = candidate.runtime.call("ADD", &pod)?;
            candidate.adds.push(answer.took.as_secs_f64() * 1e3);
            answer.result().with_context(|| format!("{} ADD {number}", candidate.name))?;
            candidate.pods.push(pod);
        }
    }
    for number in 0..count {
        for candidate in &mut candidates {
            let answer = candidate.runtime.call("DEL", &candidate.pods[number])?;
            candidate.dels.push(answer.took.as_secs_f64() * 1e3);
            answer.result().with_context(|| format!("{} DEL {number}", candidate.name))?;
        }
    }
    screen::line(format_args!("\n{:<44}{:>9}{:>9}{:>9}{:>9}", "milliseconds", "p50", "p90", "p99", "max"))?;
    for candidate in &candidates {
        show(candidate.name, "ADD", &candidate.adds)?;
    }
    for candidate in &candidates {
        show(candidate.name, "DEL", &candidate.dels)?;
    }
    candidates.iter().try_for_each(record)?;
    screen::line(bench::load()?)?;
    Ok(true)
}

fn candidates(lab: &Lab) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for (name, number, keys) in [
        ("weft-net + host-local", 1, json!({ "type": "weft-net" })),
        (
            "bridge + host-local",
            2,
            json!({ "type": "bridge", "bridge": "br-cni", "isGateway": true, "hairpinMode": true }),
        ),
        ("weft-net, the network's own addresses", 3, json!({ "type": "weft-net", "cniVersion": "1.1.0", "ipam": {} })),
    ] {
        let host = lab.host(&format!("H{number}"))?;
        host.launch::<&str>(&[])?;
        let ipam = json!({ "type": "host-local", "dataDir": host.dir().join("ipam"),
                           "ranges": [[{ "subnet": "10.32.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] });
        let runtime = Runtime::new(&host)?.with(&json!({ "cniVersion": "1.0.0", "ipam": ipam })).with(&keys);
        if number == 3 && runtime.ask("STATUS")?.code() != 0 {
            screen::line("the router gives out no addresses: not measured with its own")?;
            continue;
        }
        candidates.push(Candidate { name, runtime, pods: Vec::new(), adds: Vec::new(), dels: Vec::new() });
    }
    Ok(candidates)
}

fn show(name: &str, verb: &str, took: &[f64]) -> Result<()> {
    let slice = SLICE.min(took.len());
    let (first, last) = (&took[..slice], &took[took.len() - slice..]);
    for (which, values) in [("all", took), ("first", first), ("last", last)] {
        let spread = Spread::of(values.iter().copied());
        let cells = [50, 90, 99, 100].map(|percent| format!("{:>9.1}", spread.quantile(percent)));
        screen::line(format_args!("{:<44}{}", format!("{verb} {name}, {which} {}", values.len()), cells.concat()))?;
    }
    Ok(())
}

fn record(candidate: &Candidate) -> Result<()> {
    let Some(path) = env::var_os("BENCH_OUT").filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(()) };
    // cargo runs benches elsewhere than where it was called.
    ensure!(path.is_absolute(), "BENCH_OUT is {path:?}: give the whole path, from / on");
    let mut file =
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
    for (verb, took) in [("ADD", &candidate.adds), ("DEL", &candidate.dels)] {
        for (number, milliseconds) in took.iter().enumerate() {
            let line = json!({ "plugin": candidate.name, "verb": verb, "number": number, "ms": milliseconds });
            writeln!(file, "{line}").with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
