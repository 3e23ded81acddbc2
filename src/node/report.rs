//! What the node tells its users.

use std::{collections::BTreeMap, time::Duration};

use super::Node;
use crate::{
    api::{Connection, ConnectionState, Path, Peer, PeerConnection, Report, Summary},
    id::{Nickname, PeerName},
    time::Time,
    topology::record::PeerRecord,
    wire::{
        VERSION_MAX, VERSION_MIN,
        sleeve::{PACKET_OVERHEAD, RECORD_HEADER_LEN, relay_overhead},
    },
};

/// Bytes of an Ethernet header (IEEE 802.3), which come between a frame record and its IP packet.
const ETHERNET_LEN: usize = 14;

impl Node {
    /// All that users may ask about.
    pub fn report(&self, now: Time) -> Report {
        Report {
            version: self.config.version.clone(),
            router: self.summary(now),
            targets: self.maker.target_status(now),
            connections: self.connection_lines(),
            peers: self.peer_lines(),
            endpoints: self.table.list(|peer| self.nickname(peer)),
            paths: self.path_lines(),
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
            conn_limit: self.config.conn_limit,
            trusted_subnets: self.config.trusted_subnets.clone(),
            fastdp: "off".to_owned(),
            uptime_s: now.since(Time::ZERO).as_secs(),
        }
    }

    fn connection_lines(&self) -> Vec<Connection> {
        let mut lines: Vec<Connection> = Vec::new();
        for (_, connection, peer) in self.connections.up() {
            let link = self.links.link(peer.name);
            let direct = link.and_then(|link| link.direct.as_ref());
            let up = direct.is_some_and(|direct| direct.address().is_some());
            let keys = link.is_some_and(|link| link.keys.is_established());
            let info = match (up, keys) {
                (true, _) => String::new(),
                (false, true) => "sleeve: no answer over UDP; is a firewall in the way?".to_owned(),
                (false, false) => "sleeve: handshake over UDP not answered; is a firewall in the way?".to_owned(),
            };
            lines.push(Connection {
                direction: connection.direction,
                address: connection.remote.map(|remote| remote.to_string()).unwrap_or_default(),
                state: if up { ConnectionState::Established } else { ConnectionState::Pending },
                encrypted: !self.config.secret.is_open(),
                method: if up { "sleeve" } else { "none" }.to_owned(),
                name: Some(peer.name),
                nickname: Some(peer.hello.nickname.clone()),
                mtu: direct.filter(|_| up).and_then(|direct| direct.payload_max()).map(|max| inner_mtu(max, 0)),
                rtt_us: direct.filter(|_| up).and_then(|direct| direct.rtt()).map(micros),
                info,
            });
        }
        lines.extend(self.maker.pending().into_iter().map(|line| {
            let nickname = line.name.and_then(|name| self.nickname(name));
            Connection { nickname, ..line }
        }));
        lines
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
                    rtt_us: link.data.map(|cost| cost.micros()),
                })
                .collect(),
        };
        self.exchange.topology().iter().filter(|(.., record)| !record.leaving).map(line).collect()
    }

    fn path_lines(&self) -> Vec<Path> {
        let others = self.exchange.topology().iter().filter(|(name, _, record)| *name != self.name && !record.leaving);
        others.filter_map(|(name, ..)| self.path_line(name)).collect()
    }

    fn path_line(&self, name: PeerName) -> Option<Path> {
        let choice = self.routes.choice(name)?;
        let relays = choice.chosen().map(<[PeerName]>::to_vec);
        let direct = self.links.link(name).and_then(|link| link.direct.as_ref());
        let is_direct = relays.as_ref().is_some_and(Vec::is_empty);
        let rtt = if is_direct { direct.and_then(|direct| direct.rtt()) } else { self.routes.path_rtt(name) };
        let mtu = relays.as_ref().and_then(|relays| Some(inner_mtu(self.payload_max(name)?, relays.len())));
        Some(Path {
            name,
            nickname: self.nickname(name),
            path: match &relays {
                None => "none",
                Some(relays) if relays.is_empty() => "direct",
                Some(_) => "relay",
            }
            .to_owned(),
            method: if relays.is_some() { "sleeve" } else { "none" }.to_owned(),
            relays: relays.unwrap_or_default(),
            rtt_us: rtt.map(micros),
            loss: direct.filter(|_| is_direct).map(|direct| direct.loss()),
            mtu,
            since: self.config.started + choice.since.since(Time::ZERO).as_secs(),
            reason: choice.reason.clone(),
        })
    }

    fn nickname(&self, peer: PeerName) -> Option<Nickname> {
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

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
