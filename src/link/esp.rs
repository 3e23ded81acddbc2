//! The security associations of one link's fast datapath: made of the keys of its sessions, changed without losing a packet.
//!
//! ```text
//!   receiver                                                        sender
//!   new session: choose SPIs, ask the kernel to receive
//!   the kernel does ────────── Offer(session, SPI, lanes) ────────▶ derive the same keys, ask the kernel to seal with them
//!   the old ones receive on for 90 s ◀────────── Taken(SPI) ─────── the kernel does (until then, the offer is repeated)
//! ```
//! So nothing is sealed with what the other kernel cannot open, and nothing in place: each set has an SPI and keys that no
//! other has. A set that was sealed with is never installed again, whatever becomes of the kernel's: its counter, which is
//! the nonce, would start anew (RFC 4106 §2).
//!
//! The sets outlive the sessions they came from, and the peer's router: kernels go on while routers are replaced.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    crypto::{kdf, session::Key},
    entropy::Entropy,
    fastdp::{EspPlan, LANES_MAX, SaKey, SaSet},
    id::PeerName,
    time::Time,
};

/// How long a set receives on when the sender has taken a newer one (DESIGN.md).
const RECEIVE_ON: Duration = Duration::from_secs(90);
/// How long a set that was sealed with stays installed beside its successor: packets may be on their way through the kernel.
const SEAL_ON: Duration = Duration::from_secs(5);
/// Between offers of the same set.
const OFFER_INTERVAL: Duration = Duration::from_millis(500);
/// Sets that are remembered as used; an offer is repeated for no longer than its session lives.
const USED_MAX: usize = 32;
/// The kernel refuses an SPI that somebody has; more often than this it refuses for another reason.
const TRIES_MAX: u32 = 4;

/// A session as far as security associations come from it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Our index of it.
    pub local: u32,
    /// The peer's.
    pub remote: u32,
    /// Its key for other methods of the link.
    pub exporter: &'a Key,
}

/// How far a receiving set is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The kernel was asked for it.
    Wanted,
    /// The kernel has it; the peer is told.
    Offered,
    /// The peer seals with it.
    Taken,
    /// The peer has taken a newer one, at this time.
    Superseded(Time),
}

#[derive(Clone, Debug)]
struct Receiving {
    set: SaSet,
    session: u32,
    /// Where the peer sends to by ESP in UDP: our address as it sees it.
    seen: Option<SocketAddr>,
    stage: Stage,
    offer_at: Time,
}

#[derive(Clone, Debug)]
struct Sending {
    set: SaSet,
    /// The kernel seals with it.
    is_installed: bool,
}

/// What a node brings to each set.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Our name.
    pub own: PeerName,
    /// The peer's name.
    pub peer: PeerName,
    /// Our address on the underlay, by which packets come to us.
    pub own_address: IpAddr,
    /// The peer's, by which ours go.
    pub peer_address: IpAddr,
    /// What a NAT makes of ESP in UDP between them; None without one.
    pub encap: Option<EncapEnds>,
}

/// The two ends of ESP in UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncapEnds {
    /// Ours.
    pub ours: SocketAddr,
    /// The peer's as we see it.
    pub theirs: SocketAddr,
    /// Ours as the peer sees it.
    pub seen: SocketAddr,
}

impl Ends {
    /// What a state says of ESP in UDP.
    fn encap(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.encap.map(|encap| (encap.ours, encap.theirs))
    }

    /// Whether the kernel takes what the peer sends by this set. Its port may change: the kernel does not look at that.
    fn reach(&self, set: &SaSet) -> bool {
        let whence = |encap: Option<(SocketAddr, SocketAddr)>| encap.map(|(ours, theirs)| (ours, theirs.ip()));
        set.destination == self.own_address && whence(set.encap) == whence(self.encap())
    }
}

/// An offer to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The session, by our index.
    pub session: u32,
    /// SPI of lane 0.
    pub spi: u32,
    /// How many lanes.
    pub lanes: u8,
    /// For ESP in UDP, which both ends have to agree on.
    pub in_udp: bool,
}

/// All sets of one link.
#[derive(Clone, Debug, Default)]
pub struct Esp {
    receiving: Vec<Receiving>,
    sending: Option<Sending>,
    /// What was sealed with until the newest came, and since when the kernel seals with that instead.
    before: Option<(SaSet, Option<Time>)>,
    /// SPIs of the sets that we sealed with last, the newest at the end: an offer that comes late revives none of them.
    used: VecDeque<u32>,
    tries: u32,
    /// Why the kernel takes none of ours.
    refused: Option<String>,
}

impl Esp {
    /// What the kernel shall have.
    pub fn plan(&self) -> EspPlan {
        EspPlan {
            send: self.sending.as_ref().map(|sending| sending.set.clone()),
            send_before: self.before.as_ref().map(|(set, _)| set.clone()),
            receive: self.receiving.iter().map(|receiving| receiving.set.clone()).collect(),
        }
    }

    /// Whether the kernel seals, by the newest keys or those before.
    pub fn is_sealing(&self) -> bool {
        self.sending.as_ref().is_some_and(|sending| sending.is_installed || self.before.is_some())
    }

    /// Whether both directions have keys that the other side has too, in both kernels.
    pub fn is_ready(&self) -> bool {
        self.is_sealing() && self.receiving.iter().any(|receiving| receiving.stage != Stage::Wanted)
    }

    /// Why the kernel does not take our sets, in words; None if it does.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Sees to it that there is a set to receive with that comes from the session in use and leads to our address.
    /// Returns whether the plan changed.
    pub fn renew(&mut self, source: Source<'_>, ends: Ends, lanes: u8, now: Time, entropy: &Entropy) -> bool {
        let mut changed = self.drop_foreign(ends);
        let seen = ends.encap.map(|encap| encap.seen);
        let fits = |receiving: &Receiving| receiving.session == source.local && receiving.seen == seen;
        if !self.receiving.iter().any(fits) && self.tries < TRIES_MAX {
            // SPIs up to 255 are reserved (RFC 4303 §2.1).
            let spi = (u32::from_le_bytes(entropy.array()) | 0x100) & !u32::from(LANES_MAX - 1);
            let mut set = derive(source.exporter, ends.own, ends.own_address, spi, lanes);
            set.encap = ends.encap();
            let stage = Stage::Wanted;
            self.receiving.push(Receiving { set, session: source.local, seen, stage, offer_at: now });
            changed = true;
        }
        changed
    }

    /// The kernel receives with the set of this SPI, or says why not. Returns whether the plan changed.
    pub fn installed(&mut self, spi: u32, error: Option<&str>, now: Time) -> bool {
        let Some(place) = self.receiving.iter().position(|receiving| receiving.set.spi == spi) else { return false };
        match error {
            None => {
                (self.tries, self.refused) = (0, None);
                if let Some(receiving) = self.receiving.get_mut(place).filter(|found| found.stage == Stage::Wanted) {
                    receiving.stage = Stage::Offered;
                    receiving.offer_at = now;
                }
                false
            }
            Some(error) => {
                self.receiving.remove(place);
                self.tries += 1;
                self.refused = Some(error.to_owned());
                true
            }
        }
    }

    /// The kernel lost the set that we seal with: it is not installed again. Returns whether it was in use.
    pub fn lost(&mut self, spi: u32) -> bool {
        let was_used = self.sending() == Some(spi);
        if was_used {
            self.sending = None;
        }
        was_used
    }

    /// The SPI of the set that we seal with.
    pub fn sending(&self) -> Option<u32> {
        self.sending.as_ref().map(|sending| sending.set.spi)
    }

    /// Whether the kernel seals with the set of this SPI.
    pub fn seals_with(&self, spi: u32) -> bool {
        self.sending.as_ref().is_some_and(|sending| sending.is_installed && sending.set.spi == spi)
    }

    /// The kernel seals with the set of this SPI, or says why not. Returns whether the peer is to be told that it does.
    pub fn sealing(&mut self, spi: u32, error: Option<&str>, now: Time) -> bool {
        let Some(sending) = self.sending.as_mut().filter(|sending| sending.set.spi == spi) else { return false };
        if let Some(error) = error {
            self.refused = Some(error.to_owned());
            return false;
        }
        self.refused = None;
        sending.is_installed = true;
        if let Some((_, since)) = &mut self.before {
            since.get_or_insert(now);
        }
        true
    }

    /// The peer receives with a set of its own that comes from `source`: seal with it. Returns whether the plan changed.
    pub fn offered(&mut self, offer: Offer, source: Source<'_>, ends: Ends) -> bool {
        // A NAT that only one end has noticed so far: the other will, and offer anew.
        if self.used.contains(&offer.spi) || offer.in_udp != ends.encap.is_some() {
            return false;
        }
        if self.used.len() == USED_MAX {
            self.used.pop_front();
        }
        self.used.push_back(offer.spi);
        let mut set = derive(source.exporter, ends.peer, ends.peer_address, offer.spi, offer.lanes);
        set.encap = ends.encap();
        let before = self.sending.replace(Sending { set, is_installed: false }).filter(|before| before.is_installed);
        // One that the kernel never had is passed over.
        self.before = before.map(|before| (before.set, None)).or_else(|| self.before.take());
        true
    }

    /// The peer seals with this set of ours.
    pub fn taken(&mut self, spi: u32, now: Time) {
        let Some(place) = self.receiving.iter().position(|receiving| receiving.set.spi == spi) else { return };
        if self.receiving.get(place).is_some_and(|taken| matches!(taken.stage, Stage::Superseded(_))) {
            return;
        }
        for (other, receiving) in self.receiving.iter_mut().enumerate() {
            let is_older = other < place && !matches!(receiving.stage, Stage::Superseded(_));
            if other == place {
                receiving.stage = Stage::Taken;
            } else if is_older || receiving.stage == Stage::Taken {
                receiving.stage = Stage::Superseded(now);
            }
        }
    }

    /// Drops what served its time. Returns whether the plan changed.
    pub fn handle_timeout(&mut self, now: Time) -> bool {
        let count = self.receiving.len();
        self.receiving.retain(|receiving| match receiving.stage {
            Stage::Superseded(since) => now.since(since) < RECEIVE_ON,
            Stage::Wanted | Stage::Offered | Stage::Taken => true,
        });
        let had_before = self.before.is_some();
        self.before = self.before.take().filter(|(_, since)| since.is_none_or(|since| now.since(since) < SEAL_ON));
        count != self.receiving.len() || had_before != self.before.is_some()
    }

    /// The next offer to send: of the newest set, until it is taken.
    pub fn poll_offer(&mut self, now: Time) -> Option<Offer> {
        let newest = self.receiving.last_mut().filter(|newest| newest.stage == Stage::Offered)?;
        if newest.offer_at > now {
            return None;
        }
        newest.offer_at = now + OFFER_INTERVAL;
        let lanes = u8::try_from(newest.set.keys.len()).unwrap_or(LANES_MAX);
        let in_udp = newest.set.encap.is_some();
        Some(Offer { session: newest.session, spi: newest.set.spi, lanes, in_udp })
    }

    /// When something is to be done next.
    pub fn deadline(&self) -> Option<Time> {
        let offer = self.receiving.last().filter(|newest| newest.stage == Stage::Offered).map(|newest| newest.offer_at);
        offer.into_iter().chain(self.expiry()).min()
    }

    /// When [`Self::handle_timeout`] has something to drop.
    pub fn expiry(&self) -> Option<Time> {
        let superseded = self.receiving.iter().filter_map(|receiving| match receiving.stage {
            Stage::Superseded(since) => Some(since + RECEIVE_ON),
            Stage::Wanted | Stage::Offered | Stage::Taken => None,
        });
        let before = self.before.as_ref().and_then(|(_, since)| Some((*since)? + SEAL_ON));
        superseded.chain(before).min()
    }

    /// What was made for other addresses serves no more: packets to them do not reach us, ours do not reach the peer.
    fn drop_foreign(&mut self, ends: Ends) -> bool {
        let count = self.receiving.len();
        self.receiving.retain(|receiving| ends.reach(&receiving.set));
        let is_foreign = |set: &SaSet| set.destination != ends.peer_address || set.encap != ends.encap();
        let had = self.sending.is_some();
        self.sending = self.sending.take().filter(|sending| !is_foreign(&sending.set));
        self.before = self.before.take().filter(|(set, _)| !is_foreign(set));
        count != self.receiving.len() || had != self.sending.is_some()
    }
}

/// The set that `receiver` gets packets with; both sides derive the same. The salt tells directions and lanes apart, and
/// an exporter serves one session only, so no key is ever made twice.
fn derive(exporter: &Key, receiver: PeerName, destination: IpAddr, spi: u32, lanes: u8) -> SaSet {
    let lanes = u32::from(lanes.clamp(1, LANES_MAX));
    let key = |spi: u32| {
        let salt = [&receiver.0[..], &spi.to_be_bytes()].concat();
        SaKey(kdf::derive(&exporter[..], &salt, "weft link esp v1"))
    };
    SaSet { spi, destination, keys: (0..lanes).map(|lane| key(spi.wrapping_add(lane))).collect(), encap: None }
}

#[cfg(test)]
mod tests;
