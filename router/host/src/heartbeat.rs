//! The socket for heartbeats: Ethernet frames of their own type, sent and received at the bridge.
//!
//! ```text
//! heartbeat address of the receiver (6) | that of the sender (6) | HEARTBEAT_ETHERTYPE (2) | a sealed packet
//! ```
//! What the packet says is for the core to open. No frame of another type ever wakes this socket.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::{errno::Errno, net::if_::if_nametoindex};
use weft::{
    fastdp::{HEARTBEAT_ETHERTYPE, heartbeat_mac},
    id::{Mac, PeerName},
};

use crate::{error::HostError, packet_socket::PacketSocket};

const ETHERNET_LEN: usize = 14;

/// Sends and receives heartbeats at the bridge of the namespace that it was opened in. Non-blocking.
#[derive(Debug)]
pub struct HeartbeatSocket {
    socket: PacketSocket,
    own: Mac,
}

impl HeartbeatSocket {
    /// Opens one at a bridge, for the heartbeats of `own`. A bridge that is made anew needs a new one.
    ///
    /// # Errors
    /// [`HostError::NoBridge`], or what the kernel says.
    pub fn open(bridge: &str, own: PeerName) -> Result<Self, HostError> {
        let device = if_nametoindex(bridge).map_err(|errno| {
            let missing = errno == Errno::ENODEV;
            if missing {
                HostError::NoBridge(bridge.to_owned())
            } else {
                HostError::kernel("look for the bridge", errno)
            }
        })?;
        let socket = PacketSocket::open(device, HEARTBEAT_ETHERTYPE)
            .map_err(|error| HostError::io("open a socket for heartbeats", &error))?;
        Ok(Self { socket, own: heartbeat_mac(own) })
    }

    /// Sends a packet of at most the bridge's MTU to a peer that the plan in force knows; to another it would go to every station.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is full; EMSGSIZE above the MTU; ENETDOWN when the bridge is down, ENXIO when it is gone.
    pub fn send(&self, to: PeerName, from: PeerName, packet: &[u8]) -> io::Result<()> {
        let mut header = [0; ETHERNET_LEN];
        let [destination, source] = [heartbeat_mac(to).0, heartbeat_mac(from).0];
        let bytes = destination.into_iter().chain(source).chain(HEARTBEAT_ETHERTYPE.to_be_bytes());
        header.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        self.socket.send(&[IoSlice::new(&header), IoSlice::new(packet)])
    }

    /// Takes a packet into `buffer`, and returns its length; none if what came was not meant for us or had no room: there may be more.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; ENETDOWN once when the bridge went down or was removed.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut header = [0; ETHERNET_LEN];
        let received = self.socket.receive(&mut header, buffer)?;
        // Groups and floods come past here too.
        let ours = !received.outgoing && !received.cut && header.starts_with(&self.own.0);
        Ok(received.length.checked_sub(ETHERNET_LEN).filter(|_| ours))
    }
}

impl AsFd for HeartbeatSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for HeartbeatSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
