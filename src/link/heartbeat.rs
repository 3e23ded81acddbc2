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
//!
//! Heartbeats of a proven path come often while frames go to the peer, seldom while none do, and more seldom where it is one of many.
//! When frames begin to go they are due at once: a path that died meanwhile is found as soon as that is seen, and a burst is over.

use std::{collections::BTreeMap, time::Duration};

use super::estimate::{Estimate, Losses, Quality};
use crate::{entropy::Entropy, time::Time};

/// How long frames that were sent keep heartbeats coming often: a look that is due each second may be late.
const AWAKE_FOR: Duration = Duration::from_secs(3);
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

/// How often heartbeats come that are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// Frames go, or the path has yet to prove itself, or an answer is late.
    Awake,
    /// None of that.
    Idle,
    /// The same, and the path is one of many.
    Resting,
}

impl Pace {
    /// Between heartbeats of one size: where no frames go as between the sleeve's probes for the same end.
    fn interval(self, size: Size) -> Duration {
        Duration::from_millis(match (self, size) {
            (Self::Awake, Size::Small) => 200,
            (Self::Awake, Size::Full) => 500,
            (Self::Idle, Size::Small) => 500,
            (Self::Idle, Size::Full) => 10_000,
            (Self::Resting, Size::Small) => 5000,
            (Self::Resting, Size::Full) => 180_000,
        })
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
    /// Until when heartbeats come often for frames that were sent by this path.
    awake_until: Time,
    is_one_of_many: bool,
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
            awake_until: now,
            is_one_of_many: false,
        }
    }

    /// Whether frames of every size pass, as far as is known.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Since when answers are missing that should have come; None when all is well.
    pub fn suspect_since(&self, now: Time) -> Option<Time> {
        if !self.is_proven {
            return None;
        }
        let patience = self.patience();
        let late = |rhythm: &Rhythm| rhythm.first_unanswered.filter(|at| now.since(*at) >= patience);
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

    /// Frames are sent by this path: heartbeats come often for a while, and if they did not, at once.
    pub fn wake(&mut self, now: Time) {
        if self.is_proven && now >= self.awake_until {
            self.hurry(now);
        }
        self.awake_until = now + AWAKE_FOR;
    }

    /// Whether the path is one of many: while no frames are sent by it heartbeats come still more seldom.
    pub fn set_one_of_many(&mut self, is_one_of_many: bool, now: Time) {
        if std::mem::replace(&mut self.is_one_of_many, is_one_of_many) && !is_one_of_many && self.is_proven {
            self.hurry(now);
        }
    }

    fn hurry(&mut self, now: Time) {
        for rhythm in [&mut self.small, &mut self.full] {
            rhythm.due = rhythm.due.min(now);
        }
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
        let Self { was_proven, is_used, awake_until, is_one_of_many, .. } = *self;
        *self = Self { was_proven, is_used, awake_until, is_one_of_many, ..Self::new(now) };
    }

    /// What was not answered so far proves nothing: whoever answers was away.
    pub fn forgive(&mut self, now: Time) {
        for rhythm in [&mut self.small, &mut self.full] {
            rhythm.unanswered = 0;
            rhythm.first_unanswered = None;
        }
        self.hurry(now);
    }

    /// An authentic echo of `token` came by the fast datapath; so many small ones were heard there.
    pub fn echoed(&mut self, token: u64, heard: u16, now: Time) {
        let Some(sent) = self.pending.remove(&token) else { return };
        self.rhythm(sent.size).answered(now);
        // A burst ends with its reason, and so does a search.
        self.rhythm(sent.size).due = now + self.pace(now).interval(sent.size);
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
        let (patience, pace) = (self.patience(), self.pace(now));
        let is_proven = self.is_proven;
        let size = [Size::Small, Size::Full].into_iter().find(|size| self.rhythm(*size).due <= now)?;
        let is_surveyed = size == Size::Small && self.survey > 0;
        self.survey -= u32::from(is_surveyed);
        let rhythm = self.rhythm(size);
        let interval = rhythm.interval(pace.interval(size), is_proven, patience, now);
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
        for is_full in [false, true] {
            let rhythm = if is_full { &mut self.full } else { &mut self.small };
            if rhythm.unanswered == 1 && rhythm.first_unanswered.is_some_and(|at| now.since(at) >= patience) {
                rhythm.due = rhythm.due.min(now);
                // Whether the path is narrow or dead, small ones tell.
                self.small.due = self.small.due.min(now);
            }
        }
    }

    fn pace(&self, now: Time) -> Pace {
        if !self.is_proven || now < self.awake_until || self.suspect_since(now).is_some() {
            Pace::Awake
        } else if self.is_one_of_many {
            Pace::Resting
        } else {
            Pace::Idle
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
        if self.is_proven || !both {
            return;
        }
        let since = *self.good_since.get_or_insert(now);
        let needed = if self.was_proven { PROOF } else { Duration::ZERO };
        if now.since(since) >= needed {
            self.is_proven = true;
            self.was_proven = true;
            // It is to be known better than by its first echoes before they come seldom.
            self.awake_until = self.awake_until.max(now + AWAKE_FOR);
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
    fn answered(&mut self, now: Time) {
        self.answered_at = Some(now);
        self.unanswered = 0;
        self.first_unanswered = None;
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

    fn interval(&self, answered: Duration, is_proven: bool, patience: Duration, now: Time) -> Duration {
        let is_late = self.first_unanswered.is_some_and(|at| now.since(at) >= patience);
        match (is_proven, is_late) {
            (true, true) => BURST_INTERVAL,
            (true, false) => answered,
            (false, _) if self.is_answered(now, GAP) => answered,
            (false, _) => SEARCH_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests;
