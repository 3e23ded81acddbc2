//! The Internet checksum (RFC 1071): one's complement sums of 16-bit words.

use std::net::IpAddr;

use super::{ip::Ip, read_u16, transport::Kind, write};

/// Bytes summed at once: a line of the processor's cache.
const BLOCK_LEN: usize = 64;

/// The folded one's complement sum of `bytes` as big-endian words, an odd one padded with zero. Sums of parts add up
/// when all parts but the last are of even length.
pub fn sum(bytes: &[u8]) -> u32 {
    // RFC 1071 §2: summing may take any byte order and several words at once, and put that right at the end. Sums side by side
    // are what compilers make vector instructions of; one alone waits for itself at each word.
    let (blocks, rest) = bytes.as_chunks::<BLOCK_LEN>();
    let mut totals = [0_u64; BLOCK_LEN / 4];
    for block in blocks {
        for (total, word) in totals.iter_mut().zip(block.as_chunks().0) {
            *total += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let total: u64 = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    u32::from(u16::from_be(fold(total + totals.iter().sum::<u64>())))
}

/// The checksum that makes a sum come out right: its one's complement.
pub fn finish(sum: u32) -> u16 {
    !fold(u64::from(sum))
}

/// The folded sum itself, as it is left in the checksum field for somebody else to complete.
pub fn partial(sum: u32) -> u16 {
    fold(u64::from(sum))
}

/// Sum of the pseudo-header before a TCP, UDP or ICMPv6 message of `len` bytes (RFC 9293 §3.1, RFC 8200 §8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u32 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    let len = len as u32;
    address(source) + address(destination) + u32::from(protocol) + (len >> 16) + (len & 0xffff)
}

/// Whether the message above `ip` has the right checksum in it.
pub fn is_valid(frame: &[u8], ip: &Ip) -> bool {
    let Some(message) = frame.get(ip.upper..ip.end) else { return false };
    finish(pseudo_header(ip.source, ip.destination, ip.protocol, message.len()) + sum(message)) == 0
}

/// Computes the checksum of the TCP or UDP message above `ip` anew and puts it there.
pub fn fill_transport(frame: &mut [u8], ip: &Ip, kind: Kind) {
    let at = ip.upper + kind.checksum_offset();
    write(frame, at, [0; 2]);
    let Some(message) = frame.get(ip.upper..ip.end) else { return };
    let checksum = finish(pseudo_header(ip.source, ip.destination, ip.protocol, message.len()) + sum(message));
    write(frame, at, kind.wire_checksum(checksum).to_be_bytes());
}

/// Computes the checksum of the IPv4 header at `start..end` anew and puts it there.
pub fn fill_ipv4(frame: &mut [u8], start: usize, end: usize) {
    write(frame, start + 10, [0; 2]);
    let checksum = frame.get(start..end).map_or(0, |header| finish(sum(header)));
    write(frame, start + 10, checksum.to_be_bytes());
}

/// Whether the IPv4 header at `start..end` has the right checksum in it.
pub fn is_valid_ipv4(frame: &[u8], start: usize, end: usize) -> bool {
    frame.get(start..end).is_some_and(|header| finish(sum(header)) == 0)
}

/// Finishes a checksum that the sender left to its device: sums from `start` to the end, what lies at `start + offset`
/// (the pseudo-header's sum) included, and puts the result there. Returns None when the places are not in the frame.
pub fn complete(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let at = start.checked_add(offset)?;
    read_u16(frame, at)?;
    let checksum = match finish(sum(frame.get(start..)?)) {
        // Zero in a UDP header means "none" (RFC 768); the other zero is as good for the rest.
        0 => 0xffff,
        checksum => checksum,
    };
    write(frame, at, checksum.to_be_bytes());
    Some(())
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word for word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        fold(total)
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(finish(0xddf2), 0x220d);
    }

    proptest! {
        #[test]
        fn fast_and_slow_sums_agree(bytes: Vec<u8>) {
            prop_assert_eq!(sum(&bytes), u32::from(reference(&bytes)));
        }

        #[test]
        fn parts_add_up(bytes in proptest::collection::vec(any::<u8>(), 2..200), cut in 0_usize..100) {
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(partial(sum(head) + sum(tail)), partial(sum(&bytes)));
        }
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        assert_eq!(complete(&mut [0; 10], 5, 4), None);
        assert_eq!(complete(&mut [0; 10], usize::MAX, 4), None);
        assert_eq!(complete(&mut [0; 10], 4, 4), Some(()));
    }
}
