//! When to try again: at first after half a second, then twice as long each time, up to half a minute.

use std::time::Duration;

use crate::{entropy::Entropy, time::Time};

/// The wait after the first failure.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait, and that after a refusal that will last until somebody changes something.
pub const RETRY_MAX: Duration = Duration::from_secs(30);
/// A connection that lived this long was good: the next wait is the first again.
pub const GOOD_AFTER: Duration = Duration::from_secs(30);

/// The tries at one target or peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    /// Failed tries in a row.
    pub(super) tries: u32,
    /// Not before this.
    pub(super) due: Time,
}

impl Backoff {
    pub(super) fn due_at(due: Time) -> Self {
        Self { tries: 0, due }
    }

    /// Another failure. Waits are between half and all of their length, so that those who failed together part.
    pub(super) fn fail(&mut self, now: Time, entropy: &Entropy) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.tries.min(6)).min(RETRY_MAX);
        self.tries = self.tries.saturating_add(1);
        self.due = now + jittered(wait, entropy);
    }

    /// A refusal: waiting shorter would not help.
    pub(super) fn refuse(&mut self, now: Time, entropy: &Entropy) {
        self.tries = self.tries.saturating_add(1);
        self.due = now + jittered(RETRY_MAX, entropy);
    }

    /// A connection ended that had lived since `since`.
    pub(super) fn end(&mut self, since: Time, now: Time, entropy: &Entropy) {
        if now.since(since) >= GOOD_AFTER {
            self.tries = 0;
        }
        self.fail(now, entropy);
    }
}

fn jittered(wait: Duration, entropy: &Entropy) -> Duration {
    wait.mul_f64(0.5 + entropy.fraction() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_with_jitter() {
        let entropy = Entropy::seeded([1; 32]);
        let mut backoff = Backoff::due_at(Time::ZERO);
        for full in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            backoff.fail(Time::ZERO, &entropy);
            let wait = backoff.due.since(Time::ZERO).as_secs_f64();
            assert!((full / 2.0..=full).contains(&wait), "{wait} of {full}");
        }
        assert_eq!(backoff.tries, 8);
    }

    #[test]
    fn a_good_connection_makes_the_next_wait_short_and_a_bad_one_does_not() {
        let entropy = Entropy::seeded([1; 32]);
        let mut backoff = Backoff { tries: 5, due: Time::ZERO };
        let end = Time::ZERO + GOOD_AFTER;
        backoff.end(Time::ZERO + Duration::from_secs(1), end, &entropy);
        assert!(backoff.due.since(end) >= Duration::from_secs(8));
        backoff.end(Time::ZERO, end, &entropy);
        assert!(backoff.due.since(end) <= RETRY_FIRST);
        assert_eq!(backoff.tries, 1);
    }

    #[test]
    fn a_refusal_waits_long_at_once() {
        let mut backoff = Backoff::due_at(Time::ZERO);
        backoff.refuse(Time::ZERO, &Entropy::seeded([1; 32]));
        assert!(backoff.due.since(Time::ZERO) >= RETRY_MAX / 2);
    }
}
