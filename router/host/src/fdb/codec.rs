//! The messages about forwarding tables, as bytes (rtnetlink(7), `linux/neighbour.h`), in the host's byte order.
//!
//! ```text
//! nlmsghdr   u32 length | u16 type | u16 flags | u32 sequence | u32 port
//! ndmsg      u8 family | 3 × pad | i32 device | u16 state | u8 flags | u8 type
//! attributes u16 length | u16 kind | value, padded to 4 bytes
//! ```

mod hop;

use std::{net::IpAddr, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NlasIterator,
};
use nix::errno::Errno;
use weft::id::Mac;

pub(crate) use hop::{Hop, HopKind};

const HEADER_LEN: usize = 16;
const NDMSG_LEN: usize = 12;
/// Bytes of the largest [`Change`]: headers, a MAC, an IPv6 address.
pub(super) const CHANGE_LEN_MAX: usize = HEADER_LEN + NDMSG_LEN + 12 + 20;
const _: () = assert!(hop::HOP_LEN_MAX <= CHANGE_LEN_MAX);

const RTM_NEWNEIGH: u16 = libc::RTM_NEWNEIGH;
const RTM_DELNEIGH: u16 = libc::RTM_DELNEIGH;
const RTM_GETNEIGH: u16 = libc::RTM_GETNEIGH;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_BRIDGE: u8 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
const NDA_NH_ID: u16 = 13;
/// The tick of the times that the kernel tells (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
/// Heard within the bridge's ageing time.
const NUD_REACHABLE: u16 = 0x02;
/// Never ages.
const NUD_NOARP: u16 = 0x40;
/// Never ages, and the station is the device itself; for VXLAN just that it never ages.
const NUD_PERMANENT: u16 = 0x80;
/// Meant for the device's own table.
const NTF_SELF: u8 = 0x02;
/// Meant for the table of the bridge that the device is a port of.
const NTF_MASTER: u8 = 0x04;
/// Stays at its port wherever the station is heard.
const NTF_STICKY: u8 = 0x40;

/// The station of a VXLAN device's line for all stations without one of their own.
pub(crate) const NOBODY: Mac = Mac([0; 6]);

/// A station in a forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The device that [`Target`] speaks of.
    pub(crate) device: u32,
    /// The station.
    pub(crate) mac: Mac,
    /// Where its frames go.
    pub(crate) target: Target,
}

/// Where a station is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Of the bridge's table: behind this port, for good.
    Port,
    /// Of the bridge's table: the bridge itself, which the device is.
    Itself,
    /// Of the table of the VXLAN device: on the host of this address.
    Remote(IpAddr),
    /// Of the table of the VXLAN device: where this group of next hops leads.
    Group(u32),
}

/// A change of a forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Makes the entry, or makes the station's entry so in place: no frame goes astray meanwhile. That does not work from
    /// [`Target::Remote`] to [`Target::Group`] (EOPNOTSUPP) or back (nothing happens), nor for [`NOBODY`] (nothing happens).
    Put(Entry),
    /// Removes the station's entry. ENOENT if there is none.
    Remove(Entry),
    /// Makes a next hop. EEXIST if its number is taken.
    PutHop(Hop),
    /// Removes a next hop. ENOENT if there is none.
    RemoveHop(u32),
}

/// What a forwarding table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// A port of the bridge, or the bridge.
    pub(crate) device: u32,
    /// The station.
    pub(crate) mac: Mac,
    /// What it says.
    pub(crate) kind: LineKind,
    /// For how long no frame was sent by it, or it is there: to the tick of 10 ms. Of the bridge's table, frames of the host itself
    /// are not seen.
    pub(crate) unused: Duration,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// As [`Change::Put`] makes it.
    Made(Target),
    /// The bridge has heard the station on this port within its ageing time.
    Heard,
    /// In the bridge's table, it never ages, and is not as we make it.
    Odd,
    /// The address of the port itself, a group, what has aged, and the like.
    Other,
}

/// One message of the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A piece of a list; none if it is nothing that concerns us.
    Item { sequence: u32, interrupted: bool, item: Option<Listed> },
    /// The end of an exchange.
    End { sequence: u32, interrupted: bool, errno: Option<Errno> },
}

/// What the kernel lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Line(Line),
    Hop(Hop),
}

impl Change {
    /// Appends the message; `answered` asks for an answer even if it succeeds.
    pub(super) fn encode(&self, sequence: u32, answered: bool, to: &mut Vec<u8>) {
        let flags = if answered { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST };
        match self {
            Self::Put(entry) => {
                // The kernel replaces no line for all stations, and makes none when told that it may.
                let replace = if entry.mac == NOBODY { 0 } else { NLM_F_REPLACE };
                entry.encode(RTM_NEWNEIGH, flags | NLM_F_CREATE | replace, sequence, to);
            }
            Self::Remove(entry) => entry.encode(RTM_DELNEIGH, flags, sequence, to),
            Self::PutHop(hop) => hop.encode(flags, sequence, to),
            Self::RemoveHop(id) => hop::remove(*id, flags, sequence, to),
        }
    }
}

impl Entry {
    fn encode(&self, kind: u16, flags: u16, sequence: u32, to: &mut Vec<u8>) {
        let (state, entry_flags) = match self.target {
            Target::Port => (NUD_NOARP, NTF_MASTER | NTF_STICKY),
            Target::Itself | Target::Remote(_) | Target::Group(_) => (NUD_PERMANENT, NTF_SELF),
        };
        let begin = to.len();
        start(kind, flags, sequence, to);
        ndmsg(self.device, state, entry_flags, to);
        attribute(NDA_LLADDR, &self.mac.0, to);
        match self.target {
            // Without a target, whatever the table has for the station is removed.
            _ if kind == RTM_DELNEIGH => {}
            Target::Remote(IpAddr::V4(v4)) => attribute(NDA_DST, &v4.octets(), to),
            Target::Remote(IpAddr::V6(v6)) => attribute(NDA_DST, &v6.octets(), to),
            Target::Group(id) => attribute(NDA_NH_ID, &id.to_ne_bytes(), to),
            Target::Port | Target::Itself => {}
        }
        finish(begin, to);
    }
}

/// Asks for the table of a bridge and those of its ports.
pub(super) fn list(bridge: u32, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    start(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, sequence, &mut bytes);
    ndmsg(0, 0, 0, &mut bytes);
    attribute(NDA_MASTER, &bridge.to_ne_bytes(), &mut bytes);
    finish(0, &mut bytes);
    bytes
}

/// Asks for all next hops of forwarding tables, whosever.
pub(super) fn list_hops(sequence: u32) -> Vec<u8> {
    hop::list(sequence)
}

/// The messages in what was received; ends at the first that is cut off.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer> {
    std::iter::from_fn(move || {
        let (length, kind, flags, sequence) = header(bytes)?;
        let body = bytes.get(HEADER_LEN..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let interrupted = flags & NLM_F_DUMP_INTR != 0;
        Some(match kind {
            NLMSG_ERROR | NLMSG_DONE => {
                // Negative errnos; nought is success, and more than that the count of a list.
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                let errno = (code < 0).then(|| Errno::from_raw(code.saturating_neg()));
                Answer::End { sequence, interrupted, errno }
            }
            RTM_NEWNEIGH => Answer::Item { sequence, interrupted, item: line(body).map(Listed::Line) },
            kind => Answer::Item { sequence, interrupted, item: hop::hop(kind, body).map(Listed::Hop) },
        })
    })
}

fn header(bytes: &[u8]) -> Option<(usize, u16, u16, u32)> {
    let (words, _) = bytes.first_chunk::<HEADER_LEN>()?.as_chunks::<4>();
    let [length, kind_and_flags, sequence, _] = words else { return None };
    let [k0, k1, f0, f1] = *kind_and_flags;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
    (length >= HEADER_LEN).then_some((length, kind, flags, u32::from_ne_bytes(*sequence)))
}

fn line(body: &[u8]) -> Option<Line> {
    let [family, _, _, _, d0, d1, d2, d3, s0, s1, flags, _] = *body.first_chunk::<NDMSG_LEN>()?;
    let (device, state) = (u32::from_ne_bytes([d0, d1, d2, d3]), u16::from_ne_bytes([s0, s1]));
    let (mut mac, mut target, mut bridge, mut vlan) = (None, None, None, false);
    let mut unused = Duration::MAX;
    for attribute in NlasIterator::new(body.get(NDMSG_LEN..)?) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            NDA_LLADDR => mac = attribute.value().try_into().ok().map(Mac),
            NDA_DST => target = address(attribute.value()).map(Target::Remote),
            NDA_NH_ID => target = attribute.value().try_into().ok().map(u32::from_ne_bytes).map(Target::Group),
            NDA_MASTER => bridge = attribute.value().try_into().ok().map(u32::from_ne_bytes),
            NDA_VLAN => vlan = true,
            NDA_CACHEINFO => unused = since_used(attribute.value()).unwrap_or(Duration::MAX),
            _ => {}
        }
    }
    if family != AF_BRIDGE {
        return None;
    }
    let kind = match (bridge, target) {
        _ if vlan => LineKind::Other,
        (Some(bridge), _) if state == NUD_PERMANENT && device == bridge => LineKind::Made(Target::Itself),
        (Some(_), _) if state == NUD_NOARP && flags & NTF_STICKY != 0 => LineKind::Made(Target::Port),
        (Some(_), _) if state == NUD_NOARP => LineKind::Odd,
        (Some(_), _) if state == NUD_REACHABLE => LineKind::Heard,
        (None, Some(target)) => LineKind::Made(target),
        (Some(_) | None, _) => LineKind::Other,
    };
    Some(Line { device, mac: mac?, kind, unused })
}

/// Of `struct nda_cacheinfo`, in ticks ago: when the line was confirmed, used, updated; and who refers to it.
fn since_used(info: &[u8]) -> Option<Duration> {
    let ([_, used, ..], _) = info.as_chunks::<4>() else { return None };
    Some(TICK * u32::from_ne_bytes(*used))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// The message's header, its length still to come.
fn start(kind: u16, flags: u16, sequence: u32, to: &mut Vec<u8>) {
    to.extend([0; 4]);
    to.extend(kind.to_ne_bytes());
    to.extend(flags.to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend([0; 4]);
}

fn ndmsg(device: u32, state: u16, flags: u8, to: &mut Vec<u8>) {
    to.extend([AF_BRIDGE, 0, 0, 0]);
    to.extend(device.to_ne_bytes());
    to.extend(state.to_ne_bytes());
    to.extend([flags, 0]);
}

fn attribute(kind: u16, value: &[u8], to: &mut Vec<u8>) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Fills in the length of the message that began here.
fn finish(begin: usize, to: &mut [u8]) {
    let length = u32::try_from(to.len() - begin).unwrap_or(u32::MAX);
    if let Some(place) = to.get_mut(begin..begin + 4) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests;
