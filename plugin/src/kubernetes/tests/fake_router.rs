//! A router's double: the routes of its HTTP API that a sidecar uses, on a unix socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::UnixListener, task::AbortHandle};

use crate::client::Client;

/// What the router says to the removal of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Done.
    Removed,
    /// It is there.
    Alive,
    /// Nobody of this name ever had addresses.
    Unknown,
    /// Another has to agree and is away.
    Waiting,
}

struct Inside {
    name: String,
    is_ready: bool,
    uptime_s: u64,
    targets: BTreeSet<String>,
    /// Calls that change something, with their bodies.
    calls: Vec<(&'static str, Value)>,
    answers: BTreeMap<String, Answer>,
}

type Shared = Arc<Mutex<Inside>>;

/// A running double; it stops when dropped.
pub(super) struct FakeRouter {
    pub(super) client: Client,
    inside: Shared,
    task: AbortHandle,
}

impl Drop for FakeRouter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeRouter {
    pub(super) fn start(directory: &Path, name: &str) -> Self {
        let inside = Arc::new(Mutex::new(Inside {
            name: name.to_owned(),
            is_ready: true,
            uptime_s: 1000,
            targets: BTreeSet::new(),
            calls: Vec::new(),
            answers: BTreeMap::new(),
        }));
        let router = Router::new()
            .route("/ready", get(ready))
            .route("/status", get(summary))
            .route("/status/targets", get(targets))
            .route("/status/ipam", get(ipam))
            .route("/connect", post(connect))
            .route("/forget", post(forget))
            .route("/ipam/remove-peers", post(remove_peers))
            .with_state(inside.clone());
        let socket = directory.join("weft.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Self { client: Client::new(socket), inside, task }
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.with(|inside| inside.is_ready = is_ready);
    }

    /// As after a restart: without targets, and perhaps as somebody else.
    pub(super) fn restart(&self, name: &str) {
        self.with(|inside| {
            inside.targets.clear();
            inside.uptime_s = 0;
            name.clone_into(&mut inside.name);
        });
    }

    pub(super) fn answer(&self, peer: &str, answer: Answer) {
        self.with(|inside| inside.answers.insert(peer.to_owned(), answer));
    }

    pub(super) fn targets(&self) -> Vec<String> {
        self.with(|inside| inside.targets.iter().cloned().collect())
    }

    /// As an operator does by `weft connect`.
    pub(super) fn add_target(&self, target: &str) {
        self.with(|inside| inside.targets.insert(target.to_owned()));
    }

    /// Whom it was told to remove, call by call.
    pub(super) fn removals(&self) -> Vec<Vec<String>> {
        let removal = |(path, body): &(&str, Value)| (*path == "remove-peers").then(|| strings(&body["peers"]));
        self.with(|inside| inside.calls.iter().filter_map(removal).collect())
    }

    /// How often it was told to connect or forget.
    pub(super) fn target_calls(&self) -> usize {
        self.with(|inside| inside.calls.iter().filter(|(path, _)| *path != "remove-peers").count())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inside) -> T) -> T {
        f(&mut self.inside.lock().unwrap())
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn refused(status: StatusCode, code: &str) -> Response {
    (status, Json(json!({ "error": format!("{code}, says the double"), "code": code }))).into_response()
}

async fn ready(State(inside): State<Shared>) -> Response {
    if inside.lock().unwrap().is_ready {
        Json(json!({ "ready": true })).into_response()
    } else {
        refused(StatusCode::SERVICE_UNAVAILABLE, "")
    }
}

async fn summary(State(inside): State<Shared>) -> Json<Value> {
    let inside = inside.lock().unwrap();
    Json(json!({
        "name": inside.name, "nickname": "n", "network": "weft", "protocol": [1, 1], "port": 6783, "encryption": true,
        "discovery": true, "conn_limit": 200, "trusted_subnets": [], "fastdp": "off", "fastdp_info": "",
        "uptime_s": inside.uptime_s,
    }))
}

async fn targets(State(inside): State<Shared>) -> Json<Value> {
    let line =
        |target: &String| json!({ "target": target, "state": "waiting", "tries": 0, "retry_ms": null, "info": "" });
    Json(inside.lock().unwrap().targets.iter().map(line).collect())
}

async fn ipam() -> Json<Value> {
    Json(json!({ "state": "ready", "info": "", "ranges": ["10.32.0.0/12"], "default_subnets": ["10.32.0.0/12"],
                 "owners": [], "peers": [], "conflicts": [] }))
}

async fn connect(State(inside): State<Shared>, Json(body): Json<Value>) -> StatusCode {
    let mut inside = inside.lock().unwrap();
    if body["replace"] == true {
        inside.targets.clear();
    }
    inside.targets.extend(strings(&body["targets"]));
    inside.calls.push(("connect", body));
    StatusCode::NO_CONTENT
}

async fn forget(State(inside): State<Shared>, Json(body): Json<Value>) -> Response {
    let mut inside = inside.lock().unwrap();
    let targets = strings(&body["targets"]);
    inside.calls.push(("forget", body));
    if targets.iter().any(|target| !inside.targets.contains(target)) {
        return refused(StatusCode::NOT_FOUND, "");
    }
    inside.targets.retain(|target| !targets.contains(target));
    StatusCode::NO_CONTENT.into_response()
}

async fn remove_peers(State(inside): State<Shared>, Json(body): Json<Value>) -> Response {
    let mut inside = inside.lock().unwrap();
    let peers = strings(&body["peers"]);
    inside.calls.push(("remove-peers", body));
    let answers = |peer: &String| inside.answers.get(peer).copied().unwrap_or(Answer::Removed);
    let answers: Vec<Answer> = peers.iter().map(answers).collect();
    if answers.contains(&Answer::Alive) {
        return refused(StatusCode::BAD_REQUEST, "peer_alive");
    }
    if answers.contains(&Answer::Unknown) {
        return refused(StatusCode::BAD_REQUEST, "no_such_peer");
    }
    let label = |name: &String| json!({ "name": name, "nickname": null });
    let removed: Vec<Value> = peers.iter().map(label).collect();
    let waiting_for =
        if answers.contains(&Answer::Waiting) { json!([label(&"0a:00:00:00:00:01".into())]) } else { json!([]) };
    Json(json!({ "removed": removed, "reclaimed": 1024, "waiting_for": waiting_for })).into_response()
}
