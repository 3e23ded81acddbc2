//! The direct path of a link: where the peer answers, how well, and whether frames may go that way.
//!
//! ```text
//!   Searching: every candidate address is probed     ──echo──▶  Trying: one address answers; its size is measured
//!        ▲                                                          │ measured, and answered often enough
//!        │ 3 s without an echo                                      ▼
//!        ├───────────────────────────────────────────────────────  Up
//!        │ 3 s without an echo                                      │ a burst without an echo, and there is another path
//!        └──────────────────────  Silent: asked on  ◀───────────────┘
//!                                    └── answered three times in a row: Up
//! ```
//! Only an echo of our own probe counts: it proves both directions. A probe of the peer's from a new address is a hint
//! that it has moved; the link follows when that address has answered a probe of ours.
//!
//! Probes come seldom while nothing is sent, often while frames are, in a burst when an echo is late, and closely for a
//! while when one was lost, to see how much is ([`super::estimate`]). Where many frames go both ways and none are lost, those
//! show that both ends live, and probes rest ([`super::tally`]): until frames stop coming, or the other end asks more.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{
    estimate::{Estimate, Losses, Quality},
    message::{Came, SMALL_LEN},
    mtu::{MtuSearch, Use},
    tally::{Counted, Tally},
};
use crate::{entropy::Entropy, time::Time};

/// Between the probes of a burst, and how many of it, over which time at least, prove by their silence that a path is dead: with
/// 20 % loss in each direction chance does that once in some hours.
const BURST_INTERVAL: Duration = Duration::from_millis(40);
const BURST: u32 = 12;
const BURST_SPAN: Duration = Duration::from_millis(600);
/// An echo is late after this, unless the path is known to be slower; and what of the burst must have had that time.
const LATE_AFTER: Duration = Duration::from_millis(100);
const BURST_GRACE: Duration = Duration::from_millis(500);
/// Silence after which a path is down also if there is no other, and the probes that it must have left unanswered: who slept
/// meanwhile has sent none.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);
const DOWN_PROBES: u32 = 5;
/// Between probes of a path in use or on trial.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Between probes of a path of a large mesh while it is idle: there are many, and each is one of several ways.
const REST_INTERVAL: Duration = Duration::from_secs(5);
/// Between probes of a path that loses some and is not gone for it, and of one that has fallen silent.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
const SILENT_INTERVAL: Duration = Duration::from_millis(200);
/// Between probes after one was lost, and how many: as many as the loss is taken over. Then not again for a while, for longer if
/// frames are only kept from being sent there.
const SURVEY_INTERVAL: Duration = Duration::from_millis(20);
const SURVEY: u32 = 128;
const SURVEY_AGAIN: Duration = Duration::from_secs(10);
const SURVEY_AGAIN_AVOIDED: Duration = Duration::from_secs(60);
/// Between probes while packets of frames tell all that they would, less loss than this; and the packets that must come between two
/// looks for that: a hundred each second.
const SPOKEN_FOR_INTERVAL: Duration = Duration::from_millis(200);
const SPOKEN_FOR_LOSS: f64 = 0.01;
const SPOKEN_FOR_PACKETS: u32 = 5;
/// Who asks twice within this time misses our frames: then ours are asked after at once, too.
const EARLY: Duration = Duration::from_millis(60);
/// So much loss of frames is looked at closely.
const SUSPICIOUS_LOSS: f64 = 0.02;
/// How long frames that were sent make a path busy, and how long it matters after them how much is lost.
const BUSY_FOR: Duration = Duration::from_secs(2);
const LOSS_COUNTS_FOR: Duration = Duration::from_secs(60);
/// Between probes of each candidate while none answers: at first, and after [`SEARCH_EAGERLY`].
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
const SEARCH_INTERVAL_LATER: Duration = Duration::from_secs(5);
const SEARCH_EAGERLY: Duration = Duration::from_secs(60);
/// Echoes in a row that a path needs to come back after it was down, so that a bad one does not flap.
const ECHOES_TO_RETURN: u8 = 3;
/// The peer's probes, of which one comes each [`SEARCH_INTERVAL_LATER`] at least, show that packets pass in one direction for so long;
/// and that they do only in that one, if they came so long after the last echo of ours.
const HEARD_FOR: Duration = Duration::from_secs(12);
const ONE_WAY_AFTER: Duration = Duration::from_secs(1);
/// Echoes in a row after which a path is known well enough to rest.
const ECHOES_TO_REST: u8 = 8;
/// A peer that still probes from its old address this recently has not moved.
const MOVED_AFTER: Duration = Duration::from_secs(1);
/// A small probe without an echo for this long was lost, unless the path is known to be slower; one that comes later, but before
/// this, was not. MTU probes are given less, as their loss is expected.
const LOST_AFTER: Duration = Duration::from_millis(400);
const FORGET_AFTER: Duration = Duration::from_secs(3);
const MTU_PATIENCE: Duration = Duration::from_millis(200);
/// Candidate addresses kept; the oldest goes.
const CANDIDATES_MAX: usize = 16;
/// Probes under way that are remembered; more cannot be in their time.
const PENDING_MAX: usize = 256;

/// What changed about the direct path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Frames may go straight to this address.
    Up(SocketAddr),
    /// They may not any more.
    Down,
    /// They go to this address from now on.
    Moved(SocketAddr),
}

/// A probe to be sealed and sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Where to.
    pub to: SocketAddr,
    /// To be echoed.
    pub token: u64,
    /// UDP payload of the sealed packet.
    pub size: usize,
    /// Packets of frames that were sealed so far; 0 if that is not told.
    pub sealed: u32,
}

#[derive(Clone, Debug)]
struct Candidate {
    address: SocketAddr,
    probe_at: Time,
}

/// The address that answers.
#[derive(Clone, Debug)]
struct Active {
    address: SocketAddr,
    estimate: Estimate,
    mtu: MtuSearch,
    up: bool,
    /// It was up, and fell silent.
    is_silent: bool,
    echoes: u8,
    answered_at: Time,
    probe_at: Time,
    /// When it was probed last, and whether a probe that was due since waits.
    probed_at: Time,
    is_waiting: bool,
    /// The other end misses something: it must not wait.
    is_asked: bool,
    /// When the peer last probed us from there.
    heard_at: Time,
    /// Small probes sent since the last echo, and the first of them.
    unanswered: u32,
    first_unanswered: Option<Time>,
    /// Another method is in trouble: probes come in a burst until then.
    hurried_until: Time,
    /// Probes still to come closely, and when that was begun last.
    survey: u32,
    surveyed_at: Option<Time>,
}

#[derive(Clone, Debug)]
struct Sent {
    to: SocketAddr,
    size: usize,
    at: Time,
    /// For the estimate; None if it was sent to measure the size that passes: its loss says nothing about the path.
    number: Option<u64>,
    /// The session that it was sealed with, and the packets of frames that were by then, if those go this way.
    counted: Option<(u32, u32)>,
    /// It was given up.
    lost: bool,
}

/// The direct path of one link.
#[derive(Clone, Debug)]
pub struct Direct {
    candidates: Vec<Candidate>,
    active: Option<Active>,
    pending: BTreeMap<u64, Sent>,
    was_up: bool,
    searching_since: Time,
    /// Frames are sent this way: how often it is to be probed therefore, and until when.
    busy: Option<(Duration, Time)>,
    has_alternative: bool,
    /// Frames that are sent would go this way if it were better.
    is_avoided: bool,
    /// Until when it matters how much is lost.
    used_until: Time,
    /// The peer's last probe from anywhere, and the last echo of ours.
    heard_at: Option<Time>,
    echoed_at: Option<Time>,
    /// It is one of many, and may rest while nothing is sent this way; not before `awake_until`, as packets of others are.
    may_rest: bool,
    awake_until: Time,
    /// Small probes of the peer's that came.
    heard: u16,
    /// Packets of frames, there and back.
    frames_there: Tally,
    frames_back: Tally,
    counts: Counts,
    /// What had come when last looked.
    opened: u32,
}

/// What this end counts of packets of frames, their low bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// The session that is sealed with, by the peer's index, and how many were; None if frames to the peer go another way.
    pub sealed: Option<(u32, u32)>,
    /// How many came.
    pub opened: u32,
}

impl Direct {
    /// No address known yet.
    pub fn new(now: Time) -> Self {
        Self {
            candidates: Vec::new(),
            active: None,
            pending: BTreeMap::new(),
            was_up: false,
            searching_since: now,
            busy: None,
            has_alternative: false,
            is_avoided: false,
            used_until: Time::ZERO,
            heard_at: None,
            echoed_at: None,
            may_rest: false,
            awake_until: Time::ZERO,
            heard: 0,
            frames_there: Tally::default(),
            frames_back: Tally::default(),
            counts: Counts::default(),
            opened: 0,
        }
    }

    /// The address that frames may go to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.active.as_ref().filter(|active| active.up).map(|active| active.address)
    }

    /// Where frames may go if there is no other way at all: an address that answered a moment ago.
    pub fn last_resort(&self) -> Option<SocketAddr> {
        self.active.as_ref().filter(|active| active.mtu.usable().is_some()).map(|active| active.address)
    }

    /// When the path in use last answered.
    pub fn answered_at(&self) -> Option<Time> {
        self.active.as_ref().filter(|active| active.up).map(|active| active.answered_at)
    }

    /// Another method to the same peer is in trouble: find out at once whether this one lives.
    pub fn suspect(&mut self, now: Time) {
        if let Some(active) = self.active.as_mut().filter(|active| active.up && active.hurried_until <= now) {
            active.hurried_until = now + BURST_SPAN;
            active.probe_at = now;
        }
    }

    /// Whether it is probed closely, as a probe was lost.
    pub fn is_surveyed(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.survey > 0)
    }

    /// Frames are sent this way; it is to be probed at this interval.
    pub fn busy(&mut self, interval: Duration, now: Time) {
        self.busy = Some((interval, now + BUSY_FOR));
        self.wanted(now);
        if let Some(active) = &mut self.active {
            active.probe_at = active.probe_at.min(now + interval);
            active.mtu.set_use(Use::Busy);
        }
    }

    /// Packets of others are passed on this way: it must not rest.
    pub fn carrying(&mut self, now: Time) {
        self.awake_until = now + BUSY_FOR;
        if let Some(active) = self.active.as_mut().filter(|_| self.may_rest) {
            active.probe_at = active.probe_at.min(now + PROBE_INTERVAL);
        }
    }

    /// Whether it is one of many, to be probed seldom while nothing is sent this way.
    pub fn set_one_of_many(&mut self, may_rest: bool) {
        self.may_rest = may_rest;
    }

    /// Frames are sent to the peer, this way or another: how much is lost matters.
    pub fn wanted(&mut self, now: Time) {
        self.used_until = now + LOSS_COUNTS_FOR;
    }

    /// Whether frames were sent to the peer of late.
    pub fn is_used(&self, now: Time) -> bool {
        now < self.used_until
    }

    /// Whether frames have another way to the peer: then a burst of silence is enough to leave this one; and whether they take it
    /// although they could go straight: then this one is watched for when it is good again.
    pub fn steer(&mut self, has_alternative: bool, is_avoided: bool) {
        (self.has_alternative, self.is_avoided) = (has_alternative, is_avoided);
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.active.as_ref().and_then(|active| active.estimate.rtt())
    }

    /// Share of the latest probes that were lost, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.active.as_ref().map_or(0.0, |active| active.estimate.loss())
    }

    /// The same for each direction, and whether that is known from packets of frames; None while the other end does not say what it
    /// hears.
    pub fn losses(&self, now: Time) -> Option<(Losses, bool)> {
        let of_probes = || Some((self.active.as_ref()?.estimate.losses()?, false));
        self.losses_of_frames(now).map(|losses| (losses, true)).or_else(of_probes)
    }

    fn losses_of_frames(&self, now: Time) -> Option<Losses> {
        Some(Losses { there: self.frames_there.loss(now)?, back: self.frames_back.loss(now)? })
    }

    /// What was counted of packets of frames; to be told before [`Self::poll_probe`].
    pub fn set_counts(&mut self, counts: Counts) {
        if counts.sealed.is_none() {
            self.frames_there.pause();
        }
        self.counts = counts;
    }

    /// The peer told what it had sealed when this much had come; None if its frames come another way.
    pub fn frames_came(&mut self, counted: Option<Counted>, now: Time) {
        match counted {
            Some(counted) => self.frames_back.count(counted, now),
            None => self.frames_back.pause(),
        }
        self.weigh_frames(now);
    }

    /// Takes in what packets of frames say of loss.
    fn weigh_frames(&mut self, now: Time) {
        let Some(active) = &mut self.active else { return };
        let sure = |tally: &Tally| tally.sure_loss(now).unwrap_or(0.0);
        let sure = Losses { there: sure(&self.frames_there), back: sure(&self.frames_back) };
        active.estimate.of_frames(sure.round_trip(), now);
        let seen = [&self.frames_there, &self.frames_back].into_iter().filter_map(|tally| tally.loss(now));
        if seen.fold(0.0, f64::max) >= SUSPICIOUS_LOSS {
            active.begin_survey(true, now);
        }
    }

    /// How good the path is, while it is up.
    pub fn quality(&self, now: Time) -> Option<Quality> {
        self.active.as_ref().filter(|active| active.up)?.estimate.quality(now)
    }

    /// The last echo of a probe of ours.
    pub fn echoed_at(&self) -> Option<Time> {
        self.echoed_at
    }

    /// Whether the peer's packets come, and ours do not get there: its probes go on, and no echo comes.
    pub fn is_one_way(&self, now: Time) -> bool {
        let echoed = self.echoed_at.map_or(Time::ZERO, |at| at + ONE_WAY_AFTER);
        self.heard_at.is_some_and(|at| at > echoed && now.since(at) < HEARD_FOR)
    }

    /// The UDP payload that passes; None until measured.
    pub fn payload_max(&self) -> Option<usize> {
        self.active.as_ref().and_then(|active| active.mtu.usable())
    }

    /// Addresses being tried, for status.
    pub fn candidates(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.candidates.iter().map(|candidate| candidate.address)
    }

    /// Adds a place where the peer may be; probed at once if nothing answers yet.
    pub fn add_candidate(&mut self, address: SocketAddr, now: Time) {
        if self.candidates.iter().any(|known| known.address == address) {
            return;
        }
        if self.candidates.len() == CANDIDATES_MAX {
            self.candidates.remove(0);
        }
        self.candidates.push(Candidate { address, probe_at: now });
    }

    /// An authentic probe of the peer's came from `address`, a small one or not; how many small ones did.
    pub fn heard_from(&mut self, address: SocketAddr, is_small: bool, now: Time) -> u16 {
        self.add_candidate(address, now);
        self.heard_at = Some(now);
        self.heard = self.heard.wrapping_add(u16::from(is_small));
        match &mut self.active {
            Some(active) if active.address == address => active.heard(is_small, now),
            // Perhaps it moved: challenge the new address now. An answer settles it.
            Some(active) if active.up && now.since(active.heard_at) < MOVED_AFTER => {}
            Some(_) | None => self.probe_soon(address, now),
        }
        self.heard
    }

    /// An authentic echo of `token` came from `from`, where so much of ours had come.
    pub fn echoed(&mut self, from: SocketAddr, token: u64, came: Came, now: Time) -> Option<Change> {
        // From another address than we probed, the echo proves nothing about either.
        let sent = self.pending.get(&token).filter(|sent| sent.to == from)?.clone();
        self.pending.remove(&token);
        self.echoed_at = Some(now);
        let other_is_better = |active: &Active| !active.up || now.since(active.heard_at) >= MOVED_AFTER;
        match &self.active {
            Some(active) if active.address == from => {}
            Some(active) if !other_is_better(active) => return None,
            Some(active) if active.up => return Some(self.move_to(from, now)),
            Some(_) | None => self.active = Some(Active::new(from, now)),
        }
        let was_up = self.was_up;
        let active = self.active.as_mut()?;
        active.answered(now);
        active.mtu.answered(sent.size, now);
        if let Some(number) = sent.number {
            active.echoes = active.echoes.saturating_add(u8::from(!sent.lost));
            active.estimate.heard(number, came.probes);
            active.estimate.answered(number, now.since(sent.at), now);
        }
        let change = active.come_up(was_up);
        self.was_up |= change.is_some();
        if let Some((session, sealed)) = sent.counted.filter(|_| self.counts.sealed.is_some()) {
            self.frames_there.count(Counted { session, sealed, opened: came.opened }, now);
            self.weigh_frames(now);
        }
        change
    }

    /// The system refused to send more than `payload_max` to `to`.
    pub fn too_big(&mut self, to: SocketAddr, payload_max: usize, now: Time) {
        if let Some(active) = self.active.as_mut().filter(|active| active.address == to) {
            active.mtu.too_big(payload_max, now);
        }
    }

    /// Notices silence and lost probes; to be called before [`Self::poll_probe`].
    pub fn handle_timeout(&mut self, now: Time) -> Option<Change> {
        self.pending.retain(|_, sent| now.since(sent.at) < FORGET_AFTER);
        let is_busy = self.busy.is_some_and(|(_, until)| now < until);
        let is_used = self.is_used(now);
        let active = self.active.as_mut()?;
        let patience = active.estimate.patience(LOST_AFTER);
        let is_lost = |sent: &&mut Sent| !sent.lost && now.since(sent.at) >= patience && sent.to == active.address;
        let mut lost = Vec::new();
        for sent in self.pending.values_mut().filter(is_lost) {
            sent.lost = true;
            lost.extend(sent.number);
        }
        if !lost.is_empty() {
            lost.into_iter().for_each(|number| active.estimate.lost(number, now));
            active.echoes = 0;
            if is_used {
                active.begin_survey(is_busy, now);
            }
        }
        let was_up = active.up;
        // Who rests was not asked for a while.
        let is_asked = |at| now.since(at) + PROBE_INTERVAL >= DOWN_AFTER;
        let is_silent = now.since(active.answered_at) >= DOWN_AFTER && active.first_unanswered.is_some_and(is_asked);
        if is_silent && active.unanswered >= DOWN_PROBES {
            // Frames may still have been sent there for want of another way.
            let was_told = was_up || active.is_silent;
            self.give_up(now);
            return was_told.then_some(Change::Down);
        }
        if was_up && self.has_alternative && active.is_dead(now) {
            (active.up, active.is_silent, active.echoes) = (false, true, 0);
            return Some(Change::Down);
        }
        // The first sweep may end by the loss of its last probes, without another echo.
        let change = active.come_up(self.was_up);
        self.was_up |= change.is_some();
        change
    }

    /// The next probe to send.
    pub fn poll_probe(&mut self, now: Time, entropy: &Entropy) -> Option<Probe> {
        let busy = self.busy.filter(|(_, until)| now < *until).map(|(interval, _)| interval);
        if let Some(interval) = busy.filter(|_| self.is_spoken_for(now)) {
            self.active.iter_mut().for_each(|active| (active.probe_at, active.is_waiting) = (now + interval, true));
        }
        let rests = self.may_rest && busy.is_none() && now >= self.awake_until;
        let due = match &mut self.active {
            Some(active) => active.poll(busy, rests, self.is_avoided && now < self.used_until, now),
            None => None,
        };
        let (to, size, number) = match due {
            Some(due) => due,
            // If it is answered, it is the first of an estimate.
            None => (self.poll_candidate(now)?, SMALL_LEN, Some(0)),
        };
        let token = entropy.number();
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_first();
        }
        let counted = self.counts.sealed.filter(|_| number.is_some());
        self.pending.insert(token, Sent { to, size, at: now, number, counted, lost: false });
        Some(Probe { to, token, size, sealed: counted.map_or(0, |(_, sealed)| sealed) })
    }

    /// Whether a probe that is due can wait, as packets of frames show that both ends live and that nothing is lost.
    fn is_spoken_for(&mut self, now: Time) -> bool {
        let Some(active) = self.active.as_ref().filter(|active| active.up && active.probe_at <= now) else {
            return false;
        };
        let came = self.counts.opened.wrapping_sub(std::mem::replace(&mut self.opened, self.counts.opened));
        came >= SPOKEN_FOR_PACKETS
            && active.may_wait(now)
            && self.losses_of_frames(now).is_some_and(|losses| losses.round_trip() < SPOKEN_FOR_LOSS)
    }

    /// When something is to be done next.
    pub fn deadline(&self) -> Option<Time> {
        let candidates = self.candidates.iter().map(|candidate| candidate.probe_at).filter(|at| *at < NEVER).min();
        let active = self.active.as_ref().and_then(|active| {
            let mtu = active.mtu.deadline(active.estimate.patience(MTU_PATIENCE));
            // An echo that is late begins the burst.
            let late = active.first_unanswered.filter(|_| active.up && active.unanswered == 1);
            let late = late.map(|at| at + active.patience());
            [Some(active.probe_at), late, mtu].into_iter().flatten().min()
        });
        [candidates, active].into_iter().flatten().min()
    }

    /// Candidates are probed while nothing answers, and whenever one of them was asked for.
    fn poll_candidate(&mut self, now: Time) -> Option<SocketAddr> {
        let interval =
            if now.since(self.searching_since) < SEARCH_EAGERLY { SEARCH_INTERVAL } else { SEARCH_INTERVAL_LATER };
        let next = if self.active.is_some() { NEVER } else { now + interval };
        let candidate = self.candidates.iter_mut().find(|candidate| candidate.probe_at <= now)?;
        candidate.probe_at = next;
        Some(candidate.address)
    }

    fn probe_soon(&mut self, address: SocketAddr, now: Time) {
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.address == address) {
            candidate.probe_at = now;
        }
    }

    fn move_to(&mut self, address: SocketAddr, now: Time) -> Change {
        if let Some(active) = &mut self.active {
            active.address = address;
            active.answered(now);
            active.heard_at = now;
            active.probe_at = now;
            active.mtu.restart(now);
        }
        Change::Moved(address)
    }

    fn give_up(&mut self, now: Time) {
        self.active = None;
        self.searching_since = now;
        for candidate in &mut self.candidates {
            candidate.probe_at = now;
        }
    }
}

/// A candidate that need not be probed while another address answers.
const NEVER: Time = Time::MAX;

impl Active {
    fn new(address: SocketAddr, now: Time) -> Self {
        Self {
            address,
            estimate: Estimate::default(),
            mtu: MtuSearch::new(now),
            up: false,
            is_silent: false,
            echoes: 0,
            answered_at: now,
            probe_at: now + PROBE_INTERVAL,
            probed_at: now,
            is_waiting: false,
            is_asked: false,
            heard_at: now,
            unanswered: 0,
            first_unanswered: None,
            hurried_until: Time::ZERO,
            survey: 0,
            surveyed_at: None,
        }
    }

    fn answered(&mut self, now: Time) {
        self.answered_at = now;
        self.unanswered = 0;
        self.first_unanswered = None;
    }

    fn heard(&mut self, is_small: bool, now: Time) {
        if is_small && self.is_waiting && now.since(self.heard_at) < EARLY {
            (self.probe_at, self.is_asked) = (now, true);
        }
        self.heard_at = now;
    }

    /// Whether nothing speaks against probing it more seldom.
    fn may_wait(&self, now: Time) -> bool {
        !self.is_late(now)
            && self.survey == 0
            && now >= self.hurried_until
            && now.since(self.probed_at) < SPOKEN_FOR_INTERVAL
            && !self.is_asked
            && !self.estimate.is_lossy(now)
    }

    fn begin_survey(&mut self, is_busy: bool, now: Time) {
        let again = if is_busy { SURVEY_AGAIN } else { SURVEY_AGAIN_AVOIDED };
        if self.surveyed_at.is_none_or(|at| now.since(at) >= again) {
            self.survey = SURVEY;
            self.surveyed_at = Some(now);
            self.probe_at = self.probe_at.min(now + SURVEY_INTERVAL);
        }
    }

    fn patience(&self) -> Duration {
        self.estimate.patience(LATE_AFTER)
    }

    fn is_late(&self, now: Time) -> bool {
        self.up && self.first_unanswered.is_some_and(|at| now.since(at) >= self.patience())
    }

    fn is_dead(&self, now: Time) -> bool {
        let span = BURST_SPAN.max(self.patience() + BURST_GRACE);
        self.unanswered >= BURST && self.first_unanswered.is_some_and(|at| now.since(at) >= span)
    }

    fn come_up(&mut self, was_up_before: bool) -> Option<Change> {
        let enough = self.echoes >= if was_up_before { ECHOES_TO_RETURN } else { 1 };
        if self.up || !enough || self.mtu.usable().is_none() {
            return None;
        }
        (self.up, self.is_silent) = (true, false);
        Some(Change::Up(self.address))
    }

    fn poll(
        &mut self,
        busy: Option<Duration>,
        rests: bool,
        is_avoided: bool,
        now: Time,
    ) -> Option<(SocketAddr, usize, Option<u64>)> {
        // The first that is late hurries the next.
        if self.probe_at <= now || (self.unanswered == 1 && self.is_late(now)) {
            self.unanswered = self.unanswered.saturating_add(1);
            self.first_unanswered.get_or_insert(now);
            (self.probed_at, self.is_waiting, self.is_asked) = (now, false, false);
            self.probe_at = now + self.interval(busy, rests, is_avoided, now);
            self.survey = self.survey.saturating_sub(1);
            return Some((self.address, SMALL_LEN, Some(self.estimate.sent())));
        }
        self.mtu.set_use(if busy.is_some() {
            Use::Busy
        } else if rests && self.up {
            Use::Resting
        } else {
            Use::Idle
        });
        let size = self.mtu.poll(now, self.estimate.patience(MTU_PATIENCE))?;
        Some((self.address, size, None))
    }

    /// How long until the next probe.
    fn interval(&self, busy: Option<Duration>, rests: bool, is_avoided: bool, now: Time) -> Duration {
        if self.is_late(now) || now < self.hurried_until {
            return BURST_INTERVAL;
        }
        let may_rest = rests && self.up && self.echoes >= ECHOES_TO_REST;
        [
            Some(if may_rest { REST_INTERVAL } else { PROBE_INTERVAL }),
            busy,
            (self.survey > 0).then_some(SURVEY_INTERVAL),
            (is_avoided && self.estimate.is_lossy(now)).then_some(WATCH_INTERVAL),
            self.is_silent.then_some(SILENT_INTERVAL),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(PROBE_INTERVAL)
    }
}

#[cfg(test)]
mod tests;
