//! What the machine that is measured on was busy with.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Unit of times in /proc/stat (proc(5): sysconf(_SC_CLK_TCK) is 100 on all Linux).
const TICK: Duration = Duration::from_millis(10);

/// CPU time that all of the machine spent so far, the kernel's work for interrupts included (proc(5), /proc/stat).
pub(crate) fn busy() -> Result<Duration> {
    let text = read("/proc/stat")?;
    let line = text.lines().next().context("the first line of /proc/stat")?;
    let times = line.split_whitespace().skip(1).map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    // user nice system (idle iowait) irq softirq
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|index| times.get(*index)).sum();
    Ok(TICK * u32::try_from(busy)?)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}
