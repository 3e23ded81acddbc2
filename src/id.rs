//! Names: of peers, of networks, of Ethernet stations, of control connections.
//!
//! A peer's name is derived from its static public key (see [`crate::crypto::identity`]); here is only its form.
//! All are small values that print as people write them and parse back from that.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use thiserror::Error;

/// Longest nickname in bytes; longer ones are refused, so that a record has a bound.
pub const NICKNAME_MAX: usize = 64;
/// Longest network name in bytes.
pub const NETWORK_NAME_MAX: usize = 64;
/// The network's name where none is given.
pub const DEFAULT_NETWORK: &str = "weft";

/// What is wrong with a name.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum NameError {
    /// Not six colon-separated pairs of hexadecimal digits.
    #[error("`{0}` is not a MAC-like name: expected six pairs of hexadecimal digits, like 7e:52:00:aa:bb:01")]
    NotMac(String),
    /// Empty, too long, or with control characters.
    #[error("`{0}` cannot be a name: use 1 to {1} bytes without control characters")]
    BadText(String, usize),
}

/// An Ethernet address (IEEE 802, 48 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: broadcast or multicast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether it is a bridge-internal group address (IEEE 802.1D table 7-10: 01:80:c2:00:00:00 to 0f), never forwarded.
    pub fn is_link_local_group(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] < 0x10
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::NotMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

/// A router's name: 48 bits, written like a MAC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerName(pub [u8; 6]);

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Mac(self.0), f)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Mac::from_str(text).map(|mac| Self(mac.0))
    }
}

/// What people call a peer; by default its host's name. Need not be unique.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Nickname(String);

/// The name of a network: only peers of one network talk to each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct NetworkName(String);

impl Default for NetworkName {
    fn default() -> Self {
        Self(DEFAULT_NETWORK.to_owned())
    }
}

/// A control connection of this node; chosen by the node when it dials, by the driver when it accepts.
/// Dialled ones are even, accepted ones odd, so that the two never meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// One run of a router: random at each start, so that a restart and a copy of a data directory can be told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct Uid(pub u64);

fn checked_text(text: &str, max: usize) -> Result<String, NameError> {
    let fits = !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err(NameError::BadText(text.chars().take(max).collect(), max)) }
}

macro_rules! text_name {
    ($name:ident, $max:expr) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                checked_text(text, $max).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

text_name!(Nickname, NICKNAME_MAX);
text_name!(NetworkName, NETWORK_NAME_MAX);
serde_as_text!(Mac, PeerName, Nickname, NetworkName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_prints_as_it_parses() {
        let mac: Mac = "7e:52:00:aa:bb:01".parse().unwrap();
        assert_eq!(mac.to_string(), "7e:52:00:aa:bb:01");
        for bad in ["", "7e:52", "7e:52:00:aa:bb:01:02", "7e:52:00:aa:bb:zz", "7e520:0:aa:bb:01"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_bounded_and_printable() {
        assert!("host-1".parse::<Nickname>().is_ok());
        assert!("".parse::<Nickname>().is_err());
        assert!("a\nb".parse::<Nickname>().is_err());
        assert!("x".repeat(NICKNAME_MAX + 1).parse::<Nickname>().is_err());
    }
}
