//! A User-Mode-Linux kernel to run one command in: as root, on the host's own files, with its output live and its status.
//!
//! ```text
//!   Guest::run ─ sh ─ setpriv ─ linux.uml ┬ root.sh    pid 1: the host's / read-only, memory over it
//!      ▲  ▲                               └ system.sh  devices, modules, the command, power off
//!      │  └──── pipes ◀─ serial lines 1, 2 ◀─ stdout, stderr
//!      └─ out/status
//! ```
//! The kernel is an ordinary process: no KVM, no privileges, and only its own loopback. It has what the host's kernel may
//! lack (ESP, Open vSwitch, netem), one CPU, a tick of 10 ms, and system calls 85 times as dear; of nftables only the bridge
//! family. Several may run at once. A library loaded before it (registers.c) lets it run on CPUs newer than it. It ends with the
//! thread that runs it, whatever way that ends; what remains of a killed one is removed by the next to start.

pub mod cli;
mod job;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        statvfs::statvfs,
    },
    unistd::Pid,
};

use job::Job;

/// Set to `1` in the guest.
pub const IN_GUEST: &str = "WEFT_UML";

/// Where Debian's package `user-mode-linux` puts the kernel and its modules.
const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
/// Programs that the guest's set-up runs, on either side.
const PROGRAMS: [&str; 8] = ["cc", "bash", "setpriv", "setsid", "mount", "modprobe", "ip", "pivot_root"];
/// The kernel's memory, most of which the host never gives: it counts when first written.
const MEMORY: u64 = 1 << 30;
/// Between SIGTERM, on which it clears up by itself, and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// Lines of the kernel's console in an error.
const CONSOLE_LINES: usize = 40;
/// File descriptors: 3 the console, 4 and 5 our pipes. The kernel's own words, on 1 and 2, go to a file. The pipes are made
/// for it alone, as it sets them non-blocking.
const START: &str = r#"exec 3>>"$0/console" 4>&1 5>&2 1>>"$0/words" 2>&1; exec setpriv --pdeathsig TERM -- "$@""#;

/// How to run a command in a guest.
#[derive(Clone, Debug)]
pub struct Guest {
    limit: Duration,
    writable: Vec<PathBuf>,
    env: Vec<(OsString, OsString)>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command ended, with this status; 128 and the signal if by one.
    Status(u8),
    /// The time limit passed; the guest was ended. With the last lines of its console.
    TimedOut(String),
    /// The guest did not start, panicked or was killed. With the last lines of its console.
    Died(String),
}

impl Guest {
    /// A guest that is given this long for all.
    pub fn new(limit: Duration) -> Self {
        Self { limit, writable: Vec::new(), env: Vec::new() }
    }

    /// What is written below `dir` is written on the host.
    #[must_use]
    pub fn writable(mut self, dir: impl Into<PathBuf>) -> Self {
        self.writable.push(dir.into());
        self
    }

    /// Sets a variable of the command's environment, which is otherwise ours, without TMPDIR.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Runs `command` there, in our working directory; what it prints goes to `stdout` and `stderr` as it comes.
    ///
    /// Fails when this machine cannot do it, see [`missing`]. A failure of the command is no error.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        command: &[S],
        stdout: &mut (dyn Write + Send),
        stderr: &mut (dyn Write + Send),
    ) -> Result<Ended> {
        if let Some(missing) = missing() {
            anyhow::bail!("no User-Mode Linux: {missing}");
        }
        let job = Job::new(command, &self.environment(), &self.writable)?;
        let mut running = Running::start(&job)?;
        let (out, err) = (running.0.stdout.take(), running.0.stderr.take());
        let ended = thread::scope(|scope| {
            scope.spawn(|| pass_on(out, stdout));
            scope.spawn(|| pass_on(err, stderr));
            let status = running.wait(Instant::now() + self.limit);
            // Whatever is left of it holds the pipes open.
            running.end();
            status
        })?;
        if let Some(status) = job.status() {
            return Ok(Ended::Status(status));
        }
        let console = job.console(CONSOLE_LINES);
        Ok(match ended {
            None => Ended::TimedOut(console),
            Some(status) => Ended::Died(format!("{status}\n{console}")),
        })
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let temporary = ["TMPDIR", "TEMP", "TMP"];
        let ours = std::env::vars_os().filter(|(name, _)| temporary.iter().all(|other| name != other));
        ours.chain(self.env.clone()).chain([(IN_GUEST.into(), "1".into())]).collect()
    }
}

/// Whether we are in a guest.
pub fn is_here() -> bool {
    std::env::var_os(IN_GUEST).is_some()
}

/// What this machine lacks to run a guest, in words for people.
pub fn missing() -> Option<String> {
    if is_here() {
        return Some("this is a guest already".to_owned());
    }
    if let Some(path) = [KERNEL, MODULES].iter().find(|path| !Path::new(path).exists()) {
        return Some(format!("no {path}; install the package user-mode-linux (`make deps`)"));
    }
    let program = PROGRAMS.iter().find(|program| !is_installed(program))?;
    Some(format!("no program {program} (`make deps` installs it)"))
}

/// Whether a program is where system programs are.
fn is_installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

/// The kernel at work; ended when dropped.
struct Running(Child);

impl Running {
    fn start(job: &Job) -> Result<Self> {
        let directory = job.path().display();
        let mut run = Command::new("sh");
        run.args(["-c", START]).arg(job.path()).arg(KERNEL);
        run.args(["quiet", "noreboot", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "umid=run"]);
        run.args(["con=null", "con0=null,fd:3", "ssl=null", "ssl1=null,fd:4", "ssl2=null,fd:5"]);
        run.arg(format!("mem={}M", MEMORY >> 20)).arg(format!("uml_dir={directory}"));
        run.arg(format!("init={directory}/root.sh"));
        run.arg(format!("weft_job={directory}")).arg(format!("weft_modules={MODULES}"));
        run.env("TMPDIR", memory_directory(job)).env("LD_PRELOAD", job.registers());
        run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run.spawn().map(Self).context("starting User-Mode Linux")
    }

    /// Waits for the end of its main process; None when `deadline` came first.
    fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends it with all its processes, which are a group: the main one makes itself a session's leader.
    fn end(&mut self) {
        let Ok(pid) = i32::try_from(self.0.id()).map(Pid::from_raw) else { return };
        if matches!(self.0.try_wait(), Ok(None)) {
            // Gone meanwhile, at worst.
            let _ = kill(pid, Signal::SIGTERM);
            let _ = self.wait(Instant::now() + GRACE);
        }
        // No group any more is the usual case.
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where the kernel keeps its memory: a file, best in memory itself; containers often have too little there.
fn memory_directory(job: &Job) -> PathBuf {
    let shared = Path::new("/dev/shm");
    let free = statvfs(shared).map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
    if free > MEMORY { shared.to_owned() } else { job.path().to_owned() }
}

/// Passes on what comes, as it comes, until the other end is closed.
fn pass_on(from: Option<impl Read>, to: &mut dyn Write) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 8192];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            Err(_) => {}
            // Who does not listen any more is no reason to block the guest.
            Ok(count) => drop(to.write_all(&buffer[..count]).and_then(|()| to.flush())),
        }
    }
}
