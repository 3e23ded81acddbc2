//! A mount namespace of a host: what programs find at paths that are fixed in them is the host's own there.
//!
//! All of a cage is gone with the process that holds it, which the lab's sweep ends with all others in the host's network.

use std::{ffi::OsStr, fs, path::Path, process::Child, time::Duration};

use anyhow::{Context, Result};

use super::{command::Run, host::Host, wait::wait_until};

/// Makes the namespace and holds it, so that one program after the other finds the mounts of its containers. Arguments: a directory, and
/// the paths whose contents are below it.
const HOLD: &str = r#"
set -e
dir=$1; shift
mkdir -p "$dir/cgroup"; mount --rbind /sys/fs/cgroup "$dir/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$dir/cgroup" /sys/fs/cgroup
umount -l "$dir/cgroup"
for path in "$@"; do
    mkdir -p "$dir$path" "$path"
    mount --bind "$dir$path" "$path"
done
mkdir -p /run/lock /run/netns
mount --make-rshared /
touch "$dir/held"
exec sleep infinity
"#;
/// For it to be made on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The namespace; gone with the mounts in it when dropped, unless something still runs there.
#[derive(Debug)]
pub struct Cage {
    holder: Child,
}

impl Cage {
    /// In a host's network, with these paths below `dir`: `/run` is `DIR/run`.
    pub fn new(host: &Host, dir: &Path, private: &[&str]) -> Result<Self> {
        let net = format!("--net={}", host.namespace().path().display());
        let log = fs::File::create(dir.join("hold.log"))?;
        let holder = Run::new("nsenter")
            .args([&net, "unshare", "--mount", "--uts", "--propagation", "private", "bash", "-c", HOLD, "bash"])
            .arg(dir)
            .args(private)
            .spawn(log.try_clone()?, log)?;
        wait_until("the mount namespace is made", PATIENCE, || Ok(dir.join("held").exists()))
            .with_context(|| fs::read_to_string(dir.join("hold.log")).unwrap_or_default())?;
        Ok(Self { holder })
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A program in it.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        inside(self.pid(), program)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // It may have been ended by a sweep.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A program in the cage that a process holds.
pub(super) fn inside(holder: u32, program: impl AsRef<OsStr>) -> Run {
    Run::new("nsenter").args(["-t", &holder.to_string(), "--mount", "--uts", "--net"]).arg(program)
}
