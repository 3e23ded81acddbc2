//! ESP for the fast datapath: the security associations (states) and policies of the kernel's IPsec, XFRM, as a [`Plan`] wants them.
//!
//! ```text
//!   VXLAN ── UDP port P ──▶ policy out, by peer [and lane] ── names an SPI ──▶ state ── ESP ──▶ peer
//!   peer ── ESP, SPI ──▶ state ── UDP port P ──▶ policy in, by peer: came by a state of ours? ──▶ VXLAN
//! ```
//! - **Never in clear.** A policy of a sealed peer lets nothing out or in that is not sealed; while there are no keys it blocks. Behind
//!   the peers' policies stands the guard, which blocks our port for everybody. All of it stays when the router dies.
//! - **Never in place.** New keys are new states under new SPIs; an outbound policy names the SPI, so the switch to them is one
//!   message, and packets that are on their way keep their state. A set of keys that is gone is never installed again: its packet
//!   numbers would begin anew, and with them nonces and replays.
//! - **Never somebody else's.** Ours are states with our reqid and policies for UDP to our port with our priorities; all else is left
//!   alone. What an earlier router left is taken over as it is, and removed by [`Xfrm::settle`] when nobody asked for it.
//!
//! What it cannot prevent: a process of the host itself, in the router's namespace, that sends to our port at a peer has its packets
//! sealed, too. Such a process is trusted as the host is.
//!
//! Calls block, each for a bounded time. The counters of packets are the kernel's.

mod bytes;
mod encap;
mod kernel;
mod message;
mod report;
mod socket;
mod stat;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use weft::{
    fastdp::{Plan, SaKey, SaSet},
    id::PeerName,
};

pub use encap::EncapSocket;
pub use report::{Damage, Installed, LaneCount};
pub use stat::{XfrmCounter, XfrmCounters};

use crate::error::HostError;
use kernel::XfrmKernel;
use message::{Policy, Seen, Selector, StateId, Verdict, Way};
use stat::Stat;
use wanted::Direction;

/// After so many packets under a key it is worn: time for a new one, long before the kernel stops using it.
pub const WORN_PACKETS: u64 = 1 << 31;
/// After so many bytes a key is worn: 64 GiB, 2^32 blocks of AES, with a chance of 2^-65 to tell them from noise.
pub const WORN_BYTES: u64 = 64 << 30;
/// The states and policies of one network on this host.
pub struct Xfrm {
    kernel: XfrmKernel,
    states: BTreeMap<StateId, Have<Option<SaKey>>>,
    policies: BTreeMap<Selector, Have<Policy>>,
    plan: Plan,
    guarded: bool,
    settled: bool,
    /// Sets that receive and were told of, and the peers' addresses that they are bound to.
    tried: BTreeMap<StateId, Option<IpAddr>>,
    untold: Vec<Installed>,
    failures: BTreeMap<PeerName, String>,
    worn: BTreeSet<StateId>,
    stat: Stat,
}

/// Something of ours in the kernel.
struct Have<T> {
    what: T,
    since: Since,
}

/// How it came there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    /// An earlier router left it, and nobody has asked for it yet.
    Found,
    /// It was asked for.
    Asked,
    /// Somebody removed it, or the kernel did, when it had sealed all it may.
    Gone,
}

impl Xfrm {
    /// Opens the kernel's IPsec in the network namespace of the calling thread, for VXLAN on `port`, and looks what of ours is there.
    ///
    /// # Errors
    /// When the kernel has no XFRM, or does not let us.
    pub fn open(port: u16) -> Result<Self, HostError> {
        let mut kernel = XfrmKernel::open(port)?;
        let (states, policies) = (kernel.states()?, kernel.policies()?);
        Ok(Self {
            kernel,
            states: states.into_iter().map(|(id, key)| (id, Have::found(key))).collect(),
            policies: policies.into_iter().map(|(selector, policy)| (selector, Have::found(policy))).collect(),
            plan: Plan::default(),
            guarded: false,
            settled: false,
            tried: BTreeMap::new(),
            untold: Vec::new(),
            failures: BTreeMap::new(),
            worn: BTreeSet::new(),
            stat: Stat::open(),
        })
    }

    /// Whether this kernel can do what we need, shown by adding a state that takes nothing and removing it. Of IPv4: over IPv6 each set
    /// of states tells for itself.
    ///
    /// # Errors
    /// Why not, in words for people.
    pub fn ability(&mut self) -> Result<(), String> {
        self.kernel.ability()
    }

    /// Closes our port for all that no plan allows, in all directions, or opens it. It stays as it is when the router ends.
    ///
    /// # Errors
    /// When the kernel refuses; then it may not be closed, and there must be no VXLAN device.
    pub fn guard(&mut self, closed: bool) -> Result<(), HostError> {
        self.guarded = closed;
        self.reconcile_policies()
    }

    /// Makes the kernel have what the plan wants: first states that receive, then those that send, then policies; last goes what an
    /// earlier plan wanted and this one does not. Tells of each set that receives and was not told of before, or
    /// whose peer has moved since. What else did not work
    /// is in [`Xfrm::failures`].
    ///
    /// # Errors
    /// When the kernel does not answer. Nothing is lost with that: the next call goes on.
    pub fn apply(&mut self, plan: &Plan) -> Result<Vec<Installed>, HostError> {
        self.plan = plan.clone();
        self.failures.clear();
        for (peer, direction, set) in wanted::sets(plan) {
            match direction {
                Direction::Receive { .. } => self.receive(peer, direction, set)?,
                Direction::Send => {
                    if let Err(error) = self.install(direction, set)? {
                        self.failures.entry(peer).or_insert(error);
                    }
                }
                // Where it is gone, there is the newer one.
                Direction::SendBefore => drop(self.install(direction, set)?),
            }
        }
        self.reconcile_policies()?;
        self.remove_states()?;
        Ok(std::mem::take(&mut self.untold))
    }

    /// Removes what an earlier router left and nobody has asked for since.
    ///
    /// # Errors
    /// When the kernel does not answer; call it again.
    pub fn settle(&mut self) -> Result<(), HostError> {
        self.settled = true;
        self.reconcile_policies()?;
        self.remove_states()
    }

    /// Peers that nothing can be sent to although the plan has keys for them, and why.
    pub fn failures(&self) -> &BTreeMap<PeerName, String> {
        &self.failures
    }

    /// SPIs of lane 0 of sets that send and have sealed so much that new keys are due, or are gone; each is told once.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn worn(&mut self) -> Result<Vec<u32>, HostError> {
        let sets = wanted::sets(&self.plan).filter(|(_, direction, _)| *direction == Direction::Send);
        let ids: Vec<_> = sets.flat_map(|(_, _, set)| wanted::ids(set).map(|id| (base(set), id))).collect();
        let mut worn = Vec::new();
        for (base, id) in ids {
            if self.worn.contains(&base) || !self.states.contains_key(&id) {
                continue;
            }
            let seen = self.seen(id)?;
            if seen.is_none_or(|seen| seen.packets > WORN_PACKETS || seen.bytes > WORN_BYTES) {
                self.worn.insert(base);
                worn.push(base.spi);
            }
        }
        Ok(worn)
    }

    /// What each state of the plan has seen.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn lanes(&mut self) -> Result<Vec<LaneCount>, HostError> {
        let sets = wanted::sets(&self.plan);
        let ids: Vec<_> = sets
            .flat_map(|(peer, direction, set)| wanted::ids(set).map(move |id| (peer, direction.source().is_none(), id)))
            .collect();
        let mut lanes = Vec::new();
        for (peer, sends, id) in ids {
            if let Some(Seen { packets, bytes }) = self.seen(id)? {
                lanes.push(LaneCount { peer, sends, spi: id.spi, packets, bytes });
            }
        }
        Ok(lanes)
    }

    /// Packets that the kernel refused since the last look, by cause. A VPN of the host counts too.
    pub fn trouble(&mut self) -> XfrmCounters {
        self.stat.since()
    }

    /// Looks whether others changed what is ours (some IKE daemons remove all states and policies when they start), puts missing
    /// policies back, and tells which keys are lost.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn inspect(&mut self) -> Result<Damage, HostError> {
        let states = self.kernel.states()?;
        for (id, have) in &mut self.states {
            if !states.contains_key(id) {
                have.since = Since::Gone;
            }
        }
        let policies = self.kernel.policies()?;
        let before = self.policies.len();
        self.policies.retain(|selector, have| policies.get(selector) == Some(&have.what));
        let repaired = before - self.policies.len();
        for (selector, what) in policies {
            self.policies.entry(selector).or_insert(Have::found(what));
        }
        self.reconcile_policies()?;
        let is_gone = |id: StateId| self.states.get(&id).is_some_and(|have| have.since == Since::Gone);
        let is_lost = |set: &SaSet| wanted::ids(set).any(is_gone);
        let lost = wanted::sets(&self.plan).filter(|(_, _, set)| is_lost(set)).map(|(_, _, set)| set.spi).collect();
        Ok(Damage { repaired, lost })
    }

    /// Removes all that is ours, the guard last but for the states, which do nothing without policies.
    ///
    /// # Errors
    /// [`HostError::Incomplete`] with what could not be removed.
    pub fn remove(&mut self) -> Result<(), HostError> {
        (self.plan, self.guarded) = (Plan::default(), false);
        let mut errors = Vec::new();
        let mut policies: Vec<_> = self.kernel.policies()?.into_iter().collect();
        policies.sort_by_key(|(_, policy)| policy.priority);
        for (selector, _) in policies {
            errors.extend(self.kernel.delete_policy(selector).err());
        }
        for id in self.kernel.states()?.into_keys() {
            errors.extend(self.kernel.delete_state(id).err());
        }
        self.policies.clear();
        self.states.clear();
        if errors.is_empty() { Ok(()) } else { Err(HostError::Incomplete(errors)) }
    }

    /// Installs a set that receives, once, and tells of it.
    fn receive(&mut self, peer: PeerName, direction: Direction, set: &SaSet) -> Result<(), HostError> {
        let error = match self.tried.get(&base(set)) {
            Some(source) if *source == direction.source() => return Ok(()),
            // To bind it to another address would be to begin its window anew: what was recorded could be played again.
            Some(_) => Some("its peer has another address now: new keys are needed".to_owned()),
            None => self.install(direction, set)?.err(),
        };
        self.tried.insert(base(set), direction.source());
        self.untold.push(Installed { peer, spi: set.spi, error });
        Ok(())
    }

    /// Installs all states of a set, or none.
    fn install(&mut self, direction: Direction, set: &SaSet) -> Result<Result<(), String>, HostError> {
        let mut added = Vec::new();
        for (id, state) in wanted::states(set, direction.source()) {
            let error = match self.states.get_mut(&id) {
                Some(have) if have.since == Since::Gone => Some("its keys were in use before and are gone".to_owned()),
                Some(have) if have.has(&state.key) => {
                    have.since = Since::Asked;
                    None
                }
                Some(_) => Some(format!("SPI {:#x} to {} has another key", id.spi, id.destination)),
                None => self.kernel.add_state(id, &state)?.err(),
            };
            if let Some(error) = error {
                for id in added {
                    self.kernel.delete_state(id)?;
                    self.states.remove(&id);
                }
                return Ok(Err(error));
            }
            self.states.entry(id).or_insert_with(|| {
                added.push(id);
                Have { what: Some(state.key), since: Since::Asked }
            });
        }
        Ok(Ok(()))
    }

    fn is_ready(&self, set: &SaSet) -> bool {
        wanted::states(set, None).all(|(id, state)| {
            self.states.get(&id).is_some_and(|have| have.since != Since::Gone && have.has(&state.key))
        })
    }

    /// Brings policies to what plan and guard want: additions and changes first, each at once and by itself, then removals.
    fn reconcile_policies(&mut self) -> Result<(), HostError> {
        let wanted = wanted::policies(&self.plan, self.guarded, |set| self.is_ready(set));
        let mut guard = Ok(());
        for (&selector, &(priority, verdict)) in &wanted {
            let policy = Policy { priority, verdict: Some(verdict) };
            if self.is_kept(selector, verdict) {
                continue;
            }
            if let Err(error) = self.put_policy(selector, policy, verdict)? {
                let peers = self.plan.peers.iter().filter(|(_, peer)| peer.remote.to_canonical() == selector.peer);
                for (&peer, _) in peers {
                    self.failures.entry(peer).or_insert_with(|| error.to_string());
                }
                if selector.peer.is_unspecified() {
                    guard = Err(error);
                }
            }
        }
        let unwanted: Vec<_> =
            self.policies.keys().copied().filter(|selector| !wanted.contains_key(selector)).collect();
        for selector in unwanted {
            if !self.is_left(selector) {
                self.kernel.delete_policy(selector)?;
                self.policies.remove(&selector);
            }
        }
        guard
    }

    /// Whether a policy that an earlier router left serves on although the plan has no keys to send with: it seals, by old keys, and
    /// the peer may be without us else.
    fn is_kept(&self, selector: Selector, wanted: Verdict) -> bool {
        let found = self.policies.get(&selector).filter(|have| have.since == Since::Found && !self.settled);
        wanted == Verdict::Block && found.is_some_and(|have| matches!(have.what.verdict, Some(Verdict::Esp(1..))))
    }

    /// Whether a policy that nobody wants stays for now: an earlier router left it, and it is not a lane of a peer whose lane 0 is
    /// under new keys, which would go by old ones.
    fn is_left(&self, selector: Selector) -> bool {
        let since = |selector| self.policies.get(&selector).map(|have| have.since);
        let renewed = selector.way == Way::Out
            && selector.lane != (0, 0)
            && since(Selector { lane: (0, 0), ..selector }) == Some(Since::Asked);
        since(selector) == Some(Since::Found) && !self.settled && !renewed
    }

    fn put_policy(
        &mut self,
        selector: Selector,
        policy: Policy,
        verdict: Verdict,
    ) -> Result<Result<(), HostError>, HostError> {
        let have = self.policies.get_mut(&selector);
        let replace = have.is_some();
        if let Some(have) = have.filter(|have| have.what == policy) {
            have.since = Since::Asked;
            return Ok(Ok(()));
        }
        let put = self.kernel.put_policy(selector, policy.priority, verdict, replace)?;
        if put.is_ok() {
            self.policies.insert(selector, Have { what: policy, since: Since::Asked });
        }
        Ok(put)
    }

    /// Removes states that the plan does not want.
    fn remove_states(&mut self) -> Result<(), HostError> {
        let sets = || wanted::sets(&self.plan);
        let wanted: BTreeSet<StateId> = sets().flat_map(|(_, _, set)| wanted::ids(set)).collect();
        let bases: BTreeSet<StateId> = sets().map(|(_, _, set)| base(set)).collect();
        let is_over = |id: &StateId, since| !wanted.contains(id) && (since != Since::Found || self.settled);
        let over: Vec<_> = self.states.iter().filter(|(id, have)| is_over(id, have.since)).map(|(id, _)| *id).collect();
        for id in over {
            self.kernel.delete_state(id)?;
            self.states.remove(&id);
        }
        self.tried.retain(|id, _| bases.contains(id));
        self.worn.retain(|id| bases.contains(id));
        Ok(())
    }

    /// What a state has seen; None if there is none.
    fn seen(&mut self, id: StateId) -> Result<Option<Seen>, HostError> {
        let seen = self.kernel.seen(id)?;
        if let Some(have) = self.states.get_mut(&id).filter(|_| seen.is_none()) {
            have.since = Since::Gone;
        }
        Ok(seen)
    }
}

impl<T> Have<T> {
    fn found(what: T) -> Self {
        Self { what, since: Since::Found }
    }
}

impl Have<Option<SaKey>> {
    /// Whether it is under this key. A kernel in lockdown does not tell; then the SPI, of 29 random bits, is believed.
    fn has(&self, key: &SaKey) -> bool {
        self.what.as_ref().is_none_or(|is| is == key)
    }
}

impl fmt::Debug for Xfrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xfrm")
            .field("port", &self.kernel.port())
            .field("states", &self.states.len())
            .field("policies", &self.policies.len())
            .finish_non_exhaustive()
    }
}

/// Lane 0 stands for its set.
fn base(set: &SaSet) -> StateId {
    StateId { destination: set.destination.to_canonical(), spi: set.spi }
}

#[cfg(test)]
pub(crate) mod tests;
