//! ARP for IPv4 on Ethernet (RFC 826).
//!
//! ```text
//! | Ethernet header 14 | 0001 | 0800 | 6 | 4 | operation u16 | sender MAC 6, IP 4 | target MAC 6, IP 4 |
//! ```

use std::net::Ipv4Addr;

use super::{
    ethernet::{self, Ethernet},
    read,
};
use crate::id::Mac;

/// Length of a frame with an ARP message in it, without padding.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + 28;

const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Whether it asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Whether it asks or answers.
    pub operation: Operation,
    /// Ethernet address of the sender.
    pub sender_mac: Mac,
    /// IP address of the sender; unspecified in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Ethernet address of the target; without meaning in a request.
    pub target_mac: Mac,
    /// IP address of the target.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the message in an untagged `frame`; None when there is none.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = Ethernet::parse(frame)?;
        let is_arp = ethernet.ethertype == ethernet::ARP && !ethernet.is_tagged() && read(frame, 14)? == PREFIX;
        let operation = match read(frame, 20)? {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        let message = Self {
            operation,
            sender_mac: Mac(read(frame, 22)?),
            sender_ip: read::<4>(frame, 28)?.into(),
            target_mac: Mac(read(frame, 32)?),
            target_ip: read::<4>(frame, 38)?.into(),
        };
        is_arp.then_some(message)
    }

    /// The message in a frame from its sender to its target.
    pub fn frame(&self) -> [u8; FRAME_LEN] {
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let mut frame = [0; FRAME_LEN];
        frame[..6].copy_from_slice(&self.target_mac.0);
        frame[6..12].copy_from_slice(&self.sender_mac.0);
        frame[12..14].copy_from_slice(&ethernet::ARP.to_be_bytes());
        frame[14..20].copy_from_slice(&PREFIX);
        frame[21] = operation;
        frame[22..28].copy_from_slice(&self.sender_mac.0);
        frame[28..32].copy_from_slice(&self.sender_ip.octets());
        frame[32..38].copy_from_slice(&self.target_mac.0);
        frame[38..].copy_from_slice(&self.target_ip.octets());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::sample;

    #[test]
    fn messages_survive_being_written() {
        let message = Arp {
            operation: Operation::Reply,
            sender_mac: sample::SOURCE,
            sender_ip: sample::V4_SOURCE,
            target_mac: sample::DESTINATION,
            target_ip: sample::V4_DESTINATION,
        };
        let frame = message.frame();
        assert_eq!(Arp::parse(&frame), Some(message));
        for (at, bad) in [(13, 0), (15, 6), (17, 1), (19, 16), (21, 3)] {
            let mut frame = frame;
            frame[at] = bad;
            assert_eq!(Arp::parse(&frame), None, "byte {at}");
        }
        assert_eq!(Arp::parse(&frame[..FRAME_LEN - 1]), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            Arp::parse(&[&[0; 12][..], &[8, 6], bytes].concat());
        });
    }
}
