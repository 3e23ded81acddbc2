//! What was unplugged while no router ran: a directory with a file for each, written by plugins, read by the next router.
//!
//! A file is named after the container, so that a repetition is the same file, and holds the name that it was attached under. It
//! appears whole or not at all. What cannot be read was not written by us and is left where it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::mark::{CONTAINER_NAME_MAX, is_container_name};

/// How file names end.
const END: &str = ".unplugged";
/// How often to try whether the lock is free.
const LOOK: Duration = Duration::from_millis(5);

/// The directory, which need not exist.
#[derive(Clone, Debug)]
pub struct Spool(PathBuf);

/// Keeps others from reading the directory. Ends when dropped.
#[derive(Debug)]
pub struct Locked(#[expect(dead_code, reason = "held, not used")] Option<Flock<File>>);

impl Spool {
    /// The one in a router's data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("cni"))
    }

    /// Writes down, durably, that a container is unplugged.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&self, name: &str) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let path = self.path(name);
        let unready = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = File::create(&unready).and_then(|mut file| {
            file.write_all(name.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unready, &path)?;
            File::open(&self.0)?.sync_all()
        });
        if written.is_err() {
            // On a full disk it is of no use to anybody.
            let _ = fs::remove_file(&unready);
        }
        written
    }

    /// All that are written down; those that cannot be read are left out.
    ///
    /// # Errors
    /// What the system says of the directory; that there is none is no error.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.as_os_str().to_string_lossy().ends_with(END));
        paths.sort();
        Ok(paths.iter().filter_map(|path| read(path)).collect())
    }

    /// Strikes out one that is done; that it is not there is no error.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Strikes out all, and removes the directory if nothing else is in it.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self) -> io::Result<()> {
        self.list()?.iter().try_for_each(|name| self.remove(name))?;
        // Not empty: then it is not only ours.
        let _ = fs::remove_dir(&self.0);
        Ok(())
    }

    /// Waits for the right to carry out what is written down: two plugins at it could unplug what one of them has just plugged in anew.
    /// None if it does not become free in time.
    ///
    /// # Errors
    /// What the system says; that there is no directory is no error.
    pub fn lock(&self, deadline: Instant) -> io::Result<Option<Locked>> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&self.0);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Locked(None))),
            file => file?,
        };
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(Locked(Some(lock)))),
                Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(errno.into()),
            };
            std::thread::sleep(LOOK);
        }
    }

    /// Letters, digits and a few signs stand for themselves, other bytes in hexadecimal.
    fn path(&self, name: &str) -> PathBuf {
        let mut file = String::new();
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
                file.push(char::from(byte));
            } else {
                file += &format!("%{byte:02x}");
            }
        }
        self.0.join(file + END)
    }
}

fn read(path: &Path) -> Option<String> {
    let is_record = |data: fs::Metadata| data.is_file() && data.len() <= CONTAINER_NAME_MAX as u64;
    let text = fs::symlink_metadata(path).is_ok_and(is_record).then(|| fs::read_to_string(path).ok()).flatten();
    let name = text.filter(|name| is_container_name(name));
    if name.is_none() {
        tracing::warn!(path = %path.display(), "this file is not as we write them");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_listed_until_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = Spool::of(scratch.path());
        assert!(spool.list().unwrap().is_empty());
        let all = ["weft/../eth1", "weft/0a1b/eth0", "weft/0a1b/eth1"];
        for name in all.iter().chain(&all) {
            spool.add(name).unwrap();
        }
        let mut listed = spool.list().unwrap();
        listed.sort();
        assert_eq!(listed, all);
        for name in [all[0], all[0]] {
            spool.remove(name).unwrap();
        }
        assert_eq!(spool.list().unwrap().len(), 2);
        for _ in 0..2 {
            spool.clear().unwrap();
            assert!(!scratch.path().join("cni").exists());
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = Spool::of(scratch.path());
        spool.add("a").unwrap();
        let dir = scratch.path().join("cni");
        for (name, text) in [("b.unplugged", "a\nb"), ("c.1.tmp", "c"), ("README", "hello")] {
            fs::write(dir.join(name), text).unwrap();
        }
        fs::create_dir(dir.join("d.unplugged")).unwrap();
        assert_eq!(spool.list().unwrap(), ["a"]);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 5);
    }

    #[test]
    fn a_lock_is_for_one_at_a_time_and_waited_for_in_bounds() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = Spool::of(scratch.path());
        assert!(spool.lock(Instant::now()).unwrap().is_some(), "without a directory there is nothing to guard");
        spool.add("a").unwrap();
        let held = spool.lock(Instant::now()).unwrap();
        assert!(held.is_some());
        assert!(spool.lock(Instant::now() + Duration::from_millis(20)).unwrap().is_none());
        drop(held);
        assert!(spool.lock(Instant::now()).unwrap().is_some());
    }
}
