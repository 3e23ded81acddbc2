//! ESP in UDP (RFC 3948) for one link: where the peer is found when a NAT lies between.
//!
//! ```text
//!   a NAT, and a port on both sides ──▶ probes from port to port ──echo──▶ there it is
//!                                            ▲                                 │ every 20 s, so that the NAT does not forget
//!                                            └── a probe of the peer's comes   │
//!                                                from elsewhere, or heartbeats ◀┘
//!                                                are late
//! ```
//! Probes and echoes are Control packets of the link, with a marker before them that tells them from ESP (§2.2), between the very
//! sockets that ESP takes. As with the sleeve only an echo of our own probe counts, and a probe of the peer's from another address
//! is a hint that its NAT has given it another port: the link follows when that has answered.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{entropy::Entropy, time::Time};

/// Between probes while the peer is where it was: the RFC's least for keeping a NAT's binding alive (§2.3, §4).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Between probes while it is not found, or ESP is not answered.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// An echo that takes longer proves nothing about now.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// Probes under way that are remembered.
const PENDING_MAX: usize = 16;

/// Between which ends ESP in UDP goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Our address that the peer's datagrams come to: what a NAT on our side has made of the one that the peer sends to.
    pub own: IpAddr,
    /// The peer's, as we see it.
    pub peer: SocketAddr,
}

/// The search for one peer.
#[derive(Clone, Debug)]
pub struct Encap {
    /// Where it may be.
    candidate: Option<SocketAddr>,
    place: Option<Place>,
    /// An address to ask at once.
    challenge: Option<SocketAddr>,
    probe_at: Time,
    probed_at: Option<Time>,
    pending: BTreeMap<u64, (SocketAddr, Time)>,
}

impl Encap {
    /// Nothing known.
    pub fn new(now: Time) -> Self {
        let pending = BTreeMap::new();
        Self { candidate: None, place: None, challenge: None, probe_at: now, probed_at: None, pending }
    }

    /// Where the peer has answered.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// The peer may be here.
    pub fn aim(&mut self, candidate: SocketAddr) {
        if self.candidate.replace(candidate) != Some(candidate) && self.place.is_none_or(|at| at.peer != candidate) {
            self.challenge = Some(candidate);
        }
    }

    /// An authentic probe of the peer's came from this address.
    pub fn heard_from(&mut self, from: SocketAddr) {
        if self.place.is_none_or(|place| place.peer != from) {
            self.challenge = Some(from);
        }
    }

    /// An authentic echo of `token` came from an address to one of ours. Returns whether the place is another now.
    pub fn echoed(&mut self, from: SocketAddr, own: IpAddr, token: u64) -> bool {
        if self.pending.get(&token).is_none_or(|(to, _)| *to != from) {
            return false;
        }
        self.pending.remove(&token);
        let place = Some(Place { own, peer: from });
        let moved = self.place != place;
        self.place = place;
        moved
    }

    /// ESP is not answered: perhaps a NAT forgot us, and learns of us by a probe.
    pub fn hurry(&mut self) {
        if let Some(at) = self.probed_at {
            self.probe_at = self.probe_at.min(at + SEARCH_INTERVAL);
        }
    }

    /// The next probe to send: where to, and its token.
    pub fn poll(&mut self, now: Time, entropy: &Entropy) -> Option<(SocketAddr, u64)> {
        self.pending.retain(|_, (_, at)| now.since(*at) < FORGET_AFTER);
        let to = match self.challenge.take() {
            Some(to) => to,
            None if self.probe_at <= now => {
                self.probe_at = now + if self.place.is_some() { KEEP_ALIVE } else { SEARCH_INTERVAL };
                self.probed_at = Some(now);
                self.place.map(|place| place.peer).or(self.candidate)?
            }
            None => return None,
        };
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_first();
        }
        let token = entropy.number();
        self.pending.insert(token, (to, now));
        Some((to, token))
    }

    /// When [`Self::poll`] has something to do.
    pub fn deadline(&self, now: Time) -> Time {
        if self.challenge.is_some() { now } else { self.probe_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 2));

    fn at(port: u16) -> SocketAddr {
        SocketAddr::new([203, 0, 113, 1].into(), port)
    }

    fn probes(encap: &mut Encap, now: Time) -> Vec<(SocketAddr, u64)> {
        let entropy = Entropy::System;
        std::iter::from_fn(|| encap.poll(now, &entropy)).collect()
    }

    #[test]
    fn the_peer_is_where_it_answers_and_is_asked_there_now_and_then() {
        let mut encap = Encap::new(Time::ZERO);
        encap.aim(at(6785));
        let first = probes(&mut encap, Time::ZERO);
        assert!(first.iter().all(|(to, _)| *to == at(6785)) && !first.is_empty());
        assert!(!encap.echoed(at(7000), OWN, first[0].1), "from elsewhere it proves nothing");
        assert!(encap.echoed(at(6785), OWN, first[0].1));
        assert!(!encap.echoed(at(6785), OWN, first[0].1), "an echo counts once");
        assert_eq!(encap.place(), Some(Place { own: OWN, peer: at(6785) }));
        let second = Time::ZERO + SEARCH_INTERVAL;
        assert_eq!(probes(&mut encap, second).len(), 1, "it was due before it answered");
        assert_eq!(probes(&mut encap, second + KEEP_ALIVE / 2), []);
        assert_eq!(encap.deadline(second), second + KEEP_ALIVE);
        encap.hurry();
        assert_eq!(probes(&mut encap, second + KEEP_ALIVE / 2).len(), 1);
    }

    #[test]
    fn the_peer_is_followed_when_its_nat_gives_it_another_port() {
        let mut encap = Encap::new(Time::ZERO);
        encap.aim(at(6785));
        let (_, token) = probes(&mut encap, Time::ZERO)[0];
        encap.echoed(at(6785), OWN, token);
        encap.heard_from(at(6785));
        assert_eq!(probes(&mut encap, Time::ZERO), []);
        encap.heard_from(at(40_000));
        let challenge = probes(&mut encap, Time::ZERO);
        assert_eq!(challenge.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [at(40_000)]);
        assert_eq!(encap.place().unwrap().peer, at(6785), "it has not answered yet");
        assert!(encap.echoed(at(40_000), OWN, challenge[0].1));
        assert_eq!(encap.place().unwrap().peer, at(40_000));
    }
}
