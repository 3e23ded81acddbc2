//! A socket that sends whole Ethernet frames out of one device (packet(7)).
#![expect(unsafe_code, reason = "no crate has a safe constructor for sockaddr_ll")]

use std::{io, mem::size_of};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// Sends on one device of the namespace that it was opened in; receives nothing.
pub(super) struct PacketSocket(Socket);

impl PacketSocket {
    pub(super) fn open(device: u32) -> io::Result<Self> {
        // Protocol nought: no frame is ever delivered to it.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        socket.bind(&address(device)?)?;
        Ok(Self(socket))
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }
}

fn address(device: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain integers, of which all bits are valid, and no larger nor more aligned than sockaddr_storage, as
    // every socket address (checked by view_as).
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_ifindex = i32::try_from(device).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage begins with a whole sockaddr_ll of that length, written above.
    Ok(unsafe { SockAddr::new(storage, length) })
}
