//! BoringSSL and [`Entropy`] as snow wants its primitives: X25519, SHA-256, AES-256-GCM, ChaCha20-Poly1305.

use boring::{
    aead::{AeadCtx, Algorithm},
    sha,
};
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use super::identity::{Identity, PublicKey};
use crate::{entropy::Entropy, wire::sleeve::TAG_LEN};

/// Gives snow its primitives; ephemeral keys come from the [`Entropy`], so that a seeded handshake repeats.
#[derive(Clone, Debug)]
pub struct Resolver(pub Entropy);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Randomness(self.0.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        (*choice == DHChoice::Curve25519).then(|| Box::new(X25519(None)) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        (*choice == HashChoice::SHA256).then(|| Box::new(Sha256(sha::Sha256::new())) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let kind = match choice {
            CipherChoice::AESGCM => AeadKind::AesGcm,
            CipherChoice::ChaChaPoly => AeadKind::ChaChaPoly,
        };
        Some(Box::new(Aead { kind, key: Zeroizing::default() }))
    }
}

struct Randomness(Entropy);

impl Random for Randomness {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

/// A key pair; None until it is set or generated.
struct X25519(Option<Identity>);

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.0 = secret.try_into().ok().map(|secret| Identity::from_secret(Zeroizing::new(secret)));
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut secret[..])?;
        self.0 = Some(Identity::from_secret(secret));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |pair| pair.public_bytes())
    }

    fn privkey(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |pair| &pair.secret()[..])
    }

    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let pair = self.0.as_ref().ok_or(Error::Dh)?;
        // snow hands in its whole buffer, made for longer keys.
        let theirs = PublicKey(*theirs.first_chunk().ok_or(Error::Dh)?);
        let shared = pair.agree(&theirs).map_err(|_| Error::Dh)?;
        out.first_chunk_mut().ok_or(Error::Dh).map(|out: &mut [u8; 32]| *out = *shared)
    }
}

struct Sha256(sha::Sha256);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = sha::Sha256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = std::mem::replace(&mut self.0, sha::Sha256::new()).finish();
        out[..hash.len()].copy_from_slice(&hash);
    }
}

#[derive(Clone, Copy)]
enum AeadKind {
    AesGcm,
    ChaChaPoly,
}

/// An AEAD and its key. The cipher state is made anew for each message: snow seals through `&self`, BoringSSL does not,
/// and expanding a key is nothing beside the Diffie-Hellman of a handshake or the size of a control message.
struct Aead {
    kind: AeadKind,
    key: Zeroizing<[u8; 32]>,
}

impl Aead {
    fn context(&self) -> Result<AeadCtx, Error> {
        let algorithm = match self.kind {
            AeadKind::AesGcm => Algorithm::aes_256_gcm(),
            AeadKind::ChaChaPoly => Algorithm::chacha20_poly1305(),
        };
        AeadCtx::new_default_tag(&algorithm, &self.key[..]).map_err(|_| Error::Input)
    }

    /// Noise §12.3 and §12.4: 32 zero bits, then the number, big-endian for AESGCM, little-endian for ChaChaPoly.
    fn nonce(&self, number: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&match self.kind {
            AeadKind::AesGcm => number.to_be_bytes(),
            AeadKind::ChaChaPoly => number.to_le_bytes(),
        });
        nonce
    }
}

impl Cipher for Aead {
    fn name(&self) -> &'static str {
        match self.kind {
            AeadKind::AesGcm => "AESGCM",
            AeadKind::ChaChaPoly => "ChaChaPoly",
        }
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = Zeroizing::new(*key);
    }

    #[expect(clippy::expect_used, reason = "snow's trait has no error here; only lack of memory can cause one")]
    fn encrypt(&self, nonce: u64, associated: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plain.len());
        body.copy_from_slice(plain);
        let tag = &mut rest[..TAG_LEN];
        let mut context = self.context().expect("a 32-byte key and memory");
        context.seal_in_place_mut(&self.nonce(nonce), body, tag, associated).expect("snow bounds the length");
        plain.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, associated: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let len = sealed.len().checked_sub(TAG_LEN).ok_or(Error::Decrypt)?;
        let (body, tag) = sealed.split_at_checked(len).ok_or(Error::Decrypt)?;
        let out = out.get_mut(..len).ok_or(Error::Decrypt)?;
        out.copy_from_slice(body);
        self.context()?.open_in_place_mut(&self.nonce(nonce), out, tag, associated).map_err(|_| Error::Decrypt)?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
