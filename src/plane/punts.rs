//! What the node was told lately, so that it is told once and not with every frame.

use std::collections::HashSet;

use crate::{
    id::PeerName,
    switch::{answer::Sighting, quick_hash::QuickHash, table::STATIONS_MAX},
};

/// Things remembered of one tick. Beyond that nothing more is told until the next tick: a container that makes up addresses
/// must not keep the node busy.
const RECENT_MAX: usize = 4096;
/// Ticks after which a station that the node knows is mentioned again, for it forgets quiet ones: about 10 s.
const REFRESH_TICKS: u32 = 100;

/// Something to tell the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Subject {
    /// A station sent a frame.
    Station(Sighting),
    /// There is no session with a peer.
    SessionWanted(PeerName),
    /// Frames go to a peer by relays.
    StraightWanted(PeerName),
    /// The session with this index of ours is due for renewal.
    SessionWorn(u32),
}

/// What was told.
#[derive(Debug)]
pub(super) struct Punts {
    /// Since the last tick.
    recent: HashSet<Subject, QuickHash>,
    /// Stations told of since the last refresh.
    told: HashSet<Sighting, QuickHash>,
    ticks: u32,
}

impl Default for Punts {
    fn default() -> Self {
        let hash = QuickHash::default();
        let recent = HashSet::with_capacity_and_hasher(RECENT_MAX, hash);
        let told = HashSet::with_hasher(hash);
        Self { recent, told, ticks: 0 }
    }
}

impl Punts {
    /// Whether `subject` is to be told now; true once per tick.
    pub(super) fn is_due(&mut self, subject: Subject) -> bool {
        insert_bounded(&mut self.recent, RECENT_MAX, subject)
    }

    /// Whether a station is to be told of now: once per tick while the node does not know it, else once per refresh.
    pub(super) fn is_station_due(&mut self, sighting: Sighting, is_known: bool) -> bool {
        // One that was told already takes no room from those that were not.
        if is_known && self.told.contains(&sighting) {
            return false;
        }
        let is_first = self.is_due(Subject::Station(sighting));
        is_first && (insert_bounded(&mut self.told, STATIONS_MAX, sighting) || !is_known)
    }

    /// Another tick has passed.
    pub(super) fn tick(&mut self) {
        self.recent.clear();
        self.ticks = (self.ticks + 1) % REFRESH_TICKS;
        if self.ticks == 0 {
            self.told.clear();
        }
    }
}

fn insert_bounded<T: Eq + std::hash::Hash>(set: &mut HashSet<T, QuickHash>, most: usize, value: T) -> bool {
    (set.len() < most || set.contains(&value)) && set.insert(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Mac;

    fn station(number: u16) -> Sighting {
        let [high, low] = number.to_be_bytes();
        Sighting { mac: Mac([2, 0, 0, 0, high, low]), address: None }
    }

    #[test]
    fn an_unknown_station_is_told_every_tick_and_a_known_one_every_refresh() {
        let mut punts = Punts::default();
        let (mut unknown, mut known) = (0, 0);
        for _ in 0..2 * REFRESH_TICKS {
            for _ in 0..3 {
                unknown += u32::from(punts.is_station_due(station(1), false));
                known += u32::from(punts.is_station_due(station(2), true));
            }
            punts.tick();
        }
        assert_eq!((unknown, known), (2 * REFRESH_TICKS, 2));
    }

    #[test]
    fn made_up_stations_are_bounded() {
        let mut punts = Punts::default();
        let told = (0..u16::MAX).filter(|number| punts.is_station_due(station(*number), false)).count();
        assert_eq!(told, RECENT_MAX);
        punts.tick();
        assert!(punts.is_due(Subject::SessionWanted(PeerName([1; 6]))));
    }

    #[test]
    fn as_many_known_stations_as_a_bridge_may_have_are_each_told_once_in_a_refresh() {
        let mut punts = Punts::default();
        let mut told = 0;
        for _ in 0..REFRESH_TICKS {
            told += (0..STATIONS_MAX as u16).filter(|number| punts.is_station_due(station(*number), true)).count();
            punts.tick();
        }
        assert_eq!(told, STATIONS_MAX);
    }
}
