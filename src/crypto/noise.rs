//! Starts a Noise handshake (noiseprotocol.org, revision 34) with a static key and a pre-shared key.

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::{
    identity::{Identity, PublicKey},
    resolver::Resolver,
};
use crate::entropy::Entropy;

/// Which side of a handshake this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Speaks first.
    Initiator,
    /// Answers.
    Responder,
}

/// What both sides must agree on, and what this side brings.
pub(crate) struct Setup<'a> {
    /// Protocol name.
    pub(crate) pattern: &'static str,
    /// Our static key pair.
    pub(crate) identity: &'a Identity,
    /// The pre-shared key and its position in the pattern.
    pub(crate) psk: (u8, &'a Zeroizing<[u8; 32]>),
    /// What both saw before, authenticated by the handshake.
    pub(crate) prologue: &'a [u8],
    /// The other side's static key, where the pattern needs it beforehand.
    pub(crate) remote: Option<&'a PublicKey>,
}

impl Setup<'_> {
    /// Begins.
    ///
    /// # Panics
    /// When the pattern's name is wrong or needs a key that is not given: a mistake in this crate, found by any test.
    #[expect(clippy::expect_used, reason = "the pattern is a constant, and each is run by tests")]
    pub(crate) fn start(&self, role: Role, entropy: &Entropy) -> HandshakeState {
        let params = self.pattern.parse().expect("a Noise pattern");
        let (position, psk) = self.psk;
        let mut builder = Builder::with_resolver(params, Box::new(Resolver(entropy.clone())))
            .local_private_key(&self.identity.secret()[..])
            .and_then(|builder| builder.prologue(self.prologue))
            .and_then(|builder| builder.psk(position, psk))
            .expect("each set once");
        if let Some(remote) = self.remote {
            builder = builder.remote_public_key(&remote.0).expect("set once");
        }
        match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        }
        .expect("all that the pattern needs is given")
    }
}
