//! What all benches share: the process that measures and the one that watches it, and what is read from the environment.

use std::{env, fs, ops::RangeInclusive, process::ExitCode};

use anyhow::{Context, Result, ensure};

use crate::demo::{guard, screen};

/// The argument of the process that works; the other one watches it. In a guest the bench is called with it, too.
pub const WORKER: &str = "measure";

/// A bench's program: does `run`, whose result says whether all went well, and clears up however it ends.
pub fn main(run: fn() -> Result<bool>) -> ExitCode {
    // cargo adds `--bench`; nothing else is expected.
    let works = env::args().any(|arg| arg == WORKER);
    let result = if works { guard::watched(run) } else { guard::watch(&[WORKER], guard::sweep_leftovers) };
    result.unwrap_or_else(|error| {
        screen::complain(&error);
        ExitCode::FAILURE
    })
}

/// A number from the environment, `otherwise` if it is not there or empty.
pub fn number(variable: &str, otherwise: u32, possible: RangeInclusive<u32>) -> Result<u32> {
    let text = env::var(variable).unwrap_or_default();
    let number =
        if text.is_empty() { otherwise } else { text.parse().with_context(|| format!("{variable} is `{text}`"))? };
    let (least, most) = (possible.start(), possible.end());
    ensure!(possible.contains(&number), "{variable} is {number}: {least} to {most} is possible");
    Ok(number)
}

/// Processor, cores, kernel and load of the machine that is measured on.
pub fn machine() -> Result<String> {
    let read = |path| fs::read_to_string(path).context(path);
    let processors = read("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    Ok(format!("{model}, {cores} cores, Linux {}\n{}", kernel.trim(), load()?))
}

/// Load averages (proc(5)).
pub fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    Ok(format!("load {} now", text.split(' ').take(3).collect::<Vec<_>>().join(" ")))
}
