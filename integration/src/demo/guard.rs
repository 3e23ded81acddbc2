//! One process that works and one that watches it: so that nothing stays behind, however the work ends.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, killpg},
    },
    unistd::Pid,
};

use super::screen;
use crate::lab::sweep;

/// Signals that the watching process waits for, the end of its child among them.
const AWAITED: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD];

/// Runs this program with `args`, ends it when we are told to end, and calls `clear_up` when it is gone.
pub fn watch(args: &[&str], clear_up: fn(bool) -> Result<()>) -> Result<ExitCode> {
    let awaited = SigSet::from_iter(AWAITED);
    awaited.thread_block()?;
    let own = std::env::current_exe().context("where this program is")?;
    // In a group of its own: Ctrl-C reaches us alone, and we reach all that it runs.
    let mut child = Command::new(own).args(args).process_group(0).spawn()?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let status = loop {
        let signal = awaited.wait()?;
        if signal == Signal::SIGCHLD {
            if let Some(status) = child.try_wait()? {
                break Ok(status);
            }
        } else {
            screen::line(format_args!("\ninterrupted by {signal}: clearing up"))?;
            killpg(group, Signal::SIGKILL)?;
            child.wait()?;
            break Err(signal);
        }
    };
    clear_up(status.is_ok_and(|status| status.success()))?;
    Ok(exit_code(status))
}

/// The worker's side: does `work`, and dies with the process that watches it.
pub fn watched(work: fn() -> Result<bool>) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // A child inherits what is blocked; the programs that we run are to be ended by signals.
    SigSet::from_iter(AWAITED).thread_unblock()?;
    work().map(|well| if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes the lab of the worker, which is dead.
pub fn sweep_leftovers(_well: bool) -> Result<()> {
    sweep::leftovers()
}

/// As shells do: 128 and the signal.
fn exit_code(status: Result<ExitStatus, Signal>) -> ExitCode {
    let code = match status {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        Err(signal) => u8::try_from(128 + signal as i32).unwrap_or(1),
    };
    ExitCode::from(code)
}
