//! The allocator: gives out addresses that nobody else gives out, without a central store.
//!
//! The ranges of a *universe* belong to *members*. A member gives out addresses of what it owns without asking anybody,
//! and asks another for some of its space when it has none. All that members tell each other are entries of their own in
//! one replicated channel ([`entry`]); all that they must not forget is one `State`, which is stored before
//! anybody is told ([`IpamOutput::Keep`]).
//!
//! ```text
//!  unfounded ──election, seeds──▶ full member ◀──vouched for── joining, returning
//!                                     │ ▲                          ▲
//!                              gifts  │ │ gifts                    │ start with stored data
//!                                     ▼ │                          │
//!                                 other members ──removed, reclaimed by one with the consent of all
//! ```
//! Invariant: an address is owned by at most one of the members that are not removed, and given out by its owner only.
//! Why it holds is in `docs/decisions/0010-addresses.md`.
//!
//! [`Ipam`] is one peer's part. Its driver hands in what changed in the channel ([`Ipam::update`]) and requests
//! ([`Ipam::request`]), and does what [`Ipam::poll_output`] says, in that order.

mod allotment;
mod election;
pub mod entry;
mod giving;
mod hearing;
mod kept;
mod publishing;
pub mod range;
mod reclaiming;
mod request;
mod standing;
mod state;
mod status;
mod subnet;
pub mod world;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use entry::{Ballot, Epoch, Key, Life, MemberId, UniverseId, Value};
use giving::Quest;
use ipnet::IpNet;
use range::Range;
use request::Pending;
use serde::{Deserialize, Serialize};
use standing::Question;
use state::{State, Universe};
use subnet::{Subnet, universe};
use world::World;

use crate::{
    api::allocation::{AddressAnswer, AllocationError, PeerLabel},
    entropy::Entropy,
    id::{Nickname, PeerName},
    time::Time,
};

/// An address given back before a restart is kept for its owner this long after it.
const KEPT_AFTER_START: Duration = Duration::from_secs(30);
/// Most rounds in which the parts react to each other; each but the last changes something that lasts.
const ROUNDS_MAX: u32 = 16;

/// How a universe comes to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Init {
    /// By an election among those who are there; among so many, or else as the targets say.
    Consensus(Option<u32>),
    /// Shared among these, who know each other.
    Seed(Vec<PeerName>),
    /// By others.
    Observer,
}

impl Init {
    fn elects(&self) -> bool {
        matches!(self, Self::Consensus(_))
    }

    fn voters(&self) -> Option<u32> {
        match self {
            Self::Consensus(voters) => *voters,
            Self::Seed(_) | Self::Observer => None,
        }
    }
}

/// What an allocator is told at its start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllocationConfig {
    /// What is given out from; at most one range of each family, more are ignored.
    pub ranges: Vec<IpNet>,
    /// Where addresses are given out when nobody says where; for a family without, its whole range.
    pub default_subnets: Vec<IpNet>,
    /// How the universe comes to be, if there is none.
    pub init: Init,
    /// What was stored last, as [`IpamOutput::Keep`] said.
    pub kept: Option<Vec<u8>>,
}

/// What an allocator wants done, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum IpamOutput {
    /// Store this durably before doing anything of what follows.
    Keep(Arc<[u8]>),
    /// Tell everybody.
    Set(Key, Value),
    /// Tell everybody that it is so no more.
    Unset(Key),
    /// Forget what this peer said: it is dead, and its space has another owner.
    Forget(PeerName),
    /// The answer to a request.
    Answer(u64, Result<AddressAnswer, AllocationError>),
    /// Something that people should know.
    Happened(AddressEvent),
}

/// Something that people should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressEvent {
    /// Addresses can be given out from now on.
    Founded {
        /// Members that share the ranges.
        founders: usize,
    },
    /// A separately founded universe, or one of other ranges, was met; it is kept apart.
    Conflict {
        /// Who belongs to it.
        peer: PeerName,
        /// What is the matter and what to do, in words.
        reason: String,
    },
    /// Others declared us dead, or know more of us than we stored: we own nothing any more.
    Fenced {
        /// Why, in words.
        reason: String,
    },
    /// A member was declared dead.
    Removed {
        /// Which.
        peer: PeerName,
    },
    /// We took over space that was nobody's.
    Reclaimed {
        /// How many addresses.
        addresses: u128,
    },
    /// There is more to tell others than fits.
    Untold {
        /// Why, in words.
        reason: String,
    },
    /// Stored data could not be used.
    Unreadable {
        /// Why, in words.
        reason: String,
    },
}

impl fmt::Display for AddressEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Founded { founders } => write!(f, "the ranges are shared by {founders} peers at first"),
            Self::Conflict { peer, reason } => write!(f, "{peer} is kept apart: {reason}"),
            Self::Fenced { reason } => write!(f, "this router owns none any more: {reason}"),
            Self::Removed { peer } => write!(f, "{peer} was declared dead"),
            Self::Reclaimed { addresses } => write!(f, "{addresses} that were nobody's were taken over"),
            Self::Unreadable { reason } => write!(f, "stored addresses are not used: {reason}"),
            Self::Untold { reason } => write!(f, "others cannot be told all: {reason}"),
        }
    }
}

/// One peer's part.
#[derive(Clone, Debug)]
pub struct Ipam {
    name: PeerName,
    nickname: Nickname,
    config: AllocationConfig,
    defaults: Vec<Subnet>,
    entropy: Entropy,
    now: Time,
    started_at: Time,
    /// We began with stored data.
    was_kept: bool,
    /// The universe was founded at this start, by us as one of the seeds.
    is_new_seed: bool,
    state: State,
    /// The state is to be stored.
    unkept: bool,
    /// What was told.
    published: BTreeMap<Key, Value>,
    /// We are a full member.
    full: bool,
    question: Question,
    /// How much is free, as it was told.
    free: [u8; 2],
    /// Peers of no universe.
    unfounded: BTreeSet<PeerName>,
    /// Peers that ask whether they are members.
    seekers: BTreeSet<PeerName>,
    /// Peers that want something of us, that gave us something, that reclaim something.
    wanters: BTreeSet<PeerName>,
    givers: BTreeSet<PeerName>,
    reclaimers: BTreeSet<PeerName>,
    /// Peers of other universes, and what was reported of them.
    foreign: BTreeMap<PeerName, String>,
    reported: BTreeSet<(Option<UniverseId>, Vec<Range>)>,
    /// Peers whose lives are over and who do not seem to know, or whose entries are still about.
    ghosts: BTreeSet<PeerName>,
    /// Which lives full members say are over.
    tellers: BTreeMap<PeerName, BTreeSet<MemberId>>,
    quest: Option<Quest>,
    refusals: BTreeMap<PeerName, (Life, u64)>,
    answered: BTreeMap<PeerName, u64>,
    pending: BTreeMap<u64, Pending>,
    /// A request to leave waits: nothing is given out meanwhile.
    is_leaving: bool,
    /// When we told that we left.
    left_at: Option<Time>,
    /// Addresses held here that another owner holds, too.
    disputed: BTreeMap<u128, String>,
    tidied_at: Option<Time>,
    elected_at: Option<Time>,
    propose_at: Option<Time>,
    seen_ballot: Option<Ballot>,
    /// Since when some space is nobody's.
    orphans_since: Option<Time>,
    /// Something was heard, or changed with us, since that was last looked for.
    is_unsearched: bool,
    searched_at: Option<Time>,
    look_at: Option<Time>,
    outputs: VecDeque<IpamOutput>,
    answers: VecDeque<IpamOutput>,
}

impl Ipam {
    /// The part of the peer `name`.
    pub fn new(name: PeerName, nickname: Nickname, config: AllocationConfig, entropy: Entropy, now: Time) -> Self {
        let ranges = universe(&config.ranges);
        let mut ipam = Self {
            defaults: default_subnets(&config, &ranges),
            state: State::fresh(ranges, Life::first(entropy.number())),
            question: Question::new(&entropy),
            name,
            nickname,
            config,
            entropy,
            now,
            started_at: now,
            was_kept: false,
            is_new_seed: false,
            unkept: false,
            published: BTreeMap::new(),
            full: false,
            free: [0; 2],
            unfounded: BTreeSet::new(),
            seekers: BTreeSet::new(),
            wanters: BTreeSet::new(),
            givers: BTreeSet::new(),
            reclaimers: BTreeSet::new(),
            foreign: BTreeMap::new(),
            reported: BTreeSet::new(),
            ghosts: BTreeSet::new(),
            tellers: BTreeMap::new(),
            quest: None,
            refusals: BTreeMap::new(),
            answered: BTreeMap::new(),
            pending: BTreeMap::new(),
            is_leaving: false,
            left_at: None,
            disputed: BTreeMap::new(),
            tidied_at: None,
            elected_at: None,
            propose_at: None,
            seen_ballot: None,
            orphans_since: None,
            is_unsearched: true,
            searched_at: None,
            look_at: None,
            outputs: VecDeque::new(),
            answers: VecDeque::new(),
        };
        ipam.begin();
        ipam
    }

    /// Takes up what was stored, or begins as the configuration says.
    fn begin(&mut self) {
        if let Some(bytes) = self.config.kept.take() {
            match kept::decode(&bytes) {
                Ok(state) if state.ranges != self.state.ranges => {
                    self.unreadable("they are of another --ipalloc-range; this router begins anew");
                    self.state.allotments = state.allotments;
                }
                Ok(state) if state.left => self.state.bury(MemberId { name: self.name, life: state.life }, true),
                Ok(mut state) => {
                    state.allotments.keep_from(self.now + KEPT_AFTER_START);
                    if state.admitted.is_some() {
                        state.life = state.life.next();
                    }
                    self.state = state;
                    self.was_kept = true;
                }
                Err(error) => self.unreadable(&format!("they are damaged ({error}); this router begins anew")),
            }
        }
        if let (Init::Seed(names), None) = (&self.config.init, &self.state.universe) {
            let founders = state::seeds(&self.state.ranges, names);
            if let Some(own) = founders.iter().find(|founder| founder.name == self.name) {
                self.state.life = own.life;
                self.is_new_seed = true;
                self.found(Universe::founded(&self.state.ranges, &founders), false);
            }
        }
        self.unkept = true;
    }

    fn unreadable(&mut self, reason: &str) {
        self.happened(AddressEvent::Unreadable { reason: reason.to_owned() });
    }

    /// Asks for something; the answer comes as [`IpamOutput::Answer`] within ten seconds.
    pub fn request(&mut self, id: u64, request: crate::api::allocation::AddressRequest, world: World<'_>, now: Time) {
        self.now = now;
        self.take_request(id, request, world);
        self.settle(world);
    }

    /// Looks at what the peers `changed` say now, and at the clock.
    pub fn update(&mut self, changed: &BTreeSet<PeerName>, world: World<'_>, now: Time) {
        self.now = now;
        self.look_at = self.look_at.filter(|at| *at > now);
        self.unkept |= self.state.allotments.expire(now);
        self.is_unsearched |= !changed.is_empty();
        for peer in changed {
            self.hear(*peer, world);
        }
        self.settle(world);
    }

    /// The next thing to do, None when quiet.
    pub fn poll_output(&mut self) -> Option<IpamOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::update`] wants to be called though nothing changed.
    pub fn deadline(&self) -> Option<Time> {
        let parts = [
            self.look_at,
            self.state.allotments.deadline(),
            self.election_deadline(),
            self.pending.values().map(|pending| pending.deadline).min(),
        ];
        parts.into_iter().flatten().min()
    }

    /// Whether this peer is one whose entries must not be forgotten.
    pub fn remembers(&self, peer: PeerName) -> bool {
        peer == self.name || self.state.known.contains_key(&peer)
    }

    /// Lets the parts react to each other until nothing changes.
    fn settle(&mut self, world: World<'_>) {
        for _ in 0..ROUNDS_MAX {
            let mut changed = self.elect(world);
            changed |= self.confirm(world);
            changed |= self.acknowledge(world);
            changed |= self.take_gifts(world);
            changed |= self.answer_wants(world);
            changed |= self.tidy(world);
            changed |= self.consent(world);
            changed |= self.pursue_reclaim(world);
            changed |= self.serve(world);
            if !changed {
                break;
            }
        }
        if self.unkept {
            self.unkept = false;
            self.outputs.push_back(IpamOutput::Keep(kept::encode(&self.state).into()));
        }
        self.publish(world);
        self.outputs.append(&mut self.answers);
    }

    /// Something changed that others may have heard of.
    fn changed(&mut self) {
        self.state.version += 1;
        self.unkept = true;
        self.is_unsearched = true;
    }

    /// Looks again at this time, if it is yet to come.
    fn look_at(&mut self, at: Time) {
        if at > self.now {
            self.look_at = Some(self.look_at.map_or(at, |old| old.min(at)));
        }
    }

    fn happened(&mut self, event: AddressEvent) {
        self.answers.push_back(IpamOutput::Happened(event));
    }

    /// The universe is founded, and maybe some of it is ours.
    fn found(&mut self, universe: Universe, full: bool) {
        let own = self.own_id();
        for range in universe.share(&self.state.ranges, own) {
            self.state.own(range, Epoch(1));
        }
        self.state.admitted = universe.founders.contains(&own).then_some(own.life);
        if self.state.admitted.is_some() {
            // The founders know each other; whoever joins later learns who is still there.
            universe.founders.iter().for_each(|founder| {
                self.admit(*founder);
            });
        }
        self.full = full && self.state.admitted.is_some();
        self.happened(AddressEvent::Founded { founders: universe.founders.len() });
        self.state.universe = Some(universe);
        self.changed();
    }

    fn own_id(&self) -> MemberId {
        MemberId { name: self.name, life: self.state.life }
    }

    /// A peer as people know it.
    fn label(&self, peer: PeerName, world: World<'_>) -> PeerLabel {
        let heard = world.member(peer).map(|member| member.nickname.clone());
        let nickname = heard.or_else(|| self.state.known.get(&peer).and_then(|known| known.nickname.clone()));
        PeerLabel { name: peer, nickname }
    }

    /// Whether any range can give this address.
    fn is_ours_to_give(&self, address: IpAddr) -> bool {
        self.state.ranges.iter().any(|range| range.contains(range::number(address)))
    }
}

/// Where each range gives out addresses when nobody says where.
fn default_subnets(config: &AllocationConfig, ranges: &[Range]) -> Vec<Subnet> {
    let all = config.default_subnets.iter().chain(&config.ranges);
    let subnets = all.filter_map(|net| Subnet::new(net.trunc(), ranges).ok());
    let mut defaults: Vec<Subnet> = Vec::new();
    for subnet in subnets {
        if defaults.iter().all(|other| other.range().is_ipv4() != subnet.range().is_ipv4()) {
            defaults.push(subnet);
        }
    }
    defaults
}

#[cfg(test)]
mod tests;
