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
//! Calls block, each for a bounded time. The counters of packets are the kernel's.

mod bytes;
mod encap;
mod message;
mod socket;
mod stat;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use nix::errno::Errno;
use weft::{
    fastdp::{Plan, SA_KEY_LEN, SaKey, SaSet},
    id::PeerName,
};

pub use encap::EncapSocket;
pub use stat::{XfrmCounter, XfrmCounters};

use crate::error::HostError;
use message::{Ours, Policy, Seen, Selector, State, StateId, Verdict, Way, read_seen};
use socket::{Refusal, XfrmSocket};
use stat::Stat;
use wanted::Direction;

/// After so many packets under a key it is worn: time for a new one, long before the kernel stops using it.
pub const WORN_PACKETS: u64 = 1 << 31;
/// After so many bytes a key is worn: 64 GiB, 2^32 blocks of AES, with a chance of 2^-65 to tell them from noise.
pub const WORN_BYTES: u64 = 64 << 30;
/// Packets by which one may overtake another, tried in this order: the most that the kernel can do, since each core of the sender and
/// each queue of a network card reorders; all kernels are said to take the first.
const WINDOWS: [u32; 4] = [4096, 2048, 1024, 32];
/// We seal, and take nothing, but without a window there are no extended sequence numbers.
const NO_WINDOW: u32 = 32;
/// For the state that shows what the kernel can do. From the range that no IKE daemon chooses from and no peer of ours (below 256,
/// RFC 4303 §2.1): it cannot stand in anybody's way.
const TRIAL_SPI: u32 = 255;

/// The states and policies of one network on this host.
pub struct Xfrm {
    ours: Ours,
    socket: XfrmSocket,
    states: BTreeMap<StateId, Have<Option<SaKey>>>,
    policies: BTreeMap<Selector, Have<Policy>>,
    plan: Plan,
    guarded: bool,
    settled: bool,
    tried: BTreeSet<StateId>,
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

/// A set of states that receives was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Whose packets it is for.
    pub peer: PeerName,
    /// SPI of its lane 0.
    pub spi: u32,
    /// Why it is not there, in words for people; None if it is.
    pub error: Option<String>,
}

/// What one state has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneCount {
    /// The other end.
    pub peer: PeerName,
    /// Whether we send by it.
    pub sends: bool,
    /// Its own SPI, not the set's.
    pub spi: u32,
    /// Packets sealed, or opened.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What others did to our states and policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Policies that were missing or changed, and are right again.
    pub repaired: usize,
    /// SPIs of lane 0 of sets that are gone, wholly or in part: new keys are needed.
    pub lost: Vec<u32>,
}

impl Xfrm {
    /// Opens the kernel's IPsec in the network namespace of the calling thread, for VXLAN on `port`, and looks what of ours is there.
    ///
    /// # Errors
    /// When the kernel has no XFRM, or does not let us.
    pub fn open(port: u16) -> Result<Self, HostError> {
        let mut socket = XfrmSocket::open()?;
        let ours = Ours::new(port);
        let states = list_states(&mut socket, ours)?;
        let policies = list_policies(&mut socket, ours)?;
        Ok(Self {
            ours,
            socket,
            states: states.into_iter().map(|(id, key)| (id, Have::found(key))).collect(),
            policies: policies.into_iter().map(|(selector, policy)| (selector, Have::found(policy))).collect(),
            plan: Plan::default(),
            guarded: false,
            settled: false,
            tried: BTreeSet::new(),
            untold: Vec::new(),
            failures: BTreeMap::new(),
            worn: BTreeSet::new(),
            stat: Stat::open(),
        })
    }

    /// Whether this kernel can do what we need, shown by adding a state that takes nothing and removing it.
    ///
    /// # Errors
    /// Why not, in words for people.
    pub fn ability(&mut self) -> Result<(), String> {
        let id = StateId { destination: Ipv4Addr::LOCALHOST.into(), spi: TRIAL_SPI };
        let key = SaKey([0; SA_KEY_LEN].into());
        let trial = State { source: Some(Ipv4Addr::LOCALHOST.into()), key, encap: None };
        let doing = "try ESP";
        let said = |error: HostError| error.to_string();
        // A router that was killed in between may have left it.
        drop(self.socket.change(doing, Ours::delete_state(id)).map_err(said)?);
        let added = self.add_state(doing, id, &trial).map_err(said)?;
        drop(self.socket.change(doing, Ours::delete_state(id)).map_err(said)?);
        added.map_err(|refusal| {
            let why = explain(&refusal);
            if refusal.errno == Errno::EPERM {
                return format!("no permission for IPsec ({why}): run as root, or with CAP_NET_ADMIN");
            }
            if [Errno::EPROTONOSUPPORT, Errno::ENOENT, Errno::ENOSYS].contains(&refusal.errno) {
                return format!(
                    "this kernel lacks ESP with AES-GCM ({why}): `modprobe -a esp4 esp6 gcm seqiv` may help"
                );
            }
            format!("this kernel refuses ESP with AES-256-GCM and extended sequence numbers: {why}")
        })
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
    /// earlier plan wanted and this one does not. Tells of each set that receives and was not told of before. What else did not work
    /// is in [`Xfrm::failures`].
    ///
    /// # Errors
    /// When the kernel does not answer. Nothing is lost with that: the next call goes on.
    pub fn apply(&mut self, plan: &Plan) -> Result<Vec<Installed>, HostError> {
        self.plan = plan.clone();
        self.failures.clear();
        for (peer, direction, set) in wanted::sets(plan) {
            let base = base(set);
            let receives = direction.source().is_some();
            if receives && self.tried.contains(&base) {
                continue;
            }
            let error = self.install(direction, set)?.err();
            if let Some(error) = error.as_ref().filter(|_| !receives) {
                self.failures.entry(peer).or_insert_with(|| error.clone());
            }
            if receives {
                self.tried.insert(base);
                self.untold.push(Installed { peer, spi: set.spi, error });
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
        let states = list_states(&mut self.socket, self.ours)?;
        for (id, have) in &mut self.states {
            if !states.contains_key(id) {
                have.since = Since::Gone;
            }
        }
        let policies = list_policies(&mut self.socket, self.ours)?;
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
        let mut policies: Vec<_> = list_policies(&mut self.socket, self.ours)?.into_iter().collect();
        policies.sort_by_key(|(_, policy)| policy.priority);
        for (selector, _) in policies {
            errors.extend(self.delete_policy(selector).err());
        }
        for id in list_states(&mut self.socket, self.ours)?.into_keys() {
            errors.extend(self.delete_state(id).err());
        }
        if errors.is_empty() { Ok(()) } else { Err(HostError::Incomplete(errors)) }
    }

    /// Installs all states of a set, or none.
    fn install(&mut self, direction: Direction, set: &SaSet) -> Result<Result<(), String>, HostError> {
        let mut added = Vec::new();
        for (id, state) in wanted::states(set, direction.source()) {
            let error = match self.states.get_mut(&id) {
                Some(have) if have.since == Since::Gone => Some("its keys were in use before and are gone".to_owned()),
                Some(have) if have.what.as_ref() == Some(&state.key) => {
                    have.since = Since::Asked;
                    None
                }
                Some(_) => Some(format!("SPI {:#x} to {} has another key", id.spi, id.destination)),
                None => self.add_state("add a state", id, &state)?.err().map(|refusal| {
                    let why = explain(&refusal);
                    format!("the kernel refuses SPI {:#x} to {}: {why}", id.spi, id.destination)
                }),
            };
            if let Some(error) = error {
                for id in added {
                    self.delete_state(id)?;
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

    /// Adds a state with the widest window that the kernel takes.
    fn add_state(&mut self, doing: &str, id: StateId, state: &State) -> Result<Result<(), Refusal>, HostError> {
        let windows = if state.source.is_some() { &WINDOWS[..] } else { &[NO_WINDOW] };
        let mut result = Ok(());
        for &window in windows {
            result = self.socket.change(doing, self.ours.add_state(id, state, window))?;
            if !matches!(&result, Err(refusal) if refusal.errno == Errno::EINVAL) {
                break;
            }
        }
        Ok(result)
    }

    fn is_ready(&self, set: &SaSet) -> bool {
        wanted::states(set, None).all(|(id, state)| self.states.get(&id).is_some_and(|have| have.serves(&state.key)))
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
                let peers = self.plan.peers.iter().filter(|(_, peer)| peer.remote == selector.peer);
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
                self.delete_policy(selector)?;
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
        let doing = format!("put the IPsec policy for {selector}");
        let request = self.ours.put_policy(selector, policy.priority, verdict, replace);
        match self.socket.change(&doing, request)? {
            Ok(()) => {
                self.policies.insert(selector, Have { what: policy, since: Since::Asked });
                Ok(Ok(()))
            }
            // A kernel without IPv6 has no packets of it to guard against.
            Err(refusal) if refusal.errno == Errno::EAFNOSUPPORT && selector.peer.is_unspecified() => Ok(Ok(())),
            Err(refusal) if refusal.errno == Errno::EEXIST => Ok(Err(HostError::ForeignPolicy(selector.to_string()))),
            Err(refusal) => Ok(Err(HostError::kernel(&doing, refusal.errno))),
        }
    }

    fn delete_policy(&mut self, selector: Selector) -> Result<(), HostError> {
        let doing = format!("remove the IPsec policy for {selector}");
        gone(&doing, self.socket.change(&doing, self.ours.delete_policy(selector))?)?;
        self.policies.remove(&selector);
        Ok(())
    }

    /// Removes states that the plan does not want.
    fn remove_states(&mut self) -> Result<(), HostError> {
        let sets = || wanted::sets(&self.plan);
        let wanted: BTreeSet<StateId> = sets().flat_map(|(_, _, set)| wanted::ids(set)).collect();
        let bases: BTreeSet<StateId> = sets().map(|(_, _, set)| base(set)).collect();
        let is_over = |id: &StateId, since| !wanted.contains(id) && (since != Since::Found || self.settled);
        let over: Vec<_> = self.states.iter().filter(|(id, have)| is_over(id, have.since)).map(|(id, _)| *id).collect();
        for id in over {
            self.delete_state(id)?;
        }
        self.tried.retain(|id| bases.contains(id));
        self.worn.retain(|id| bases.contains(id));
        Ok(())
    }

    fn delete_state(&mut self, id: StateId) -> Result<(), HostError> {
        let doing = format!("remove the IPsec state {:#x} to {}", id.spi, id.destination);
        gone(&doing, self.socket.change(&doing, Ours::delete_state(id))?)?;
        self.states.remove(&id);
        Ok(())
    }

    /// What a state has seen; None if there is none.
    fn seen(&mut self, id: StateId) -> Result<Option<Seen>, HostError> {
        let doing = "read the counters of an IPsec state";
        let mut seen = None;
        let answer = self.socket.ask(doing, Ours::ask_state(id), |kind, body| {
            if kind == message::NEWAE {
                seen = read_seen(body);
            }
        })?;
        match answer {
            Ok(()) => Ok(seen),
            Err(refusal) if refusal.errno == Errno::ESRCH => {
                if let Some(have) = self.states.get_mut(&id) {
                    have.since = Since::Gone;
                }
                Ok(None)
            }
            Err(refusal) => Err(HostError::kernel(doing, refusal.errno)),
        }
    }
}

impl<T> Have<T> {
    fn found(what: T) -> Self {
        Self { what, since: Since::Found }
    }
}

impl Have<Option<SaKey>> {
    fn serves(&self, key: &SaKey) -> bool {
        self.since != Since::Gone && self.what.as_ref() == Some(key)
    }
}

impl fmt::Debug for Xfrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xfrm")
            .field("port", &self.ours.port)
            .field("states", &self.states.len())
            .field("policies", &self.policies.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::In => "packets from",
            Way::Out => "packets to",
            Way::Forward => "forwarded packets to",
        };
        match self.peer {
            IpAddr::V4(peer) if peer.is_unspecified() => write!(f, "{way} any IPv4 address"),
            IpAddr::V6(peer) if peer.is_unspecified() => write!(f, "{way} any IPv6 address"),
            IpAddr::V4(_) | IpAddr::V6(_) => write!(f, "{way} {}", self.peer),
        }
    }
}

fn list_states(socket: &mut XfrmSocket, ours: Ours) -> Result<BTreeMap<StateId, Option<SaKey>>, HostError> {
    let read = |kind, body: &[u8]| (kind == message::NEWSA).then(|| ours.read_state(body)).flatten();
    Ok(socket.list("list IPsec states", Ours::list_states, read)?.into_iter().collect())
}

fn list_policies(socket: &mut XfrmSocket, ours: Ours) -> Result<BTreeMap<Selector, Policy>, HostError> {
    let read = |kind, body: &[u8]| (kind == message::NEWPOLICY).then(|| ours.read_policy(body)).flatten();
    let policies = socket.list("list IPsec policies", Ours::list_policies, read)?;
    Ok(policies.into_iter().filter(|(_, policy)| wanted::is_priority(policy.priority)).collect())
}

/// Lane 0 stands for its set.
fn base(set: &SaSet) -> StateId {
    StateId { destination: set.destination, spi: set.spi }
}

/// The kernel's own words where it has some.
fn explain(refusal: &Refusal) -> String {
    refusal.words.clone().unwrap_or_else(|| refusal.errno.desc().to_owned())
}

/// What is not there need not be removed.
fn gone(doing: &str, result: Result<(), Refusal>) -> Result<(), HostError> {
    match result {
        Err(refusal) if !matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT) => {
            Err(HostError::kernel(doing, refusal.errno))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
