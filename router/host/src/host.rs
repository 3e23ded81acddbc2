//! What a router asks of its host, and the values that it gets.
//!
//! Every call is whole: it has happened or it has not, also when the caller stops waiting for the answer, and two calls never mix.
//! Every call may be repeated: what is already as asked stays as it is.

use std::{future::Future, net::IpAddr, pin::Pin};

use ipnet::IpNet;
use tokio::sync::watch;
use weft::{
    api::{
        AttachRequest, Attachment, ExposeRequest,
        endpoint::{EndpointRequest, FreeEnd},
    },
    id::{Mac, PeerName},
};

use crate::error::HostError;

/// How the bridge itself is named among the attachments.
pub const EXPOSED: &str = "weft:expose";

/// An answer that is under way. Dropping it does not undo the call.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, HostError>> + Send>>;

/// The kernel's edge of one router: its bridge, what is plugged into it, and the way out.
pub trait Host: Send + Sync {
    /// Makes the bridge, or takes over the one of an earlier run: up, with our Ethernet address, without spanning tree and snooping,
    /// all ports and containers at its MTU, and the rules of what is exposed in place.
    ///
    /// # Errors
    /// [`HostError::ForeignDevice`] if a device of that name is not ours, [`HostError::BadMtu`], or what the kernel says.
    fn ensure_bridge(&self, wanted: BridgeConfig) -> Answer<Bridge>;

    /// Plugs a device of this host, the router's TAP, into the bridge: marked as ours, at the bridge's MTU, up, and mute by itself.
    ///
    /// # Errors
    /// [`HostError::NoBridge`], [`HostError::NoDevice`], or what the kernel says.
    fn add_port(&self, device: String) -> Answer<()>;

    /// All ports of the bridge, by name.
    ///
    /// # Errors
    /// [`HostError::NoBridge`], or what the kernel says.
    fn ports(&self) -> Answer<Vec<Port>>;

    /// The name under which a container is plugged in, or would be.
    ///
    /// # Errors
    /// No such namespace, or one that cannot be used; or what the kernel says.
    fn name_of(&self, container: String) -> Answer<String>;

    /// Gives a container the addresses, plugging it in first if need be. Answers with all that were asked for, in their order.
    ///
    /// # Errors
    /// For the caller: no such namespace, one that cannot be used, an address that is unusable or taken. Nothing has changed then.
    fn attach(&self, request: AttachRequest<IpNet>) -> Answer<Vec<IpNet>>;

    /// Takes addresses, or all if none is given, from a container, and unplugs it with its last. Answers with those that were taken.
    ///
    /// # Errors
    /// No such namespace, or one that cannot be used; or what the kernel says.
    fn detach(&self, request: AttachRequest<IpNet>) -> Answer<Vec<IpNet>>;

    /// Makes a device on the bridge whose other end stays free: whoever asked moves it into a container, renames it and gives it
    /// the addresses. It is listed among the attachments from now on. Asked again for one that is still free, it answers as before.
    ///
    /// # Errors
    /// As at attach; [`HostError::ForeignDevice`] if the end is in use or the device's name is taken.
    fn endpoint(&self, request: EndpointRequest) -> Answer<FreeEnd>;

    /// Removes such a device, wherever its other end is; well too if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    fn remove_endpoint(&self, name: String) -> Answer<()>;

    /// What is plugged in, by name; the bridge itself, if exposed, comes first as [`EXPOSED`].
    ///
    /// # Errors
    /// What the kernel says. Without a bridge the list is empty.
    fn attachments(&self) -> Answer<Vec<Attachment>>;

    /// Sees to it that frames between containers pass the host's packet filter, which others may have changed; it is not looked at more
    /// often than each ten seconds. Where that fails the log says what to do.
    ///
    /// # Errors
    /// None but that the host cannot be asked.
    fn keep_passing(&self) -> Answer<()>;

    /// Gives the host addresses on the bridge. Unless told not to, what passes between their subnets and others through this host
    /// takes the host's address. Answers with all that were asked for, in their order.
    ///
    /// # Errors
    /// For the caller as at attach; [`HostError::NftMissing`] and [`HostError::ForwardingRisky`] with masquerade.
    fn expose(&self, request: ExposeRequest<IpNet>) -> Answer<Vec<IpNet>>;

    /// Takes back addresses, or all if none is given. Answers with those that were taken.
    ///
    /// # Errors
    /// What the kernel or `nft` say.
    fn hide(&self, request: ExposeRequest<IpNet>) -> Answer<Vec<IpNet>>;

    /// Where this host's own routes lead that are not default routes and not of anything of ours, each with its device.
    ///
    /// # Errors
    /// What the kernel says.
    fn routes(&self) -> Answer<Vec<HostRoute>>;

    /// Largest IP packet in bytes that the device towards an address takes: a hint, the path may be narrower.
    ///
    /// # Errors
    /// What the kernel says, for example ENETUNREACH.
    fn underlay_mtu(&self, towards: IpAddr) -> Answer<u32>;

    /// What this host is to its peers; the receiver sees each change.
    fn underlay(&self) -> watch::Receiver<Underlay>;

    /// What does not change while we run.
    fn facts(&self) -> Facts;

    /// Removes all that is ours, and leaves the host as it was before. The router's TAP, if it still runs, goes too.
    ///
    /// # Errors
    /// [`HostError::Incomplete`] with everything that could not be removed; the rest is gone.
    fn reset(&self) -> Answer<()>;
}

/// What a host is to its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Addresses where peers may reach it: not loopback, not link-local, not on anything of ours. Sorted.
    pub addresses: Vec<IpAddr>,
    /// Bytes of the largest IP packet that all devices with such addresses take; none without a device.
    pub mtu: Option<u32>,
}

/// How the bridge shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Its Ethernet address comes from this name.
    pub peer: PeerName,
    /// Bytes of the largest IP packet, 576 to 65535; none keeps what the bridge has, or takes [`BridgeConfig::DEFAULT_MTU`].
    pub mtu: Option<u32>,
}

impl BridgeConfig {
    /// Fits an underlay of 1500 bytes over IPv6 and two relays: 1500 - 40 (IPv6) - 8 (UDP) - 32 (sleeve) - 3 (record) - 14 (Ethernet)
    /// less the relay's own 54, rounded down to a multiple of ten.
    pub const DEFAULT_MTU: u32 = 1340;
    /// Least MTU in bytes: what every IPv4 host accepts (RFC 1122 section 3.3.3). IPv6 needs 1280 (RFC 8200 section 5).
    pub const LEAST_MTU: u32 = 576;
    /// Greatest MTU in bytes: the largest IP packet.
    pub const GREATEST_MTU: u32 = 65535;

    /// The bridge's Ethernet address: the peer's name as a locally administered, individual one.
    pub fn mac(&self) -> Mac {
        let mut bytes = self.peer.0;
        bytes[0] = (bytes[0] | 0x02) & !0x01;
        Mac(bytes)
    }

    pub(crate) fn check(&self) -> Result<(), HostError> {
        self.mtu.map_or(Ok(()), Self::check_mtu)
    }

    pub(crate) fn check_mtu(mtu: u32) -> Result<(), HostError> {
        let (least, greatest) = (Self::LEAST_MTU, Self::GREATEST_MTU);
        if (least..=greatest).contains(&mtu) { Ok(()) } else { Err(HostError::BadMtu { mtu, least, greatest }) }
    }
}

/// The bridge as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Name of the device.
    pub name: String,
    /// Index of the device.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Whether it was made now, not found.
    pub created: bool,
}

/// A device plugged into the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the device.
    pub device: String,
    /// Index of the device.
    pub index: u32,
    /// The container behind it, as named at attach; none for the TAP and for what others plugged in.
    pub container: Option<String>,
    /// Whether it is ours.
    pub ours: bool,
    /// Whether frames pass.
    pub up: bool,
}

/// A way of this host to elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// Where to.
    pub to: IpNet,
    /// Name of the device that it goes through.
    pub device: String,
}

/// What a router wants to know of its host once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host's name.
    pub hostname: String,
    /// Whether the processor has instructions for AES and carry-less multiplication, so that AES-GCM beats ChaCha20.
    pub aes: bool,
}
