//! Programs that the lab runs: always with a deadline, and with errors that say what was run and what it said.

use std::{
    ffi::{OsStr, OsString},
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{namespace::Namespace, wait::patience};

/// Long enough for any set-up command on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// After a program's end, for the rest of its output; more means that a process it left holds its output open.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);

/// A program to run.
#[derive(Clone, Debug)]
pub struct Run {
    namespace: Option<Namespace>,
    words: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Option<String>,
    deadline: Duration,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// What was run, for messages.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it printed.
    pub stdout: String,
    /// All that it complained.
    pub stderr: String,
}

impl Run {
    /// The program `program`, in the caller's namespace.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let words = vec![program.as_ref().to_owned()];
        Self { namespace: None, words, env: Vec::new(), input: None, deadline: DEADLINE }
    }

    /// The program `program` in the network namespace `namespace`, with a /sys that fits it.
    pub fn inside(namespace: &Namespace, program: impl AsRef<OsStr>) -> Self {
        Self { namespace: Some(namespace.clone()), ..Self::new(program) }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.words.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// What the program reads.
    #[must_use]
    pub fn input(mut self, input: impl Into<String>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// When to kill it, if not after a minute.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it, whatever its exit status.
    pub fn output(&self) -> Result<Done> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), &self.input) {
            stdin.write_all(input.as_bytes()).or_else(ignore_broken_pipe).with_context(|| self.to_string())?;
        }
        let (stdout, stderr) = (read_aside(child.stdout.take()), read_aside(child.stderr.take()));
        let status = self.wait(&mut child)?;
        let rest = |output: mpsc::Receiver<String>| {
            output
                .recv_timeout(patience(OUTPUT_GRACE))
                .with_context(|| format!("`{self}` ended, but a process it started holds its output open"))
        };
        Ok(Done { command: self.to_string(), status, stdout: rest(stdout)?, stderr: rest(stderr)? })
    }

    /// Runs it; anything but success is an error. The result is what it printed.
    pub fn checked(&self) -> Result<String> {
        self.output()?.checked()
    }

    /// Starts it and leaves it running.
    pub fn spawn(&self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Result<Child> {
        let (program, args) = self.words.split_first().context("a program to run")?;
        let mut command = Command::new(program);
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() }).stdout(stdout).stderr(stderr);
        let started = match &self.namespace {
            // A process is born where the thread is that starts it.
            Some(namespace) => namespace.within(move || {
                show_own_sys()?;
                Ok(command.spawn()?)
            }),
            None => command.spawn().map_err(Into::into),
        };
        started.with_context(|| format!("`{self}` did not start; `make deps` installs what the lab needs"))
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let (started, deadline) = (Instant::now(), patience(self.deadline));
        loop {
            if let Some(status) = child.try_wait().with_context(|| self.to_string())? {
                return Ok(status);
            }
            if started.elapsed() > deadline {
                child.kill().and_then(|()| child.wait()).with_context(|| self.to_string())?;
                bail!("`{self}` did not end within {deadline:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Done {
    /// What was printed, if the program succeeded.
    pub fn checked(self) -> Result<String> {
        if !self.status.success() {
            bail!("`{}`: {}\n{}{}", self.command, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// What was complained, if the program failed with an exit code, as a program that was told something wrong does.
    pub fn refused(self) -> Result<String> {
        if self.status.success() || self.status.code().is_none() {
            bail!("`{}` should fail, but: {}\n{}{}", self.command, self.status, self.stdout, self.stderr);
        }
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.words.iter().map(|word| word.to_string_lossy()).collect();
        if let Some(namespace) = &self.namespace {
            write!(f, "ip netns exec {} ", namespace.name())?;
        }
        f.write_str(&words.join(" "))
    }
}

/// Shows this thread, and what it starts, the devices of its network namespace in /sys, as `ip netns exec` does.
fn show_own_sys() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of its own")?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).context("to keep mounts to itself")?;
    // Where nothing is mounted, nothing hides what is mounted now.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mounting /sys")
}

fn ignore_broken_pipe(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn read_aside(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let error = Run::new("sh").args(["-c", "echo no >&2; exit 3"]).checked().unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("exit status: 3") && error.contains("no"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let error = Run::new("sleep").arg("60").deadline(Duration::from_millis(50)).output().unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
    }

    #[test]
    fn input_is_read_and_output_is_given() {
        assert_eq!(Run::new("cat").input("abc").checked().unwrap(), "abc");
    }
}
