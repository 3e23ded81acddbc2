//! `weft launch`: `weft router` in the background, and the wait until it is ready.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use clap::ArgMatches;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft_plugin::client::{Client, ClientError};
use weft_router::Config;
use zeroize::Zeroizing;

use crate::{
    cli::Globals, flags::RouterFlags, handover, output, password::Source, process::Process, settings::Settings,
};

/// After this long people want to know what is being waited for.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// A router that is not ready by then never will be.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often the router is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// The log and the one set aside before it, in the run directory.
pub(crate) const LOGS: [&str; 2] = ["weft.log", "weft.log.1"];
/// An old log above this size in bytes is set aside.
const LOG_MAX: u64 = 8 << 20;
/// Lines of the log that are shown when a start failed, and the bytes looked at for them.
const SHOWN_LINES: usize = 15;
const SHOWN_BYTES: u64 = 16 << 10;

/// Starts the router in the background and returns when it is ready.
pub(crate) fn launch(flags: RouterFlags, globals: Globals, matches: &ArgMatches) -> anyhow::Result<()> {
    handover::scrub(&flags, matches)?;
    let settings = Settings::gather(flags, &globals)?;
    let run_dir = settings.config().run_dir.clone();
    let client = Client::new(Config::socket_path(&run_dir));
    refuse_second(&client, &run_dir)?;
    // Only standard input cannot be read twice: all else the router reads itself.
    let secret = match &settings.password {
        Some(source @ Source::Stdin) => Some(source.read()?),
        Some(Source::Text(..) | Source::File(_)) | None => None,
    };
    let (log, path) = open_log(&run_dir)?;
    let start = log.metadata().map_or(0, |metadata| metadata.len());
    let mut child = spawn(matches, secret, log)?;
    let why = match wait(&mut child, &client) {
        Ok(()) => {
            return output::line(format_args!("Weft is running (pid {}); its log is {}", child.id(), path.display()));
        }
        Err(why) => why,
    };
    // Ours, and of no use.
    if let Ok(pid) = i32::try_from(child.id())
        && matches!(child.try_wait(), Ok(None))
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    bail!("{why}. The end of {}:\n{}", path.display(), tail(&path, start))
}

fn refuse_second(client: &Client, run_dir: &Path) -> anyhow::Result<()> {
    let process = Process::of(run_dir);
    if let (Err(ClientError::NotRunning(_)), None) = (client.ready(), process) {
        return Ok(());
    }
    let pid = process.map(|process| format!(" (pid {})", process.pid())).unwrap_or_default();
    bail!("Weft is already running{pid}; you can stop it with `weft stop`")
}

fn open_log(run_dir: &Path) -> anyhow::Result<(File, PathBuf)> {
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make {}: are you root?", run_dir.display()))?;
    let [path, aside] = LOGS.map(|name| run_dir.join(name));
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_MAX) {
        fs::rename(&path, aside).with_context(|| format!("cannot set {} aside", path.display()))?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    Ok((log.with_context(|| format!("cannot write {}: are you root?", path.display()))?, path))
}

fn spawn(matches: &ArgMatches, secret: Option<Zeroizing<String>>, log: File) -> anyhow::Result<Child> {
    let mut command = handover::command(&["router", "--background"], matches, secret.is_some());
    command.stdout(log.try_clone()?).stderr(log);
    command.stdin(if secret.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().context("cannot start the router")?;
    if let (Some(secret), Some(mut stdin)) = (secret, child.stdin.take()) {
        // When the router is gone before it reads, its log says more than a broken pipe does.
        let _ = stdin.write_all(secret.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
    }
    Ok(child)
}

fn wait(child: &mut Child, client: &Client) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut said = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(anyhow!("Weft did not start ({status})"));
        }
        if client.ready().is_ok() {
            return Ok(());
        }
        if start.elapsed() > READY_WITHIN {
            return Err(anyhow!("Weft was not ready after {} s and is stopped again", READY_WITHIN.as_secs()));
        }
        if !said && start.elapsed() > SAY_AFTER {
            output::progress("Waiting for the router to be ready…");
            said = true;
        }
        thread::sleep(POLL);
    }
}

/// The last lines that were written behind `start`.
fn tail(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = File::open(path)?;
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(start.max(end.saturating_sub(SHOWN_BYTES))))?;
        let mut bytes = Vec::new();
        log.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect::<String>()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_of_this_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.log");
        fs::write(&path, "old\none\ntwo\n").unwrap();
        assert_eq!(tail(&path, 4), "    one\n    two");
        assert_eq!(tail(&dir.path().join("none"), 0), "");
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        fs::write(&path, many).unwrap();
        assert_eq!(tail(&path, 0).lines().count(), SHOWN_LINES);
    }

    #[test]
    fn a_log_that_grew_large_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (log, path) = open_log(dir.path()).unwrap();
        log.set_len(LOG_MAX + 1).unwrap();
        let (log, _) = open_log(dir.path()).unwrap();
        assert_eq!(log.metadata().unwrap().len(), 0);
        assert!(path.with_extension("log.1").exists());
    }
}
