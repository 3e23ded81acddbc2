//! The sessions of one link, and when to make new ones.
//!
//! ```text
//!   initiator:  initiation ──▶            response ──▶ current          (the old one becomes previous)
//!   responder:             next (receives only) ──first authentic packet──▶ current
//! ```
//! Make before break: the old session receives on until the other side can no longer be sealing with it. Either side may
//! initiate; when both do at once both sessions stay usable, each side sealing with the one it confirmed last.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    cookie::Cookie,
    esp::Source,
    handshake::{self, Established, HandshakeError, Initiation, LinkConfig, Stamp},
};
use crate::{
    crypto::{
        identity::PublicKey,
        session::{Key, Session, SessionContext, SessionError},
    },
    entropy::Entropy,
    time::Time,
    wire::sleeve::Header,
};

/// Age at which the side that initiated a session renews it (DESIGN.md).
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The least that a test may ask for instead: many handshakes, and time for the kernels to follow.
pub const REKEY_AFTER_MIN: Duration = Duration::from_secs(2);
/// The other side steps in this much later.
const REKEY_GRACE: Duration = Duration::from_secs(15);
/// Age after which a session seals nothing more.
const SEAL_UNTIL: Duration = Duration::from_secs(180);
/// Age after which a session is forgotten: 90 s after its successor was due (DESIGN.md).
const RECEIVE_UNTIL: Duration = Duration::from_secs(210);
/// Before an unanswered initiation is tried again: at first, and at most; half as much again each time, with jitter.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// One established session of the link, in its two halves.
struct Held {
    data: Arc<Session>,
    control: Arc<Session>,
    context: SessionContext,
    /// Where keys for the fast datapath come from.
    exporter: Key,
    since: Time,
    initiated: bool,
    /// Whether the peer has used it: then it holds the keys too.
    heard: bool,
}

/// All keys of one link.
#[derive(Default)]
pub struct Keys {
    current: Option<Held>,
    previous: Option<Held>,
    next: Option<Held>,
    attempt: Option<Initiation>,
    cookie: Option<Cookie>,
    tries: u32,
    retry_at: Time,
    worn: bool,
}

/// What this node brings to each handshake.
#[derive(Debug)]
pub struct Initiator<'a> {
    /// Our side of the handshake.
    pub config: &'a LinkConfig,
    /// The peer.
    pub peer: PublicKey,
    /// Our index for the session to be.
    pub local: u32,
    /// Greater than any before.
    pub stamp: Stamp,
}

impl Keys {
    /// Whether a session is there to seal with.
    pub fn is_established(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the peer, which answered our initiation, has yet to learn that the answer arrived: it seals nothing with
    /// the session until then, so it must be sent something, again and again until it replies.
    pub fn is_unconfirmed(&self) -> bool {
        self.current.as_ref().is_some_and(|held| held.initiated && !held.heard)
    }

    /// The session that frames are sealed with.
    pub fn sending(&self) -> Option<&Arc<Session>> {
        self.current.as_ref().map(|held| &held.data)
    }

    /// The session in use as a source of other keys.
    pub fn source(&self) -> Option<Source<'_>> {
        self.current.as_ref().map(Held::source)
    }

    /// The session that the peer knows by this index of its own, as a source of other keys.
    pub fn source_of(&self, remote: u32) -> Option<Source<'_>> {
        self.held().map(Held::source).find(|source| source.remote == remote)
    }

    /// All sessions that packets of frames may arrive on.
    pub fn receiving(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.held().map(|held| &held.data)
    }

    /// All indices of ours in use, the one of an attempt included.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.held().map(|held| held.data.local_index()).chain(self.attempt.as_ref().map(Initiation::local_index))
    }

    /// Forgets everything: the peer was started anew and has none of these.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The session with this index has sealed all it should.
    pub fn worn(&mut self, index: u32) {
        self.worn |= self.current.as_ref().is_some_and(|held| held.data.local_index() == index);
    }

    /// Keys that came of the current session are worn or lost: make new ones.
    pub fn wear(&mut self) {
        self.worn |= self.current.is_some();
    }

    /// When an initiation is due; None while the current session is young, which it is for `rekey_after`: at most
    /// [`REKEY_AFTER`], at least [`REKEY_AFTER_MIN`].
    pub fn initiation_due(&self, rekey_after: Duration) -> Option<Time> {
        let rekey_after = rekey_after.clamp(REKEY_AFTER_MIN, REKEY_AFTER);
        let renew = match &self.current {
            None => Time::ZERO,
            Some(_) if self.worn => Time::ZERO,
            Some(held) if held.initiated => held.since + rekey_after,
            Some(held) => held.since + rekey_after + REKEY_GRACE,
        };
        (renew < Time::MAX).then(|| renew.max(self.retry_at))
    }

    /// Starts a handshake; an earlier attempt is given up. Sending the result several ways is fine.
    pub fn initiate(&mut self, by: Initiator<'_>, now: Time, entropy: &Entropy) -> Result<Vec<u8>, HandshakeError> {
        let retry = RETRY_FIRST.mul_f64(1.5_f64.powi(self.tries.min(8).cast_signed())).min(RETRY_MAX);
        self.retry_at = now + retry.mul_f64(1.0 + entropy.fraction() / 2.0);
        self.tries += 1;
        let cookie = self.cookie.take().filter(|cookie| cookie.is_fresh(now));
        let (state, packet) =
            handshake::initiate(by.config, &by.peer, by.local, by.stamp, &[], cookie.as_ref(), entropy)?;
        self.attempt = Some(state);
        Ok(packet)
    }

    /// The peer is busy and wants proof of our address: try again with it soon.
    pub fn cookie_reply(&mut self, packet: &[u8], now: Time) -> Result<(), HandshakeError> {
        let attempt = self.attempt.as_ref().ok_or(HandshakeError::NotForUs)?;
        self.cookie = Some(Cookie::from_reply(attempt, packet, now)?);
        self.retry_at = now;
        Ok(())
    }

    /// Our initiation was answered: the new session is current. A forged answer changes nothing.
    pub fn finish(&mut self, config: &LinkConfig, packet: &[u8], now: Time) -> Result<(), HandshakeError> {
        let attempt = self.attempt.as_mut().ok_or(HandshakeError::NotForUs)?;
        let established = attempt.finish(config, packet)?;
        let local = attempt.local_index();
        let held = Held::new(established, local, now, true);
        self.attempt = None;
        self.promote(held);
        Ok(())
    }

    /// We answered the peer's initiation: receive on the new session, seal with it when the peer has used it.
    pub fn accept(&mut self, established: Established, local: u32, now: Time) {
        self.next = Some(Held::new(established, local, now, false));
    }

    /// Opens a Control packet; the first on the next session confirms it, which `confirmed` in the result tells.
    pub fn open<'a>(&mut self, header: &Header, packet: &'a mut [u8]) -> Result<Opened<'a>, SessionError> {
        let is = |held: &&mut Held| held.control.local_index() == header.receiver;
        let confirms = self.next.as_mut().filter(is).is_some();
        let slots = [&mut self.current, &mut self.previous, &mut self.next];
        let held = slots.into_iter().filter_map(Option::as_mut).find(is).ok_or(SessionError::NotAuthentic)?;
        let body = held.context.open(&held.control, header, packet)?;
        held.heard = true;
        if confirms && let Some(next) = self.next.take() {
            self.promote(next);
        }
        Ok(Opened { body, confirmed: confirms })
    }

    /// Seals a Control packet with the current session.
    pub fn seal(&mut self, packet: &mut [u8]) -> Result<(), SessionError> {
        let held = self.current.as_mut().ok_or(SessionError::UsedUp)?;
        held.context.seal(&held.control, packet)
    }

    /// Drops what is too old; whether anything changed.
    pub fn handle_timeout(&mut self, now: Time) -> bool {
        let is_over = |slot: &Option<Held>, span| slot.as_ref().is_some_and(|held| now >= held.since + span);
        let mut changed = false;
        if is_over(&self.current, SEAL_UNTIL) {
            self.previous = self.current.take();
            changed = true;
        }
        for slot in [&mut self.previous, &mut self.next] {
            if is_over(slot, RECEIVE_UNTIL) {
                *slot = None;
                changed = true;
            }
        }
        changed
    }

    /// When [`Self::handle_timeout`] has something to drop.
    pub fn expiry(&self) -> Option<Time> {
        let of = |slot: &Option<Held>, span| slot.as_ref().map(|held: &Held| held.since + span);
        let current = of(&self.current, SEAL_UNTIL);
        [current, of(&self.previous, RECEIVE_UNTIL), of(&self.next, RECEIVE_UNTIL)].into_iter().flatten().min()
    }

    fn promote(&mut self, held: Held) {
        self.previous = self.current.replace(held);
        (self.tries, self.worn) = (0, false);
        self.retry_at = Time::ZERO;
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        [&self.current, &self.previous, &self.next].into_iter().flatten()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("established", &self.is_established()).finish_non_exhaustive()
    }
}

/// An opened Control packet.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Its body.
    pub body: &'a [u8],
    /// Whether it was the first of a session that we may seal with from now on.
    pub confirmed: bool,
}

impl Held {
    fn source(&self) -> Source<'_> {
        let (local, remote) = (self.data.local_index(), self.data.remote_index());
        Source { local, remote, exporter: &self.exporter }
    }

    fn new(established: Established, local: u32, since: Time, initiated: bool) -> Self {
        let sessions = established.keys.into_sessions(local, established.remote_index);
        let context = SessionContext::new(&sessions.control);
        Self {
            data: Arc::new(sessions.data),
            control: Arc::new(sessions.control),
            context,
            exporter: sessions.exporter,
            since,
            initiated,
            heard: false,
        }
    }
}
