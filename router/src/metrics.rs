//! `GET /metrics`: what Prometheus scrapes, made anew for each scrape from what is known anyway.
//!
//! Names and labels are listed in `docs/http-api.md`; they are a promise.

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use weft::{
    api::{Connection, ConnectionState, Path, Report},
    fastdp::LANES_MAX,
    id::{Nickname, PeerName},
    plane::Counters,
};

use crate::{
    control::Snapshot,
    dataplane::{Reading, Stages},
    events::EventCounts,
    fastdp::FastCounts,
};

/// The method of all traffic that the data plane counts.
const SLEEVE: &str = "sleeve";
/// The method of traffic that the kernel counts.
const FASTDP: &str = "fastdp";

type Labels = Vec<(&'static str, String)>;
type Counts = Family<Labels, Counter>;
type Level = Gauge<f64, AtomicU64>;
type Levels = Family<Labels, Level>;

/// The metrics as text (OpenMetrics 1.0). `queries` are those to the name server, by what came of them; `started` is the router's start in Unix seconds.
pub(crate) fn render(
    snapshot: &Snapshot,
    sleeve: &Reading,
    fast: &FastCounts,
    queries: &[(&'static str, u64)],
    started: u64,
) -> Result<String, fmt::Error> {
    let mut exposition = Exposition { registry: Registry::default(), names: nicknames(&snapshot.report) };
    exposition.router(&snapshot.report, started);
    exposition.paths(&snapshot.report.paths);
    exposition.addresses(&snapshot.report);
    exposition.queries(queries);
    exposition.traffic(&sleeve.counters);
    exposition.stages(&sleeve.stages);
    exposition.esp(fast);
    exposition.events(&snapshot.events);
    let mut text = String::new();
    encode(&mut text, &exposition.registry)?;
    Ok(text)
}

struct Exposition {
    registry: Registry,
    names: BTreeMap<PeerName, Nickname>,
}

impl Exposition {
    fn router(&mut self, report: &Report, started: u64) {
        let build = Info::new(vec![("version", report.version.clone())]);
        self.registry.register("weft_build", "The program that runs", build);
        let start = Level::default();
        start.set(started as f64);
        self.registry.register_with_unit("process_start_time", "When the router was started", Unit::Seconds, start);
        let connections = self.levels("weft_connections", "Control connections, and attempts at them, by state");
        for state in CONNECTION_STATES {
            let count = report.connections.iter().filter(|connection| connection.state == state).count();
            set(&connections, vec![("state", state_word(state).to_owned())], count as f64);
        }
        for (name, help, count) in [
            ("weft_peers", "Known peers, this one included", report.peers.len()),
            ("weft_endpoints", "Stations of the whole network", report.endpoints.len()),
            ("weft_names", "Names of the whole network, each owner's counted", report.names.len()),
            ("weft_targets", "Places where this router was asked to connect", report.targets.len()),
        ] {
            let level = Level::default();
            level.set(count as f64);
            self.registry.register(name, help, level);
        }
        let node = self.counts("weft_node", "Counters of the protocol machinery, by name");
        for (name, count) in &report.counters {
            add(&node, vec![("counter", name.clone())], *count);
        }
        let rtt = self.levels_in("weft_connection_rtt", "Smoothed round-trip time of the direct link", Unit::Seconds);
        let mtu = self.levels_in("weft_connection_mtu", "Largest IP packet that the direct link carries", Unit::Bytes);
        for connection in &report.connections {
            let Connection { name: Some(name), method, .. } = connection else { continue };
            let labels = self.peer(*name, method);
            if let Some(micros) = connection.rtt_us {
                set(&rtt, labels.clone(), seconds(micros));
            }
            if let Some(bytes) = connection.mtu {
                set(&mtu, labels, f64::from(bytes));
            }
        }
    }

    fn paths(&mut self, paths: &[Path]) {
        let relays = self.levels("weft_path_relays", "Relays on the way to a peer: 0 is direct; absent without a way");
        let rtt = self.levels_in("weft_path_rtt", "Round-trip time of the path to a peer", Unit::Seconds);
        let loss = self.levels("weft_path_loss_ratio", "Share of probes lost on the direct path to a peer, 0 to 1");
        let by_direction = self.levels(
            "weft_path_loss_by_direction_ratio",
            "Share of frames or probes lost on the direct path to a peer, by direction, 0 to 1",
        );
        let mtu = self.levels_in("weft_path_mtu", "Largest IP packet that the path to a peer carries", Unit::Bytes);
        for path in paths {
            let labels = self.peer(path.name, &path.method);
            if path.path != "none" {
                set(&relays, labels.clone(), path.relays.len() as f64);
            }
            if let Some(micros) = path.rtt_us {
                set(&rtt, labels.clone(), seconds(micros));
            }
            if let Some(share) = path.loss {
                set(&loss, labels.clone(), share);
            }
            if let Some(losses) = &path.losses {
                for (direction, share) in [("there", losses.there), ("back", losses.back)] {
                    let labels = labels.iter().cloned().chain([("direction", direction.to_owned())]);
                    set(&by_direction, labels.collect(), share);
                }
            }
            if let Some(bytes) = path.mtu {
                set(&mtu, labels, f64::from(bytes));
            }
        }
    }

    fn addresses(&mut self, report: &Report) {
        let given = self.levels("weft_addresses_given", "Addresses that this router gave out, by family");
        let free =
            self.levels("weft_addresses_free", "Addresses that this router may still give out by itself, by family");
        let unreachable =
            self.levels("weft_addresses_unreachable_ratio", "Share of a range that peers hold which cannot be reached");
        let nets = || report.ipam.owners.iter().flat_map(|owner| &owner.addresses);
        for range in &report.ipam.ranges {
            let labels = || vec![("family", if range.addr().is_ipv4() { "ipv4" } else { "ipv6" }.to_owned())];
            let count = nets().filter(|net| range.contains(&net.addr())).count();
            set(&given, labels(), count as f64);
            let shares = || report.ipam.peers.iter().filter(|share| share.range == *range);
            let own = shares().find(|share| share.peer.name == report.router.name).map_or(0, |share| share.addresses);
            set(&free, labels(), own.saturating_sub(count as u128) as f64);
            // From 0, not from the sum's own nought, which is -0.
            set(
                &unreachable,
                labels(),
                shares().filter(|share| !share.reachable).fold(0.0, |sum, share| sum + share.share),
            );
        }
    }

    fn queries(&mut self, queries: &[(&'static str, u64)]) {
        let family = self.counts("weft_dns_queries", "Queries to the name server, by what came of them");
        for (outcome, count) in queries {
            add(&family, vec![("outcome", (*outcome).to_owned())], *count);
        }
    }

    fn traffic(&mut self, counters: &Counters) {
        let tx_packets = self.counts("weft_peer_tx_packets", "Frames sealed for a peer");
        let tx_bytes =
            self.counts_in("weft_peer_tx", "Frames sealed for a peer, Ethernet headers included", Unit::Bytes);
        let rx_packets = self.counts("weft_peer_rx_packets", "Frames opened from a peer");
        let rx_bytes =
            self.counts_in("weft_peer_rx", "Frames opened from a peer, Ethernet headers included", Unit::Bytes);
        let relayed_packets =
            self.counts("weft_peer_relayed_packets", "Packets passed on for a peer, which sealed them");
        let relayed_bytes = self.counts_in("weft_peer_relayed", "Packets passed on for a peer", Unit::Bytes);
        for (peer, traffic) in &counters.peers {
            let labels = self.peer(*peer, SLEEVE);
            add(&tx_packets, labels.clone(), traffic.tx_packets);
            add(&tx_bytes, labels.clone(), traffic.tx_bytes);
            add(&rx_packets, labels.clone(), traffic.rx_packets);
            add(&rx_bytes, labels.clone(), traffic.rx_bytes);
            add(&relayed_packets, labels.clone(), traffic.relayed_packets);
            add(&relayed_bytes, labels, traffic.relayed_bytes);
        }
        let drops =
            self.counts("weft_dropped_packets", "Frames and packets not passed on by the data plane, by reason");
        for (reason, count) in counters.drops.iter() {
            add(&drops, vec![("reason", reason.as_str().to_owned())], count);
        }
    }

    fn stages(&mut self, stages: &Stages) {
        let family = self.counts("weft_sleeve", "What the stages of the sleeve's workers did, by counter");
        for (name, count) in stages.iter() {
            add(&family, vec![("counter", name.to_owned())], count);
        }
    }

    fn esp(&mut self, fast: &FastCounts) {
        let packets = self.counts("weft_esp_lane_packets", "Packets that an ESP lane in use sealed or opened");
        let bytes = self.counts_in("weft_esp_lane", "Packets that an ESP lane in use sealed or opened", Unit::Bytes);
        for lane in &fast.lanes {
            let mut labels = self.peer(lane.peer, FASTDP);
            labels.push(("direction", if lane.sends { "tx" } else { "rx" }.to_owned()));
            labels.push(("lane", (lane.spi % u32::from(LANES_MAX)).to_string()));
            labels.push(("spi", format!("{:#x}", lane.spi)));
            add(&packets, labels.clone(), lane.packets);
            add(&bytes, labels, lane.bytes);
        }
        let refused =
            self.counts("weft_esp_refused_packets", "Packets that the kernel's IPsec refused, by its word for why");
        for (cause, count) in &fast.refused {
            add(&refused, vec![("cause", (*cause).to_owned())], *count);
        }
    }

    fn events(&mut self, events: &EventCounts) {
        let rekeys = self.counts("weft_peer_rekeys", "Times that new keys came into use with a peer");
        let changes = self.counts("weft_peer_path_changes", "Times that the way to a peer changed");
        for (peer, counts) in &events.peers {
            let labels = self.peer(*peer, SLEEVE);
            add(&rekeys, labels.clone(), counts.rekeys);
            add(&changes, labels, counts.path_changes);
        }
        for (name, help, count) in [
            ("weft_connections_established", "Control connections established", events.connections_established),
            ("weft_connections_ended", "Control connections that ended or never came to be", events.connections_ended),
        ] {
            let counter: Counter = Counter::default();
            counter.inc_by(count);
            self.registry.register(name, help, counter);
        }
        let refused = self.counts("weft_gossip_refused", "Gossip refused as a whole, by channel");
        for (channel, count) in &events.gossip_refused {
            add(&refused, vec![("channel", (*channel).to_owned())], *count);
        }
    }

    fn peer(&self, peer: PeerName, method: &str) -> Labels {
        let nickname = self.names.get(&peer).map(ToString::to_string).unwrap_or_default();
        vec![("peer", peer.to_string()), ("nickname", nickname), ("method", method.to_owned())]
    }

    fn counts(&mut self, name: &str, help: &str) -> Counts {
        let family = Counts::default();
        self.registry.register(name, help, family.clone());
        family
    }

    fn counts_in(&mut self, name: &str, help: &str, unit: Unit) -> Counts {
        let family = Counts::default();
        self.registry.register_with_unit(name, help, unit, family.clone());
        family
    }

    fn levels(&mut self, name: &str, help: &str) -> Levels {
        let family = Levels::default();
        self.registry.register(name, help, family.clone());
        family
    }

    fn levels_in(&mut self, name: &str, help: &str, unit: Unit) -> Levels {
        let family = Levels::default();
        self.registry.register_with_unit(name, help, unit, family.clone());
        family
    }
}

const CONNECTION_STATES: [ConnectionState; 5] = [
    ConnectionState::Established,
    ConnectionState::Pending,
    ConnectionState::Retrying,
    ConnectionState::Failed,
    ConnectionState::Connecting,
];

/// As in the JSON of `/status/connections`.
fn state_word(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Established => "established",
        ConnectionState::Pending => "pending",
        ConnectionState::Retrying => "retrying",
        ConnectionState::Failed => "failed",
        ConnectionState::Connecting => "connecting",
    }
}

fn nicknames(report: &Report) -> BTreeMap<PeerName, Nickname> {
    report.peers.iter().map(|peer| (peer.name, peer.nickname.clone())).collect()
}

fn add(family: &Counts, labels: Labels, count: u64) {
    family.get_or_create(&labels).inc_by(count);
}

fn set(family: &Levels, labels: Labels, level: f64) {
    family.get_or_create(&labels).set(level);
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests;
