//! Neighbour solicitations and advertisements of IPv6 (RFC 4861 §4.3, §4.4).
//!
//! ```text
//! | IPv6, hop limit 255 | 135 or 136 | 0 | checksum | flags u8, 0 0 0 | target 16 | options: type, length in 8 bytes,
//! … |
//! ```

use std::net::{IpAddr, Ipv6Addr};

use super::{
    checksum,
    ethernet::{self, Ethernet},
    ip::{ICMPV6, IPV6_LEN, Ip},
    read,
};
use crate::id::Mac;

/// Length of an advertisement with its target's Ethernet address.
pub const ADVERTISEMENT_LEN: usize = ethernet::HEADER_LEN + IPV6_LEN + MESSAGE_LEN + 8;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Fixed part of both messages.
const MESSAGE_LEN: usize = 24;
/// Both messages have passed no router (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;
/// Solicited and override.
const ADVERTISEMENT_FLAGS: u8 = 0x60;
/// Options looked at; more are not read.
const OPTIONS_MAX: usize = 8;

/// Whether it asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Who has the target address?
    Solicitation,
    /// The target address is at the target's Ethernet address.
    Advertisement,
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Whether it asks or answers.
    pub kind: Kind,
    /// Who sent it; unspecified when an address is probed before it is used (RFC 4862 §5.4).
    pub source: Ipv6Addr,
    /// The address asked for, or told.
    pub target: Ipv6Addr,
    /// Ethernet address of the source in a solicitation, of the target in an advertisement, if it was said.
    pub mac: Option<Mac>,
}

impl Neighbour {
    /// Reads the message in an untagged `frame`; None when there is none, or not a valid one (RFC 4861 §7.1).
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = Ethernet::parse(frame)?;
        let ip = Ip::parse(frame, &ethernet).filter(|ip| ip.protocol == ICMPV6 && !ip.is_fragment())?;
        let (IpAddr::V6(source), [hop_limit]) = (ip.source, read(frame, ip.start + 7)?) else { return None };
        let message = frame.get(ip.upper..ip.end)?;
        let (kind, option) = match read(message, 0)? {
            [SOLICITATION, 0] => (Kind::Solicitation, OPTION_SOURCE_MAC),
            [ADVERTISEMENT, 0] => (Kind::Advertisement, OPTION_TARGET_MAC),
            _ => return None,
        };
        let target = Ipv6Addr::from(read::<16>(message, 8)?);
        let is_valid =
            !ethernet.is_tagged() && hop_limit == HOP_LIMIT && !target.is_multicast() && checksum::is_valid(frame, &ip);
        is_valid.then_some(Self { kind, source, target, mac: mac_option(message.get(MESSAGE_LEN..)?, option) })
    }
}

/// The advertisement that `target` is at `mac`, in answer to `source` at `source_mac`.
pub fn advertisement(target: Ipv6Addr, mac: Mac, source: Ipv6Addr, source_mac: Mac) -> [u8; ADVERTISEMENT_LEN] {
    let mut frame = [0; ADVERTISEMENT_LEN];
    let (header, message) = frame.split_at_mut(ethernet::HEADER_LEN + IPV6_LEN);
    header[..6].copy_from_slice(&source_mac.0);
    header[6..12].copy_from_slice(&mac.0);
    header[12..14].copy_from_slice(&ethernet::IPV6.to_be_bytes());
    header[14] = 0x60;
    header[18..22].copy_from_slice(&[0, (MESSAGE_LEN + 8) as u8, ICMPV6, HOP_LIMIT]);
    header[22..38].copy_from_slice(&target.octets());
    header[38..].copy_from_slice(&source.octets());
    message[0] = ADVERTISEMENT;
    message[4] = ADVERTISEMENT_FLAGS;
    message[8..24].copy_from_slice(&target.octets());
    message[24..26].copy_from_slice(&[OPTION_TARGET_MAC, 1]);
    message[26..].copy_from_slice(&mac.0);
    let pseudo = checksum::pseudo_header(target.into(), source.into(), ICMPV6, message.len());
    let checksum = checksum::finish(pseudo + checksum::sum(message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn mac_option(mut options: &[u8], wanted: u8) -> Option<Mac> {
    for _ in 0..OPTIONS_MAX {
        let [kind, units] = read(options, 0)?;
        if kind == wanted && units == 1 {
            return read(options, 2).map(Mac);
        }
        let len = usize::from(units) * 8;
        options = options.get(len..).filter(|_| len > 0)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::sample;

    fn sample_advertisement() -> [u8; ADVERTISEMENT_LEN] {
        advertisement(sample::V6_SOURCE, sample::SOURCE, sample::V6_DESTINATION, sample::DESTINATION)
    }

    #[test]
    fn an_advertisement_is_read_as_it_was_written() {
        let expected = Neighbour {
            kind: Kind::Advertisement,
            source: sample::V6_SOURCE,
            target: sample::V6_SOURCE,
            mac: Some(sample::SOURCE),
        };
        assert_eq!(Neighbour::parse(&sample_advertisement()), Some(expected));
    }

    #[test]
    fn a_message_with_anything_wrong_is_none() {
        let frame = sample_advertisement();
        for at in [20, 21, 25, 54, 55, 56, 70, 85] {
            let mut frame = frame;
            frame[at] ^= 1;
            assert_eq!(Neighbour::parse(&frame), None, "byte {at}");
        }
        for len in 0..frame.len() {
            assert_eq!(Neighbour::parse(&frame[..len]), None);
        }
    }

    #[test]
    fn options_before_it_are_skipped_and_empty_ones_end_the_search() {
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let mac = [1, 1, 2, 0, 0, 0, 0, 5];
        assert_eq!(mac_option(&[nonce, mac].concat(), OPTION_SOURCE_MAC), Some(sample::SOURCE));
        assert_eq!(mac_option(&[[14, 0, 0, 0, 0, 0, 0, 0], mac].concat(), OPTION_SOURCE_MAC), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            Neighbour::parse(&sample::finished(true, 0, ICMPV6, bytes));
            mac_option(bytes, OPTION_SOURCE_MAC);
        });
    }
}
