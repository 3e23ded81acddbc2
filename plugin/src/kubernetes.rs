//! Kubernetes: the process that runs beside the router on each node, `weft kubernetes`.
//!
//! ```text
//!  API server ── Nodes, watched ──▶ Cluster ──┬─▶ targets: the other nodes' addresses ─────────▶ router: connect, forget
//!      ▲                                      └─▶ peers of the record whose node is gone ──────▶ router: remove-peers
//!      ├── Node: annotation `weft.io/peer`, condition NetworkUnavailable=False ◀── who the router is, and that it is ready
//!      └── ConfigMap `weft-peers`, the record: peer → node; it outlives the Node objects
//! ```
//! Every node does the same and nobody leads: declaring a peer dead may be repeated and done by several. A *round* compares what is with
//! what shall be and does what is missing; events only make it come earlier. So whatever was missed (events, a restart of
//! the router, an API server away for a day) is made up for by the next round.
//!
//! What it never does: remove the peer of a node that the API server knows, however unready; believe a list without its own node;
//! touch targets that others gave to the router; stop the network from working when the API server cannot be reached.

mod cluster;
mod first;
mod member;
mod reclaim;
mod router;
mod server;
mod sidecar;
mod targets;

use std::{path::PathBuf, time::Duration};

use thiserror::Error;

pub use self::{first::first_peers, sidecar::run};
use crate::client::Client;

/// The annotation of a Node with its router's name.
pub const PEER_ANNOTATION: &str = "weft.io/peer";
/// The ConfigMap with the record, in the namespace of the pod.
pub const RECORD: &str = "weft-peers";

/// What a sidecar has to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of its Node object.
    pub node: String,
    /// Its router.
    pub router: Client,
    /// Where it keeps the targets that it gave to the router, in the form of the router's `--config`.
    pub peers_file: PathBuf,
    /// How often it does what.
    pub pace: Pace,
}

/// How often a sidecar does what; the default is for life, tests are in a hurry.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between rounds without an event: a router that was restarted has its targets again after this.
    pub round: Duration,
    /// From an event to the round: nodes often come in swarms.
    pub settle: Duration,
    /// Until a router is looked for again that did not answer.
    pub router: Duration,
    /// Between looks at the record without a reason.
    pub record: Duration,
    /// Until a peer is declared dead again that could not be.
    pub again: Duration,
    /// Within this all nodes look at the record after one has gone: not at once, most find nothing left to do.
    pub spread: Duration,
    /// Shortest wait after a failure of the API server; doubled each time up to 64 times.
    pub server: Duration,
    /// How long a router has to have been up before it is believed that a peer it never heard of has no addresses.
    pub informed: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            round: Duration::from_secs(10),
            settle: Duration::from_millis(200),
            router: Duration::from_secs(1),
            record: Duration::from_secs(300),
            again: Duration::from_secs(30),
            spread: Duration::from_secs(5),
            server: Duration::from_secs(1),
            informed: Duration::from_secs(300),
        }
    }
}

/// Why a sidecar cannot run at all.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// Neither a pod's service account nor a kubeconfig.
    #[error("no access to a Kubernetes API server: neither the service account of a pod nor a kubeconfig can be used")]
    NoAccess(#[source] kube::config::InferConfigError),
    /// What is there cannot be used.
    #[error("cannot use the access to the Kubernetes API server")]
    BadAccess(#[source] Box<kube::Error>),
    /// The file of targets cannot be written.
    #[error("cannot write {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// An error's text with those of its causes that it does not tell itself.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
