//! Docker: its network and IPAM plugin, and the names and addresses of its containers.
//!
//! ```text
//!   dockerd ── JSON over weft.sock ──▶ server ─┬─ network: NetworkDriver.… ──┐
//!      │                                       └─ addresses: IpamDriver.… ───┼──▶ the router's HTTP API
//!      └────── events, inspect ──────▶ watch: names, leftovers ──────────────┘
//! ```
//! The engine posts JSON to a unix socket, one path a call (Docker plugin API v1.2; libnetwork's remote drivers). The router makes a
//! device for each endpoint, the engine moves it into the container. Nothing is stored here: what a restarted plugin has to know it
//! asks the engine and the router.

mod addresses;
mod call;
mod engine;
mod http;
mod lease;
mod network;
mod router;
mod server;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use weft::api::endpoint::PREFIX;

use self::{addresses::Addresses, network::Networks, router::Router, watch::Watch};
pub use self::{
    call::Scope,
    engine::{Container, Engine, EngineError},
};

/// Where the engine looks for the sockets of plugins; the file's name is the driver's.
pub const PLUGINS: &str = "/run/docker/plugins";
/// What the driver, its socket and the network that is made at start are called.
pub const DRIVER: &str = "weft";
/// Where the engine listens.
pub const ENGINE: &str = "/var/run/docker.sock";
/// Digits of an id that people see.
const SHORT: usize = 12;

/// What a plugin is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of the plugin's socket.
    pub plugins: PathBuf,
    /// The engine's socket.
    pub engine: PathBuf,
    /// The router's socket.
    pub router: PathBuf,
    /// Whether networks are of one engine, or of a swarm.
    pub scope: Scope,
}

/// Why there is no plugin.
#[derive(Debug, Error)]
pub enum PluginError {
    /// The socket is another's.
    #[error("another router on this host is Docker's plugin already, at {}", .0.display())]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves the engine until `stop`.
///
/// # Errors
/// As [`PluginError`] says; once it serves, it goes on whatever becomes of engine and router.
pub async fn serve(settings: Settings, stop: CancellationToken) -> Result<(), PluginError> {
    let router = Router::new(&settings.router);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = router.ready() => {}
    }
    let listening = server::bind(&settings.plugins.join(format!("{DRIVER}.sock")))?;
    let addresses = Arc::new(Addresses::new(router.clone(), settings.scope));
    let networks = Networks::new(router.clone(), settings.engine.clone(), settings.scope);
    let watch = Watch::new(settings.engine, router, addresses.clone(), settings.scope);
    tokio::join!(listening.serve(networks, addresses, stop.clone()), watch.run(stop));
    Ok(())
}

/// Whether Docker is on this host: running, or installed.
pub fn is_here() -> bool {
    let installed = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"];
    Path::new(ENGINE).exists() || installed.iter().any(|path| Path::new(path).exists())
}

/// What the router calls an endpoint of the engine's.
fn label(id: &str) -> String {
    format!("{PREFIX}{}", id.get(..SHORT).unwrap_or(id))
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
