//! Which further ways flows to a peer are spread over, where frames go by relays and other relays are as good: a way joins when it
//! has cost nearly as little as the chosen one for a while, stays as long as it costs not much more, and leaves at once when it is
//! none any more. Who leaves again and again must last longer each time, as each time some flows move.
//!
//! ```text
//!  far ──near──▶ near since … ──lasted──▶ in
//!   ▲              │ not near              │ far, or no path
//!   └──────────────┴───────────────────────┘
//! ```

use std::{collections::BTreeMap, time::Duration};

use crate::{id::PeerName, time::Time};

/// Ways in all, the chosen one included: the fifth would take little, as each of four has 25 % of the flows and each of five 20 %.
const WAYS_MAX: usize = 4;
/// How long a way must have been near before it joins, as for a better path.
const JOINS_AFTER: Duration = Duration::from_secs(3);
/// A way that left must last twice as long, at most eight times as long; each such span since then halves that.
const CALM: Duration = Duration::from_secs(120);
const FLAPS_MAX: u32 = 3;
/// Frames went to the peer no longer ago than this; else nothing is reckoned for it.
const USED_WITHIN: Duration = Duration::from_secs(60);

/// How far a way may be from the chosen one.
struct Within {
    /// What it may cost more: the larger of this and that part of the cost of the chosen one.
    cost: Duration,
    part: u32,
    /// How far their round-trip times may be apart. All ways share one session, and so one replay window: 8192 packets, which come
    /// in 40 ms if there are 200 000 a second. Two ways in use differ by twice this at most, and that leaves half of the window for queues.
    rtt: Duration,
}

/// To join: what is as good as can be told. 1 ms, as 5 % are less than that between near hosts, where a relay's 10 ms is most of the cost.
const JOINS: Within = Within { cost: Duration::from_millis(1), part: 20, rtt: Duration::from_millis(5) };
/// To stay: less than what the selector changes a path for.
const STAYS: Within = Within { cost: Duration::from_millis(5), part: 10, rtt: Duration::from_millis(10) };

/// A way by relays that exists now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rated {
    pub(super) relays: Vec<PeerName>,
    pub(super) cost: Duration,
    pub(super) rtt: Duration,
    /// The largest UDP payload that every link of it carries.
    pub(super) payload_max: usize,
}

impl Within {
    /// Whether flows can go by `way` as well as by `chosen`: none shall be cut smaller for it, or take more relays.
    fn admits(&self, way: &Rated, chosen: &Rated) -> bool {
        way.relays.len() == chosen.relays.len()
            && way.payload_max >= chosen.payload_max
            && way.cost <= chosen.cost + self.cost.max(chosen.cost / self.part)
            && way.rtt.abs_diff(chosen.rtt) <= self.rtt
    }
}

/// How a way stands that is not the chosen one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Not near, but it left a while ago.
    Far,
    Near {
        since: Time,
    },
    /// Flows go by it.
    In,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    standing: Standing,
    left_at: Time,
    flaps: u32,
}

impl Other {
    fn new(standing: Standing) -> Self {
        Self { standing, left_at: Time::ZERO, flaps: 0 }
    }

    fn flaps_now(&self, now: Time) -> u32 {
        let calm = now.since(self.left_at).as_secs() / CALM.as_secs();
        self.flaps.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX))
    }

    fn joins_at(&self, now: Time) -> Option<Time> {
        match self.standing {
            Standing::Near { since } => Some(since + JOINS_AFTER * 2_u32.pow(self.flaps_now(now))),
            Standing::Far | Standing::In => None,
        }
    }

    fn leave(&mut self, now: Time) {
        self.flaps = (self.flaps_now(now) + 1).min(FLAPS_MAX);
        (self.standing, self.left_at) = (Standing::Far, now);
    }
}

/// The further ways to one peer that frames go to by relays.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    used_at: Time,
    chosen: Vec<PeerName>,
    others: BTreeMap<Vec<PeerName>, Other>,
}

impl Spread {
    /// Frames go to the peer, by the chosen way only.
    pub(super) fn new(now: Time) -> Self {
        Self { used_at: now, chosen: Vec::new(), others: BTreeMap::new() }
    }

    /// Frames go to the peer.
    pub(super) fn used(&mut self, now: Time) {
        self.used_at = now;
    }

    /// Whether any did of late.
    pub(super) fn is_used(&self, now: Time) -> bool {
        now.since(self.used_at) < USED_WITHIN
    }

    /// The ways that flows are spread over beside the chosen one, in the order of their relays' names.
    pub(super) fn further(&self) -> impl Iterator<Item = &[PeerName]> {
        self.others.iter().filter(|(_, other)| other.standing == Standing::In).map(|(relays, _)| &relays[..])
    }

    /// When the next way joins, if it stays near.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        let has_room = self.further().count() + 1 < WAYS_MAX;
        self.others.values().filter(|_| has_room).filter_map(|other| other.joins_at(now)).min()
    }

    /// Looks at the ways that there are now, the best first, those in use among them if they still are ways; `chosen` is None if that
    /// is no way by relays. Returns whether other ways are in use than before.
    pub(super) fn update(&mut self, chosen: Option<&Rated>, ways: &[Rated], now: Time) -> bool {
        let before: Vec<Vec<PeerName>> = self.further().map(<[_]>::to_vec).collect();
        match chosen {
            Some(chosen) => {
                self.follow(chosen);
                self.part(chosen, ways, now);
                self.join(chosen, ways, now);
            }
            None => *self = Self::new(self.used_at),
        }
        before.iter().map(Vec::as_slice).ne(self.further())
    }

    /// Flows went by the one that was chosen before, and may go on.
    fn follow(&mut self, chosen: &Rated) {
        if self.chosen != chosen.relays {
            let left = std::mem::replace(&mut self.chosen, chosen.relays.clone());
            if !left.is_empty() {
                self.others.insert(left, Other::new(Standing::In));
            }
            self.others.remove(&chosen.relays);
        }
    }

    fn part(&mut self, chosen: &Rated, ways: &[Rated], now: Time) {
        for (relays, other) in &mut self.others {
            let way = ways.iter().find(|way| way.relays == *relays);
            let is_within = |within: &Within| way.is_some_and(|way| within.admits(way, chosen));
            match other.standing {
                Standing::In if !is_within(&STAYS) => other.leave(now),
                Standing::Near { .. } if !is_within(&JOINS) => other.standing = Standing::Far,
                Standing::In | Standing::Near { .. } | Standing::Far => {}
            }
        }
        // One too many when all places were taken and another way was chosen.
        if self.further().count() >= WAYS_MAX {
            let is_in = |way: &&Rated| self.others.get(&way.relays).is_some_and(|o| o.standing == Standing::In);
            if let Some(worst) = ways.iter().rev().find(is_in) {
                self.others.remove(&worst.relays);
            }
        }
        self.others.retain(|_, other| other.standing != Standing::Far || other.flaps_now(now) > 0);
    }

    fn join(&mut self, chosen: &Rated, ways: &[Rated], now: Time) {
        let mut room = (WAYS_MAX - 1).saturating_sub(self.further().count());
        for way in ways.iter().filter(|way| way.relays != chosen.relays && JOINS.admits(way, chosen)) {
            let other = self.others.entry(way.relays.clone()).or_insert(Other::new(Standing::Far));
            if other.standing == Standing::Far {
                other.standing = Standing::Near { since: now };
            }
            if room > 0 && other.joins_at(now).is_some_and(|at| at <= now) {
                other.standing = Standing::In;
                room -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::replay::ReplayWindow;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// A way by one relay.
    fn way(relay: u8, cost_ms: u64) -> Rated {
        Rated {
            relays: vec![PeerName([relay; 6])],
            cost: Duration::from_millis(cost_ms),
            rtt: Duration::from_millis(20),
            payload_max: 1400,
        }
    }

    /// The further ways of a spread by their relays, each named by one byte.
    fn further(spread: &Spread) -> Vec<u8> {
        spread.further().map(|relays| relays[0].0[0]).collect()
    }

    /// A spread over relay 1, which is chosen and costs 40 ms, and these.
    fn over(others: &[u8]) -> Spread {
        let mut spread = Spread::new(at(0));
        let ways: Vec<Rated> = [1].iter().chain(others).map(|relay| way(*relay, 40)).collect();
        spread.update(Some(&ways[0]), &ways, at(0));
        assert_eq!(spread.deadline(at(0)), Some(at(3000)));
        spread.update(Some(&ways[0]), &ways, at(3000));
        spread
    }

    #[test]
    fn a_way_that_costs_as_much_joins_when_that_has_lasted_and_leaves_at_once() {
        let mut spread = Spread::new(at(0));
        let ways = [way(1, 40), way(2, 42), way(3, 43)];
        assert!(!spread.update(Some(&ways[0]), &ways, at(0)));
        assert_eq!(spread.deadline(at(0)), Some(at(3000)));
        assert!(!spread.update(Some(&ways[0]), &ways, at(2999)));
        assert!(spread.update(Some(&ways[0]), &ways, at(3000)));
        assert_eq!((further(&spread), spread.deadline(at(3000))), (vec![2], None));
        assert!(spread.update(Some(&ways[0]), &ways[..1], at(3050)), "it is no way any more");
        assert_eq!(further(&spread), []);
    }

    #[test]
    fn one_that_was_far_for_a_moment_must_last_anew() {
        let mut spread = Spread::new(at(0));
        let (near, far) = ([way(1, 40), way(2, 40)], [way(1, 40), way(2, 50)]);
        spread.update(Some(&near[0]), &near, at(0));
        spread.update(Some(&near[0]), &far, at(2000));
        assert_eq!(spread.deadline(at(2000)), None);
        spread.update(Some(&near[0]), &near, at(2100));
        assert!(!spread.update(Some(&near[0]), &near, at(5000)));
        assert!(spread.update(Some(&near[0]), &near, at(5100)));
    }

    #[test]
    fn a_way_in_use_stays_until_it_costs_clearly_more() {
        let mut spread = over(&[2]);
        for (cost, stays) in [(45, true), (35, true), (46, false)] {
            let ways = [way(1, 40), way(2, cost)];
            spread.update(Some(&ways[0]), &ways, at(4000));
            assert_eq!(further(&spread), if stays { vec![2] } else { vec![] }, "{cost}");
        }
        let mut spread = over(&[2]);
        let mut ways = [way(1, 200), way(2, 220)];
        assert!(!spread.update(Some(&ways[0]), &ways, at(4000)), "a tenth");
        ways[1].cost += Duration::from_millis(1);
        assert!(spread.update(Some(&ways[0]), &ways, at(4000)));
    }

    #[test]
    fn there_are_four_at_most_and_none_is_put_out_for_another_as_good() {
        let mut spread = over(&[2, 3, 4, 5, 6]);
        assert_eq!((further(&spread), spread.deadline(at(3000))), (vec![2, 3, 4], None));
        let ways = [way(5, 39), way(6, 39), way(1, 40), way(2, 40), way(3, 40), way(4, 40)];
        assert!(!spread.update(Some(&ways[2]), &ways, at(9000)));
        // Chosen now, 5 takes the place of the worst.
        assert!(spread.update(Some(&ways[0]), &ways, at(9100)));
        assert_eq!(further(&spread), [1, 2, 3]);
        // Where one leaves, another joins that has been near all the time.
        assert!(spread.update(Some(&ways[0]), &ways[..4], at(9200)));
        assert_eq!(further(&spread), [1, 2, 6]);
    }

    #[test]
    fn another_choice_among_those_in_use_moves_no_flow() {
        let mut spread = over(&[2]);
        let ways = [way(2, 37), way(1, 40)];
        assert!(spread.update(Some(&ways[0]), &ways, at(4000)), "the one chosen is told apart");
        assert_eq!(further(&spread), [1]);
    }

    #[test]
    fn what_takes_more_relays_passes_less_or_takes_another_time_does_not_join() {
        let chosen = way(1, 40);
        let mut longer = way(2, 40);
        longer.relays.push(PeerName([9; 6]));
        let narrow = Rated { payload_max: 1399, ..way(3, 40) };
        let slow = Rated { rtt: Duration::from_millis(26), ..way(4, 40) };
        let ways = [chosen, longer, narrow, slow];
        let mut spread = Spread::new(at(0));
        for second in 0..10 {
            assert!(!spread.update(Some(&ways[0]), &ways, at(second * 1000)));
        }
    }

    #[test]
    fn beside_a_direct_path_there_are_none() {
        let mut spread = over(&[2]);
        assert!(spread.update(None, &[], at(4000)));
        assert_eq!(further(&spread), []);
        // And it begins anew afterwards.
        let ways = [way(1, 40), way(2, 40)];
        assert!(!spread.update(Some(&ways[0]), &ways, at(5000)));
        assert!(!spread.update(Some(&ways[0]), &ways, at(7999)));
        assert!(spread.update(Some(&ways[0]), &ways, at(8000)));
    }

    #[test]
    fn a_way_that_flaps_waits_longer_each_time_and_less_when_it_has_been_calm() {
        let mut spread = over(&[2]);
        let ways = [way(1, 40), way(2, 40)];
        let mut now = at(4000);
        let mut wait = |now: &mut Time| {
            spread.update(Some(&ways[0]), &ways[..1], *now);
            let left = *now;
            while !spread.update(Some(&ways[0]), &ways, *now) {
                *now = *now + Duration::from_millis(500);
            }
            now.since(left).as_secs()
        };
        let mut waits: Vec<u64> = (0..5).map(|_| wait(&mut now)).collect();
        now = now + CALM * 4;
        waits.push(wait(&mut now));
        assert_eq!(waits, [6, 12, 24, 24, 24, 6]);
    }

    /// The worst that may be in use: of two ways one is as much faster than the chosen one as the other is slower.
    #[test]
    fn no_way_in_use_is_so_late_that_the_replay_window_drops_its_packets() {
        const PACKETS_A_SECOND: u64 = 200_000;
        let late = u64::try_from((STAYS.rtt * 2).as_micros()).unwrap() * PACKETS_A_SECOND / 1_000_000;
        // Even packets go by the slow way, odd ones by the fast one.
        let window = ReplayWindow::default();
        for arrives in 0..PACKETS_A_SECOND {
            let sent = if arrives % 2 == 0 { arrives.checked_sub(late) } else { Some(arrives) };
            assert!(sent.is_none_or(|counter| window.accept(counter)), "{arrives}");
        }
        assert_eq!(late, 4000, "half of the window");
    }

    #[test]
    fn nothing_is_reckoned_for_whom_nothing_is_sent_to() {
        let mut spread = Spread::new(at(0));
        assert!(spread.is_used(at(59_000)) && !spread.is_used(at(60_000)));
        spread.used(at(59_000));
        assert!(spread.is_used(at(60_000)));
    }
}
