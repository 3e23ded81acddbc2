//! The name server: answers queries for the network's names itself, and hands all others to the host's own resolvers.
//!
//! ```text
//! containers, host ──UDP, TCP 53──▶ socket ──▶ Zone::answer ──▶ the table of names, as the control task published it
//!   (bridge and lo only)                            └─ not ours ─▶ Upstream ──▶ servers of resolv.conf
//! ```
//! It has a thread and a runtime of its own: a flood of queries delays neither the control task nor frames. A query never
//! asks the control task. The server listens on the host's addresses on the bridge as soon as there are any, and takes
//! only what comes in by the bridge or from the host itself, so it is no resolver for the rest of the world.

mod listen;
mod resolv;
mod tcp;
mod udp;
mod upstream;
mod zone;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{runtime::Builder, sync::watch};
use tokio_util::sync::CancellationToken;
use weft::{api::DnsServer, entropy::Entropy, names::DnsName};

pub(crate) use self::zone::Zone;
use self::{upstream::Upstream, zone::Transport};
use crate::daemon::spawn;

/// The port of DNS (RFC 1035 §4.2).
pub const PORT: u16 = 53;
/// The domain of the network's names unless configured.
pub const DEFAULT_DOMAIN: &str = "weft.local";
/// For how many seconds an answer may be kept unless configured: containers come and go.
pub const DEFAULT_TTL: u32 = 1;
/// Where the host's resolvers are listed unless configured.
pub const DEFAULT_RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where a name server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On all addresses that the host has on the bridge, now or later, at port 53.
    Bridge,
    /// On these.
    At(Vec<SocketAddr>),
}

/// What a name server is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The domain of the network's names.
    pub domain: DnsName,
    /// Seconds for which answers may be kept.
    pub ttl: u32,
    /// Where to listen; None for no server. Names are told to other routers all the same.
    pub listen: Option<Listen>,
    /// The file that lists the host's resolvers (resolv.conf(5)).
    pub resolv_conf: PathBuf,
}

/// What all parts of the server have in common.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) zone: Zone,
    upstream: Upstream,
    /// None: there is no server.
    listen: Option<Listen>,
    /// Where it listens now.
    listening: watch::Sender<Vec<SocketAddr>>,
    counts: Counts,
    dice: Dice,
}

/// What became of queries since the start.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// Randomness that cannot be guessed from what was seen of it.
#[derive(Debug)]
pub(crate) struct Dice(Mutex<StdRng>);

impl Dice {
    fn new() -> Self {
        Self(Mutex::new(StdRng::from_seed(Entropy::System.array())))
    }

    fn number(&self) -> u16 {
        self.lock().random()
    }

    fn shuffle<T>(&self, items: &mut [T]) {
        items.shuffle(&mut *self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, StdRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dns {
    pub(crate) fn new(config: DnsConfig, zone: Zone) -> Self {
        Self {
            zone,
            upstream: Upstream::new(config.resolv_conf),
            listen: config.listen,
            listening: watch::Sender::default(),
            counts: Counts::default(),
            dice: Dice::new(),
        }
    }

    /// What users may know; None if there is no server.
    pub(crate) fn status(&self) -> Option<DnsServer> {
        self.listen.as_ref()?;
        let listening = self.listening.borrow().clone();
        Some(DnsServer {
            domain: self.zone.domain().clone(),
            ttl_s: self.zone.ttl(),
            upstream: self.upstream.servers(&listening),
            listening,
        })
    }

    /// Queries by what came of them.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 4] {
        let Counts { answered, forwarded, failed, refused } = &self.counts;
        [("answered", answered), ("forwarded", forwarded), ("failed", failed), ("refused", refused)]
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    /// The answer of others to a query of `client`; the server's failure if there is none, or no room to ask.
    async fn forward(&self, query: &[u8], transport: Transport, client: IpAddr) -> Option<Vec<u8>> {
        let Some(_room) = self.upstream.admit(client) else {
            self.count_refused();
            return zone::servfail(query);
        };
        let servers = self.upstream.servers(&self.listening.borrow());
        match self.upstream.ask(query, transport, &servers, &self.dice).await {
            Some(answer) => {
                self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                Some(answer)
            }
            None => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                zone::servfail(query)
            }
        }
    }

    fn count_refused(&self) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts the server's thread, which ends some time after `stop`; without a server there is none.
    pub(crate) fn start(
        self: &Arc<Self>,
        bridge: String,
        exposed: watch::Receiver<Vec<IpAddr>>,
        stop: CancellationToken,
    ) -> io::Result<Option<JoinHandle<()>>> {
        let Some(listen) = self.listen.clone() else { return Ok(None) };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let dns = self.clone();
        let serve = move || {
            runtime.block_on(listen::serve(dns, listen, bridge, exposed, stop));
            runtime.shutdown_background();
        };
        spawn("weft-dns", serve).map(Some)
    }
}
