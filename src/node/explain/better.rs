//! What stands in the way of a better path, in words for people: what both ends see of it, and what to look at.

use std::{net::SocketAddr, time::Duration};

use crate::{
    id::PeerName,
    link::{direct::Direct, fast::underlay_address},
    node::{Node, links::Link, selector::Selector},
    time::Time,
    topology::graph::PathChoice,
};

/// Something came by TCP so long after the last echo over UDP: then it is only UDP that does not pass.
const ONLY_UDP_AFTER: Duration = Duration::from_secs(1);

impl Node {
    /// Why no better way is taken, and what would help.
    pub(super) fn better(&self, peer: PeerName, choice: &Selector, ways: &[PathChoice], now: Time) -> Vec<String> {
        let Some(relays) = choice.chosen() else { return vec![self.no_path(peer, now)] };
        let mut words: Vec<String> = self.rival(peer, choice, ways, now).into_iter().collect();
        let link = self.links.link(peer);
        words.extend(match link {
            Some(link) if !relays.is_empty() => Some(self.no_direct(peer, link, now)),
            Some(link) => self.no_fastdp(link, now).map(|why| format!("fastdp instead of the sleeve: {why}")),
            None => None,
        });
        words.extend(self.narrow(peer, relays));
        words
    }

    /// Why frames do not go by the fast datapath; None while they do.
    pub(super) fn no_fastdp(&self, link: &Link, now: Time) -> Option<String> {
        let why = link.fast.obstacle(&self.links.fast, now)?;
        Some(if why.is_empty() { "it is off on this host (--fastdp off)".to_owned() } else { why })
    }

    /// Why there is no direct path by the sleeve, as far as this end can tell.
    pub(super) fn no_answer(&self, peer: PeerName, direct: &Direct, has_session: bool, now: Time) -> String {
        let at: Vec<String> = direct.candidates().map(shown).collect();
        if at.is_empty() {
            return "it is not known where the other host is".to_owned();
        }
        let at = at.join(", ");
        let what = match (has_session, direct.is_one_way(now)) {
            (_, true) => format!("UDP comes from there, but what we send to {at} does not arrive"),
            (true, false) => format!("no answer over UDP at {at}, and nothing comes from there"),
            (false, false) => format!("the handshake over UDP is not answered at {at}"),
        };
        format!("{what}; {}", self.beside_udp(peer, direct))
    }

    /// A path that is better, and not taken yet.
    fn rival(&self, peer: PeerName, choice: &Selector, ways: &[PathChoice], now: Time) -> Option<String> {
        let relays = choice.chosen()?;
        let best = ways.iter().min_by_key(|way| way.cost).filter(|best| best.relays != relays)?;
        let in_use = self.routes.in_use(relays, peer)?;
        let (best_cost, cost, wanted) = (Duration::from_micros(best.cost), in_use.cost, in_use.gain_wanted());
        Some(format!(
            "{} costs {best_cost:.1?} instead of {cost:.1?}: it is taken when it has been better by {wanted:.1?} for {} s",
            self.words(Some(&best.relays)),
            choice.lasts(cost, now).as_secs_f32()
        ))
    }

    /// What is wrong with the direct path, or with there being none.
    fn no_direct(&self, peer: PeerName, link: &Link, now: Time) -> String {
        match &link.direct {
            None => self.not_sought(peer),
            Some(direct) if direct.address().is_none() => {
                format!("a direct path: {}", self.no_answer(peer, direct, link.keys.is_established(), now))
            }
            Some(_) => {
                let quality = link.own.map(|own| own.quality).unwrap_or_default();
                format!(
                    "the direct path is up and has to get better: rtt {:.1?}, jitter {:.1?}, loss {:.1} %",
                    quality.rtt,
                    quality.jitter,
                    quality.loss * 100.0
                )
            }
        }
    }

    /// Why no direct path is looked for.
    pub(super) fn not_sought(&self, peer: PeerName) -> String {
        match self.unconnected(peer) {
            _ if !self.config.discovery => "a direct path is looked for where there is a control connection: without \
                 discovery (--no-discovery) one is made only with peers that this router was told of, by `weft connect`"
                .to_owned(),
            Some(why) => {
                format!("a direct path is looked for when frames are sent, as there is no control connection: {why}")
            }
            None => "a direct path is looked for when frames are sent".to_owned(),
        }
    }

    /// Why there is no path at all.
    fn no_path(&self, peer: PeerName, now: Time) -> String {
        let record = self.exchange.topology().get(peer, &());
        if record.is_some_and(|record| record.leaving) {
            return "its router was stopped there: `weft launch` brings it back".to_owned();
        }
        if !self.routes.is_reachable(peer) {
            let why = self.unconnected(peer).map(|why| format!(" ({why})")).unwrap_or_default();
            return format!(
                "no peer that we reach hears from it: its router is down, or its host or the network there{why}"
            );
        }
        let link = self.links.link(peer);
        let why =
            link.and_then(|link| Some(self.no_answer(peer, link.direct.as_ref()?, link.keys.is_established(), now)));
        let why = why.unwrap_or_else(|| self.not_sought(peer));
        if self.routes.is_only_by_unwilling(peer) {
            return format!("it is there, and who could relay passes on no frames (--no-relay): {why}");
        }
        format!("it is there, and no link passes frames to it: {why}")
    }

    /// What TCP shows where UDP is not answered.
    fn beside_udp(&self, peer: PeerName, direct: &Direct) -> String {
        let port = self.config.port;
        match self.connections.heard_at(peer) {
            Some(at) if direct.echoed_at().is_none_or(|echoed| at > echoed + ONLY_UDP_AFTER) => {
                format!("TCP passes: does a firewall drop UDP port {port}?")
            }
            Some(_) => "is a firewall in the way, or is the network between the hosts cut?".to_owned(),
            None => match self.unconnected(peer) {
                Some(why) => format!("nor does TCP pass: {why}"),
                None => "there is no connection by TCP either: is the network between the hosts cut?".to_owned(),
            },
        }
    }

    /// Why no control connection with a peer came about when one was tried; None if none was, or there is one.
    fn unconnected(&self, peer: PeerName) -> Option<String> {
        let record = self.exchange.topology().get(peer, &())?;
        let is_there = |address: &str| address.parse().is_ok_and(|at: SocketAddr| record.addresses.contains(&at));
        let lines = self.maker.pending();
        let line =
            lines.iter().find(|line| line.name == Some(peer) || (line.name.is_none() && is_there(&line.address)))?;
        if line.info.is_empty() {
            return None;
        }
        let nat = match self.advert.seen_elsewhere() {
            Some(ip) => {
                format!(
                    "; it cannot connect to us, as this host is behind a NAT (seen at {ip}): is it behind one, too?"
                )
            }
            None => String::new(),
        };
        Some(format!("{}{nat}", line.info))
    }

    /// That larger packets are cut.
    fn narrow(&self, peer: PeerName, relays: &[PeerName]) -> Option<String> {
        let is_carried = self.links.link(peer).is_some_and(Link::is_carried);
        let (mtu, wanted) = (self.path_mtu(peer, relays)?, u32::from(self.links.fast.mtu));
        (!is_carried && mtu < wanted).then(|| {
            format!("packets of more than {mtu} bytes are cut: the underlay carries less than the containers' MTU {wanted} needs")
        })
    }
}

fn shown(candidate: SocketAddr) -> String {
    SocketAddr::new(underlay_address(candidate), candidate.port()).to_string()
}
