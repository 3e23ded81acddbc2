//! From our bridge into the mesh: who gets a frame, how it is sealed for the way there, and what happens when it does
//! not fit.
//!
//! A packet is built where it is sent from. A relayed one is sealed twice in that place, from the inside out:
//!
//! ```text
//! | header | relay record: source, destination, hops | header | frame record | tag | tag |
//!                                                    '--- sealed for the peer ----'
//! '------------------------ sealed for the first relay -----------------------------'
//! ```

use std::{net::SocketAddr, sync::Arc};

use super::{Contexts, Outlet, Plane};
use crate::{
    crypto::session::{REJECT_AFTER_PACKETS, Session},
    drops::Drop,
    frame::{Pieces, Whole, ethernet::Ethernet, fragment::Fragments, icmp},
    id::PeerName,
    switch::{
        answer::answer,
        flows,
        forwarding::{Forwarding, Route},
    },
    wire::sleeve::{
        HEADER_LEN, PACKET_OVERHEAD, RECORD_FRAME, RECORD_HEADER_LEN, RECORD_RELAY, RELAY_FIXED_LEN, TAG_LEN,
        record_header, relay_overhead,
    },
};

/// A neighbour that packets can be sent to directly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'f> {
    pub(super) to: SocketAddr,
    pub(super) session: &'f Arc<Session>,
    /// The largest UDP payload that reaches it.
    pub(super) payload_max: usize,
}

/// What a relay is told of a packet.
#[derive(Clone, Debug)]
pub(super) struct Envelope<H> {
    pub(super) source: PeerName,
    pub(super) destination: PeerName,
    /// Names of the relays behind the one that gets the envelope.
    pub(super) hops: H,
}

/// The way to a peer.
#[derive(Clone, Copy, Debug)]
struct Way<'f> {
    peer: PeerName,
    session: &'f Arc<Session>,
    to: SocketAddr,
    /// Our own name, the first relay's session and all relays; None for a direct way.
    relayed: Option<(PeerName, &'f Arc<Session>, &'f [PeerName])>,
    /// The longest frame that fits.
    room: usize,
}

/// For whom a frame is.
#[derive(Clone, Copy, Debug)]
enum Cast<'a> {
    /// For one known station: it goes the way of its flow, and the sender is told if it does not fit.
    One(&'a Ethernet, &'a [u8]),
    /// It is replicated, and goes the chosen way; each peer would make an answer of its own.
    Many,
}

impl Plane {
    /// Sends the frame, as `pieces`, to whoever it is for.
    pub(super) fn switch_pieces(
        &mut self,
        forwarding: &Forwarding,
        ethernet: &Ethernet,
        frame: &[u8],
        pieces: &impl Pieces,
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let destination = ethernet.destination;
        if forwarding.local.contains(&destination) {
            return Err(Drop::Looped);
        }
        if let Some(peer) = forwarding.stations.get(&destination) {
            return self.send(forwarding, *peer, pieces, Cast::One(ethernet, frame), out);
        }
        if let Some(reply) = answer(forwarding, frame) {
            out.frame(reply.frame());
            return Ok(());
        }
        for (peer, known) in &forwarding.peers {
            if known.route.is_some() {
                let result = self.send(forwarding, *peer, pieces, Cast::Many, out);
                self.counters.settle(result);
            }
        }
        Ok(())
    }

    /// Wraps a packet of the node's, sealed already, for the first of `relays`.
    pub(super) fn send_relayed(
        &mut self,
        forwarding: &Forwarding,
        to: PeerName,
        relays: &[PeerName],
        packet: &[u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let source = forwarding.name.ok_or(Drop::NoRoute)?;
        let (first, hops) = relays.split_first().ok_or(Drop::NoRoute)?;
        let link = self.link(forwarding, *first, out)?;
        let envelope = Envelope { source, destination: to, hops: hops.iter().map(|hop| hop.0) };
        self.send_enveloped(&link, envelope, packet, out)
    }

    /// Sends `packet` in `envelope` over `link`.
    pub(super) fn send_enveloped(
        &mut self,
        link: &Link<'_>,
        envelope: Envelope<impl ExactSizeIterator<Item = [u8; 6]>>,
        packet: &[u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let overhead = relay_overhead(envelope.hops.len() + 1);
        let datagram = out.datagram(link.to, overhead + packet.len()).ok_or(Drop::QueueFull)?;
        let sealed = write_envelope(datagram, envelope)
            .map(|inner| inner.copy_from_slice(packet))
            .and_then(|()| seal(&mut self.contexts, link.session, datagram));
        sealed.inspect_err(|_| datagram.fill(0))?;
        self.note_wear(link.session, out);
        Ok(())
    }

    /// The direct link to a peer; asks the node for a session if there is none.
    pub(super) fn link<'f>(
        &mut self,
        forwarding: &'f Forwarding,
        peer: PeerName,
        out: &mut impl Outlet,
    ) -> Result<Link<'f>, Drop> {
        let known = forwarding.peers.get(&peer).ok_or(Drop::NoRoute)?;
        let (to, payload_max) = known.straight.ok_or(Drop::NoRoute)?;
        let session = self.session(forwarding, peer, out)?;
        Ok(Link { to, session, payload_max })
    }

    fn session<'f>(
        &mut self,
        forwarding: &'f Forwarding,
        peer: PeerName,
        out: &mut impl Outlet,
    ) -> Result<&'f Arc<Session>, Drop> {
        let Some(session) = forwarding.peers.get(&peer).and_then(|known| known.session.as_ref()) else {
            self.want_session(peer, out);
            return Err(Drop::NoSession);
        };
        if session.sealed() >= REJECT_AFTER_PACKETS { Err(Drop::SessionUsedUp) } else { Ok(session) }
    }

    fn way<'f>(
        &mut self,
        forwarding: &'f Forwarding,
        peer: PeerName,
        cast: Cast<'_>,
        out: &mut impl Outlet,
    ) -> Result<Way<'f>, Drop> {
        let known = forwarding.peers.get(&peer).ok_or(Drop::NoRoute)?;
        let route = known.route.as_ref().ok_or(Drop::NoRoute)?;
        let session = self.session(forwarding, peer, out)?;
        let (to, relayed) = match route {
            Route::Direct(to) => (*to, None),
            Route::Relayed(chosen) => {
                let relays = match cast {
                    Cast::One(ethernet, frame) if !known.further.is_empty() => {
                        flows::way(flows::number(ethernet, frame), known.relayed()).unwrap_or(chosen)
                    }
                    Cast::One(..) | Cast::Many => chosen,
                };
                let source = forwarding.name.ok_or(Drop::NoRoute)?;
                let link = self.link(forwarding, *relays.first().ok_or(Drop::NoRoute)?, out)?;
                (link.to, Some((source, link.session, relays)))
            }
        };
        let overhead = relay_overhead(relayed.map_or(0, |(_, _, relays)| relays.len()));
        let room = known.payload_max.saturating_sub(overhead + PACKET_OVERHEAD + RECORD_HEADER_LEN);
        let room = room.min(known.frame_max);
        Ok(Way { peer, session, to, relayed, room })
    }

    fn send(
        &mut self,
        forwarding: &Forwarding,
        peer: PeerName,
        pieces: &impl Pieces,
        cast: Cast<'_>,
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        let way = self.way(forwarding, peer, cast, out)?;
        if way.relayed.is_some() && matches!(cast, Cast::One(..)) {
            self.want_straight(peer, out);
        }
        if pieces.longest() <= way.room {
            return self.send_pieces(&way, pieces, out);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.send_cut(&way, pieces, cast, &mut scratch, out);
        self.scratch = scratch;
        result
    }

    /// Sends what is too long for the way as fragments, one by one by way of `scratch`, or tells the sender.
    fn send_cut(
        &mut self,
        way: &Way<'_>,
        pieces: &impl Pieces,
        cast: Cast<'_>,
        scratch: &mut [u8],
        out: &mut impl Outlet,
    ) -> Result<(), Drop> {
        for index in 0..pieces.count() {
            let piece = scratch.get_mut(..pieces.piece_len(index)).ok_or(Drop::TooBig)?;
            pieces.write(index, piece);
            if piece.len() <= way.room {
                self.send_pieces(way, &Whole(piece), out)?;
            } else if let Some(fragments) = Fragments::new(piece, way.room) {
                self.send_pieces(way, &fragments, out)?;
            } else {
                if matches!(cast, Cast::One(..)) {
                    answer_too_big(piece, way.room, out);
                }
                return Err(Drop::TooBig);
            }
        }
        Ok(())
    }

    fn send_pieces(&mut self, way: &Way<'_>, pieces: &impl Pieces, out: &mut impl Outlet) -> Result<(), Drop> {
        for index in 0..pieces.count() {
            let len = pieces.piece_len(index);
            let overhead = relay_overhead(way.relayed.map_or(0, |(_, _, relays)| relays.len()));
            let packet_len = overhead + PACKET_OVERHEAD + RECORD_HEADER_LEN + len;
            let datagram = out.datagram(way.to, packet_len).ok_or(Drop::QueueFull)?;
            // A buffer that was given is sent: rather zeros, which are no packet, than anything unsealed.
            self.seal_piece(way, pieces, index, datagram).inspect_err(|_| datagram.fill(0))?;
            self.counters.sent(way.peer, len);
        }
        self.note_wear(way.session, out);
        if let Some((_, session, _)) = way.relayed {
            self.note_wear(session, out);
        }
        Ok(())
    }

    fn seal_piece(
        &mut self,
        way: &Way<'_>,
        pieces: &impl Pieces,
        index: usize,
        datagram: &mut [u8],
    ) -> Result<(), Drop> {
        let Some((source, relay_session, relays)) = way.relayed else {
            write_piece(datagram, pieces, index)?;
            return seal(&mut self.contexts, way.session, datagram);
        };
        let hops = relays.get(1..).unwrap_or_default().iter().map(|hop| hop.0);
        let inner = write_envelope(datagram, Envelope { source, destination: way.peer, hops })?;
        write_piece(inner, pieces, index)?;
        seal(&mut self.contexts, way.session, inner)?;
        seal(&mut self.contexts, relay_session, datagram)
    }
}

fn seal(contexts: &mut Contexts, session: &Arc<Session>, packet: &mut [u8]) -> Result<(), Drop> {
    contexts.of(session).seal(session, packet).map_err(|_| Drop::SessionUsedUp)
}

/// Writes the frame record into the body of `packet`.
fn write_piece(packet: &mut [u8], pieces: &impl Pieces, index: usize) -> Result<(), Drop> {
    let (head, content) = body(packet).and_then(<[u8]>::split_first_chunk_mut).ok_or(Drop::TooBig)?;
    *head = record_header(RECORD_FRAME, content.len()).ok_or(Drop::TooBig)?;
    pieces.write(index, content);
    Ok(())
}

/// Writes the relay record into the body of `packet`, and returns the place of the packet inside.
fn write_envelope(
    packet: &mut [u8],
    envelope: Envelope<impl ExactSizeIterator<Item = [u8; 6]>>,
) -> Result<&mut [u8], Drop> {
    let (head, content) = body(packet).and_then(<[u8]>::split_first_chunk_mut).ok_or(Drop::TooBig)?;
    *head = record_header(RECORD_RELAY, content.len()).ok_or(Drop::TooBig)?;
    let (fixed, rest) = content.split_first_chunk_mut::<RELAY_FIXED_LEN>().ok_or(Drop::TooBig)?;
    fixed[..6].copy_from_slice(&envelope.source.0);
    fixed[6..12].copy_from_slice(&envelope.destination.0);
    fixed[12] = u8::try_from(envelope.hops.len()).map_err(|_| Drop::TooBig)?;
    let (hops, inner) = rest.split_at_mut_checked(6 * envelope.hops.len()).ok_or(Drop::TooBig)?;
    for (place, hop) in hops.as_chunks_mut::<6>().0.iter_mut().zip(envelope.hops) {
        *place = hop;
    }
    Ok(inner)
}

fn body(packet: &mut [u8]) -> Option<&mut [u8]> {
    let end = packet.len().checked_sub(TAG_LEN)?;
    packet.get_mut(HEADER_LEN..end)
}

/// Tells the sender of `frame`, on our own bridge, what fits into `room` bytes of frame.
fn answer_too_big(frame: &[u8], room: usize, out: &mut impl Outlet) {
    let mut reply = [0; icmp::REPLY_MAX];
    let mtu = Ethernet::parse(frame).map_or(0, |ethernet| room.saturating_sub(ethernet.header_len));
    if let Some(reply) = icmp::too_big(frame, mtu, &mut reply) {
        out.frame(reply);
    }
}
