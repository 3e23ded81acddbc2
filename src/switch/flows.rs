//! Which of several ways a frame goes: all frames of one flow the same, and each flow its own way.
//!
//! A flow draws a lot for each way, and goes by the way with the highest (rendezvous hashing; D. G. Thaler, C. V. Ravishankar, Using
//! name-based mappings to increase hit rates, 1998). So when a way joins or leaves only those flows move which must.
//!
//! A flow is what shows the same MAC addresses and, of IP, the same addresses, and of TCP and UDP also the same ports. What shows no
//! ports goes by its addresses alone, whatever its protocol number, so that all fragments of a packet go one way: those of IPv6 do not
//! all show what is in it.

use std::hash::BuildHasher;

use super::quick_hash::QuickHash;
use crate::{
    frame::{ethernet::Ethernet, flow::Key, ip::Ip},
    id::PeerName,
};

/// The same in all threads, as a flow may come out of another queue of the TAP than before. Whoever chooses addresses so that all of
/// its flows go one way has what it would have without others.
const LOTS: QuickHash = QuickHash::known(0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93);

/// A number that the frames of a flow have in common.
pub fn number(ethernet: &Ethernet, frame: &[u8]) -> u64 {
    let ip = Ip::parse(frame, ethernet);
    let addresses = ip.map(|ip| (ip.source, ip.destination));
    let ports = ip.and_then(|ip| Key::of_packet(frame, &ip)).map(|key| (key.protocol, key.ports));
    LOTS.hash_one((ethernet.destination, ethernet.source, addresses, ports))
}

/// The way of the flow with this number, by its relays; None if there are no ways.
pub fn way<'w>(flow: u64, ways: impl Iterator<Item = &'w [PeerName]>) -> Option<&'w [PeerName]> {
    ways.max_by_key(|relays| LOTS.hash_one((flow, relays)))
}

#[cfg(test)]
mod tests;
