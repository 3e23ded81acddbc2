//! Why frames go to a peer the way they do, for `weft explain PEER`.

use std::{net::SocketAddr, time::Duration};

use super::{
    Node,
    links::Link,
    report::{FASTDP, SLEEVE, micros},
    selector::Selector,
};
use crate::{
    api::{
        allocation::PeerLabel,
        path::{Method, PathChange, PeerExplanation, Way},
    },
    id::PeerName,
    link::fast::underlay_address,
    time::Time,
    topology::graph::PathChoice,
};

impl Node {
    /// What is known of the ways to a peer, by name or nickname; None if there is no such peer.
    pub fn explain_peer(&self, peer: &str, now: Time) -> Option<PeerExplanation> {
        let name = self.find_peer(peer)?;
        let path = self.path_line(name)?;
        let choice = self.routes.choice(name)?;
        let ways = self.routes.ways(name);
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

    /// A peer by its name, or by its nickname if only one has it.
    fn find_peer(&self, text: &str) -> Option<PeerName> {
        let others =
            || self.exchange.topology().iter().filter(|(name, _, record)| *name != self.name && !record.leaving);
        if let Ok(name) = text.parse::<PeerName>() {
            return others().map(|(other, ..)| other).find(|other| *other == name);
        }
        let mut named = others().filter(|(.., record)| record.nickname.as_str() == text).map(|(name, ..)| name);
        named.next().filter(|_| named.next().is_none())
    }

    fn way(&self, way: &PathChoice, choice: &Selector, peer: PeerName) -> Way {
        let measured = self.routes.measured(&way.relays, peer);
        Way {
            path: if way.relays.is_empty() { "direct" } else { "relay" }.to_owned(),
            relays: way.relays.iter().map(|relay| self.label(*relay)).collect(),
            in_use: choice.chosen() == Some(&way.relays[..]),
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
            info: link.fast.obstacle(&self.links.fast, now).unwrap_or_else(|| link.fast.reason().to_owned()),
        };
        let quality = direct.and_then(|direct| direct.quality(now));
        let info = match (direct, address) {
            (None, _) => "a direct path is looked for where there is a control connection only".to_owned(),
            (Some(_), Some(_)) => String::new(),
            (Some(direct), None) => silent(direct.candidates().collect(), link.keys.is_established()),
        };
        let is_direct = self.routes.relays(peer).is_some_and(<[_]>::is_empty);
        let sleeve = Method {
            method: SLEEVE.to_owned(),
            state: state(address.is_some(), is_direct && !is_carried),
            address: address.map(|address| address.to_string()),
            rtt_us: quality.map(|quality| micros(quality.rtt)),
            jitter_us: quality.map(|quality| micros(quality.jitter)),
            loss: quality.and(direct.map(|direct| direct.loss())),
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

    /// Why no better way is taken, and what would help.
    fn better(&self, peer: PeerName, choice: &Selector, ways: &[PathChoice], now: Time) -> Vec<String> {
        let mut words = Vec::new();
        let in_use = choice.chosen().and_then(|relays| Some((relays, self.routes.in_use(relays, peer)?)));
        if let (Some((relays, in_use)), Some(best)) = (in_use, ways.first())
            && best.relays != relays
        {
            let (best_cost, cost, wanted) = (Duration::from_micros(best.cost), in_use.cost, in_use.gain_wanted());
            words.push(format!(
                "{} costs {best_cost:.1?} instead of {cost:.1?}: it is taken when it has been better by {wanted:.1?} for {} s",
                self.words(Some(&best.relays)),
                choice.lasts(cost, now).as_secs_f32()
            ));
        }
        if choice.chosen().is_none() && ways.is_empty() && self.routes.is_only_by_unwilling(peer) {
            words.push("a relay: those between pass on no frames (`--no-relay`)".to_owned());
        }
        let link = self.links.link(peer);
        match (link, choice.chosen()) {
            (Some(link), chosen) if chosen != Some(&[]) => match &link.direct {
                None => {
                    words.push("a control connection would let a direct path be looked for: `weft connect`".to_owned())
                }
                Some(direct) if direct.address().is_none() => {
                    words.push(format!(
                        "a direct path: {}",
                        silent(direct.candidates().collect(), link.keys.is_established())
                    ));
                }
                Some(_) => {
                    let quality = link.own.map(|own| own.quality).unwrap_or_default();
                    words.push(format!(
                        "a direct path that were better: it has rtt {:.1?}, jitter {:.1?}, loss {:.1} %",
                        quality.rtt,
                        quality.jitter,
                        quality.loss * 100.0
                    ));
                }
            },
            (Some(link), Some([])) if !link.fast.carries() => {
                let obstacle = link.fast.obstacle(&self.links.fast, now).filter(|why| !why.is_empty());
                words.extend(obstacle.map(|why| format!("fastdp instead of the sleeve: {why}")));
            }
            (Some(_) | None, _) => {}
        }
        words
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

/// Why there is no direct path by the sleeve, and where it is looked for.
fn silent(candidates: Vec<SocketAddr>, has_session: bool) -> String {
    let at: Vec<_> =
        candidates.iter().map(|to| SocketAddr::new(underlay_address(*to), to.port()).to_string()).collect();
    let what = if has_session { "no answer over UDP" } else { "the handshake over UDP is not answered" };
    if at.is_empty() {
        return "it is not known where the other host is".to_owned();
    }
    format!("{what} at {}; is a firewall in the way?", at.join(", "))
}
