//! The messages about next hops that forwarding tables may lead to (`linux/nexthop.h`).
//!
//! ```text
//! nhmsg      u8 family | u8 scope | u8 protocol | pad | u32 flags
//! a member   u32 id | u8 weight less one | 3 × pad
//! ```

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NlasIterator};

use super::{HEADER_LEN, address, attribute, finish, start};

const NHMSG_LEN: usize = 8;
const MEMBER_LEN: usize = 8;
/// Bytes of the largest message: headers, a number, an IPv6 address, a flag.
pub(super) const HOP_LEN_MAX: usize = HEADER_LEN + NHMSG_LEN + 8 + 20 + 4;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GATEWAY: u16 = 6;
const NHA_FDB: u16 = 11;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Who made a next hop, as the kernel remembers it: no routing daemon's number (`linux/rtnetlink.h`). A W, for weft.
const PROTOCOL: u8 = b'W';

/// A next hop of a forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Its number in the namespace.
    pub(crate) id: u32,
    /// What it is.
    pub(crate) kind: HopKind,
}

/// What a next hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopKind {
    /// A host, by its address.
    Host(IpAddr),
    /// A group of this one alone.
    Group(u32),
    /// Made by us, and not as we make them now.
    Odd,
    /// Somebody else's.
    Foreign,
}

impl Hop {
    /// Appends the message that makes it. EEXIST if the number is taken.
    pub(super) fn encode(&self, mut flags: u16, sequence: u32, to: &mut Vec<u8>) {
        flags |= NLM_F_CREATE | NLM_F_EXCL;
        let family = match self.kind {
            HopKind::Host(IpAddr::V4(_)) => AF_INET,
            HopKind::Host(IpAddr::V6(_)) => AF_INET6,
            HopKind::Group(_) | HopKind::Odd | HopKind::Foreign => AF_UNSPEC,
        };
        let begin = to.len();
        start(RTM_NEWNEXTHOP, flags, sequence, to);
        to.extend([family, 0, PROTOCOL, 0, 0, 0, 0, 0]);
        attribute(NHA_ID, &self.id.to_ne_bytes(), to);
        match self.kind {
            HopKind::Host(IpAddr::V4(v4)) => attribute(NHA_GATEWAY, &v4.octets(), to),
            HopKind::Host(IpAddr::V6(v6)) => attribute(NHA_GATEWAY, &v6.octets(), to),
            HopKind::Group(member) => attribute(NHA_GROUP, &[member.to_ne_bytes(), [0; 4]].concat(), to),
            HopKind::Odd | HopKind::Foreign => {}
        }
        attribute(NHA_FDB, &[], to);
        finish(begin, to);
    }
}

/// Appends the message that removes a next hop, and with it the lines that lead there.
pub(super) fn remove(id: u32, flags: u16, sequence: u32, to: &mut Vec<u8>) {
    let begin = to.len();
    start(RTM_DELNEXTHOP, flags, sequence, to);
    to.extend([0; NHMSG_LEN]);
    attribute(NHA_ID, &id.to_ne_bytes(), to);
    finish(begin, to);
}

/// Asks for all next hops of forwarding tables, whosever.
pub(super) fn list(sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    start(RTM_GETNEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, sequence, &mut bytes);
    bytes.extend([0; NHMSG_LEN]);
    attribute(NHA_FDB, &[], &mut bytes);
    finish(0, &mut bytes);
    bytes
}

/// What a message of this kind tells, if it is one.
pub(super) fn hop(kind: u16, body: &[u8]) -> Option<Hop> {
    if kind != RTM_NEWNEXTHOP {
        return None;
    }
    let [_, _, protocol, ..] = *body.first_chunk::<NHMSG_LEN>()?;
    let (mut id, mut gateway, mut group) = (None, None, None);
    for attribute in NlasIterator::new(body.get(NHMSG_LEN..)?) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            NHA_ID => id = attribute.value().try_into().ok().map(u32::from_ne_bytes),
            NHA_GATEWAY => gateway = address(attribute.value()),
            NHA_GROUP => group = only_member(attribute.value()),
            _ => {}
        }
    }
    let kind = match (gateway, group) {
        _ if protocol != PROTOCOL => HopKind::Foreign,
        (Some(host), None) => HopKind::Host(host),
        (None, Some(member)) => HopKind::Group(member),
        (Some(_), Some(_)) | (None, None) => HopKind::Odd,
    };
    Some(Hop { id: id?, kind })
}

/// The member of a group of one.
fn only_member(members: &[u8]) -> Option<u32> {
    let member: [u8; MEMBER_LEN] = members.try_into().ok()?;
    member.first_chunk().map(|id| u32::from_ne_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Answer, Listed, answers},
        *,
    };

    const HOSTS: [&str; 2] = ["10.0.0.1", "fd00::1"];

    fn read(bytes: &[u8]) -> Option<Hop> {
        let Some(Answer::Item { sequence: 9, interrupted: false, item }) = answers(bytes).next() else {
            panic!("{bytes:?}")
        };
        item.map(|item| if let Listed::Hop(hop) = item { hop } else { panic!("{item:?}") })
    }

    #[test]
    fn what_is_made_reads_back() {
        let hosts = HOSTS.map(|host| HopKind::Host(host.parse().unwrap()));
        for kind in hosts.into_iter().chain([HopKind::Group(7)]) {
            let hop = Hop { id: 0x8123_0004, kind };
            let mut bytes = Vec::new();
            hop.encode(NLM_F_REQUEST, 9, &mut bytes);
            assert!(bytes.len() <= HOP_LEN_MAX);
            assert_eq!(read(&bytes), Some(hop));
            bytes[HEADER_LEN + 2] = 3;
            assert_eq!(read(&bytes), Some(Hop { kind: HopKind::Foreign, ..hop }), "by the administrator");
        }
        let mut bytes = Vec::new();
        remove(7, NLM_F_REQUEST, 9, &mut bytes);
        assert_eq!((read(&bytes), bytes.len()), (None, HEADER_LEN + NHMSG_LEN + 8));
    }

    #[test]
    fn a_message_is_as_the_kernel_wants_it() {
        let mut bytes = Vec::new();
        Hop { id: 2, kind: HopKind::Group(1) }.encode(NLM_F_REQUEST, 9, &mut bytes);
        let header = [&48_u32.to_ne_bytes()[..], &104_u16.to_ne_bytes(), &0x601_u16.to_ne_bytes()].concat();
        assert_eq!(bytes[..8], header);
        assert_eq!(bytes[HEADER_LEN..][..NHMSG_LEN], [0, 0, b'W', 0, 0, 0, 0, 0]);
        let words = |words: [u16; 2]| words.map(u16::to_ne_bytes).concat();
        let id = [words([8, 1]), 2_u32.to_ne_bytes().to_vec()].concat();
        let group = [words([12, 2]), 1_u32.to_ne_bytes().to_vec(), vec![0; 4]].concat();
        assert_eq!(bytes[HEADER_LEN + NHMSG_LEN..], [id, group, words([4, 11])].concat());
    }

    #[test]
    fn groups_of_several_are_odd() {
        let mut bytes = Vec::new();
        start(RTM_NEWNEXTHOP, 0, 9, &mut bytes);
        bytes.extend([0, 0, PROTOCOL, 0, 0, 0, 0, 0]);
        attribute(NHA_ID, &5_u32.to_ne_bytes(), &mut bytes);
        attribute(NHA_GROUP, &[0; 2 * MEMBER_LEN], &mut bytes);
        finish(0, &mut bytes);
        assert_eq!(read(&bytes), Some(Hop { id: 5, kind: HopKind::Odd }));
    }
}
