//! A socket for whole Ethernet frames of one device (packet(7)).
#![expect(unsafe_code, reason = "no crate has a safe constructor for sockaddr_ll")]

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::{LinkAddr, MsgFlags, recvmsg};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// A non-blocking socket for one device of the namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct PacketSocket(Socket);

/// A frame that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of it, header and payload.
    pub(crate) length: usize,
    /// Whether it was sent from here, and only shown to us.
    pub(crate) outgoing: bool,
    /// Whether there was no room for all of it.
    pub(crate) cut: bool,
}

impl PacketSocket {
    /// One that receives frames of this Ethernet type, and costs other frames nothing. With nought it receives none.
    pub(crate) fn open(device: u32, ethertype: u16) -> io::Result<Self> {
        // Protocol nought until it is bound: else it would receive from all devices.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        socket.bind(&address(device, ethertype)?)?;
        Ok(Self(socket))
    }

    /// Sends one frame, given in pieces.
    pub(crate) fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.send_vectored(frame).map(drop)
    }

    /// Takes one frame, the beginning of it into `header`. `WouldBlock` if none waits.
    pub(crate) fn receive(&self, header: &mut [u8], payload: &mut [u8]) -> io::Result<Received> {
        let mut pieces = [IoSliceMut::new(header), IoSliceMut::new(payload)];
        let message = recvmsg::<LinkAddr>(self.0.as_raw_fd(), &mut pieces, None, MsgFlags::empty())?;
        let outgoing = message.address.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
        Ok(Received { length: message.bytes, outgoing, cut: message.flags.contains(MsgFlags::MSG_TRUNC) })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn address(device: u32, ethertype: u16) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain integers, of which all bits are valid, and no larger nor more aligned than sockaddr_storage, as
    // every socket address (checked by view_as).
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_protocol = ethertype.to_be();
    link.sll_ifindex = i32::try_from(device).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage begins with a whole sockaddr_ll of that length, written above.
    Ok(unsafe { SockAddr::new(storage, length) })
}
