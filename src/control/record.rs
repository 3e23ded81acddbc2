//! What a control connection consists of after the prefaces.
//!
//! ```text
//! Handshake | 1 | length u16 LE | a Noise handshake message      |
//! Refused   | 2 | length u16 LE | code u16 LE | of later times   |   in clear, so not proof of anything
//! Sealed    | 3 | length u16 LE | a Noise transport message      |
//! ```

use super::refusal::{Refusal, RefusalCode};

/// Most bytes in a record that is not sealed: the first handshake payload holds up to 4 KiB of hello.
pub(super) const CLEAR_MAX: usize = 5000;
/// Most bytes in a sealed record: a Noise message's limit.
pub(super) const SEALED_MAX: usize = 65535;
const HEADER_LEN: usize = 3;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Handshake = 1,
    Refused = 2,
    Sealed = 3,
}

/// One record.
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
    /// Bytes of it all.
    pub(super) len: usize,
}

/// Reads the record at the start of `bytes`; None while more bytes are needed.
///
/// Sealed ones are refused by their first byte unless `sealed` are expected: they are large.
pub(super) fn parse(bytes: &[u8], sealed: bool) -> Result<Option<Record<'_>>, Refusal> {
    let Some((&[kind, low, high], rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let (kind, max) = match kind {
        1 => (Kind::Handshake, CLEAR_MAX),
        2 => (Kind::Refused, CLEAR_MAX),
        3 if sealed => (Kind::Sealed, SEALED_MAX),
        _ => return Err(Refusal::Malformed("record")),
    };
    let len = usize::from(u16::from_le_bytes([low, high]));
    if len > max {
        return Err(Refusal::TooLarge);
    }
    Ok(rest.get(..len).map(|body| Record { kind, body, len: HEADER_LEN + len }))
}

/// Appends a record to `out`. The body is at most [`SEALED_MAX`] long.
pub(super) fn write(out: &mut Vec<u8>, kind: Kind, body: &[u8]) {
    debug_assert!(body.len() <= SEALED_MAX);
    out.push(kind as u8);
    out.extend((body.len() as u16).to_le_bytes());
    out.extend(body);
}

/// Reads what a Refused record, or a sealed refusal, says.
pub(super) fn parse_refused(body: &[u8]) -> Result<RefusalCode, Refusal> {
    let (&code, _of_later_times) = body.split_first_chunk().ok_or(Refusal::Malformed("refusal"))?;
    Ok(u16::from_le_bytes(code).into())
}
