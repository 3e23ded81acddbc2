//! Netlink attributes as bytes: written one after the other, read without trust (`struct nlattr`, linux/netlink.h).
//!
//! ```text
//! 0   2 length with these four bytes, host order    4   value, then noughts up to a multiple of four
//! 2   2 kind, host order; the two high bits are flags
//! ```

/// Bytes of an attribute before its value.
const HEADER: usize = 4;
/// Attributes begin at multiples of this.
const ALIGNMENT: usize = 4;
/// The kind without its flags (NLA_TYPE_MASK).
const KIND: u16 = 0x3fff;

/// Adds one attribute.
///
/// The value has less than 64 KiB: all that we send is far smaller.
pub(super) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nest(bytes, kind, |inner| inner.extend_from_slice(value));
}

/// Adds an attribute whose value is made of others.
pub(super) fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    fill(bytes);
    let len = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
    if let Some(field) = bytes.get_mut(start..start + 2) {
        field.copy_from_slice(&len.to_ne_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// A name, with the nought that ends it.
pub(super) fn put_name(bytes: &mut Vec<u8>, kind: u16, name: &str) {
    nest(bytes, kind, |value| {
        value.extend_from_slice(name.as_bytes());
        value.push(0);
    });
}

/// A number in host order.
pub(super) fn put_u32(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    put(bytes, kind, &value.to_ne_bytes());
}

/// The attributes of a message or of another attribute, by kind; what is cut off ends them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first of a kind.
    pub(super) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// A number in host order.
    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// A number in host order.
    pub(super) fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// A name that ends with a nought.
    pub(super) fn name(self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(value.get(..end)?).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (len, kind) = match self.0 {
            [l0, l1, k0, k1, ..] => (u16::from_ne_bytes([*l0, *l1]), u16::from_ne_bytes([*k0, *k1])),
            _ => return None,
        };
        let len = usize::from(len);
        let value = self.0.get(HEADER..len)?;
        // The last one may lack its noughts.
        self.0 = self.0.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind & KIND, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        bolero::check!().with_type::<Vec<(u16, Vec<u8>)>>().for_each(|attributes| {
            let mut bytes = Vec::new();
            for (kind, value) in attributes {
                put(&mut bytes, *kind, value);
            }
            let read: Vec<_> = Attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            let written: Vec<_> = attributes.iter().map(|(kind, value)| (kind & KIND, value.clone())).collect();
            assert_eq!(read, written);
        });
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            for (_, value) in Attributes(bytes) {
                assert!(value.len() + HEADER <= bytes.len());
            }
            let _ = (Attributes(bytes).u32(1), Attributes(bytes).u16(1), Attributes(bytes).name(1));
        });
    }

    #[test]
    fn a_length_that_makes_no_sense_ends_the_list() {
        for length in [0_u16, 3, 9, u16::MAX] {
            let bytes = [&length.to_ne_bytes()[..], &[1, 0, 9, 9, 9, 9]].concat();
            assert_eq!(Attributes(&bytes).next(), None, "{length}");
        }
    }
}
