//! What is asked of the API server: nodes, and the record of which router is at which node. Every call has a deadline.
//!
//! The record is a ConfigMap's data, `7e-52-00-aa-bb-01: node-name`: keyed by router, so that a node's old router and
//! its new one do not share a line. A line is written by its router's sidecar and struck by whoever has had
//! the router declared dead, unless the record has changed since it was read.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Node},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use thiserror::Error;
use weft::id::PeerName;

use super::{
    KubernetesError, PEER_ANNOTATION, RECORD,
    member::{CONDITION, Member},
    with_causes,
};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// Whose the fields are that we write.
const MANAGER: &str = "weft";
/// The status of a watch from before what the server remembers.
const GONE: u16 = 410;

/// A call of the API server that failed; it may do later.
#[derive(Debug, Error)]
pub(super) enum ServerError {
    /// No answer.
    #[error("{call}: no answer within {} s", DEADLINE.as_secs())]
    Silent {
        /// What was to be done.
        call: &'static str,
    },
    /// It said no, or could not be reached.
    #[error("{call}: {why}")]
    Failed {
        /// What was to be done.
        call: &'static str,
        /// Why not.
        why: String,
    },
}

/// Which router was last at which node.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Node names by router.
    pub(super) nodes: BTreeMap<PeerName, String>,
    /// What the record was when it was read.
    version: Option<String>,
}

/// The API server.
#[derive(Clone)]
pub(super) struct Server {
    nodes: Api<Node>,
    maps: Api<ConfigMap>,
}

impl Server {
    /// By what the pod, or else a kubeconfig, gives access to.
    pub(super) async fn infer() -> Result<Self, KubernetesError> {
        Self::new(Config::infer().await.map_err(KubernetesError::NoAccess)?)
    }

    /// By this access.
    pub(super) fn new(config: Config) -> Result<Self, KubernetesError> {
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| KubernetesError::BadAccess(Box::new(error)))?;
        Ok(Self { maps: Api::namespaced(client.clone(), &namespace), nodes: Api::all(client) })
    }

    /// All nodes and what becomes of them, for ever; after a break it goes on after a while.
    pub(super) fn watch(&self) -> BoxStream<'static, Result<Event<Node>, Break>> {
        let watch = watcher(self.nodes.clone(), watcher::Config::default()).default_backoff();
        watch.map(|event| event.map_err(Break::from)).boxed()
    }

    /// All nodes now.
    pub(super) async fn list(&self) -> Result<BTreeMap<String, Member>, ServerError> {
        let nodes = within("listing nodes", self.nodes.list(&ListParams::default())).await?;
        Ok(nodes.into_iter().filter_map(Member::read).collect())
    }

    /// A node as it is now, not as a cache has it.
    pub(super) async fn node(&self, name: &str) -> Result<Option<Member>, ServerError> {
        let node = within("reading a node", self.nodes.get_opt(name)).await?;
        Ok(node.and_then(Member::read).map(|(_, member)| member))
    }

    /// Marks a node as having its network, and whose. By its status, which needs no right to change nodes otherwise.
    pub(super) async fn announce(&self, node: &str, peer: PeerName) -> Result<(), ServerError> {
        let now = Time(Timestamp::now());
        let patch = json!({
            "metadata": { "annotations": { PEER_ANNOTATION: peer.to_string() } },
            "status": { "conditions": [{
                "type": CONDITION,
                "status": "False",
                "reason": "WeftIsUp",
                "message": "Weft is running on this node",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }]},
        });
        let patch = Patch::Strategic(patch);
        within("announcing the router at its node", self.nodes.patch_status(node, &as_us(), &patch)).await.map(|_| ())
    }

    /// The record.
    pub(super) async fn record(&self) -> Result<Record, ServerError> {
        let map = within("reading the record of routers", self.maps.get(RECORD)).await?;
        // A line that is not ours is left alone.
        let lines = map.data.unwrap_or_default().into_iter();
        let nodes = lines.filter_map(|(key, node)| Some((peer(&key)?, node))).collect();
        Ok(Record { nodes, version: map.metadata.resource_version })
    }

    /// Writes a line.
    pub(super) async fn enter(&self, peer: PeerName, node: &str) -> Result<(), ServerError> {
        self.write("writing the record of routers", json!({ "data": { key(peer): node } })).await
    }

    /// Strikes lines of a record that was read. Fails if it has changed since.
    pub(super) async fn strike(&self, record: &Record, peers: &[PeerName]) -> Result<(), ServerError> {
        let lines: BTreeMap<String, Value> = peers.iter().map(|peer| (key(*peer), Value::Null)).collect();
        let patch = json!({ "metadata": { "resourceVersion": record.version }, "data": lines });
        self.write("striking gone routers from their record", patch).await
    }

    async fn write(&self, call: &'static str, patch: Value) -> Result<(), ServerError> {
        within(call, self.maps.patch(RECORD, &as_us(), &Patch::Merge(patch))).await.map(|_| ())
    }
}

/// Names us as who wrote, for people who look at an object's `managedFields`.
fn as_us() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

async fn within<T>(call: &'static str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, ServerError> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(answer) => answer.map_err(|error| ServerError::Failed { call, why: reason(&error) }),
        Err(_) => Err(ServerError::Silent { call }),
    }
}

fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    with_causes(error)
}

/// A watch that broke.
#[derive(Debug)]
pub(super) struct Break {
    /// Why, in words.
    pub(super) why: String,
    /// Whether it can never go on from where it was, and must be begun anew.
    pub(super) for_good: bool,
}

impl From<watcher::Error> for Break {
    fn from(error: watcher::Error) -> Self {
        let why = match &error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => reason(error),
            watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
            watcher::Error::NoResourceVersion => error.to_string(),
        };
        // The library begins anew by itself only if it hears so within the watch.
        let for_good = matches!(
            error,
            watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == GONE
        );
        Self { why, for_good }
    }
}

/// A router's key in the record: a ConfigMap's keys have no colons.
fn key(peer: PeerName) -> String {
    peer.to_string().replace(':', "-")
}

fn peer(key: &str) -> Option<PeerName> {
    key.replace('-', ":").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_has_a_key_that_a_config_map_takes() {
        let name: PeerName = "7e:52:00:aa:bb:01".parse().unwrap();
        assert_eq!(key(name), "7e-52-00-aa-bb-01");
        assert_eq!(peer(&key(name)), Some(name));
        assert_eq!(peer("kube-root-ca.crt"), None);
    }
}
