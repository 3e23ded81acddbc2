//! Free ends: a device on the bridge whose other end somebody else puts into a container, as container engines do.

use serde::{Deserialize, Serialize};

use crate::id::Mac;

/// Names of free ends begin so. Who asks for such an end also sees to it that its addresses are its own: the router neither claims
/// nor frees them.
pub const PREFIX: &str = "docker:";

/// `POST /endpoint`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointRequest {
    /// What it is called among the attachments, beginning with [`PREFIX`]; one name has one end.
    pub name: String,
    /// Addresses that it will be given, with prefix lengths: refused if another on this host has one of them.
    #[serde(default)]
    pub addresses: Vec<ipnet::IpNet>,
    /// Its Ethernet address; without, the kernel chooses one.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Bytes of the largest IP packet, at most the bridge's; without, the bridge's.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// The answer: the end that is free to be moved and renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FreeEnd {
    /// Name of the device, in the router's namespace.
    pub device: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
}

/// `POST /endpoint/remove`: well too if there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointRemoval {
    /// As it was called.
    pub name: String,
}
