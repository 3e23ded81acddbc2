//! Writing and reading netlink messages, byte by byte. What a message held is wiped with it: it may have been a key.
//!
//! ```text
//!   0  length u32   type u16   flags u16   sequence u32   port u32        struct nlmsghdr
//!  16  a struct of the type, then attributes: length u16, type u16, value, padding to 4 bytes
//! ```
//! Numbers are in the order of the machine, unless a name says `be`: then in that of the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;
/// Room of a request: more than any of ours needs, because a buffer that grows leaves its bytes behind unwiped.
const REQUEST_LEN: usize = 1024;
/// Bytes of `xfrm_address_t`.
const ADDRESS_LEN: usize = 16;

/// A message to the kernel.
pub(super) struct Request(Zeroizing<Vec<u8>>);

/// Reads a message of the kernel. Beyond the end everything is nought: what is short is also not ours.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

/// Protocol family as the kernel numbers it.
pub(super) fn family(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

impl Request {
    /// Begins a message.
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut request = Self(Zeroizing::new(Vec::with_capacity(REQUEST_LEN)));
        request.u32(0).u16(kind).u16(flags).zeros(8);
        request
    }

    /// Its bytes, complete.
    pub(super) fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        for (at, value) in [(0, length), (8, sequence)] {
            if let Some(place) = self.0.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        &self.0
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        debug_assert!(self.0.len() + bytes.len() <= REQUEST_LEN, "it would grow");
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn be16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn be32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Self {
        let length = self.0.len() + count;
        debug_assert!(length <= REQUEST_LEN, "it would grow");
        self.0.resize(length, 0);
        self
    }

    /// Sixteen bytes, of which an IPv4 address takes the first four; noughts for any address.
    pub(super) fn address(&mut self, address: Option<IpAddr>) -> &mut Self {
        match address {
            Some(IpAddr::V4(address)) => self.bytes(&address.octets()).zeros(ADDRESS_LEN - 4),
            Some(IpAddr::V6(address)) => self.bytes(&address.octets()),
            None => self.zeros(ADDRESS_LEN),
        }
    }

    /// An attribute with what `value` writes.
    pub(super) fn attribute(&mut self, kind: u16, value: impl FnOnce(&mut Self) -> &mut Self) -> &mut Self {
        let start = self.0.len();
        self.u16(0).u16(kind);
        value(self);
        let length = self.0.len() - start;
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        }
        self.zeros(length.next_multiple_of(4) - length)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or as many as there are.
    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    pub(super) fn skip(&mut self, count: usize) -> &mut Self {
        self.take(count);
        self
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_ne_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.array())
    }

    pub(super) fn i32(&mut self) -> i32 {
        i32::from_ne_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.array())
    }

    pub(super) fn be16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(super) fn be32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// An address whose family stands elsewhere.
    pub(super) fn address(&mut self) -> [u8; ADDRESS_LEN] {
        self.array()
    }

    /// The next attribute, type and value. None at the end, and where an attribute makes no sense.
    pub(super) fn attribute(&mut self) -> Option<(u16, Self)> {
        let mut head = Self(self.0.get(..4)?);
        let (length, kind) = (usize::from(head.u16()), head.u16());
        let value = self.0.get(4..length)?;
        self.skip(length.next_multiple_of(4));
        // The two highest bits are flags.
        Some((kind & 0x3fff, Self(value)))
    }

    /// The first attribute of a type.
    pub(super) fn find(mut self, wanted: u16) -> Option<Self> {
        while let Some((kind, value)) = self.attribute() {
            if kind == wanted {
                return Some(value);
            }
        }
        None
    }
}

/// An address of a family; None if the family is neither of IP.
pub(super) fn address_of(bytes: [u8; ADDRESS_LEN], family: u16) -> Option<IpAddr> {
    match family {
        2 => bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        10 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut request = Request::new(7, 5);
        request
            .attribute(1, |r| r.u8(9))
            .attribute(2, |r| r.u64(u64::MAX - 1).be16(6784).address(Some("10.9.0.1".parse().unwrap())));
        let bytes = request.finish(3).to_vec();
        assert_eq!(bytes.len() % 4, 0);
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u32() as usize, reader.u16(), reader.u16(), reader.u32()), (bytes.len(), 7, 5, 3));
        reader.skip(4);
        let mut second = reader.find(2).unwrap();
        assert_eq!((second.u64(), second.be16()), (u64::MAX - 1, 6784));
        assert_eq!(address_of(second.address(), 2), Some("10.9.0.1".parse().unwrap()));
        assert!(second.is_empty() && reader.find(3).is_none());
        assert_eq!(reader.attribute().unwrap().1.u8(), 9);
    }

    #[test]
    fn nonsense_ends_the_reading() {
        bolero::check!().for_each(|bytes| {
            let mut reader = Reader::new(bytes);
            while reader.attribute().is_some() {}
            Reader::new(bytes).skip(3).u64();
        });
    }
}
