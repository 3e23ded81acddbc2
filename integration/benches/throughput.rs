//! What Weft costs: its fast datapath and its sleeve beside plain Ethernet and the kernel's VXLAN made by hand, on the same
//! kind of hosts, in interleaved rounds. `make bench` runs it; it needs root and a quiet machine.
//!
//! Read from the environment: `BENCH_SECONDS` (of each TCP run, 5), `BENCH_ROUNDS` (3), `BENCH_UNDERLAY` (`veth`: runs of
//! segments pass the wire whole; `nicish`: cut to the MTU before the wire, as by a network card without UDP
//! segmentation), `BENCH_ONLY` (names of candidates with commas between them, as `vxlan-1340,fastdp`), `BENCH_OUT` (a file
//! that gets one JSON line for each measurement appended), `WEFT_BIN`.

mod throughput {
    pub(super) mod candidate;
    pub(super) mod datagrams;
    pub(super) mod machine;
    pub(super) mod measure;
    pub(super) mod metric;
    pub(super) mod options;
    pub(super) mod stream;
    pub(super) mod table;
}

use std::process::ExitCode;

use anyhow::{Result, ensure};
use weft_integration::demo::{guard, screen};

use throughput::{candidate::Candidate, machine, measure, options::Options, table};

/// The argument of the process that works; the other one watches it.
const WORKER: &str = "measure";

fn main() -> ExitCode {
    // cargo adds `--bench`; nothing else is expected.
    let works = std::env::args().any(|arg| arg == WORKER);
    let result = if works { guard::watched(run) } else { guard::watch(&[WORKER], guard::sweep_leftovers) };
    result.unwrap_or_else(|error| {
        screen::complain(&error);
        ExitCode::FAILURE
    })
}

fn run() -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the bench makes network namespaces: run it as root");
    let options = Options::from_environment()?;
    screen::line(machine::description()?)?;
    screen::line(&options)?;
    let candidates = Candidate::all(&options)?;
    let outcome = measure::rounds(&candidates, &options);
    if outcome.is_err() {
        candidates.iter().try_for_each(|candidate| screen::line(candidate.diagnosis()))?;
    }
    screen::line(table::of(&outcome?))?;
    screen::line(machine::load()?)?;
    Ok(true)
}
