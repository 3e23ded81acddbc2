//! Frames written to one TAP and read from another, a bridge between them: a thread at each end.

use std::{
    io::ErrorKind::WouldBlock,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use weft::frame::{
    checksum,
    vnet::{Checksum, Gso, GsoKind, Header},
};
use weft_host::{
    poll::Poller,
    tap::{self, READ_LEN},
};
use weft_integration::lab::namespace::{Namespace, join};

/// Length of a super-frame of TCP.
pub(crate) const SUPER: usize = ETHERNET + 65_000;
const ETHERNET: usize = 14;
/// Headers of Ethernet, IPv4 and TCP.
const HEADERS: usize = ETHERNET + 20 + 20;
/// Longer frames are cut into segments of so many bytes of payload by whoever needs them cut.
const SEGMENT: u16 = 1300;
/// How often the reader looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes of frames of `len` bytes that are read in a second.
pub(crate) fn measure(namespace: &Namespace, len: usize, span: Duration) -> Result<f64> {
    let open = |name: &'static str| namespace.within(move || Ok(tap::create(name, 1)?.remove(0)));
    let (near, far) = (open("near")?, open("far")?);
    namespace.ip("link add between type bridge mcast_snooping 0 forward_delay 0\nlink set between up\n")?;
    namespace.ip("link set near master between up\nlink set far master between up\n")?;
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    let reading = namespace.spawn(move || {
        let (poller, mut buffer, mut bytes) = (Poller::new()?, vec![0; READ_LEN], 0.0);
        poller.add(&far, 0)?;
        while !told.load(Relaxed) {
            match far.read(&mut buffer) {
                Ok(read) => bytes += read as f64,
                Err(error) if error.kind() == WouldBlock => poller.wait(LOOK).map(drop)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    })?;
    let (header, frame) = tcp(len);
    let (bytes, began) = (header.bytes(), Instant::now());
    while began.elapsed() < span {
        near.write(&bytes, &frame)?;
    }
    is_over.store(true, Relaxed);
    let rate = join(reading)? / began.elapsed().as_secs_f64();
    namespace.ip("link del between\n")?;
    Ok(rate)
}

/// A frame of TCP in IPv4, as good as a bridge needs it, and what the TAP is told of it.
fn tcp(len: usize) -> (Header, Vec<u8>) {
    let mut frame = vec![0; len];
    frame[..ETHERNET].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00]);
    let total = ((len - ETHERNET) as u16).to_be_bytes();
    frame[ETHERNET..ETHERNET + 12].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    let sum = checksum::finish(checksum::sum(&frame[ETHERNET..ETHERNET + 20]));
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame[HEADERS - 8] = 0x50;
    let gso = (len > 1500).then_some(Gso { kind: GsoKind::TcpV4, size: SEGMENT, header_len: HEADERS as u16 });
    let checksum = Checksum::Needed { start: (HEADERS - 20) as u16, offset: 16 };
    (Header { checksum, gso }, frame)
}
