//! What a frame costs on the underlay by each method, exactly, and the MTU for containers that follows.
//!
//! ```text
//! sleeve  IP | UDP 8 | header 16 | record 3 | [relay record, 48 and 6 for each further relay] | Ethernet 14 | packet | tag 16
//! fastdp  IP | [UDP 8] | [ESP 8 | IV 8 |] UDP 8 | VXLAN 8 | Ethernet 14 | packet [| pad to 4, 2 | ICV 16]
//! ```
//! IP is 20 bytes (RFC 791) or 40 (RFC 8200), VXLAN's header 8 (RFC 7348 §5). ESP with AES-GCM has an IV of 8, an ICV of 16, and
//! pads packet, pad length and next header to a multiple of 4 (RFC 4303 §2, RFC 4106 §3 and §6); ESP in UDP takes another 8
//! (RFC 3948 §2.1).

use super::sleeve::{PACKET_OVERHEAD, RECORD_HEADER_LEN, relay_overhead};

/// Bytes of an Ethernet header (IEEE 802.3).
pub const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;
const VXLAN_LEN: usize = 8;
const ESP_HEADER_LEN: usize = 8 + 8;
const ESP_TRAILER_LEN: usize = 2;
const ESP_ALIGN: usize = 4;
const ESP_ICV_LEN: usize = 16;
/// Relays of a path for which containers' packets shall not be cut.
const RELAYS: usize = 2;
/// MTUs are round numbers, which people recognise.
const STEP: usize = 10;
/// What every IPv4 host accepts (RFC 1122 §3.3.3), and the largest IP packet.
const MTU_RANGE: (usize, usize) = (576, 65_535);

/// How a frame is carried, as far as its cost depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carriage {
    /// In a sleeve packet, by so many relays.
    Sleeve {
        /// None for a direct path.
        relays: usize,
    },
    /// By VXLAN in clear.
    Vxlan,
    /// By VXLAN in ESP, itself in UDP or not.
    Esp {
        /// In UDP, to cross a NAT.
        in_udp: bool,
    },
}

impl Carriage {
    /// The largest IP packet inside, in bytes, that fits an underlay of `mtu` bytes; 0 if none does.
    pub fn inner_max(self, ipv6: bool, mtu: usize) -> usize {
        let room = mtu.saturating_sub(if ipv6 { 40 } else { 20 });
        let vxlan = UDP_LEN + VXLAN_LEN + ETHERNET_LEN;
        match self {
            Self::Sleeve { relays } => {
                let overhead = PACKET_OVERHEAD + RECORD_HEADER_LEN + ETHERNET_LEN + relay_overhead(relays);
                room.saturating_sub(UDP_LEN + overhead)
            }
            Self::Vxlan => room.saturating_sub(vxlan),
            Self::Esp { in_udp } => {
                let fixed = ESP_HEADER_LEN + ESP_ICV_LEN + if in_udp { UDP_LEN } else { 0 };
                let sealed = room.saturating_sub(fixed) / ESP_ALIGN * ESP_ALIGN;
                sealed.saturating_sub(ESP_TRAILER_LEN + vxlan)
            }
        }
    }
}

/// The MTU for containers on an underlay of `mtu` bytes: their packets fit by every method, IPv4 or IPv6, and by up to two
/// relays (docs/decisions/0004).
pub fn container_mtu(mtu: usize) -> u16 {
    let all = [Carriage::Sleeve { relays: RELAYS }, Carriage::Vxlan, Carriage::Esp { in_udp: true }];
    let fits = all.into_iter().map(|carriage| carriage.inner_max(true, mtu)).min().unwrap_or(0);
    let (least, most) = MTU_RANGE;
    u16::try_from((fits / STEP * STEP).clamp(least, most)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEVE: Carriage = Carriage::Sleeve { relays: 0 };
    const ESP: Carriage = Carriage::Esp { in_udp: false };
    const ESP_IN_UDP: Carriage = Carriage::Esp { in_udp: true };

    #[test]
    fn what_fits_is_as_reckoned_by_hand() {
        for (carriage, ipv6, mtu, inner) in [
            // 1500 - 20 - 8 - 16 - 16 - 3 - 14, and IPv6's 20 more.
            (SLEEVE, false, 1500, 1423),
            (SLEEVE, true, 1500, 1403),
            (Carriage::Sleeve { relays: 1 }, false, 1500, 1375),
            (Carriage::Sleeve { relays: 2 }, true, 1500, 1349),
            // The well-known 50 and 70 of VXLAN.
            (Carriage::Vxlan, false, 1500, 1450),
            (Carriage::Vxlan, true, 1500, 1430),
            (Carriage::Vxlan, false, 9000, 8950),
            // 1500 - 20 - 16 - 16 = 1448 sealed, less 2 and 30.
            (ESP, false, 1500, 1416),
            (ESP, true, 1500, 1396),
            (ESP, false, 1501, 1416),
            (ESP, false, 1504, 1420),
            (ESP, false, 9001, 8916),
            (ESP_IN_UDP, false, 1500, 1408),
            (ESP_IN_UDP, true, 1500, 1388),
            (SLEEVE, true, 60, 0),
        ] {
            assert_eq!(carriage.inner_max(ipv6, mtu), inner, "{carriage:?} {ipv6} {mtu}");
        }
    }

    #[test]
    fn containers_get_what_fits_by_every_method() {
        for (underlay, mtu) in [(1500, 1340), (9000, 8840), (1300, 1140), (1460, 1300), (100, 576), (70_000, 65_535)] {
            assert_eq!(container_mtu(underlay), mtu, "{underlay}");
        }
    }
}
