//! The pretended kernel of a host: it does as the plan says, and outlives the router.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    fastdp::{EspPlan, Plan, PlannedPeer, Protection, SaSet},
    id::{Mac, PeerName},
    node::input::Input,
};

/// What the kernel has.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    peers: BTreeMap<PeerName, PlannedPeer>,
    /// Where each station's frames go: to a peer, or to the TAP.
    stations: BTreeMap<Mac, Option<PeerName>>,
    /// The last plan of the router of now: what it does not plan any more goes.
    planned: Plan,
    /// What the router before it left to seal and open with: in force until something is planned instead.
    found: BTreeMap<PeerName, EspPlan>,
    /// To whom frames went since that was looked at.
    carried: BTreeSet<PeerName>,
    /// Packets that it would not send, or not open.
    pub(super) refused: u64,
}

impl Kernel {
    /// Does as the plan says; what an earlier router left and this one has not planned yet stays. Returns what the router is told
    /// of it.
    pub(super) fn apply(&mut self, plan: &Plan) -> Vec<Input> {
        self.peers.retain(|peer, _| plan.peers.contains_key(peer) || !self.planned.peers.contains_key(peer));
        self.stations.retain(|mac, _| plan.stations.contains_key(mac) || !self.planned.stations.contains_key(mac));
        let mut told = Vec::new();
        for (peer, planned) in &plan.peers {
            let mut planned = planned.clone();
            let before = self.peers.get(peer).and_then(esp).cloned().unwrap_or_default();
            if let Protection::Esp(esp) = &mut planned.protection {
                told.extend(new_sets(&before, esp).map(|spi| Input::EspInstalled { peer: *peer, spi, error: None }));
                if let Some(found) = self.found.get(peer).cloned() {
                    esp.send = esp.send.take().or(found.send);
                    esp.receive.extend(found.receive);
                }
            }
            self.peers.insert(*peer, planned);
        }
        let is_carried = |peer: &PeerName| plan.peers.get(peer).is_some_and(|planned| planned.carries);
        self.stations.extend(plan.stations.iter().map(|(mac, peer)| (*mac, Some(*peer).filter(is_carried))));
        let ways =
            plan.peers.iter().filter(|(peer, planned)| self.planned.peers.get(peer).and_then(way) != way(planned));
        told.extend(ways.filter_map(|(&peer, planned)| {
            let (remote, spi) = way(planned)?;
            Some(Input::FastInstalled { peer, remote, spi, error: None })
        }));
        self.planned = plan.clone();
        told
    }

    /// How many peers it has something for.
    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// The router is another one now.
    pub(super) fn router_restarted(&mut self) {
        self.planned = Plan::default();
        self.found = self.peers.iter().filter_map(|(peer, planned)| Some((*peer, esp(planned)?.clone()))).collect();
    }

    /// Which peer a frame to `mac` goes to by the fast datapath; None if it goes to the TAP.
    pub(super) fn carries(&self, mac: Mac) -> Option<PeerName> {
        self.stations.get(&mac).copied().flatten()
    }

    /// A frame goes to `peer` by the fast datapath; whether it is the first since that was looked at.
    pub(super) fn carry(&mut self, peer: PeerName) -> bool {
        let is_first = self.carried.is_empty();
        self.carried.insert(peer);
        is_first
    }

    /// To whom frames went since that was looked at last.
    pub(super) fn look(&mut self) -> Input {
        Input::Carried { peers: std::mem::take(&mut self.carried).into_iter().collect() }
    }

    /// What a packet to `peer` is sealed with: None if none leaves; the inner None is clear.
    pub(super) fn seal(&self, peer: PeerName) -> Option<Option<SaSet>> {
        match &self.peers.get(&peer)?.protection {
            Protection::Clear => Some(None),
            Protection::Esp(esp) => esp.send.clone().map(Some),
        }
    }

    /// Whether a packet from `peer` that was sealed so is accepted.
    pub(super) fn opens(&self, peer: PeerName, seal: Option<&SaSet>) -> bool {
        match (self.peers.get(&peer).map(|planned| &planned.protection), seal) {
            (Some(Protection::Clear), None) => true,
            (Some(Protection::Esp(esp)), Some(set)) => esp.receive.iter().any(|ours| opens(ours, set)),
            (Some(Protection::Clear), Some(_)) | (Some(Protection::Esp(_)) | None, _) => false,
        }
    }
}

/// Whether what was sealed with one set is opened by another. A NAT between lets each end see other addresses.
fn opens(ours: &SaSet, theirs: &SaSet) -> bool {
    (ours.spi, &ours.keys, ours.encap.is_some()) == (theirs.spi, &theirs.keys, theirs.encap.is_some())
}

fn esp(planned: &PlannedPeer) -> Option<&EspPlan> {
    match &planned.protection {
        Protection::Clear => None,
        Protection::Esp(esp) => Some(esp),
    }
}

/// How packets get to a peer: where to, and under which SPI; None while they do not.
fn way(planned: &PlannedPeer) -> Option<(IpAddr, Option<u32>)> {
    match &planned.protection {
        Protection::Clear => Some((planned.remote, None)),
        Protection::Esp(esp) => Some((planned.remote, Some(esp.send.as_ref()?.spi))),
    }
}

fn new_sets(before: &EspPlan, now: &EspPlan) -> impl Iterator<Item = u32> {
    now.receive.iter().filter(|set| !before.receive.contains(set)).map(|set| set.spi)
}
