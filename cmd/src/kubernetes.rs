//! `weft kubernetes`: the process beside the router on a node of Kubernetes.

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use weft_plugin::{
    client::Client,
    kubernetes::{Options, Pace, first_peers, run},
};
use weft_router::Config;

use crate::{
    cli::{Globals, Kubernetes},
    logging,
};

/// Where the other nodes' addresses are kept, in the data directory: a directory of its own, so that it can be shared with the router
/// without the router's key.
const PEERS_FILE: &str = "kubernetes/peers.toml";

/// Runs until it is told to stop, or until the first peers are known.
pub(crate) fn kubernetes(kubernetes: Kubernetes, globals: &Globals) -> anyhow::Result<()> {
    logging::start(kubernetes.log_level, kubernetes.log_format);
    let dirs = globals.dirs()?;
    let peers_file = kubernetes.peers_file.unwrap_or_else(|| dirs.data.join(PEERS_FILE));
    let options = Options {
        node: kubernetes.node,
        router: Client::new(Config::socket_path(&dirs.run)),
        peers_file,
        pace: Pace::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let ended = runtime.block_on(until_stopped(options, kubernetes.first_peers));
    // A call to the router may be waiting for its answer: nobody needs it any more.
    runtime.shutdown_background();
    ended
}

async fn until_stopped(options: Options, only_first_peers: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let work = async {
        if only_first_peers {
            return Ok(first_peers(options).await?);
        }
        match run(options).await? {}
    };
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => stopped(only_first_peers),
        _ = interrupt.recv() => stopped(only_first_peers),
    }
}

fn stopped(only_first_peers: bool) -> anyhow::Result<()> {
    if only_first_peers {
        bail!("stopped before the nodes of the cluster were known");
    }
    Ok(())
}
