//! What the data plane leaves to the node: a bounded way from the worker threads to the control task.

use tokio::sync::mpsc;
use weft::{
    drops::{Drop, DropCounts},
    node::input::Input,
};

/// Inputs that may wait for the control task. Beyond that new ones are dropped and counted (`queue_full`): all of them
/// are repeated by whoever sent them, and a flood must cost no memory.
pub const PUNTS_MAX: usize = 1024;

/// Both ends of the way.
pub fn channel() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
    mpsc::channel(PUNTS_MAX)
}

/// Hands `input` over, or counts that it could not be.
pub(super) fn offer(punts: &mpsc::Sender<Input>, input: Input, drops: &mut DropCounts) {
    if punts.try_send(input).is_err() {
        drops.count(Drop::QueueFull);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_drops_and_counts() {
        let (punts, waiting) = channel();
        let mut drops = DropCounts::default();
        for _ in 0..PUNTS_MAX + 3 {
            offer(&punts, Input::Timeout, &mut drops);
        }
        assert_eq!(waiting.len(), PUNTS_MAX);
        assert_eq!(drops.iter().collect::<Vec<_>>(), [(Drop::QueueFull, 3)]);
    }
}
