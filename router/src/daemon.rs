//! The router from start to stop: makes everything, joins it together, and takes it apart again.
//!
//! ```text
//! main thread      control runtime: control task, control connections
//! weft-http        HTTP API, host operations, signals, the store's writes      (messages to the control task)
//! weft-dns         the name server                                             (table of names from the control task)
//! sleeve-N         data plane                                                  (snapshots from, punts to the control task)
//! ```
//! Whatever can fail for reasons that a user can mend is tried before anything on the host is touched. At a stop the
//! bridge, the veths and the containers' addresses stay: containers keep their network over a restart.

mod notify;
mod pid_file;
mod remains;
mod services;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};
use weft::{
    crypto::session::Cipher,
    entropy::Entropy,
    fastdp::vni,
    id::Uid,
    ipam::AllocationConfig,
    node::{Node, NodeConfig, input::Target},
    plane::Lookout,
};
use weft_host::{
    BridgeConfig, FastConfig, Host, HostError, Kernel,
    spool::Spool,
    tap::{self, TapError, TapQueue},
    udp::{self, UdpError},
};

use self::{notify::notify, pid_file::PidFile, services::Services};
use crate::{
    config::Config,
    control::{self, Askers, Control, ControlError, NamesOut, Sources, load::LoadMeter},
    dataplane::{self, DataPlane, DataPlaneConfig, StartError},
    dns::{Dns, Zone},
    events::EventCounts,
    fastdp::{FastPath, Setup},
    http::{self, Api, BindError},
    keep,
    mtu::{self, Mtu},
    record::{RecordError, Recorder},
    shutdown::Shutdown,
    stations::{Ranges, Stations},
    store::{Store, StoreError},
    transport::{ListenError, Transport, tcp},
};

/// How long the TAP device of a router that was killed just now may take to vanish.
const TAP_PATIENCE: Duration = Duration::from_secs(2);
/// How often we look whether it has.
const TAP_POLL: Duration = Duration::from_millis(50);
/// Threads for what blocks: name resolution on the control runtime, the store on the other. More calls wait.
const BLOCKING_THREADS_MAX: usize = 16;

/// How a router ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Asked to by a signal or by `POST /stop`; containers, veths and the bridge are left in place.
    Stopped,
    /// Asked to by `POST /reset`: nothing of it is left on the host.
    Reset,
}

/// Why a router did not start, or had to end.
#[derive(Debug, Error)]
pub enum RunError {
    /// Another router uses the run directory.
    #[error("Weft is already running (pid {pid}) with {}: stop it with `weft stop`, or choose another --run-dir", run_dir.display())]
    AlreadyRunning {
        /// Its process id, as the pid file says; 0 when it does not.
        pid: u32,
        /// The directory.
        run_dir: PathBuf,
    },
    /// The run directory cannot be used.
    #[error("cannot use the run directory {}: {source}; choose another with --run-dir, or run as root", run_dir.display())]
    RunDir {
        /// The directory.
        run_dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel did not do as asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The TCP port cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The UDP port cannot be used.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// The TAP device cannot be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The data plane did not start.
    #[error(transparent)]
    DataPlane(#[from] StartError),
    /// The HTTP API cannot be served.
    #[error(transparent)]
    Http(#[from] BindError),
    /// The recording cannot be begun.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The process is out of threads, descriptors or memory.
    #[error("cannot start the router's threads: {0}")]
    Threads(io::Error),
    /// The router ran, and had to end.
    #[error("the router had to end: {0}")]
    Control(#[from] ControlError),
    /// A bug.
    #[error("the router had to end, as one of its tasks panicked: please report it, with the log")]
    Panic,
    /// A file cannot be removed at a reset.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs a router until it is told to stop. Blocks; makes its own runtimes and threads, and needs root.
///
/// # Errors
/// As [`RunError`] says. What was begun is taken back, but for the bridge.
pub fn run(config: Config) -> Result<Exit, RunError> {
    let _claim = PidFile::claim(&config.run_dir)?;
    let store = Arc::new(Store::open(&config.data_dir, &Entropy::System)?);
    let runtime = runtime().map_err(RunError::Threads)?;
    let host: Arc<dyn Host> = Arc::new(Kernel::start(&config.bridge)?);
    let (data_dir, bridge, vxlan_port) = (config.data_dir.clone(), config.bridge.clone(), config.vxlan_port());
    let exit = runtime.block_on(start(config, store, host.clone()))?;
    if exit == Exit::Reset {
        runtime.block_on(remains::remove(&*host, &bridge, vxlan_port, &data_dir))?;
    }
    info!("stopped");
    Ok(exit)
}

/// Removes what routers with these directories and this bridge have left, as [`Exit::Reset`] does. Blocks.
///
/// # Errors
/// [`RunError::AlreadyRunning`] if one runs: that one is to be asked. Otherwise what could not be removed.
pub fn reset(config: &Config) -> Result<(), RunError> {
    let _claim = PidFile::claim(&config.run_dir)?;
    let runtime = runtime().map_err(RunError::Threads)?;
    let host = Kernel::start(&config.bridge)?;
    runtime.block_on(remains::remove(&host, &config.bridge, config.vxlan_port(), &config.data_dir))
}

async fn start(config: Config, store: Arc<Store>, host: Arc<dyn Host>) -> Result<Exit, RunError> {
    let started = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let targets = targets(&config, &store)?;
    let workers = dataplane::default_workers();
    let listeners = tcp::listen(config.host, config.port)?;
    let sockets = udp::bind(config.host, config.port, workers)?;
    let listening = http::bind(&config.run_dir, config.http_addr)?;
    let node_config = node_config(&config, &store, &*host, targets.clone(), started);
    let (node, recorder) = node(node_config, &config)?;

    let spool = Spool::of(&config.data_dir);
    warn_of_overlaps(&config, &*host).await;
    let (taps, mtu) = plug_in(&config, &*host, &store, workers).await?;
    let fast = FastPath::start(setup(&config, &store), mtu.into());
    let (mtu_now, mtu) = watch::channel(mtu);
    let (punts, punted) = dataplane::channel();
    let sleeve = DataPlane::start(DataPlaneConfig { taps, sockets, punts, realtime: config.realtime })?;

    let shutdown = Shutdown::default();
    let (asker, asks) = control::channel();
    let (own_names, own_names_seen) = watch::channel(store.names());
    let ranges = ranges(&config);
    let (stations, operator) =
        Stations::new(host.clone(), asker.clone(), store.clone(), ranges, own_names_seen.clone());
    let table = Arc::new(ArcSwap::default());
    let zone = Zone::new(config.dns.domain.clone(), config.dns.ttl, table.clone());
    let dns = Arc::new(Dns::new(config.dns.clone(), zone));
    let names = NamesOut { kept: store.names(), table, own: own_names, answer: None };
    let (newest, writer, kept) = keep::channel();
    let (is_ready, ready) = watch::channel(false);
    let (targets, targets_seen) = watch::channel(targets);
    let meter = sleeve.meter();
    let api = Api {
        control: asker,
        operator,
        dns: dns.clone(),
        counters: Arc::new(move || meter.read()),
        fast: fast.counts,
        started,
        failure: sleeve.failure(),
        ready,
        shutdown: shutdown.clone(),
    };
    let (transport, arrivals) = Transport::new(listeners, config.host, config.port);
    let sources = Sources {
        asks,
        punts: punted,
        arrivals,
        fast: fast.inputs,
        kept,
        mtu,
        underlay: host.underlay(),
        failure: sleeve.failure(),
        stop: shutdown.token().clone(),
    };
    let control = Control {
        node,
        sleeve,
        transport,
        fast: fast.path,
        ability: fast.ability,
        recorder,
        newest,
        askers: Askers::default(),
        targets,
        names,
        started: Instant::now(),
        events: EventCounts::default(),
        lookout: Lookout::default(),
        load: LoadMeter::default(),
    };
    let mtu = Mtu { host: host.clone(), fixed: config.mtu, now: mtu_now, peer: store.identity().name() };

    let name_server = dns.start(config.bridge.clone(), stations.exposed(), shutdown.token().clone());
    let name_server = name_server.map_err(RunError::Threads)?;
    let services = Services {
        listening,
        api,
        stations,
        spool,
        mtu,
        store,
        targets: targets_seen,
        names: own_names_seen,
        writer,
        shutdown: shutdown.clone(),
    };
    let services = services.start().map_err(RunError::Threads)?;
    is_ready.send_replace(true);
    notify("READY=1");
    info!(port = config.port, network = %config.network, nickname = %config.nickname, "running");

    let (sleeve, ended) = control.run(sources).await;
    // Also when it ended by itself: then for everybody.
    shutdown.begin(Exit::Stopped);
    is_ready.send_replace(false);
    notify("STOPPING=1");
    if !sleeve.stop() {
        warn!("a thread of the data plane did not end in time");
    }
    let services = services.join().unwrap_or(Err(RunError::Panic));
    if name_server.is_some_and(|thread| thread.join().is_err()) {
        return Err(RunError::Panic);
    }
    ended?;
    services?;
    Ok(shutdown.exit())
}

/// The targets to begin with, remembered for the next run.
fn targets(config: &Config, store: &Store) -> Result<Vec<Target>, StoreError> {
    let mut targets = config.targets.clone();
    if config.resume {
        targets.extend(store.targets());
    }
    targets.sort();
    targets.dedup();
    store.keep_targets(&targets)?;
    Ok(targets)
}

fn node_config(config: &Config, store: &Store, host: &dyn Host, targets: Vec<Target>, started: u64) -> NodeConfig {
    NodeConfig {
        version: config.version.clone(),
        identity: store.identity().clone(),
        secret: config.secret.clone(),
        network: config.network.clone(),
        nickname: config.nickname.clone(),
        uid: Uid(Entropy::System.number()),
        port: config.port,
        conn_limit: config.conn_limit,
        discovery: config.discovery,
        relay: config.relay,
        trusted_subnets: config.trusted_subnets.clone(),
        rekey_after: config.rekey_after,
        targets,
        cipher: if host.facts().aes { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 },
        started,
        allocation: config
            .allocation
            .clone()
            .map(|allocation| AllocationConfig { kept: store.allocation(), ..allocation }),
    }
}

fn ranges(config: &Config) -> Ranges {
    let of = |allocation: &AllocationConfig| Ranges {
        all: allocation.ranges.clone(),
        default_subnets: allocation.default_subnets.clone(),
    };
    config.allocation.as_ref().map(of).unwrap_or_default()
}

/// Says aloud where the network's addresses may be those of something else.
async fn warn_of_overlaps(config: &Config, host: &dyn Host) {
    let Some(allocation) = &config.allocation else { return };
    let routes = match host.routes().await {
        Ok(routes) => routes,
        Err(error) => {
            return warn!(%error, "cannot see whether the addresses of the network overlap with those of this host");
        }
    };
    for range in &allocation.ranges {
        for route in &routes {
            if range.contains(&route.to) || route.to.contains(range) {
                warn!(%range, route = %route.to, device = route.device, "the range of the network overlaps with a route of this host: \
                     containers may not reach what is there, or this host not them; launch all routers with another \
                     --ipalloc-range, or keep to subnets of it beside the route with --ipalloc-default-subnet");
            }
        }
    }
}

/// The node; one that is recorded draws its randomness from a seed that is written down.
fn node(node_config: NodeConfig, config: &Config) -> Result<(Node, Option<Recorder>), RecordError> {
    let Some(path) = &config.record else {
        return Ok((Node::new(node_config, Entropy::System), None));
    };
    let seed = Entropy::System.secret();
    let recorder = Recorder::begin(path, &node_config, &seed)?;
    Ok((Node::new(node_config, Entropy::seeded(*seed)), Some(recorder)))
}

fn setup(config: &Config, store: &Store) -> Setup {
    Setup {
        mode: config.fastdp,
        config: FastConfig {
            bridge: config.bridge.clone(),
            tap: tap_name(config),
            port: config.vxlan_port(),
            vni: vni(&config.network),
            own: store.identity().name(),
        },
        secret: !config.secret.is_open(),
        lanes: config.esp_lanes,
    }
}

fn tap_name(config: &Config) -> String {
    format!("{}-tap", config.bridge)
}

/// Makes bridge and TAP, and plugs the one into the other. Answers with the TAP's queues and the MTU.
async fn plug_in(
    config: &Config,
    host: &dyn Host,
    store: &Store,
    queues: usize,
) -> Result<(Vec<TapQueue>, u16), RunError> {
    let mtu = config.mtu.unwrap_or_else(|| mtu::of(&host.underlay().borrow()));
    let wanted = BridgeConfig { peer: store.identity().name(), mtu: Some(mtu.into()) };
    let bridge = host.ensure_bridge(wanted).await?;
    let device = tap_name(config);
    let deadline = Instant::now() + TAP_PATIENCE;
    let taps = loop {
        match tap::create(&device, queues) {
            Err(TapError::Busy(_)) if Instant::now() < deadline => sleep(TAP_POLL).await,
            made => break made?,
        }
    };
    host.add_port(device).await?;
    info!(bridge = bridge.name, mtu = bridge.mtu, created = bridge.created, "bridge is ready");
    Ok((taps, mtu))
}

/// A runtime on the thread that blocks on it.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()
}

/// A thread of the router's own.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

#[cfg(test)]
mod tests;
