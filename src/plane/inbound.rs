//! From the mesh: packets are opened, their frames delivered to our bridge, relayed packets opened or passed on.
//!
//! Which relay records are passed on:
//! - only from a neighbour, over a session of ours, and only to a neighbour with a direct link and a session;
//! - not at all where the operator said so (`--no-relay`);
//! - only between two peers that we know, neither of them ourselves, and never back to where they came from.
//!
//! The source is the neighbour itself on the first relay, and on later ones whatever the relay before said: it cannot
//! be proved to a relay. Nor need it be, as the packet inside only opens with the session of its true source, and each
//! hop shortens the list, so the worst that a lying member can do is to make its own packets travel.

use super::{Outlet, Plane, outbound::Envelope};
use crate::{
    crypto::session::SessionError,
    drops::Drop,
    frame::ethernet::Ethernet,
    id::PeerName,
    node::input::{Input, Origin},
    switch::forwarding::Forwarding,
    wire::sleeve::{Header, PacketType, RECORD_HEADER_LEN, RELAY_FIXED_LEN, Record, Records, Relay, relay_overhead},
};

impl Plane {
    /// Takes a Data packet from the network.
    pub(super) fn data_in(
        &mut self,
        forwarding: &Forwarding,
        packet: &mut [u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let (from, mut rest) = self.open(forwarding, packet)?;
        while let Some(record) = Records::new(rest).next() {
            let (content_len, arrived) = match record.ok_or(Drop::Malformed)? {
                Record::Frame(frame) => {
                    let result = self.deliver(forwarding, from, frame, out);
                    self.counters.settle(result);
                    (frame.len(), None)
                }
                Record::Relay(relay) => {
                    let content_len = RELAY_FIXED_LEN + relay.hops.len() + relay.packet.len();
                    (content_len, self.relay_in(forwarding, from, &relay, out))
                }
            };
            let (record, behind) = rest.split_at_mut_checked(RECORD_HEADER_LEN + content_len).ok_or(Drop::Malformed)?;
            if let Some((source, len)) = arrived {
                let start = record.len() - len;
                let result = self.arrived(forwarding, source, record.get_mut(start..).unwrap_or_default(), out);
                self.counters.settle(result);
            }
            rest = behind;
        }
        Ok(())
    }

    fn open<'p>(&mut self, forwarding: &Forwarding, packet: &'p mut [u8]) -> Result<(PeerName, &'p mut [u8]), Drop> {
        let header = Header::parse(packet).ok_or(Drop::NotSleeve)?;
        let (peer, session) = forwarding.receiving.get(&header.receiver).ok_or(Drop::UnknownSession)?;
        let opened = self.contexts.of(session).open(session, &header, packet);
        Ok((*peer, opened.map_err(drop_reason)?))
    }

    /// Gives a frame of `peer`'s to our bridge. A frame that seems to come from a station of ours is dropped: either it
    /// is one of ours coming back, or the station has moved to the peer, which gossip tells, and until then here is
    /// where it was.
    fn deliver(
        &mut self,
        forwarding: &Forwarding,
        peer: PeerName,
        frame: &[u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let ethernet = Ethernet::parse(frame).ok_or(Drop::BadFrame)?;
        if ethernet.source.is_group() {
            return Err(Drop::BadFrame);
        }
        if ethernet.destination.is_link_local_group() {
            return Err(Drop::LinkLocalGroup);
        }
        if forwarding.local.contains(&ethernet.source) {
            return Err(Drop::Looped);
        }
        if forwarding.heartbeats == Some(ethernet.destination) {
            return Err(Drop::StrayHeartbeat);
        }
        out.frame(frame);
        self.counters.received(peer, frame.len());
        Ok(())
    }

    /// Handles one relay record from the neighbour `from`. Returns who sealed the packet in it, and its length, if it
    /// is for us.
    fn relay_in(
        &mut self,
        forwarding: &Forwarding,
        from: PeerName,
        relay: &Relay<'_>,
        out: &mut impl Outlet,
    ) -> Option<(PeerName, usize)> {
        if !is_acceptable(forwarding, from, relay) {
            self.counters.drops.count(Drop::RelayRefused);
            return None;
        }
        if forwarding.name == Some(relay.destination) {
            return Some((relay.source, relay.packet.len()));
        }
        let result = self.pass_on(forwarding, from, relay, out);
        self.counters.settle(result);
        None
    }

    fn pass_on(
        &mut self,
        forwarding: &Forwarding,
        from: PeerName,
        relay: &Relay<'_>,
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let (next, hops) = match relay.hops.split_first_chunk() {
            None => (relay.destination, relay.hops),
            Some((next, hops)) => (PeerName(*next), hops),
        };
        if next == from || next == relay.source {
            return Err(Drop::RelayRefused);
        }
        let link = self.link(forwarding, next, out).map_err(|_| Drop::RelayRefused)?;
        let hops = hops.as_chunks().0.iter().copied();
        if relay.packet.len() + relay_overhead(hops.len() + 1) > link.payload_max {
            return Err(Drop::TooBig);
        }
        let envelope = Envelope { source: relay.source, destination: relay.destination, hops };
        self.send_enveloped(&link, envelope, relay.packet, out)?;
        self.counters.relayed(relay.source, relay.packet.len());
        self.counters.passed_on(next);
        Ok(())
    }

    /// Takes a packet that `source` sealed for us and relays brought. Relay records in it are refused: one level is
    /// enough.
    fn arrived(
        &mut self,
        forwarding: &Forwarding,
        source: PeerName,
        packet: &mut [u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        match PacketType::of(packet).ok_or(Drop::NotSleeve)? {
            PacketType::Initiation | PacketType::Response | PacketType::CookieReply | PacketType::Control => {
                out.punt(Input::Datagram { origin: Origin::Relayed(source), bytes: packet.to_vec() });
                return Ok(());
            }
            PacketType::Data => {}
        }
        let (peer, body) = self.open(forwarding, packet)?;
        if peer != source {
            return Err(Drop::RelayRefused);
        }
        for record in Records::new(body) {
            let result = match record.ok_or(Drop::Malformed)? {
                Record::Frame(frame) => self.deliver(forwarding, peer, frame, out),
                Record::Relay(_) => Err(Drop::RelayRefused),
            };
            self.counters.settle(result);
        }
        Ok(())
    }
}

/// Whether a relay record from `from` is between two other peers that we know, or for us.
fn is_acceptable(forwarding: &Forwarding, from: PeerName, relay: &Relay<'_>) -> bool {
    let Some(us) = forwarding.name else { return false };
    let is_known = |peer| peer != us && forwarding.peers.contains_key(&peer);
    let is_for_us = relay.destination == us && relay.hops.is_empty();
    let is_onward = forwarding.relays
        && is_known(relay.destination)
        && relay.destination != from
        && relay.destination != relay.source;
    is_known(relay.source) && (is_for_us || is_onward)
}

fn drop_reason(error: SessionError) -> Drop {
    match error {
        SessionError::UsedUp => Drop::SessionUsedUp,
        SessionError::Replayed => Drop::Replayed,
        SessionError::NotAuthentic => Drop::NotAuthentic,
        SessionError::TooShort => Drop::NotSleeve,
    }
}
