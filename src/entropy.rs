//! Where random bytes come from.
//!
//! A live node takes them from BoringSSL's generator. A simulated or recorded one takes them from a seed, so that the
//! same inputs give the same outputs, handshakes included; whoever has that seed has that run's keys.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, SeedableRng, rngs::StdRng};
use zeroize::Zeroizing;

/// A source of random bytes, cheap to clone; clones share one stream.
#[derive(Clone)]
pub enum Entropy {
    /// BoringSSL's generator, seeded by the operating system.
    System,
    /// A ChaCha stream from a 256-bit seed.
    Seeded(Arc<Mutex<StdRng>>),
}

impl Entropy {
    /// The reproducible stream of `seed`.
    pub fn seeded(seed: [u8; 32]) -> Self {
        Self::Seeded(Arc::new(Mutex::new(StdRng::from_seed(seed))))
    }

    /// Fills `bytes`.
    ///
    /// # Panics
    /// When the system's generator fails; nothing secret can be made then.
    #[expect(clippy::expect_used, reason = "without randomness no key may be made: stopping is the safe answer")]
    pub fn fill(&self, bytes: &mut [u8]) {
        match self {
            Self::System => boring::rand::rand_bytes(bytes).expect("the system gives random bytes"),
            Self::Seeded(rng) => rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes),
        }
    }

    /// A random array; for keys use [`Self::secret`].
    pub fn array<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A random array that is wiped when dropped.
    pub fn secret<const N: usize>(&self) -> Zeroizing<[u8; N]> {
        Zeroizing::new(self.array())
    }

    /// A uniform 64-bit number.
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A uniform number in `0.0..1.0`, for jitter.
    pub fn fraction(&self) -> f64 {
        // The 53 high bits: exactly what a double holds.
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::System => "Entropy::System",
            Self::Seeded(_) => "Entropy::Seeded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_stream_and_clones_share_it() {
        let (a, b) = (Entropy::seeded([7; 32]), Entropy::seeded([7; 32]));
        let shared = a.clone();
        assert_eq!([a.number(), shared.number()], [b.number(), b.number()]);
        assert!((0.0..1.0).contains(&a.fraction()));
    }
}
