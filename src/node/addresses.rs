//! The allocator's place in the node: hands it what others say of addresses, and does what it wants done.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
};

use super::{
    Node, NodeConfig,
    output::{Event, Output},
};
use crate::{
    api::allocation::{AddressRequest, AddressStatus, AllocationError, PeerLabel},
    entropy::Entropy,
    id::PeerName,
    ipam::{
        AddressEvent, AllocationConfig, Ipam, IpamOutput,
        entry::{Key, Value},
        world::{Targets, World},
    },
    time::Time,
};

/// The allocator, if the node has one, and what it has not seen yet.
#[derive(Debug)]
pub(super) struct Addresses {
    ipam: Option<Ipam>,
    targets: Targets,
    changed: BTreeSet<PeerName>,
    requests: VecDeque<(u64, AddressRequest)>,
    /// It has not been called yet: what it says of itself must be told before anybody listens.
    is_new: bool,
}

impl Addresses {
    /// The allocator of a node with this configuration, which gives away what was kept.
    pub(super) fn new(config: &mut NodeConfig, entropy: &Entropy) -> Self {
        let kept = config.allocation.as_mut().and_then(|allocation| allocation.kept.take());
        let allocation = config.allocation.clone().map(|allocation| AllocationConfig { kept, ..allocation });
        let name = config.identity.name();
        let ipam = allocation.map(|a| Ipam::new(name, config.nickname.clone(), a, entropy.clone(), Time::ZERO));
        Self { ipam, targets: Targets::default(), changed: BTreeSet::new(), requests: VecDeque::new(), is_new: true }
    }

    /// Something is asked.
    pub(super) fn request(&mut self, id: u64, request: AddressRequest) {
        self.requests.push_back((id, request));
    }

    /// Whether what a peer says of addresses must not be forgotten.
    pub(super) fn remembers(&self, peer: PeerName) -> bool {
        self.ipam.as_ref().is_some_and(|ipam| ipam.remembers(peer))
    }

    /// When the allocator wants to be woken.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.ipam.as_ref()?.deadline()
    }
}

impl Node {
    /// `weft status ipam`.
    pub fn address_status(&self) -> AddressStatus {
        match &self.addresses.ipam {
            Some(ipam) => ipam.status(self.world()),
            None => AddressStatus { state: "off".to_owned(), ..AddressStatus::default() },
        }
    }

    /// Which peer may give out an address, as far as known.
    pub fn address_space(&self, address: IpAddr) -> Option<PeerLabel> {
        self.addresses.ipam.as_ref()?.space_of(address, self.world())
    }

    /// Lets the allocator see what is new, and does what it wants.
    pub(super) fn allocate(&mut self, now: Time) {
        let changed = self.exchange.take_changed_addresses();
        let Some(mut ipam) = self.addresses.ipam.take() else {
            return self.refuse_requests();
        };
        self.addresses.changed.extend(changed);
        self.update_targets();
        let is_due = ipam.deadline().is_some_and(|at| at <= now);
        if is_due || !self.addresses.changed.is_empty() || std::mem::take(&mut self.addresses.is_new) {
            let changed = std::mem::take(&mut self.addresses.changed);
            ipam.update(&changed, self.world(), now);
            self.perform(&mut ipam);
        }
        while let Some((id, request)) = self.addresses.requests.pop_front() {
            ipam.request(id, request, self.world(), now);
            self.perform(&mut ipam);
        }
        self.addresses.ipam = Some(ipam);
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

    fn refuse_requests(&mut self) {
        while let Some((id, _)) = self.addresses.requests.pop_front() {
            self.outputs.push_back(Output::AddressAnswer { id, result: Err(AllocationError::Off) });
        }
    }

    fn perform(&mut self, ipam: &mut Ipam) {
        while let Some(output) = ipam.poll_output() {
            match output {
                IpamOutput::Keep(bytes) => self.outputs.push_back(Output::Keep(bytes)),
                IpamOutput::Set(key, value) => self.tell_address(key, Some(value)),
                IpamOutput::Unset(key) => self.tell_address(key, None),
                IpamOutput::Forget(peer) => self.exchange.forget_addresses(peer),
                IpamOutput::Answer(id, result) => self.outputs.push_back(Output::AddressAnswer { id, result }),
                IpamOutput::Happened(event) => self.outputs.push_back(Output::Event(Event::Addresses(event))),
            }
        }
    }

    fn tell_address(&mut self, key: Key, value: Option<Value>) {
        if let Err(error) = self.exchange.set_address(key, value) {
            let reason = error.to_string();
            self.outputs.push_back(Output::Event(Event::Addresses(AddressEvent::Untold { reason })));
        }
    }
}
