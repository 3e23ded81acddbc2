//! The data plane of one thread: frames of our bridge become sealed packets, packets become frames, relayed ones go on.
//!
//! A [`Plane`] is driven by its owner, a worker thread or the simulator: it hands in one frame or datagram at a time
//! together with the current [`Forwarding`] snapshot, and gets what comes of it through its [`Outlet`]. No clock, no
//! I/O, and, but for what is punted to the node or waits for a session, no allocation per packet. Whatever cannot be
//! passed on is counted by its [`Drop`] reason, and that is all.
//!
//! - `outbound`: the way to a peer, sealing, replication, what does not fit.
//! - `inbound`: opening, records, delivery, relaying.
//! - `held`: first frames, until there is the session that they asked for.
//! - A frame goes from the peer that it entered the mesh at to each peer that it is for, once; a frame from the mesh
//!   goes to our bridge only, and a frame that the bridge gives us comes from a station of ours. So nothing loops.

mod contexts;
mod counters;
mod held;
mod inbound;
mod outbound;
mod punts;

use std::{net::SocketAddr, sync::Arc};

pub use counters::{Counters, Lookout, Traffic};

use crate::{
    crypto::session::{REKEY_AFTER_PACKETS, Session},
    drops::Drop,
    frame::{
        Whole, checksum,
        ethernet::{self, Ethernet},
        segment::Segments,
        vnet::{self, Checksum},
    },
    id::PeerName,
    node::input::{Input, Origin},
    switch::{answer, forwarding::Forwarding},
    wire::sleeve::PacketType,
};
use contexts::Contexts;
use held::Held;
use punts::{Punts, Subject};

/// Longest frame: an IP packet of 64 KiB behind two VLAN tags.
const FRAME_MAX: usize = ethernet::HEADER_MAX + 65535;

/// Where a plane's results go.
pub trait Outlet {
    /// Room for one datagram of exactly `len` bytes to `to`, which the caller fills wholly; None when the batch is full
    /// and could not be flushed. Must not be sent before the next call of the outlet.
    fn datagram(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]>;

    /// One frame for our own bridge, of ordinary size and with all checksums.
    fn frame(&mut self, frame: &[u8]);

    /// Something for the node; may be dropped when too much is waiting.
    fn punt(&mut self, input: Input);
}

/// The data plane of one thread.
#[derive(Debug)]
pub struct Plane {
    contexts: Contexts,
    punts: Punts,
    held: Held,
    counters: Counters,
    /// Where a frame is written that must be cut further before it is sealed.
    scratch: Vec<u8>,
    /// Packets after which a session is due for renewal.
    rekey_after: u64,
}

impl Default for Plane {
    fn default() -> Self {
        Self::new()
    }
}

impl Plane {
    /// A plane that has seen nothing yet.
    pub fn new() -> Self {
        Self {
            contexts: Contexts::default(),
            punts: Punts::default(),
            held: Held::default(),
            counters: Counters::default(),
            scratch: vec![0; FRAME_MAX],
            rekey_after: REKEY_AFTER_PACKETS,
        }
    }

    /// Takes one frame from the TAP, with what the kernel said of it. Its checksum is completed in place.
    pub fn frame_in(&mut self, forwarding: &Forwarding, vnet: vnet::Header, frame: &mut [u8], out: &mut impl Outlet) {
        let result = self.switch(forwarding, vnet, frame, out);
        self.counters.settle(result);
    }

    /// Takes one datagram that came from `from`; it is opened in place.
    pub fn datagram_in(&mut self, forwarding: &Forwarding, from: SocketAddr, packet: &mut [u8], out: &mut impl Outlet) {
        match PacketType::of(packet) {
            None => self.counters.drops.count(Drop::NotSleeve),
            Some(PacketType::Data) => {
                let result = self.data_in(forwarding, packet, out);
                self.counters.settle(result);
            }
            Some(PacketType::Initiation | PacketType::Response | PacketType::CookieReply | PacketType::Control) => {
                out.punt(Input::Datagram { origin: Origin::Direct(from), bytes: packet.to_vec() });
            }
        }
    }

    /// Sends a packet of the node's, for `to`, by `relays`.
    pub fn relay(
        &mut self,
        forwarding: &Forwarding,
        to: PeerName,
        relays: &[PeerName],
        packet: &[u8],
        out: &mut impl Outlet,
    ) {
        let result = self.send_relayed(forwarding, to, relays, packet, out);
        self.counters.settle(result);
    }

    /// To be called about every 100 ms: what the node was told may be told again, and ended sessions are forgotten.
    pub fn tick(&mut self) {
        self.punts.tick();
        self.contexts.forget_ended();
        for _ in 0..self.held.tick() {
            self.counters.drops.count(Drop::NoSession);
        }
    }

    /// Whether frames wait for a session: [`Self::release`] is to be called soon, and again.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sends the frames that waited for a session which there is now.
    pub fn release(&mut self, forwarding: &Forwarding, out: &mut impl Outlet) {
        for mut frame in self.held.take(|peer| forwarding.is_ready(peer)) {
            self.frame_in(forwarding, vnet::Header::default(), &mut frame, out);
        }
    }

    /// What was counted since the counters were last taken.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes the counters out, leaving zeros. Traffic is kept by peer in a tree, so not to be called for each packet.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    fn switch(
        &mut self,
        forwarding: &Forwarding,
        vnet: vnet::Header,
        frame: &mut [u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let ethernet = Ethernet::parse(frame).filter(|_| frame.len() <= FRAME_MAX).ok_or(Drop::BadFrame)?;
        if ethernet.destination.is_link_local_group() {
            return Err(Drop::LinkLocalGroup);
        }
        let Some(gso) = vnet.gso else {
            if let Checksum::Needed { start, offset } = vnet.checksum {
                checksum::complete(frame, start.into(), offset.into()).ok_or(Drop::BadFrame)?;
            }
            self.note_sender(forwarding, frame, &ethernet, out)?;
            let result = self.switch_pieces(forwarding, &ethernet, frame, &Whole(frame), out);
            if result == Err(Drop::NoSession)
                && let Some(peer) = forwarding.stations.get(&ethernet.destination)
                && self.held.keep(*peer, frame)
            {
                return Ok(());
            }
            return result;
        };
        let segments = Segments::new(frame, &gso).ok_or(Drop::BadFrame)?;
        self.note_sender(forwarding, frame, &ethernet, out)?;
        self.switch_pieces(forwarding, &ethernet, frame, &segments, out)
    }

    /// Tells the node of the frame's sender if it does not know it here. A frame that came from the mesh never comes
    /// back out of the TAP, as it is one port of the bridge; so a sender that the table has elsewhere has moved here.
    fn note_sender(
        &mut self,
        forwarding: &Forwarding,
        frame: &[u8],
        ethernet: &Ethernet,
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let sighting = answer::sighting(frame, ethernet).ok_or(Drop::BadFrame)?;
        if self.punts.is_station_due(sighting, forwarding.local.contains(&sighting.mac)) {
            let addresses = sighting.address.into_iter().collect();
            out.punt(Input::Station { mac: sighting.mac, addresses, attached: false });
        }
        Ok(())
    }

    /// Tells the node that frames go by relays which might go straight.
    fn want_straight(&mut self, peer: PeerName, out: &mut impl Outlet) {
        if self.punts.is_due(Subject::StraightWanted(peer)) {
            out.punt(Input::StraightWanted { peer });
        }
    }

    /// Tells the node that there is no session with `peer`.
    fn want_session(&mut self, peer: PeerName, out: &mut impl Outlet) {
        if self.punts.is_due(Subject::SessionWanted(peer)) {
            out.punt(Input::SessionWanted { peer });
        }
    }

    /// Tells the node when `session` is due for renewal.
    fn note_wear(&mut self, session: &Arc<Session>, out: &mut impl Outlet) {
        let index = session.local_index();
        if session.sealed() >= self.rekey_after && self.punts.is_due(Subject::SessionWorn(index)) {
            out.punt(Input::SessionWorn { index });
        }
    }
}

#[cfg(test)]
mod tests;
