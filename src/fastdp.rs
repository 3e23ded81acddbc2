//! The fast datapath as the core wants it: what the kernel shall do with frames so that they never enter userspace.
//!
//! The core publishes a [`Plan`], whole; the driver compares it with what the kernel has and changes what differs. So a new
//! router adopts what an earlier one left, and a killed one leaves a kernel that goes on.
//!
//! ```text
//!   container ── bridge ─┬─ VXLAN port ── UDP port+1 [ESP] ──▶ peer       stations of peers whose `carries` is set
//!                        └─ TAP ── sleeve                                 all others
//! ```
//! A heartbeat is a sealed Control packet of the link in an Ethernet frame of its own: from the bridge to
//! [`heartbeat_mac`] of the peer, which is always behind the fast datapath, through the very devices that frames take.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    crypto::kdf,
    id::{Mac, NetworkName, PeerName},
};

/// Ethernet type of heartbeats: the first that IEEE 802 leaves to local experiments (IEEE Std 802, §9.2.4).
pub const HEARTBEAT_ETHERTYPE: u16 = 0x88b5;
/// Most lanes of a direction: the low bits of an SPI say which.
pub const LANES_MAX: u8 = 8;
/// Bytes of the key of `rfc4106(gcm(aes))` with AES-256: 32 of key and 4 of salt (RFC 4106 §8.1).
pub const SA_KEY_LEN: usize = 36;

/// All that the kernel shall have for the fast datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Peers that the fast datapath leads to, or may lead to once heartbeats prove it.
    pub peers: BTreeMap<PeerName, PlannedPeer>,
    /// Stations on others' bridges, and whose. Those of peers that are not carried, or not in `peers`, go to the sleeve.
    pub stations: BTreeMap<Mac, PeerName>,
}

/// What the kernel shall do for one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPeer {
    /// Its address on the underlay; heartbeats go there.
    pub remote: IpAddr,
    /// Whether frames for its stations go by the fast datapath.
    pub carries: bool,
    /// How packets between the two hosts are protected.
    pub protection: Protection,
}

/// How VXLAN packets to and from a peer are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Not at all: the network has no secret, or both ends trust the other's subnet.
    Clear,
    /// By ESP; what is not sealed neither leaves nor is accepted.
    Esp(Box<EspPlan>),
}

/// The security associations with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EspPlan {
    /// What to seal with; None while the peer has told of none: then nothing leaves.
    pub send: Option<SaSet>,
    /// What was sealed with until now: packets may be on their way through the kernel.
    pub send_before: Option<SaSet>,
    /// What to accept: the newest and those that the peer may still be sealing with.
    pub receive: Vec<SaSet>,
}

/// Security associations of one direction, one for each lane.
#[derive(Clone, PartialEq, Eq)]
pub struct SaSet {
    /// SPI of lane 0, chosen by the receiver, a multiple of [`LANES_MAX`] above 255; lane n has n more.
    pub spi: u32,
    /// The receiver's address on the underlay.
    pub destination: IpAddr,
    /// One key for each lane: 1, 2, 4 or 8.
    pub keys: Vec<SaKey>,
    /// ESP in UDP (RFC 3948) between these, ours first, when a NAT lies between.
    pub encap: Option<(SocketAddr, SocketAddr)>,
}

/// Key material of one security association; wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SaKey(pub Zeroizing<[u8; SA_KEY_LEN]>);

/// What the host can do of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ability {
    /// Nothing, for this reason, in words for people; empty if nobody wants it.
    Off(String),
    /// The fast datapath is ready.
    Ready {
        /// Which backend: `vxlan` or `ovs`.
        backend: String,
        /// Why the kernel cannot seal by ESP; None if it can.
        no_esp: Option<String>,
        /// The UDP port by which ESP in UDP comes, or why there is none.
        encap: Result<u16, String>,
        /// Lanes that we want to receive on: 1, 2, 4 or 8.
        lanes: u8,
    },
}

impl Ability {
    /// The backend by name; `off` for none.
    pub fn backend(&self) -> &str {
        match self {
            Self::Off(_) => "off",
            Self::Ready { backend, .. } => backend,
        }
    }

    /// Why it is off or cannot seal; empty when there is nothing to say.
    pub fn info(&self) -> String {
        match self {
            Self::Off(why) => why.clone(),
            Self::Ready { no_esp, .. } => no_esp.as_ref().map(|why| format!("no ESP: {why}")).unwrap_or_default(),
        }
    }
}

/// The Ethernet address that heartbeats to a peer go to: its name with one bit turned, so that no bridge has it.
pub fn heartbeat_mac(peer: PeerName) -> Mac {
    let mut bytes = peer.0;
    bytes[0] = (bytes[0] ^ 0x04) | 0x02;
    bytes[0] &= !0x01;
    Mac(bytes)
}

/// The VXLAN network identifier of a network (RFC 7348 §5): 24 bits of a hash of its name.
pub fn vni(network: &NetworkName) -> u32 {
    let [a, b, c, ..] = kdf::sha256(&[b"weft vni v1", network.to_string().as_bytes()]);
    u32::from_be_bytes([0, a, b, c])
}

/// The UDP port of VXLAN for a network on `port`; None at the end of the range.
pub fn vxlan_port(port: u16) -> Option<u16> {
    port.checked_add(1)
}

/// The UDP port of ESP in UDP for a network whose VXLAN is on `vxlan`; None at the end of the range.
pub fn encap_port(vxlan: u16) -> Option<u16> {
    vxlan.checked_add(1)
}

impl SaSet {
    /// The SPI of each lane with its key.
    pub fn lanes(&self) -> impl Iterator<Item = (u32, &SaKey)> {
        (self.spi..).zip(&self.keys)
    }
}

impl fmt::Debug for SaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaSet")
            .field("spi", &format_args!("{:#x}", self.spi))
            .field("destination", &self.destination)
            .field("lanes", &self.keys.len())
            .field("encap", &self.encap)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_go_to_an_address_of_their_own() {
        for first in 0..=u8::MAX {
            let peer = PeerName([first & !1 | 2, 1, 2, 3, 4, 5]);
            let mac = heartbeat_mac(peer);
            assert_ne!(mac.0, peer.0);
            assert_eq!(mac.0[0] & 3, 2, "local and individual");
        }
    }

    #[test]
    fn networks_have_their_identifiers() {
        let of = |name: &str| vni(&name.parse().unwrap());
        assert_ne!(of("a"), of("b"));
        assert!(of("weft") < 1 << 24);
    }
}
