//! How long containers hear nothing when the kernel's path fails under load, and when it comes back: UDP of the fast datapath
//! is blocked on the path between two hosts, and healed, many times, under a datagram each millisecond in both directions.
//! `make bench-switching` runs it; it needs root and a quiet machine.
//!
//! Read from the environment: `BENCH_TRIALS` (50; one takes about six seconds), `BENCH_OUT` (a file that gets one JSON line
//! for each trial appended), `WEFT_BIN`.

mod switching {
    pub(super) mod pair;
    pub(super) mod trial;
}

use std::{env, fs::OpenOptions, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use weft_integration::{bench, demo::screen, spread::Spread};

use switching::{pair::Pair, trial::Trial};

/// Trials after which progress is told.
const PROGRESS: u32 = 10;

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<bool> {
    let count = bench::number("BENCH_TRIALS", 50, 1..=10_000)?;
    screen::line(format_args!("{count} trials, a datagram each millisecond in both directions; {}", bench::load()?))?;
    let pair = Pair::up()?;
    let mut all = Vec::new();
    for number in 1..=count {
        let trial = Trial::run(&pair, number).with_context(|| format!("trial {number}{}", pair.diagnosis()))?;
        record(number, &trial)?;
        all.push(trial);
        if number % PROGRESS == 0 {
            screen::line(format_args!("{number} of {count} done"))?;
        }
    }
    let spread = |value: fn(&Trial) -> f64| Spread::of(all.iter().map(value));
    screen::line(Spread::HEAD)?;
    screen::line(spread(|trial| trial.left.silence_ms).line("to the sleeve: longest silence, ms"))?;
    screen::line(spread(|trial| trial.left.lost.into()).line("to the sleeve: datagrams lost"))?;
    screen::line(spread(|trial| trial.back.silence_ms).line("to fastdp: longest silence, ms"))?;
    screen::line(spread(|trial| trial.back.lost.into()).line("to fastdp: datagrams lost"))?;
    screen::line(spread(|trial| trial.back.after_ms).line("to fastdp: after the healing, ms"))?;
    screen::line(bench::load()?)?;
    Ok(true)
}

fn record(number: u32, trial: &Trial) -> Result<()> {
    let Some(path) = env::var_os("BENCH_OUT").filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(()) };
    // cargo runs benches elsewhere than where it was called.
    ensure!(path.is_absolute(), "BENCH_OUT is {path:?}: give the whole path, from / on");
    let mut file =
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
    let line = serde_json::json!({"trial": number, "to_sleeve": trial.left, "to_fastdp": trial.back});
    writeln!(file, "{line}").with_context(|| path.display().to_string())
}
