//! Flows of the datapath: the few that we want, as the kernel's bytes, and what the kernel tells of those that it has.
//!
//! ```text
//! out of the veth, to a station     in_port(veth) eth(dst=MAC)                       set(tunnel(VNI, remote)) output(vxlan)
//! out of the mesh                   in_port(vxlan) tunnel(VNI) eth()                 output(veth)
//! ```
//! All else of the packet is masked out. A flow cannot be blind for a VLAN tag: the kernel compares always whether there is one, so
//! each comes twice, once for frames with an 802.1Q tag. (Frames with two tags, or an 802.1ad one, match none and are dropped.) Nor can
//! it be blind for the protocol of the underlay, so what comes out of the mesh has a flow for IPv4 and one for IPv6.
//!
//! A flow is named by 16 bytes of ours (UFID, Linux 4.0): replaced, removed and found again by that.
//! ```text
//! 0   4 "weft"
//! 4   1 version, 1
//! 5   1 bits: 1 tagged, 2 out of the mesh, 4 over IPv6
//! 6   6 MAC of the station, or noughts
//! 12  4 noughts
//! ```
//! Facts of the kernel that are written nowhere: a tunnel in a key needs a TTL and a destination address that is not nought, even if both
//! are masked out; an inner EtherType must be one that the kernel has no further questions about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft::{fastdp::HEARTBEAT_ETHERTYPE, id::Mac};

use super::attribute::{Attributes, nest, put, put_u32};

/// Number of the VXLAN port in the datapath; nought is the datapath's own device.
pub(super) const VXLAN: u32 = 1;
/// Number of the veth's port in the datapath.
pub(super) const VETH: u32 = 2;
/// Hops of the packets on the underlay, as those of other hosts have (RFC 1340).
const TTL: u8 = 64;
/// EtherType of an 802.1Q tag.
const VLAN_ETHERTYPE: u16 = 0x8100;
/// The bit of a tag's control word by which the kernel says that there is a tag (VLAN_CFI_MASK).
const TAG_PRESENT: u16 = 0x1000;
/// Bytes of `struct ovs_key_ethernet`: source and destination.
const ETHERNET_LEN: usize = 12;

// enum ovs_flow_attr, linux/openvswitch.h; so all that follow.
const FLOW_KEY: u16 = 1;
const FLOW_ACTIONS: u16 = 2;
const FLOW_USED: u16 = 5;
const FLOW_MASK: u16 = 7;
const FLOW_UFID: u16 = 9;
const FLOW_UFID_FLAGS: u16 = 10;
/// Flags for what an answer shall leave out that has a flow's name: its key, mask, actions (OVS_UFID_F_OMIT_*).
const NAME_ONLY: u32 = 1 | 2 | 4;
// enum ovs_key_attr
const KEY_ENCAP: u16 = 1;
const KEY_IN_PORT: u16 = 3;
const KEY_ETHERNET: u16 = 4;
const KEY_VLAN: u16 = 5;
const KEY_ETHERTYPE: u16 = 6;
const KEY_SKB_MARK: u16 = 15;
const KEY_TUNNEL: u16 = 16;
// enum ovs_tunnel_key_attr
const TUNNEL_ID: u16 = 0;
const TUNNEL_IPV4_DST: u16 = 2;
const TUNNEL_TTL: u16 = 4;
const TUNNEL_DONT_FRAGMENT: u16 = 5;
const TUNNEL_TP_DST: u16 = 10;
const TUNNEL_IPV6_DST: u16 = 13;
const TUNNEL_PAD: u16 = 14;
// enum ovs_action_attr
const ACTION_OUTPUT: u16 = 1;
const ACTION_SET: u16 = 3;

/// Which frames a flow is for. Its order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    pub(super) frames: Frames,
    /// Whether the frames have a VLAN tag.
    pub(super) tagged: bool,
}

/// Whence, and whither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Frames {
    /// From the bridge to a station.
    To(Mac),
    /// Out of the mesh, by packets of IPv4.
    From4,
    /// Out of the mesh, by packets of IPv6.
    From6,
}

/// What becomes of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// To the bridge.
    Deliver,
    /// To another host.
    Send {
        /// Its address.
        remote: IpAddr,
        /// The mark of the packets: with one the kernel looks for a route, and for a policy of IPsec, for each; else it remembers them.
        mark: Option<u32>,
    },
}

/// What all flows of a network have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// VXLAN network identifier.
    pub(super) vni: u32,
    /// UDP port of VXLAN on all hosts.
    pub(super) port: u16,
}

/// A flow that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// One of ours, as we would make it.
    Ours(Match, Action),
    /// Any other; its name is here as the attribute that the kernel knows it by.
    Strange(Vec<u8>),
}

impl Match {
    fn ufid(self) -> [u8; 16] {
        let (direction, mac) = match self.frames {
            Frames::To(mac) => (0, mac),
            Frames::From4 => (2, Mac([0; 6])),
            Frames::From6 => (6, Mac([0; 6])),
        };
        let [a, b, c, d, e, f] = mac.0;
        [b'w', b'e', b'f', b't', 1, direction | u8::from(self.tagged), a, b, c, d, e, f, 0, 0, 0, 0]
    }

    fn from_ufid(ufid: &[u8]) -> Option<Self> {
        let [b'w', b'e', b'f', b't', 1, bits, a, b, c, d, e, f, 0, 0, 0, 0] = *ufid else { return None };
        let frames = match bits & !1 {
            0 => Frames::To(Mac([a, b, c, d, e, f])),
            2 => Frames::From4,
            6 => Frames::From6,
            _ => return None,
        };
        let matching = Self { frames, tagged: bits & 1 != 0 };
        (matching.ufid() == *ufid).then_some(matching)
    }

    /// The station that the frames go to.
    pub(super) fn station(self) -> Option<Mac> {
        if let Frames::To(mac) = self.frames { Some(mac) } else { None }
    }

    /// Writes the attributes that name the flow, and those of its key.
    pub(super) fn encode(self, bytes: &mut Vec<u8>, network: Network) {
        put(bytes, FLOW_UFID, &self.ufid());
        nest(bytes, FLOW_KEY, |key| self.encode_key(key, network, false));
    }

    /// Writes the key or, `masked`, which bits of it count.
    fn encode_key(self, bytes: &mut Vec<u8>, network: Network, masked: bool) {
        let ones = |value: u32| if masked { u32::MAX } else { value };
        let noughts = |value: u16| if masked { 0 } else { value };
        let mut ethernet = [0; ETHERNET_LEN];
        let in_port = match self.frames {
            Frames::To(mac) => {
                let mac = if masked { [u8::MAX; 6] } else { mac.0 };
                ethernet.get_mut(6..).into_iter().for_each(|to| to.copy_from_slice(&mac));
                VETH
            }
            Frames::From4 | Frames::From6 => {
                nest(bytes, KEY_TUNNEL, |tunnel| self.encode_origin(tunnel, network, masked));
                VXLAN
            }
        };
        put_u32(bytes, KEY_IN_PORT, ones(in_port));
        put(bytes, KEY_ETHERNET, &ethernet);
        if self.tagged {
            put(bytes, KEY_ETHERTYPE, &if masked { u16::MAX } else { VLAN_ETHERTYPE }.to_be_bytes());
            put(bytes, KEY_VLAN, &TAG_PRESENT.to_be_bytes());
            nest(bytes, KEY_ENCAP, |inner| put(inner, KEY_ETHERTYPE, &noughts(HEARTBEAT_ETHERTYPE).to_be_bytes()));
        }
    }

    fn encode_origin(self, bytes: &mut Vec<u8>, network: Network, masked: bool) {
        let vni = if masked { u64::MAX } else { u64::from(network.vni) };
        put(bytes, TUNNEL_ID, &vni.to_be_bytes());
        // Any will do, see above; these are for documentation (RFC 5737, RFC 3849).
        if self.frames == Frames::From6 {
            let any = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            put(bytes, TUNNEL_IPV6_DST, &if masked { Ipv6Addr::UNSPECIFIED } else { any }.octets());
        } else {
            let any = Ipv4Addr::new(192, 0, 2, 1);
            put(bytes, TUNNEL_IPV4_DST, &if masked { Ipv4Addr::UNSPECIFIED } else { any }.octets());
        }
        put(bytes, TUNNEL_TTL, &[0]);
    }

    /// Whether a key and its mask are what we would write. The kernel leaves out, and adds, what is masked out.
    fn is(self, key: Attributes<'_>, mask: Attributes<'_>, network: Network) -> bool {
        let mut bytes = Vec::new();
        self.encode_key(&mut bytes, network, true);
        let wanted_mask = Attributes(&bytes);
        let mut bytes = Vec::new();
        self.encode_key(&mut bytes, network, false);
        counting(mask) == counting(wanted_mask) && covered(key, mask) == covered(Attributes(&bytes), mask)
    }
}

impl Action {
    /// Writes the attributes of the mask, which a flow's matching also needs, and of what shall be done.
    pub(super) fn encode(self, bytes: &mut Vec<u8>, matching: Match, network: Network) {
        nest(bytes, FLOW_MASK, |mask| matching.encode_key(mask, network, true));
        nest(bytes, FLOW_ACTIONS, |actions| match self {
            Self::Deliver => put_u32(actions, ACTION_OUTPUT, VETH),
            Self::Send { remote, mark } => {
                if let Some(mark) = mark {
                    nest(actions, ACTION_SET, |set| put_u32(set, KEY_SKB_MARK, mark));
                }
                nest(actions, ACTION_SET, |set| nest(set, KEY_TUNNEL, |tunnel| encode_remote(tunnel, remote, network)));
                put_u32(actions, ACTION_OUTPUT, VXLAN);
            }
        });
    }

    /// Reads what shall be done; none if we would never write that.
    fn decode(actions: Attributes<'_>, network: Network) -> Option<Self> {
        let (mut mark, mut remote, mut output) = (None, None, None);
        for (kind, value) in actions {
            match (kind, output) {
                (ACTION_OUTPUT, None) => output = Some(u32::from_ne_bytes(value.try_into().ok()?)),
                (ACTION_SET, None) => match Attributes(value).next()? {
                    (KEY_SKB_MARK, value) => mark = Some(u32::from_ne_bytes(value.try_into().ok()?)),
                    (KEY_TUNNEL, value) => remote = Some(decode_remote(Attributes(value), network)?),
                    _ => return None,
                },
                _ => return None,
            }
        }
        match (output?, remote) {
            (VETH, None) if mark.is_none() => Some(Self::Deliver),
            (VXLAN, Some(remote)) => Some(Self::Send { remote, mark }),
            _ => None,
        }
    }
}

/// Writes the attribute that asks of flows no more than their names and what they count.
pub(super) fn encode_counts_only(bytes: &mut Vec<u8>) {
    put_u32(bytes, FLOW_UFID_FLAGS, NAME_ONLY);
}

/// Reads by what name a flow goes that is ours, and when it was used last: in milliseconds of the kernel's clock; none if never.
pub(super) fn decode_used(flow: Attributes<'_>) -> Option<(Match, u64)> {
    let used = flow.find(FLOW_USED)?.try_into().ok()?;
    Some((Match::from_ufid(flow.find(FLOW_UFID)?)?, u64::from_ne_bytes(used)))
}

impl Found {
    /// Reads what the kernel tells of a flow; none if it does not even have a name.
    pub(super) fn decode(flow: Attributes<'_>, network: Network) -> Option<Self> {
        let known = || {
            let matching = Match::from_ufid(flow.find(FLOW_UFID)?)?;
            let (key, mask) = (Attributes(flow.find(FLOW_KEY)?), Attributes(flow.find(FLOW_MASK)?));
            let action = Action::decode(Attributes(flow.find(FLOW_ACTIONS)?), network)?;
            matching.is(key, mask, network).then_some(Self::Ours(matching, action))
        };
        let strange = || {
            let kind = if flow.find(FLOW_UFID).is_some() { FLOW_UFID } else { FLOW_KEY };
            let mut name = Vec::new();
            put(&mut name, kind, flow.find(kind)?);
            Some(Self::Strange(name))
        };
        known().or_else(strange)
    }
}

fn encode_remote(bytes: &mut Vec<u8>, remote: IpAddr, network: Network) {
    put(bytes, TUNNEL_ID, &u64::from(network.vni).to_be_bytes());
    match remote {
        IpAddr::V4(address) => put(bytes, TUNNEL_IPV4_DST, &address.octets()),
        IpAddr::V6(address) => put(bytes, TUNNEL_IPV6_DST, &address.octets()),
    }
    put(bytes, TUNNEL_TTL, &[TTL]);
    put(bytes, TUNNEL_TP_DST, &network.port.to_be_bytes());
    put(bytes, TUNNEL_DONT_FRAGMENT, &[]);
}

fn decode_remote(tunnel: Attributes<'_>, network: Network) -> Option<IpAddr> {
    let address = |kind, value: &[u8]| -> Option<IpAddr> {
        match kind {
            TUNNEL_IPV4_DST => Some(<[u8; 4]>::try_from(value).ok()?.into()),
            TUNNEL_IPV6_DST => Some(<[u8; 16]>::try_from(value).ok()?.into()),
            _ => None,
        }
    };
    let remote = tunnel.into_iter().find_map(|(kind, value)| address(kind, value))?;
    let mut bytes = Vec::new();
    encode_remote(&mut bytes, remote, network);
    let sorted = |tunnel: Attributes<'_>| {
        let mut all: Vec<_> =
            tunnel.filter(|(kind, _)| *kind != TUNNEL_PAD).map(|(kind, value)| (kind, value.to_vec())).collect();
        all.sort();
        all
    };
    (sorted(tunnel) == sorted(Attributes(&bytes))).then_some(remote)
}

/// The attributes of a mask that let some bit count, with those inside the tunnel and behind the tag, by path and in order.
fn counting(mask: Attributes<'_>) -> Vec<(u16, u16, Vec<u8>)> {
    let mut all = flat(mask);
    // A flag of the tunnel has no bits: it counts by being there.
    all.retain(|(outer, kind, value)| {
        let flag = *outer == KEY_TUNNEL && value.is_empty() && *kind != TUNNEL_PAD;
        flag || value.iter().any(|byte| *byte != 0)
    });
    all
}

/// The bits of a key that a mask lets count.
fn covered(key: Attributes<'_>, mask: Attributes<'_>) -> Vec<(u16, u16, Vec<u8>)> {
    let key = flat(key);
    let value =
        |outer, kind| key.iter().find(|other| (other.0, other.1) == (outer, kind)).map(|other| other.2.as_slice());
    let and = |(outer, kind, mask): (u16, u16, Vec<u8>)| {
        let bits = value(outer, kind).unwrap_or_default();
        (outer, kind, bits.iter().zip(mask).map(|(bits, mask)| bits & mask).collect())
    };
    counting(mask).into_iter().map(and).collect()
}

/// All attributes with the kind of the one that they are in, or nought, in order.
fn flat(attributes: Attributes<'_>) -> Vec<(u16, u16, Vec<u8>)> {
    let mut all = Vec::new();
    for (kind, value) in attributes {
        if kind == KEY_TUNNEL || kind == KEY_ENCAP {
            all.extend(Attributes(value).map(|(inner, value)| (kind, inner, value.to_vec())));
        } else {
            all.push((0, kind, value.to_vec()));
        }
    }
    all.sort();
    all
}

#[cfg(test)]
mod tests;
