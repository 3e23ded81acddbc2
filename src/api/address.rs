//! The addresses that containers and the host are given on the network, as people write them: `10.32.1.5/24`.
//!
//! Here is only their form; errors say what is wrong with it.

use std::net::{AddrParseError, IpAddr};

use ipnet::IpNet;
use thiserror::Error;

/// Longest text that is repeated in an error, in characters.
const SHOWN_MAX: usize = 64;

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
    fn any_text_is_read_without_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(net) = parse(&text) {
                assert_eq!(parse(&net.to_string()), Ok(net));
            }
        });
    }
}
