//! One run's private directory: what the guest is to do, what came of it, what its kernel said.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::KERNEL;

/// Directories of runs begin so; the process id of the owner and a counter follow.
const OWNED: &str = "weft-uml";
const ROOT: &str = include_str!("root.sh");
const SYSTEM: &str = include_str!("system.sh");
const REGISTERS: &str = include_str!("registers.c");

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The directory; removed when dropped.
pub(super) struct Job(PathBuf);

impl Job {
    /// A directory with all that the guest's programs read. Removes first what killed owners left.
    pub(super) fn new<S: AsRef<OsStr>>(
        command: &[S],
        environment: &[(OsString, OsString)],
        writable: &[PathBuf],
    ) -> Result<Self> {
        ensure!(!command.is_empty(), "no command to run");
        let temporary = std::env::temp_dir().canonicalize().context("the directory for temporary files")?;
        sweep(&temporary);
        let name = format!("{OWNED}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = temporary.join(name);
        let text = path.to_str().context("a path in UTF-8")?;
        // It stands on the kernel's command line.
        ensure!(!text.contains([' ', ',', ':']), "{text}: no spaces, commas or colons, please: set TMPDIR");
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let job = Self(path);
        job.fill(command, environment, writable).with_context(|| job.0.display().to_string())?;
        Ok(job)
    }

    fn fill<S: AsRef<OsStr>>(
        &self,
        command: &[S],
        environment: &[(OsString, OsString)],
        writable: &[PathBuf],
    ) -> Result<()> {
        fs::create_dir(self.0.join("out"))?;
        fs::write(self.0.join("root.sh"), ROOT)?;
        fs::set_permissions(self.0.join("root.sh"), fs::Permissions::from_mode(0o755))?;
        fs::write(self.0.join("system.sh"), SYSTEM)?;
        self.compile_registers()?;
        fs::write(self.0.join("command"), words(command.iter().map(|word| word.as_ref().as_bytes().to_vec())))?;
        let variables =
            environment.iter().map(|(name, value)| [name.as_bytes(), b"=".as_slice(), value.as_bytes()].concat());
        fs::write(self.0.join("environment"), words(variables))?;
        fs::write(self.0.join("directory"), std::env::current_dir()?.as_os_str().as_bytes())?;
        let mut lines = Vec::new();
        for dir in writable {
            lines.extend([dir.canonicalize()?.as_os_str().as_bytes(), b"\n"].concat());
        }
        fs::write(self.0.join("writable"), lines)?;
        Ok(())
    }

    fn compile_registers(&self) -> Result<()> {
        let source = self.0.join("registers.c");
        fs::write(&source, REGISTERS)?;
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&self.registers(), &source]).output()?;
        ensure!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
        Ok(())
    }

    /// What is to be loaded before the kernel.
    pub(super) fn registers(&self) -> PathBuf {
        self.0.join("registers.so")
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The command's exit status, once it ended.
    pub(super) fn status(&self) -> Option<u8> {
        fs::read_to_string(self.0.join("out/status")).ok()?.trim().parse().ok()
    }

    /// The last lines of what the kernel and the set-up said.
    pub(super) fn console(&self, lines: usize) -> String {
        let read = |name| fs::read(self.0.join(name)).unwrap_or_default();
        let text = [read("words"), read("console")].concat();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // What cannot be removed now is seen by the next sweep.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn words(words: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    words.flat_map(|word| [word, vec![0]].concat()).collect()
}

/// Removes directories of owners that are gone, and ends kernels that outlived them.
fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let Some(owner) = entry.file_name().to_str().and_then(owner) else { continue };
        if fs::exists(format!("/proc/{owner}")).unwrap_or(true) {
            continue;
        }
        for process in kernel(&entry.path()) {
            // Gone meanwhile, at worst.
            let _ = kill(process, Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// The process that owns the directory `name`.
fn owner(name: &str) -> Option<u32> {
    let (pid, counter) = name.strip_prefix(OWNED)?.split_once('-')?;
    counter.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Processes of the kernel that still run for a directory: a kernel that is killed leaves those that it traced.
fn kernel(job: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let is_ours = |line: &[u8]| {
        let names_job = line.windows(job.as_os_str().len()).any(|part| part == job.as_os_str().as_bytes());
        names_job && line.split(|byte| *byte == 0).next() == Some(KERNEL.as_bytes())
    };
    let ours =
        processes.flatten().filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| is_ours(&line)));
    ours.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_they_are() {
        assert_eq!(owner("weft-uml12-3"), Some(12));
        assert_eq!(owner("weft-uml12"), None);
        assert_eq!(owner("weft-t12-3"), None);
    }

    #[test]
    fn words_may_hold_anything_but_zero() {
        let words = words([b"a b".to_vec(), b"".to_vec(), b"c\nd".to_vec()].into_iter());
        assert_eq!(words, b"a b\0\0c\nd\0");
    }
}
