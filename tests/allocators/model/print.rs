//! Fingerprints of states: 128 bits, so that two different states do not look alike in any number that can be visited.

use std::{
    fmt::{self, Debug, Write},
    hash::{Hash, Hasher},
};

/// Odd and without a pattern.
const FACTOR: u128 = 0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9;

/// What was seen so far, in short.
#[derive(Clone, Copy)]
pub(crate) struct Print(u128);

impl Print {
    pub(crate) fn new() -> Self {
        Self(FACTOR)
    }

    pub(crate) fn number(self) -> u128 {
        self.0
    }

    /// Of something that can be hashed.
    pub(crate) fn of(what: impl Hash) -> u128 {
        let mut print = Self::new();
        what.hash(&mut print);
        print.0
    }

    /// Adds all that `what` shows of itself.
    pub(crate) fn add_shown(&mut self, what: &impl Debug) {
        // Hashing does not fail.
        let _ = write!(self, "{what:?}");
    }

    fn mix(&mut self, part: u128) {
        self.0 = (self.0 ^ part).wrapping_mul(FACTOR);
        self.0 ^= self.0 >> 67;
    }
}

impl Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

impl Hasher for Print {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(15) {
            let mut part = [0; 16];
            part[..chunk.len()].copy_from_slice(chunk);
            part[15] = chunk.len().try_into().unwrap();
            self.mix(u128::from_le_bytes(part));
        }
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}
