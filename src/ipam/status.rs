//! What people are told about addresses.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    Ipam,
    range::{Range, number},
    subnet::with_prefix,
    world::World,
};
use crate::{
    api::allocation::{AddressStatus, AllocationError, PeerLabel, PeerShare},
    id::PeerName,
};

impl Ipam {
    /// `weft status ipam`.
    pub fn status(&self, world: World<'_>) -> AddressStatus {
        AddressStatus {
            state: self.state_word().to_owned(),
            info: self.info(world),
            ranges: self.config.ranges.iter().map(|net| net.trunc()).collect(),
            default_subnets: self.defaults.iter().map(super::Subnet::net).collect(),
            owners: self.state.allotments.list(),
            peers: self.shares(world),
            conflicts: self.conflicts(world),
        }
    }

    /// Who may give out an address, as far as known.
    pub fn space_of(&self, address: IpAddr, world: World<'_>) -> Option<PeerLabel> {
        let at = number(address);
        let is_ours = self.state.claims.iter().any(|(range, _)| range.contains(at));
        let claims_it = |name: &PeerName| {
            let is_heard = self.known_id(*name).is_some_and(|id| world.id(*name) == Some(id));
            is_heard && world.claims(*name).any(|(range, _)| range.contains(at))
        };
        let owner = if is_ours { Some(self.name) } else { self.state.known.keys().copied().find(claims_it) };
        owner.map(|name| self.label(name, world))
    }

    fn state_word(&self) -> &'static str {
        let is_founded = self.state.universe.is_some();
        match () {
            () if self.full && !(self.foreign.is_empty() && self.disputed.is_empty()) => "conflict",
            () if self.full => "ready",
            () if is_founded && self.state.admitted.is_some() => "unconfirmed",
            () if is_founded => "waiting",
            () if self.pending.is_empty() && self.propose_at.is_none() => "idle",
            () if self.config.init.elects() => "electing",
            () => "waiting",
        }
    }

    fn info(&self, world: World<'_>) -> String {
        match self.obstacle(world) {
            None => String::new(),
            Some(AllocationError::NotStarted { .. }) if self.state_word() == "idle" => {
                "the first request for an address starts it".to_owned()
            }
            Some(error) => error.to_string(),
        }
    }

    /// Why the universe is not founded, in words.
    pub(super) fn election_obstacle(&self, world: World<'_>) -> String {
        let electors = self.unfounded.iter().filter(|peer| {
            world.reachable.contains(peer)
                && world.member(**peer).is_some_and(|m| matches!(m.standing, super::entry::Standing::Elector(_)))
        });
        let there = electors.count();
        if !self.config.init.elects() {
            return format!(
                "this router takes no part in the start; it waits for others ({there} of them are there), or for one that has started"
            );
        }
        let slice = self.state.elector.as_ref().map_or(1, |elector| elector.slice);
        let wanted = slice / 2 + 1;
        format!(
            "{} of {slice} peers that have to agree are there, and it takes {wanted}, and as many for each of them; start \
             the others, or launch with fewer peers or another --ipalloc-init",
            there + 1
        )
    }

    /// Why we are not a member yet, in words.
    pub(super) fn admission_obstacle(&self, world: World<'_>) -> String {
        let members: Vec<String> = self.awaited().iter().map(|peer| self.label(*peer, world).to_string()).collect();
        let members = if members.is_empty() { "a peer that has addresses".to_owned() } else { members.join(", ") };
        format!(
            "this router was never admitted by those that share the ranges; waiting for {members}; if they are gone for \
             good: `weft reset` and launch again all that wait like this one"
        )
    }

    /// Who may give out how much, as far as known.
    fn shares(&self, world: World<'_>) -> Vec<PeerShare> {
        let mut owned: BTreeMap<PeerName, Vec<Range>> = BTreeMap::new();
        owned.insert(self.name, self.state.claims.iter().map(|(range, _)| range).collect());
        for id in self.state.known.keys().filter_map(|name| self.known_id(*name)) {
            let is_heard = world.is_heard(id);
            let claims = is_heard.then(|| world.claims(id.name).map(|(range, _)| range).collect());
            owned.insert(id.name, claims.unwrap_or_default());
        }
        let share = |name: PeerName, all: &[Range], net: &IpNet| {
            let space = Range::of(net);
            let ranges: Vec<&Range> = all.iter().filter(|range| space.includes(**range)).collect();
            let addresses = ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.len()));
            PeerShare {
                peer: self.label(name, world),
                range: net.trunc(),
                addresses,
                share: addresses as f64 / space.len() as f64,
                ranges: u32::try_from(ranges.len()).unwrap_or(u32::MAX),
                reachable: name == self.name || world.reachable.contains(&name),
            }
        };
        if self.state.universe.is_none() {
            return Vec::new();
        }
        let nets = &self.config.ranges;
        owned.iter().flat_map(|(name, all)| nets.iter().map(move |net| share(*name, all, net))).collect()
    }

    fn conflicts(&self, world: World<'_>) -> Vec<String> {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (peer, reason) in &self.foreign {
            by_reason.entry(reason).or_default().push(self.label(*peer, world).to_string());
        }
        let foreign =
            by_reason.into_iter().map(|(reason, peers)| format!("kept apart: {}: {reason}", peers.join(", ")));
        let disputed = self.disputed.iter().filter_map(|(at, by)| {
            let holding = self.state.allotments.holder(*at)?;
            let net = with_prefix(*at, holding.prefix);
            Some(format!(
                "{} of {} is also in use by a container of {by}: start {} anew",
                net.addr(),
                holding.owner,
                holding.owner
            ))
        });
        foreign.chain(disputed).collect()
    }
}
