//! First frames to a peer: they wait a moment for the session that they asked for, so that none is lost to it.

use std::collections::VecDeque;

use crate::id::PeerName;

/// Frames that wait, and their bytes: a few first ones of each of some peers. What is more is dropped as without a session.
const FRAMES_MAX: usize = 128;
const BYTES_MAX: usize = 256 * 1024;
/// Ticks that a frame waits, about two seconds: a handshake by relays takes two round trips.
const TICKS_MAX: u8 = 20;

/// Frames that wait.
#[derive(Debug, Default)]
pub(super) struct Held {
    frames: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    peer: PeerName,
    frame: Vec<u8>,
    ticks: u8,
}

impl Held {
    /// Keeps a copy of a frame for `peer`; false if there is no room.
    pub(super) fn keep(&mut self, peer: PeerName, frame: &[u8]) -> bool {
        let has_room = self.frames.len() < FRAMES_MAX && self.bytes + frame.len() <= BYTES_MAX;
        if has_room {
            self.bytes += frame.len();
            self.frames.push_back(Waiting { peer, frame: frame.to_vec(), ticks: 0 });
        }
        has_room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes out what waits for a peer that `is_ready`, in its order.
    pub(super) fn take(&mut self, is_ready: impl Fn(PeerName) -> bool) -> Vec<Vec<u8>> {
        let (ready, rest) = std::mem::take(&mut self.frames).into_iter().partition(|waiting| is_ready(waiting.peer));
        self.frames = rest;
        let ready: VecDeque<Waiting> = ready;
        self.bytes -= ready.iter().map(|waiting| waiting.frame.len()).sum::<usize>();
        ready.into_iter().map(|waiting| waiting.frame).collect()
    }

    /// Another tick has passed; how many frames waited in vain.
    pub(super) fn tick(&mut self) -> usize {
        let before = self.frames.len();
        for waiting in &mut self.frames {
            waiting.ticks += 1;
        }
        self.frames.retain(|waiting| waiting.ticks < TICKS_MAX);
        self.bytes = self.frames.iter().map(|waiting| waiting.frame.len()).sum();
        before - self.frames.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_in_order_when_their_peer_is_ready_and_not_after_two_seconds() {
        let (a, b) = (PeerName([1; 6]), PeerName([2; 6]));
        let mut held = Held::default();
        for (peer, byte) in [(a, 1), (b, 2), (a, 3)] {
            assert!(held.keep(peer, &[byte]));
        }
        assert_eq!(held.take(|peer| peer == a), [[1], [3]]);
        assert_eq!((1..TICKS_MAX).map(|_| held.tick()).sum::<usize>(), 0);
        assert_eq!((held.tick(), held.is_empty()), (1, true));
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_size() {
        let mut held = Held::default();
        assert_eq!((0..1000).filter(|_| held.keep(PeerName([1; 6]), &[0; 60])).count(), FRAMES_MAX);
        held.take(|_| true);
        assert_eq!((0..1000).filter(|_| held.keep(PeerName([1; 6]), &[0; 9000])).count(), BYTES_MAX / 9000);
    }
}
