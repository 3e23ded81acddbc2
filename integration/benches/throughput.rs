//! What Weft costs: its fast datapath and its sleeve beside plain Ethernet and the kernel's VXLAN made by hand, on the same
//! kind of hosts, in interleaved rounds. `make bench` runs it; it needs root and a quiet machine.
//!
//! With `BENCH_UML` set all of it runs in a User-Mode-Linux guest, for its kernel: Weft's ESP beside states and policies made by
//! hand, with one lane, two and four, and Weft's Open vSwitch beside flows made by hand. `make bench-uml` does so.
//!
//! Read from the environment: `BENCH_SECONDS` (of each TCP run, 5), `BENCH_ROUNDS` (3), `BENCH_UNDERLAY` (`veth`: runs of
//! segments pass the wire whole; `nicish`: cut to the MTU before the wire, as by a network card without UDP
//! segmentation), `BENCH_ONLY` (names of candidates with commas between them, as `vxlan-1340,fastdp`; what is measured only when
//! it is named: `sleeve-9000`, `sleeve-plain`, `sleeve-relay`, `sleeve-slow`), `BENCH_LOADS` (names of loads: `tcp-1`, `tcp-4`, `udp-64`,
//! `udp-1200`, `udp-1400`, `ping`, `ping-loaded`, `idle`), `BENCH_OUT` (a file that gets one JSON line for each measurement appended), `WEFT_BIN`.

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

use std::{env, ffi::OsString, io, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use weft_integration::{
    bench,
    demo::screen,
    lab::wait::SLOWNESS,
    uml::{self, Ended, Guest},
};

use throughput::{candidate::Candidate, measure, options::Options, table};

/// Names whether to measure in a guest.
const IN_GUEST: &str = "BENCH_UML";
/// For a guest: as a test's, and longer than any number of rounds that somebody waits for.
const GUEST_SLOWNESS: &str = "4";
const GUEST_LIMIT: Duration = Duration::from_secs(4 * 3600);

fn main() -> ExitCode {
    bench::main(run)
}

/// Runs this program in a guest.
fn run_guest() -> Result<bool> {
    if let Some(missing) = uml::missing() {
        screen::line(format_args!("SKIPPED: NOTHING IS MEASURED IN A USER-MODE-LINUX KERNEL: {missing}"))?;
        return Ok(true);
    }
    let own = env::current_exe().context("where this program is")?;
    let mut guest = Guest::new(GUEST_LIMIT).env(SLOWNESS, GUEST_SLOWNESS);
    if let Some(out) = env::var_os("BENCH_OUT").filter(|path| !path.is_empty()) {
        guest = guest.writable(Path::new(&out).parent().context("BENCH_OUT is in a directory")?);
    }
    let command: [OsString; 2] = [own.into(), bench::WORKER.into()];
    match guest.run(&command, &mut io::stdout(), &mut io::stderr())? {
        Ended::Status(status) => Ok(status == 0),
        Ended::TimedOut(console) | Ended::Died(console) => bail!("the guest ended before its time: {console}"),
    }
}

fn run() -> Result<bool> {
    let is_wanted = env::var_os(IN_GUEST).is_some_and(|value| !value.is_empty());
    if is_wanted && !uml::is_here() { run_guest() } else { measured() }
}

fn measured() -> Result<bool> {
    let options = Options::from_environment()?;
    screen::line(bench::machine()?)?;
    screen::line(&options)?;
    let candidates = Candidate::all(&options)?;
    let outcome = measure::rounds(&candidates, &options);
    if outcome.is_err() {
        candidates.iter().try_for_each(|candidate| screen::line(candidate.diagnosis()))?;
    }
    screen::line(table::of(&outcome?))?;
    screen::line(bench::load()?)?;
    Ok(true)
}
