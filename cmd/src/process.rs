//! The router's process as others see it: its pid file, whether it lives, how to end it.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft_router::Config;

use crate::settings::read_bounded;

/// How often a process is looked at while waiting for its end.
const POLL: Duration = Duration::from_millis(20);
/// Longest pid file read, in bytes.
const PID_FILE_MAX: u64 = 64;

/// A router's process that was alive when we looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process(Pid);

impl Process {
    /// The process that the pid file in `run_dir` names, if it is alive and a router.
    pub(crate) fn of(run_dir: &Path) -> Option<Self> {
        let text = read_bounded(&Config::pid_path(run_dir), PID_FILE_MAX).ok()?;
        let process = Self(Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 0)?));
        process.is_router().then_some(process)
    }

    /// Its process id.
    pub(crate) fn pid(self) -> i32 {
        self.0.as_raw()
    }

    /// Waits for its end, at most for `patience`; whether it came.
    pub(crate) fn ends_within(self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.is_router() {
            if start.elapsed() > patience {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// Sends a signal, unless the process has ended and its number means another one now.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_router() {
            // It may end in between, which is what is wanted.
            let _ = kill(self.0, signal);
        }
    }

    /// Whether it is alive, and a router rather than something that got its number.
    fn is_router(self) -> bool {
        let proc = Path::new("/proc").join(self.0.to_string());
        let arguments = fs::read(proc.join("cmdline")).unwrap_or_default();
        // The command line of a process that is dead but not yet reaped is empty.
        arguments.split(|byte| *byte == 0).any(|argument| argument == b"router")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_number_that_means_another_process_is_no_router() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Process::of(dir.path()), None);
        for text in ["", "x", "-1", "0", "999999999", &std::process::id().to_string()] {
            fs::write(Config::pid_path(dir.path()), text).unwrap();
            assert_eq!(Process::of(dir.path()), None, "{text}");
        }
    }

    #[test]
    fn a_router_is_found_and_its_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            Command::new("sh").args(["-c", "read line", "router"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        fs::write(Config::pid_path(dir.path()), format!("{}\n", child.id())).unwrap();
        let process = loop {
            // Until the child is what it is to be.
            if let Some(process) = Process::of(dir.path()) {
                break process;
            }
        };
        assert!(!process.ends_within(Duration::from_millis(1)));
        process.signal(Signal::SIGTERM);
        assert!(process.ends_within(Duration::from_secs(5)));
        child.wait().unwrap();
    }
}
