//! `weft stop`.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use nix::sys::signal::Signal;
use weft_plugin::client::{Client, ClientError};
use weft_router::Config;

use crate::{cli::Dirs, output, process::Process};

/// How long a router may take to say goodbye, and again after each signal.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is tried whether a router still answers.
const POLL: Duration = Duration::from_millis(50);

/// Stops the router; well too if there is none.
pub(crate) fn stop(dirs: &Dirs) -> anyhow::Result<()> {
    if end(dirs, "/stop")? { Ok(()) } else { output::line("Weft is not running") }
}

/// Asks the router by `call` to end, and sees to it that it does; whether there was one.
pub(crate) fn end(dirs: &Dirs, call: &str) -> anyhow::Result<bool> {
    let process = Process::of(&dirs.run);
    let client = Client::new(Config::socket_path(&dirs.run));
    let asked = client.tell(call, &serde_json::json!({}));
    match (asked, process) {
        (Err(ClientError::NotRunning(_)), None) => return Ok(false),
        (Err(error), None) => return Err(error.into()),
        // Its pid file is gone, or its pid is of another pid namespace.
        (Ok(()), None) => await_silence(&client)?,
        (Ok(()), Some(process)) if process.ends_within(PATIENCE) => {}
        (Ok(()) | Err(_), Some(process)) => force(process)?,
    }
    Ok(true)
}

fn await_silence(client: &Client) -> anyhow::Result<()> {
    let start = Instant::now();
    while !matches!(client.ready(), Err(ClientError::NotRunning(_))) {
        ensure!(
            start.elapsed() < PATIENCE,
            "the router was told to end but still answers, and its process is not known"
        );
        thread::sleep(POLL);
    }
    Ok(())
}

fn force(process: Process) -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        process.signal(signal);
        if process.ends_within(PATIENCE) {
            return Ok(());
        }
    }
    bail!("the router (pid {}) does not end, not even by SIGKILL: the kernel's log may say why", process.pid())
}
