//! Which container an address is of, so that one that is started again within a short time gets its own back.
//!
//! The engine asks for addresses without a word for whom, and gives them back whenever a container stops. So an address given back is
//! kept for a while, and the next request in its pool gets it if it seems to come from the same container: it ended a moment ago, is
//! not removed, and no container that was just made waits for its first address. A wrong guess gives a container the address of one
//! that has stopped, never one that another has: each address kept is given to one request only.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

/// How long an address is kept for a container that may come back.
pub(crate) const KEEP: Duration = Duration::from_secs(30);
/// Most addresses and containers remembered: more than an engine has. Beyond it nothing is remembered, so nothing comes back.
const REMEMBERED_MAX: usize = 65536;

/// What is known of addresses and containers.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// Who is told to the router to have an address in use.
    owners: BTreeMap<IpAddr, String>,
    /// Addresses given back, with their owners, since when.
    resting: BTreeMap<IpAddr, (String, Instant)>,
    /// The container that had an address last.
    users: BTreeMap<IpAddr, String>,
    /// Containers that were made and not started yet.
    fresh: BTreeMap<String, Instant>,
}

impl Leases {
    /// An address is in use.
    pub(crate) fn take(&mut self, address: IpAddr, owner: String) {
        self.resting.remove(&address);
        if self.owners.len() < REMEMBERED_MAX {
            self.owners.insert(address, owner);
        }
    }

    /// Who has an address, as the router was told.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&String> {
        self.owners.get(&address)
    }

    /// An address was given back and is kept for its owner.
    pub(crate) fn rest(&mut self, address: IpAddr, owner: String, now: Instant) {
        self.forget_old(now);
        self.owners.remove(&address);
        self.resting.insert(address, (owner, now));
    }

    /// The owner that a request in this pool should ask as, if it seems to come from a container that was there a moment ago.
    pub(crate) fn returning(&mut self, pool: &IpNet, now: Instant) -> Option<String> {
        self.forget_old(now);
        if !self.fresh.is_empty() {
            return None;
        }
        let known =
            self.resting.iter().filter(|(address, _)| pool.contains(*address) && self.users.contains_key(address));
        let last = known.max_by_key(|(_, (_, since))| *since).map(|(address, _)| *address)?;
        self.resting.remove(&last).map(|(owner, _)| owner)
    }

    /// The owner for which an address is kept, for whoever asks for this very one.
    pub(crate) fn kept_for(&mut self, address: IpAddr) -> Option<String> {
        self.resting.remove(&address).map(|(owner, _)| owner)
    }

    /// A container was made.
    pub(crate) fn made(&mut self, container: &str, now: Instant) {
        self.forget_old(now);
        if self.fresh.len() < REMEMBERED_MAX {
            self.fresh.insert(container.to_owned(), now);
        }
    }

    /// A container runs and has these addresses.
    pub(crate) fn runs(&mut self, container: &str, addresses: &[IpAddr]) {
        self.fresh.remove(container);
        if self.users.len() < REMEMBERED_MAX {
            self.users.extend(addresses.iter().map(|address| (*address, container.to_owned())));
        }
    }

    /// A container was removed: these addresses need not be kept for these owners any longer.
    pub(crate) fn removed(&mut self, container: &str) -> Vec<(IpAddr, String)> {
        self.fresh.remove(container);
        let had: Vec<IpAddr> =
            self.users.iter().filter(|(_, by)| *by == container).map(|(address, _)| *address).collect();
        had.iter().for_each(|address| drop(self.users.remove(address)));
        had.into_iter().filter_map(|address| Some((address, self.resting.remove(&address)?.0))).collect()
    }

    fn forget_old(&mut self, now: Instant) {
        let is_new = |since: &Instant| now.saturating_duration_since(*since) < KEEP;
        self.fresh.retain(|_, since| is_new(since));
        let (resting, users) = (&mut self.resting, &mut self.users);
        resting.retain(|address, (_, since)| {
            let kept = is_new(since);
            if !kept {
                users.remove(address);
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 32, 0, last])
    }

    fn pool() -> IpNet {
        "10.32.0.0/24".parse().unwrap()
    }

    /// A container that had an address and has stopped.
    fn stopped(leases: &mut Leases, container: &str, last: u8, now: Instant) {
        leases.take(ip(last), format!("owner-{container}"));
        leases.runs(container, &[ip(last)]);
        leases.rest(ip(last), format!("owner-{container}"), now);
    }

    #[test]
    fn a_container_started_again_gets_its_address_once() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        stopped(&mut leases, "a", 1, now);
        assert_eq!(leases.returning(&"10.33.0.0/24".parse().unwrap(), now), None, "another pool");
        assert_eq!(leases.returning(&pool(), now).as_deref(), Some("owner-a"));
        assert_eq!(leases.returning(&pool(), now), None);
    }

    #[test]
    fn of_several_the_last_to_stop_comes_first() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        stopped(&mut leases, "a", 1, now);
        stopped(&mut leases, "b", 2, now + Duration::from_secs(1));
        let later = now + Duration::from_secs(2);
        assert_eq!(leases.returning(&pool(), later).as_deref(), Some("owner-b"));
        assert_eq!(leases.returning(&pool(), later).as_deref(), Some("owner-a"));
    }

    #[test]
    fn a_new_container_takes_no_other_ones_address() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        stopped(&mut leases, "a", 1, now);
        leases.made("b", now);
        assert_eq!(leases.returning(&pool(), now), None);
        leases.runs("b", &[ip(2)]);
        assert_eq!(leases.returning(&pool(), now).as_deref(), Some("owner-a"));
    }

    #[test]
    fn nothing_is_kept_for_a_container_that_was_removed_or_stays_away() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        stopped(&mut leases, "a", 1, now);
        stopped(&mut leases, "b", 2, now);
        assert_eq!(leases.removed("a"), [(ip(1), "owner-a".to_owned())]);
        assert_eq!(leases.removed("a"), []);
        assert_eq!(leases.returning(&pool(), now + KEEP), None);
        assert!(leases.users.is_empty() && leases.resting.is_empty());
    }

    #[test]
    fn who_asks_for_the_very_address_gets_it_from_its_owner() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        stopped(&mut leases, "a", 1, now);
        assert_eq!(leases.kept_for(ip(1)).as_deref(), Some("owner-a"));
        assert_eq!(leases.kept_for(ip(1)), None);
    }

    #[test]
    fn an_address_of_an_unknown_container_is_not_guessed_at() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        leases.take(ip(1), "owner".to_owned());
        leases.rest(ip(1), "owner".to_owned(), now);
        assert_eq!(leases.returning(&pool(), now), None);
    }
}
