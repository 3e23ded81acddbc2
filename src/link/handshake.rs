//! The link handshake: one packet each way makes two sessions between peers that know each other's static keys.
//!
//! It is WireGuard's (whitepaper §5.4) with other primitives: `Noise_IKpsk2_25519_AESGCM_SHA256`, whose prologue is a
//! label and the first eight bytes of the initiation.
//!
//! ```text
//! Initiation: 1 | 1 | 0 0 | sender index u32 LE |                         e, es, s, ss, payload | mac1 | mac2
//!   payload:  incarnation u64 LE | sequence u64 LE | preferred cipher u8 | up to 256 bytes for the node
//! Response:   2 | 1 | 0 0 | sender index u32 LE | receiver index u32 LE | e, ee, se, psk, payload | mac1 | mac2
//!   payload:  chosen cipher u8 | sender index u32 LE, and this one counts | up to 256 bytes for the node
//! ```
//! The pre-shared key enters with the response. So an initiation proves who sent it but not that it knows the network
//! secret, its payload is hidden from all but the responder, and the responder must not seal anything with the new sessions
//! before it opened something: that is the initiator's proof, and that it was no replay. Which stamp is new is for the
//! caller to say.

use snow::HandshakeState;
use thiserror::Error;
use zeroize::Zeroizing;

use super::cookie::{self, Cookie, MAC_LEN, MACS_LEN};
use crate::{
    crypto::{
        identity::{Identity, PublicKey},
        kdf,
        noise::{Role, Setup},
        session::{Cipher, Key, Session},
    },
    entropy::Entropy,
    secret::NetworkSecret,
    wire::sleeve::PacketType,
};

/// Most bytes that a handshake packet carries for the node.
pub const PAYLOAD_MAX: usize = 256;

const PATTERN: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";
const PSK_POSITION: u8 = 2;
const PROLOGUE_LABEL: &[u8] = b"weft link v1";
const INITIATION_START: usize = 8;
const RESPONSE_START: usize = 12;
/// Longest handshake packet: an initiation has two keys and two tags besides its payload of 17 bytes and the node's.
pub(super) const PACKET_MAX: usize = INITIATION_START + 2 * 32 + 2 * 16 + 17 + PAYLOAD_MAX + MACS_LEN;

/// What this side is; the same for all its links.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The static key pair.
    pub identity: Identity,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// The AEAD that this machine is fastest with.
    pub cipher: Cipher,
}

/// When an initiation was made, by the initiator's count. A responder takes only larger ones than the peer's last, so
/// that an old initiation played back starts nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stamp {
    /// Larger in each run of the initiator, such as its time of start.
    pub incarnation: u64,
    /// Larger in each initiation of one run.
    pub sequence: u64,
}

/// Why a handshake packet led to nothing.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum HandshakeError {
    /// Its form is wrong.
    #[error("malformed handshake packet")]
    Malformed,
    /// It was made for another static key, or answers none of our initiations.
    #[error("handshake packet not for us")]
    NotForUs,
    /// Forged, damaged, or (a response) sealed with another network secret.
    #[error("handshake packet not authentic: forged, damaged, or the network secrets differ")]
    NotAuthentic,
    /// The caller did not accept the peer or the stamp.
    #[error("initiation of an unknown peer, or an old one played back")]
    NotAccepted,
    /// The peer's static key is of low order.
    #[error("the peer's public key is of low order: it belongs to no honest peer")]
    BadKey,
    /// More than [`PAYLOAD_MAX`] bytes were to be sent.
    #[error("a handshake payload of {0} bytes is too long: at most {PAYLOAD_MAX} fit")]
    PayloadTooLong(usize),
}

/// An initiation that waits for its response.
#[derive(Debug)]
pub struct Initiation {
    noise: HandshakeState,
    peer: PublicKey,
    local_index: u32,
    mac1: [u8; MAC_LEN],
}

/// A handshake that is done.
#[derive(Debug)]
pub struct Established {
    /// Who the other side is.
    pub peer: PublicKey,
    /// The other side's index for the session.
    pub remote_index: u32,
    /// The keys.
    pub keys: LinkKeys,
    /// The AEAD that both use.
    pub cipher: Cipher,
    /// What the other side's packet carried for the node.
    pub payload: Vec<u8>,
}

/// The keys of a link before they are put to their uses.
pub struct LinkKeys {
    role: Role,
    cipher: Cipher,
    /// Initiator to responder, then back.
    split: [Key; 2],
    /// Of the whole handshake: no two have the same.
    hash: [u8; 32],
}

/// What a link works with.
#[derive(Debug)]
pub struct Sessions {
    /// For Data packets.
    pub data: Session,
    /// For Control packets.
    pub control: Session,
    /// Where keys for other methods of the link come from; the same on both sides.
    pub exporter: Key,
}

/// Starts a handshake with `peer`, whose packets shall name us `local_index`.
#[expect(clippy::too_many_arguments, reason = "each is a field of the packet or a key to it")]
pub fn initiate(
    config: &LinkConfig,
    peer: &PublicKey,
    local_index: u32,
    stamp: Stamp,
    payload: &[u8],
    cookie: Option<&Cookie>,
    entropy: &Entropy,
) -> Result<(Initiation, Vec<u8>), HandshakeError> {
    let mut packet = cookie::start(PacketType::Initiation).to_vec();
    packet.extend(local_index.to_le_bytes());
    let mut noise = setup(config, Some(peer), &packet, Role::Initiator, entropy);
    let fields = [&stamp.incarnation.to_le_bytes()[..], &stamp.sequence.to_le_bytes(), &[code(config.cipher)]].concat();
    // The peer's key came by gossip: it may be anything.
    write_noise(&mut noise, &fields, payload, &mut packet)?;
    let mac1 = cookie::append_macs(&mut packet, peer, cookie);
    Ok((Initiation { noise, peer: *peer, local_index, mac1 }, packet))
}

/// Answers an initiation, if `accept` takes the peer and its stamp; our packets' receiver index will be `local_index`.
pub fn respond(
    config: &LinkConfig,
    packet: &[u8],
    local_index: u32,
    accept: impl FnOnce(&PublicKey, Stamp) -> bool,
    payload: &[u8],
    entropy: &Entropy,
) -> Result<(Established, Vec<u8>), HandshakeError> {
    let remote_index = sender_index(packet).ok_or(HandshakeError::Malformed)?;
    let (body, _) = cookie::checked(packet, &config.identity.public())?;
    let (start, message) = body.split_at_checked(INITIATION_START).ok_or(HandshakeError::Malformed)?;
    let mut noise = setup(config, None, start, Role::Responder, entropy);
    let content = read_noise(&mut noise, message)?;
    let peer = noise.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey);
    let peer = peer.ok_or(HandshakeError::Malformed)?;
    let (stamp, preferred, theirs) = parse_initiation(&content).ok_or(HandshakeError::Malformed)?;
    if !accept(&peer, stamp) {
        return Err(HandshakeError::NotAccepted);
    }
    let cipher = choose(config.cipher, preferred);
    let mut response = cookie::start(PacketType::Response).to_vec();
    response.extend(local_index.to_le_bytes());
    response.extend(remote_index.to_le_bytes());
    let [i0, i1, i2, i3] = local_index.to_le_bytes();
    write_noise(&mut noise, &[code(cipher), i0, i1, i2, i3], payload, &mut response)?;
    cookie::append_macs(&mut response, &peer, None);
    let keys = LinkKeys::new(&mut noise, Role::Responder, cipher);
    Ok((Established { peer, remote_index, keys, cipher, payload: theirs.to_vec() }, response))
}

impl Initiation {
    /// Takes a response. A packet that is not the true response changes nothing: the true one may follow.
    pub fn finish(&mut self, config: &LinkConfig, packet: &[u8]) -> Result<Established, HandshakeError> {
        let index = receiver_index(packet).filter(|_| PacketType::of(packet) == Some(PacketType::Response));
        if index.ok_or(HandshakeError::Malformed)? != self.local_index {
            return Err(HandshakeError::NotForUs);
        }
        let (body, _) = cookie::checked(packet, &config.identity.public())?;
        let message = body.get(RESPONSE_START..).ok_or(HandshakeError::Malformed)?;
        let content = read_noise(&mut self.noise, message)?;
        let (cipher, remote_index, payload) = parse_response(&content).ok_or(HandshakeError::Malformed)?;
        let keys = LinkKeys::new(&mut self.noise, Role::Initiator, cipher);
        Ok(Established { peer: self.peer, remote_index, keys, cipher, payload: payload.to_vec() })
    }

    /// Whom it is for.
    pub fn peer(&self) -> &PublicKey {
        &self.peer
    }

    /// The index by which its answer names us.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    pub(super) fn mac1(&self) -> &[u8; MAC_LEN] {
        &self.mac1
    }
}

impl LinkKeys {
    /// The sessions for these keys: packets of ours name `remote`, packets to us `local`.
    pub fn into_sessions(self, local: u32, remote: u32) -> Sessions {
        let session = |packet_type, label: &str| {
            let [forth, back] = self.split.each_ref().map(|key| self.key(&key[..], label));
            let (send, receive) = match self.role {
                Role::Initiator => (forth, back),
                Role::Responder => (back, forth),
            };
            Session::new(packet_type, local, remote, self.cipher, send, receive)
        };
        let both = Zeroizing::new([&self.split[0][..], &self.split[1][..]].concat());
        Sessions {
            data: session(PacketType::Data, "weft link data v1"),
            control: session(PacketType::Control, "weft link control v1"),
            exporter: self.key(&both, "weft link exporter v1"),
        }
    }

    fn new(noise: &mut HandshakeState, role: Role, cipher: Cipher) -> Self {
        debug_assert!(noise.is_handshake_finished());
        let hash = kdf::sha256(&[noise.get_handshake_hash()]);
        let (forth, back) = noise.dangerously_get_raw_split();
        Self { role, cipher, split: [Zeroizing::new(forth), Zeroizing::new(back)], hash }
    }

    fn key(&self, secret: &[u8], label: &str) -> Key {
        kdf::derive(secret, &self.hash, label)
    }
}

impl std::fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkKeys").field("role", &self.role).field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

/// The index by which an initiation names its sender.
pub fn sender_index(packet: &[u8]) -> Option<u32> {
    (PacketType::of(packet)? == PacketType::Initiation).then(|| index_at(packet, 4)).flatten()
}

/// The index of ours that a response or cookie reply names: that of the initiation it answers.
pub fn receiver_index(packet: &[u8]) -> Option<u32> {
    match PacketType::of(packet)? {
        PacketType::Response => index_at(packet, 8),
        PacketType::CookieReply => index_at(packet, 4),
        PacketType::Initiation | PacketType::Data | PacketType::Control => None,
    }
}

fn index_at(packet: &[u8], at: usize) -> Option<u32> {
    let bytes = packet.get(at..)?.first_chunk()?;
    (packet.get(2..4)? == [0, 0]).then(|| u32::from_le_bytes(*bytes))
}

fn setup(
    config: &LinkConfig,
    remote: Option<&PublicKey>,
    start: &[u8],
    role: Role,
    entropy: &Entropy,
) -> HandshakeState {
    let prologue = [PROLOGUE_LABEL, start].concat();
    let psk = (PSK_POSITION, config.secret.link_psk());
    Setup { pattern: PATTERN, identity: &config.identity, psk, prologue: &prologue, remote }.start(role, entropy)
}

fn write_noise(
    noise: &mut HandshakeState,
    fields: &[u8],
    payload: &[u8],
    packet: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    if payload.len() > PAYLOAD_MAX {
        return Err(HandshakeError::PayloadTooLong(payload.len()));
    }
    let mut message = [0; PACKET_MAX];
    let len = noise.write_message(&[fields, payload].concat(), &mut message).map_err(|_| HandshakeError::BadKey)?;
    packet.extend(&message[..len]);
    Ok(())
}

fn read_noise(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut content = vec![0; PACKET_MAX];
    let len = noise.read_message(message, &mut content).map_err(|_| HandshakeError::NotAuthentic)?;
    content.truncate(len);
    Ok(content)
}

fn parse_initiation(content: &[u8]) -> Option<(Stamp, Option<Cipher>, &[u8])> {
    let (&incarnation, rest) = content.split_first_chunk()?;
    let (&sequence, rest) = rest.split_first_chunk()?;
    let (&preferred, payload) = rest.split_first()?;
    let stamp = Stamp { incarnation: u64::from_le_bytes(incarnation), sequence: u64::from_le_bytes(sequence) };
    (payload.len() <= PAYLOAD_MAX).then_some((stamp, cipher_of(preferred), payload))
}

fn parse_response(content: &[u8]) -> Option<(Cipher, u32, &[u8])> {
    let (&chosen, rest) = content.split_first()?;
    let (&index, payload) = rest.split_first_chunk()?;
    (payload.len() <= PAYLOAD_MAX).then_some((cipher_of(chosen)?, u32::from_le_bytes(index), payload))
}

/// AES only where both are fast with it; ChaCha20 is fast enough everywhere, also for peers who prefer what is to come.
fn choose(ours: Cipher, theirs: Option<Cipher>) -> Cipher {
    match (ours, theirs) {
        (Cipher::Aes256Gcm, Some(Cipher::Aes256Gcm)) => Cipher::Aes256Gcm,
        (Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305, _) => Cipher::ChaCha20Poly1305,
    }
}

fn code(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes256Gcm => 1,
        Cipher::ChaCha20Poly1305 => 2,
    }
}

fn cipher_of(code: u8) -> Option<Cipher> {
    match code {
        1 => Some(Cipher::Aes256Gcm),
        2 => Some(Cipher::ChaCha20Poly1305),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
