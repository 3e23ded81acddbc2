//! Routers whose node is gone are declared dead, so that the living get their addresses.

use std::time::Duration;

use serde_json::json;
use weft::{
    api::{
        Summary,
        allocation::{AddressStatus, Removal},
    },
    id::PeerName,
};

use super::{
    cluster::{Cluster, is_gone},
    router::Router,
    server::{Record, Server, ServerError},
};
use crate::client::ClientError;

/// What came of a look at the record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No router is to be declared dead.
    Settled,
    /// This must be tried again, and why.
    Again(String),
}

/// Declares dead whoever of the record is gone, and strikes them.
///
/// `own` is never declared dead. `informed` is how long the router must have been up to know the network.
pub(super) async fn reclaim(
    server: &Server,
    router: &Router,
    cluster: &Cluster,
    record: &Record,
    own: PeerName,
    informed: Duration,
) -> Result<Outcome, ServerError> {
    let gone = gone(server, cluster, record, own).await?;
    if gone.is_empty() {
        return Ok(Outcome::Settled);
    }
    let (settled, again) = declare_dead(router, &gone, informed).await;
    if !settled.is_empty() {
        tracing::info!(peers = ?settled, "routers gone with their nodes are declared dead");
        server.strike(record, &settled).await?;
    }
    Ok(if again.is_empty() { Outcome::Settled } else { Outcome::Again(again.join("; ")) })
}

/// Routers that are gone. Nodes are asked for anew: the cluster as it is watched may lag behind the record.
async fn gone(
    server: &Server,
    cluster: &Cluster,
    record: &Record,
    own: PeerName,
) -> Result<Vec<PeerName>, ServerError> {
    let mut gone = Vec::new();
    for (peer, node) in &record.nodes {
        if *peer != own && cluster.has_lost(*peer, node) && is_gone(*peer, server.node(node).await?.as_ref()) {
            tracing::debug!(%peer, node, "a router is gone with its node");
            gone.push(*peer);
        }
    }
    Ok(gone)
}

/// Who needs no second try, and why the others do.
async fn declare_dead(router: &Router, peers: &[PeerName], informed: Duration) -> (Vec<PeerName>, Vec<String>) {
    // All at once: one who is dead must not be waited for to agree that the other is.
    if let Ok(removal) = remove(router, peers).await {
        return if removal.waiting_for.is_empty() {
            (peers.to_vec(), Vec::new())
        } else {
            (Vec::new(), vec![waiting(&removal)])
        };
    }
    // One of them cannot be: the others can.
    let (mut settled, mut again) = (Vec::new(), Vec::new());
    for peer in peers {
        match remove(router, &[*peer]).await {
            Ok(removal) if removal.waiting_for.is_empty() => settled.push(*peer),
            Ok(removal) => again.push(waiting(&removal)),
            Err(error) if has_nothing(router, &error, informed).await => settled.push(*peer),
            Err(error) => again.push(format!("{peer}: {error}")),
        }
    }
    (settled, again)
}

async fn remove(router: &Router, peers: &[PeerName]) -> Result<Removal, ClientError> {
    let peers: Vec<String> = peers.iter().map(PeerName::to_string).collect();
    router.post("/ipam/remove-peers", json!({ "peers": peers })).await
}

fn waiting(removal: &Removal) -> String {
    let list = |peers: &[weft::api::allocation::PeerLabel]| {
        peers.iter().map(|peer| peer.to_string()).collect::<Vec<_>>().join(", ")
    };
    format!("to take over from {}, these must agree: {}", list(&removal.removed), list(&removal.waiting_for))
}

/// Whether the error says that there is nothing to take over, by a router that must know.
async fn has_nothing(router: &Router, error: &ClientError, informed: Duration) -> bool {
    let ClientError::Refused { code: Some(code), .. } = error else {
        return false;
    };
    match code.as_str() {
        "off" => true,
        // A router that has just come may not have heard of the peer yet.
        "no_such_peer" => {
            let summary: Result<Summary, _> = router.get("/status?format=json").await;
            let status: Result<AddressStatus, _> = router.get("/status/ipam?format=json").await;
            summary.is_ok_and(|summary| summary.uptime_s >= informed.as_secs())
                && status.is_ok_and(|status| status.state == "ready")
        }
        _ => false,
    }
}
