//! What a handshake packet ends in, and what a peer under load asks for before it does any Diffie-Hellman.
//!
//! As in WireGuard (whitepaper §5.3, §5.4.4, §5.4.7): mac1 shows that the sender knows whom it talks to, so scanners get no
//! answer; mac2 that it receives at the address it sends from. Cookies are made from that address and a secret that lives
//! two minutes, so nothing is kept per sender.
//!
//! ```text
//! Initiation, Response: … | mac1 16 | mac2 16 |
//! CookieReply:          3 | 1 | 0 0 | receiver index u32 LE | salt 24 | sealed cookie 16 | tag 16 |
//! ```

use std::time::Duration;

use boring::{
    aead::{AeadCtx, Algorithm},
    memcmp,
};
use zeroize::Zeroizing;

use super::handshake::{HandshakeError, Initiation, PACKET_MAX, sender_index};
use crate::{
    crypto::{identity::PublicKey, kdf, session::Key},
    entropy::Entropy,
    time::Time,
    wire::sleeve::{PacketType, SLEEVE_VERSION, TAG_LEN},
};

/// How long a cookie is good for.
pub const COOKIE_LIFE: Duration = Duration::from_secs(120);
/// Bytes of a CookieReply.
pub const COOKIE_REPLY_LEN: usize = 8 + SALT_LEN + MAC_LEN + TAG_LEN;

pub(super) const MAC_LEN: usize = 16;
pub(super) const MACS_LEN: usize = 2 * MAC_LEN;
const SALT_LEN: usize = 24;
const MAC1_LABEL: &[u8] = b"weft mac1 v1";
const COOKIE_LABEL: &[u8] = b"weft cookie v1";
const COOKIE_KEY_LABEL: &str = "weft cookie reply v1";

/// Proof that we receive at our address, from a peer under load.
#[derive(Clone)]
pub struct Cookie {
    value: Zeroizing<[u8; MAC_LEN]>,
    received: Time,
}

/// The cookies that this peer gives out.
#[derive(Clone)]
pub struct CookieJar {
    entropy: Entropy,
    secret: Key,
    made: Time,
}

impl Cookie {
    /// Reads the answer to `initiation`, which came at `now`.
    pub fn from_reply(initiation: &Initiation, packet: &[u8], now: Time) -> Result<Self, HandshakeError> {
        let (&[kind, version, zero0, zero1, r0, r1, r2, r3], rest) =
            packet.split_first_chunk().ok_or(HandshakeError::Malformed)?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>().ok_or(HandshakeError::Malformed)?;
        let (&value, tag) = rest.split_first_chunk::<MAC_LEN>().ok_or(HandshakeError::Malformed)?;
        if [kind, version, zero0, zero1] != start(PacketType::CookieReply) || tag.len() != TAG_LEN {
            return Err(HandshakeError::Malformed);
        }
        if u32::from_le_bytes([r0, r1, r2, r3]) != initiation.local_index() {
            return Err(HandshakeError::NotForUs);
        }
        let mut value = Zeroizing::new(value);
        let (mut context, nonce) = reply_cipher(initiation.peer(), salt);
        context
            .open_in_place_mut(&nonce, &mut value[..], tag, initiation.mac1())
            .map_err(|_| HandshakeError::NotAuthentic)?;
        Ok(Self { value, received: now })
    }

    /// Whether it is worth sending still.
    pub fn is_fresh(&self, now: Time) -> bool {
        now.since(self.received) < COOKIE_LIFE
    }
}

impl CookieJar {
    /// A jar with a new secret.
    pub fn new(entropy: &Entropy, now: Time) -> Self {
        Self { entropy: entropy.clone(), secret: entropy.secret(), made: now }
    }

    /// Whether `packet`, an initiation from the address that `source` spells, carries a cookie of ours for that address.
    pub fn check(&mut self, packet: &[u8], source: &[u8], now: Time) -> bool {
        let Some((body, mac2)) = packet.len().checked_sub(MAC_LEN).and_then(|at| packet.split_at_checked(at)) else {
            return false;
        };
        memcmp::eq(&kdf::mac(&mac2_key(&self.cookie(source, now)), body), mac2)
    }

    /// The CookieReply for `packet`, an initiation to us from the address that `source` spells. It is shorter than any
    /// initiation, so it multiplies nobody's traffic.
    pub fn reply(
        &mut self,
        ours: &PublicKey,
        packet: &[u8],
        source: &[u8],
        now: Time,
    ) -> Result<Vec<u8>, HandshakeError> {
        let sender = sender_index(packet).ok_or(HandshakeError::Malformed)?;
        let (_, mac1) = checked(packet, ours)?;
        let salt = self.entropy.array::<SALT_LEN>();
        let mut value = self.cookie(source, now);
        let mut tag = [0; TAG_LEN];
        let (mut context, nonce) = reply_cipher(ours, &salt);
        context.seal_in_place_mut(&nonce, &mut value[..], &mut tag, mac1).map_err(|_| HandshakeError::Malformed)?;
        let mut reply = Vec::with_capacity(COOKIE_REPLY_LEN);
        reply.extend(start(PacketType::CookieReply));
        reply.extend(sender.to_le_bytes());
        reply.extend(salt);
        reply.extend(&value[..]);
        reply.extend(tag);
        Ok(reply)
    }

    fn cookie(&mut self, source: &[u8], now: Time) -> Zeroizing<[u8; MAC_LEN]> {
        if now.since(self.made) >= COOKIE_LIFE {
            self.secret = self.entropy.secret();
            self.made = now;
        }
        Zeroizing::new(kdf::mac(&self.secret, source))
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookie").field("received", &self.received).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CookieJar").field("made", &self.made).finish_non_exhaustive()
    }
}

/// The first four bytes of a handshake packet.
pub(super) fn start(packet_type: PacketType) -> [u8; 4] {
    [packet_type as u8, SLEEVE_VERSION, 0, 0]
}

/// Appends mac1 and mac2 of a packet for `receiver`, and returns mac1. Without a cookie mac2 is zero.
pub(super) fn append_macs(packet: &mut Vec<u8>, receiver: &PublicKey, cookie: Option<&Cookie>) -> [u8; MAC_LEN] {
    let mac1 = kdf::mac(&mac1_key(receiver), packet);
    packet.extend(mac1);
    let mac2 = cookie.map_or([0; MAC_LEN], |cookie| kdf::mac(&mac2_key(&cookie.value), packet));
    packet.extend(mac2);
    mac1
}

/// What stands before the macs of a packet for us, and mac1, which fits. To be called before anything that costs more.
pub(super) fn checked<'a>(packet: &'a [u8], ours: &PublicKey) -> Result<(&'a [u8], &'a [u8]), HandshakeError> {
    let at = packet.len().checked_sub(MACS_LEN).filter(|_| packet.len() <= PACKET_MAX);
    let at = at.ok_or(HandshakeError::Malformed)?;
    let (body, macs) = packet.split_at_checked(at).ok_or(HandshakeError::Malformed)?;
    let (mac1, _) = macs.split_at_checked(MAC_LEN).ok_or(HandshakeError::Malformed)?;
    if memcmp::eq(&kdf::mac(&mac1_key(ours), body), mac1) { Ok((body, mac1)) } else { Err(HandshakeError::NotForUs) }
}

fn mac1_key(receiver: &PublicKey) -> [u8; 32] {
    kdf::sha256(&[MAC1_LABEL, &receiver.0])
}

fn mac2_key(cookie: &[u8; MAC_LEN]) -> [u8; 32] {
    kdf::sha256(&[COOKIE_LABEL, cookie])
}

/// WireGuard seals the cookie by XChaCha20-Poly1305; here the long random salt goes through HKDF for the same end: a key
/// and nonce that do not repeat though the responder keeps no count.
#[expect(clippy::expect_used, reason = "a 32-byte key; only lack of memory is left")]
fn reply_cipher(responder: &PublicKey, salt: &[u8; SALT_LEN]) -> (AeadCtx, [u8; 12]) {
    let both = kdf::derive::<44>(&responder.0, salt, COOKIE_KEY_LABEL);
    let (key, nonce) = both.split_at(32);
    let context = AeadCtx::new_default_tag(&Algorithm::chacha20_poly1305(), key).expect("a 32-byte key and memory");
    (context, std::array::from_fn(|i| nonce[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{identity::Identity, session::Cipher},
        id::NetworkName,
        link::handshake::{LinkConfig, Stamp, initiate},
        secret::NetworkSecret,
    };

    const SOURCE: &[u8] = &[10, 0, 0, 1, 0x1a, 0x7f];

    #[test]
    fn a_cookie_lets_its_address_in_until_it_is_stale() {
        let entropy = Entropy::seeded([1; 32]);
        let (ours, theirs) = (config(1), config(2).identity.public());
        let mut jar = CookieJar::new(&entropy, Time::ZERO);
        let (initiation, packet) = dial(&ours, &theirs, None, &entropy);
        assert!(!jar.check(&packet, SOURCE, Time::ZERO));
        let reply = jar.reply(&theirs, &packet, SOURCE, Time::ZERO).unwrap();
        assert_eq!((reply.len(), reply.len() < packet.len()), (COOKIE_REPLY_LEN, true));
        let cookie = Cookie::from_reply(&initiation, &reply, Time::ZERO).unwrap();
        let (_, packet) = dial(&ours, &theirs, Some(&cookie), &entropy);
        assert!(jar.check(&packet, SOURCE, Time::ZERO));
        assert!(!jar.check(&packet, &[10, 0, 0, 2, 0x1a, 0x7f], Time::ZERO), "another address");
        let later = Time::ZERO + COOKIE_LIFE;
        assert!(cookie.is_fresh(Time::ZERO) && !cookie.is_fresh(later));
        assert!(!jar.check(&packet, SOURCE, later));
    }

    #[test]
    fn only_initiations_to_us_are_answered_and_only_our_answers_taken() {
        let entropy = Entropy::seeded([1; 32]);
        let (ours, theirs, third) = (config(1), config(2).identity.public(), config(3).identity.public());
        let mut jar = CookieJar::new(&entropy, Time::ZERO);
        let (initiation, packet) = dial(&ours, &theirs, None, &entropy);
        assert_eq!(jar.reply(&third, &packet, SOURCE, Time::ZERO), Err(HandshakeError::NotForUs));
        let reply = jar.reply(&theirs, &packet, SOURCE, Time::ZERO).unwrap();
        let (another, _) = dial(&ours, &theirs, None, &entropy);
        assert!(Cookie::from_reply(&another, &reply, Time::ZERO).is_err(), "bound to the packet it answers");
        for bit in 0..reply.len() * 8 {
            let mut forged = reply.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(Cookie::from_reply(&initiation, &forged, Time::ZERO).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn any_bytes_are_taken_without_panic() {
        let entropy = Entropy::seeded([1; 32]);
        let (ours, theirs) = (config(1), config(2).identity.public());
        let (initiation, packet) = dial(&ours, &theirs, None, &entropy);
        let initiation = std::panic::AssertUnwindSafe(initiation);
        bolero::check!().for_each(|bytes: &[u8]| {
            let mut jar = CookieJar::new(&Entropy::seeded([2; 32]), Time::ZERO);
            for bytes in [bytes.to_vec(), [&packet[..8], bytes].concat(), [&[3, 1, 0, 0, 7, 0, 0, 0], bytes].concat()] {
                assert!(Cookie::from_reply(&initiation, &bytes, Time::ZERO).is_err());
                assert!(jar.reply(&theirs, &bytes, SOURCE, Time::ZERO).is_err());
                assert!(!jar.check(&bytes, SOURCE, Time::ZERO));
            }
        });
    }

    fn dial(
        ours: &LinkConfig,
        theirs: &PublicKey,
        cookie: Option<&Cookie>,
        entropy: &Entropy,
    ) -> (Initiation, Vec<u8>) {
        initiate(ours, theirs, 7, Stamp { incarnation: 1, sequence: 1 }, b"", cookie, entropy).unwrap()
    }

    fn config(number: u8) -> LinkConfig {
        LinkConfig {
            identity: Identity::from_secret(Zeroizing::new([number; 32])),
            secret: NetworkSecret::open(&NetworkName::default()),
            cipher: Cipher::Aes256Gcm,
        }
    }
}
