//! Before the router starts: whom it shall look for.
//!
//! A router that knows of nobody may found an address space of its own as soon as a pod asks for an address. So the first
//! targets are not given to the running router, but written down before it starts.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use tokio::time::Instant;

use super::{KubernetesError, Options, cluster::Cluster, server::Server, targets::Targets};

/// How long the API server is waited for when the nodes are known from an earlier run.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes the addresses of all nodes but our own into the file of targets, for the router's `--config`.
///
/// While the API server cannot be asked, it waits; but only a little if an earlier run left the file: a node that was
/// restarted needs its network then, too.
///
/// # Errors
/// When there is no access to a cluster at all, and when the file cannot be written.
pub async fn first_peers(options: Options) -> Result<(), KubernetesError> {
    find(&Server::infer().await?, options, PATIENCE).await
}

pub(super) async fn find(server: &Server, options: Options, patience: Duration) -> Result<(), KubernetesError> {
    let Options { node, peers_file: file, pace, .. } = options;
    let begun = Instant::now();
    loop {
        let why = match server.list().await {
            Ok(members) => match Cluster::of(node.clone(), members).targets() {
                Some(targets) => return write(file, targets),
                None => format!("there is no node \"{node}\": --node must be the name of the Node object"),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(why, "the nodes of the cluster are not known yet");
        if begun.elapsed() >= patience && Targets::is_kept(&file) {
            tracing::warn!(file = %file.display(), "going on with those of the last run");
            return Ok(());
        }
        tokio::time::sleep(pace.server).await;
    }
}

fn write(file: PathBuf, targets: BTreeSet<weft::node::input::Target>) -> Result<(), KubernetesError> {
    tracing::info!(file = %file.display(), nodes = targets.len(), "the other nodes of the cluster are written down");
    Targets::load(file).keep(targets)
}
