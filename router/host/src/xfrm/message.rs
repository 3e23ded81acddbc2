//! The few messages to XFRM that we need (`linux/xfrm.h`), and what its answers say of ours.
//!
//! | message | made of |
//! |---|---|
//! | NEWSA | `xfrm_usersa_info` 224 bytes; attributes ALG_AEAD, REPLAY_ESN_VAL, ENCAP |
//! | DELSA | `xfrm_usersa_id` 24 |
//! | GETAE | `xfrm_aevent_id` 48: counters of a state; unlike GETSA its answer has no key in it |
//! | NEWPOLICY, UPDPOLICY | `xfrm_userpolicy_info` 168; attribute TMPL |
//! | DELPOLICY | `xfrm_userpolicy_id` 64 |

use std::net::IpAddr;

use weft::fastdp::{SA_KEY_LEN, SaKey};
use zeroize::Zeroizing;

use super::bytes::{Reader, Request, address_of, family};

pub(super) const NEWSA: u16 = 0x10;
const DELSA: u16 = 0x11;
const GETSA: u16 = 0x12;
pub(super) const NEWPOLICY: u16 = 0x13;
const DELPOLICY: u16 = 0x14;
const GETPOLICY: u16 = 0x15;
const UPDPOLICY: u16 = 0x19;
pub(super) const NEWAE: u16 = 0x1e;
const GETAE: u16 = 0x1f;

const ATTR_ENCAP: u16 = 4;
const ATTR_TEMPLATE: u16 = 5;
const ATTR_LIFETIME: u16 = 9;
const ATTR_AEAD: u16 = 18;
const ATTR_REPLAY_ESN: u16 = 23;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

/// AES-GCM for ESP (RFC 4106), by the kernel's name.
const AEAD: &[u8] = b"rfc4106(gcm(aes))";
/// Bits of the tag at the end of each packet.
const ICV_BITS: u32 = 128;
const ESP: u8 = 50;
const UDP: u8 = 17;
const TRANSPORT: u8 = 0;
/// Extended sequence numbers: 64 bits, of which the packet carries half.
const FLAG_ESN: u8 = 128;
/// `UDP_ENCAP_ESPINUDP`
const ESP_IN_UDP: u16 = 2;
/// `XFRM_AE_LVAL`: the answer shall have the counters.
const WANT_LIFETIME: u32 = 4;
/// `XFRM_INF`: no limit. Nought would be a limit of nought.
const UNLIMITED: u64 = u64::MAX;

/// After so many bytes the kernel uses a state no more, whatever we do: 1 TiB, 2^36 blocks, which lets an attacker distinguish
/// AES-GCM from noise with a chance of (2^36)²/2^129 = 2^-57, the bound that RFC 9001 §6.6 and Appendix B aim at. We replace keys long
/// before, see [`super::WORN_BYTES`]; this is for when we cannot. It comes far earlier than the end of the 64-bit counter of
/// packets, so no nonce ever comes twice.
const BYTES_MAX: u64 = 1 << 40;
/// As many packets of the least size: an Ethernet frame in VXLAN has more than 64 bytes.
const PACKETS_MAX: u64 = BYTES_MAX / 64;

/// Which state: what a packet says that came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct StateId {
    pub(super) destination: IpAddr,
    pub(super) spi: u32,
}

/// A security association of ours, as we ask for it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Whom it is to take packets from; None for a state that seals, whatever our address is then: XFRM looks for a state of the
    /// packet's source address first, and then for one without.
    pub(super) source: Option<IpAddr>,
    pub(super) key: SaKey,
    /// Source and destination port of ESP in UDP.
    pub(super) encap: Option<(u16, u16)>,
}

/// Packets and bytes that a state has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// Which way packets go that a policy is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Way {
    In,
    Out,
    Forward,
}

/// What packets a policy is for: UDP to our port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Selector {
    pub(super) way: Way,
    /// The peer: source of what comes in, destination of what goes out. An unspecified address stands for all of its family.
    pub(super) peer: IpAddr,
    /// Bits of the source port, and which of them are compared; noughts for all ports.
    pub(super) lane: (u16, u16),
}

/// What shall be done with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Allow,
    Block,
    /// They are sealed by this SPI; 0: they have come sealed, by any of ours.
    Esp(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    /// The least goes first.
    pub(super) priority: u32,
    /// None if it is none that we make.
    pub(super) verdict: Option<Verdict>,
}

/// What makes our states and policies different from everybody else's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ours {
    pub(super) port: u16,
    pub(super) reqid: u32,
}

impl Ours {
    pub(super) fn new(port: u16) -> Self {
        // "WE", then the port: two networks on one host have their own.
        Self { port, reqid: 0x5745_0000 | u32::from(port) }
    }

    pub(super) fn add_state(self, id: StateId, state: &State, window: u32) -> Request {
        let mut request = Request::new(NEWSA, REQUEST | ACK);
        // A state that takes packets takes them from its peer alone; so no other peer can pretend to be that one.
        let peer = state.source.map(|peer| Selector { way: Way::In, peer, lane: (0, 0) });
        match peer {
            Some(peer) => self.selector(&mut request, peer),
            None => drop(request.zeros(40).u16(family(id.destination)).zeros(14)),
        }
        state_id(&mut request, id).address(state.source);
        limits(&mut request, BYTES_MAX, PACKETS_MAX);
        request.zeros(32 + 12 + 4).u32(self.reqid).u16(family(id.destination));
        request.u8(TRANSPORT).u8(0).u8(FLAG_ESN).zeros(7);
        request.attribute(ATTR_AEAD, |r| {
            let key: &[u8; SA_KEY_LEN] = &state.key.0;
            r.bytes(AEAD).zeros(64 - AEAD.len()).u32(8 * key.len() as u32).u32(ICV_BITS).bytes(key)
        });
        if let Some((source, destination)) = state.encap {
            request.attribute(ATTR_ENCAP, |r| r.u16(ESP_IN_UDP).be16(source).be16(destination).zeros(2 + 16));
        }
        // The kernel sets up the window's bits by itself.
        request.attribute(ATTR_REPLAY_ESN, |r| r.u32(window.div_ceil(32)).zeros(16).u32(window));
        request
    }

    pub(super) fn delete_state(id: StateId) -> Request {
        let mut request = Request::new(DELSA, REQUEST | ACK);
        request.address(Some(id.destination)).be32(id.spi).u16(family(id.destination)).u8(ESP).u8(0);
        request
    }

    /// Asks what a state has seen.
    pub(super) fn ask_state(id: StateId) -> Request {
        let mut request = Request::new(GETAE, REQUEST | ACK);
        request.address(Some(id.destination)).be32(id.spi).u16(family(id.destination)).u8(ESP).u8(0);
        request.zeros(16).u32(WANT_LIFETIME).u32(0);
        request
    }

    pub(super) fn list_states() -> Request {
        Request::new(GETSA, REQUEST | DUMP)
    }

    /// Adds a policy, or puts it in the place of the one with the same selector, at once.
    pub(super) fn put_policy(self, selector: Selector, priority: u32, verdict: Verdict, replace: bool) -> Request {
        let mut request = Request::new(if replace { UPDPOLICY } else { NEWPOLICY }, REQUEST | ACK);
        self.selector(&mut request, selector);
        limits(&mut request, UNLIMITED, UNLIMITED);
        request.zeros(32).u32(priority).u32(0);
        request.u8(selector.way.number()).u8(u8::from(verdict == Verdict::Block)).zeros(6);
        if let Verdict::Esp(spi) = verdict {
            request.attribute(ATTR_TEMPLATE, |r| {
                r.zeros(16).be32(spi).u8(ESP).zeros(3).u16(family(selector.peer)).zeros(2 + 16);
                r.u32(self.reqid).u8(TRANSPORT).zeros(3).u32(u32::MAX).u32(u32::MAX).u32(u32::MAX)
            });
        }
        request
    }

    pub(super) fn delete_policy(self, selector: Selector) -> Request {
        let mut request = Request::new(DELPOLICY, REQUEST | ACK);
        self.selector(&mut request, selector);
        request.u32(0).u8(selector.way.number()).zeros(3);
        request
    }

    pub(super) fn list_policies() -> Request {
        Request::new(GETPOLICY, REQUEST | DUMP)
    }

    fn selector(self, request: &mut Request, selector: Selector) {
        let peer = Some(selector.peer).filter(|peer| !peer.is_unspecified());
        let length = match peer {
            Some(IpAddr::V4(_)) => 32,
            Some(IpAddr::V6(_)) => 128,
            None => 0,
        };
        let (to, from) = match selector.way {
            Way::In => ((None, 0), (peer, length)),
            Way::Out | Way::Forward => ((peer, length), (None, 0)),
        };
        let (lane, mask) = selector.lane;
        request.address(to.0).address(from.0).be16(self.port).u16(u16::MAX).be16(lane).be16(mask);
        request.u16(family(selector.peer)).u8(to.1).u8(from.1).u8(UDP).zeros(3 + 4 + 4);
    }

    /// What a list of states says of one of ours; None if it is somebody else's. The key is None if the kernel does not tell: in
    /// lockdown it gives noughts.
    pub(super) fn read_state(self, body: &[u8]) -> Option<(StateId, Option<SaKey>)> {
        let mut body = Reader::new(body);
        body.skip(56);
        let (destination, spi, proto) = (body.address(), body.be32(), body.u8());
        body.skip(3 + 16 + 64 + 32 + 12 + 4);
        let (reqid, family) = (body.u32(), body.u16());
        body.skip(10);
        if reqid != self.reqid || proto != ESP {
            return None;
        }
        // One without is only the wish for a state, by which the kernel asks an IKE daemon.
        let mut aead = body.find(ATTR_AEAD)?;
        let bytes = aead.skip(64 + 8).take(SA_KEY_LEN);
        // Filled in place: nothing of it stays on the stack.
        let mut key = Zeroizing::new([0; SA_KEY_LEN]);
        let is_told = bytes.len() == SA_KEY_LEN && aead.is_empty() && bytes.iter().any(|byte| *byte != 0);
        let key = is_told.then(|| {
            key.copy_from_slice(bytes);
            SaKey(key)
        });
        Some((StateId { destination: address_of(destination, family)?, spi }, key))
    }

    /// What a list of policies says of one for our port; None if it is for something else.
    pub(super) fn read_policy(self, body: &[u8]) -> Option<(Selector, Policy)> {
        let mut body = Reader::new(body);
        let (to, from, port, port_mask) = (body.address(), body.address(), body.be16(), body.u16());
        let lane = (body.be16(), body.be16());
        let (family, to_length, from_length, proto) = (body.u16(), body.u8(), body.u8(), body.u8());
        body.skip(3);
        if (port, port_mask, proto, body.u32()) != (self.port, u16::MAX, UDP, 0) {
            return None;
        }
        body.skip(4 + 64 + 32);
        let (priority, _, way, action) = (body.u32(), body.u32(), Way::from_number(body.u8())?, body.u8());
        body.skip(2 + 4);
        let (peer, length, other_length) = match way {
            Way::In => (from, from_length, to_length),
            Way::Out | Way::Forward => (to, to_length, from_length),
        };
        let peer = address_of(peer, family)?;
        let whole = if peer.is_ipv4() { 32 } else { 128 };
        if other_length != 0 || length != if peer.is_unspecified() { 0 } else { whole } {
            return None;
        }
        let verdict = match (action, body.find(ATTR_TEMPLATE)) {
            (0, None) => Some(Verdict::Allow),
            (0, Some(template)) => self.read_template(template),
            (1, None) => Some(Verdict::Block),
            (_, _) => None,
        };
        Some((Selector { way, peer, lane }, Policy { priority, verdict }))
    }

    fn read_template(self, mut template: Reader<'_>) -> Option<Verdict> {
        let (_, spi, proto) = (template.address(), template.be32(), template.u8());
        let (reqid, mode) = (template.skip(3 + 4 + 16).u32(), template.u8());
        let optional = template.skip(1).u8();
        let alone = template.skip(1 + 12).is_empty();
        let ours = (proto, reqid, mode, optional, alone) == (ESP, self.reqid, TRANSPORT, 0, true);
        ours.then_some(Verdict::Esp(spi))
    }
}

/// What the answer to [`Ours::ask_state`] says.
pub(super) fn read_seen(body: &[u8]) -> Option<Seen> {
    let mut lifetime = Reader::new(body.get(48..)?).find(ATTR_LIFETIME)?;
    let bytes = lifetime.u64();
    Some(Seen { packets: lifetime.u64(), bytes })
}

/// `struct xfrm_id`
fn state_id(request: &mut Request, id: StateId) -> &mut Request {
    request.address(Some(id.destination)).be32(id.spi).u8(ESP).zeros(3)
}

/// `struct xfrm_lifetime_cfg`: no soft limits, these hard ones, and none of time.
fn limits(request: &mut Request, bytes: u64, packets: u64) {
    request.u64(UNLIMITED).u64(bytes).u64(UNLIMITED).u64(packets).zeros(32);
}

impl Way {
    fn number(self) -> u8 {
        match self {
            Self::In => 0,
            Self::Out => 1,
            Self::Forward => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::In, Self::Out, Self::Forward].into_iter().find(|way| way.number() == number)
    }
}

#[cfg(test)]
mod tests;
