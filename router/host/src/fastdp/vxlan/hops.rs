//! Groups of next hops: what spreads the packets to one host over its lanes.
//!
//! ```text
//!   a station's line ── host                       its route, and with it a lane, is looked up once and remembered
//!   a station's line ── group ── next hop ── host  for each packet: so each flow has a lane of its own
//! ```
//! Only hosts with several lanes have a group, of one next hop; the others pay for no looking up. Numbers say whose they are: the upper
//! half is the bridge's, the next hop is even, its group the odd one after it. A kernel without them goes by one lane.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nix::errno::Errno;

use crate::{
    error::HostError,
    fdb::{Change, Fdb, Hop, HopKind},
};

/// What a kernel says that has no next hops (before 5.3), or none for forwarding tables (before 5.8).
const UNKNOWN: [Errno; 2] = [Errno::EOPNOTSUPP, Errno::EINVAL];
/// Far from where the kernel and routing daemons begin to count.
const FIRST: u32 = 1 << 31;
/// Numbers of one bridge.
const COUNT: u32 = 1 << 16;

/// The groups by their hosts.
pub(super) type Groups = BTreeMap<IpAddr, u32>;

/// The next hops of one bridge.
#[derive(Debug)]
pub(super) struct Hops {
    pub(super) first: u32,
    groups: Groups,
    /// Ours that lead nowhere: whoever made them was killed before he was done.
    strays: Vec<u32>,
    /// All numbers in use between ours, also somebody else's.
    taken: BTreeSet<u32>,
    /// The kernel knows none.
    pub(super) unknown: bool,
}

impl Hops {
    pub(super) fn new(bridge: &str) -> Self {
        // FNV-1a: other bridges of a host shall differ, no more.
        let hash =
            bridge.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let first = FIRST | (((hash ^ (hash >> 16)) & 0x7fff) * COUNT);
        Self { first, groups: Groups::new(), strays: Vec::new(), taken: BTreeSet::new(), unknown: false }
    }

    /// Reads what the kernel has.
    pub(super) fn look(&mut self, fdb: &mut Fdb) -> Result<(), HostError> {
        if self.unknown {
            return Ok(());
        }
        match fdb.hops() {
            Err(error) if error.is_errno(&UNKNOWN) => self.unknown = true,
            hops => self.found(&hops?),
        }
        Ok(())
    }

    fn found(&mut self, hops: &[Hop]) {
        let ours = || hops.iter().filter(|hop| (self.first..self.first + COUNT).contains(&hop.id));
        let host = |hop: &Hop| match hop.kind {
            HopKind::Host(host) => Some((hop.id, host)),
            HopKind::Group(_) | HopKind::Odd | HopKind::Foreign => None,
        };
        let hosts: BTreeMap<u32, IpAddr> = ours().filter_map(host).collect();
        let group = |hop: &Hop| match hop.kind {
            HopKind::Group(member) if hop.id == group_of(member) => Some((*hosts.get(&member)?, hop.id)),
            HopKind::Host(_) | HopKind::Group(_) | HopKind::Odd | HopKind::Foreign => None,
        };
        let groups: Groups = ours().filter_map(group).collect();
        let known: BTreeSet<u32> = groups.values().flat_map(|&group| [group, member_of(group)]).collect();
        let is_stray = |hop: &&Hop| hop.kind != HopKind::Foreign && !known.contains(&hop.id);
        self.strays = ours().filter(is_stray).map(|hop| hop.id).collect();
        self.taken = ours().map(|hop| hop.id).collect();
        self.groups = groups;
    }

    /// The groups that there are.
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The hosts that the groups lead to.
    pub(super) fn hosts(&self) -> BTreeMap<u32, IpAddr> {
        self.groups.iter().map(|(&host, &group)| (group, host)).collect()
    }

    /// Makes groups for these hosts, if the kernel lets us. Answers with how many messages that took.
    pub(super) fn make(&mut self, hosts: &BTreeSet<IpAddr>, fdb: &mut Fdb) -> Result<usize, HostError> {
        if self.unknown {
            return Ok(0);
        }
        let missing = hosts.iter().filter(|host| !self.groups.contains_key(host));
        let free = (self.first..self.first + COUNT).step_by(2).filter(|id| !self.taken.contains(id));
        let free = free.filter(|&id| !self.taken.contains(&group_of(id)));
        let made: Vec<(IpAddr, u32)> = missing.copied().zip(free).collect();
        let hops = made.iter().flat_map(|&(host, id)| {
            [(id, HopKind::Host(host)), (group_of(id), HopKind::Group(id))].map(|(id, kind)| Hop { id, kind })
        });
        let changes: Vec<Change> = hops.map(Change::PutHop).collect();
        let failed = fdb.change(&changes)?;
        for (position, (host, id)) in (0..).step_by(2).zip(made) {
            self.taken.extend([id, group_of(id)]);
            match failed.get(&position).or_else(|| failed.get(&(position + 1))) {
                None => drop(self.groups.insert(host, group_of(id))),
                Some(errno) => {
                    self.unknown |= UNKNOWN.contains(errno);
                    tracing::debug!(%host, %errno, "no next hop in the kernel: packets go by one lane");
                }
            }
        }
        Ok(changes.len() - failed.len())
    }

    /// Removes what none of these hosts needs. No line may lead there any more. Answers with how many messages that took.
    pub(super) fn retain(&mut self, hosts: &BTreeSet<IpAddr>, fdb: &mut Fdb) -> Result<usize, HostError> {
        let unused = self.groups.extract_if(.., |host, _| !hosts.contains(host));
        let unused = unused.flat_map(|(_, group)| [group, member_of(group)]);
        let ids: Vec<u32> = unused.chain(std::mem::take(&mut self.strays)).collect();
        let changes: Vec<Change> = ids.iter().copied().map(Change::RemoveHop).collect();
        self.taken.retain(|id| !ids.contains(id));
        // With its last member a group goes by itself. What stays in spite of all is found at the next look.
        fdb.change(&changes).map(|failed| changes.len() - failed.len())
    }
}

/// Removes those of a bridge.
pub(super) fn remove(bridge: &str) -> Result<(), HostError> {
    let mut fdb = Fdb::open()?;
    let mut hops = Hops::new(bridge);
    hops.look(&mut fdb)?;
    hops.retain(&BTreeSet::new(), &mut fdb).map(drop)
}

fn group_of(member: u32) -> u32 {
    member | 1
}

fn member_of(group: u32) -> u32 {
    group & !1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_apart() {
        let mut hops = Hops::new("weft");
        let first = hops.first;
        let [one, two]: [IpAddr; 2] = ["10.0.0.1", "fd00::2"].map(|host| host.parse().unwrap());
        let hop = |number: u32, kind| Hop { id: first + number, kind };
        hops.found(&[
            hop(0, HopKind::Host(one)),
            hop(1, HopKind::Group(first)),
            hop(2, HopKind::Host(two)),
            hop(5, HopKind::Group(first)),
            hop(6, HopKind::Foreign),
            hop(9, HopKind::Odd),
            Hop { id: 8, kind: HopKind::Group(7) },
        ]);
        assert_eq!(hops.groups(), &Groups::from([(one, first + 1)]));
        assert_eq!(hops.strays, [first + 2, first + 5, first + 9]);
        assert_eq!(hops.taken.len(), 6);
    }

    #[test]
    fn bridges_have_their_own() {
        let firsts = ["weft", "weft2", "w", "wetf"].map(|bridge| Hops::new(bridge).first);
        assert!(firsts.iter().all(|first| first % COUNT == 0 && first & FIRST != 0), "{firsts:x?}");
        assert_eq!(BTreeSet::from(firsts).len(), firsts.len());
        // Of all versions the same: a successor looks there.
        assert_eq!(firsts[0], 0x98c6_0000);
    }
}
