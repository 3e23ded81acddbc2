//! What the allocator says, held back until the state that it follows from is stored.
//!
//! ```text
//! state ──number──▶ Output::Keep ──▶ the driver stores it ──▶ Input::Kept ──▶ what was said after it is told, in order
//! ```
//! All else that the node says goes on meanwhile. While states cannot be stored the allocator rests, so that no more waits
//! here than it said before that was known.

use std::collections::VecDeque;

use crate::ipam::IpamOutput;

/// States handed out and not stored yet with which the allocator rests, however busy it is: a driver stores only the newest.
const UNSTORED_MAX: u64 = 64;

/// What waits, and for what.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// The number of the newest state.
    newest: u64,
    /// And of the newest one that is stored.
    stored: u64,
    /// Why the newest one could not be stored yet.
    obstacle: Option<String>,
    /// What was said, with the number of the newest state then.
    waiting: VecDeque<(u64, IpamOutput)>,
}

impl Withheld {
    /// There is a state to be stored; its number.
    pub(super) fn number(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// Something is said that follows from the newest state.
    pub(super) fn say(&mut self, output: IpamOutput) {
        self.waiting.push_back((self.newest, output));
    }

    /// The state of this number is stored, and with it all earlier ones; or it cannot be, for this reason.
    pub(super) fn kept(&mut self, number: u64, error: Option<String>) {
        if error.is_none() {
            self.stored = self.stored.max(number.min(self.newest));
        }
        self.obstacle = error;
    }

    /// The next thing that may be told.
    pub(super) fn poll(&mut self) -> Option<IpamOutput> {
        self.waiting.pop_front_if(|(number, _)| *number <= self.stored).map(|(_, output)| output)
    }

    /// Why states cannot be stored, in words.
    pub(super) fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// Whether no more is to be said for now.
    pub(super) fn is_full(&self) -> bool {
        self.obstacle.is_some() || self.newest - self.stored >= UNSTORED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PeerName;

    fn say(withheld: &mut Withheld, byte: u8) {
        withheld.say(IpamOutput::Forget(PeerName([byte; 6])));
    }

    fn told(withheld: &mut Withheld) -> Vec<u8> {
        std::iter::from_fn(|| withheld.poll())
            .map(|output| if let IpamOutput::Forget(peer) = output { peer.0[0] } else { 0 })
            .collect()
    }

    #[test]
    fn what_is_said_waits_for_the_states_before_it_and_for_no_later_one() {
        let mut withheld = Withheld::default();
        say(&mut withheld, 1);
        assert_eq!(told(&mut withheld), [1], "nothing is to be stored");
        assert_eq!(withheld.number(), 1);
        say(&mut withheld, 2);
        withheld.number();
        say(&mut withheld, 3);
        assert_eq!(told(&mut withheld), []);
        withheld.kept(1, None);
        assert_eq!(told(&mut withheld), [2]);
        withheld.number();
        say(&mut withheld, 4);
        withheld.kept(3, None);
        assert_eq!(told(&mut withheld), [3, 4], "the newest one says all that those before it said");
    }

    #[test]
    fn it_is_full_while_states_cannot_be_stored_or_are_not_for_long() {
        let mut withheld = Withheld::default();
        withheld.number();
        say(&mut withheld, 1);
        withheld.kept(1, Some("full".to_owned()));
        assert_eq!((told(&mut withheld), withheld.is_full(), withheld.obstacle()), (vec![], true, Some("full")));
        withheld.kept(1, None);
        assert_eq!((told(&mut withheld), withheld.is_full(), withheld.obstacle()), (vec![1], false, None));
        let numbers: Vec<u64> = (0..UNSTORED_MAX).map(|_| withheld.number()).collect();
        assert!(withheld.is_full());
        withheld.kept(numbers[0], None);
        assert!(!withheld.is_full());
    }
}
