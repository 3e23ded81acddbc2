//! Entries of the names channel: the key says who has which name, the value where that leads.

use std::{collections::BTreeSet, net::IpAddr};

use prost::Message;

use super::{DnsName, Owner};
use crate::{
    gossip::{
        Malformed, Replicated,
        address::{ip_from_bytes, ip_to_bytes, is_single},
    },
    id::PeerName,
};

/// Most addresses of one name of one owner.
pub const ADDRESSES_MAX: usize = 64;

/// One name of one owner.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// Whose.
    pub owner: Owner,
    /// The name.
    pub name: DnsName,
}

/// Where it leads: 1 to [`ADDRESSES_MAX`] addresses, each once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses(pub Vec<IpAddr>);

#[derive(Clone, PartialEq, Message)]
struct KeyWire {
    #[prost(string, tag = "1")]
    owner: String,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct AddressesWire {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addresses: Vec<Vec<u8>>,
}

/// Whether a name may lead to this address: one station's, and not that of whoever asks.
pub(crate) fn is_address(address: IpAddr) -> bool {
    is_single(address) && !address.is_loopback()
}

impl Replicated for Key {
    fn to_bytes(&self) -> Vec<u8> {
        KeyWire { owner: self.owner.to_string(), name: self.name.to_string() }.encode_to_vec()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        let wire = KeyWire::decode(bytes)?;
        let owner = wire.owner.parse().map_err(|_| Malformed("a name's owner that cannot be one"))?;
        let name = wire.name.parse().map_err(|_| Malformed("a name that cannot be one"))?;
        Ok(Self { owner, name })
    }
}

impl Replicated for Addresses {
    fn to_bytes(&self) -> Vec<u8> {
        AddressesWire { addresses: self.0.iter().copied().map(ip_to_bytes).collect() }.encode_to_vec()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        let wire = AddressesWire::decode(bytes)?;
        if wire.addresses.is_empty() || wire.addresses.len() > ADDRESSES_MAX {
            return Err(Malformed("no addresses of a name, or more than it may have"));
        }
        let addresses = wire.addresses.iter().map(|bytes| ip_from_bytes(bytes)).collect::<Result<Vec<_>, _>>()?;
        if !addresses.iter().copied().all(is_address) {
            return Err(Malformed("a name that leads to no single station"));
        }
        if addresses.iter().collect::<BTreeSet<_>>().len() < addresses.len() {
            return Err(Malformed("one address of a name twice"));
        }
        Ok(Self(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::allocation::OWNER_MAX,
        gossip::{KEY_MAX, VALUE_MAX},
        names::NAME_MAX,
    };

    const ORIGIN: PeerName = PeerName([1; 6]);

    fn addresses(texts: &[&str]) -> Addresses {
        Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn the_longest_entry_fits_the_channel_and_comes_back() {
        let name = [&"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].map(String::as_str).join(".");
        assert_eq!(name.len(), NAME_MAX);
        let key = Key { owner: "o".repeat(OWNER_MAX).parse().unwrap(), name: name.parse().unwrap() };
        assert!(key.to_bytes().len() <= KEY_MAX);
        assert_eq!(Key::from_bytes(ORIGIN, &key.to_bytes()), Ok(key));
        let many = Addresses((0..ADDRESSES_MAX).map(|i| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i as u16])).collect());
        assert!(many.to_bytes().len() <= VALUE_MAX);
        assert_eq!(Addresses::from_bytes(ORIGIN, &many.to_bytes()), Ok(many));
    }

    #[test]
    fn names_that_lead_nowhere_are_refused() {
        for bad in [&[][..], &["10.0.0.1", "10.0.0.1"], &["224.0.0.1"], &["127.0.0.1"], &["::1"], &["0.0.0.0"]] {
            assert!(Addresses::from_bytes(ORIGIN, &addresses(bad).to_bytes()).is_err(), "{bad:?}");
        }
        let many = (0..=ADDRESSES_MAX).map(|i| IpAddr::from([10, 0, 1, i as u8])).collect();
        assert!(Addresses::from_bytes(ORIGIN, &Addresses(many).to_bytes()).is_err());
    }

    #[test]
    fn any_bytes_are_an_entry_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(key) = Key::from_bytes(ORIGIN, bytes) {
                assert_eq!(Key::from_bytes(ORIGIN, &key.to_bytes()), Ok(key));
            }
            if let Ok(value) = Addresses::from_bytes(ORIGIN, bytes) {
                assert_eq!(Addresses::from_bytes(ORIGIN, &value.to_bytes()), Ok(value));
            }
        });
    }
}
