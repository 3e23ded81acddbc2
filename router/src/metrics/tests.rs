use weft::{
    api::{Direction, Peer, path::Losses},
    crypto::identity::Identity,
    drops::{Drop, DropCounts},
    entropy::Entropy,
    node::{Node, output::Event},
    plane::Traffic,
    time::Time,
};

use weft_host::xfrm::LaneCount;

use super::*;
use crate::control;

const PEER: PeerName = PeerName([0x7e, 0x52, 0, 0, 0, 1]);

fn snapshot() -> Snapshot {
    let nickname: Nickname = "host \"two\"\\".parse().unwrap();
    let mut report = Node::new(control::tests::node_config(), Entropy::System).report(Time::from_micros(5_000_000));
    report.peers =
        vec![Peer { name: PEER, nickname: nickname.clone(), addresses: Vec::new(), connections: Vec::new() }];
    report.connections = vec![Connection {
        direction: Direction::Outbound,
        address: "192.0.2.1:6783".to_owned(),
        state: ConnectionState::Established,
        encrypted: true,
        method: "sleeve".to_owned(),
        name: Some(PEER),
        nickname: Some(nickname),
        mtu: Some(1414),
        rtt_us: Some(1500),
        info: String::new(),
    }];
    report.paths = vec![Path {
        name: PEER,
        nickname: None,
        path: "relay".to_owned(),
        relays: vec![Identity::generate(&Entropy::System).name()],
        further: Vec::new(),
        method: "sleeve".to_owned(),
        rtt_us: Some(3000),
        loss: None,
        losses: Some(Losses { there: 0.25, back: 0.0, of: "probes".to_owned() }),
        mtu: Some(1340),
        since: 0,
        reason: "test".to_owned(),
    }];
    report.counters.insert("probes_sent".to_owned(), 7);
    let mut events = EventCounts::default();
    events.count(&Event::Rekeyed { peer: PEER });
    Snapshot { report, events }
}

#[test]
fn what_is_known_is_in_the_text() {
    let mut drops = DropCounts::default();
    drops.count(Drop::Replayed);
    let traffic = Traffic { tx_packets: 3, tx_bytes: 300, relayed_packets: 1, ..Traffic::default() };
    let counters = Counters { drops, peers: BTreeMap::from([(PEER, traffic)]) };
    let sleeve = Reading { counters, ..Reading::default() };
    let lane = LaneCount { peer: PEER, sends: true, spi: 0x1001, packets: 7, bytes: 700 };
    let fast = FastCounts { lanes: vec![lane], refused: BTreeMap::from([("XfrmInNoStates", 3)]) };
    let text = render(&snapshot(), &sleeve, &fast, &[("answered", 5), ("failed", 0)], 1_700_000_000).unwrap();
    let peer = r#"{peer="7e:52:00:00:00:01",nickname="host \"two\"\\",method="sleeve"}"#;
    for line in [
        "weft_build_info{version=\"0.0.0-test\"} 1",
        "process_start_time_seconds 1700000000.0",
        "weft_connections{state=\"established\"} 1.0",
        "weft_connections{state=\"failed\"} 0.0",
        "weft_peers 1.0",
        "weft_names 0.0",
        "weft_dns_queries_total{outcome=\"answered\"} 5",
        "weft_dns_queries_total{outcome=\"failed\"} 0",
        "weft_node_total{counter=\"probes_sent\"} 7",
        "weft_dropped_packets_total{reason=\"replayed\"} 1",
        "weft_sleeve_total{counter=\"datagrams_sent\"} 0",
        &format!("weft_peer_tx_packets_total{peer} 3"),
        &format!("weft_peer_tx_bytes_total{peer} 300"),
        &format!("weft_peer_relayed_packets_total{peer} 1"),
        &format!("weft_peer_rekeys_total{peer} 1"),
        &format!("weft_connection_rtt_seconds{peer} 0.0015"),
        &format!("weft_path_mtu_bytes{peer} 1340.0"),
        &format!("weft_path_relays{peer} 1.0"),
        &format!("weft_path_loss_by_direction_ratio{} 0.25", peer.replace('}', ",direction=\"there\"}")),
        &format!(
            "weft_esp_lane_packets_total{} 7",
            peer.replace("\"sleeve\"}", r#""fastdp",direction="tx",lane="1",spi="0x1001"}"#)
        ),
        "weft_esp_refused_packets_total{cause=\"XfrmInNoStates\"} 3",
        "# EOF",
    ] {
        assert!(text.lines().any(|has| has == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("weft_path_loss_ratio{"), "not known is not zero");
}
