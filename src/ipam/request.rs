//! Requests that wait: for the founding, for somebody to vouch, for space, for consents. Each ends in time.

use std::time::Duration;

use ipnet::IpNet;

use super::{
    Ipam, IpamOutput,
    allotment::Allotments,
    entry::MemberId,
    giving::{Progress, Quest},
    range::{Range, number},
    subnet::Subnet,
    world::World,
};
use crate::{
    api::allocation::{AddressAnswer, AddressRequest, AllocationError, OWNER_MAX, PeerLabel, Removal},
    id::PeerName,
    time::Time,
};

/// Every request is answered within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Who removes peers learns after this long that others cannot be reached.
const CONSENT_WITHIN: Duration = Duration::from_secs(3);
/// Who leaves runs on for this long: what it told last has to reach others, or it stays on their lists.
const FAREWELL: Duration = Duration::from_millis(300);
/// Most requests that wait; more are refused.
const PENDING_MAX: usize = 4096;

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    request: Request,
    pub(super) since: Time,
    pub(super) deadline: Time,
    /// Addresses given out for it so far; freed again if it fails.
    given: Vec<u128>,
    /// What it waits for, as an error.
    blocked: Option<AllocationError>,
}

/// A request that was looked at.
#[derive(Clone, Debug)]
enum Request {
    Allocate {
        owner: String,
        subnets: Vec<Subnet>,
    },
    Claim {
        owner: String,
        addresses: Vec<IpNet>,
    },
    /// Whom it names are those that were known when it was asked: whoever came back since is not meant.
    Remove {
        dead: Vec<(MemberId, PeerLabel)>,
        is_begun: bool,
        reclaimed: u128,
    },
    Prime,
    Leave,
}

/// How far a request is.
enum Step {
    Done(Result<AddressAnswer, AllocationError>),
    /// It waits for this.
    Blocked(AllocationError),
    /// It lacks space of others.
    Lacks {
        range: Range,
        whole: bool,
        net: IpNet,
    },
}

impl Ipam {
    /// Answers a request at once, or lets it wait.
    pub(super) fn take_request(&mut self, id: u64, request: AddressRequest, world: World<'_>) {
        match self.look_at_request(request, world) {
            Ok(request) if self.pending.len() < PENDING_MAX => {
                let deadline = self.now + ANSWER_WITHIN;
                let pending = Pending { request, since: self.now, deadline, given: Vec::new(), blocked: None };
                self.pending.insert(id, pending);
            }
            Ok(_) => self.answer_request(id, Err(deadline_error("others: too many requests wait already"))),
            Err(answer) => self.answer_request(id, answer),
        }
    }

    fn answer_request(&mut self, id: u64, answer: Result<AddressAnswer, AllocationError>) {
        self.answers.push_back(IpamOutput::Answer(id, answer));
    }

    fn look_at_request(
        &mut self,
        request: AddressRequest,
        world: World<'_>,
    ) -> Result<Request, Result<AddressAnswer, AllocationError>> {
        let owner_of = |owner: String| {
            let is_good = !owner.is_empty() && owner.len() <= OWNER_MAX;
            if is_good { Ok(owner) } else { Err(Err(AllocationError::BadOwner)) }
        };
        match request {
            AddressRequest::Allocate { owner, subnets } => {
                let owner = owner_of(owner)?;
                let checked = subnets.into_iter().map(|net| Subnet::new(net, &self.state.ranges));
                let mut subnets = checked.collect::<Result<Vec<_>, _>>().map_err(Err)?;
                if subnets.is_empty() {
                    subnets = self.defaults.clone();
                }
                Ok(Request::Allocate { owner, subnets })
            }
            AddressRequest::Claim { owner, addresses } => Ok(Request::Claim { owner: owner_of(owner)?, addresses }),
            AddressRequest::Free { owner, addresses, keep_ms } => {
                let until = (keep_ms > 0).then(|| self.now + Duration::from_millis(keep_ms));
                let freed = self.state.allotments.release(&owner, &addresses, until);
                freed.iter().for_each(|net| {
                    self.disputed.remove(&number(net.addr()));
                });
                self.unkept |= !freed.is_empty();
                Err(Ok(AddressAnswer::Addresses(freed)))
            }
            AddressRequest::Lookup { owner } => Err(Ok(AddressAnswer::Addresses(self.state.allotments.of(&owner)))),
            AddressRequest::RemovePeers { peers } => {
                let dead = self.absent(&peers, world).map_err(Err)?;
                Ok(Request::Remove { dead, is_begun: false, reclaimed: 0 })
            }
            AddressRequest::Prime { alone } => {
                if alone {
                    self.confirm_alone();
                }
                Ok(Request::Prime)
            }
            AddressRequest::Leave => Ok(Request::Leave),
        }
    }

    /// Whether somebody here waits for the founding.
    pub(super) fn is_waiting(&self) -> bool {
        self.state.universe.is_none() && self.pending.values().any(|pending| !matches!(pending.request, Request::Leave))
    }

    /// Goes on with all requests; whether anything changed that others react to.
    pub(super) fn serve(&mut self, world: World<'_>) -> bool {
        let ids: Vec<u64> = self.pending.keys().copied().collect();
        self.is_leaving = self.pending.values().any(|pending| matches!(pending.request, Request::Leave));
        let mut lacking = None;
        let mut changed = false;
        for id in ids {
            let Some(mut pending) = self.pending.remove(&id) else { continue };
            match self.step(&mut pending, world) {
                Step::Done(answer) => {
                    changed = true;
                    self.end(id, &pending, answer);
                    continue;
                }
                Step::Blocked(error) => pending.blocked = Some(error),
                Step::Lacks { range, whole, net } => {
                    lacking.get_or_insert((id, range, whole, net));
                }
            }
            if pending.deadline <= self.now {
                changed = true;
                let error =
                    pending.blocked.take().unwrap_or_else(|| deadline_error("another peer to give some of its space"));
                self.end(id, &pending, Err(error));
                continue;
            }
            self.pending.insert(id, pending);
        }
        self.search(lacking, world) || changed
    }

    fn end(&mut self, id: u64, pending: &Pending, answer: Result<AddressAnswer, AllocationError>) {
        if answer.is_err() {
            for at in &pending.given {
                self.unkept |= self.state.allotments.free(*at);
            }
        }
        if self.quest.as_ref().is_some_and(|quest| quest.request == Some(id)) {
            self.quest = None;
        }
        self.answer_request(id, answer);
    }

    /// Looks for space for the first request that lacks it, or else for an address in use here that is not ours.
    fn search(&mut self, lacking: Option<(u64, Range, bool, IpNet)>, world: World<'_>) -> bool {
        let wanted = lacking.map(|(id, range, whole, _)| (Some(id), range, whole)).or_else(|| {
            let at = self.adrift()?;
            Some((None, Range::single(at), true))
        });
        let Some((request, range, whole)) = wanted else {
            return self.quest.take().is_some();
        };
        let is_same = |quest: &Quest| quest.request == request && quest.range == range && quest.whole == whole;
        let mut quest = self.quest.take().filter(is_same).unwrap_or_else(|| Quest::new(request, range, whole));
        let progress = self.seek(&mut quest, world);
        self.quest = Some(quest);
        let Some((id, _, _, net)) = lacking else {
            if let Progress::Refused(by) = progress {
                let by = self.label(by, world).to_string();
                self.disputed.insert(range.first, by);
                return true;
            }
            return false;
        };
        let error = match progress {
            Progress::Asking => return false,
            Progress::Refused(by) => {
                let by = format!("a container of {}", self.label(by, world));
                Err(AllocationError::Taken { address: net.addr(), by })
            }
            Progress::Nothing => Err(AllocationError::NoSpace { subnet: net, unreachable: Vec::new() }),
            Progress::Unreachable(peers) => {
                let peers: Vec<PeerLabel> = peers.iter().map(|peer| self.label(*peer, world)).collect();
                Ok(match (whole, peers.is_empty()) {
                    (_, true) => deadline_error("space that nobody owns at present to be taken over"),
                    (true, false) => AllocationError::Unreachable { peers },
                    (false, false) => AllocationError::NoSpace { subnet: net, unreachable: peers },
                })
            }
        };
        match error {
            Ok(blocked) => {
                if let Some(pending) = self.pending.get_mut(&id) {
                    pending.blocked = Some(blocked);
                }
                false
            }
            Err(error) => {
                if let Some(pending) = self.pending.remove(&id) {
                    self.end(id, &pending, Err(error));
                }
                true
            }
        }
    }

    /// An address in use here, of our ranges, that we do not own and nobody refused us.
    fn adrift(&self) -> Option<u128> {
        if !self.full || self.is_leaving {
            return None;
        }
        let held = self.state.allotments.iter().map(|(at, _)| at);
        let is_adrift = |at: &u128| {
            self.state.ranges.iter().any(|range| range.contains(*at))
                && self.state.claims.get(*at).is_none()
                && !self.disputed.contains_key(at)
        };
        let mut held = held.filter(is_adrift);
        held.next()
    }

    fn step(&mut self, pending: &mut Pending, world: World<'_>) -> Step {
        let since = pending.since;
        match &mut pending.request {
            Request::Allocate { owner, subnets } => self.allocate(owner, subnets, &mut pending.given, world),
            Request::Claim { owner, addresses } => self.claim(owner, addresses, &mut pending.given, world),
            Request::Remove { dead, is_begun, reclaimed } => {
                self.remove_peers(dead, is_begun, *reclaimed, since, world)
            }
            Request::Prime => match self.obstacle(world) {
                Some(error) => Step::Blocked(error),
                None => Step::Done(Ok(AddressAnswer::Done)),
            },
            Request::Leave => self.leave(world),
        }
    }

    /// Why nothing can be given out yet.
    pub(super) fn obstacle(&self, world: World<'_>) -> Option<AllocationError> {
        if self.full {
            return None;
        }
        if self.state.left {
            return Some(AllocationError::NotStarted { waiting: "it gave its space away to leave".to_owned() });
        }
        if self.state.universe.is_none() {
            return Some(AllocationError::NotStarted { waiting: self.election_obstacle(world) });
        }
        if self.state.admitted.is_none() {
            return Some(AllocationError::NotStarted { waiting: self.admission_obstacle(world) });
        }
        let waiting_for = self.awaited().iter().map(|peer| self.label(*peer, world)).collect();
        Some(AllocationError::Unconfirmed { waiting_for })
    }

    /// The same, or that we are about to leave.
    fn giving_obstacle(&self, world: World<'_>) -> Option<AllocationError> {
        let leaving =
            || AllocationError::NotStarted { waiting: "this router is giving its space away to leave".to_owned() };
        self.obstacle(world).or_else(|| self.is_leaving.then(leaving))
    }

    fn allocate(&mut self, owner: &str, subnets: &[Subnet], given: &mut Vec<u128>, world: World<'_>) -> Step {
        let mut addresses = Vec::new();
        for subnet in subnets {
            if let Some(at) = self.retake(owner, subnet) {
                addresses.push(subnet.with_prefix(at));
                continue;
            }
            if let Some(error) = self.giving_obstacle(world) {
                return Step::Blocked(error);
            }
            let mut parts = self.state.claims.within(subnet.usable());
            let Some(at) = parts.find_map(|(part, _)| self.state.allotments.lowest_free(part)) else {
                return Step::Lacks { range: subnet.range(), whole: false, net: subnet.net() };
            };
            drop(parts);
            let net = subnet.with_prefix(at);
            self.state.allotments.give(at, owner, net.prefix_len());
            self.unkept = true;
            given.push(at);
            addresses.push(net);
        }
        Step::Done(Ok(AddressAnswer::Addresses(addresses)))
    }

    /// What the owner has in a subnet already and may go on having.
    fn retake(&mut self, owner: &str, subnet: &Subnet) -> Option<u128> {
        let claims = &self.state.claims;
        let at = self.state.allotments.retake(owner, subnet, |at| claims.get(at).is_some())?;
        self.unkept = true;
        Some(at)
    }

    fn claim(&mut self, owner: &str, addresses: &[IpNet], given: &mut Vec<u128>, world: World<'_>) -> Step {
        for net in addresses {
            let at = number(net.addr());
            if let Some(holding) = self.state.allotments.holder(at) {
                if holding.owner != owner {
                    let by = holding.owner.clone();
                    return Step::Done(Err(AllocationError::Taken { address: net.addr(), by }));
                }
                if let Some(by) = self.disputed.get(&at) {
                    let by = format!("a container of {by}");
                    return Step::Done(Err(AllocationError::Taken { address: net.addr(), by }));
                }
                self.unkept |= self.state.allotments.take_back(at);
                continue;
            }
            if self.is_ours_to_give(net.addr()) && self.state.claims.get(at).is_none() {
                return match self.giving_obstacle(world) {
                    Some(error) => Step::Blocked(error),
                    None => Step::Lacks { range: Range::single(at), whole: true, net: *net },
                };
            }
            if self.is_ours_to_give(net.addr())
                && let Some(error) = self.giving_obstacle(world)
            {
                return Step::Blocked(error);
            }
            self.state.allotments.give(at, owner, net.prefix_len());
            self.unkept = true;
            given.push(at);
        }
        Step::Done(Ok(AddressAnswer::Addresses(addresses.to_vec())))
    }

    /// Members that a person means.
    fn meant(&self, text: &str, world: World<'_>) -> Vec<MemberId> {
        let name = text.parse::<PeerName>().ok();
        let is_meant = |peer: &PeerName| match name {
            Some(name) => name == *peer,
            None => self.label(*peer, world).nickname.is_some_and(|nickname| nickname.as_str() == text),
        };
        let known = self.state.known.keys().filter(|peer| is_meant(peer)).filter_map(|peer| self.known_id(*peer));
        let dead = self.state.removed.iter().filter(|(id, grave)| !grave.settled && is_meant(&id.name));
        known.chain(dead.map(|(id, _)| *id)).collect()
    }

    /// Whom to remove; refuses whom nobody knows, or who is there.
    fn absent(&self, peers: &[String], world: World<'_>) -> Result<Vec<(MemberId, PeerLabel)>, AllocationError> {
        let mut all = Vec::new();
        for text in peers {
            let meant = self.meant(text, world);
            if meant.is_empty() {
                return Err(AllocationError::NoSuchPeer(text.clone()));
            }
            all.extend(meant.into_iter().map(|id| (id, self.label(id.name, world))));
        }
        match self.alive(&all, world) {
            Some(label) => Err(AllocationError::PeerAlive(label)),
            None => Ok(all),
        }
    }

    /// One of these who is there, in the life that was meant or a later one with the same data.
    fn alive(&self, meant: &[(MemberId, PeerLabel)], world: World<'_>) -> Option<PeerLabel> {
        let is_there = |id: &MemberId| world.reachable.contains(&id.name) && world.is_heard(*id);
        let mut alive = meant.iter().filter(|(id, _)| id.name == self.name || is_there(id));
        alive.next().map(|(_, label)| label.clone())
    }

    fn remove_peers(
        &mut self,
        dead: &[(MemberId, PeerLabel)],
        is_begun: &mut bool,
        reclaimed: u128,
        since: Time,
        world: World<'_>,
    ) -> Step {
        if let Some(error) = self.obstacle(world) {
            return Step::Blocked(error);
        }
        if !std::mem::replace(is_begun, true) {
            if let Some(label) = self.alive(dead, world) {
                return Step::Done(Err(AllocationError::PeerAlive(label)));
            }
            dead.iter().for_each(|(id, _)| self.hear_removed(*id));
        }
        let is_settled = |id: &MemberId| self.state.removed.get(id).is_none_or(|grave| grave.settled);
        let mut answer = Removal {
            removed: dead.iter().map(|(_, label)| label.clone()).collect(),
            reclaimed,
            waiting_for: Vec::new(),
        };
        if dead.iter().all(|(id, _)| is_settled(id)) {
            return Step::Done(Ok(AddressAnswer::Removed(answer)));
        }
        let waiting = self.state.reclaim.as_ref().map(|reclaim| self.without_consent(reclaim, world));
        let waiting = waiting.unwrap_or_default();
        let only_absent = !waiting.is_empty() && waiting.iter().all(|id| !world.is_there(*id));
        let patience = if only_absent { CONSENT_WITHIN } else { ANSWER_WITHIN };
        if since + patience <= self.now {
            answer.waiting_for = waiting.iter().map(|id| self.label(id.name, world)).collect();
            return Step::Done(Ok(AddressAnswer::Removed(answer)));
        }
        self.look_at(since + CONSENT_WITHIN);
        Step::Blocked(deadline_error("the other peers' consent"))
    }

    /// Whether somebody waits for the removal of peers.
    pub(super) fn is_removal_pending(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.request, Request::Remove { .. }))
    }

    /// Tells those who wait for a removal how much was taken over.
    pub(super) fn reclaimed_for(&mut self, reclaim: &super::entry::Reclaim, addresses: u128) {
        for pending in self.pending.values_mut() {
            if let Request::Remove { dead, reclaimed, .. } = &mut pending.request
                && dead.iter().any(|(id, _)| reclaim.removed.contains(id))
            {
                *reclaimed = reclaimed.saturating_add(addresses);
            }
        }
    }

    fn leave(&mut self, world: World<'_>) -> Step {
        if let Some(told) = self.left_at.map(|at| at + FAREWELL).filter(|told| *told > self.now) {
            self.look_at(told);
            return Step::Blocked(deadline_error("the others to hear of it"));
        }
        if self.state.universe.is_none() || self.state.left {
            return Step::Done(Ok(AddressAnswer::Done));
        }
        if let Some(error) = self.obstacle(world) {
            return Step::Blocked(error);
        }
        let is_alone = self.state.known.is_empty();
        match self.give_all(world) {
            _ if is_alone => {}
            Some(false) if self.state.gifts.is_empty() => {}
            Some(_) => return Step::Blocked(deadline_error("another peer to take the space")),
            None => {
                let peers = self.awaited().iter().map(|peer| self.label(*peer, world)).collect();
                return Step::Blocked(AllocationError::Unreachable { peers });
            }
        }
        self.full = false;
        self.state.left = true;
        self.state.allotments = Allotments::default();
        self.changed();
        if is_alone {
            return Step::Done(Ok(AddressAnswer::Done));
        }
        self.left_at = Some(self.now);
        self.leave(world)
    }
}

/// The error of a request that took too long.
fn deadline_error(waiting: &str) -> AllocationError {
    AllocationError::Deadline { waiting: format!("waiting for {waiting}") }
}
