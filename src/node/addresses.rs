//! The allocator's place in the node: hands it what others say of addresses, and does what it wants done, as soon as what
//! that follows from is stored.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::{
    Node, NodeConfig,
    output::{Event, Output},
    withheld::Withheld,
};
use crate::{
    api::allocation::{AddressAnswer, AddressRequest, AddressStatus, AllocationError, PeerLabel},
    entropy::Entropy,
    id::PeerName,
    ipam::{
        AddressEvent, AllocationConfig, Ipam, IpamOutput,
        entry::{Key, Value},
        world::{Targets, World},
    },
    time::Time,
};

/// Every request is answered within this. The allocator answers sooner: what is not answered then was not stored in time.
const ANSWER_WITHIN: Duration = Duration::from_millis(9_500);

/// The allocator, if the node has one, and what it has not seen yet.
#[derive(Debug)]
pub(super) struct Addresses {
    ipam: Option<Ipam>,
    targets: Targets,
    changed: BTreeSet<PeerName>,
    requests: VecDeque<(u64, AddressRequest)>,
    /// By when requests are to be answered.
    asked: BTreeMap<u64, Time>,
    withheld: Withheld,
    /// It has not been called yet.
    is_new: bool,
}

impl Addresses {
    /// The allocator of a node with this configuration, which gives away what was kept.
    pub(super) fn new(config: &mut NodeConfig, entropy: &Entropy) -> Self {
        let kept = config.allocation.as_mut().and_then(|allocation| allocation.kept.take());
        let allocation = config.allocation.clone().map(|allocation| AllocationConfig { kept, ..allocation });
        let name = config.identity.name();
        let ipam = allocation.map(|a| Ipam::new(name, config.nickname.clone(), a, entropy.clone(), Time::ZERO));
        Self {
            ipam,
            targets: Targets::default(),
            changed: BTreeSet::new(),
            requests: VecDeque::new(),
            asked: BTreeMap::new(),
            withheld: Withheld::default(),
            is_new: true,
        }
    }

    /// Something is asked.
    pub(super) fn request(&mut self, id: u64, request: AddressRequest, now: Time) {
        self.requests.push_back((id, request));
        self.asked.insert(id, now + ANSWER_WITHIN);
    }

    /// A state is stored, or cannot be for a reason.
    pub(super) fn kept(&mut self, number: u64, error: Option<String>) {
        self.withheld.kept(number, error);
    }

    /// Whether what a peer says of addresses must not be forgotten.
    pub(super) fn remembers(&self, peer: PeerName) -> bool {
        self.ipam.as_ref().is_some_and(|ipam| ipam.remembers(peer))
    }

    /// When the allocator wants to be woken, or somebody has waited long enough.
    pub(super) fn deadline(&self) -> Option<Time> {
        let ipam = self.ipam.as_ref().filter(|_| !self.withheld.is_full()).and_then(Ipam::deadline);
        ipam.into_iter().chain(self.asked.values().copied()).min()
    }

    /// What is answered while states cannot be stored.
    fn unstored(&self) -> Option<AllocationError> {
        self.withheld.obstacle().map(|reason| AllocationError::Unstored { reason: reason.to_owned() })
    }
}

impl Node {
    /// `weft status ipam`.
    pub fn address_status(&self) -> AddressStatus {
        let Some(ipam) = &self.addresses.ipam else {
            return AddressStatus { state: "off".to_owned(), ..AddressStatus::default() };
        };
        let status = ipam.status(self.world());
        match self.addresses.unstored() {
            Some(error) => AddressStatus { state: "unstored".to_owned(), info: error.to_string(), ..status },
            None => status,
        }
    }

    /// Which peer may give out an address, as far as known.
    pub fn address_space(&self, address: IpAddr) -> Option<PeerLabel> {
        self.addresses.ipam.as_ref()?.space_of(address, self.world())
    }

    /// Lets the allocator see what is new, unless it rests, and does what it wants and may.
    pub(super) fn allocate(&mut self, now: Time) {
        let changed = self.exchange.take_changed_addresses();
        let Some(mut ipam) = self.addresses.ipam.take() else {
            return self.refuse_requests(&AllocationError::Off);
        };
        self.addresses.changed.extend(changed);
        self.update_targets();
        if let Some(error) = self.addresses.unstored() {
            self.refuse_requests(&error);
        }
        self.run(&mut ipam, now);
        self.addresses.ipam = Some(ipam);
        while let Some(output) = self.addresses.withheld.poll() {
            self.perform(output);
        }
        self.end_late(now);
    }

    fn run(&mut self, ipam: &mut Ipam, now: Time) {
        if self.addresses.withheld.is_full() {
            return;
        }
        let is_due = ipam.deadline().is_some_and(|at| at <= now);
        if is_due || !self.addresses.changed.is_empty() || std::mem::take(&mut self.addresses.is_new) {
            let changed = std::mem::take(&mut self.addresses.changed);
            ipam.update(&changed, self.world(), now);
            self.withhold(ipam);
        }
        while !self.addresses.withheld.is_full()
            && let Some((id, request)) = self.addresses.requests.pop_front()
        {
            ipam.request(id, request, self.world(), now);
            self.withhold(ipam);
        }
    }

    /// Reachability changed, which the allocator learns as if the peers concerned had said something.
    pub(super) fn reachability_changed(&mut self, peers: impl IntoIterator<Item = PeerName>) {
        if self.addresses.ipam.is_some() {
            self.addresses.changed.extend(peers);
        }
    }

    fn world(&self) -> World<'_> {
        World {
            entries: self.exchange.addresses(),
            reachable: self.routes.reachable(),
            targets: &self.addresses.targets,
        }
    }

    fn update_targets(&mut self) {
        let (count, peers) = self.maker.target_peers();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let targets = Targets { count, peers: peers.into_iter().collect() };
        if targets != self.addresses.targets {
            self.addresses.changed.insert(self.name);
            self.addresses.targets = targets;
        }
    }

    fn refuse_requests(&mut self, error: &AllocationError) {
        while let Some((id, _)) = self.addresses.requests.pop_front() {
            self.answer_request(id, Err(error.clone()));
        }
    }

    /// Has the allocator's state stored, and holds back what it says of it. What only people here read waits for nothing.
    fn withhold(&mut self, ipam: &mut Ipam) {
        while let Some(output) = ipam.poll_output() {
            match output {
                IpamOutput::Keep(state) => {
                    let number = self.addresses.withheld.number();
                    self.outputs.push_back(Output::Keep { number, state });
                }
                IpamOutput::Happened(event) => self.outputs.push_back(Output::Event(Event::Addresses(event))),
                IpamOutput::Set(..) | IpamOutput::Unset(_) | IpamOutput::Forget(_) | IpamOutput::Answer(..) => {
                    self.addresses.withheld.say(output);
                }
            }
        }
    }

    fn perform(&mut self, output: IpamOutput) {
        match output {
            IpamOutput::Set(key, value) => self.tell_address(key, Some(value)),
            IpamOutput::Unset(key) => self.tell_address(key, None),
            IpamOutput::Forget(peer) => self.exchange.bury_addresses(peer),
            IpamOutput::Answer(id, result) => self.answer_request(id, result),
            // These were not held back.
            IpamOutput::Keep(_) | IpamOutput::Happened(_) => {}
        }
    }

    /// Whoever was told that it took too long is told nothing more: asking again gives what was given then.
    fn answer_request(&mut self, id: u64, result: Result<AddressAnswer, AllocationError>) {
        if self.addresses.asked.remove(&id).is_some() {
            self.outputs.push_back(Output::AddressAnswer { id, result });
        }
    }

    /// Ends requests whose answers could not be stored in time.
    fn end_late(&mut self, now: Time) {
        let late: Vec<u64> =
            self.addresses.asked.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        let unstored = || AllocationError::Unstored { reason: "the disk takes too long".to_owned() };
        for id in late {
            self.addresses.requests.retain(|(waiting, _)| *waiting != id);
            let error = self.addresses.unstored().unwrap_or_else(unstored);
            self.answer_request(id, Err(error));
        }
    }

    fn tell_address(&mut self, key: Key, value: Option<Value>) {
        if let Err(error) = self.exchange.set_address(key, value) {
            let reason = error.to_string();
            self.outputs.push_back(Output::Event(Event::Addresses(AddressEvent::Untold { reason })));
        }
    }
}
