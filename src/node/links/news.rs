//! How often everybody is told that costs of links moved.
//!
//! Whatever one node tells reaches all others, so what all nodes tell grows with their number, and the noise of their links with it.
//! Therefore each tells the less the more there are: in the whole mesh it is two records a second on average. A node has some to
//! spare at first, and the last of them are for what is much worse. What it knows of its own links it goes by at once.

use std::time::Duration;

use crate::{
    time::Time,
    topology::cost::{Move, Turn},
};

/// Between two records of one node, for each peer there is.
const INTERVAL_PER_PEER: Duration = Duration::from_millis(500);
/// Records that a node can tell one after the other, and how many of them if it is not urgent.
const BURST: u32 = 8;
const BURST_CALM: u32 = 4;
/// Moves in this time after another go into the same record, or almost: where one link gets worse others do.
const TOGETHER: Duration = Duration::from_millis(200);

/// What one node has told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Until when what was told is to be paid for.
    paid_at: Time,
    together_until: Time,
}

impl News {
    /// Whether this may be told now, in a mesh of so many peers.
    pub(super) fn take(&mut self, moved: Move, peers: usize, now: Time) -> bool {
        if now < self.together_until {
            return true;
        }
        let interval = INTERVAL_PER_PEER * u32::try_from(peers).unwrap_or(u32::MAX);
        let burst = if moved.turn == Turn::Worse && moved.is_much { BURST } else { BURST_CALM };
        if self.paid_at.since(now) > interval * (burst - 1) {
            return false;
        }
        self.paid_at = self.paid_at.max(now) + interval;
        self.together_until = now + TOGETHER;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URGENT: Move = Move { turn: Turn::Worse, is_much: true };
    const CALM: Move = Move { turn: Turn::Better, is_much: true };

    fn told_in(news: &mut News, moved: Move, peers: usize, from: u64, until: u64) -> usize {
        (from..until).filter(|second| news.take(moved, peers, Time::ZERO + Duration::from_secs(*second))).count()
    }

    #[test]
    fn the_more_peers_the_less_each_tells() {
        for peers in [10, 200, 1000] {
            let mut news = News::default();
            let all = told_in(&mut news, CALM, peers, 0, 20_000) * peers;
            let bound = 20_000 * 2 + peers * 4;
            assert!((bound - peers..=bound + peers).contains(&all), "{all} records of {peers} peers");
        }
    }

    #[test]
    fn some_are_kept_for_what_is_urgent() {
        let mut news = News::default();
        assert_eq!(told_in(&mut news, CALM, 200, 0, 20), 4);
        assert_eq!(told_in(&mut news, URGENT, 200, 20, 40), 4);
        assert_eq!(told_in(&mut news, URGENT, 200, 40, 60), 0);
    }

    #[test]
    fn what_comes_together_counts_once() {
        let mut news = News::default();
        for link in 0..100 {
            assert!(news.take(URGENT, 200, Time::ZERO + Duration::from_millis(link)));
        }
        assert_eq!(told_in(&mut news, URGENT, 200, 1, 20), 7);
    }
}
