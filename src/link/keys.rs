//! The sessions of one link, and when to make new ones.
//!
//! ```text
//!   initiator:  initiation ──▶            response ──▶ current          (the old one is among the previous)
//!   responder:             next (receives only) ──first authentic packet──▶ current
//! ```
//! Make before break: old sessions receive on until the other side can no longer be sealing with them, several, as one may follow
//! another while packets of the first are on their way. Either side may initiate. When both do at once, one of them gives up its
//! own attempt for the other's; should both handshakes be done nevertheless, each side seals with the session it confirmed last.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

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
/// Sessions that receive on; beyond that the oldest goes. Handshakes that cross make two at a time, and a peer whose kernel loses
/// its keys again and again makes some in a second: a packet is not so long on its way.
const PREVIOUS_MAX: usize = 4;
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
    next: Option<Held>,
    /// What was current or next before, the newest at the end.
    previous: VecDeque<Held>,
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

    /// The session that frames are sealed with, by the peer's index of it, and how many packets of them were; the low bits.
    pub fn sealed(&self) -> Option<(u32, u32)> {
        self.sending().map(|session| (session.remote_index(), session.sealed() as u32))
    }

    /// How many packets of frames came by the session of this index of ours; the low bits.
    pub fn opened(&self, local: u32) -> Option<u32> {
        self.receiving().find(|session| session.local_index() == local).map(|session| session.opened() as u32)
    }

    /// How many packets of frames came by all sessions there are; the low bits.
    pub fn opened_in_all(&self) -> u32 {
        self.receiving().map(|session| session.opened() as u32).fold(0, u32::wrapping_add)
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

    /// We answered the peer's initiation: receive on the new session, seal with it when the peer has used it. With `yields` this takes
    /// the place of an attempt of ours: of two that cross one must do so, or each side holds the other for the one who renews.
    pub fn accept(&mut self, established: Established, local: u32, yields: bool, now: Time) {
        if yields {
            self.attempt = None;
        }
        // The peer may have begun to seal with the one that it has now replaced.
        let replaced = self.next.replace(Held::new(established, local, now, false));
        self.retire(replaced);
    }

    /// Opens a Control packet; the first on the next session confirms it, which `confirmed` in the result tells.
    pub fn open<'a>(&mut self, header: &Header, packet: &'a mut [u8]) -> Result<Opened<'a>, SessionError> {
        let is = |held: &&mut Held| held.control.local_index() == header.receiver;
        let confirms = self.next.as_mut().filter(is).is_some();
        let mut all = self.current.iter_mut().chain(&mut self.next).chain(&mut self.previous);
        let held = all.find(is).ok_or(SessionError::NotAuthentic)?;
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
        let is_over = |held: &mut Held, span| now >= held.since + span;
        let count = self.held().count();
        let ended = self.current.take_if(|held| is_over(held, SEAL_UNTIL));
        let changed = ended.is_some();
        self.retire(ended);
        self.next.take_if(|held| is_over(held, RECEIVE_UNTIL));
        self.previous.retain_mut(|held| !is_over(held, RECEIVE_UNTIL));
        changed || count != self.held().count()
    }

    /// When [`Self::handle_timeout`] has something to drop.
    pub fn expiry(&self) -> Option<Time> {
        let current = self.current.iter().map(|held| held.since + SEAL_UNTIL);
        let others = self.next.iter().chain(&self.previous).map(|held| held.since + RECEIVE_UNTIL);
        current.chain(others).min()
    }

    fn promote(&mut self, held: Held) {
        let replaced = self.current.replace(held);
        self.retire(replaced);
        (self.tries, self.worn) = (0, false);
        self.retry_at = Time::ZERO;
    }

    fn retire(&mut self, held: Option<Held>) {
        self.previous.extend(held);
        if self.previous.len() > PREVIOUS_MAX {
            self.previous.pop_front();
        }
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.current.iter().chain(&self.next).chain(&self.previous)
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

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        crypto::{identity::Identity, session::Cipher},
        id::NetworkName,
        link::message::{Message, SMALL_LEN},
        secret::NetworkSecret,
    };

    const NOW: Time = Time::ZERO;

    /// One end of a link.
    struct End {
        config: LinkConfig,
        keys: Keys,
        /// The index that it gave last, and the number of its last initiation.
        last: u32,
    }

    impl End {
        fn new(number: u8) -> Self {
            let config = LinkConfig {
                identity: Identity::from_secret(Zeroizing::new([number; 32])),
                secret: NetworkSecret::open(&NetworkName::default()),
                cipher: Cipher::Aes256Gcm,
            };
            Self { config, keys: Keys::default(), last: 0 }
        }

        fn initiate(&mut self, peer: &Self) -> Vec<u8> {
            self.last += 1;
            let stamp = Stamp { incarnation: 1, sequence: self.last.into() };
            let peer = peer.config.identity.public();
            let by = Initiator { config: &self.config, peer, local: self.last, stamp };
            self.keys.initiate(by, NOW, &Entropy::System).unwrap()
        }

        fn respond(&mut self, initiation: &[u8], yields: bool) -> Vec<u8> {
            self.last += 1;
            let respond = handshake::respond(&self.config, initiation, self.last, |_, _| true, &[], &Entropy::System);
            let (established, response) = respond.unwrap();
            self.keys.accept(established, self.last, yields, NOW);
            response
        }

        fn finish(&mut self, response: &[u8]) -> bool {
            self.keys.finish(&self.config, response, NOW).is_ok()
        }

        /// Has the other end hear of the session that this one seals with.
        fn confirm(&mut self, peer: &mut Self) {
            let mut packet = Message::Probe { token: 1, sealed: 0 }.packet(SMALL_LEN);
            self.keys.seal(&mut packet).unwrap();
            peer.keys.open(&Header::parse(&packet).unwrap(), &mut packet).unwrap();
        }

        /// Whether it receives on what the other seals by `session`.
        fn receives(&self, session: &Session) -> bool {
            self.keys.receiving().any(|own| own.local_index() == session.remote_index())
        }
    }

    fn established() -> (End, End) {
        let (mut a, mut b) = (End::new(1), End::new(2));
        let response = b.respond(&a.initiate(&b), false);
        assert!(a.finish(&response));
        a.confirm(&mut b);
        (a, b)
    }

    #[test]
    fn what_is_on_its_way_is_received_although_two_handshakes_are_done_at_once() {
        let (mut a, mut b) = established();
        let on_their_way = [&a, &b].map(|end| Arc::clone(end.keys.sending().unwrap()));
        // They cross, and neither gives up its own.
        let (from_a, from_b) = (a.initiate(&b), b.initiate(&a));
        let (to_a, to_b) = (b.respond(&from_a, false), a.respond(&from_b, false));
        assert!(a.finish(&to_a) && b.finish(&to_b));
        a.confirm(&mut b);
        b.confirm(&mut a);
        assert!(b.receives(&on_their_way[0]) && a.receives(&on_their_way[1]));
        assert!(a.receives(b.keys.sending().unwrap()) && b.receives(a.keys.sending().unwrap()));
    }

    #[test]
    fn of_two_that_cross_one_is_given_up() {
        let (mut a, mut b) = established();
        let (from_a, from_b) = (a.initiate(&b), b.initiate(&a));
        let (to_a, to_b) = (b.respond(&from_a, true), a.respond(&from_b, false));
        assert!(a.finish(&to_a) && !b.finish(&to_b));
        a.confirm(&mut b);
        let due = |end: &End| end.keys.initiation_due(REKEY_AFTER).unwrap();
        assert_eq!([due(&a), due(&b)], [NOW + REKEY_AFTER, NOW + REKEY_AFTER + REKEY_GRACE]);
    }

    #[test]
    fn a_session_that_the_peer_may_seal_with_is_received_although_it_renews_at_once() {
        let (mut a, mut b) = established();
        let response = b.respond(&a.initiate(&b), false);
        assert!(a.finish(&response));
        let on_its_way = Arc::clone(a.keys.sending().unwrap());
        // Its word that the answer came is lost.
        b.respond(&a.initiate(&b), false);
        assert!(b.receives(&on_its_way));
    }

    #[test]
    fn old_sessions_are_bounded_in_number_and_in_time() {
        let (mut a, mut b) = established();
        for _ in 0..20 {
            let response = b.respond(&a.initiate(&b), false);
            assert!(a.finish(&response));
            a.confirm(&mut b);
        }
        assert_eq!([&a, &b].map(|end| end.keys.receiving().count()), [1 + PREVIOUS_MAX; 2]);
        assert_eq!(a.keys.expiry(), Some(NOW + SEAL_UNTIL));
        assert!(a.keys.handle_timeout(NOW + SEAL_UNTIL) && !a.keys.is_established());
        assert!(a.keys.handle_timeout(NOW + RECEIVE_UNTIL) && a.keys.receiving().count() == 0);
        assert!(!a.keys.handle_timeout(NOW + RECEIVE_UNTIL) && a.keys.expiry().is_none());
    }
}
