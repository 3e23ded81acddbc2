//! What the node tells its users.

use std::{collections::BTreeMap, time::Duration};

use super::{Node, links::Link};
use crate::{
    api::{Connection, ConnectionState, Path, Peer, PeerConnection, Report, Summary, path},
    id::{Nickname, PeerName},
    link::estimate::Losses,
    time::Time,
    topology::record::PeerRecord,
    wire::{
        VERSION_MAX, VERSION_MIN,
        overhead::ETHERNET_LEN,
        sleeve::{PACKET_OVERHEAD, RECORD_HEADER_LEN, relay_overhead},
    },
};

/// The methods by name, as users see them.
pub(super) const FASTDP: &str = "fastdp";
pub(super) const SLEEVE: &str = "sleeve";
const NONE: &str = "none";

/// How frames pass a link directly.
struct Method {
    name: &'static str,
    sealed: bool,
    mtu: Option<u32>,
    rtt: Option<Duration>,
    info: String,
}

impl Default for Method {
    fn default() -> Self {
        // Whatever passes will be sealed.
        Self { name: NONE, sealed: true, mtu: None, rtt: None, info: String::new() }
    }
}

impl Node {
    /// All that users may ask about.
    pub fn report(&self, now: Time) -> Report {
        Report {
            version: self.config.version.clone(),
            router: self.summary(now),
            targets: self.maker.target_status(now),
            connections: self.connection_lines(now),
            peers: self.peer_lines(),
            endpoints: self.table.list(|peer| self.nickname(peer)),
            paths: self.path_lines(now),
            ipam: self.address_status(),
            names: self.names.table().list(|peer| self.nickname(peer)),
            dns: None,
            counters: self.counters(),
        }
    }

    fn summary(&self, now: Time) -> Summary {
        Summary {
            name: self.name,
            nickname: self.config.nickname.clone(),
            network: self.config.network.clone(),
            protocol: (VERSION_MIN, VERSION_MAX),
            port: self.config.port,
            encryption: !self.config.secret.is_open(),
            discovery: self.config.discovery,
            relaying: self.advert.relaying(&self.config).to_string(),
            conn_limit: self.config.conn_limit,
            trusted_subnets: self.config.trusted_subnets.clone(),
            fastdp: self.links.fast.ability.backend().to_owned(),
            fastdp_info: self.links.fast.ability.info(),
            uptime_s: now.since(Time::ZERO).as_secs(),
        }
    }

    fn connection_lines(&self, now: Time) -> Vec<Connection> {
        let mut lines: Vec<Connection> = Vec::new();
        for (_, connection, peer) in self.connections.up() {
            let method = self.links.link(peer.name).map(|link| self.method(link, now)).unwrap_or_default();
            lines.push(Connection {
                direction: connection.direction,
                address: connection.remote.map(|remote| remote.to_string()).unwrap_or_default(),
                state: if method.name == NONE { ConnectionState::Pending } else { ConnectionState::Established },
                encrypted: method.sealed && !self.config.secret.is_open(),
                method: method.name.to_owned(),
                name: Some(peer.name),
                nickname: Some(peer.hello.nickname.clone()),
                mtu: method.mtu,
                rtt_us: method.rtt.map(micros),
                info: method.info,
            });
        }
        lines.extend(self.maker.pending().into_iter().map(|line| {
            let nickname = line.name.and_then(|name| self.nickname(name));
            Connection { nickname, ..line }
        }));
        lines
    }

    /// How frames pass a link directly, and why not better.
    fn method(&self, link: &Link, now: Time) -> Method {
        let direct = link.direct.as_ref().filter(|direct| direct.address().is_some());
        let obstacle = link.fast.obstacle(&self.links.fast, now).filter(|why| !why.is_empty());
        if link.fast.carries() {
            let lanes = link.fast.lanes();
            let info = match lanes {
                None if self.config.secret.is_open() => String::new(),
                None => "unencrypted: both ends are in trusted subnets".to_owned(),
                Some(lanes) => {
                    let esp = if link.fast.crosses_nat() { "ESP in UDP" } else { "ESP" };
                    format!("{esp}, {lanes} lane{}", if lanes == 1 { "" } else { "s" })
                }
            };
            let unsure = if direct.is_none() { "the sleeve does not answer over UDP" } else { "" };
            let info =
                [info.as_str(), unsure].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
            let mtu = Some(u32::from(self.links.fast.mtu));
            return Method { name: FASTDP, sealed: lanes.is_some(), mtu, rtt: link.fast.rtt(), info };
        }
        let Some(direct) = direct else {
            let info = if link.keys.is_established() {
                "sleeve: no answer over UDP; is a firewall in the way?"
            } else {
                "sleeve: handshake over UDP not answered; is a firewall in the way?"
            };
            return Method { info: info.to_owned(), ..Method::default() };
        };
        Method {
            name: SLEEVE,
            sealed: true,
            mtu: direct.payload_max().map(|max| inner_mtu(max, 0)),
            rtt: direct.rtt(),
            info: obstacle.map(|why| format!("not by fastdp: {why}")).unwrap_or_default(),
        }
    }

    fn peer_lines(&self) -> Vec<Peer> {
        let line = |(name, (), record): (PeerName, &(), &PeerRecord)| Peer {
            name,
            nickname: record.nickname.clone(),
            addresses: record.addresses.iter().map(ToString::to_string).collect(),
            connections: record
                .links
                .iter()
                .map(|link| PeerConnection {
                    name: link.peer,
                    nickname: self.nickname(link.peer),
                    up: link.data.is_some(),
                    rtt_us: link.detail.map(|detail| detail.rtt).or(link.data).map(|rtt| rtt.micros()),
                })
                .collect(),
        };
        self.exchange.topology().iter().filter(|(.., record)| !record.leaving).map(line).collect()
    }

    fn path_lines(&self, now: Time) -> Vec<Path> {
        let others = self.exchange.topology().iter().filter(|(name, _, record)| *name != self.name && !record.leaving);
        others.filter_map(|(name, ..)| self.path_line(name, now)).collect()
    }

    pub(super) fn path_line(&self, name: PeerName, now: Time) -> Option<Path> {
        let choice = self.routes.choice(name)?;
        let link = self.links.link(name);
        if let Some(fast) = link.filter(|link| link.is_carried()).map(|link| &link.fast) {
            return Some(Path {
                name,
                nickname: self.nickname(name),
                path: "direct".to_owned(),
                relays: Vec::new(),
                further: Vec::new(),
                method: FASTDP.to_owned(),
                rtt_us: fast.rtt().map(micros),
                loss: Some(fast.loss()),
                losses: fast.losses().map(|losses| told(losses, false)),
                mtu: Some(self.links.fast.mtu.into()),
                since: self.unix(fast.since()),
                reason: fast.reason().to_owned(),
            });
        }
        let relays = choice.chosen().map(<[PeerName]>::to_vec);
        let direct = link.and_then(|link| link.direct.as_ref());
        let is_direct = relays.as_ref().is_some_and(Vec::is_empty);
        let rtt = if is_direct { direct.and_then(|direct| direct.rtt()) } else { self.routes.path_rtt(name) };
        let mtu = relays.as_ref().and_then(|relays| self.path_mtu(name, relays));
        // Why the fast datapath was left says more than why the sleeve had been there already.
        let left = link.map(|link| &link.fast).filter(|fast| !fast.reason().is_empty() && fast.since() > choice.since);
        let (changed, reason) =
            left.map_or((choice.since, choice.reason.as_str()), |fast| (fast.since(), fast.reason()));
        Some(Path {
            name,
            nickname: self.nickname(name),
            path: match &relays {
                None => NONE,
                Some(relays) if relays.is_empty() => "direct",
                Some(_) => "relay",
            }
            .to_owned(),
            method: if relays.is_some() { SLEEVE } else { NONE }.to_owned(),
            relays: relays.unwrap_or_default(),
            further: self.further(name).map(<[_]>::to_vec).collect(),
            rtt_us: rtt.map(micros),
            loss: direct.filter(|_| is_direct).map(|direct| direct.loss()),
            losses: direct
                .filter(|_| is_direct)
                .and_then(|direct| direct.losses(now))
                .map(|(losses, of)| told(losses, of)),
            mtu,
            since: self.unix(changed),
            reason: reason.to_owned(),
        })
    }

    /// The largest packet that passes the sleeve's path by these relays, the one in use.
    pub(super) fn path_mtu(&self, peer: PeerName, relays: &[PeerName]) -> Option<u32> {
        Some(inner_mtu(self.payload_max(peer)?, relays.len()))
    }

    /// Wall-clock time in Unix seconds.
    pub(super) fn unix(&self, time: Time) -> u64 {
        self.config.started + time.since(Time::ZERO).as_secs()
    }

    pub(super) fn nickname(&self, peer: PeerName) -> Option<Nickname> {
        self.exchange.topology().get(peer, &()).map(|record| record.nickname.clone())
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let rekeys = self.links.iter().map(|(_, link)| link.rekeys).sum();
        let mut counters = BTreeMap::from([
            ("rekeys".to_owned(), rekeys),
            ("path_changes".to_owned(), self.path_changes),
            ("gossip_refused".to_owned(), self.exchange.refused),
        ]);
        counters.extend(self.links.drops.iter().map(|(reason, count)| (format!("drops_{}", reason.as_str()), count)));
        counters
    }
}

/// The largest IP packet whose frame fits a UDP payload of `payload_max` on a path of so many relays.
fn inner_mtu(payload_max: usize, relays: usize) -> u32 {
    let overhead = PACKET_OVERHEAD + RECORD_HEADER_LEN + ETHERNET_LEN + relay_overhead(relays);
    u32::try_from(payload_max.saturating_sub(overhead)).unwrap_or(0)
}

/// Loss by direction, of frames or of probes.
pub(super) fn told(Losses { there, back }: Losses, is_of_frames: bool) -> path::Losses {
    path::Losses { there, back, of: if is_of_frames { "frames" } else { "probes" }.to_owned() }
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
