//! What a router tells its users: the JSON of the HTTP API and of `--json`. Keys are a promise; see `docs/http-api.md`.

pub mod address;
pub mod allocation;
pub mod endpoint;
pub mod text;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Mac, NetworkName, Nickname, PeerName},
    node::input::Target,
};

/// Everything at once: `weft report`, `GET /report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// The summary.
    pub router: Summary,
    /// Where we were asked to connect.
    pub targets: Vec<TargetStatus>,
    /// Control connections, and attempts at them.
    pub connections: Vec<Connection>,
    /// All known peers, ourselves included.
    pub peers: Vec<Peer>,
    /// Stations of the whole network.
    pub endpoints: Vec<Endpoint>,
    /// How frames get to each peer.
    pub paths: Vec<Path>,
    /// Counters of the node and of the data plane, by name.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// `weft status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Our name.
    pub name: PeerName,
    /// Our nickname.
    pub nickname: Nickname,
    /// The network's name.
    pub network: NetworkName,
    /// Control protocol versions spoken, oldest and newest.
    pub protocol: (u16, u16),
    /// TCP and UDP port.
    pub port: u16,
    /// Whether a secret protects the network.
    pub encryption: bool,
    /// Whether peers heard of by gossip are connected to.
    pub discovery: bool,
    /// Most connections held; 0 for no limit.
    pub conn_limit: usize,
    /// Subnets whose peers are trusted with unsealed frames on the fast datapath.
    pub trusted_subnets: Vec<ipnet::IpNet>,
    /// The fast datapath: `off`, `vxlan` or `ovs`.
    pub fastdp: String,
    /// Why the fast datapath is off or cannot seal, in words; empty when there is nothing to say.
    pub fastdp_info: String,
    /// Seconds since the router's start.
    pub uptime_s: u64,
}

/// One line of `weft status targets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As it was given.
    pub target: Target,
    /// `connected`, `connecting`, `waiting` or `suspended`.
    pub state: String,
    /// Failed tries in a row.
    pub tries: u32,
    /// Milliseconds until the next try, when waiting.
    pub retry_ms: Option<u64>,
    /// The last failure, if any.
    pub info: String,
}

/// Which side dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// We did.
    Outbound,
    /// The other side did.
    Inbound,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// The control connection is up and frames pass directly by a method.
    Established,
    /// The control connection is up, but no method passes frames directly.
    Pending,
    /// Dialling again after a failure.
    Retrying,
    /// The last try failed; waiting for the next.
    Failed,
    /// Dialling for the first time.
    Connecting,
}

/// One line of `weft status connections`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Which side dialled.
    pub direction: Direction,
    /// The other side's address, or the target's text while there is none.
    pub address: String,
    /// How far it is.
    pub state: ConnectionState,
    /// Whether frames are sealed and the network has a secret.
    pub encrypted: bool,
    /// `fastdp`, `sleeve`, or `none` while no method works.
    pub method: String,
    /// The peer's name, once known.
    pub name: Option<PeerName>,
    /// The peer's nickname, once known.
    pub nickname: Option<Nickname>,
    /// Largest IP packet that crosses the link unfragmented, once measured.
    pub mtu: Option<u32>,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// In words: why it is not established, or what is special.
    pub info: String,
}

/// One line of `weft status peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: PeerName,
    /// Its nickname.
    pub nickname: Nickname,
    /// Addresses where it may be found, most likely first, with ports.
    pub addresses: Vec<String>,
    /// Its links to others, as it reports them.
    pub connections: Vec<PeerConnection>,
}

/// One link in a peer's report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerConnection {
    /// The other end.
    pub name: PeerName,
    /// Its nickname, if known.
    pub nickname: Option<Nickname>,
    /// Whether frames pass directly.
    pub up: bool,
    /// Smoothed round-trip time in microseconds, as advertised.
    pub rtt_us: Option<u64>,
}

/// One line of `weft status endpoints`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The station.
    pub mac: Mac,
    /// Its IP addresses, as far as known.
    pub addresses: Vec<IpAddr>,
    /// The peer whose bridge it is on.
    pub name: PeerName,
    /// That peer's nickname, if known.
    pub nickname: Option<Nickname>,
}

/// One line of `weft status paths`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The peer.
    pub name: PeerName,
    /// Its nickname, if known.
    pub nickname: Option<Nickname>,
    /// `direct`, `relay` or `none`.
    pub path: String,
    /// The relays on the way, in order.
    pub relays: Vec<PeerName>,
    /// `fastdp`, `sleeve`, or `none`.
    pub method: String,
    /// Round-trip time in microseconds: measured when direct, the sum of the advertised ones by relay.
    pub rtt_us: Option<u64>,
    /// Share of probes lost, 0 to 1, of the direct link; null when relayed.
    pub loss: Option<f64>,
    /// Largest IP packet that the path carries unfragmented.
    pub mtu: Option<u32>,
    /// When this path was taken, Unix seconds.
    pub since: u64,
    /// Why.
    pub reason: String,
}

/// `POST /connect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// Targets to add.
    pub targets: Vec<Target>,
    /// Forget all earlier ones.
    #[serde(default)]
    pub replace: bool,
}

/// `POST /forget`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForgetRequest {
    /// Targets to forget.
    pub targets: Vec<Target>,
}

/// `POST /attach` and `POST /detach`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The container: name of a network namespace, path of one, or a process id.
    pub container: String,
    /// Addresses with prefix lengths; for detach none means all.
    pub addresses: Vec<ipnet::IpNet>,
    /// Add no route for multicast.
    #[serde(default)]
    pub no_multicast_route: bool,
}

/// `POST /expose` and `POST /hide`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExposeRequest {
    /// Addresses with prefix lengths for the bridge; for hide none means all.
    pub addresses: Vec<ipnet::IpNet>,
    /// Leave source addresses as they are when traffic leaves the network.
    #[serde(default)]
    pub without_masquerade: bool,
}

/// The answer to attach, detach, expose and hide: the addresses concerned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addresses {
    /// With prefix lengths.
    pub addresses: Vec<ipnet::IpNet>,
}

/// One line of `weft ps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The container as it was named at attach; `weft:expose` for the bridge itself.
    pub container: String,
    /// Its Ethernet address on the network.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<ipnet::IpNet>,
}

/// Any answer with a status of 400 and above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong, and what to do.
    pub error: String,
}
