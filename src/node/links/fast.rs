//! The fast datapath of all links: who is greeted, what is planned, and what stays for a while when a peer went away.

use std::net::{IpAddr, SocketAddr};

use super::{Link, LinkChange, Links};
use crate::{
    drops::Drop,
    fastdp::{Ability, PlannedPeer},
    id::PeerName,
    link::{
        direct::Direct,
        esp::Offer,
        fast::{Fast, FastConfig, Others, ToSend, underlay_address},
        heartbeat::Size,
        message::{Hello, Message, SMALL_LEN},
    },
    node::{input::Origin, output::Output},
    time::Time,
};

impl Links {
    /// What the host can do of the fast datapath.
    pub(in crate::node) fn set_ability(&mut self, ability: Ability, now: Time) {
        self.fast.ability = ability;
        self.touch_all(now);
    }

    /// The containers' MTU.
    pub(in crate::node) fn set_mtu(&mut self, mtu: u16, now: Time) {
        self.fast.mtu = mtu;
        self.touch_all(now);
    }

    /// The MTU of a peer's containers; whether it is another than before.
    pub(in crate::node) fn set_peer_mtu(&mut self, peer: PeerName, mtu: u16, now: Time) -> bool {
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.fast.peer_mtu() != mtu) else { return false };
        link.fast.set_peer_mtu(mtu);
        self.touch(peer, now);
        true
    }

    /// Our addresses on the underlay.
    pub(in crate::node) fn set_addresses(&mut self, addresses: Vec<IpAddr>, now: Time) {
        self.fast.addresses = addresses;
        self.touch_all(now);
    }

    /// The kernel took, or refused, a set to receive with.
    pub(in crate::node) fn esp_installed(&mut self, peer: PeerName, spi: u32, error: Option<&str>, now: Time) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.fast.installed(spi, error, now);
            self.service(peer, now);
            self.touch(peer, now);
        }
    }

    /// The kernel sends to a peer at this address by the set of this SPI, or in clear; or says why not.
    pub(in crate::node) fn fast_installed(
        &mut self,
        peer: PeerName,
        (remote, spi): (IpAddr, Option<u32>),
        error: Option<&str>,
        now: Time,
    ) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if let Some(spi) = link.fast.sends(remote, spi, error, now) {
            self.send(peer, Origin::Relayed(peer), Message::Taken { spi }, 0);
        }
        self.service(peer, now);
        self.touch(peer, now);
    }

    /// A set that we seal with is worn, or lost: both want new keys.
    pub(in crate::node) fn esp_ended(&mut self, spi: u32, lost: bool, now: Time) {
        let Some((&peer, link)) = self.links.iter_mut().find(|(_, link)| link.fast.seals_with(spi)) else { return };
        if lost {
            link.fast.lost(spi);
        }
        link.keys.wear();
        self.service(peer, now);
        self.touch(peer, now);
    }

    /// The connection with a peer ended: perhaps its router did, and its kernel goes on.
    pub(in crate::node) fn hold(&mut self, peer: PeerName, now: Time) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.fast.hold(now);
            self.touch(peer, now);
        }
    }

    /// `peer` answers at this address: whoever was there and is kept does not come back.
    pub(in crate::node) fn displace(&mut self, peer: PeerName, address: SocketAddr, now: Time) {
        let address = underlay_address(address);
        // Behind a NAT there is room for several.
        let is_displaced = |other: PeerName, fast: &Fast| {
            other != peer && fast.remote() == Some(address) && fast.is_held(now) && !fast.crosses_nat()
        };
        let kept = self.kept.len();
        self.kept.retain(|other, fast| !is_displaced(*other, fast));
        self.replanned |= kept != self.kept.len();
        let displaced: Vec<PeerName> = self
            .links
            .iter()
            .filter(|(other, link)| is_displaced(**other, &link.fast))
            .map(|(other, _)| *other)
            .collect();
        for other in displaced {
            if let Some(link) = self.links.get_mut(&other) {
                link.fast.displaced(now);
            }
            self.changes.push_back((other, LinkChange::Method));
            self.service(other, now);
            self.touch(other, now);
        }
    }

    /// What is planned for each peer, those included whose link is gone and whose kernel may go on; and until when what
    /// their stations are is to be remembered.
    pub(in crate::node) fn plans(&self) -> impl Iterator<Item = (PeerName, PlannedPeer, &Fast)> {
        let links = self.links.iter().filter_map(|(peer, link)| Some((*peer, link.plan(&self.fast)?, &link.fast)));
        let kept = self.kept.iter().filter_map(|(peer, fast)| Some((*peer, fast.plan(&self.fast)?, fast)));
        links.chain(kept)
    }

    /// Whether the fast datapath to a peer carries, or did and was left; not, while it has yet to show what it can.
    pub(in crate::node) fn has_judged(&self, peer: PeerName) -> bool {
        let fast = self.links.get(&peer).map(|link| &link.fast).or_else(|| self.kept.get(&peer));
        fast.is_some_and(|fast| fast.carries() || !fast.reason().is_empty())
    }

    /// Whether anything is planned at all.
    pub(in crate::node) fn has_plans(&self) -> bool {
        !matches!(self.fast.ability, Ability::Off(_))
    }

    /// Whether what is planned changed since last asked.
    pub(in crate::node) fn take_replanned(&mut self) -> bool {
        std::mem::take(&mut self.replanned)
    }

    /// Hears what the peer says about its fast datapath.
    pub(super) fn hello(&mut self, peer: PeerName, hello: Hello, now: Time) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.fast.greeted(hello, now);
        }
    }

    /// The peer offers a set to seal with.
    pub(super) fn offer(&mut self, peer: PeerName, offer: Offer, now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let Some(source) = link.keys.source_of(offer.session) else { return self.drops.count(Drop::UnknownSession) };
        if link.fast.offered(offer, source, &self.fast, now) {
            self.send(peer, Origin::Relayed(peer), Message::Taken { spi: offer.spi }, 0);
        }
    }

    /// Does what is due on the fast datapath of one link.
    pub(super) fn service_fast(&mut self, peer: PeerName, now: Time) {
        let is_crowded = self.is_crowded(peer);
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.fast.set_crowded(is_crowded);
        link.aim();
        let others = link.others();
        if link.fast.handle_timeout(&self.fast, link.keys.source(), others, now, &self.entropy) {
            self.changes.push_back((peer, LinkChange::Method));
        }
        if let (Some(_), Some(direct)) = (link.fast.suspect_since(now), &mut link.direct) {
            direct.suspect(now);
        }
        let planned = link.plan(&self.fast);
        if planned != link.planned {
            link.planned = planned;
            self.replanned = true;
        }
        while let Some(link) = self.links.get_mut(&peer).filter(|link| link.keys.is_established())
            && let Some(next) = link.fast.poll(&self.fast, now, &self.entropy)
        {
            let (towards, message, size) = match next {
                ToSend::Hello(hello) => (Origin::Relayed(peer), Message::Hello(hello), 0),
                ToSend::Offer(Offer { session, spi, lanes, in_udp }) => {
                    (Origin::Relayed(peer), Message::Offer { session, spi, lanes, in_udp }, 0)
                }
                ToSend::EncapProbe(to, token) => {
                    self.send_encap(peer, to, Message::Probe { token, sealed: 0 });
                    continue;
                }
                ToSend::Heartbeat(token, Size::Small) => (Origin::Fast, Message::Probe { token, sealed: 0 }, SMALL_LEN),
                ToSend::Heartbeat(token, Size::Full) => {
                    (Origin::Fast, Message::Probe { token, sealed: 0 }, self.fast.mtu.into())
                }
            };
            self.send(peer, towards, message, size);
        }
    }

    /// Seals a message and sends it as a heartbeat.
    pub(super) fn beat(&mut self, peer: PeerName, message: Message, size: usize) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let mut bytes = message.packet(size);
        match link.keys.seal(&mut bytes) {
            Ok(()) => self.outputs.push_back(Output::Heartbeat { to: peer, bytes }),
            Err(error) => self.drops.count(error.into()),
        }
    }

    /// Seals a message and sends it from our port for ESP in UDP.
    pub(super) fn send_encap(&mut self, peer: PeerName, to: SocketAddr, message: Message) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let mut bytes = message.packet(SMALL_LEN);
        match link.keys.seal(&mut bytes) {
            Ok(()) => self.outputs.push_back(Output::Encap { to, bytes }),
            Err(error) => self.drops.count(error.into()),
        }
    }

    /// Whether another peer has the fast datapath to the address where this one is.
    fn is_crowded(&self, peer: PeerName) -> bool {
        let Some(link) = self.links.get(&peer).filter(|link| self.has_plans() && link.planned.is_none()) else {
            return false;
        };
        let Some(remote) = link.fast.underlay() else { return false };
        let is_there = |planned: &PlannedPeer| planned.remote == remote;
        self.links.values().filter_map(|link| link.planned.as_ref()).any(is_there)
            || self.kept.values().any(|fast| fast.underlay() == Some(remote))
    }

    /// Drops what was kept of peers that did not come back in time.
    pub(super) fn expire_kept(&mut self, now: Time) {
        let before = self.kept.len();
        self.kept.retain(|_, fast| fast.is_held(now));
        self.replanned |= before != self.kept.len();
    }

    fn touch_all(&mut self, now: Time) {
        let all: Vec<PeerName> = self.links.keys().copied().collect();
        for peer in all {
            self.service_fast(peer, now);
            self.touch(peer, now);
        }
    }
}

impl Link {
    /// What the kernel shall do: it carries only what is to go straight.
    fn plan(&self, config: &FastConfig) -> Option<PlannedPeer> {
        let planned = self.fast.plan(config)?;
        Some(PlannedPeer { carries: self.is_carried(), ..planned })
    }

    /// Aims the fast datapath at where the peer answers; before it has, at where it may be.
    fn aim(&mut self) {
        let Some(direct) = &self.direct else { return };
        let likely = || direct.candidates().next().filter(|_| self.fast.remote().is_none());
        if let Some(address) = direct.address().or_else(likely) {
            self.fast.set_remote(underlay_address(address));
        }
    }

    fn others(&self) -> Others {
        Others {
            sleeve_answered: self.direct.as_ref().and_then(Direct::answered_at),
            relay: self.relays.as_ref().is_some_and(|relays| !relays.is_empty()),
            has_way: self.relays.is_some(),
        }
    }
}
