//! An API server's double: nodes and one ConfigMap, listed, watched and patched over HTTP, as far as the manifest allows.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, patch},
    serve::Listener,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

use super::manifest::Rights;

const MAP: &str = "/api/v1/namespaces/default/configmaps/weft-peers";

/// What the server knows.
#[derive(Default)]
struct Objects {
    version: u64,
    nodes: BTreeMap<String, Value>,
    lines: BTreeMap<String, Value>,
    map_version: u64,
    /// What changed, by version.
    log: Vec<(u64, &'static str, Value)>,
    /// Watches from before this version are too old.
    oldest: u64,
    /// Raised to end all watches.
    breaks: u64,
    is_down: bool,
    calls: Vec<String>,
}

impl Objects {
    fn write(&mut self, kind: &'static str, mut node: Value) {
        self.version += 1;
        node["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        match kind {
            "DELETED" => drop(self.nodes.remove(&name)),
            _ => drop(self.nodes.insert(name, node.clone())),
        }
        self.log.push((self.version, kind, node));
    }
}

struct Shared {
    rights: Rights,
    /// What every call must bear.
    token: Option<&'static str>,
    objects: Mutex<Objects>,
    changed: watch::Sender<()>,
}

/// A running double; it stops when dropped.
pub(super) struct FakeServer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeServer {
    pub(super) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(super) async fn start_at(address: SocketAddr) -> Self {
        Self::serve(TcpListener::bind(address).await.unwrap(), None)
    }

    pub(super) fn serve(listener: impl Listener<Addr = SocketAddr>, token: Option<&'static str>) -> Self {
        let (rights, changed) = (Rights::of_the_manifest(), watch::channel(()).0);
        let shared = Arc::new(Shared { rights, token, objects: Mutex::default(), changed });
        let router = Router::new()
            .route("/api/v1/nodes", get(list))
            .route("/api/v1/nodes/{name}", get(read))
            .route("/api/v1/nodes/{name}/status", patch(patch_status))
            .route(MAP, get(read_map).patch(patch_map))
            .layer(middleware::from_fn_with_state(shared.clone(), gate))
            .with_state(shared.clone());
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Self { address, shared, task }
    }

    /// A node that joins, as a kubelet makes it.
    pub(super) fn add_node(&self, name: &str, address: &str) {
        let node = json!({
            "metadata": { "name": name, "uid": format!("{name}-{}", self.with(|objects| objects.version)) },
            "status": {
                "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        });
        self.change(|objects| objects.write("ADDED", node));
    }

    pub(super) fn delete_node(&self, name: &str) {
        self.change(|objects| {
            let node = objects.nodes[name].clone();
            objects.write("DELETED", node);
        });
    }

    pub(super) fn set_condition(&self, name: &str, kind: &str, status: &str) {
        self.change(|objects| {
            let mut node = objects.nodes[name].clone();
            merge_conditions(&mut node, &json!([{ "type": kind, "status": status }]));
            objects.write("MODIFIED", node);
        });
    }

    /// A router that announces itself at its node.
    pub(super) fn annotate(&self, name: &str, peer: &str) {
        self.change(|objects| {
            let mut node = objects.nodes[name].clone();
            node["metadata"]["annotations"]["weft.io/peer"] = json!(peer);
            objects.write("MODIFIED", node);
        });
    }

    /// A line of the record.
    pub(super) fn enter(&self, peer: &str, node: &str) {
        self.change(|objects| {
            objects.lines.insert(peer.replace(':', "-"), json!(node));
            objects.map_version += 1;
        });
    }

    /// The record: router and node.
    pub(super) fn record(&self) -> Vec<(String, String)> {
        let line = |(key, node): (&String, &Value)| (key.replace('-', ":"), node.as_str().unwrap().to_owned());
        self.with(|objects| objects.lines.iter().map(line).collect())
    }

    pub(super) fn announced(&self, name: &str) -> Option<String> {
        self.with(|objects| {
            let peer = &objects.nodes.get(name)?["metadata"]["annotations"]["weft.io/peer"];
            peer.as_str().map(str::to_owned)
        })
    }

    /// A condition's status and reason.
    pub(super) fn condition(&self, name: &str, kind: &str) -> Option<(String, String)> {
        self.with(|objects| {
            let conditions = objects.nodes.get(name)?["status"]["conditions"].as_array()?.clone();
            let condition = conditions.into_iter().find(|condition| condition["type"] == kind)?;
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            Some((text("status"), text("reason")))
        })
    }

    /// Calls so far whose method and path begin so.
    pub(super) fn calls(&self, prefix: &str) -> usize {
        self.with(|objects| objects.calls.iter().filter(|call| call.starts_with(prefix)).count())
    }

    /// How often the nodes were listed.
    pub(super) fn lists(&self) -> usize {
        self.calls("GET /api/v1/nodes?") - self.watches()
    }

    /// How often they were watched anew.
    pub(super) fn watches(&self) -> usize {
        self.with(|objects| objects.calls.iter().filter(|call| call.contains("watch=true")).count())
    }

    /// How often the record was read.
    pub(super) fn record_reads(&self) -> usize {
        self.calls(&format!("GET {MAP}"))
    }

    /// Answers everything by an error, or no more so.
    pub(super) fn set_down(&self, is_down: bool) {
        self.change(|objects| {
            objects.is_down = is_down;
            objects.breaks += 1;
        });
    }

    /// Ends all watches; with `forget` none can go on where it was.
    pub(super) fn disconnect(&self, forget: bool) {
        self.change(|objects| {
            objects.breaks += 1;
            if forget {
                objects.oldest = objects.version + 1;
                objects.version += 1;
            }
        });
    }

    /// Tells all watches that they are too old.
    pub(super) fn compact(&self) {
        self.change(|objects| {
            objects.version += 1;
            objects.oldest = objects.version;
        });
    }

    fn with<T>(&self, f: impl FnOnce(&Objects) -> T) -> T {
        f(&self.shared.objects.lock().unwrap())
    }

    fn change(&self, f: impl FnOnce(&mut Objects)) {
        f(&mut self.shared.objects.lock().unwrap());
        self.shared.changed.send_replace(());
    }
}

fn status(code: StatusCode, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("{reason} of the double"), "reason": reason, "code": code.as_u16() })
}

fn refused(code: StatusCode, reason: &str) -> Response {
    (code, Json(status(code, reason))).into_response()
}

async fn gate(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_down = {
        let mut objects = shared.objects.lock().unwrap();
        objects.calls.push(format!("{} {}", request.method(), request.uri()));
        objects.is_down
    };
    if is_down {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    let bears = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if shared.token.is_some_and(|token| bears != Some(&format!("Bearer {token}"))) {
        return refused(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let (uri, method) = (request.uri(), request.method().as_str());
    if !shared.rights.allow(method, uri.path(), uri.query().unwrap_or_default()) {
        return refused(StatusCode::FORBIDDEN, "Forbidden");
    }
    next.run(request).await
}

async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    if query.get("watch").is_some_and(|watch| watch == "true") {
        return watch_from(shared, query["resourceVersion"].parse().unwrap());
    }
    let objects = shared.objects.lock().unwrap();
    let items: Vec<&Value> = objects.nodes.values().collect();
    Json(json!({ "kind": "NodeList", "apiVersion": "v1",
                 "metadata": { "resourceVersion": objects.version.to_string() }, "items": items }))
    .into_response()
}

fn watch_from(shared: Arc<Shared>, version: u64) -> Response {
    let changed = shared.changed.subscribe();
    let breaks = {
        let objects = shared.objects.lock().unwrap();
        if version < objects.oldest {
            return refused(StatusCode::GONE, "Expired");
        }
        objects.breaks
    };
    let lines = stream::unfold((shared, changed, Some(version)), move |(shared, mut changed, position)| async move {
        let version = position?;
        loop {
            {
                let objects = shared.objects.lock().unwrap();
                if objects.breaks != breaks {
                    return None;
                }
                if version < objects.oldest {
                    let event = json!({ "type": "ERROR", "object": status(StatusCode::GONE, "Expired") });
                    drop(objects);
                    return Some((line(&event), (shared, changed, None)));
                }
                if let Some((next, kind, node)) = objects.log.iter().find(|(at, _, _)| *at > version) {
                    let (event, next) = (json!({ "type": kind, "object": whole(node) }), *next);
                    drop(objects);
                    return Some((line(&event), (shared, changed, Some(next))));
                }
            }
            changed.changed().await.ok()?;
        }
    });
    Body::from_stream(lines).into_response()
}

fn line(event: &Value) -> Result<String, Infallible> {
    Ok(format!("{event}\n"))
}

/// An object that stands alone says what it is; in a list it does not.
fn whole(node: &Value) -> Value {
    let mut node = node.clone();
    node["kind"] = json!("Node");
    node["apiVersion"] = json!("v1");
    node
}

async fn read(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.objects.lock().unwrap().nodes.get(&name) {
        Some(node) => Json(whole(node)).into_response(),
        None => refused(StatusCode::NOT_FOUND, "NotFound"),
    }
}

async fn patch_status(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Json(patch): Json<Value>,
) -> Response {
    let mut objects = shared.objects.lock().unwrap();
    let Some(mut node) = objects.nodes.get(&name).cloned() else {
        return refused(StatusCode::NOT_FOUND, "NotFound");
    };
    for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
        node["metadata"]["annotations"][key] = value.clone();
    }
    merge_conditions(&mut node, &patch["status"]["conditions"]);
    objects.write("MODIFIED", node.clone());
    drop(objects);
    shared.changed.send_replace(());
    Json(whole(&node)).into_response()
}

/// As a strategic merge does: by type.
fn merge_conditions(node: &mut Value, new: &Value) {
    let conditions = node["status"]["conditions"].as_array_mut().unwrap();
    for condition in new.as_array().unwrap() {
        conditions.retain(|old| old["type"] != condition["type"]);
        conditions.push(condition.clone());
    }
}

async fn read_map(State(shared): State<Arc<Shared>>) -> Response {
    Json(map(&shared.objects.lock().unwrap())).into_response()
}

async fn patch_map(State(shared): State<Arc<Shared>>, Json(patch): Json<Value>) -> Response {
    let mut objects = shared.objects.lock().unwrap();
    let based_on = patch["metadata"]["resourceVersion"].as_str();
    if based_on.is_some_and(|version| version != objects.map_version.to_string()) {
        return refused(StatusCode::CONFLICT, "Conflict");
    }
    for (key, value) in patch["data"].as_object().unwrap() {
        if value.is_null() {
            objects.lines.remove(key);
        } else {
            objects.lines.insert(key.clone(), value.clone());
        }
    }
    objects.map_version += 1;
    Json(map(&objects)).into_response()
}

fn map(objects: &Objects) -> Value {
    json!({ "kind": "ConfigMap", "apiVersion": "v1", "data": objects.lines,
            "metadata": { "name": "weft-peers", "resourceVersion": objects.map_version.to_string() } })
}
