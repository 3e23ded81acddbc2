//! What a peer tells everybody of itself: one value in the topology channel.

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;

use super::{cost::Cost, relaying::Relaying};
use crate::{
    crypto::identity::PublicKey,
    gossip::{
        Malformed, Replicated,
        address::{name_from_bytes, socket_to_bytes, sockets_from_bytes},
        hello::port_from_wire,
        replica::Replica,
    },
    id::{Nickname, PeerName, Uid},
    link::estimate::Quality,
};

/// Most addresses in a record.
pub const ADDRESSES_MAX: usize = 16;
/// Most links in a record: with at most 19 bytes each, a record stays below [`crate::gossip::VALUE_MAX`].
pub const LINKS_MAX: usize = 1024;
/// Most links in a record that says what their costs are made of, in another 6 bytes each: that is for people only.
pub const DETAILED_MAX: usize = 512;

/// The topology channel: every peer's record.
pub type Topology = Replica<(), PeerRecord>;

/// A peer, by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Its static key; its name is derived from it.
    pub public: PublicKey,
    /// This run of it.
    pub uid: Uid,
    /// What people call it.
    pub nickname: Nickname,
    /// Its TCP and UDP port; not 0.
    pub port: u16,
    /// Where it can be found, most likely first: its own and those that others see it at. At most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// Its links in the order of the other ends' names, each once; at most [`LINKS_MAX`].
    pub links: Vec<LinkRecord>,
    /// It stops, on purpose.
    pub leaving: bool,
    /// The largest IP packet that its containers take, in bytes; 0 while it does not say.
    pub mtu: u16,
    /// What it does for frames of others.
    pub relaying: Relaying,
}

/// One end's view of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRecord {
    /// The other end.
    pub peer: PeerName,
    /// Whether a control connection is up.
    pub control: bool,
    /// The cost of frames that go straight there; None while they do not get through.
    pub data: Option<Cost>,
    /// The largest UDP payload that goes straight there; 0 while none does.
    pub payload_max: u16,
    /// What the cost is made of, if that was told: nobody reckons with it.
    pub detail: Option<Detail>,
}

/// What a cost is made of, in a coarse form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Smoothed round-trip time.
    pub rtt: Cost,
    /// Mean jitter.
    pub jitter: Cost,
    /// Lost of 1000 round trips.
    pub lost: u16,
}

impl Detail {
    /// That of a link of this quality.
    pub fn of(Quality { rtt, jitter, loss }: Quality) -> Self {
        // Between 0 and 1000.
        let lost = (loss.clamp(0.0, 1.0) * 1000.0).round() as u16;
        Self { rtt: Cost::step(rtt), jitter: Cost::step(jitter), lost }
    }

    fn to_wire(self) -> u32 {
        u32::from_be_bytes([self.lost.to_be_bytes()[0], self.lost.to_be_bytes()[1], self.jitter.0, self.rtt.0])
    }

    fn from_wire(wire: u32) -> Self {
        let [high, low, jitter, rtt] = wire.to_be_bytes();
        Self { rtt: Cost(rtt), jitter: Cost(jitter), lost: u16::from_be_bytes([high, low]) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct RecordWire {
    #[prost(bytes = "vec", tag = "1")]
    public: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    uid: u64,
    #[prost(string, tag = "3")]
    nickname: String,
    #[prost(uint32, tag = "4")]
    port: u32,
    #[prost(bytes = "vec", repeated, tag = "5")]
    addresses: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "6")]
    links: Vec<LinkWire>,
    #[prost(bool, tag = "7")]
    leaving: bool,
    #[prost(uint32, tag = "8")]
    mtu: u32,
    #[prost(uint32, tag = "9")]
    relaying: u32,
}

#[derive(Clone, PartialEq, Message)]
struct LinkWire {
    #[prost(bytes = "bytes", tag = "1")]
    peer: Bytes,
    #[prost(bool, tag = "2")]
    control: bool,
    #[prost(uint32, optional, tag = "3")]
    cost: Option<u32>,
    #[prost(uint32, tag = "4")]
    payload_max: u32,
    /// Lost of 1000, jitter's step and round-trip time's, from the most significant of its bytes.
    #[prost(uint32, optional, tag = "5")]
    detail: Option<u32>,
}

impl PeerRecord {
    /// The link to `peer`, if there is one.
    pub fn link(&self, peer: PeerName) -> Option<&LinkRecord> {
        let found = self.links.binary_search_by_key(&peer, |link| link.peer).ok()?;
        self.links.get(found)
    }
}

impl Replicated for PeerRecord {
    fn to_bytes(&self) -> Vec<u8> {
        RecordWire {
            public: self.public.0.to_vec(),
            uid: self.uid.0,
            nickname: self.nickname.as_str().to_owned(),
            port: self.port.into(),
            addresses: self.addresses.iter().copied().map(socket_to_bytes).collect(),
            links: self.links.iter().map(|link| link.to_wire(self.links.len() <= DETAILED_MAX)).collect(),
            leaving: self.leaving,
            mtu: self.mtu.into(),
            relaying: self.relaying.to_wire(),
        }
        .encode_to_vec()
    }

    fn from_bytes(origin: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        // One copy that all links' names are parts of.
        let wire = RecordWire::decode(Bytes::copy_from_slice(bytes))?;
        let key = <[u8; 32]>::try_from(wire.public).map_err(|_| Malformed("a key that is not 32 bytes"))?;
        let public = PublicKey(key);
        if public.peer_name() != origin {
            return Err(Malformed("a key that is not that of the peer's name"));
        }
        if wire.links.len() > LINKS_MAX {
            return Err(Malformed("more links than a peer may have"));
        }
        let is_detailed = wire.links.len() <= DETAILED_MAX;
        let read = |link| LinkRecord::from_wire(link, is_detailed);
        let links = wire.links.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if !links.is_sorted_by(|a, b| a.peer < b.peer) || links.iter().any(|link| link.peer == origin) {
            return Err(Malformed("links out of order, twice, or to the peer itself"));
        }
        Ok(Self {
            public,
            uid: Uid(wire.uid),
            nickname: wire.nickname.parse().map_err(|_| Malformed("a nickname that cannot be one"))?,
            port: port_from_wire(wire.port)?,
            addresses: sockets_from_bytes(&wire.addresses, ADDRESSES_MAX)?,
            links,
            leaving: wire.leaving,
            mtu: u16::try_from(wire.mtu).map_err(|_| Malformed("an MTU beyond any IP packet"))?,
            relaying: Relaying::from_wire(wire.relaying),
        })
    }
}

impl LinkRecord {
    fn to_wire(self, is_detailed: bool) -> LinkWire {
        LinkWire {
            peer: Bytes::copy_from_slice(&self.peer.0),
            control: self.control,
            cost: self.data.map(|cost| cost.0.into()),
            payload_max: self.payload_max.into(),
            detail: self.detail.filter(|_| is_detailed).map(Detail::to_wire),
        }
    }

    fn from_wire(wire: &LinkWire, is_detailed: bool) -> Result<Self, Malformed> {
        let cost = wire.cost.map(|step| u8::try_from(step).map(Cost)).transpose();
        Ok(Self {
            peer: name_from_bytes(&wire.peer)?,
            control: wire.control,
            data: cost.map_err(|_| Malformed("a cost off the scale"))?,
            payload_max: u16::try_from(wire.payload_max).map_err(|_| Malformed("a size beyond any datagram"))?,
            detail: wire.detail.filter(|_| is_detailed).map(Detail::from_wire),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::VALUE_MAX;

    fn record() -> PeerRecord {
        let link = |i: u8| LinkRecord {
            peer: PeerName([0xf0, 0, 0, 0, 1, i]),
            control: i.is_multiple_of(2),
            data: (i > 1).then_some(Cost(80 + i)),
            payload_max: if i > 1 { 1472 } else { 0 },
            detail: (i > 2).then_some(Detail { rtt: Cost(70), jitter: Cost(60), lost: 1000 }),
        };
        PeerRecord {
            public: PublicKey([7; 32]),
            uid: Uid(u64::MAX),
            nickname: "host-1".parse().unwrap(),
            port: 6783,
            addresses: vec!["10.0.0.1:6783".parse().unwrap(), "[fd00::1]:7000".parse().unwrap()],
            links: (0..4).map(link).collect(),
            leaving: false,
            mtu: 1340,
            relaying: Relaying::Crowded,
        }
    }

    fn read(record: &PeerRecord) -> Result<PeerRecord, Malformed> {
        PeerRecord::from_bytes(record.public.peer_name(), &record.to_bytes())
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        assert_eq!(read(&record()), Ok(record()));
        let leaving = PeerRecord { leaving: true, ..record() };
        assert_eq!(read(&leaving), Ok(leaving));
        assert_eq!(record().link(PeerName([0xf0, 0, 0, 0, 1, 2])).and_then(|link| link.data), Some(Cost(82)));
        assert_eq!(record().link(PeerName([0xf0, 0, 0, 0, 1, 9])), None);
    }

    #[test]
    fn a_key_of_another_name_is_refused() {
        let mut name = record().public.peer_name();
        name.0[0] ^= 2;
        assert!(PeerRecord::from_bytes(name, &record().to_bytes()).is_err());
    }

    #[test]
    fn links_out_of_order_twice_or_to_itself_are_refused() {
        let mut unsorted = record();
        unsorted.links.swap(0, 1);
        assert!(read(&unsorted).is_err());
        let mut twice = record();
        twice.links[1].peer = twice.links[0].peer;
        assert!(read(&twice).is_err());
        let mut own = record();
        own.links = vec![LinkRecord { peer: own.public.peer_name(), ..own.links[0] }];
        assert!(read(&own).is_err());
    }

    #[test]
    fn the_largest_record_fits_a_value_and_a_larger_one_is_refused() {
        let link = |i: usize| LinkRecord {
            peer: PeerName([0xf0, 0, 0, 0, (i / 256) as u8, (i % 256) as u8]),
            control: true,
            data: Some(Cost(255)),
            payload_max: u16::MAX,
            detail: Some(Detail { rtt: Cost(255), jitter: Cost(255), lost: u16::MAX }),
        };
        let mut large = record();
        large.nickname = "x".repeat(64).parse().unwrap();
        large.addresses = vec!["[fd00::1]:7000".parse().unwrap(); ADDRESSES_MAX];
        large.links = (0..DETAILED_MAX).map(link).collect();
        assert!(large.to_bytes().len() <= VALUE_MAX, "{} bytes", large.to_bytes().len());
        assert_eq!(read(&large), Ok(large.clone()));
        large.links = (0..LINKS_MAX).map(link).collect();
        assert!(large.to_bytes().len() <= VALUE_MAX, "{} bytes", large.to_bytes().len());
        let bare = |link: &LinkRecord| LinkRecord { detail: None, ..*link };
        assert_eq!(read(&large), Ok(PeerRecord { links: large.links.iter().map(bare).collect(), ..large.clone() }));
        large.links.push(link(LINKS_MAX));
        assert!(read(&large).is_err());
        let crowded = PeerRecord { addresses: vec![record().addresses[0]; ADDRESSES_MAX + 1], ..record() };
        assert!(read(&crowded).is_err());
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error() {
        let name = record().public.peer_name();
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(record) = PeerRecord::from_bytes(name, bytes) {
                assert_eq!(read(&record), Ok(record));
            }
        });
    }

    #[test]
    fn any_change_of_a_bit_gives_a_record_or_an_error() {
        let (name, bytes) = (record().public.peer_name(), record().to_bytes());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = PeerRecord::from_bytes(name, &changed) {
                assert_eq!(read(&other), Ok(other), "bit {bit}");
            }
        }
    }
}
