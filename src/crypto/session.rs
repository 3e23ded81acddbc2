//! One established session: two keys, a packet counter, a replay window; and the contexts that seal and open with them.
//!
//! A [`Session`] is shared by all threads and needs no lock. A [`SessionContext`] is one thread's cipher state for it.
//! Data and Control packets of a link are two sessions with keys of their own, so neither uses up the other's numbers.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use boring::aead::{AeadCtx, Algorithm};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::replay::ReplayWindow;
use crate::wire::sleeve::{HEADER_LEN, Header, PACKET_OVERHEAD, PacketType, TAG_LEN};

/// A session is renewed after this many packets (DESIGN.md).
pub const REKEY_AFTER_PACKETS: u64 = 1 << 32;
/// A session seals no more than this: far from the replay window's limit, long after a rekey was due.
pub const REJECT_AFTER_PACKETS: u64 = 1 << 35;

/// An AEAD of the data plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    /// AES-256-GCM (RFC 5116): where both processors have AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): elsewhere.
    ChaCha20Poly1305,
}

/// Why a packet was not sealed or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SessionError {
    /// The session sealed all the packets that it may.
    #[error("session used up")]
    UsedUp,
    /// Seen before, or too old to tell.
    #[error("replayed")]
    Replayed,
    /// Not sealed with this session's key, or changed since.
    #[error("not authentic")]
    NotAuthentic,
    /// No room for header and tag.
    #[error("too short")]
    TooShort,
}

/// A 256-bit key, wiped when dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// The shared state of one session.
pub struct Session {
    packet_type: PacketType,
    local: u32,
    remote: u32,
    cipher: Cipher,
    send_key: Key,
    receive_key: Key,
    next: AtomicU64,
    window: ReplayWindow,
}

impl Session {
    /// A session for packets of `packet_type`, which peers send to us with index `local` and we to them with index `remote`.
    pub fn new(
        packet_type: PacketType,
        local: u32,
        remote: u32,
        cipher: Cipher,
        send_key: Key,
        receive_key: Key,
    ) -> Self {
        Self {
            packet_type,
            local,
            remote,
            cipher,
            send_key,
            receive_key,
            next: AtomicU64::new(0),
            window: ReplayWindow::default(),
        }
    }

    /// The index by which packets of this session reach us.
    pub fn local_index(&self) -> u32 {
        self.local
    }

    /// The index by which packets of this session reach the other side.
    pub fn remote_index(&self) -> u32 {
        self.remote
    }

    /// The AEAD in use.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Packets sealed so far.
    pub fn sealed(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// Packets opened so far.
    pub fn opened(&self) -> u64 {
        self.window.accepted()
    }

    fn claim_counter(&self) -> Result<u64, SessionError> {
        let counter = self.next.fetch_add(1, Relaxed);
        if counter < REJECT_AFTER_PACKETS { Ok(counter) } else { Err(SessionError::UsedUp) }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("cipher", &self.cipher)
            .finish_non_exhaustive()
    }
}

/// One thread's cipher state for one session.
pub struct SessionContext {
    seal: AeadCtx,
    open: AeadCtx,
}

impl SessionContext {
    /// Cipher state for `session`.
    ///
    /// # Panics
    /// When BoringSSL cannot allocate.
    #[expect(clippy::expect_used, reason = "a 32-byte key fits both algorithms; only lack of memory is left")]
    pub fn new(session: &Session) -> Self {
        let algorithm = match session.cipher {
            Cipher::Aes256Gcm => Algorithm::aes_256_gcm(),
            Cipher::ChaCha20Poly1305 => Algorithm::chacha20_poly1305(),
        };
        let context = |key: &Key| AeadCtx::new_default_tag(&algorithm, &key[..]).expect("a 32-byte key and memory");
        Self { seal: context(&session.send_key), open: context(&session.receive_key) }
    }

    /// Seals `packet` in place: 16 bytes for the header, the body, 16 bytes for the tag.
    pub fn seal(&mut self, session: &Session, packet: &mut [u8]) -> Result<(), SessionError> {
        let counter = session.claim_counter()?;
        let (header, body, tag) = split(packet)?;
        header.copy_from_slice(&Header { packet_type: session.packet_type, receiver: session.remote, counter }.bytes());
        self.seal.seal_in_place_mut(&nonce(counter), body, tag, header).map_err(|_| SessionError::UsedUp)?;
        Ok(())
    }

    /// Opens `packet`, whose header was parsed as `header`, in place and returns its body. A packet is opened once.
    pub fn open<'a>(
        &mut self,
        session: &Session,
        header: &Header,
        packet: &'a mut [u8],
    ) -> Result<&'a mut [u8], SessionError> {
        if !session.window.is_fresh(header.counter) {
            return Err(SessionError::Replayed);
        }
        let (clear, body, tag) = split(packet)?;
        self.open
            .open_in_place_mut(&nonce(header.counter), body, tag, clear)
            .map_err(|_| SessionError::NotAuthentic)?;
        if !session.window.accept(header.counter) {
            return Err(SessionError::Replayed);
        }
        Ok(body)
    }
}

impl fmt::Debug for SessionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionContext").finish_non_exhaustive()
    }
}

/// Four zero bytes and the counter (RFC 5116 §3.2, a fixed field and a counter): unique, as keys belong to one direction.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

#[expect(clippy::type_complexity, reason = "three parts of one packet")]
fn split(packet: &mut [u8]) -> Result<(&mut [u8], &mut [u8], &mut [u8]), SessionError> {
    let body_len = packet.len().checked_sub(PACKET_OVERHEAD).ok_or(SessionError::TooShort)?;
    let (header, rest) = packet.split_at_mut_checked(HEADER_LEN).ok_or(SessionError::TooShort)?;
    let (body, tag) = rest.split_at_mut_checked(body_len).ok_or(SessionError::TooShort)?;
    debug_assert_eq!(tag.len(), TAG_LEN);
    Ok((header, body, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(cipher: Cipher) -> (Session, Session) {
        let (one, two) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        let a = Session::new(PacketType::Data, 10, 20, cipher, one.clone(), two.clone());
        let b = Session::new(PacketType::Data, 20, 10, cipher, two, one);
        (a, b)
    }

    fn sealed(session: &Session, body: &[u8]) -> Vec<u8> {
        let mut packet = [&[0; HEADER_LEN], body, &[0; TAG_LEN]].concat();
        SessionContext::new(session).seal(session, &mut packet).unwrap();
        packet
    }

    #[test]
    fn what_one_side_seals_the_other_opens_once() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let (a, b) = pair(cipher);
            let mut context = SessionContext::new(&b);
            let packet = sealed(&a, b"hello");
            let header = Header::parse(&packet).unwrap();
            assert_eq!((header.receiver, header.counter), (20, 0));
            assert!(!packet.windows(5).any(|w| w == b"hello"));
            assert_eq!(context.open(&b, &header, &mut packet.clone()).unwrap(), b"hello");
            assert_eq!(context.open(&b, &header, &mut packet.clone()), Err(SessionError::Replayed));
            assert_eq!((a.sealed(), a.opened(), b.opened()), (1, 0, 1));
        }
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed_and_costs_nothing() {
        let (a, b) = pair(Cipher::Aes256Gcm);
        let mut context = SessionContext::new(&b);
        let packet = sealed(&a, b"hello");
        for bit in 0..packet.len() * 8 {
            let mut forged = packet.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            if let Some(header) = Header::parse(&forged) {
                assert!(context.open(&b, &header, &mut forged).is_err(), "bit {bit}");
            }
        }
        let header = Header::parse(&packet).unwrap();
        assert!(context.open(&b, &header, &mut { packet }).is_ok(), "forgeries did not use up its number");
    }
}
