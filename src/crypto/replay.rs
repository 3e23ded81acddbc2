//! Which packet numbers of a session were seen: each is accepted once, too old ones never. Without locks.
//!
//! The window is a ring of slots. A slot holds 32 packets' bits and the number of the block that they belong to, in one
//! atomic word, so a slot only ever moves on to a newer block, and a bit within a block is set once. No shared "highest
//! number" is needed: a number is too old when its slot already belongs to a newer block.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Slots of 32 packets: 8192 packets may be overtaken, about 10 ms of the fastest link reordered at will.
const SLOTS: usize = 256;
/// Packet numbers beyond this are refused: block numbers have 32 bits.
pub const COUNTER_MAX: u64 = (1 << 36) - 1;

/// The window of one direction of one session.
#[derive(Debug, Default)]
pub struct ReplayWindow(Box<Seen>);

/// In a place of its own in memory, away from what is written to when packets are sealed.
#[derive(Debug)]
struct Seen {
    slots: [AtomicU64; SLOTS],
    accepted: AtomicU64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { slots: [const { AtomicU64::new(0) }; SLOTS], accepted: AtomicU64::new(0) }
    }
}

impl ReplayWindow {
    /// Whether `counter` could be accepted; a cheap look before the packet is opened.
    pub fn is_fresh(&self, counter: u64) -> bool {
        let Some((slot, block, bit)) = self.place(counter) else { return false };
        let seen = slot.load(Relaxed);
        seen >> 32 < block || (seen >> 32 == block && seen & bit == 0)
    }

    /// Marks `counter` as seen; false if it was before, or is too old. To be called only for authentic packets.
    pub fn accept(&self, counter: u64) -> bool {
        let Some((slot, block, bit)) = self.place(counter) else { return false };
        let updated = slot.fetch_update(Relaxed, Relaxed, |seen| match (seen >> 32).cmp(&block) {
            std::cmp::Ordering::Less => Some(block << 32 | bit),
            std::cmp::Ordering::Equal if seen & bit == 0 => Some(seen | bit),
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => None,
        });
        let is_new = updated.is_ok();
        self.0.accepted.fetch_add(u64::from(is_new), Relaxed);
        is_new
    }

    /// How many were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Relaxed)
    }

    fn place(&self, counter: u64) -> Option<(&AtomicU64, u64, u64)> {
        if counter > COUNTER_MAX {
            return None;
        }
        let block = counter / 32;
        let slot = self.0.slots.get(usize::try_from(block).ok()? % SLOTS)?;
        Some((slot, block, 1 << (counter % 32)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SPAN: u64 = SLOTS as u64 * 32;

    proptest! {
        #[test]
        fn a_number_is_accepted_at_most_once(counters in proptest::collection::vec(0..3 * SPAN, 1..2000)) {
            let window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            for counter in counters {
                let fresh = window.is_fresh(counter);
                let accepted = window.accept(counter);
                prop_assert_eq!(fresh, accepted);
                let newest = seen.last().copied().unwrap_or(0);
                if accepted {
                    prop_assert!(seen.insert(counter), "{} twice", counter);
                } else {
                    prop_assert!(seen.contains(&counter) || counter + SPAN - 32 <= newest, "{} lost, newest {}", counter, newest);
                }
            }
        }
    }

    #[test]
    fn many_threads_accept_each_number_once() {
        let window = ReplayWindow::default();
        let accepted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for counter in 0..SPAN {
                        accepted.fetch_add(u64::from(window.accept(counter)), Relaxed);
                    }
                });
            }
        });
        assert_eq!((accepted.into_inner(), window.accepted()), (SPAN, SPAN));
    }

    #[test]
    fn numbers_beyond_the_limit_are_refused() {
        assert!(!ReplayWindow::default().accept(COUNTER_MAX + 1));
        assert!(ReplayWindow::default().accept(COUNTER_MAX));
    }
}
