//! What can go wrong at the kernel's edge, in words for the person who asked.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use thiserror::Error;
use weft::id::Mac;

/// Why the host did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// Neither a name, nor a path, nor a process.
    #[error("no network namespace \"{0}\": give a name under /run/netns, a path, or a process id")]
    NoNamespace(String),
    /// Something else is there.
    #[error("\"{0}\" is not a network namespace: give a name under /run/netns, a path, or a process id")]
    NotANamespace(String),
    /// The router's own namespace.
    #[error("\"{0}\" is the network namespace of the router itself: use `weft expose` to give the host an address")]
    OwnNamespace(String),
    /// The name cannot be kept on the device.
    #[error(
        "\"{name}\" cannot name a container: use 1 to {max} bytes without control characters, for example a shorter path"
    )]
    BadContainerName {
        /// What was given, cut.
        name: String,
        /// Most bytes.
        max: usize,
    },
    /// Attach and expose need something to give.
    #[error("no address given: name at least one with its prefix length, like 10.2.1.1/24")]
    NoAddress,
    /// An address that no station can have.
    #[error("{address} cannot be given to anyone: it is {what}")]
    UnusableAddress {
        /// The address.
        address: IpNet,
        /// What it is instead.
        what: &'static str,
    },
    /// The address is in use on this host or in the container.
    #[error("{address} is taken by {by}: detach it there first, or choose another")]
    AddressTaken {
        /// The address asked for.
        address: IpNet,
        /// Who has it, in words.
        by: String,
    },
    /// Somebody else's device has the name that ours would have.
    #[error("device {device} in {place} is not weft's: rename or remove it")]
    ForeignDevice {
        /// Name of the device.
        device: String,
        /// Where, in words.
        place: String,
    },
    /// No device can have this name.
    #[error("\"{0}\" cannot name a device: use 1 to 15 bytes, none of them `/`, `:` or a blank, and not `.` or `..`")]
    BadDeviceName(String),
    /// There is no name left for the host's side.
    #[error("container \"{0}\" has too many devices on the network")]
    TooManyDevices(String),
    /// Destination and gateway of a route are of different protocols.
    #[error("the route to {0} has a gateway of the other version of IP")]
    BadRoute(IpNet),
    /// An Ethernet address that no station can have.
    #[error("{0} cannot be given to anyone: it is a group's address, or none")]
    BadMac(Mac),
    /// A VXLAN device of somebody else takes the packets that ours would take.
    #[error(
        "VXLAN network {vni} on UDP port {port} is taken by a VXLAN device {device}: remove it, or launch with another --port or \
         --network"
    )]
    VxlanTaken {
        /// Name of the device, or where it is.
        device: String,
        /// The port.
        port: u16,
        /// The network identifier.
        vni: u32,
    },
    /// Somebody else has the UDP port of VXLAN.
    #[error(
        "UDP port {port} is in use by {by}, and weft needs it for its fast datapath: stop that (`ss -ulnp` tells what it is), or \
         launch with another --port"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// Who has it, in words.
        by: String,
    },
    /// The kernel has no datapath of Open vSwitch, and no module for it.
    #[error("this kernel has no Open vSwitch datapath (module {module})")]
    NoOpenVswitch {
        /// The module that would have it.
        module: &'static str,
    },
    /// No such device.
    #[error("no device {0} on this host")]
    NoDevice(String),
    /// The bridge is gone or was never made.
    #[error("no bridge {0} on this host: launch the router first")]
    NoBridge(String),
    /// A name that no device or no table of the packet filter can have.
    #[error("\"{0}\" cannot name the bridge: use up to 15 letters, digits, - and _, beginning with a letter")]
    BadBridgeName(String),
    /// An MTU that makes no sense.
    #[error("an MTU of {mtu} bytes cannot be: give one of {least} to {greatest}")]
    BadMtu {
        /// What was asked for.
        mtu: u32,
        /// Least.
        least: u32,
        /// Greatest.
        greatest: u32,
    },
    /// The bridge has no more room to remember exceptions.
    #[error("too many addresses are exposed without masquerade: hide some first")]
    TooManyExposed,
    /// The program for packet filter rules is missing.
    #[error("`nft` is not installed: install the package nftables, or expose without masquerade")]
    NftMissing,
    /// The program for packet filter rules refused.
    #[error("nft cannot {doing}: {message}")]
    Nft {
        /// What we wanted of it.
        doing: &'static str,
        /// Its words, cut.
        message: String,
    },
    /// Turning forwarding on would cost the host its own default route.
    #[error(
        "IPv6 forwarding is off, and with it on this host would no longer follow the router advertisements that it lives by: \
         set net.ipv6.conf.all.forwarding=1 and accept_ra=2 on the device to the outside, or expose without masquerade"
    )]
    ForwardingRisky,
    /// The kernel said no.
    #[error("cannot {doing}: {errno}{}", if *.errno == Errno::EPERM { ": run as root" } else { "" })]
    Kernel {
        /// What we wanted of it.
        doing: String,
        /// Its answer.
        errno: Errno,
    },
    /// The kernel answered with something that we do not understand.
    #[error("cannot {doing}: unexpected answer of the kernel")]
    Unexpected {
        /// What we wanted of it.
        doing: String,
    },
    /// The kernel did not answer in time.
    #[error("cannot {doing}: no answer of the kernel within {seconds} s")]
    Timeout {
        /// What we wanted of it.
        doing: String,
        /// How long we waited.
        seconds: u64,
    },
    /// Somebody else's IPsec policy has the place of ours.
    #[error(
        "an IPsec policy of another program for {0} stands where ours belongs: look with `ip xfrm policy`, and remove it"
    )]
    ForeignPolicy(String),
    /// No way to an address.
    #[error("no route to {0}")]
    NoRoute(IpAddr),
    /// Too many calls wait already.
    #[error("too many requests for the host are under way: try again in a moment")]
    Busy,
    /// The thread that talks to the kernel is gone.
    #[error("the router no longer serves requests for its host: restart it")]
    Stopped,
    /// Some of several steps failed.
    #[error("not all could be removed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Incomplete(Vec<HostError>),
}

impl HostError {
    pub(crate) fn kernel(doing: &str, errno: Errno) -> Self {
        Self::Kernel { doing: doing.to_owned(), errno }
    }

    /// What the system said when we were `doing` something.
    pub fn io(doing: &str, error: &std::io::Error) -> Self {
        Self::kernel(doing, error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
    }

    /// Whether the kernel answered with one of these.
    pub(crate) fn is_errno(&self, errnos: &[Errno]) -> bool {
        if let Self::Kernel { errno, .. } = self { errnos.contains(errno) } else { false }
    }

    /// Whether the request itself is at fault, not the host: an answer of 400, not of 500.
    pub fn is_request_error(&self) -> bool {
        match self {
            Self::NoNamespace(_)
            | Self::NotANamespace(_)
            | Self::OwnNamespace(_)
            | Self::BadContainerName { .. }
            | Self::NoAddress
            | Self::UnusableAddress { .. }
            | Self::AddressTaken { .. }
            | Self::ForeignDevice { .. }
            | Self::BadBridgeName(_)
            | Self::BadDeviceName(_)
            | Self::TooManyDevices(_)
            | Self::BadRoute(_)
            | Self::BadMac(_)
            | Self::BadMtu { .. }
            | Self::TooManyExposed => true,
            Self::NoDevice(_)
            | Self::NoBridge(_)
            | Self::NftMissing
            | Self::Nft { .. }
            | Self::VxlanTaken { .. }
            | Self::PortInUse { .. }
            | Self::NoOpenVswitch { .. }
            | Self::ForwardingRisky
            | Self::Kernel { .. }
            | Self::Unexpected { .. }
            | Self::Timeout { .. }
            | Self::ForeignPolicy(_)
            | Self::NoRoute(_)
            | Self::Busy
            | Self::Stopped
            | Self::Incomplete(_) => false,
        }
    }
}
