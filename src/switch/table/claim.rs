//! A peer's claim of a station: a value in the endpoints channel, whose key is the station's Ethernet address.

use std::{collections::BTreeSet, net::IpAddr};

use prost::Message;

use crate::{
    gossip::{
        Malformed, Replicated,
        address::{ip_from_bytes, ip_to_bytes},
    },
    id::{Mac, PeerName},
};

/// Most addresses of one station.
pub const STATION_ADDRESSES_MAX: usize = 16;
/// Most moves of one station that are counted.
pub const MOVES_MAX: u64 = 1 << 48;

/// "This station is on my bridge."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its IP addresses as far as known, each once; at most [`STATION_ADDRESSES_MAX`].
    pub addresses: Vec<IpAddr>,
    /// How often it moved; at most [`MOVES_MAX`]. The claim with the most is the latest.
    pub moves: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ClaimWire {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addresses: Vec<Vec<u8>>,
    #[prost(uint64, tag = "2")]
    moves: u64,
}

/// Whether one station can have this Ethernet address.
pub(super) fn is_station(mac: Mac) -> bool {
    !mac.is_group() && mac != Mac([0; 6])
}

impl Replicated for Mac {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        let mac =
            <[u8; 6]>::try_from(bytes).map(Mac).map_err(|_| Malformed("an Ethernet address that is not 6 bytes"))?;
        if is_station(mac) { Ok(mac) } else { Err(Malformed("an Ethernet address that no single station can have")) }
    }
}

impl Replicated for Claim {
    fn to_bytes(&self) -> Vec<u8> {
        let addresses = self.addresses.iter().copied().map(ip_to_bytes).collect();
        ClaimWire { addresses, moves: self.moves }.encode_to_vec()
    }

    fn from_bytes(_: PeerName, bytes: &[u8]) -> Result<Self, Malformed> {
        let wire = ClaimWire::decode(bytes)?;
        if wire.addresses.len() > STATION_ADDRESSES_MAX || wire.moves > MOVES_MAX {
            return Err(Malformed("more addresses or moves than a station may have"));
        }
        let addresses = wire.addresses.iter().map(|bytes| ip_from_bytes(bytes)).collect::<Result<Vec<_>, _>>()?;
        if addresses.iter().collect::<BTreeSet<_>>().len() < addresses.len() {
            return Err(Malformed("one address of a station twice"));
        }
        Ok(Self { addresses, moves: wire.moves })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: PeerName = PeerName([1; 6]);

    fn claim(addresses: &[&str], moves: u64) -> Claim {
        Claim { addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(), moves }
    }

    #[test]
    fn claims_come_back_as_they_went() {
        for claim in [claim(&[], 0), claim(&["10.0.0.1", "fd00::1"], MOVES_MAX)] {
            assert_eq!(Claim::from_bytes(ORIGIN, &claim.to_bytes()), Ok(claim));
        }
    }

    #[test]
    fn claims_that_cannot_be_are_refused() {
        for bad in [claim(&["10.0.0.1", "10.0.0.1"], 0), claim(&["224.0.0.1"], 0), claim(&[], MOVES_MAX + 1)] {
            assert!(Claim::from_bytes(ORIGIN, &bad.to_bytes()).is_err(), "{bad:?}");
        }
        let many = (0..=STATION_ADDRESSES_MAX).map(|i| IpAddr::from([10, 0, 0, i as u8])).collect();
        assert!(Claim::from_bytes(ORIGIN, &Claim { addresses: many, moves: 0 }.to_bytes()).is_err());
    }

    #[test]
    fn only_the_address_of_one_station_is_a_key() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(Mac::from_bytes(ORIGIN, &mac.to_bytes()), Ok(mac));
        for bad in [&[0; 6][..], &[0xff; 6], &[1, 0, 0x5e, 0, 0, 1], &[2; 5], &[2; 7]] {
            assert!(Mac::from_bytes(ORIGIN, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_bytes_are_a_claim_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(claim) = Claim::from_bytes(ORIGIN, bytes) {
                assert_eq!(Claim::from_bytes(ORIGIN, &claim.to_bytes()), Ok(claim));
            }
        });
    }
}
