//! One router per run directory: a locked file with its process id.
//!
//! The lock (flock) goes with the process, so a file left by a killed router never stands in the way.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use super::RunError;
use crate::config::Config;

/// Longest pid file that is read: no process id has more digits.
const PID_FILE_MAX: u64 = 32;
/// The file may be removed under us by a router that stops; each time we begin anew.
const TRIES: usize = 10;

/// The claim on a run directory; given up, and the file removed, when dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl PidFile {
    /// Claims `run_dir`, which is made if missing.
    pub(super) fn claim(run_dir: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::RunDir { run_dir: run_dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(run_dir).map_err(failed)?;
        let path = Config::pid_path(run_dir);
        for _ in 0..TRIES {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o644);
            let mut file = options.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(RunError::AlreadyRunning { pid: read_pid(&file), run_dir: run_dir.to_owned() });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            if is_at(&file, &path) {
                file.set_len(0).and_then(|()| writeln!(file, "{}", process::id())).map_err(failed)?;
                return Ok(Self { path, _file: file });
            }
        }
        Err(failed(io::Error::new(io::ErrorKind::ResourceBusy, "the pid file is replaced again and again")))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // While the lock is held, so that nobody else's file is removed.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the pid file");
        }
    }
}

fn read_pid(file: &File) -> u32 {
    let mut text = String::new();
    match file.take(PID_FILE_MAX).read_to_string(&mut text) {
        Ok(_) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// Whether `path` still names `file`: a stopping router removes it between our open and our lock.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        (_, Err(_)) | (Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_router_per_directory_and_the_other_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let run_dir = scratch.path().join("run");
        let claim = PidFile::claim(&run_dir).unwrap();
        let error = PidFile::claim(&run_dir).unwrap_err();
        assert!(error.to_string().starts_with(&format!("Weft is already running (pid {})", process::id())), "{error}");
        drop(claim);
        assert!(!run_dir.join("weft.pid").exists());
        PidFile::claim(&run_dir).unwrap();
    }

    #[test]
    fn a_file_left_by_a_killed_router_is_taken_over() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("weft.pid"), "4194304 and more\n").unwrap();
        let _claim = PidFile::claim(scratch.path()).unwrap();
        assert_eq!(fs::read_to_string(scratch.path().join("weft.pid")).unwrap(), format!("{}\n", process::id()));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = PidFile::claim(Path::new("/proc/self/weft")).unwrap_err();
        assert!(error.to_string().contains("/proc/self/weft"), "{error}");
    }
}
