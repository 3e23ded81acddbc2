use super::*;
use crate::{
    api::{
        AddressExplanation,
        allocation::{AddressStatus, Allotment, PeerLabel, PeerShare},
    },
    id::NetworkName,
};

#[test]
fn the_summary_has_its_colons_in_one_column() {
    assert_eq!(
        summary(&report()).to_string(),
        "        Version: 0.1.0

        Service: router
       Protocol: weft 1..1
           Name: 7e:52:00:00:00:01(alpha)
        Network: weft
           Port: 6783
     Encryption: enabled
  PeerDiscovery: disabled
       Relaying: free
        Targets: 2
    Connections: 2 (1 established, 1 failed)
      ConnLimit: 200
          Peers: 2 (with 1 established connection)
      Endpoints: 2
 TrustedSubnets: 10.0.0.0/8, fd00::/8
   FastDatapath: off
      Addresses: off
          Names: 1
            DNS: weft.local at 10.32.0.254:53
         Uptime: 1 h 1 min
"
    );
}

#[test]
fn connections_are_aligned_and_unknowns_are_dashes() {
    assert_eq!(
        connections(&report().connections).to_string(),
        "    \
    ADDRESS             STATE        ENCRYPTED  METHOD  PEER                      MTU     RTT  INFO
->  10.0.0.2:6783       established  yes        sleeve  7e:52:00:00:00:02(beta)  1472  1.2 ms
<-  gamma.example:6783  failed       -          none    -                           -       -  \
connection refused, retry in 4 s
"
    );
}

#[test]
fn peers_have_their_links_below_them() {
    assert_eq!(
        peers(&report().peers).to_string(),
        "\
PEER                        LINK     RTT  ADDRESSES
7e:52:00:00:00:01(alpha)                  10.0.0.1:6783 [fd00::1]:6783
   7e:52:00:00:00:02(beta)  up    340 µs
7e:52:00:00:00:02(beta)                   -
   7e:52:00:00:00:03        down       -
"
    );
}

#[test]
fn targets_say_when_they_are_tried_again() {
    assert_eq!(
        targets(&report().targets).to_string(),
        "\
TARGET         STATE      TRIES  RETRY  INFO
10.0.0.2       connected      0      -
gamma.example  waiting        3  4.0 s  connection refused
"
    );
}

#[test]
fn endpoints_list_their_addresses() {
    assert_eq!(
        endpoints(&report().endpoints).to_string(),
        "\
MAC                PEER                      ADDRESSES
0a:00:00:00:00:01  7e:52:00:00:00:01(alpha)  10.32.1.5 fd00::5
0a:00:00:00:00:02  7e:52:00:00:00:03         -
"
    );
}

#[test]
fn names_say_where_they_lead_and_whose_they_are() {
    assert_eq!(
        names(&report().names).to_string(),
        "\
NAME            ADDRESSES          PEER                     OWNER
web.weft.local  10.32.0.1 fd00::1  7e:52:00:00:00:02(beta)  c1
"
    );
}

#[test]
fn paths_name_their_relays_and_reason() {
    assert_eq!(
        paths(&report().paths, 1_000_200).to_string(),
        "\
PEER                     PATH    VIA                         METHOD      RTT   LOSS   MTU         FOR  REASON
7e:52:00:00:00:02(beta)  direct  -                           sleeve   1.2 ms  0.4 %  1472  3 min 20 s  direct link up
7e:52:00:00:00:03        relay   7e:52:00:00:00:02(beta) +1  sleeve  15.0 ms      -  1340        20 s  direct link silent
"
    );
}

#[test]
fn an_empty_table_is_its_heads() {
    assert_eq!(targets(&[]).to_string(), "TARGET  STATE  TRIES  RETRY  INFO\n");
}

#[test]
fn paint_sees_the_text_without_padding() {
    let painted = connections(&report().connections).painted(|tone, text| match tone {
        Tone::Good => format!("<{text}>"),
        Tone::Bad => format!("!{text}!"),
        Tone::Warn | Tone::Plain | Tone::Label => text.to_owned(),
    });
    assert!(painted.contains("<established>  <yes>        sleeve"), "{painted}");
    assert!(painted.contains("!failed!       -"), "{painted}");
}

#[test]
fn control_characters_of_a_peer_do_not_reach_the_terminal() {
    let mut connection = report().connections.remove(1);
    connection.info = "bad\x1b[2Jnews\n".to_owned();
    let text = connections(&[connection]).to_string();
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains("bad\u{fffd}[2Jnews\u{fffd}"), "{text}");
}

#[test]
fn times_are_in_units_that_suit() {
    let cases = [(0, "0 µs"), (999, "999 µs"), (1_000, "1.0 ms"), (999_949, "999.9 ms"), (999_950, "1.0 s")];
    for (value, text) in cases {
        assert_eq!(micros(value), text);
    }
    let cases = [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")];
    for (value, text) in cases {
        assert_eq!(span(value), text);
    }
    let cases = [(0.0, "0 %"), (0.004, "0.4 %"), (0.0999, "10 %"), (0.12, "12 %"), (1.0, "100 %")];
    for (value, text) in cases {
        assert_eq!(share(value), text);
    }
}

fn peer(number: u8) -> PeerName {
    PeerName([0x7e, 0x52, 0, 0, 0, number])
}

fn nick(name: &str) -> Nickname {
    name.parse().unwrap()
}

fn report() -> Report {
    Report {
        version: "0.1.0".to_owned(),
        router: crate::api::Summary {
            name: peer(1),
            nickname: nick("alpha"),
            network: NetworkName::default(),
            protocol: (1, 1),
            port: 6783,
            encryption: true,
            discovery: false,
            relaying: "free".to_owned(),
            conn_limit: 200,
            trusted_subnets: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            fastdp: "off".to_owned(),
            fastdp_info: String::new(),
            uptime_s: 3_661,
        },
        targets: vec![
            TargetStatus {
                target: "10.0.0.2".parse().unwrap(),
                state: "connected".to_owned(),
                tries: 0,
                retry_ms: None,
                info: String::new(),
            },
            TargetStatus {
                target: "gamma.example".parse().unwrap(),
                state: "waiting".to_owned(),
                tries: 3,
                retry_ms: Some(4_000),
                info: "connection refused".to_owned(),
            },
        ],
        connections: vec![
            Connection {
                direction: Direction::Outbound,
                address: "10.0.0.2:6783".to_owned(),
                state: ConnectionState::Established,
                encrypted: true,
                method: "sleeve".to_owned(),
                name: Some(peer(2)),
                nickname: Some(nick("beta")),
                mtu: Some(1472),
                rtt_us: Some(1_234),
                info: String::new(),
            },
            Connection {
                direction: Direction::Inbound,
                address: "gamma.example:6783".to_owned(),
                state: ConnectionState::Failed,
                encrypted: false,
                method: "none".to_owned(),
                name: None,
                nickname: None,
                mtu: None,
                rtt_us: None,
                info: "connection refused, retry in 4 s".to_owned(),
            },
        ],
        peers: vec![
            Peer {
                name: peer(1),
                nickname: nick("alpha"),
                addresses: vec!["10.0.0.1:6783".to_owned(), "[fd00::1]:6783".to_owned()],
                connections: vec![link(2, Some("beta"), true, Some(340))],
            },
            Peer {
                name: peer(2),
                nickname: nick("beta"),
                addresses: Vec::new(),
                connections: vec![link(3, None, false, None)],
            },
        ],
        endpoints: vec![
            Endpoint {
                mac: "0a:00:00:00:00:01".parse().unwrap(),
                addresses: vec!["10.32.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
                name: peer(1),
                nickname: Some(nick("alpha")),
            },
            Endpoint {
                mac: "0a:00:00:00:00:02".parse().unwrap(),
                addresses: Vec::new(),
                name: peer(3),
                nickname: None,
            },
        ],
        paths: vec![
            Path {
                name: peer(2),
                nickname: Some(nick("beta")),
                path: "direct".to_owned(),
                relays: Vec::new(),
                further: Vec::new(),
                method: "sleeve".to_owned(),
                rtt_us: Some(1_234),
                loss: Some(0.004),
                losses: None,
                mtu: Some(1472),
                since: 1_000_000,
                reason: "direct link up".to_owned(),
            },
            Path {
                name: peer(3),
                nickname: None,
                path: "relay".to_owned(),
                relays: vec![peer(2)],
                further: vec![vec![peer(1)]],
                method: "sleeve".to_owned(),
                rtt_us: Some(15_000),
                loss: None,
                losses: None,
                mtu: Some(1340),
                since: 1_000_180,
                reason: "direct link silent".to_owned(),
            },
        ],
        ipam: AddressStatus::default(),
        names: vec![NameLine {
            hostname: "web.weft.local".parse().unwrap(),
            addresses: vec!["10.32.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            owner: "c1".parse().unwrap(),
            name: peer(2),
            nickname: Some(nick("beta")),
        }],
        dns: Some(DnsServer {
            domain: "weft.local".parse().unwrap(),
            ttl_s: 1,
            listening: vec!["10.32.0.254:53".parse().unwrap()],
            upstream: Vec::new(),
        }),
        counters: std::collections::BTreeMap::new(),
    }
}

fn link(number: u8, nickname: Option<&str>, up: bool, rtt_us: Option<u64>) -> crate::api::PeerConnection {
    crate::api::PeerConnection { name: peer(number), nickname: nickname.map(nick), up, rtt_us }
}

#[test]
fn addresses_are_listed_by_peer_and_by_owner() {
    let net = |text: &str| text.parse().unwrap();
    let label = |number, name: &str| PeerLabel { name: peer(number), nickname: Some(nick(name)) };
    let share = |number, name, addresses, share, reachable| PeerShare {
        peer: label(number, name),
        range: net("10.32.0.0/12"),
        addresses,
        share,
        ranges: 1,
        reachable,
    };
    let status = AddressStatus {
        state: "ready".to_owned(),
        info: String::new(),
        ranges: vec![net("10.32.0.0/12")],
        default_subnets: vec![net("10.32.1.0/24")],
        owners: vec![
            Allotment { owner: "c1".to_owned(), addresses: vec![net("10.32.1.1/24"), net("10.33.0.1/16")] },
            Allotment { owner: "weft:expose".to_owned(), addresses: vec![net("10.32.1.2/24")] },
        ],
        peers: vec![share(1, "alpha", 524_288, 0.5, true), share(2, "beta", 262_144, 0.25, false)],
        conflicts: vec!["host-9 has another range".to_owned()],
    };
    let text: Vec<_> = ipam(&status).iter().map(ToString::to_string).collect();
    assert_eq!(
        text.join("\n"),
        "         State: ready
         Range: 10.32.0.0/12
 DefaultSubnet: 10.32.1.0/24
  GivenOutHere: 3
      Conflict: host-9 has another range

PEER                      RANGE         ADDRESSES  SHARE  RANGES  STATE
7e:52:00:00:00:01(alpha)  10.32.0.0/12     524288   50 %       1  reachable
7e:52:00:00:00:02(beta)   10.32.0.0/12     262144   25 %       1  unreachable

OWNER        ADDRESSES
c1           10.32.1.1/24 10.33.0.1/16
weft:expose  10.32.1.2/24
"
    );
    let report = Report { ipam: status, ..report() };
    assert!(summary(&report).to_string().contains("Addresses: ready, 3 given out here, of 10.32.0.0/12\n"));
    let idle = AddressStatus { state: "idle".to_owned(), info: "nobody asked".to_owned(), ..AddressStatus::default() };
    assert_eq!(ipam(&idle).len(), 1);
    assert!(ipam(&idle)[0].to_string().contains("Info: nobody asked"));
}

#[test]
fn an_address_is_explained() {
    let explained = AddressExplanation {
        address: "10.32.1.1".parse().unwrap(),
        range: Some("10.32.0.0/12".parse().unwrap()),
        space_of: Some(PeerLabel { name: peer(1), nickname: Some(nick("alpha")) }),
        owner: Some("c1".to_owned()),
        stations: vec![Endpoint {
            mac: crate::id::Mac([2; 6]),
            addresses: vec!["10.32.1.1".parse().unwrap()],
            name: peer(1),
            nickname: Some(nick("alpha")),
        }],
    };
    assert_eq!(
        explanation(&explained).to_string(),
        "  Address: 10.32.1.1
    Range: 10.32.0.0/12
  SpaceOf: 7e:52:00:00:00:01(alpha)
 GivenOut: by this router, to c1
   UsedBy: 02:02:02:02:02:02 at 7e:52:00:00:00:01(alpha)
"
    );
    let foreign = AddressExplanation { range: None, space_of: None, owner: None, stations: vec![], ..explained };
    let text = explanation(&foreign).to_string();
    assert!(text.contains("it is in no range") && text.contains("no station that was seen"), "{text}");
}
