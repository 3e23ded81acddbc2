//! A scenario made of what one router reports: its peers, and the links that all of them have measured.
//!
//! A link's latency is half the round-trip time that its ends advertise, of two the larger, as routers reckon with. A link that
//! only gossip passes has its UDP cut. Of a pair that has no link, nobody knows why. If one of them had room for another
//! connection, it would have tried: nothing passes there. Else it is taken to be as good as the best way by others.

use std::{collections::BTreeMap, time::Duration};

use thiserror::Error;

use super::{Between, Change, LATENCY_MAX, Links, Only, PEERS, Scenario, Targets};
use crate::{
    api::Report,
    id::{Nickname, PeerName},
    sim::HostId,
};

/// What is wrong with a report.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordedError {
    /// Too few peers to simulate, or too many.
    #[error("the report has {0} peers: the simulator takes {least} to {most}", least = PEERS.start(), most = PEERS.end())]
    Count(usize),
}

/// What is known of a link.
#[derive(Clone, Copy, Default)]
struct Measured {
    /// Half of the round trip, the larger of what the ends say; None while neither says.
    latency: Option<Duration>,
    /// Frames pass, as both ends say.
    ends_up: u8,
}

impl Scenario {
    /// The network that a router reports, starting anew, on top of what `base` says of all else.
    ///
    /// # Errors
    /// If there are too few peers or too many.
    pub fn recorded(report: &Report, base: Self) -> Result<Self, RecordedError> {
        let count = report.peers.len();
        if !PEERS.contains(&count) {
            return Err(RecordedError::Count(count));
        }
        let ids: BTreeMap<PeerName, HostId> =
            report.peers.iter().enumerate().map(|(id, peer)| (peer.name, id)).collect();
        let links = measured(report, &ids);
        let router = &report.router;
        let first = ids.get(&router.name).copied().unwrap_or(0);
        let targets = if router.discovery { tree(first, count, &links) } else { lower_neighbours(count, &links) };
        let mut degree = vec![0; count];
        for (a, b) in links.keys() {
            degree[*a] += 1;
            degree[*b] += 1;
        }
        let has_room = |id: HostId| router.discovery && (router.conn_limit == 0 || degree[id] < router.conn_limit);
        let mut matrix = estimated(count, &links);
        let mut changed = Vec::new();
        for (a, b) in (0..count).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let between = Between { from: Some(b), to: Some(a), one_way: false };
            match links.get(&(b, a)) {
                Some(link) if link.ends_up >= 2 => {}
                Some(_) => changed.push(Change::Cut(between, Only::Udp)),
                None if has_room(a) || has_room(b) => changed.push(Change::Cut(between, Only::All)),
                None => {}
            }
            let latency = matrix[a][b].unwrap_or(base.links.way.latency);
            matrix[a][b] = Some(latency);
            matrix[b][a] = Some(latency);
        }
        let rows = matrix.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect());
        Ok(Self {
            peers: names(report),
            conn_limit: router.conn_limit,
            discovery: router.discovery,
            targets: Targets::Listed(targets),
            links: Links { matrix: Some(rows.collect()), ..base.links },
            changed,
            ..base
        })
    }
}

/// All links, by their ends, the smaller number first.
fn measured(report: &Report, ids: &BTreeMap<PeerName, HostId>) -> BTreeMap<(HostId, HostId), Measured> {
    let mut links: BTreeMap<_, Measured> = BTreeMap::new();
    for (id, peer) in report.peers.iter().enumerate() {
        for connection in &peer.connections {
            let Some(other) = ids.get(&connection.name).copied().filter(|other| *other != id) else { continue };
            let link = links.entry((id.min(other), id.max(other))).or_default();
            let latency = connection.rtt_us.map(|rtt| Duration::from_micros(rtt / 2).min(LATENCY_MAX));
            link.latency = link.latency.max(latency);
            link.ends_up += u8::from(connection.up);
        }
    }
    links
}

/// Nicknames where each is another, else with the peers' own names.
fn names(report: &Report) -> Vec<Nickname> {
    let mut uses: BTreeMap<&Nickname, usize> = BTreeMap::new();
    for peer in &report.peers {
        *uses.entry(&peer.nickname).or_default() += 1;
    }
    let is_single = |nickname: &Nickname| uses.get(nickname) == Some(&1) && nickname.as_str() != "*";
    let own = |name: PeerName| name.to_string().parse().ok();
    let name = |peer: &crate::api::Peer| Some(peer.nickname.clone()).filter(is_single).or_else(|| own(peer.name));
    // A peer's own name is always fit to be a nickname.
    report.peers.iter().filter_map(name).collect()
}

/// The latency of every pair: measured, or of the best way by others; None where there is none.
fn estimated(count: usize, links: &BTreeMap<(HostId, HostId), Measured>) -> Vec<Vec<Option<Duration>>> {
    let mut times = vec![vec![Duration::MAX; count]; count];
    for ((a, b), link) in links {
        let latency = link.latency.unwrap_or(Duration::MAX);
        times[*a][*b] = latency;
        times[*b][*a] = latency;
    }
    let direct = times.clone();
    for middle in 0..count {
        let onward = times[middle].clone();
        for row in times.iter_mut().filter(|row| row[middle] != Duration::MAX) {
            let first = row[middle];
            for (time, last) in row.iter_mut().zip(&onward) {
                *time = (*time).min(first.saturating_add(*last));
            }
        }
    }
    let known = |time: Duration| (time != Duration::MAX).then(|| time.min(LATENCY_MAX));
    let cell = |(direct, by_others): (&Duration, &Duration)| known(*direct).or(known(*by_others));
    direct.iter().zip(&times).map(|(direct, by_others)| direct.iter().zip(by_others).map(cell).collect()).collect()
}

/// Each peer's target is the one that it is found by, going out from `first`: few, and all find each other.
fn tree(first: HostId, count: usize, links: &BTreeMap<(HostId, HostId), Measured>) -> Vec<Vec<HostId>> {
    let mut neighbours = vec![Vec::new(); count];
    for (a, b) in links.keys() {
        neighbours[*a].push(*b);
        neighbours[*b].push(*a);
    }
    let mut targets = vec![None; count];
    let mut open = std::collections::VecDeque::from([first]);
    while let Some(id) = open.pop_front() {
        for other in &neighbours[id] {
            if *other != first && targets[*other].is_none() {
                targets[*other] = Some(id);
                open.push_back(*other);
            }
        }
    }
    targets.into_iter().map(|target| target.into_iter().collect()).collect()
}

/// Exactly the links that were there: each is dialled by one end.
fn lower_neighbours(count: usize, links: &BTreeMap<(HostId, HostId), Measured>) -> Vec<Vec<HostId>> {
    let mut targets = vec![Vec::new(); count];
    for (a, b) in links.keys() {
        targets[*b].push(*a);
    }
    targets
}
