//! Whether so many handshakes come in that strangers must prove their address first.

use std::time::Duration;

use crate::time::Time;

/// Initiations a second that are answered without asking: each costs about a third of a millisecond, and the largest mesh
/// that starts all at once stays below.
const HIGH_PER_SECOND: u32 = 500;
const WINDOW: Duration = Duration::from_secs(1);

/// A count per second.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    window: Time,
    count: u32,
    high_until: Time,
}

impl Load {
    /// Counts one initiation; whether there are too many, now or a moment ago.
    pub(super) fn is_high(&mut self, now: Time) -> bool {
        if now.since(self.window) >= WINDOW {
            (self.window, self.count) = (now, 0);
        }
        self.count += 1;
        if self.count > HIGH_PER_SECOND {
            self.high_until = now + WINDOW;
        }
        now < self.high_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_high_during_a_flood_and_a_second_after() {
        let mut load = Load::default();
        let start = Time::ZERO;
        assert!((0..HIGH_PER_SECOND).all(|_| !load.is_high(start)));
        assert!(load.is_high(start));
        assert!(load.is_high(start + Duration::from_millis(900)));
        assert!(!load.is_high(start + Duration::from_millis(2100)));
    }
}
