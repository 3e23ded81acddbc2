//! Addresses in messages: an IP address is 4 or 16 bytes, with a port two more, big endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Malformed;
use crate::id::PeerName;

/// The bytes of an IP address.
pub fn ip_to_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Reads an IP address that a single station can have.
pub fn ip_from_bytes(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        _ => <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
    }
    .map_err(|_| Malformed("an IP address of neither 4 nor 16 bytes"))?;
    if is_single(address) { Ok(address) } else { Err(Malformed("an IP address that no single station can have")) }
}

/// Whether one station can have this address: neither unspecified nor multicast nor broadcast.
pub fn is_single(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The bytes of a socket address.
pub fn socket_to_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = ip_to_bytes(address.ip());
    bytes.extend(address.port().to_be_bytes());
    bytes
}

/// Reads a socket address that can be sent to.
pub fn socket_from_bytes(bytes: &[u8]) -> Result<SocketAddr, Malformed> {
    let (ip, port) = bytes.split_last_chunk().ok_or(Malformed("a socket address too short for a port"))?;
    let port = u16::from_be_bytes(*port);
    if port == 0 {
        return Err(Malformed("a socket address with port 0"));
    }
    Ok(SocketAddr::new(ip_from_bytes(ip)?, port))
}

/// Reads a list of at most `max` socket addresses.
pub(crate) fn sockets_from_bytes(list: &[Vec<u8>], max: usize) -> Result<Vec<SocketAddr>, Malformed> {
    if list.len() > max {
        return Err(Malformed("more addresses than a peer may have"));
    }
    list.iter().map(|bytes| socket_from_bytes(bytes)).collect()
}

/// Reads a peer's name.
pub(crate) fn name_from_bytes(bytes: &[u8]) -> Result<PeerName, Malformed> {
    <[u8; 6]>::try_from(bytes).map(PeerName).map_err(|_| Malformed("a peer's name that is not 6 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["10.0.0.1:6783", "[fd00::1]:1", "127.0.0.1:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_from_bytes(&socket_to_bytes(address)), Ok(address));
        }
        assert_eq!(socket_to_bytes("10.0.0.1:6783".parse().unwrap()), [10, 0, 0, 1, 0x1a, 0x7f]);
    }

    #[test]
    fn addresses_of_nobody_are_refused() {
        for text in ["0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "[::]:1", "[ff02::1]:1", "10.0.0.1:0"] {
            assert!(socket_from_bytes(&socket_to_bytes(text.parse().unwrap())).is_err(), "{text}");
        }
    }

    #[test]
    fn any_bytes_are_an_address_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(address) = socket_from_bytes(bytes) {
                assert_eq!(socket_to_bytes(address), bytes);
            }
        });
    }
}
