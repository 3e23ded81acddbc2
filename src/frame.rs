//! Frames as bytes: where their headers lie, and what can be made of them.
//!
//! Everything here looks at bytes that containers and peers chose. Each parser reads them once, within bounds, into a
//! small value of offsets and addresses; nothing is looked up, learnt or sent here. What a frame becomes (segments,
//! fragments, itself) is written piece by piece into buffers of the caller, see [`Pieces`].

pub mod arp;
pub mod checksum;
pub mod coalesce;
pub mod ethernet;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod ip;
pub mod nd;
pub mod segment;
pub mod transport;
pub mod vnet;

#[cfg(test)]
pub(crate) mod sample;

/// Something that travels as one or more frames, each written straight to where it is wanted.
pub trait Pieces {
    /// How many frames; at least one.
    fn count(&self) -> usize;

    /// Length in bytes of frame `index`.
    fn piece_len(&self, index: usize) -> usize;

    /// Writes frame `index` into `out`, which has exactly [`Self::piece_len`] bytes.
    fn write(&self, index: usize, out: &mut [u8]);

    /// Length of the longest frame, which is the first one.
    fn longest(&self) -> usize {
        self.piece_len(0)
    }
}

/// A frame that travels as it is.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a>(pub &'a [u8]);

impl Pieces for Whole<'_> {
    fn count(&self) -> usize {
        1
    }

    fn piece_len(&self, _index: usize) -> usize {
        self.0.len()
    }

    fn write(&self, _index: usize, out: &mut [u8]) {
        copy(self.0, out);
    }
}

/// The `N` bytes at `at`, if they are there.
fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The big-endian number at `at`, if it is there.
fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    read(bytes, at).map(u16::from_be_bytes)
}

/// Puts `value` at `at`; what was parsed before is there.
fn write<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    let place = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    debug_assert!(place.is_some(), "{N} bytes at {at}");
    if let Some(place) = place {
        *place = value;
    }
}

/// Puts a length or an offset at `at`, big-endian; lengths inside frames have 16 bits, which the parsers checked.
fn write_len(bytes: &mut [u8], at: usize, len: usize) {
    debug_assert!(len <= usize::from(u16::MAX), "length {len}");
    write(bytes, at, (len as u16).to_be_bytes());
}

/// Copies `from` over the start of `to`, as much as fits.
fn copy(from: &[u8], to: &mut [u8]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}
