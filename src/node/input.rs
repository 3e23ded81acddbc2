//! What a node is told. Every input can be written down and played back.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize, de};
use thiserror::Error;

use crate::{
    api::allocation::AddressRequest,
    fastdp::Ability,
    id::{ConnId, Mac, PeerName},
    names::NameRequest,
};

/// Longest target text in bytes: a DNS name and a port.
const TARGET_MAX: usize = 262;

/// One thing that happened outside the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Input {
    /// The deadline that the node asked for has come; harmless at any time.
    Timeout,
    /// A control connection was accepted. The driver chose `conn`, an odd number never used before.
    Accepted {
        /// The connection.
        conn: ConnId,
        /// Who dialled.
        remote: SocketAddr,
    },
    /// A connection that the node dialled is open.
    Connected {
        /// The connection.
        conn: ConnId,
        /// Where it went.
        remote: SocketAddr,
    },
    /// Bytes arrived on a control connection.
    Received {
        /// The connection.
        conn: ConnId,
        /// The bytes, as many as there were.
        bytes: Vec<u8>,
    },
    /// A control connection could not be opened, broke, or was closed by the other side.
    Closed {
        /// The connection.
        conn: ConnId,
        /// What the system said.
        reason: String,
    },
    /// A sleeve packet that is for the node, not for the data plane: a handshake or Control packet.
    Datagram {
        /// How it came.
        origin: Origin,
        /// The whole packet.
        bytes: Vec<u8>,
    },
    /// The system refused a datagram as too big for the path to `to`.
    TooBig {
        /// Where it was to go.
        to: SocketAddr,
        /// The largest UDP payload that may fit: one byte less than was refused.
        payload_max: usize,
    },
    /// A station is on our bridge: attached, or seen as the source of a frame.
    Station {
        /// Its Ethernet address.
        mac: Mac,
        /// IP addresses known to be its own; added to those known before.
        addresses: Vec<IpAddr>,
        /// Attached by the router (lives until [`Self::StationGone`]), or learnt from frames (lives a while).
        attached: bool,
    },
    /// A station was detached.
    StationGone {
        /// Its Ethernet address.
        mac: Mac,
    },
    /// Change names of this peer; answered at once by [`super::output::Output::NamesAnswer`].
    Names(NameRequest),
    /// The data plane exchanged frames with peers since it last said so, a moment ago, or passed packets on.
    Busy {
        /// With whom frames were exchanged, each once.
        peers: Vec<PeerName>,
        /// To whom packets of others were passed on straight, each once.
        onward: Vec<PeerName>,
    },
    /// The kernel sent frames to stations of these peers, each once, by the fast datapath since that was looked at last, a second or so ago.
    Carried {
        /// To whom.
        peers: Vec<PeerName>,
    },
    /// The data plane was busy for this share of its time of late, in thousandths, and is until it says otherwise.
    Load(u16),
    /// The data plane has a frame for this peer and no session to seal it with.
    SessionWanted {
        /// The peer.
        peer: PeerName,
    },
    /// The data plane sends frames to this peer, one station to another, by relays.
    StraightWanted {
        /// The peer.
        peer: PeerName,
    },
    /// The session with this index of ours has sealed [`crate::crypto::session::REKEY_AFTER_PACKETS`] packets.
    SessionWorn {
        /// Our index of it.
        index: u32,
    },
    /// What the host can do of the fast datapath.
    FastDatapath(Ability),
    /// Largest IP packet of a container in bytes: its MTU.
    ContainerMtu(u16),
    /// The kernel receives with a planned set of security associations, or says why it does not.
    EspInstalled {
        /// The peer.
        peer: PeerName,
        /// SPI of lane 0.
        spi: u32,
        /// Why not, in words.
        error: Option<String>,
    },
    /// The kernel sends to a peer as planned, or says why it does not.
    FastInstalled {
        /// The peer.
        peer: PeerName,
        /// Its planned address.
        remote: IpAddr,
        /// SPI of lane 0 of what it seals with; None for in clear.
        spi: Option<u32>,
        /// Why not, in words.
        error: Option<String>,
    },
    /// A set of security associations that we seal with has sealed all it should, or is gone from the kernel.
    EspEnded {
        /// SPI of lane 0.
        spi: u32,
        /// It is gone: nothing is sealed with it any more.
        lost: bool,
    },
    /// The kernel refused packets of the fast datapath lately, for this reason in words: heartbeats may be among them.
    PacketsRefused(String),
    /// The host's own addresses, now: told to peers as places to find us.
    LocalAddresses(Vec<IpAddr>),
    /// Connect to these targets as well, or instead of all earlier ones.
    Connect {
        /// Where.
        targets: Vec<Target>,
        /// Forget all earlier targets.
        replace: bool,
    },
    /// Forget these targets; connections that exist go on.
    Forget {
        /// Which.
        targets: Vec<Target>,
    },
    /// Something is asked of the allocator; [`super::output::Output::AddressAnswer`] answers within ten seconds.
    Addresses {
        /// To be repeated in the answer.
        id: u64,
        /// What.
        request: AddressRequest,
    },
    /// The state of [`super::output::Output::Keep`] with this number is stored, or cannot be and will be tried again.
    Kept {
        /// Its number; all earlier states are stored with it.
        number: u64,
        /// Why not, in words.
        error: Option<String>,
    },
    /// Say goodbye to all peers; the node is quiet afterwards.
    Leave,
}

/// How a packet of a link reached us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Origin {
    /// By UDP, from this address.
    Direct(SocketAddr),
    /// In a relay record; sealed by this peer if it is authentic at all.
    Relayed(PeerName),
    /// As a heartbeat, through the fast datapath.
    Fast,
    /// By the port for ESP in UDP.
    Encap {
        /// From this address.
        from: SocketAddr,
        /// To this one of ours.
        to: IpAddr,
    },
}

/// A place to find a peer, as a person writes it: `host`, `host:port`, `address`, `[v6]:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Target {
    host: String,
    port: Option<u16>,
}

/// What is wrong with a target.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("`{0}` is not a peer: expected HOST, HOST:PORT, an IP address or [IPv6]:PORT")]
pub struct TargetError(String);

impl Target {
    /// The host's name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was given; otherwise the network's.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: Some(address.port()) }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bad = || TargetError(text.chars().take(TARGET_MAX).collect());
        if text.is_empty() || text.len() > TARGET_MAX {
            return Err(bad());
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|p| *p != 0).ok_or_else(bad)?)),
            None => (text, None),
        };
        // RFC 1123 §2.1, with underscores, which resolvers take. A name of digits and dots alone is a mistyped address.
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
        };
        let is_name = host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
            && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if is_name { Ok(Self { host: host.to_owned(), port }) } else { Err(bad()) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_people_write() {
        for (text, host, port) in [
            ("host-1", "host-1", None),
            ("host.example.com:7000", "host.example.com", Some(7000)),
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:6783", "10.0.0.1", Some(6783)),
            ("fd00::1", "fd00::1", None),
            ("[fd00::1]:6783", "fd00::1", Some(6783)),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host(), target.port()), (host, port), "{text}");
            assert_eq!(target.to_string(), text);
        }
        for bad in ["", ":", "host:", "host:0", "host:70000", "a b", "10.0.0.256", "10.0.0", "-x", "a..b", "host/x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
