//! The fast datapath of one link: what both ends can do, the keys for it, the heartbeats through it, and whether it carries.
//!
//! ```text
//!   Hello both ways ──▶ protection agreed ──▶ in both kernels ──▶ heartbeats proven ──▶ carries
//!                       (clear, or ESP)        (keys, policies)             ▲                   │
//!                                                                           └── 3 s of proof ───┘ proven dead, and another
//!                                                                                                 method answers
//! ```
//! Where a NAT lies between, ESP goes in UDP, once [`super::encap`] has found the peer that way.
//!
//! The sleeve is ready all the time. The fast datapath is left only for a method that has answered since the trouble began, and that
//! frames can take: when nothing answers, the peer's router is being replaced, and its kernel goes on.

mod agreement;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use agreement::Agreed;

use super::{
    encap::Encap,
    esp::{Esp, Offer, Source},
    estimate::{Losses, Quality},
    heartbeat::{Fault, Heartbeats, Size},
    message::Hello,
};
use crate::{
    entropy::Entropy,
    fastdp::{Ability, PlannedPeer, Protection},
    id::PeerName,
    time::Time,
};

/// Between greetings while something is not agreed or proven, and afterwards.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
const HELLO_INTERVAL_LATER: Duration = Duration::from_secs(10);
/// How long a peer that says nothing is greeted often.
const HELLO_EAGERLY: Duration = Duration::from_secs(10);
/// How long what the kernel refused may explain that heartbeats are missing.
const REFUSED_LATELY: Duration = Duration::from_secs(20);
/// How long a heartbeat of the peer counts as heard, which sends them often while it looks for a path.
const HEARD_FOR: Duration = Duration::from_millis(2500);
/// Less between two small heartbeats of the peer: they come often, as it sends frames.
const OFTEN: Duration = Duration::from_millis(350);
/// Small heartbeats of the peer after which a large one is missing, however often it sends them: 20 come to one where they are seldom, 36
/// where they are more so.
const SMALL_TO_ONE_FULL: u16 = 45;
/// How long the kernel's path is kept when the peer's router went away without a word of its own, or said that it stops.
pub const HOLD: Duration = Duration::from_secs(45);

/// What this node brings to the fast datapath of every link.
#[derive(Clone, Debug)]
pub struct FastConfig {
    /// Our name.
    pub own: PeerName,
    /// What our host can do.
    pub ability: Ability,
    /// Whether the network has a secret: then only trusted peers get frames in clear.
    pub secret: bool,
    /// Peers here are trusted with frames in clear, if they trust us.
    pub trusted_subnets: Vec<ipnet::IpNet>,
    /// Our addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// The containers' MTU in bytes: the size of a full heartbeat.
    pub mtu: u16,
    /// Why the kernel refused packets last, and when.
    pub refused: Option<(String, Time)>,
}

/// What the sleeve and the rest of the network offer instead, now.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    /// When the sleeve's direct path last answered; None while there is none.
    pub sleeve_answered: Option<Time>,
    /// Another peer leads there.
    pub relay: bool,
    /// Frames have a way, straight or by relays. One that answers again has to be told of before it is taken.
    pub has_way: bool,
}

/// Something to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToSend {
    /// By the sleeve, like all control.
    Hello(Hello),
    /// By the sleeve.
    Offer(Offer),
    /// Through the fast datapath.
    Heartbeat(u64, Size),
    /// A probe with this token from our port for ESP in UDP to the peer's.
    EncapProbe(SocketAddr, u64),
}

/// The fast datapath of one link.
#[derive(Debug)]
pub struct Fast {
    peer: PeerName,
    remote: Option<IpAddr>,
    theirs: Option<Hello>,
    /// The MTU of the peer's containers; 0 while it is not known.
    peer_mtu: u16,
    esp: Esp,
    encap: Encap,
    /// A NAT lies between, which what was agreed on last crosses.
    crosses_nat: bool,
    /// Another peer is carried at the same address: behind the same NAT.
    is_crowded: bool,
    /// The kernel sends to this address in clear.
    clear_to: Option<IpAddr>,
    /// Why it does not as planned.
    refused: Option<String>,
    beats: Heartbeats,
    heard: [Option<Time>; 2],
    /// Small ones of the peer that came, and how many had when a large one did last.
    heard_small: u16,
    heard_full_at: u16,
    /// When they came often last.
    heard_often: Time,
    carries: bool,
    reason: String,
    since: Time,
    hello_at: Time,
    told: Option<Hello>,
    hold_until: Option<Time>,
}

impl Fast {
    /// Nothing known of the peer's side yet.
    pub fn new(peer: PeerName, now: Time) -> Self {
        Self {
            peer,
            remote: None,
            theirs: None,
            peer_mtu: 0,
            esp: Esp::default(),
            encap: Encap::new(now),
            crosses_nat: false,
            is_crowded: false,
            clear_to: None,
            refused: None,
            beats: Heartbeats::new(now),
            heard: [None; 2],
            heard_small: 0,
            heard_full_at: 0,
            heard_often: Time::ZERO,
            carries: false,
            reason: String::new(),
            since: now,
            hello_at: now,
            told: None,
            hold_until: None,
        }
    }

    /// Whether frames go by the fast datapath.
    pub fn carries(&self) -> bool {
        self.carries
    }

    /// Why it carries, or why it was left; empty if it never carried.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Since when that is so.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Smoothed round-trip time of heartbeats.
    pub fn rtt(&self) -> Option<Duration> {
        self.beats.rtt()
    }

    /// Share of heartbeats lost, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.beats.loss()
    }

    /// The same for each direction, if the other end says what it hears.
    pub fn losses(&self) -> Option<Losses> {
        self.beats.losses()
    }

    /// How good the path of heartbeats is.
    pub fn quality(&self, now: Time) -> Option<Quality> {
        self.beats.quality(now)
    }

    /// Frames are exchanged with the peer: whether they pass is looked at often.
    pub fn wake(&mut self, now: Time) {
        self.beats.wake(now);
    }

    /// Whether the link is one of many, so that heartbeats may rest while no frames are exchanged.
    pub fn set_one_of_many(&mut self, is_one_of_many: bool, now: Time) {
        self.beats.set_one_of_many(is_one_of_many, now);
    }

    /// Whether frames were sent to the peer of late.
    pub fn set_used(&mut self, is_used: bool) {
        self.beats.set_used(is_used);
    }

    /// A packet was lost on the way to the same peer: see closely how many are.
    pub fn survey(&mut self, now: Time) {
        if self.carries {
            self.beats.survey(now);
        }
    }

    /// Lanes that we seal on; None in clear.
    pub fn lanes(&self) -> Option<usize> {
        self.esp.plan().send.map(|set| set.keys.len())
    }

    /// Whether the path is kept although its peer's router is away.
    pub fn is_held(&self, now: Time) -> bool {
        self.hold_until.is_some_and(|until| now < until)
    }

    /// Until when it is kept.
    pub fn hold_until(&self) -> Option<Time> {
        self.hold_until
    }

    /// Since when heartbeats are missing; None when all is well or it does not carry.
    pub fn suspect_since(&self, now: Time) -> Option<Time> {
        self.beats.suspect_since(now).filter(|_| self.carries)
    }

    /// What the kernel shall do; None for nothing.
    pub fn plan(&self, config: &FastConfig) -> Option<PlannedPeer> {
        let remote = self.underlay()?;
        let protection = match self.agreed(config) {
            Ok(Agreed::Clear) => Protection::Clear,
            Ok(Agreed::Esp | Agreed::EspInUdp) => Protection::Esp(Box::new(self.esp.plan())),
            // What carries goes on while it is kept, under the protection that it had.
            Err(_) if self.carries && self.esp.is_ready() => Protection::Esp(Box::new(self.esp.plan())),
            Err(_) if self.carries && self.clear_to.is_some() => Protection::Clear,
            Err(_) => return None,
        };
        Some(PlannedPeer { remote, carries: self.carries, protection })
    }

    /// Why frames do not go by it, in words for people; None while they do.
    pub fn obstacle(&self, config: &FastConfig, now: Time) -> Option<String> {
        if self.carries {
            return None;
        }
        let agreed = match self.agreed(config) {
            Err(why) => return Some(why),
            Ok(agreed) => agreed,
        };
        if !self.is_usable(config) {
            return Some(self.unready(agreed));
        }
        let refused = config.refused.as_ref().filter(|(_, at)| agreed.is_sealed() && now.since(*at) < REFUSED_LATELY);
        let hint = refused.map(|(why, _)| format!("; this kernel refused {why}")).unwrap_or_default();
        Some(self.trouble(agreed, now) + &hint)
    }

    /// The peer greeted.
    pub fn greeted(&mut self, hello: Hello, now: Time) {
        if self.theirs.is_none_or(|last| last != hello) {
            self.hello_at = now;
        }
        // Who has no fast datapath says so only when asked.
        self.told = self.told.filter(|told| told.ready);
        self.theirs = Some(hello);
    }

    /// Where the peer is on the underlay, if that is known.
    pub fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    /// The peer is at this address of the underlay.
    pub fn set_remote(&mut self, remote: IpAddr) {
        self.remote = Some(remote);
    }

    /// Whether it crosses a NAT, by ESP in UDP.
    pub fn crosses_nat(&self) -> bool {
        self.crosses_nat
    }

    /// Where its packets go by the underlay; what a NAT shows of the peer, if one lies between.
    pub fn underlay(&self) -> Option<IpAddr> {
        let across = self.encap.place().filter(|_| self.crosses_nat).map(|place| place.peer.ip());
        across.or(self.remote)
    }

    /// Whether another peer is carried at the same address: packets to the two could not be told apart.
    pub fn set_crowded(&mut self, is_crowded: bool) {
        self.is_crowded = is_crowded;
    }

    /// A probe of the peer's came to our port for ESP in UDP.
    pub fn encap_heard(&mut self, from: SocketAddr) {
        self.encap.heard_from(from);
    }

    /// An echo came to our port for ESP in UDP, at this address of ours.
    pub fn encap_echoed(&mut self, from: SocketAddr, own: IpAddr, token: u64, now: Time) {
        if self.encap.echoed(from, own, token) {
            self.hello_at = now;
        }
    }

    /// When the peer showed last that it sends frames: its heartbeats came often.
    pub fn heard_often(&self) -> Time {
        self.heard_often
    }

    /// The MTU of the peer's containers; 0 while it is not known.
    pub fn peer_mtu(&self) -> u16 {
        self.peer_mtu
    }

    /// The peer's containers take IP packets of so many bytes.
    pub fn set_peer_mtu(&mut self, mtu: u16) {
        self.peer_mtu = mtu;
    }

    /// A heartbeat of the peer came, `full` if it was as large as frames may be; how many small ones did.
    pub fn heard(&mut self, full: bool, now: Time) -> u16 {
        if !full && self.heard[0].is_some_and(|at| now.since(at) < OFTEN) {
            self.heard_often = now;
        }
        self.heard[usize::from(full)] = Some(now);
        self.heard_small = self.heard_small.wrapping_add(u16::from(!full));
        if full {
            self.heard_full_at = self.heard_small;
        }
        self.heard_small
    }

    /// An echo came by the fast datapath, from where so many small heartbeats were heard.
    pub fn echoed(&mut self, token: u64, heard: u16, now: Time) {
        self.beats.echoed(token, heard, now);
        if self.hold_until.take().is_some() {
            // The peer's router is there again: heartbeats of the other size were not answered for the same reason.
            self.beats.forgive(now);
        }
    }

    /// The kernel has, or refused, a set to receive with.
    pub fn installed(&mut self, spi: u32, error: Option<&str>, now: Time) {
        self.esp.installed(spi, error, now);
    }

    /// The kernel lost a set that we seal with; whether it was in use, so that new keys are needed.
    pub fn lost(&mut self, spi: u32) -> bool {
        self.esp.lost(spi)
    }

    /// The kernel sends to this address by the set of this SPI, or in clear; or says why not. Returns the SPI of a set that the
    /// peer is to be told of as taken.
    pub fn sends(&mut self, remote: IpAddr, spi: Option<u32>, error: Option<&str>, now: Time) -> Option<u32> {
        match spi {
            Some(spi) => Some(spi).filter(|spi| self.esp.sealing(*spi, error, now)),
            None => {
                self.clear_to = Some(remote).filter(|_| error.is_none());
                self.refused = error.map(str::to_owned);
                None
            }
        }
    }

    /// Whether the kernel sends to the peer, so that heartbeats and their echoes leave.
    pub fn is_sending(&self) -> bool {
        self.esp.is_sealing() || self.is_clear()
    }

    /// The peer offered a set to seal with, of `source`. Returns whether it is to be told at once that we took it.
    pub fn offered(&mut self, offer: Offer, source: Source<'_>, config: &FastConfig, now: Time) -> bool {
        let Some(ends) = self.ends(config) else { return false };
        if self.esp.offered(offer, source, ends) {
            self.hello_at = now;
        }
        self.esp.seals_with(offer.spi)
    }

    /// The peer seals with a set of ours.
    pub fn taken(&mut self, spi: u32, now: Time) {
        self.esp.taken(spi, now);
    }

    /// Whether this SPI is of the set that we seal with.
    pub fn seals_with(&self, spi: u32) -> bool {
        self.esp.sending() == Some(spi)
    }

    /// The peer's router said goodbye, or its connections ended by its own kernel: keep the kernel's path for a while.
    pub fn hold(&mut self, now: Time) {
        if self.carries {
            self.hold_until = Some(now + HOLD);
        }
    }

    /// Another peer has its address: it will not come back there.
    pub fn displaced(&mut self, now: Time) {
        self.give_up("another peer has its address".to_owned(), now);
    }

    /// No frames go: lets go of all that the kernel has for the peer, until it is looked for again. Returns what the peer is to be told if
    /// frames went by this path, so that it sends no more.
    pub fn retire(&mut self, config: &FastConfig, now: Time) -> Option<Hello> {
        let goodbye = self.hello(config, now).filter(|_| self.carries).map(|hello| Hello { ready: false, ..hello });
        let reason = if self.carries { "no frames were sent for long".to_owned() } else { self.reason.clone() };
        self.give_up(reason, now);
        self.remote = None;
        goodbye
    }

    /// The peer's router was started anew: what was said is void, what the kernels have goes on.
    pub fn peer_restarted(&mut self, now: Time) {
        self.theirs = None;
        self.told = None;
        self.hello_at = now;
        self.hold(now);
    }

    /// Agrees on keys, judges the path. Returns whether it carries now and did not, or the other way round.
    pub fn handle_timeout(
        &mut self,
        config: &FastConfig,
        source: Option<Source<'_>>,
        others: Others,
        now: Time,
        entropy: &Entropy,
    ) -> bool {
        self.beats.handle_timeout(now);
        self.esp.handle_timeout(now);
        if !self.carries && self.agreed(config) != Ok(Agreed::Clear) {
            // The plan has no such peer now: when it has again, the kernel will tell anew.
            self.clear_to = None;
        }
        if self.is_back(others, now) {
            self.hold_until = None;
            self.beats.forgive(now);
        }
        self.search(config, now);
        let agreed = self.agreed(config);
        if let Ok(agreed) = &agreed {
            self.crosses_nat = *agreed == Agreed::EspInUdp;
        }
        if agreed.is_ok_and(Agreed::is_sealed)
            && let (Some(source), Some(ends)) = (source, self.ends(config))
        {
            self.esp.renew(source, ends, self.lanes_to_receive(config), now, entropy);
        }
        let before = self.carries;
        if self.carries {
            match self.leaves(config, others, now) {
                None => {}
                // Nothing else leads there either: nobody is there.
                Some(why) if others.sleeve_answered.is_none() && !others.relay => self.give_up(why, now),
                Some(why) => {
                    self.take(false, why, now);
                    self.beats.restart(now);
                }
            }
        } else if self.beats.is_proven() && self.is_usable(config) {
            let why = if self.reason.is_empty() { "proven by heartbeats" } else { "proven by heartbeats for 3 s" };
            self.take(true, why.to_owned(), now);
        }
        before != self.carries
    }

    /// The next thing to send; `source` is the session in use.
    pub fn poll(&mut self, config: &FastConfig, now: Time, entropy: &Entropy) -> Option<ToSend> {
        if let Some(hello) = self.hello(config, now).filter(|hello| self.greets(*hello, now)) {
            self.told = Some(hello);
            self.hello_at = now + self.hello_interval(config, now);
            return Some(ToSend::Hello(hello));
        }
        if self.encap_port(config).is_some()
            && let Some((to, token)) = self.encap.poll(now, entropy)
        {
            return Some(ToSend::EncapProbe(to, token));
        }
        if self.agreed(config).is_ok_and(Agreed::is_sealed)
            && let Some(offer) = self.esp.poll_offer(now)
        {
            return Some(ToSend::Offer(offer));
        }
        if !self.is_usable(config) {
            return None;
        }
        self.beats.poll(now, entropy).map(|(token, size)| ToSend::Heartbeat(token, size))
    }

    /// When something is to be done next.
    pub fn deadline(&self, config: &FastConfig, has_session: bool, now: Time) -> Option<Time> {
        let hold = self.hold_until.filter(|until| *until > now);
        if !has_session {
            return hold.into_iter().chain(self.esp.expiry()).min();
        }
        let beat = self.is_usable(config).then(|| self.beats.deadline());
        let probe = self.encap_port(config).map(|_| self.encap.deadline(now));
        let hello = self.hello(config, now).filter(|hello| hello.ready || self.greets(*hello, now));
        let hello = hello.map(|hello| if self.is_news(hello) { now } else { self.hello_at });
        [hello, beat, probe, self.esp.deadline(), hold].into_iter().flatten().min()
    }

    /// Sees to it that the peer is looked for where ESP in UDP would reach it.
    fn search(&mut self, config: &FastConfig, now: Time) {
        let Some((_, theirs)) = self.encap_port(config) else { return };
        if let Some(remote) = self.remote {
            self.encap.aim(SocketAddr::new(remote, theirs));
        }
        if !self.is_usable(config) || self.beats.suspect_since(now).is_some() {
            self.encap.hurry();
        }
    }

    /// Whether it is time to greet.
    fn greets(&self, hello: Hello, now: Time) -> bool {
        let is_asked = hello.ready || self.theirs.is_some();
        is_asked && (self.is_news(hello) || (hello.ready && self.hello_at <= now))
    }

    fn is_news(&self, hello: Hello) -> bool {
        self.told.is_none_or(|told| told != hello)
    }

    /// Often while it may change something soon.
    fn hello_interval(&self, config: &FastConfig, now: Time) -> Duration {
        let is_young = self.theirs.is_none() && now.since(self.since) < HELLO_EAGERLY;
        let is_trying = !self.carries && (self.agreed(config).is_ok() || self.encap_port(config).is_some());
        if is_young || is_trying { HELLO_INTERVAL } else { HELLO_INTERVAL_LATER }
    }

    /// Lets go of all that the kernel has for a peer that is not there.
    fn give_up(&mut self, why: String, now: Time) {
        self.take(false, why, now);
        self.theirs = None;
        self.told = None;
        (self.esp, self.clear_to, self.refused) = (Esp::default(), None, None);
        self.beats.restart(now);
    }

    fn take(&mut self, carries: bool, reason: String, now: Time) {
        self.carries = carries;
        self.reason = reason;
        self.since = now;
        self.hold_until = None;
    }

    /// Whether the router that was away answers again by the sleeve: from now on its silence by the fast datapath counts.
    fn is_back(&self, others: Others, now: Time) -> bool {
        let held_since = self.hold_until.filter(|until| now < *until).map(|until| until.since(Time::ZERO + HOLD));
        held_since.zip(others.sleeve_answered).is_some_and(|(since, at)| at.since(Time::ZERO) > since)
            && self.theirs.is_some()
    }

    /// Why the fast datapath is to be left now; None to stay.
    fn leaves(&self, config: &FastConfig, others: Others, now: Time) -> Option<String> {
        let is_held = self.is_held(now);
        let agreed = match self.agreed(config) {
            Ok(agreed) => agreed,
            Err(_) if is_held && self.theirs.is_none() => return None,
            Err(why) => return Some(why),
        };
        if agreed.is_sealed() && !self.esp.is_ready() && !is_held {
            let nat = if self.crosses_nat { ": the NAT shows the peer elsewhere" } else { "" };
            return Some(format!("there are no keys for ESP{nat}"));
        }
        let since = self.beats.suspect_since(now)?;
        let fault = self.beats.fault(now)?;
        let sleeve = others.has_way && others.sleeve_answered.is_some_and(|at| at > since);
        let relay = others.relay && others.sleeve_answered.is_none() && !is_held;
        let too_long = now.since(since) >= HOLD;
        // Which direction is dead shows when the other end has told what it hears.
        let why = match fault {
            Fault::Silent => format!("{} is not answered any more", agreed.what()),
            Fault::Narrow => self.trouble(agreed, now),
        };
        (sleeve || relay || too_long).then_some(why)
    }

    /// What is wrong with the path, as far as both ends can tell.
    fn trouble(&self, agreed: Agreed, now: Time) -> String {
        let theirs = self.theirs;
        if self.beats.is_proving() {
            return "heartbeats are answered; waiting for 3 s of proof".to_owned();
        }
        if self.beats.is_answered(now) {
            let size =
                "packets of full size do not pass the fast datapath: the underlay carries less than the MTU needs";
            return match theirs {
                Some(hello) if hello.hears && !hello.hears_full => format!("{size} (lost on the way there)"),
                Some(hello) if hello.hears_full => format!("{size} (lost on the way back)"),
                Some(_) | None => size.to_owned(),
            };
        }
        let (what, check) = (agreed.what(), agreed.check());
        let hears_us = theirs.is_some_and(|hello| hello.hears);
        let is_heard = self.heard.iter().flatten().any(|at| now.since(*at) < HEARD_FOR);
        match (hears_us, is_heard) {
            (true, true) => "heartbeats are being answered; waiting for proof".to_owned(),
            (true, false) => format!("{what} gets there but not back: {check}"),
            (false, true) => format!("{what} comes from there but does not arrive there: {check}"),
            (false, false) => format!("{what} passes in neither direction: {check}"),
        }
    }

    fn is_usable(&self, config: &FastConfig) -> bool {
        match self.agreed(config) {
            Ok(Agreed::Clear) => self.is_clear(),
            Ok(Agreed::Esp | Agreed::EspInUdp) => self.esp.is_ready(),
            Err(_) => false,
        }
    }

    fn is_clear(&self) -> bool {
        self.clear_to.is_some() && self.clear_to == self.remote
    }

    /// Why nothing is sent although both ends agree how.
    fn unready(&self, agreed: Agreed) -> String {
        match agreed {
            Agreed::Clear => match &self.refused {
                Some(why) => format!("the kernel does not do as planned: {why}"),
                None => "the kernel is being told of the peer".to_owned(),
            },
            Agreed::Esp | Agreed::EspInUdp => match self.esp.refused() {
                Some(why) => format!("the kernel takes no ESP state: {why}"),
                None => "keys for ESP are being agreed".to_owned(),
            },
        }
    }
}

/// The address of a socket as one of the underlay, without the mapping of IPv4 into IPv6.
pub fn underlay_address(socket: SocketAddr) -> IpAddr {
    socket.ip().to_canonical()
}

#[cfg(test)]
mod tests;
