//! The socket that ESP in UDP comes by (RFC 3948): the kernel takes what is ESP, and we what is not.
//!
//! A datagram whose first four bytes are nought (the non-ESP marker, where ESP would have its SPI) is for us. States with
//! [`weft::fastdp::SaSet::encap`] send from this port, as it were, without the socket; but without it nothing is received. IPv4 only, for
//! a NAT of IPv6 translates no ports.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::Ipv4PacketInfo},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{error::HostError, sockopt};

/// In front of what is not ESP.
const MARKER: [u8; 4] = [0; 4];
/// `UDP_ENCAP_ESPINUDP` (linux/udp.h)
const ESP_IN_UDP: libc::c_int = 2;

/// One non-blocking socket.
#[derive(Debug)]
pub struct EncapSocket(UdpSocket);

impl EncapSocket {
    /// Opens one on all addresses of the host in the namespace of the calling thread. Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When the port is taken, or the kernel cannot do ESP in UDP.
    pub fn bind(port: u16) -> Result<Self, HostError> {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let failed = |doing: &str| {
            let doing = format!("{doing} for ESP in UDP on {address}");
            move |error: io::Error| HostError::io(&doing, &error)
        };
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("open a socket"))?;
        socket.set_nonblocking(true).map_err(failed("prepare a socket"))?;
        let told = setsockopt(&socket, Ipv4PacketInfo, &true).map_err(io::Error::from);
        told.map_err(failed("ask for the addresses of datagrams"))?;
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

    /// Takes a datagram that is not ESP, without its marker, whence it came, and to which address of the host; `buffer` needs four
    /// bytes more than the longest. None when nothing waits.
    ///
    /// # Errors
    /// A pending error of the socket; it is gone with that.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(&'a [u8], SocketAddr, IpAddr)>> {
        let (length, from, to) = loop {
            match self.receive_any(buffer) {
                // Shorter ones reach us as well.
                Ok((length, Some(from), Some(to))) if length >= MARKER.len() => break (length, from, to),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Some((buffer.get(MARKER.len()..length).unwrap_or_default(), from, to)))
    }

    fn receive_any(&self, buffer: &mut [u8]) -> nix::Result<(usize, Option<SocketAddr>, Option<IpAddr>)> {
        let mut pieces = [IoSliceMut::new(buffer)];
        let mut control = cmsg_space!(libc::in_pktinfo);
        let fd = self.0.as_raw_fd();
        let message = recvmsg::<SockaddrIn>(fd, &mut pieces, Some(&mut control), MsgFlags::empty())?;
        let from = message.address.map(|from| SocketAddr::new(from.ip().into(), from.port()));
        let to = message.cmsgs()?.find_map(|told| {
            let ControlMessageOwned::Ipv4PacketInfo(info) = told else { return None };
            Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into())
        });
        Ok((message.bytes, from, to))
    }

    /// Sends a datagram that is not ESP.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let marked = [&MARKER, bytes].concat();
        self.0.send_to(&marked, to).map(drop)
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
    fn what_is_not_esp_comes_through_with_the_addresses_of_both_ends() {
        // A kernel without ESP delivers all that has the marker as well.
        let (one, two) = (EncapSocket::bind(0).unwrap(), EncapSocket::bind(0).unwrap());
        let own: IpAddr = [127, 0, 0, 3].into();
        let to = SocketAddr::new(own, two.port().unwrap());
        let from = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), one.port().unwrap());
        let mut buffer = [0; 16];
        assert_eq!(two.receive(&mut buffer).unwrap(), None);
        // What keeps the binding of a NAT alive (RFC 3948 §2.3) is for nobody.
        one.0.send_to(&[0xff], to).unwrap();
        one.send(to, b"hello").unwrap();
        let (bytes, whence, here) = two.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((bytes, here), (&b"hello"[..], own));
        assert_eq!(whence.port(), from.port());
    }

    #[test]
    fn a_taken_port_is_told() {
        let taken = EncapSocket::bind(0).unwrap();
        let error = EncapSocket::bind(taken.port().unwrap()).unwrap_err();
        assert!(error.is_errno(&[Errno::EADDRINUSE]), "{error}");
    }
}
