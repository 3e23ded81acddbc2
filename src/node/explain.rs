//! Why frames go to a peer the way they do, for `weft explain PEER`.

mod better;

use super::{
    Node,
    links::Link,
    report::{FASTDP, SLEEVE, micros, told},
    selector::Selector,
};
use crate::{
    api::{
        allocation::PeerLabel,
        path::{Method, PathChange, PeerExplanation, Way},
    },
    id::PeerName,
    time::Time,
    topology::{graph::PathChoice, record::PeerRecord},
};

impl Node {
    /// What is known of the ways to a peer, by name or nickname; None if there is no such peer.
    pub fn explain_peer(&self, peer: &str, now: Time) -> Option<PeerExplanation> {
        let name = self.find_peer(peer)?;
        let path = self.path_line(name, now)?;
        let choice = self.routes.choice(name)?;
        let ways = self.ways(name, choice);
        let cost = choice.chosen().and_then(|relays| self.routes.in_use(relays, name)).map(|in_use| in_use.cost);
        Some(PeerExplanation {
            cost_us: cost.map(micros),
            ways: ways.iter().map(|way| self.way(way, choice, name)).collect(),
            methods: self.links.link(name).map(|link| self.methods(name, link, now)).unwrap_or_default(),
            nat: self.nat(name),
            changes: self.changes(choice),
            better: self.better(name, choice, &ways, now),
            path,
        })
    }

    /// A peer by its name, or by its nickname if only one has it; also one that stopped a moment ago.
    fn find_peer(&self, text: &str) -> Option<PeerName> {
        let others = || self.exchange.topology().iter().filter(|(name, ..)| *name != self.name);
        if let Ok(name) = text.parse::<PeerName>() {
            return others().map(|(other, ..)| other).find(|other| *other == name);
        }
        // Who stopped may be back already under another name.
        let only = |leaving: bool| {
            let is_it = |record: &PeerRecord| record.leaving == leaving && record.nickname.as_str() == text;
            let mut named = others().filter(|(.., record)| is_it(record)).map(|(name, ..)| name);
            named.next().filter(|_| named.next().is_none())
        };
        only(false).or_else(|| only(true))
    }

    /// The ways that are in use, the chosen one first, and then the others, the best first.
    fn ways(&self, peer: PeerName, choice: &Selector) -> Vec<PathChoice> {
        let mut ways = self.routes.ways(peer);
        let missing: Vec<_> =
            self.further(peer).filter(|relays| !ways.iter().any(|way| way.relays == *relays)).collect();
        ways.extend(missing.into_iter().filter_map(|relays| self.routes.way(relays, peer)));
        let is_chosen = |way: &PathChoice| choice.chosen() == Some(&way.relays[..]);
        ways.sort_by_key(|way| (!is_chosen(way), !self.is_in_use(&way.relays, choice, peer)));
        ways
    }

    fn is_in_use(&self, relays: &[PeerName], choice: &Selector, peer: PeerName) -> bool {
        choice.chosen() == Some(relays) || self.further(peer).any(|further| further == relays)
    }

    fn way(&self, way: &PathChoice, choice: &Selector, peer: PeerName) -> Way {
        let measured = self.routes.measured(&way.relays, peer);
        Way {
            path: if way.relays.is_empty() { "direct" } else { "relay" }.to_owned(),
            relays: way.relays.iter().map(|relay| self.label(*relay)).collect(),
            in_use: self.is_in_use(&way.relays, choice, peer),
            relaying: way
                .relays
                .iter()
                .filter_map(|relay| self.routes.relaying(*relay))
                .max()
                .map(|most| most.to_string()),
            cost_us: way.cost,
            rtt_us: measured.map(|measured| micros(measured.rtt)),
            jitter_us: measured.map(|measured| micros(measured.jitter)),
            loss: measured.map(|measured| measured.loss),
        }
    }

    fn methods(&self, peer: PeerName, link: &Link, now: Time) -> Vec<Method> {
        let direct = link.direct.as_ref();
        let address = direct.and_then(|direct| direct.address());
        let is_carried = link.is_carried();
        let fast_quality = link.fast.quality(now).filter(|_| link.fast.carries());
        let fast = Method {
            method: FASTDP.to_owned(),
            state: state(link.fast.carries(), is_carried),
            address: link.fast.underlay().map(|address| address.to_string()),
            rtt_us: fast_quality.map(|quality| micros(quality.rtt)),
            jitter_us: fast_quality.map(|quality| micros(quality.jitter)),
            loss: fast_quality.map(|_| link.fast.loss()),
            losses: fast_quality.and_then(|_| link.fast.losses()).map(|losses| told(losses, false)),
            info: self.no_fastdp(link, now).unwrap_or_else(|| link.fast.reason().to_owned()),
        };
        let quality = direct.and_then(|direct| direct.quality(now));
        let info = match (direct, address) {
            (None, _) => self.not_sought(peer),
            (Some(_), Some(_)) => String::new(),
            (Some(direct), None) => self.no_answer(peer, direct, link.keys.is_established(), now),
        };
        let is_direct = self.routes.relays(peer).is_some_and(<[_]>::is_empty);
        let sleeve = Method {
            method: SLEEVE.to_owned(),
            state: state(address.is_some(), is_direct && !is_carried),
            address: address.map(|address| address.to_string()),
            rtt_us: quality.map(|quality| micros(quality.rtt)),
            jitter_us: quality.map(|quality| micros(quality.jitter)),
            loss: quality.and(direct.map(|direct| direct.loss())),
            losses: quality.and(direct.and_then(|direct| direct.losses(now))).map(|(losses, of)| told(losses, of)),
            info,
        };
        vec![fast, sleeve]
    }

    /// What shows of NATs: an address that is seen and is none of the host's own.
    fn nat(&self, peer: PeerName) -> String {
        let Some(link) = self.links.link(peer) else { return "not known: there is no link".to_owned() };
        let crossed = if link.fast.crosses_nat() { "; fastdp crosses it by ESP in UDP" } else { "" };
        if let Some(what) = link.fast.nat(&self.links.fast) {
            return what + crossed;
        }
        match self.advert.seen_elsewhere() {
            Some(ip) => format!("this host is behind a NAT: others see it at {ip}"),
            None => "none that shows".to_owned(),
        }
    }

    fn changes(&self, choice: &Selector) -> Vec<PathChange> {
        let change = |switch: &super::selector::Switch| PathChange {
            at: self.unix(switch.at),
            from: self.words(switch.from.as_deref()),
            to: self.words(switch.to.as_deref()),
            reason: switch.reason.clone(),
        };
        choice.history().map(change).collect()
    }

    /// A path in words.
    fn words(&self, relays: Option<&[PeerName]>) -> String {
        match relays {
            None => "none".to_owned(),
            Some([]) => "direct".to_owned(),
            Some(relays) => {
                let names: Vec<_> = relays.iter().map(|relay| self.label(*relay).to_string()).collect();
                format!("by {}", names.join(" and "))
            }
        }
    }

    fn label(&self, name: PeerName) -> PeerLabel {
        PeerLabel { name, nickname: self.nickname(name) }
    }
}

fn state(is_up: bool, is_used: bool) -> String {
    match (is_up, is_used) {
        (true, true) => "carries",
        (true, false) => "ready",
        (false, _) => "down",
    }
    .to_owned()
}
