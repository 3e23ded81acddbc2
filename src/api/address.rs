//! The addresses that containers and the host are given on the network, as people write them.
//!
//! ```text
//! 10.32.1.5/24  ip:10.32.1.5/24   exactly this one
//! net:10.32.2.0/24                one of this subnet that is free
//! net:default                     one of each default subnet
//! ```
//! Here is only their form; errors say what is wrong with it.

use std::{
    fmt,
    net::{AddrParseError, IpAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Longest text that is repeated in an error, in characters.
const SHOWN_MAX: usize = 64;
/// Fewest host bits of a subnet that addresses are given out of: four addresses, of which two are usable in IPv4.
const HOST_BITS_MIN: u8 = 2;
/// Before an address that is to be given.
const GIVEN: &str = "ip:";
/// Before a subnet of which one is to be chosen.
const CHOSEN: &str = "net:";
/// For a subnet: those that the router was launched with.
const DEFAULT: &str = "default";

/// Why a text is no address with a prefix length.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum AddressError {
    /// Nothing behind a slash.
    #[error("`{0}` lacks its prefix length: write it like 10.32.1.5/24 or fd00::5/64")]
    NoPrefix(String),
    /// What is before the slash is no address.
    #[error("`{0}` does not begin with an IP address: write it like 10.32.1.5/24 or fd00::5/64")]
    NotAnAddress(String),
    /// What is behind the slash is no number, or too large a one.
    #[error("`{text}` has a bad prefix length: use 0 to {max}")]
    BadPrefix {
        /// As written.
        text: String,
        /// Bits of an address of this family.
        max: u8,
    },
    /// A subnet with bits set where its addresses differ.
    #[error("`{text}` is an address, not a subnet: its subnet is net:{subnet}")]
    HostBits {
        /// As written.
        text: String,
        /// What may have been meant.
        subnet: IpNet,
    },
    /// A subnet of fewer than four addresses.
    #[error("`{text}` is too small to give out addresses of: use a prefix length of at most {max}")]
    TooSmall {
        /// As written.
        text: String,
        /// Longest prefix length of this family.
        max: u8,
    },
}

/// An address that somebody wants for a container or the host, or wants to be rid of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum WantedAddress {
    /// Exactly this one, with the prefix length of its subnet.
    Given(IpNet),
    /// One of this subnet, which has no host bits and at least four addresses.
    Of(IpNet),
    /// One of each default subnet.
    #[default]
    OfDefault,
}

impl WantedAddress {
    /// The address, if it is one that is given.
    pub fn given(&self) -> Option<IpNet> {
        match self {
            Self::Given(net) => Some(*net),
            Self::Of(_) | Self::OfDefault => None,
        }
    }
}

impl FromStr for WantedAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix(CHOSEN) {
            Some(DEFAULT) => Ok(Self::OfDefault),
            Some(subnet) => parse_subnet(subnet).map(Self::Of),
            None => parse(text.strip_prefix(GIVEN).unwrap_or(text)).map(Self::Given),
        }
    }
}

impl fmt::Display for WantedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(net) => write!(f, "{net}"),
            Self::Of(subnet) => write!(f, "{CHOSEN}{subnet}"),
            Self::OfDefault => write!(f, "{CHOSEN}{DEFAULT}"),
        }
    }
}

impl Serialize for WantedAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WantedAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Reads a subnet to give out addresses of: without host bits, and with at least four addresses.
pub fn parse_subnet(text: &str) -> Result<IpNet, AddressError> {
    let net = parse(text)?;
    let shown = || text.chars().take(SHOWN_MAX).collect::<String>();
    if net != net.trunc() {
        return Err(AddressError::HostBits { text: shown(), subnet: net.trunc() });
    }
    let max = net.max_prefix_len() - HOST_BITS_MIN;
    if net.prefix_len() > max {
        return Err(AddressError::TooSmall { text: shown(), max });
    }
    Ok(net)
}

/// Reads an address with its prefix length. Whether a station can have it, the router's host knows.
pub fn parse(text: &str) -> Result<IpNet, AddressError> {
    let shown = || text.chars().take(SHOWN_MAX).collect::<String>();
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse(), Some(prefix)),
        None => (text.parse(), None),
    };
    let address: IpAddr = address.map_err(|_: AddrParseError| AddressError::NotAnAddress(shown()))?;
    let prefix = prefix.ok_or_else(|| AddressError::NoPrefix(shown()))?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let bad = || AddressError::BadPrefix { text: shown(), max };
    let prefix = prefix.parse().map_err(|_| bad())?;
    IpNet::new(address, prefix).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;

    use super::*;

    #[test]
    fn addresses_with_a_prefix_are_read() {
        for text in ["10.32.1.5/24", "10.0.0.0/31", "10.0.0.1/32", "fd00::5/64"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bad_address_says_what_is_wrong_with_it() {
        for (text, message) in [
            ("10.32.1.5", "lacks its prefix length"),
            ("10.32.1.500/24", "does not begin with an IP address"),
            ("", "does not begin with an IP address"),
            ("c1/24", "does not begin with an IP address"),
            ("10.32.1.5/33", "bad prefix length: use 0 to 32"),
            ("10.32.1.5/", "bad prefix length: use 0 to 32"),
            ("fd00::5/129", "bad prefix length: use 0 to 128"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_wanted_is_written_as_it_is_read() {
        let net = |text: &str| text.parse().unwrap();
        for (text, wanted) in [
            ("10.32.1.5/24", WantedAddress::Given(net("10.32.1.5/24"))),
            ("net:10.32.2.0/24", WantedAddress::Of(net("10.32.2.0/24"))),
            ("net:10.32.2.4/30", WantedAddress::Of(net("10.32.2.4/30"))),
            ("net:fd00::/64", WantedAddress::Of(net("fd00::/64"))),
            ("net:default", WantedAddress::OfDefault),
        ] {
            assert_eq!(text.parse(), Ok(wanted));
            assert_eq!(wanted.to_string(), text);
            let read: Result<_, de::value::Error> = WantedAddress::deserialize(text.into_deserializer());
            assert_eq!(read, Ok(wanted));
        }
        assert_eq!("ip:10.32.1.5/24".parse(), Ok(WantedAddress::Given(net("10.32.1.5/24"))));
    }

    #[test]
    fn a_bad_subnet_says_what_is_wrong_with_it() {
        for (text, message) in [
            ("net:10.32.2.5/24", "is an address, not a subnet: its subnet is net:10.32.2.0/24"),
            ("net:10.32.2.0/31", "is too small to give out addresses of: use a prefix length of at most 30"),
            ("net:10.32.2.0/32", "is too small"),
            ("net:fd00::/127", "use a prefix length of at most 126"),
            ("net:10.32.2.0", "lacks its prefix length"),
            ("net:", "does not begin with an IP address"),
            ("net:none", "does not begin with an IP address"),
            ("ip:", "does not begin with an IP address"),
            ("ip:net:default", "does not begin with an IP address"),
        ] {
            let error = text.parse::<WantedAddress>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn any_text_is_read_without_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            for text in [text.to_string(), format!("{CHOSEN}{text}"), format!("{GIVEN}{text}")] {
                if let Ok(wanted) = text.parse::<WantedAddress>() {
                    assert_eq!(wanted.to_string().parse(), Ok(wanted));
                }
            }
        });
    }
}
