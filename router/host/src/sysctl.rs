//! Switches of the kernel under /proc/sys/net: they are those of the calling thread's namespace.

use std::{fs, io::ErrorKind, net::IpAddr, path::PathBuf};

use nix::mount::{MsFlags, mount};

use crate::error::HostError;

/// Whether packets are passed on between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarding {
    /// Of IPv4.
    V4,
    /// Of IPv6.
    V6,
}

impl Forwarding {
    fn key(self) -> &'static str {
        match self {
            Self::V4 => "ipv4/ip_forward",
            Self::V6 => "ipv6/conf/all/forwarding",
        }
    }

    /// Whether an address needs it.
    pub(crate) fn concerns(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    /// Whether it is on. A kernel without the protocol has it off.
    pub(crate) fn is_on(self) -> Result<bool, HostError> {
        match fs::read_to_string(path(self.key())) {
            Ok(text) => Ok(text.trim() != "0"),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(HostError::io(&format!("read the switch {}", self.key()), &error)),
        }
    }

    /// Switches it.
    pub(crate) fn set(self, on: bool) -> Result<(), HostError> {
        write(self.key(), if on { "1" } else { "0" })
    }
}

/// Lets a device of ours say nothing by itself: no IPv6 address, hence no reports and solicitations.
pub(crate) fn mute(device: &str) -> Result<(), HostError> {
    write_if_there(&format!("ipv6/conf/{device}/disable_ipv6"), "1")
}

/// Lets a device have IPv6 addresses.
pub(crate) fn unmute(device: &str) -> Result<(), HostError> {
    write_if_there(&format!("ipv6/conf/{device}/disable_ipv6"), "0")
}

/// Prepares a device that shall have addresses: routers' advertisements do not configure it (a neighbour on the network could send
/// them), and an address that goes does not take its companions in the subnet along.
pub(crate) fn prepare_station(device: &str) -> Result<(), HostError> {
    write_if_there(&format!("ipv6/conf/{device}/accept_ra"), "0")?;
    write_if_there(&format!("ipv4/conf/{device}/promote_secondaries"), "1")
}

/// Lets a device use its IPv6 addresses at once; its Ethernet address is known to be its own.
pub(crate) fn skip_duplicate_detection(device: &str) -> Result<(), HostError> {
    write_if_there(&format!("ipv6/conf/{device}/accept_dad"), "0")
}

/// Whether the kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    path("ipv6").exists()
}

/// A kernel without IPv6 has none of its switches, and needs none.
fn write_if_there(key: &str, value: &str) -> Result<(), HostError> {
    if path(key).exists() { write(key, value) } else { Ok(()) }
}

/// A switch that is right already is not written: /proc/sys may be read-only.
fn write(key: &str, value: &str) -> Result<(), HostError> {
    let is = fs::read_to_string(path(key)).unwrap_or_default();
    if is.trim() == value {
        return Ok(());
    }
    let written = match fs::write(path(key), value) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem && unlock() => fs::write(path(key), value),
        written => written,
    };
    written.map_err(|error| HostError::io(&format!("set the switch net/{key} to {value}"), &error))
}

/// Makes the switches writable, if a container runtime has laid a read-only view over them, in a mount namespace of ours, and we may
/// undo that: so a managed plugin of Docker's, which is given the host's network. Whether it did.
fn unlock() -> bool {
    mount(None::<&str>, "/proc/sys", None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, None::<&str>).is_ok()
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::stage::on_a_host;

    #[test]
    fn a_read_only_view_of_the_switches_is_undone_where_it_is_a_mount_of_our_own() {
        on_a_host(|| {
            let proc = Some("/proc/sys");
            mount(proc, "/proc/sys", None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).unwrap();
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, "/proc/sys", None::<&str>, flags, None::<&str>).unwrap();
            let is = fs::read_to_string(path("ipv6/conf/lo/accept_dad")).unwrap();
            let other = if is.trim() == "0" { "1" } else { "0" };
            let refused = fs::write(path("ipv6/conf/lo/accept_dad"), other).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
            write("ipv6/conf/lo/accept_dad", other).unwrap();
            assert_eq!(fs::read_to_string(path("ipv6/conf/lo/accept_dad")).unwrap().trim(), other);
        });
    }
}
