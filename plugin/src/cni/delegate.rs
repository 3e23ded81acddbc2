//! Another plugin, run with the same configuration and environment (specification 1.1.0, section 4).

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    call::{self, Verb},
    failure::{Code, Failure},
    outcome::Outcome,
    session::Session,
};

/// How long a plugin for addresses may take: one may ask over the network.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// Has the plugin for addresses do `verb`.
pub(super) fn run(session: &Session<'_>, verb: Verb) -> Result<String, Failure> {
    let program = find(session)?;
    let failed = |error| Failure::new(Code::Io, format!("cannot run {}", program.display())).with(error);
    let mut child = Command::new(&program)
        .env_clear()
        .envs(session.env)
        .env("CNI_COMMAND", verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (answer, in_time) = converse(&mut child, &session.config.text);
    let status = child.wait().map_err(failed)?;
    if !in_time {
        let msg = format!("{} did not end within {} s", program.display(), PATIENCE.as_secs());
        return Err(Failure::new(Code::TryAgain, msg));
    }
    if status.success() {
        return Ok(answer);
    }
    Err(serde_json::from_str(&answer).unwrap_or_else(|_| {
        let msg = format!("{} {}: {status}", program.display(), verb.as_str());
        Failure::new(Code::Delegate, msg).with(answer.trim())
    }))
}

/// The result of the plugin's ADD.
pub(super) fn add(session: &Session<'_>) -> Result<Outcome, Failure> {
    let answer = run(session, Verb::Add)?;
    let value = serde_json::from_str(&answer).map_err(|error| {
        let kind = &session.config.fields.ipam.kind;
        Failure::new(Code::Decode, format!("the result of {kind} cannot be read")).with(error)
    })?;
    Outcome::read(&value)
}

/// Gives a process its input and takes its output; says whether it ended in time. One that does not is killed.
fn converse(child: &mut Child, input: &[u8]) -> (String, bool) {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let pid = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let (ended, watched) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            // It may not want to hear all.
            let _ = stdin.map(|mut stdin| stdin.write_all(input));
        });
        let watch = scope.spawn(move || {
            let overdue = watched.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
            if let Some(pid) = pid.filter(|_| overdue) {
                // Not waited for yet, so this is still its number.
                let _ = kill(pid, Signal::SIGKILL);
            }
            !overdue
        });
        let mut answer = Vec::new();
        // What was read before an error is all there is.
        let _ = stdout.map(|stdout| stdout.take(ANSWER_MAX).read_to_end(&mut answer));
        drop(ended);
        (String::from_utf8_lossy(&answer).into_owned(), watch.join().unwrap_or(false))
    })
}

fn find(session: &Session<'_>) -> Result<PathBuf, Failure> {
    let kind = &session.config.fields.ipam.kind;
    let directories = call::path(session.env);
    if directories.is_empty() {
        return Err(Failure::new(Code::InvalidEnvironment, format!("CNI_PATH is not set, where {kind} would be")));
    }
    let found = directories.iter().map(|directory| directory.join(kind)).find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::new(
            Code::InvalidConfig,
            format!("no plugin {kind} for addresses in {directories:?}, which is CNI_PATH"),
        )
    })
}
