//! What a router tells its users: the JSON of the HTTP API and of `--json`. Keys are a promise; see `docs/http-api.md`.

pub mod address;
pub mod allocation;
pub mod endpoint;
pub mod interface;
pub mod path;
pub mod text;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::{address::WantedAddress, allocation::PeerLabel};
use crate::{
    id::{Mac, NetworkName, Nickname, PeerName},
    names::{DnsName, Owner},
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
    /// Addresses that the network gives out.
    #[serde(default)]
    pub ipam: allocation::AddressStatus,
    /// Names of the whole network.
    #[serde(default)]
    pub names: Vec<NameLine>,
    /// How this router answers queries for names; null if it does not.
    #[serde(default)]
    pub dns: Option<DnsServer>,
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
    /// What this router has to spare for frames of others, as all are told: `free`, `busy`, `crowded`, `full`, or `off`.
    #[serde(default)]
    pub relaying: String,
    /// Most connections held; 0 for no limit.
    pub conn_limit: usize,
    /// Subnets whose peers are trusted with unsealed frames on the fast datapath.
    pub trusted_subnets: Vec<IpNet>,
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
    /// The relays of each further way that flows are spread over beside this one; none unless it is by relay.
    #[serde(default)]
    pub further: Vec<Vec<PeerName>>,
    /// `fastdp`, `sleeve`, or `none`.
    pub method: String,
    /// Round-trip time in microseconds: measured when direct, the sum of the advertised ones by relay.
    pub rtt_us: Option<u64>,
    /// Share of probes lost, 0 to 1, of the direct link; null when relayed.
    pub loss: Option<f64>,
    /// The same by direction; null when relayed, or while the other end does not say what it hears.
    #[serde(default)]
    pub losses: Option<path::Losses>,
    /// Largest IP packet that the path carries unfragmented.
    pub mtu: Option<u32>,
    /// When this path was taken, Unix seconds.
    pub since: u64,
    /// Why.
    pub reason: String,
}

/// One line of `weft status dns`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameLine {
    /// The name in DNS.
    pub hostname: DnsName,
    /// Where it leads.
    pub addresses: Vec<IpAddr>,
    /// Who has it: a container, `weft:expose` for the host, `weft:extern` for nobody on the network.
    pub owner: Owner,
    /// The peer that says so.
    pub name: PeerName,
    /// That peer's nickname, if known.
    pub nickname: Option<Nickname>,
}

/// `GET /dns`: how a router answers queries for names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DnsServer {
    /// The domain of all names.
    pub domain: DnsName,
    /// Seconds for which answers may be kept.
    pub ttl_s: u32,
    /// Where it listens, by UDP and TCP.
    pub listening: Vec<SocketAddr>,
    /// Who is asked for all other names, in this order.
    pub upstream: Vec<SocketAddr>,
}

/// `POST /dns/add`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameAddRequest {
    /// Who gets the name; `weft:extern` if left out.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// The name, with or without the domain.
    pub name: DnsName,
    /// Where it leads.
    pub addresses: Vec<IpAddr>,
}

/// `POST /dns/remove`. What is left out means all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameRemoveRequest {
    /// Whose names.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Which name, with or without the domain.
    #[serde(default)]
    pub name: Option<DnsName>,
    /// Which addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// The answer to `POST /dns/add` and `POST /dns/remove`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamesChanged {
    /// How many addresses of names were added or taken.
    pub changed: usize,
}

/// The answer to `GET /dns/lookup/…`: where a name leads, or which names an address has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// The names: the one asked for, whole, or those of the address.
    pub names: Vec<DnsName>,
    /// The addresses: those of the name, or the one asked for.
    pub addresses: Vec<IpAddr>,
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

/// `POST /attach` and `POST /detach`, with addresses as they are asked for; with settled ones it is what the host is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttachRequest<A = WantedAddress> {
    /// The container: name of a network namespace, path of one, or a process id.
    pub container: String,
    /// Which addresses; for attach none means one of each default subnet, for detach all.
    #[serde(default = "Vec::new")]
    pub addresses: Vec<A>,
    /// Add no route for multicast.
    #[serde(default)]
    pub no_multicast_route: bool,
    /// What the container is called and who has its addresses; none: as in `container`. A name that is given belongs to one device: one
    /// that is attached under it elsewhere is unplugged first, and for detach the container's namespace need not exist any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The device in the container; none for `ethwe`. A container may have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Routes of the container through that device. One that it has already stays as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Whether frames may go back to the container that they came from, so that it can reach itself by an address of another; none: as
    /// it is, at first not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    /// The device's Ethernet address; none: as it is, at first one that the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Bytes of the device's largest IP packet, not above the bridge's; none: the bridge's, whatever that becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A route of a container, with the keys of CNI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By way of whom; none: directly. It need not be in a subnet of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Bytes of the largest IP packet that goes this way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Largest TCP segment in bytes that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Of several routes the one with the least is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Number of the routing table; none for the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The kernel's number for the scope; none: link without a gateway, else universe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route that says no more than this.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// `POST /expose` and `POST /hide`, with addresses as they are asked for; with settled ones it is what the host is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExposeRequest<A = WantedAddress> {
    /// Addresses for the bridge; for expose none means one of each default subnet, for hide all.
    #[serde(default = "Vec::new")]
    pub addresses: Vec<A>,
    /// Leave source addresses as they are when traffic leaves the network.
    #[serde(default)]
    pub without_masquerade: bool,
}

impl<A> AttachRequest<A> {
    /// The same with other addresses.
    pub fn with_addresses<B>(self, addresses: Vec<B>) -> AttachRequest<B> {
        let Self { container, addresses: _, no_multicast_route, name, device, routes, hairpin, mac, mtu } = self;
        AttachRequest { container, addresses, no_multicast_route, name, device, routes, hairpin, mac, mtu }
    }
}

impl<A> ExposeRequest<A> {
    /// The same with other addresses.
    pub fn with_addresses<B>(self, addresses: Vec<B>) -> ExposeRequest<B> {
        let Self { addresses: _, without_masquerade } = self;
        ExposeRequest { addresses, without_masquerade }
    }
}

/// `POST /ipam/allocate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllocateRequest {
    /// Who for.
    pub owner: String,
    /// One address of each of these; without any, of each default subnet.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
}

/// `POST /ipam/claim`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Who for.
    pub owner: String,
    /// Exactly these, with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
}

/// `POST /ipam/free`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FreeRequest {
    /// Whose.
    pub owner: String,
    /// Which; all if none is named.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// For how long they are kept for the owner.
    #[serde(default)]
    pub keep_ms: u64,
}

/// `POST /ipam/remove-peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemovePeersRequest {
    /// Names or nicknames.
    pub peers: Vec<String>,
}

/// `POST /ipam/prime`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrimeRequest {
    /// Without hearing from any other peer.
    #[serde(default)]
    pub alone: bool,
}

/// `weft explain ip`, `GET /explain/ip/{address}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressExplanation {
    /// Which.
    pub address: IpAddr,
    /// The range of the network that it is in.
    pub range: Option<IpNet>,
    /// The peer that may give it out, as far as known.
    pub space_of: Option<PeerLabel>,
    /// Who has it, if this router gave it out.
    pub owner: Option<String>,
    /// Stations of the whole network that are known to use it.
    pub stations: Vec<Endpoint>,
}

/// The answer to attach, detach, expose and hide: the addresses concerned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addresses {
    /// With prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// One line of `weft ps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The container as it was named at attach; `weft:expose` for the bridge itself.
    pub container: String,
    /// Its Ethernet address on the network.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// Any answer with a status of 400 and above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong, and what to do.
    pub error: String,
    /// For programs, where there are several reasons that they can tell apart; see `docs/http-api.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}
