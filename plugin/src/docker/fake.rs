//! A router and an engine in memory, each behind a real unix socket: what the plugin's tests talk to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::mpsc};

/// What the router has.
#[derive(Debug, Default)]
pub(crate) struct RouterState {
    pub(crate) endpoints: BTreeMap<String, Value>,
    /// Address to owner.
    pub(crate) taken: BTreeMap<IpAddr, String>,
    /// Addresses kept for an owner.
    pub(crate) kept: BTreeMap<IpAddr, String>,
    /// Owner and name.
    pub(crate) names: BTreeSet<(String, String)>,
    /// Stations of other hosts.
    pub(crate) elsewhere: Vec<IpAddr>,
    pub(crate) targets: Vec<String>,
}

/// A router.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeRouter(Arc<Mutex<RouterState>>);

impl FakeRouter {
    pub(crate) fn start(path: &PathBuf) -> Self {
        let fake = Self::default();
        let app = Router::new()
            .route("/endpoint", post(endpoint))
            .route("/endpoint/remove", post(remove_endpoint))
            .route("/ready", get(async || "{}"))
            .route("/ps", get(ps))
            .route("/status", get(summary))
            .route("/status/endpoints", get(stations))
            .route("/status/ipam", get(ipam))
            .route("/ipam/allocate", post(allocate))
            .route("/ipam/claim", post(claim))
            .route("/ipam/free", post(free))
            .route("/dns/add", post(add_name))
            .route("/dns/remove", post(remove_names))
            .route("/connect", post(connect))
            .with_state(fake.clone());
        serve(path, app);
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, RouterState> {
        self.0.lock().unwrap()
    }

    /// Names that are found.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().names.iter().map(|(_, name)| name.clone()).collect()
    }
}

fn serve(path: &PathBuf, app: Router) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
}

fn refused(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(json!({ "error": error.into() }))).into_response()
}

fn parsed(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

async fn endpoint(State(fake): State<FakeRouter>, body: Bytes) -> Response {
    let request = parsed(&body);
    let name = text(&request["name"]);
    let device = format!("free-{name}");
    let mac = request["mac"].as_str().unwrap_or("02:00:00:00:00:01").to_owned();
    fake.state().endpoints.entry(name).or_insert(request);
    Json(json!({ "device": device, "mac": mac, "mtu": 1340 })).into_response()
}

async fn remove_endpoint(State(fake): State<FakeRouter>, body: Bytes) -> StatusCode {
    fake.state().endpoints.remove(&text(&parsed(&body)["name"]));
    StatusCode::NO_CONTENT
}

async fn ps(State(fake): State<FakeRouter>) -> Json<Value> {
    let state = fake.state();
    let lines =
        state.endpoints.keys().map(|name| json!({ "container": name, "mac": "02:00:00:00:00:01", "addresses": [] }));
    Json(lines.collect())
}

async fn summary() -> Json<Value> {
    Json(json!({
        "name": "02:00:00:00:00:01", "nickname": "host-1", "network": "weft", "protocol": [1, 1], "port": 6783,
        "encryption": true, "discovery": true, "conn_limit": 200, "trusted_subnets": [], "fastdp": "off", "fastdp_info": "",
        "uptime_s": 1,
    }))
}

async fn stations(State(fake): State<FakeRouter>) -> Json<Value> {
    let line = json!({ "mac": "02:00:00:00:00:09", "addresses": fake.state().elsewhere, "name": "02:00:00:00:00:02", "nickname": "host-2" });
    Json(json!([line]))
}

async fn ipam(State(fake): State<FakeRouter>) -> Json<Value> {
    let state = fake.state();
    let owners =
        state.taken.iter().map(|(address, owner)| json!({ "owner": owner, "addresses": [format!("{address}/12")] }));
    Json(json!({
        "state": "ready", "info": "", "ranges": ["10.32.0.0/12"], "default_subnets": ["10.32.0.0/12"],
        "owners": owners.collect::<Vec<_>>(), "peers": [], "conflicts": [],
    }))
}

async fn allocate(State(fake): State<FakeRouter>, body: Bytes) -> Response {
    let request = parsed(&body);
    let owner = text(&request["owner"]);
    let subnet: IpNet = text(&request["subnets"][0]).parse().unwrap();
    let mut state = fake.state();
    let kept = state.kept.iter().find(|(_, by)| **by == owner).map(|(address, _)| *address);
    let free = subnet.hosts().find(|host| !state.taken.contains_key(host) && !state.kept.contains_key(host));
    let Some(address) = kept.or(free) else { return refused(StatusCode::SERVICE_UNAVAILABLE, "no address is free") };
    state.kept.remove(&address);
    state.taken.insert(address, owner);
    Json(json!({ "addresses": [format!("{address}/{}", subnet.prefix_len())] })).into_response()
}

async fn claim(State(fake): State<FakeRouter>, body: Bytes) -> Response {
    let request = parsed(&body);
    let owner = text(&request["owner"]);
    let address: IpNet = text(&request["addresses"][0]).parse().unwrap();
    let mut state = fake.state();
    let by = state.taken.get(&address.addr()).or(state.kept.get(&address.addr())).filter(|by| **by != owner);
    if let Some(by) = by {
        return refused(StatusCode::CONFLICT, format!("{} is taken by {by}", address.addr()));
    }
    state.kept.remove(&address.addr());
    state.taken.insert(address.addr(), owner);
    Json(json!({ "addresses": [address] })).into_response()
}

async fn free(State(fake): State<FakeRouter>, body: Bytes) -> Json<Value> {
    let request = parsed(&body);
    let owner = text(&request["owner"]);
    let addresses: Vec<IpAddr> = serde_json::from_value(request["addresses"].clone()).unwrap();
    let mut state = fake.state();
    let RouterState { taken, kept, .. } = &mut *state;
    let leaving = |address: &IpAddr, by: &String| *by == owner && (addresses.is_empty() || addresses.contains(address));
    let gone: Vec<IpAddr> = taken.iter().filter(|(a, by)| leaving(a, by)).map(|(a, _)| *a).collect();
    taken.retain(|address, by| !leaving(address, by));
    if request["keep_ms"] != 0 {
        kept.extend(gone.into_iter().map(|address| (address, owner.clone())));
    }
    Json(json!({ "addresses": [] }))
}

async fn add_name(State(fake): State<FakeRouter>, body: Bytes) -> StatusCode {
    let request = parsed(&body);
    fake.state().names.insert((text(&request["owner"]), text(&request["name"])));
    StatusCode::NO_CONTENT
}

async fn remove_names(State(fake): State<FakeRouter>, body: Bytes) -> StatusCode {
    let body = parsed(&body);
    let (owner, name) = (text(&body["owner"]), body["name"].as_str().map(str::to_owned));
    fake.state().names.retain(|(by, its)| *by != owner || name.as_ref().is_some_and(|name| name != its));
    StatusCode::NO_CONTENT
}

async fn connect(State(fake): State<FakeRouter>, body: Bytes) -> StatusCode {
    let targets: Vec<String> = serde_json::from_value(parsed(&body)["targets"].clone()).unwrap();
    fake.state().targets.extend(targets);
    StatusCode::NO_CONTENT
}

/// What the engine has.
#[derive(Debug, Default)]
pub(crate) struct EngineState {
    pub(crate) containers: BTreeMap<String, Value>,
    pub(crate) networks: BTreeMap<String, Value>,
    /// How many more networks it fails to make.
    pub(crate) failures: usize,
    listeners: Vec<mpsc::UnboundedSender<Bytes>>,
}

/// An engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeEngine(Arc<Mutex<EngineState>>);

impl FakeEngine {
    pub(crate) fn start(path: &PathBuf) -> Self {
        let fake = Self::default();
        let app = Router::new()
            .route("/_ping", get(async || ([("api-version", "1.41")], "OK")))
            .route("/v1.41/containers/json", get(list))
            .route("/v1.41/containers/{id}/json", get(inspect))
            .route("/v1.41/networks", get(networks))
            .route("/v1.41/networks/{id}", get(network))
            .route("/v1.41/networks/create", post(create_network))
            .route("/v1.41/events", get(events))
            .route("/v1.41/info", get(info))
            .with_state(fake.clone());
        serve(path, app);
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, EngineState> {
        self.0.lock().unwrap()
    }

    /// Tells all who listen.
    pub(crate) fn event(&self, kind: &str, action: &str, id: &str) {
        let line =
            json!({ "Type": kind, "Action": action, "Actor": { "ID": id, "Attributes": {} } }).to_string() + "\n";
        // In two pieces, as a stream may be cut anywhere.
        let (one, other) = line.split_at(20);
        self.state()
            .listeners
            .retain(|to| to.send(one.to_owned().into()).is_ok() && to.send(other.to_owned().into()).is_ok());
    }

    /// Who listens is told no more.
    pub(crate) fn hang_up(&self) {
        self.state().listeners.clear();
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.state().listeners.len()
    }
}

fn found(value: Option<&Value>) -> Response {
    value.map_or_else(
        || (StatusCode::NOT_FOUND, Json(json!({ "message": "No such thing" }))).into_response(),
        |value| Json(value.clone()).into_response(),
    )
}

async fn list(State(fake): State<FakeEngine>) -> Json<Value> {
    Json(fake.state().containers.keys().map(|id| json!({ "Id": id })).collect())
}

async fn inspect(State(fake): State<FakeEngine>, Path(id): Path<String>) -> Response {
    found(fake.state().containers.get(&id))
}

async fn networks(State(fake): State<FakeEngine>) -> Json<Value> {
    Json(fake.state().networks.values().cloned().collect())
}

async fn network(State(fake): State<FakeEngine>, Path(id): Path<String>) -> Response {
    found(fake.state().networks.get(&id))
}

async fn create_network(State(fake): State<FakeEngine>, body: Bytes) -> StatusCode {
    let request = parsed(&body);
    let mut state = fake.state();
    if let Some(left) = state.failures.checked_sub(1) {
        state.failures = left;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    state.networks.insert(text(&request["Name"]), request);
    StatusCode::CREATED
}

async fn events(State(fake): State<FakeEngine>) -> Response {
    let (tell, told) = mpsc::unbounded_channel();
    fake.state().listeners.push(tell);
    let stream =
        futures_util::stream::unfold(told, async |mut told| Some((Ok::<_, std::io::Error>(told.recv().await?), told)));
    Body::from_stream(stream).into_response()
}

async fn info() -> Json<Value> {
    Json(json!({ "Swarm": { "NodeAddr": "10.99.0.1", "RemoteManagers": [
        { "NodeID": "a", "Addr": "10.99.0.1:2377" }, { "NodeID": "b", "Addr": "10.99.0.2:2377" }, { "NodeID": "c", "Addr": "[fd00::3]:2377" }
    ] } }))
}
