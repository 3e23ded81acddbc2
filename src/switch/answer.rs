//! What frames say of their senders, and answers to questions for addresses that the table knows.
//!
//! ARP requests and neighbour solicitations for a remote station are answered here, so that they need not be flooded.
//! Not answered, but flooded, are
//! - questions for stations of our own bridge, which answer themselves, and for those without a route;
//! - probes for duplicates (ARP with an unspecified sender, RFC 5227; solicitations from `::`, RFC 4862) and
//!   announcements: the owner of the address answers if it still is there, while a stale entry of ours must not keep a
//!   new station from taking the address;
//! - frames with a VLAN tag: the table knows one set of addresses, VLANs have one each.
//!
//! Addresses are learnt from ARP and neighbour discovery alone. The source of an IP packet is no proof that its sender
//! has that address: a container that routes sends packets of the whole world.

use std::net::IpAddr;

use super::forwarding::Forwarding;
use crate::{
    frame::{
        arp::{self, Arp, Operation},
        ethernet::Ethernet,
        ip::is_station_address,
        nd::{self, Kind, Neighbour},
    },
    id::Mac,
};

/// An answer for our own bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An ARP reply.
    Arp([u8; arp::FRAME_LEN]),
    /// A neighbour advertisement.
    Advertisement([u8; nd::ADVERTISEMENT_LEN]),
}

impl Answer {
    /// The frame.
    pub fn frame(&self) -> &[u8] {
        match self {
            Self::Arp(frame) => frame,
            Self::Advertisement(frame) => frame,
        }
    }
}

/// What a frame tells about who sent it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Sighting {
    /// The sender.
    pub mac: Mac,
    /// An address that it says it has.
    pub address: Option<IpAddr>,
}

/// The answer to `frame`, a frame from our own bridge, if it is a question that the table answers.
pub fn answer(forwarding: &Forwarding, frame: &[u8]) -> Option<Answer> {
    let source = Ethernet::parse(frame)?.source;
    if let Some(request) = Arp::parse(frame) {
        return answer_arp(forwarding, source, &request);
    }
    answer_solicitation(forwarding, source, &Neighbour::parse(frame)?)
}

/// Reads who sent `frame`; None when its source is no station.
pub fn sighting(frame: &[u8], ethernet: &Ethernet) -> Option<Sighting> {
    let mac = ethernet.source;
    let is_station = !mac.is_group() && mac != Mac([0; 6]);
    is_station
        .then(|| Sighting { mac, address: told_address(frame, mac).filter(|address| is_station_address(*address)) })
}

/// Whether a peer has `mac` on its bridge and frames can go there, by the sleeve or by the kernel.
fn is_reachable(forwarding: &Forwarding, mac: Mac) -> bool {
    let peer = forwarding.stations.get(&mac).filter(|_| !forwarding.local.contains(&mac));
    let peer = peer.and_then(|peer| forwarding.peers.get(peer));
    peer.is_some_and(|peer| peer.route.is_some() || peer.carried)
}

fn answer_arp(forwarding: &Forwarding, source: Mac, request: &Arp) -> Option<Answer> {
    let is_question = request.operation == Operation::Request
        && request.sender_mac == source
        && is_station_address(request.sender_ip.into())
        && request.sender_ip != request.target_ip;
    let owner = remote_owner(forwarding, request.target_ip.into()).filter(|owner| is_question && *owner != source)?;
    let reply = Arp {
        operation: Operation::Reply,
        sender_mac: owner,
        sender_ip: request.target_ip,
        target_mac: source,
        target_ip: request.sender_ip,
    };
    Some(Answer::Arp(reply.frame()))
}

fn answer_solicitation(forwarding: &Forwarding, source: Mac, solicitation: &Neighbour) -> Option<Answer> {
    let is_question = solicitation.kind == Kind::Solicitation
        && is_station_address(solicitation.source.into())
        && solicitation.mac.is_none_or(|mac| mac == source);
    let owner = remote_owner(forwarding, solicitation.target.into()).filter(|owner| is_question && *owner != source)?;
    Some(Answer::Advertisement(nd::advertisement(solicitation.target, owner, solicitation.source, source)))
}

fn remote_owner(forwarding: &Forwarding, address: IpAddr) -> Option<Mac> {
    let owner = *forwarding.addresses.get(&address)?;
    is_reachable(forwarding, owner).then_some(owner)
}

fn told_address(frame: &[u8], mac: Mac) -> Option<IpAddr> {
    if let Some(message) = Arp::parse(frame) {
        return (message.sender_mac == mac).then_some(message.sender_ip.into());
    }
    let message = Neighbour::parse(frame).filter(|message| message.mac == Some(mac))?;
    Some(match message.kind {
        Kind::Solicitation => message.source.into(),
        Kind::Advertisement => message.target.into(),
    })
}

#[cfg(test)]
mod tests;
