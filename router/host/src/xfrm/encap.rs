//! The socket that ESP in UDP comes by (RFC 3948): the kernel takes what is ESP, and we what is not.
//!
//! A datagram whose first four bytes are nought (the non-ESP marker, where ESP would have its SPI) is for us; the kernel drops single
//! bytes of 0xff, which keep a NAT's binding alive. States with [`weft::fastdp::SaSet::encap`] send from this port, as it were, without
//! the socket; but without it nothing is received.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{error::HostError, sockopt};

/// In front of what is not ESP.
const MARKER: [u8; 4] = [0; 4];
/// `UDP_ENCAP_ESPINUDP` (linux/udp.h)
const ESP_IN_UDP: libc::c_int = 2;
/// What keeps a binding of a NAT alive (RFC 3948 §2.3).
const KEEPALIVE: [u8; 1] = [0xff];

/// One non-blocking socket of one protocol family.
#[derive(Debug)]
pub struct EncapSocket(UdpSocket);

impl EncapSocket {
    /// Opens one for IPv4 or IPv6 on all addresses of the host in the namespace of the calling thread. Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When the port is taken, or the kernel cannot do ESP in UDP (over IPv6: before 5.8).
    pub fn bind(ipv6: bool, port: u16) -> Result<Self, HostError> {
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let address = SocketAddr::new(any, port);
        let failed = |doing: &str| {
            let doing = format!("{doing} for ESP in UDP on {address}");
            move |error: io::Error| HostError::io(&doing, &error)
        };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
            .map_err(failed("open a socket"))?;
        if ipv6 {
            socket.set_only_v6(true).map_err(failed("keep IPv4 out of a socket"))?;
        }
        socket.set_nonblocking(true).map_err(failed("prepare a socket"))?;
        sockopt::set(&socket, libc::SOL_UDP, libc::UDP_ENCAP, ESP_IN_UDP).map_err(failed("set UDP_ENCAP"))?;
        socket.bind(&address.into()).map_err(failed("bind a socket"))?;
        Ok(Self(socket.into()))
    }

    /// The port that it is bound to.
    ///
    /// # Errors
    /// None is expected.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// Takes a datagram that is not ESP, without its marker, and whence it came; `buffer` needs four bytes more than the longest. None
    /// when nothing waits.
    ///
    /// # Errors
    /// A pending error of the socket; it is gone with that.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(&'a [u8], SocketAddr)>> {
        let (length, from) = loop {
            match self.0.recv_from(buffer) {
                // Shorter ones reach us as well.
                Ok((length, _)) if length < MARKER.len() => {}
                Ok(received) => break received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        Ok(Some((buffer.get(MARKER.len()..length).unwrap_or_default(), from)))
    }

    /// Sends a datagram that is not ESP.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let marked = [&MARKER, bytes].concat();
        self.0.send_to(&marked, to).map(drop)
    }

    /// Keeps the binding of a NAT on the way to `to` alive.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn keep_alive(&self, to: SocketAddr) -> io::Result<()> {
        self.0.send_to(&KEEPALIVE, to).map(drop)
    }
}

impl AsFd for EncapSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_esp_comes_through() {
        // A kernel without ESP delivers all that has the marker as well.
        for ipv6 in [false, true] {
            let (one, two) = (EncapSocket::bind(ipv6, 0).unwrap(), EncapSocket::bind(ipv6, 0).unwrap());
            let loopback: IpAddr = if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
            let to = |socket: &EncapSocket| SocketAddr::new(loopback, socket.port().unwrap());
            let mut buffer = [0; 16];
            assert_eq!(two.receive(&mut buffer).unwrap(), None);
            one.keep_alive(to(&two)).unwrap();
            one.send(to(&two), b"hello").unwrap();
            assert_eq!(two.receive(&mut buffer).unwrap(), Some((&b"hello"[..], to(&one))));
        }
    }

    #[test]
    fn a_taken_port_is_told() {
        let taken = EncapSocket::bind(false, 0).unwrap();
        let error = EncapSocket::bind(false, taken.port().unwrap()).unwrap_err();
        assert!(error.is_errno(&[nix::errno::Errno::EADDRINUSE]), "{error}");
    }
}
