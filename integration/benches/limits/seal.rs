//! Sealing and opening, on one core.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft::{
    crypto::session::{Cipher, Session, SessionContext},
    wire::sleeve::{Header, PacketType},
};
use zeroize::Zeroizing;

/// What is sealed before it is opened: a worker's turn.
const TURN: usize = 256 << 10;

/// Bytes of packets in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// By who sends.
    pub(crate) sealed: f64,
    /// By who receives.
    pub(crate) opened: f64,
}

/// Seals packets of `len` bytes and opens them, a turn's at a time, for `span`.
pub(crate) fn measure(cipher: Cipher, len: usize, span: Duration) -> Result<Rates> {
    let session = |local, remote, keys: [u8; 2]| {
        let [send, receive] = keys.map(|fill| Zeroizing::new([fill; 32]));
        Session::new(PacketType::Data, local, remote, cipher, send, receive)
    };
    let (near, far) = (session(1, 2, [1, 2]), session(2, 1, [2, 1]));
    let (mut sealer, mut opener) = (SessionContext::new(&near), SessionContext::new(&far));
    let mut packets = vec![0x57; TURN / len * len];
    let (mut sealing, mut opening, mut bytes) = (Duration::ZERO, Duration::ZERO, 0.0);
    while sealing + opening < span {
        let began = Instant::now();
        packets.chunks_exact_mut(len).try_for_each(|packet| sealer.seal(&near, packet))?;
        let sealed = Instant::now();
        for packet in packets.chunks_exact_mut(len) {
            let header = Header::parse(packet).context("it has a header")?;
            opener.open(&far, &header, packet)?;
        }
        sealing += sealed - began;
        opening += sealed.elapsed();
        bytes += packets.len() as f64;
    }
    Ok(Rates { sealed: bytes / sealing.as_secs_f64(), opened: bytes / opening.as_secs_f64() })
}
