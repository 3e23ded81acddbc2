//! Frames on their way in: read from the TAP queue ahead of their turn, so that a lone frame need not wait behind the bulk of
//! another conversation.
//!
//! ```text
//!   TAP queue ──▶ short, and nothing of its conversation waits ──────────────────▶ next
//!       (fifo)    else ──▶ waiting (fifo, bounded; what is beyond stays in the queue) ──▶ next, when nothing overtakes
//! ```
//! The TAP queue is the one place on the way where a window of some megabytes piles up as soon as a sender outruns its worker: TCP
//! fills whatever holds its window. Reading a super-frame costs a tenth of sealing and sending it; so all that waits is read
//! first, and what is short and of another conversation goes on at once; what comes meanwhile is looked for at every other frame. Frames of one conversation never overtake each other,
//! and a flood of short ones delays the others only by [`OVERTAKING_MAX`] at a time.

use std::{collections::VecDeque, io};

use weft::frame::flow::Trail;
use weft_host::tap::{READ_LEN, VNET_HEADER_LEN};

/// Frames that wait at most: one and a half megabytes of super-frames, a TCP window of the rates that one worker reaches.
const WAITING_MAX: usize = 24;
/// Longest frame that overtakes. Longer ones are super-frames: all of a real network's fit.
const SHORT_MAX: usize = 16 << 10;
/// Frames that may overtake between two that wait.
const OVERTAKING_MAX: u32 = 64;

/// The frames that wait, and the one being handled.
pub(super) struct Intake {
    /// One place of [`READ_LEN`] for each that waits, and one for the current frame. Memory that is never written is never used.
    buffer: Vec<u8>,
    free: Vec<usize>,
    waiting: VecDeque<Waiting>,
    current: Option<usize>,
    overtaking: u32,
    overtook: usize,
    /// The queue was found empty when the last frame was handed over. It is not looked into again before the next one: that is a system
    /// call for each super-frame, and who comes in between overtakes one later.
    found_empty: bool,
}

struct Waiting {
    place: usize,
    len: usize,
    trail: Trail,
}

impl Intake {
    /// Nothing waits.
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; (WAITING_MAX + 1) * READ_LEN],
            free: (0..=WAITING_MAX).rev().collect(),
            waiting: VecDeque::with_capacity(WAITING_MAX),
            current: None,
            overtaking: 0,
            overtook: 0,
            found_empty: false,
        }
    }

    /// Whether nothing waits here; the TAP queue may have more.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Frames that overtook others since this was last asked.
    pub(super) fn take_overtook(&mut self) -> usize {
        std::mem::take(&mut self.overtook)
    }

    /// The next frame, its header in front; None when there is none. `read` fills a buffer with one and returns its length.
    ///
    /// # Errors
    /// What `read` said, save that there is no frame now.
    pub(super) fn next(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<&mut [u8]>> {
        self.free.extend(self.current.take());
        let was_empty = std::mem::take(&mut self.found_empty);
        while !was_empty && self.overtaking < OVERTAKING_MAX && self.waiting.len() < WAITING_MAX {
            // There is one place more than may wait.
            let Some(place) = self.free.pop() else { break };
            let len = match read(self.place(place, READ_LEN)) {
                Ok(len) => len,
                Err(error) => {
                    self.free.push(place);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.found_empty = !self.waiting.is_empty();
                        break;
                    }
                    return Err(error);
                }
            };
            if self.waiting.is_empty() && len <= SHORT_MAX {
                return Ok(Some(self.hand_over(place, len)));
            }
            let trail = Trail::of(self.place(place, len).get(VNET_HEADER_LEN..).unwrap_or_default());
            if len <= SHORT_MAX && !self.waiting.iter().any(|waiting| waiting.trail.may_be(&trail)) {
                self.overtaking += 1;
                self.overtook += 1;
                return Ok(Some(self.hand_over(place, len)));
            }
            self.waiting.push_back(Waiting { place, len, trail });
        }
        self.overtaking = 0;
        Ok(self.waiting.pop_front().map(|waiting| self.hand_over(waiting.place, waiting.len)))
    }

    fn hand_over(&mut self, place: usize, len: usize) -> &mut [u8] {
        self.current = Some(place);
        self.place(place, len)
    }

    fn place(&mut self, place: usize, len: usize) -> &mut [u8] {
        let start = place * READ_LEN;
        self.buffer.get_mut(start..start + len.min(READ_LEN)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with its header: conversation `flow`, number `number`, so long.
    fn frame(flow: u8, number: u16, len: usize) -> Vec<u8> {
        let mut frame = vec![0; VNET_HEADER_LEN + len];
        let packet = &mut frame[VNET_HEADER_LEN..];
        packet[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        packet[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        packet[18..20].copy_from_slice(&number.to_be_bytes());
        packet[22..24].copy_from_slice(&[64, if flow == 0 { 1 } else { 17 }]);
        packet[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[34..36].copy_from_slice(&[4, flow]);
        frame
    }

    /// All that comes out when the TAP has these; nothing more comes meanwhile.
    fn taken(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut queue: VecDeque<_> = frames.iter().collect();
        let (mut intake, mut out) = (Intake::new(), Vec::new());
        let mut read = |buffer: &mut [u8]| {
            let frame = queue.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
            buffer[..frame.len()].copy_from_slice(frame);
            Ok(frame.len())
        };
        while let Some(frame) = intake.next(&mut read).unwrap() {
            out.push(frame.to_vec());
        }
        assert!(intake.is_empty() && queue.is_empty());
        out
    }

    #[test]
    fn a_lone_frame_overtakes_the_bulk_of_another_conversation() {
        let bulk: Vec<_> = (0..10).map(|number| frame(1, number, 60_000)).collect();
        let (ping, last) = (frame(0, 0, 98), frame(1, 10, 98));
        let out = taken(&[&bulk[..], &[last.clone(), ping.clone()]].concat());
        assert_eq!(out, [&[ping][..], &bulk, &[last]].concat(), "not what is of the same conversation");
    }

    #[test]
    fn an_empty_queue_is_looked_into_for_every_other_frame_only() {
        let mut queue: VecDeque<_> = (0..5).map(|number| frame(1, number, 60_000)).collect();
        let (mut intake, mut looks) = (Intake::new(), 0);
        let mut next = |queue: &mut VecDeque<Vec<u8>>| {
            let taken = intake.next(|buffer| {
                looks += 1;
                let frame = queue.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
                buffer[..frame.len()].copy_from_slice(&frame);
                Ok(frame.len())
            });
            (taken.unwrap().map(|frame| frame.len()), looks)
        };
        let bulk = Some(VNET_HEADER_LEN + 60_000);
        let seen: Vec<_> = (0..6).map(|_| next(&mut queue)).collect();
        assert_eq!(seen, [(bulk, 6), (bulk, 6), (bulk, 7), (bulk, 7), (bulk, 8), (None, 8)]);
        queue.push_back(frame(1, 5, 60));
        assert_eq!(next(&mut queue).0, Some(VNET_HEADER_LEN + 60), "what came meanwhile is found");
    }

    #[test]
    fn a_flood_of_short_frames_does_not_hold_the_others_for_long() {
        let flood: Vec<_> = (0..500).map(|number| frame(2, number, 60)).collect();
        let bulk = [frame(1, 0, 60_000), frame(1, 1, 60_000)];
        let out = taken(&[&bulk[..], &flood].concat());
        let at = |wanted: &Vec<u8>| out.iter().position(|frame| frame == wanted).unwrap();
        assert_eq!((at(&bulk[0]), at(&bulk[1])), (OVERTAKING_MAX as usize, 2 * OVERTAKING_MAX as usize + 1));
    }

    #[test]
    fn what_does_not_fit_stays_in_the_queue() {
        let bulk: Vec<_> = (0..100).map(|number| frame(1, number, 60_000)).collect();
        let (mut given, mut intake) = (0, Intake::new());
        for taken in 0..50 {
            let frame = intake.next(|buffer| {
                buffer[..bulk[given].len()].copy_from_slice(&bulk[given]);
                given += 1;
                Ok(bulk[given - 1].len())
            });
            assert!(frame.unwrap().unwrap() == bulk[taken]);
            assert!(given <= taken + WAITING_MAX);
        }
        assert!(intake.next(|_| Err(io::ErrorKind::NotFound.into())).is_err(), "other errors are told");
    }

    proptest! {
        #[test]
        fn all_come_once_and_each_conversation_in_order(
            shape in proptest::collection::vec((0_u8..4, prop_oneof![Just(60_usize), Just(1400), Just(40_000)]), 1..120)
        ) {
            let frames: Vec<_> =
                shape.iter().enumerate().map(|(number, (flow, len))| frame(*flow, number as u16, *len)).collect();
            let out = taken(&frames);
            prop_assert_eq!(out.len(), frames.len());
            for flow in 0..4 {
                let of = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    frames.iter().filter(|it| it[VNET_HEADER_LEN + 35] == flow).cloned().collect()
                };
                prop_assert!(of(&out) == of(&frames), "conversation {}", flow);
            }
        }
    }
}
