//! What a peer says of itself in the handshake of a control connection.

use std::net::SocketAddr;

use prost::Message;
use thiserror::Error;

use super::{
    Malformed,
    address::{socket_to_bytes, sockets_from_bytes},
};
use crate::{
    id::{Nickname, Uid},
    topology::record::ADDRESSES_MAX,
};

/// Longest hello in bytes.
pub const HELLO_MAX: usize = 4096;

/// Why a hello was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HelloError {
    /// Longer than [`HELLO_MAX`].
    #[error("the hello has {0} bytes, more than {HELLO_MAX}")]
    TooLong(usize),
    /// Not readable, or with values that cannot be.
    #[error("the hello cannot be read: {0}")]
    NotReadable(#[from] Malformed),
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What people call it.
    pub nickname: Nickname,
    /// This run of it: another one with the same key is a clone, or ourselves.
    pub uid: Uid,
    /// Its TCP and UDP port; not 0.
    pub port: u16,
    /// Where it believes that it can be found; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
}

#[derive(Clone, PartialEq, Message)]
struct HelloWire {
    #[prost(string, tag = "1")]
    nickname: String,
    #[prost(fixed64, tag = "2")]
    uid: u64,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(bytes = "vec", repeated, tag = "4")]
    addresses: Vec<Vec<u8>>,
}

impl Hello {
    /// The encoded form; addresses beyond [`ADDRESSES_MAX`] are left out.
    pub fn encode(&self) -> Vec<u8> {
        HelloWire {
            nickname: self.nickname.as_str().to_owned(),
            uid: self.uid.0,
            port: self.port.into(),
            addresses: self.addresses.iter().take(ADDRESSES_MAX).copied().map(socket_to_bytes).collect(),
        }
        .encode_to_vec()
    }

    /// Reads a hello.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() > HELLO_MAX {
            return Err(HelloError::TooLong(bytes.len()));
        }
        let wire = HelloWire::decode(bytes).map_err(Malformed::from)?;
        Ok(Self {
            nickname: wire.nickname.parse().map_err(|_| Malformed("a nickname that cannot be one"))?,
            uid: Uid(wire.uid),
            port: port_from_wire(wire.port)?,
            addresses: sockets_from_bytes(&wire.addresses, ADDRESSES_MAX)?,
        })
    }
}

/// A port that can be sent to.
pub(crate) fn port_from_wire(port: u32) -> Result<u16, Malformed> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or(Malformed("a port that cannot be one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let addresses = vec!["10.0.0.1:6783".parse().unwrap(), "[fd00::1]:6783".parse().unwrap()];
        Hello { nickname: "host-1".parse().unwrap(), uid: Uid(7), port: 6783, addresses }
    }

    #[test]
    fn a_hello_comes_back_as_it_went() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn the_largest_hello_is_accepted_and_has_no_more_addresses_than_allowed() {
        let mut large = hello();
        large.nickname = "x".repeat(64).parse().unwrap();
        large.addresses = vec!["[fd00::1]:6783".parse().unwrap(); ADDRESSES_MAX + 1];
        assert_eq!(Hello::decode(&large.encode()).unwrap().addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Hello::decode(&vec![0; HELLO_MAX + 1]), Err(HelloError::TooLong(HELLO_MAX + 1)));
        assert!(Hello::decode(&Hello { port: 0, ..hello() }.encode()).is_err());
        assert!(Hello::decode(&[]).is_err(), "no nickname");
    }

    #[test]
    fn any_bytes_are_a_hello_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(hello) = Hello::decode(bytes) {
                assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            }
        });
    }
}
