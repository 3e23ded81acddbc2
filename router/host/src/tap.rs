//! The TAP device: where the bridge hands frames to the sleeve and takes them back. Multi-queue, with offloads.
//!
//! Each read gives, and each write takes, a 12-byte virtio-net header (`struct virtio_net_hdr_v1`, VIRTIO 1.2 §5.1.6)
//! and one frame, which may be a super-frame of up to 64 KiB that is still to be cut into segments (TSO, USO), or whose
//! checksum is still to be filled in. What the header means is the core's business. The device lives as long as its
//! queues; addresses, MTU, state and the bridge are set by netlink, elsewhere.
#![expect(unsafe_code, reason = "the three ioctls that make a TAP device have no safe wrapper")]

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use thiserror::Error;

const CLONE_DEVICE: &str = "/dev/net/tun";
/// Bytes of the header in front of each frame.
pub const VNET_HEADER_LEN: usize = 12;
/// Bytes that hold whatever one read gives: header, Ethernet with a VLAN tag, and the largest IP packet.
pub const READ_LEN: usize = VNET_HEADER_LEN + 18 + 65_535;
/// What the kernel may leave to us: checksums, TCP segmentation.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// And UDP segmentation (Linux 6.2 and later).
const OFFLOADS_UDP: libc::c_uint = OFFLOADS | libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Why there is no TAP device.
#[derive(Debug, Error)]
pub enum TapError {
    /// The kernel, or the container that we are in, has no TUN/TAP driver.
    #[error(
        "cannot open {CLONE_DEVICE}: it does not exist. Load the driver with `modprobe tun`; in a container, pass the device in"
    )]
    NoDriver,
    /// Not allowed to.
    #[error(
        "no permission to make the TAP device {0}: run as root, or with CAP_NET_ADMIN and access to {CLONE_DEVICE}"
    )]
    Denied(String),
    /// There is a device of that name.
    #[error(
        "the device {0} exists already: another router runs in this network namespace, or it was left over; look with `ip -d link show {0}`"
    )]
    Busy(String),
    /// Not a name for a device.
    #[error("`{0}` cannot be a device's name: use 1 to 15 bytes without `/`, `%` and spaces")]
    BadName(String),
    /// Anything else.
    #[error("making the TAP device {name}: {step} failed: {source}")]
    Kernel {
        /// The device.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// One queue of a TAP device, non-blocking. The device vanishes with its last queue.
#[derive(Debug)]
pub struct TapQueue {
    file: File,
    has_udp_offload: bool,
}

/// Makes the device `name`, down, with `queues` queues (at least one).
///
/// # Errors
/// As [`TapError`] says; nothing is left behind then.
pub fn create(name: &str, queues: usize) -> Result<Vec<TapQueue>, TapError> {
    let is_name = (1..libc::IFNAMSIZ).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c == '%' || c == ':' || c.is_whitespace() || c.is_control());
    if !is_name || name == "." || name == ".." {
        return Err(TapError::BadName(name.to_owned()));
    }
    (0..queues.max(1)).map(|number| TapQueue::open(name, number == 0)).collect()
}

impl TapQueue {
    /// Reads header and frame into `buffer`, which should have [`READ_LEN`] bytes, and returns their length.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; EBADFD when the device was deleted.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| (&self.file).read(buffer))
    }

    /// Writes one frame with its header.
    ///
    /// # Errors
    /// EIO while the device is down; EINVAL for a header that does not fit the frame; EBADFD when the device was deleted.
    pub fn write(&self, header: &[u8; VNET_HEADER_LEN], frame: &[u8]) -> io::Result<()> {
        retry(|| (&self.file).write_vectored(&[IoSlice::new(header), IoSlice::new(frame)])).map(|_| ())
    }

    /// Whether UDP super-frames may be written (Linux 6.2 and later); TCP ones always.
    pub fn has_udp_offload(&self) -> bool {
        self.has_udp_offload
    }

    fn open(name: &str, first: bool) -> Result<Self, TapError> {
        let mut open = OpenOptions::new();
        open.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = open.open(CLONE_DEVICE).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => TapError::NoDriver,
            Some(libc::EACCES | libc::EPERM) => TapError::Denied(name.to_owned()),
            Some(_) | None => TapError::Kernel { name: name.to_owned(), step: "opening /dev/net/tun", source },
        })?;
        let failed = |step| move |source| TapError::Kernel { name: name.to_owned(), step, source };
        set_interface(&file, name, first).map_err(|source| match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => TapError::Denied(name.to_owned()),
            Some(libc::EBUSY) => TapError::Busy(name.to_owned()),
            // A device of that name which is no TAP, or has one queue only.
            Some(libc::EINVAL) => TapError::Busy(name.to_owned()),
            Some(_) | None => failed("TUNSETIFF")(source),
        })?;
        set_header_len(&file).map_err(failed("TUNSETVNETHDRSZ"))?;
        let has_udp_offload = set_offloads(&file, OFFLOADS_UDP).is_ok();
        if !has_udp_offload {
            set_offloads(&file, OFFLOADS).map_err(failed("TUNSETOFFLOAD"))?;
        }
        Ok(Self { file, has_udp_offload })
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Makes the device (`first`), refusing one that exists, or one more queue of it.
fn set_interface(file: &File, name: &str, first: bool) -> io::Result<()> {
    let exclusive = if first { libc::IFF_TUN_EXCL } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | exclusive;
    // SAFETY: ifreq is plain old data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    // The flags are 16 bits wide in the kernel; the highest is the sign here.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open; TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

fn set_header_len(file: &File) -> io::Result<()> {
    let len = VNET_HEADER_LEN as libc::c_int;
    // SAFETY: the descriptor is open; TUNSETVNETHDRSZ reads one int, which lives until the call returns.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

fn set_offloads(file: &File, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open; TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        poll::Poller,
        testing::{in_namespace, ip},
    };

    #[test]
    fn the_kernel_answers_a_frame_that_we_write() {
        in_namespace(|| {
            let queues = create("weft-tap", 2).unwrap();
            ip("link set weft-tap up");
            ip("address add 10.9.0.1/24 dev weft-tap");
            let poller = Poller::new().unwrap();
            for (number, queue) in queues.iter().enumerate() {
                poller.add(queue, number).unwrap();
            }
            // ARP (RFC 826): who has 10.9.0.1, tell 10.9.0.2.
            let sender = [2, 0, 0, 0, 0, 9];
            let mut request = [&[0xff; 6][..], &sender, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &sender].concat();
            request.extend([10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1]);
            queues[1].write(&[0; VNET_HEADER_LEN], &request).unwrap();
            let mut buffer = vec![0; READ_LEN];
            loop {
                let ready = poller.wait(Duration::from_secs(5)).unwrap();
                assert_ne!(ready, crate::poll::Ready::default(), "no answer");
                let number = usize::from(!ready.contains(0));
                let len = queues[number].read(&mut buffer).unwrap();
                let frame = &buffer[VNET_HEADER_LEN..len];
                // IPv6 speaks up by itself; wait for the ARP answer.
                if frame[..6] == sender {
                    assert_eq!(frame[12..14], [8, 6]);
                    assert_eq!((frame[21], &frame[28..32]), (2, &[10, 9, 0, 1][..]), "{frame:?}");
                    break;
                }
            }
        });
    }

    #[test]
    fn a_device_has_one_owner_and_vanishes_with_it() {
        in_namespace(|| {
            let queues = create("weft-tap", 3).unwrap();
            assert_eq!(queues.len(), 3);
            assert!(matches!(create("weft-tap", 1), Err(TapError::Busy(_))));
            drop(queues);
            // A process that another test is just starting holds copies of the queues until it executes its program.
            let deadline = Instant::now() + Duration::from_secs(5);
            let queue = loop {
                match create("weft-tap", 0) {
                    Err(TapError::Busy(_)) if Instant::now() < deadline => std::thread::yield_now(),
                    result => break result.unwrap(),
                }
            };
            assert_eq!(queue.len(), 1);
            ip("link add br0 type bridge");
            assert!(matches!(create("br0", 1), Err(TapError::Busy(_))));
        });
    }

    #[test]
    fn a_deleted_or_sleeping_device_is_an_error_not_a_panic() {
        in_namespace(|| {
            let queue = create("weft-tap", 1).unwrap().remove(0);
            let mut buffer = vec![0; READ_LEN];
            assert_eq!(queue.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!(
                queue.write(&[0; VNET_HEADER_LEN], &[0; 60]).unwrap_err().raw_os_error(),
                Some(libc::EIO),
                "down"
            );
            ip("link delete weft-tap");
            assert_eq!(queue.read(&mut buffer).unwrap_err().raw_os_error(), Some(libc::EBADFD));
        });
    }

    #[test]
    fn only_device_names_are_taken() {
        for bad in ["", "sixteen-bytes-is", "a/b", "a b", "weft%d", "..", "a:b"] {
            assert!(matches!(create(bad, 1), Err(TapError::BadName(_))), "{bad}");
        }
    }
}
