//! Network namespaces of containers: found by what people call them, and entered.
//!
//! A thread that enters a namespace is made for that and ends with it, so that no other work is ever done in the wrong place.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

use crate::{
    error::HostError,
    mark::{CONTAINER_NAME_MAX, is_container_name},
    netlink::Netlink,
};

/// Where names of namespaces are kept (ip-netns(8)).
const NAMED: &str = "/run/netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// An opened namespace, and what it was called. It stays what it is, whatever becomes of the name.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    file: File,
    identity: (u64, u64),
}

impl Namespace {
    /// Finds the namespace that a person means: a name under /run/netns, a path, or a process id, in this order.
    pub(crate) fn find(name: &str) -> Result<Self, HostError> {
        if name.is_empty() {
            return Err(HostError::NoNamespace(String::new()));
        }
        if !is_container_name(name) {
            let shown = name.chars().filter(|c| !c.is_control()).take(CONTAINER_NAME_MAX).collect();
            return Err(HostError::BadContainerName { name: shown, max: CONTAINER_NAME_MAX });
        }
        let missing = || HostError::NoNamespace(name.to_owned());
        let file = candidates(name).into_iter().find_map(|path| open(&path).ok()).ok_or_else(missing)?;
        let identity = identity(&file)?;
        let found = Self { name: name.to_owned(), file, identity };
        if identity == own()? {
            return Err(HostError::OwnNamespace(name.to_owned()));
        }
        Ok(found)
    }

    /// Finds the namespace of an inode number, by any name or process that leads there.
    pub(crate) fn of_inode(inode: u64) -> Option<Self> {
        let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
        let named = entries(NAMED).map(|entry| entry.path());
        let processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
        named.chain(processes).find_map(|path| {
            let is_it = fs::metadata(&path).is_ok_and(|data| data.ino() == inode);
            let file = is_it.then(|| open(&path).ok()).flatten()?;
            let identity = identity(&file).ok().filter(|(_, found)| *found == inode)?;
            Some(Self { name: path.display().to_string(), file, identity })
        })
    }

    /// What it was called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its number among the namespaces that exist now.
    pub(crate) fn inode(&self) -> u64 {
        self.identity.1
    }

    /// For the kernel.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Does something inside, with a netlink socket that belongs there.
    pub(crate) fn enter<T: Send>(
        &self,
        act: impl FnOnce(&Netlink) -> Result<T, HostError> + Send,
    ) -> Result<T, HostError> {
        let doing = || format!("enter the network namespace \"{}\"", self.name);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("weft-netns".to_owned()).spawn_scoped(scope, || {
                setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                    if errno == Errno::EINVAL {
                        return HostError::NotANamespace(self.name.clone());
                    }
                    HostError::kernel(&doing(), errno)
                })?;
                act(&Netlink::open()?)
            });
            let thread = thread.map_err(|error| HostError::io(&doing(), &error))?;
            thread.join().unwrap_or_else(|_| Err(HostError::Unexpected { doing: doing() }))
        })
    }
}

fn candidates(name: &str) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let mut paths = vec![PathBuf::from(NAMED).join(name)];
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        paths.push(PathBuf::from(format!("/proc/{name}/ns/net")));
    }
    paths
}

/// Opens without waiting, whatever is there: a pipe would wait for its other end.
fn open(path: &PathBuf) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn own() -> Result<(u64, u64), HostError> {
    let file = File::open(OWN).map_err(|error| HostError::io("look at our own network namespace", &error))?;
    identity(&file)
}

fn identity(file: &File) -> Result<(u64, u64), HostError> {
    let metadata = file.metadata().map_err(|error| HostError::io("look at a network namespace", &error))?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_named_as_such() {
        let error = Namespace::find("no-such-weft").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no network namespace \"no-such-weft\": give a name under /run/netns, a path, or a process id"
        );
        for missing in ["", "/nowhere/ns", "4294967295", "-1"] {
            assert!(matches!(Namespace::find(missing), Err(HostError::NoNamespace(_))), "{missing}");
        }
        for bad in ["a\nb", &"x".repeat(CONTAINER_NAME_MAX + 1)] {
            assert!(matches!(Namespace::find(bad), Err(HostError::BadContainerName { .. })), "{bad}");
        }
    }

    #[test]
    fn our_own_namespace_is_refused() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(Namespace::find(&own).unwrap_err(), HostError::OwnNamespace(own));
    }

    #[test]
    fn files_and_other_namespaces_are_refused() {
        for path in ["/etc/hostname", "/run", "/proc/self/ns/mnt"] {
            let found = Namespace::find(path).unwrap();
            assert_eq!(found.enter(|_| Ok(())).unwrap_err(), HostError::NotANamespace(path.to_owned()));
        }
    }
}
