//! Which of the possible paths to a peer is taken, and why: at once when the one in use broke, else only for a clear gain
//! that lasts, so that paths do not flap. Where they do all the same, the gain must last longer each time.

use std::{collections::VecDeque, time::Duration};

use crate::{id::PeerName, time::Time};

/// The least gain worth a change (DESIGN.md): the larger of a tenth and this.
const GAIN_MIN: Duration = Duration::from_millis(5);
/// And so many jitters: as many as a cost has.
const JITTERS: u32 = 2;
/// How long the gain must last (DESIGN.md).
const GAIN_LASTS: Duration = Duration::from_secs(3);
/// How long if it is one because the path in use got worse: that is known from many probes, or has lasted already.
const LOSS_LASTS: Duration = Duration::from_millis(1500);
/// A path that is taken again this soon after it was left flaps: the next gain must last twice as long, at most eight times as long.
/// Each such span of calm halves that.
const FLAPS_WITHIN: Duration = Duration::from_secs(120);
const FLAPS_MAX: u32 = 3;
/// Leaving a path that got worse is put off no more than once.
const FLAPS_WORSE_MAX: u32 = 1;
/// Changes that are remembered.
const HISTORY_MAX: usize = 8;

/// The path in use as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InUse {
    pub(super) cost: Duration,
    pub(super) jitter: Duration,
}

impl InUse {
    /// What another path must gain over it: also more than the doubt, as round trips scatter when a host or a link is busy with
    /// what it carries, and the other path has yet to carry that.
    pub(super) fn gain_wanted(&self) -> Duration {
        gain_min(self.cost).max(self.jitter * JITTERS)
    }
}

fn gain_min(cost: Duration) -> Duration {
    GAIN_MIN.max(cost / 10)
}

/// A path that exists now: its relays, none when direct, and its cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) relays: Vec<PeerName>,
    pub(super) cost: Duration,
}

/// A change of path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Switch {
    pub(super) at: Time,
    /// The relays, none when direct; None for no path.
    pub(super) from: Option<Vec<PeerName>>,
    pub(super) to: Option<Vec<PeerName>>,
    pub(super) reason: String,
}

/// The choice for one peer.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    chosen: Option<Vec<PeerName>>,
    pub(super) since: Time,
    pub(super) reason: String,
    /// The least that a link of the path passes, as its ends report; None if it is no path.
    pub(super) payload_max: Option<usize>,
    /// A direct path was left before: it has to prove itself when it comes back.
    left_direct: bool,
    /// The least that the path in use has cost.
    least: Duration,
    /// Since when there is a better one, whichever it is, and when it is taken if that lasts.
    better: Option<(Time, Time)>,
    flaps: u32,
    history: VecDeque<Switch>,
}

impl Selector {
    /// No path yet.
    pub(super) fn new(now: Time) -> Self {
        Self {
            chosen: None,
            since: now,
            reason: "no path yet: no link leads there".to_owned(),
            payload_max: None,
            left_direct: false,
            least: Duration::MAX,
            better: None,
            flaps: 0,
            history: VecDeque::new(),
        }
    }

    /// The relays of the path in use, none when direct; None for no path.
    pub(super) fn chosen(&self) -> Option<&[PeerName]> {
        self.chosen.as_deref()
    }

    /// The latest changes, oldest first.
    pub(super) fn history(&self) -> impl Iterator<Item = &Switch> {
        self.history.iter()
    }

    /// How long it must, for a path that costs `cost` now.
    pub(super) fn lasts(&self, cost: Duration, now: Time) -> Duration {
        let flaps = self.flaps_now(now);
        if cost >= self.least.saturating_add(gain_min(self.least)) {
            return LOSS_LASTS * 2_u32.pow(flaps.min(FLAPS_WORSE_MAX));
        }
        GAIN_LASTS * 2_u32.pow(flaps)
    }

    /// When a better path has lasted long enough, if it stays.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.better.map(|(_, due)| due)
    }

    /// Chooses anew. `in_use` is the path in use now, None if it broke; `broke` says how it can have broken, `ails` what
    /// is known of how good it is. Returns whether the choice changed.
    pub(super) fn choose(
        &mut self,
        in_use: Option<InUse>,
        best: Option<Offer>,
        (broke, ails): (&dyn Fn() -> String, &dyn Fn() -> String),
        now: Time,
    ) -> bool {
        let Some(best) = best else {
            let had = self.chosen.is_some();
            if had {
                self.take(None, format!("{}; no other path", broke()), now);
            }
            return had;
        };
        let Some(chosen) = &self.chosen else {
            self.take(Some(best), "first path found".to_owned(), now);
            return true;
        };
        let Some(in_use) = in_use else {
            self.take(Some(best), broke(), now);
            return true;
        };
        if best.relays.is_empty() && !chosen.is_empty() && !self.left_direct {
            self.take(Some(best), "a direct path came up".to_owned(), now);
            return true;
        }
        let cost = in_use.cost;
        self.least = self.least.min(cost);
        if *chosen == best.relays || cost.saturating_sub(best.cost) < in_use.gain_wanted() {
            self.better = None;
            return false;
        }
        let since = self.better.map_or(now, |(since, _)| since);
        let lasts = self.lasts(cost, now);
        self.better = Some((since, since + lasts));
        if now.since(since) < lasts {
            return false;
        }
        let what = if cost > self.least.saturating_add(gain_min(self.least)) {
            format!("the path before got worse ({})", ails())
        } else {
            "this path is better".to_owned()
        };
        let (seconds, best_cost) = (lasts.as_secs_f32(), best.cost);
        let is_again = |left: &Switch| left.from.as_ref() == Some(&best.relays) && now.since(left.at) < FLAPS_WITHIN;
        if self.history.iter().any(is_again) {
            self.flaps = (self.flaps_now(now) + 1).min(FLAPS_MAX);
        }
        let reason = format!("{what}: cost {best_cost:.1?} instead of {cost:.1?} for {seconds} s");
        self.take(Some(best), reason, now);
        true
    }

    fn take(&mut self, offer: Option<Offer>, reason: String, now: Time) {
        let (chosen, least) = offer.map_or((None, Duration::MAX), |offer| (Some(offer.relays), offer.cost));
        self.flaps = self.flaps_now(now);
        self.left_direct |= self.chosen.as_ref().is_some_and(Vec::is_empty);
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        let from = std::mem::replace(&mut self.chosen, chosen.clone());
        self.history.push_back(Switch { at: now, from, to: chosen, reason: reason.clone() });
        (self.since, self.reason, self.least, self.better) = (now, reason, least, None);
    }

    fn flaps_now(&self, now: Time) -> u32 {
        let calm = now.since(self.since).as_secs() / FLAPS_WITHIN.as_secs();
        self.flaps.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: PeerName = PeerName([2; 6]);
    const C: PeerName = PeerName([3; 6]);

    fn offer(relays: &[PeerName], millis: u64) -> Option<Offer> {
        Some(Offer { relays: relays.to_vec(), cost: Duration::from_millis(millis) })
    }

    impl Selector {
        fn hear(&mut self, in_use: Option<InUse>, best: Option<Offer>, (broke, ails): (&str, &str), now: Time) -> bool {
            self.choose(in_use, best, (&|| broke.to_owned(), &|| ails.to_owned()), now)
        }
    }

    fn ms(millis: u64) -> Option<InUse> {
        Some(InUse { cost: Duration::from_millis(millis), jitter: Duration::ZERO })
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_broken_path_is_left_at_once_and_a_better_one_taken_when_it_lasts() {
        let mut selector = Selector::new(at(0));
        let stopped = ("stopped", "");
        assert!(selector.hear(None, offer(&[], 1), stopped, at(0)));
        assert!(selector.hear(None, offer(&[B], 12), ("direct path silent", ""), at(10)));
        assert_eq!((selector.chosen(), selector.reason.as_str()), (Some(&[B][..]), "direct path silent"));
        assert!(!selector.hear(ms(12), offer(&[], 1), stopped, at(1000)));
        assert!(!selector.hear(ms(12), offer(&[B], 12), stopped, at(2000)), "it was gone for a moment");
        assert!(!selector.hear(ms(12), offer(&[], 1), stopped, at(3000)));
        assert_eq!(selector.deadline(), Some(at(6000)));
        assert!(!selector.hear(ms(12), offer(&[], 1), stopped, at(5999)));
        assert!(selector.hear(ms(12), offer(&[], 1), stopped, at(6000)));
        assert_eq!(selector.chosen(), Some(&[][..]));
        assert!(selector.hear(None, None, stopped, at(7000)));
        assert!(!selector.hear(None, None, stopped, at(8000)));
        let to: Vec<_> = selector.history().map(|switch| switch.to.as_deref()).collect();
        assert_eq!(to, [Some(&[][..]), Some(&[B]), Some(&[]), None]);
    }

    #[test]
    fn a_path_that_got_worse_is_left_sooner_whichever_is_best_meanwhile() {
        let mut selector = Selector::new(at(0));
        selector.hear(None, offer(&[], 10), ("", ""), at(0));
        assert!(!selector.hear(ms(80), offer(&[B], 30), ("", ""), at(1000)));
        assert!(!selector.hear(ms(80), offer(&[C], 29), ("", ""), at(2000)));
        assert!(selector.hear(ms(80), offer(&[B], 30), ("", "loss 5 %"), at(2500)));
        assert_eq!(selector.chosen(), Some(&[B][..]));
        assert_eq!(selector.reason, "the path before got worse (loss 5 %): cost 30.0ms instead of 80.0ms for 1.5 s");
    }

    #[test]
    fn the_first_direct_path_is_taken_at_once() {
        let mut selector = Selector::new(at(0));
        selector.hear(None, offer(&[B], 12), ("", ""), at(0));
        assert!(selector.hear(ms(12), offer(&[], 1), ("", ""), at(10)));
        assert_eq!(selector.chosen(), Some(&[][..]));
    }

    #[test]
    fn a_small_gain_changes_nothing() {
        let mut selector = Selector::new(at(0));
        selector.hear(None, offer(&[], 100), ("", ""), at(0));
        for second in 1..20 {
            assert!(!selector.hear(ms(100), offer(&[B], 92), ("", ""), at(second * 1000)));
        }
    }

    #[test]
    fn a_path_that_scatters_is_left_for_a_gain_beyond_that_only() {
        let mut selector = Selector::new(at(0));
        selector.hear(None, offer(&[], 2), ("", ""), at(0));
        let busy = |cost| Some(InUse { cost: Duration::from_millis(cost), jitter: Duration::from_millis(33) });
        for second in 1..20 {
            assert!(!selector.hear(busy(110), offer(&[B], 96), ("", ""), at(second * 1000)));
        }
        assert!(!selector.hear(busy(170), offer(&[B], 96), ("", ""), at(20_000)));
        assert!(selector.hear(busy(170), offer(&[B], 96), ("", ""), at(21_500)));
    }

    #[test]
    fn who_flaps_waits_longer_each_time_and_less_when_it_has_been_calm() {
        let mut selector = Selector::new(at(0));
        selector.hear(None, offer(&[], 1), ("", ""), at(0));
        let (mut now, mut waits) = (at(0), Vec::new());
        // The time until the direct path is taken again after it broke.
        let mut wait = |selector: &mut Selector, now: &mut Time| {
            selector.hear(None, offer(&[B], 20), ("silent", ""), *now);
            let left = *now;
            while !selector.hear(ms(20), offer(&[], 1), ("", ""), *now) {
                *now = *now + Duration::from_millis(500);
            }
            waits.push(now.since(left).as_secs());
        };
        for _ in 0..5 {
            wait(&mut selector, &mut now);
            now = now + Duration::from_secs(5);
        }
        now = now + FLAPS_WITHIN * 3;
        wait(&mut selector, &mut now);
        assert_eq!(waits, [3, 6, 12, 24, 24, 3]);
    }
}
