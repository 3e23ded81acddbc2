//! Which of the possible paths to a peer is taken, and why: at once when the one in use broke, else only for a clear gain
//! that lasts, so that paths do not flap.

use std::time::Duration;

use crate::{id::PeerName, time::Time};

/// The least gain worth a change (DESIGN.md): the larger of a tenth and this.
const GAIN_MIN: Duration = Duration::from_millis(5);
/// How long the gain must last (DESIGN.md).
const GAIN_LASTS: Duration = Duration::from_secs(3);

/// A path that exists now: its relays, none when direct, and its cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) relays: Vec<PeerName>,
    pub(super) cost: Duration,
}

/// The choice for one peer.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    chosen: Option<Vec<PeerName>>,
    pub(super) since: Time,
    pub(super) reason: String,
    /// A direct path was left before: it has to prove itself when it comes back.
    left_direct: bool,
    /// A better one, and since when it is.
    rival: Option<(Vec<PeerName>, Time)>,
}

impl Selector {
    /// No path yet.
    pub(super) fn new(now: Time) -> Self {
        Self {
            chosen: None,
            since: now,
            reason: "no path yet: no link leads there".to_owned(),
            left_direct: false,
            rival: None,
        }
    }

    /// The relays of the path in use, none when direct; None for no path.
    pub(super) fn chosen(&self) -> Option<&[PeerName]> {
        self.chosen.as_deref()
    }

    /// When a rival has lasted long enough, if it stays.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.rival.as_ref().map(|(_, since)| *since + GAIN_LASTS)
    }

    /// Chooses anew. `cost` is that of the path in use now, None if it broke; `broke` says how it can have broken.
    /// Returns whether the choice changed.
    pub(super) fn choose(&mut self, cost: Option<Duration>, best: Option<Offer>, broke: &str, now: Time) -> bool {
        let Some(best) = best else {
            let had = self.chosen.is_some();
            if had {
                self.take(None, format!("{broke}; no other path"), now);
            }
            return had;
        };
        let Some(chosen) = &self.chosen else {
            self.take(Some(best.relays), "first path found".to_owned(), now);
            return true;
        };
        let Some(cost) = cost else {
            self.take(Some(best.relays), broke.to_owned(), now);
            return true;
        };
        let gain = cost.saturating_sub(best.cost);
        if best.relays.is_empty() && !chosen.is_empty() && !self.left_direct {
            self.take(Some(best.relays), "a direct path came up".to_owned(), now);
            return true;
        }
        if *chosen == best.relays || gain < GAIN_MIN.max(cost / 10) {
            self.rival = None;
            return false;
        }
        match &self.rival {
            Some((rival, since)) if *rival == best.relays => {
                if now.since(*since) < GAIN_LASTS {
                    return false;
                }
                let reason = format!("better for {} s by {gain:.1?}", GAIN_LASTS.as_secs());
                self.take(Some(best.relays), reason, now);
                true
            }
            Some(_) | None => {
                self.rival = Some((best.relays, now));
                false
            }
        }
    }

    fn take(&mut self, chosen: Option<Vec<PeerName>>, reason: String, now: Time) {
        let left_direct = self.left_direct || self.chosen.as_ref().is_some_and(Vec::is_empty);
        *self = Self { chosen, since: now, reason, left_direct, rival: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: PeerName = PeerName([2; 6]);

    fn offer(relays: &[PeerName], millis: u64) -> Option<Offer> {
        Some(Offer { relays: relays.to_vec(), cost: Duration::from_millis(millis) })
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_broken_path_is_left_at_once_and_a_better_one_taken_when_it_lasts() {
        let mut selector = Selector::new(at(0));
        let ms = |millis| Some(Duration::from_millis(millis));
        assert!(selector.choose(None, offer(&[], 1), "", at(0)));
        assert!(selector.choose(None, offer(&[B], 12), "direct path silent", at(10)));
        assert_eq!((selector.chosen(), selector.reason.as_str()), (Some(&[B][..]), "direct path silent"));
        assert!(!selector.choose(ms(12), offer(&[], 1), "", at(1000)));
        assert_eq!(selector.deadline(), Some(at(4000)));
        assert!(!selector.choose(ms(12), offer(&[B], 12), "", at(2000)), "it was gone for a moment");
        assert!(!selector.choose(ms(12), offer(&[], 1), "", at(3000)));
        assert!(!selector.choose(ms(12), offer(&[], 1), "", at(5999)));
        assert!(selector.choose(ms(12), offer(&[], 1), "", at(6000)));
        assert_eq!(selector.chosen(), Some(&[][..]));
        assert!(selector.choose(None, None, "stopped", at(7000)));
        assert!(!selector.choose(None, None, "stopped", at(8000)));
    }

    #[test]
    fn the_first_direct_path_is_taken_at_once() {
        let mut selector = Selector::new(at(0));
        selector.choose(None, offer(&[B], 12), "", at(0));
        assert!(selector.choose(Some(Duration::from_millis(12)), offer(&[], 1), "", at(10)));
        assert_eq!(selector.chosen(), Some(&[][..]));
    }

    #[test]
    fn a_small_gain_changes_nothing() {
        let mut selector = Selector::new(at(0));
        selector.choose(None, offer(&[], 100), "", at(0));
        for second in 1..20 {
            assert!(!selector.choose(Some(Duration::from_millis(100)), offer(&[B], 92), "", at(second * 1000)));
        }
    }
}
