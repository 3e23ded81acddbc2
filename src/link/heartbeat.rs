//! Whether the fast datapath passes frames to a peer and back, by heartbeats that go through it, small ones and ones of
//! full size.
//!
//! ```text
//!            first echoes, or 3 s of them                      an echo is late: a burst
//!   Proving ────────────────────────────▶ Proven ─────────────────────────────▶ still Proven, suspect
//!      ▲                                                                            │ a whole burst unanswered
//!      └────────────────────────────────────────────────────────────────────────────┘
//! ```
//! An echo proves both directions. One lost heartbeat, or a few, prove nothing: only a burst of twelve without an answer
//! does, which chance makes of 20 % loss in each direction once in some hours.

use std::{collections::BTreeMap, time::Duration};

use super::estimate::{Estimate, Losses, Quality};
use crate::{entropy::Entropy, time::Time};

/// Between small heartbeats, and between those of full size, while they are answered.
const INTERVAL: Duration = Duration::from_millis(200);
const FULL_INTERVAL: Duration = Duration::from_millis(500);
/// Between heartbeats while none is answered.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// Between the heartbeats of a burst.
const BURST_INTERVAL: Duration = Duration::from_millis(40);
/// Unanswered heartbeats of one size in a row, and the time since the last answer, that prove a path dead.
const BURST: u32 = 12;
const BURST_SPAN: Duration = Duration::from_millis(600);
/// An echo is late after this, unless the path is known to be slower.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long the path must answer to be taken again after it was lost.
const PROOF: Duration = Duration::from_secs(3);
/// Silence of small ones and of full ones that lets a proof begin anew: four and three lost in a row.
const GAP: Duration = Duration::from_millis(900);
const FULL_GAP: Duration = Duration::from_millis(1700);
/// Heartbeats under way that are remembered; more cannot be in a second's flight.
const PENDING_MAX: usize = 256;
const FORGET_AFTER: Duration = Duration::from_secs(2);
/// A heartbeat without an echo for this long was lost, unless the path is known to be slower, or it comes before it is forgotten.
const LOST_AFTER: Duration = Duration::from_millis(400);
/// Between small heartbeats after one was lost, and how many: as many as the loss is taken over. Then not again for a while.
const SURVEY_INTERVAL: Duration = Duration::from_millis(20);
const SURVEY: u32 = 128;
const SURVEY_AGAIN: Duration = Duration::from_secs(30);

/// What is wrong with a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing comes back.
    Silent,
    /// Small heartbeats come back, those of full size do not.
    Narrow,
}

/// The size of a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// As small as can be.
    Small,
    /// As large as the largest frame of a container.
    Full,
}

impl Size {
    fn interval(self) -> Duration {
        match self {
            Self::Small => INTERVAL,
            Self::Full => FULL_INTERVAL,
        }
    }
}

/// What is known by the heartbeats of one size.
#[derive(Clone, Debug)]
struct Rhythm {
    due: Time,
    answered_at: Option<Time>,
    /// Sent since the last answer.
    unanswered: u32,
    /// The first of them.
    first_unanswered: Option<Time>,
}

#[derive(Clone, Debug)]
struct Sent {
    size: Size,
    at: Time,
    /// For the estimate, which is of the small ones.
    number: Option<u64>,
    /// It was given up.
    lost: bool,
}

/// The heartbeats to one peer.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    small: Rhythm,
    full: Rhythm,
    pending: BTreeMap<u64, Sent>,
    estimate: Estimate,
    /// Since when both sizes are answered without a gap.
    good_since: Option<Time>,
    is_proven: bool,
    was_proven: bool,
    /// Small ones still to come closely, and when that may be begun again.
    survey: u32,
    survey_at: Time,
    /// Frames are sent to the peer: it matters how much is lost.
    is_used: bool,
}

impl Heartbeats {
    /// Nothing sent yet.
    pub fn new(now: Time) -> Self {
        let rhythm = Rhythm { due: now, answered_at: None, unanswered: 0, first_unanswered: None };
        Self {
            small: rhythm.clone(),
            full: rhythm,
            pending: BTreeMap::new(),
            estimate: Estimate::default(),
            good_since: None,
            is_proven: false,
            was_proven: false,
            survey: 0,
            survey_at: now,
            is_used: false,
        }
    }

    /// Whether frames of every size pass, as far as is known.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Since when answers are missing that should have come; None when all is well.
    pub fn suspect_since(&self, now: Time) -> Option<Time> {
        let late = |rhythm: &Rhythm| rhythm.first_unanswered.filter(|at| now.since(*at) > self.patience());
        if !self.is_proven {
            return None;
        }
        [late(&self.small), late(&self.full)].into_iter().flatten().min()
    }

    /// What is wrong, when that is certain.
    pub fn fault(&self, now: Time) -> Option<Fault> {
        if self.small.is_dead(now) {
            return Some(Fault::Silent);
        }
        let since = self.full.first_unanswered.filter(|_| self.full.is_dead(now))?;
        // A path that died altogether just before a full one was due: small ones were not answered since either.
        let small_pass = self.small.answered_at.is_some_and(|at| at > since);
        Some(if small_pass { Fault::Narrow } else { Fault::Silent })
    }

    /// Whether small heartbeats are answered now.
    pub fn is_answered(&self, now: Time) -> bool {
        self.small.answered_at.is_some_and(|at| now.since(at) < GAP)
    }

    /// Whether both sizes are answered, only not for long enough yet.
    pub fn is_proving(&self) -> bool {
        !self.is_proven && self.good_since.is_some()
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.estimate.rtt()
    }

    /// Share of heartbeats lost, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.estimate.loss()
    }

    /// The same for each direction, if the other end says what it hears.
    pub fn losses(&self) -> Option<Losses> {
        self.estimate.losses()
    }

    /// How good the path is.
    pub fn quality(&self, now: Time) -> Option<Quality> {
        self.estimate.quality(now)
    }

    /// Whether frames were sent to the peer of late: only then are losses looked at closely.
    pub fn set_used(&mut self, is_used: bool) {
        self.is_used = is_used;
    }

    /// A packet was lost on the way to the same peer: see closely how many are.
    pub fn survey(&mut self, now: Time) {
        if self.is_proven && self.is_used && now >= self.survey_at {
            self.survey = SURVEY;
            self.survey_at = now + SURVEY_AGAIN;
            self.small.due = self.small.due.min(now + SURVEY_INTERVAL);
        }
    }

    /// The path was left, or became another: it has to prove itself again.
    pub fn restart(&mut self, now: Time) {
        *self = Self { was_proven: self.was_proven, is_used: self.is_used, ..Self::new(now) };
    }

    /// What was not answered so far proves nothing: whoever answers was away.
    pub fn forgive(&mut self, now: Time) {
        for rhythm in [&mut self.small, &mut self.full] {
            rhythm.unanswered = 0;
            rhythm.first_unanswered = None;
            rhythm.due = now;
        }
    }

    /// An authentic echo of `token` came by the fast datapath; so many small ones were heard there.
    pub fn echoed(&mut self, token: u64, heard: u16, now: Time) {
        let Some(sent) = self.pending.remove(&token) else { return };
        self.rhythm(sent.size).answered(sent.size, now);
        if self.survey > 0 {
            self.small.due = self.small.due.min(now + SURVEY_INTERVAL);
        }
        if let Some(number) = sent.number {
            self.estimate.heard(number, heard);
            self.estimate.answered(number, now.since(sent.at), now);
        }
        self.prove(now);
    }

    /// The next heartbeat to send, with its token.
    pub fn poll(&mut self, now: Time, entropy: &Entropy) -> Option<(u64, Size)> {
        self.give_up(now);
        if self.small.is_broken(now, GAP) || self.full.is_broken(now, FULL_GAP) {
            self.good_since = None;
        }
        let patience = self.patience();
        let is_proven = self.is_proven;
        let size = [Size::Small, Size::Full].into_iter().find(|size| self.rhythm(*size).due <= now)?;
        let is_surveyed = size == Size::Small && self.survey > 0;
        self.survey -= u32::from(is_surveyed);
        let rhythm = self.rhythm(size);
        let interval = rhythm.interval(size, is_proven, patience, now);
        rhythm.due = now + if is_surveyed { interval.min(SURVEY_INTERVAL) } else { interval };
        rhythm.unanswered = rhythm.unanswered.saturating_add(1);
        rhythm.first_unanswered.get_or_insert(now);
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_first();
        }
        let token = entropy.number();
        let number = (size == Size::Small).then(|| self.estimate.sent());
        self.pending.insert(token, Sent { size, at: now, number, lost: false });
        Some((token, size))
    }

    /// When [`Self::poll`] has something to do.
    pub fn deadline(&self) -> Time {
        let due = |rhythm: &Rhythm| {
            // An answer that is late hurries the next heartbeat.
            let late = rhythm.first_unanswered.filter(|_| self.is_proven && rhythm.unanswered == 1);
            late.map_or(rhythm.due, |at| rhythm.due.min(at + self.patience()))
        };
        due(&self.small).min(due(&self.full))
    }

    /// Lets a late answer hurry the next heartbeats; to be called before [`Self::poll`].
    pub fn handle_timeout(&mut self, now: Time) {
        let patience = self.patience();
        if !self.is_proven {
            return;
        }
        for rhythm in [&mut self.small, &mut self.full] {
            if rhythm.unanswered == 1 && rhythm.first_unanswered.is_some_and(|at| now.since(at) >= patience) {
                rhythm.due = rhythm.due.min(now);
            }
        }
    }

    /// Gives up those that should have been answered, and forgets those that cannot be any more.
    fn give_up(&mut self, now: Time) {
        self.pending.retain(|_, sent| now.since(sent.at) < FORGET_AFTER);
        let patience = self.estimate.patience(LOST_AFTER);
        let is_lost = |sent: &&mut Sent| !sent.lost && now.since(sent.at) >= patience;
        let mut any = false;
        for sent in self.pending.values_mut().filter(is_lost) {
            sent.lost = true;
            if let Some(number) = sent.number {
                self.estimate.lost(number, now);
                any = true;
            }
        }
        if any {
            self.survey(now);
        }
    }

    fn prove(&mut self, now: Time) {
        let both = self.small.is_answered(now, GAP) && self.full.is_answered(now, FULL_GAP);
        if !both {
            return;
        }
        let since = *self.good_since.get_or_insert(now);
        let needed = if self.was_proven { PROOF } else { Duration::ZERO };
        if now.since(since) >= needed {
            self.is_proven = true;
            self.was_proven = true;
        }
    }

    fn patience(&self) -> Duration {
        self.estimate.patience(PATIENCE)
    }

    fn rhythm(&mut self, size: Size) -> &mut Rhythm {
        match size {
            Size::Small => &mut self.small,
            Size::Full => &mut self.full,
        }
    }
}

impl Rhythm {
    fn answered(&mut self, size: Size, now: Time) {
        self.answered_at = Some(now);
        self.unanswered = 0;
        self.first_unanswered = None;
        // A burst ends with its reason, and so does a search.
        self.due = now + size.interval();
    }

    fn is_answered(&self, now: Time, gap: Duration) -> bool {
        self.answered_at.is_some_and(|at| now.since(at) < gap)
    }

    /// Answers came, and stopped.
    fn is_broken(&self, now: Time, gap: Duration) -> bool {
        self.answered_at.is_some_and(|at| now.since(at) >= gap)
    }

    fn is_dead(&self, now: Time) -> bool {
        self.unanswered >= BURST && self.first_unanswered.is_some_and(|at| now.since(at) >= BURST_SPAN)
    }

    fn interval(&self, size: Size, is_proven: bool, patience: Duration, now: Time) -> Duration {
        let is_late = self.first_unanswered.is_some_and(|at| now.since(at) >= patience);
        match (is_proven, is_late) {
            (true, true) => BURST_INTERVAL,
            (true, false) => size.interval(),
            (false, _) if self.is_answered(now, GAP) => size.interval(),
            (false, _) => SEARCH_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests;
