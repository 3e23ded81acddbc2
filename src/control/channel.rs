//! Seals and opens what is said after the handshake, and cuts long messages into parts.
//!
//! The first byte of a Sealed record's plain text says what the rest is:
//!
//! ```text
//! Last    | 0 | the last part of a message                        |
//! Part    | 1 | a part of a message, not empty; the next follows  |
//! Welcome | 2 | uid u64 LE | hello                                |   the responder's first record, and only that
//! Refused | 3 | code u16 LE | of later times                      |
//! ```

use snow::TransportState;

use super::{
    record::{self, Kind, SEALED_MAX},
    refusal::{Refusal, RefusalCode},
};
use crate::wire::sleeve::TAG_LEN;

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;

const PART_MAX: usize = SEALED_MAX - TAG_LEN - 1;
const LAST: u8 = 0;
const PART: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;

/// Both directions of a connection after the handshake.
pub(super) struct Channel {
    transport: TransportState,
    /// The parts so far of the message that is coming in.
    partial: Vec<u8>,
}

/// What a sealed record turned out to be.
pub(super) enum Opened {
    Part,
    Message(Vec<u8>),
    Welcome(Vec<u8>),
    Refused(RefusalCode),
}

impl Channel {
    pub(super) fn new(transport: TransportState) -> Self {
        Self { transport, partial: Vec::new() }
    }

    /// Appends the sealed records of a message of at most [`MESSAGE_MAX`] bytes to `out`.
    pub(super) fn seal_message(&mut self, message: &[u8], out: &mut Vec<u8>) {
        let (parts, last) = message.split_at(message.len().saturating_sub(1) / PART_MAX * PART_MAX);
        for part in parts.chunks(PART_MAX) {
            self.seal(PART, part, out);
        }
        self.seal(LAST, last, out);
    }

    /// Appends the sealed welcome to `out`.
    pub(super) fn seal_welcome(&mut self, content: &[u8], out: &mut Vec<u8>) {
        self.seal(WELCOME, content, out);
    }

    /// Appends a sealed refusal to `out`.
    pub(super) fn seal_refusal(&mut self, code: RefusalCode, out: &mut Vec<u8>) {
        self.seal(REFUSED, &code.number().to_le_bytes(), out);
    }

    /// Opens the body of a Sealed record.
    pub(super) fn open(&mut self, body: &[u8]) -> Result<Opened, Refusal> {
        let mut plain = vec![0; body.len()];
        let len = self.transport.read_message(body, &mut plain).map_err(|_| Refusal::Malformed("sealed record"))?;
        plain.truncate(len);
        let (&kind, content) = plain.split_first().ok_or(Refusal::Malformed("sealed record"))?;
        if self.partial.len() + content.len() > MESSAGE_MAX {
            return Err(Refusal::TooLarge);
        }
        match kind {
            LAST => {
                self.partial.extend(content);
                Ok(Opened::Message(std::mem::take(&mut self.partial)))
            }
            PART if !content.is_empty() => {
                self.partial.extend(content);
                Ok(Opened::Part)
            }
            WELCOME => Ok(Opened::Welcome(content.to_vec())),
            REFUSED => Ok(Opened::Refused(record::parse_refused(content)?)),
            _ => Err(Refusal::Malformed("sealed record")),
        }
    }

    #[expect(clippy::expect_used, reason = "the size is bounded above, and a 64-bit counter does not run out")]
    pub(super) fn seal(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        let plain = [&[kind], content].concat();
        let mut sealed = vec![0; plain.len() + TAG_LEN];
        let len = self.transport.write_message(&plain, &mut sealed).expect("room for the tag");
        record::write(out, Kind::Sealed, &sealed[..len]);
    }
}
