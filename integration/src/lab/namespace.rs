//! A network namespace with a name in /run/netns: made, entered by threads, emptied of processes, removed.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::command::Run;

/// Where iproute2 keeps the names.
pub const NAMES: &str = "/run/netns";

/// A named network namespace; removed by the sweep of its lab, not by drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with loopback up.
    pub fn create(name: &str) -> Result<Self> {
        Run::new("ip").args(["netns", "add", name]).checked()?;
        let namespace = Self::existing(name);
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// One that exists already.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs lines of `ip` commands in it.
    pub fn ip(&self, lines: &str) -> Result<()> {
        Run::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .input(lines)
            .checked()
            .with_context(|| format!("in namespace {}:\n{lines}", self.name))
            .map(drop)
    }

    /// A program to run in it.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::inside(self, program)
    }

    /// Does `work` on a thread of its own inside; sockets that it opens are of this namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let path = self.path();
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        Ok(thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))?;
            work()
        }))
    }

    /// Does `work` inside and waits for it.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        join(self.spawn(work)?)
    }

    /// Sets a kernel parameter below /proc/sys/net.
    pub fn sysctl(&self, key: &'static str, value: &'static str) -> Result<()> {
        self.within(move || fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("{key}={value}")))
    }

    /// Processes that run in it.
    pub fn processes(&self) -> Vec<Pid> {
        let Ok(own) = fs::metadata(self.path()) else { return Vec::new() };
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                fs::metadata(format!("/proc/{pid}/ns/net"))
                    .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (own.dev(), own.ino()))
            })
            .map(Pid::from_raw)
            .filter(|pid| *pid != Pid::this())
            .collect()
    }

    /// Kills the processes in it, then removes it; what is gone already is no error.
    pub fn remove(&self) {
        for pid in self.processes() {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
        if self.path().exists() {
            // Two sweeps may meet here; the name is gone either way.
            let _ = Run::new("ip").args(["netns", "del", &self.name]).output();
        }
    }
}

/// The result of a thread, its panic as an error.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        anyhow!("a lab thread panicked: {}", text.unwrap_or("without a text"))
    })?
}
