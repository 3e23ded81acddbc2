//! What a router is told at its start. Flags, files and the environment are read by `cmd`; here is what they come to.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use weft::{
    fastdp::vxlan_port,
    id::{NetworkName, Nickname},
    ipam::AllocationConfig,
    node::input::Target,
    secret::NetworkSecret,
};

use crate::{dns::DnsConfig, fastdp::Mode};

/// Where the store is kept unless configured.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/weft";
/// Where the socket and the pid file are kept unless configured.
pub const DEFAULT_RUN_DIR: &str = "/run/weft";
/// Where the read-only HTTP API listens unless configured.
pub const DEFAULT_HTTP_ADDR: &str = "127.0.0.1:6784";
/// The bridge that containers are plugged into, unless configured.
pub const DEFAULT_BRIDGE: &str = "weft";
/// The range that addresses are given out from, unless configured; Weave Net's.
pub const DEFAULT_RANGE: &str = "10.32.0.0/12";
/// Smallest MTU that may be configured: what IPv6 asks of every link (RFC 8200 §5).
pub const MTU_MIN: u16 = 1280;
/// Most control connections unless configured.
pub const DEFAULT_CONN_LIMIT: usize = weft::connect::mesh::MESH_LIMIT;

/// Everything that a router is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Version of the program, for reports and metrics.
    pub version: String,
    /// Directory of the store; made with mode 0700 if missing.
    pub data_dir: PathBuf,
    /// Directory of the HTTP socket and the pid file; made if missing.
    pub run_dir: PathBuf,
    /// Listen on this address only, and dial from it; None for all addresses.
    pub host: Option<IpAddr>,
    /// TCP and UDP port, ours and the default of targets.
    pub port: u16,
    /// The network to join.
    pub network: NetworkName,
    /// What people call this router.
    pub nickname: Nickname,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// Most control connections; 0 for no limit.
    pub conn_limit: usize,
    /// Whether to connect to peers heard of by gossip.
    pub discovery: bool,
    /// Whether to pass on frames of others.
    pub relay: bool,
    /// Whether the sleeve's workers go before other processes, by real-time priority, while they leave enough of their cores to them.
    pub realtime: bool,
    /// Subnets whose peers are trusted with unsealed frames on the fast datapath.
    pub trusted_subnets: Vec<IpNet>,
    /// Age at which links renew their keys: [`weft::link::keys::REKEY_AFTER`], or less for tests.
    pub rekey_after: Duration,
    /// Where to connect at first.
    pub targets: Vec<Target>,
    /// Also connect to the targets of the last run, as the store remembers them.
    pub resume: bool,
    /// MTU in bytes of the bridge and of containers; None follows the underlay's
    /// ([`weft::wire::overhead::container_mtu`]).
    pub mtu: Option<u16>,
    /// Which fast datapath carries frames within the kernel.
    pub fastdp: Mode,
    /// Most ESP associations side by side for each direction of a link; None for as many as suit this machine.
    pub esp_lanes: Option<u8>,
    /// Name of the bridge device; the TAP is named after it with `-tap` behind.
    pub bridge: String,
    /// Where the read-only HTTP API listens; None for nowhere.
    pub http_addr: Option<SocketAddr>,
    /// How names are answered.
    pub dns: DnsConfig,
    /// How addresses are given out, but for what is kept from the last run; None for not at all.
    pub allocation: Option<AllocationConfig>,
    /// Write every input of the node into this file (mode 0600). It discloses keys: see [`crate::record`].
    pub record: Option<PathBuf>,
}

impl Config {
    /// The unix socket with the whole HTTP API, in `run_dir`.
    pub fn socket_path(run_dir: &Path) -> PathBuf {
        run_dir.join("weft.sock")
    }

    /// The file with the running router's process id, in `run_dir`.
    pub fn pid_path(run_dir: &Path) -> PathBuf {
        run_dir.join("weft.pid")
    }

    /// The UDP port of VXLAN: the one after ours; of the last one, itself, where no VXLAN can be.
    pub fn vxlan_port(&self) -> u16 {
        vxlan_port(self.port).unwrap_or(self.port)
    }

    /// The store, in `data_dir`.
    pub fn store_path(data_dir: &Path) -> PathBuf {
        data_dir.join("weft.redb")
    }
}
