use std::{path::Path, sync::Mutex};

use arc_swap::ArcSwap;
use http_body_util::BodyExt;
use hyper::{Method, Request, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use weft::{
    entropy::Entropy,
    id::PeerName,
    ipam::{AllocationConfig, Init},
    names::Table,
    node::{Node, NodeConfig},
};
use weft_host::{BridgeConfig, FakeHost, Host};

use super::*;
use crate::{
    control::tests::{Ends, control, node_config},
    daemon::Exit,
    dns::{DEFAULT_DOMAIN, DEFAULT_TTL, DnsConfig, Listen, Zone},
    keep::keep,
    stations::{Ranges, Stations},
    store::Store,
};

/// A router's API with a fake host and no data plane, on a unix socket and on TCP.
struct Served {
    scratch: tempfile::TempDir,
    tcp: std::net::SocketAddr,
    host: Arc<FakeHost>,
    ends: Ends,
    ready: watch::Sender<bool>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

async fn served() -> Served {
    let host = Arc::new(FakeHost::new());
    host.ensure_bridge(BridgeConfig { peer: PeerName([2; 6]), mtu: None }).await.unwrap();
    host.add_namespace("c1");
    let allocation = AllocationConfig {
        ranges: vec!["10.32.0.0/28".parse().unwrap()],
        default_subnets: vec!["10.32.0.0/28".parse().unwrap()],
        init: Init::Consensus(None),
        kept: None,
    };
    let node_config = NodeConfig { allocation: Some(allocation.clone()), ..node_config() };
    let (control, sources, mut ends) = control(Node::new(node_config, Entropy::System), None);
    tokio::spawn(control.run(sources));
    let scratch = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(scratch.path(), &Entropy::System).unwrap());
    tokio::spawn(keep(store.clone(), ends.writer.take().unwrap()));
    let ranges = Ranges { all: allocation.ranges, default_subnets: allocation.default_subnets };
    let (stations, operator) = Stations::new(host.clone(), ends.asker.clone(), store, ranges, ends.own_names.clone());
    tokio::spawn(stations.run(ends.stop.clone()));
    let dns = name_server(Some(Listen::Bridge), ends.names.clone());
    let (ready, is_ready) = watch::channel(false);
    let shutdown = Shutdown::default();
    let api = Api {
        control: ends.asker.clone(),
        operator,
        dns,
        counters: Arc::new(Reading::default),
        fast: watch::channel(FastCounts::default()).1,
        started: 1_700_000_000,
        failure: ends.failure.subscribe(),
        ready: is_ready,
        shutdown: shutdown.clone(),
    };
    let listening = bind(scratch.path(), Some("127.0.0.1:0".parse().unwrap())).unwrap();
    let tcp = listening.tcp_address().unwrap();
    let task = tokio::spawn(listening.serve(api, shutdown.token().clone()));
    Served { scratch, tcp, host, ends, ready, shutdown, task }
}

fn name_server(listen: Option<Listen>, table: Arc<ArcSwap<Table>>) -> Arc<Dns> {
    let config =
        DnsConfig { domain: DEFAULT_DOMAIN.parse().unwrap(), ttl: DEFAULT_TTL, listen, resolv_conf: "/nowhere".into() };
    let zone = Zone::new(config.domain.clone(), config.ttl, table);
    Arc::new(Dns::new(config, zone))
}

struct Answer {
    status: StatusCode,
    content_type: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// What an error says.
    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

impl Served {
    async fn unix(&self, method: Method, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(self.scratch.path().join("weft.sock")).await.unwrap();
        call(TokioIo::new(stream), Request::builder().method(method).uri(path), body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.unix(Method::GET, path, "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.unix(Method::POST, path, &body.to_string()).await
    }

    async fn tcp(&self, method: Method, path: &str, host: &str) -> Answer {
        let stream = TcpStream::connect(self.tcp).await.unwrap();
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        call(TokioIo::new(stream), request, "{}").await
    }
}

async fn call<I>(io: I, request: hyper::http::request::Builder, body: &str) -> Answer
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = request.body(body.to_owned()).unwrap();
    let response: hyper::Response<Incoming> =
        timeout(Duration::from_secs(10), sender.send_request(request)).await.unwrap().unwrap();
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answer { status, content_type: content_type.unwrap_or_default(), text }
}

#[tokio::test]
async fn status_is_text_for_people_and_json_for_programs() {
    let served = served().await;
    let text = served.get("/status").await;
    assert!(text.text.contains("Name:") && text.content_type.starts_with("text/plain"), "{}", text.text);
    let summary = served.get("/status?format=json").await.json();
    assert_eq!(summary["nickname"], "host-1");
    for what in ["connections", "peers", "targets", "endpoints", "paths"] {
        assert!(served.get(&format!("/status/{what}?format=json")).await.json().is_array());
        assert!(served.get(&format!("/status/{what}?format=text")).await.content_type.starts_with("text/plain"));
    }
    let accepts = Request::builder().uri("/status/peers").header(header::ACCEPT, "application/json");
    let stream = UnixStream::connect(served.scratch.path().join("weft.sock")).await.unwrap();
    assert!(call(TokioIo::new(stream), accepts, "").await.json().is_array());
    let report = served.get("/report").await.json();
    assert_eq!((&report["router"]["port"], &report["counters"]["connections_ended"]), (&json!(6783), &json!(0)));
    assert_eq!(served.get("/status?format=xml").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn metrics_are_in_the_open_format() {
    let served = served().await;
    let metrics = served.get("/metrics").await;
    assert!(metrics.content_type.starts_with("application/openmetrics-text"));
    assert!(metrics.text.ends_with("# EOF\n") && metrics.text.contains("weft_build_info{version=\"0.0.0-test\"} 1"));
}

#[tokio::test]
async fn containers_come_and_go() {
    let served = served().await;
    let request = json!({ "container": "c1", "addresses": ["10.2.0.1/24"] });
    for _ in 0..2 {
        let attached = served.post("/attach", &request).await;
        assert_eq!((attached.status, attached.json()), (StatusCode::OK, json!({ "addresses": ["10.2.0.1/24"] })));
    }
    let exposed = served.post("/expose", &json!({ "addresses": ["10.2.0.254/24"] })).await;
    assert_eq!(exposed.status, StatusCode::OK);
    let listed = served.get("/ps").await.json();
    assert_eq!(listed[0]["container"], "weft:expose");
    assert_eq!(listed[1]["container"], "c1");
    assert_eq!(listed[1]["addresses"], json!(["10.2.0.1/24"]));

    let missing = served.post("/attach", &json!({ "container": "c9", "addresses": ["10.2.0.9/24"] })).await;
    assert_eq!(missing.status, StatusCode::BAD_REQUEST);
    assert!(missing.error().contains("c9"), "{}", missing.error());
    served.host.fail_next(weft_host::HostError::Busy);
    assert_eq!(served.post("/hide", &json!({ "addresses": [] })).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        served.post("/hide", &json!({ "addresses": [] })).await.json(),
        json!({ "addresses": ["10.2.0.254/24"] })
    );
    let detached = served.post("/detach", &json!({ "container": "c1", "addresses": [] })).await;
    assert_eq!(detached.json(), json!({ "addresses": ["10.2.0.1/24"] }));
    assert_eq!(served.get("/ps").await.json(), json!([]));
}

#[tokio::test]
async fn free_ends_are_made_listed_and_removed() {
    let served = served().await;
    let request = json!({ "name": "docker:e1", "addresses": ["10.2.0.1/24"], "mac": "02:42:0a:02:00:01" });
    let made = served.post("/endpoint", &request).await;
    assert_eq!(made.status, StatusCode::OK);
    assert_eq!(made.json()["mac"], "02:42:0a:02:00:01");
    assert!(!made.json()["device"].as_str().unwrap().is_empty());
    assert_eq!(served.get("/ps").await.json()[0]["container"], "docker:e1");
    let taken = served.post("/endpoint", &json!({ "name": "docker:e2", "addresses": ["10.2.0.1/24"] })).await;
    assert_eq!(taken.status, StatusCode::BAD_REQUEST);
    assert!(taken.error().contains("docker:e1"), "{}", taken.error());
    for _ in 0..2 {
        let removed = served.post("/endpoint/remove", &json!({ "name": "docker:e1" })).await;
        assert_eq!(removed.status, StatusCode::NO_CONTENT);
        assert_eq!(served.get("/ps").await.json(), json!([]));
    }
}

#[tokio::test]
async fn orders_to_the_node_are_checked() {
    let served = served().await;
    assert_eq!(
        served.post("/connect", &json!({ "targets": ["host-2", "[fd00::1]:7000"] })).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        served.post("/connect", &json!({ "targets": [], "replace": true })).await.status,
        StatusCode::NO_CONTENT
    );
    let nobody = served.post("/connect", &json!({ "targets": [] })).await;
    assert_eq!(nobody.status, StatusCode::BAD_REQUEST);
    let bad = served.post("/connect", &json!({ "targets": ["a b"] })).await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert!(bad.error().contains("`a b` is not a peer"), "{}", bad.error());
    let unknown = served.post("/forget", &json!({ "targets": ["stranger"] })).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.error().contains("stranger"), "{}", unknown.error());
}

#[tokio::test]
async fn bad_calls_get_named_errors() {
    let served = served().await;
    assert_eq!(served.unix(Method::POST, "/attach", "{").await.status, StatusCode::BAD_REQUEST);
    let cidr = served.post("/attach", &json!({ "container": "c1", "addresses": ["10.2.0.1"] })).await;
    assert!(cidr.status == StatusCode::BAD_REQUEST && cidr.error().contains("not as expected"), "{}", cidr.error());
    let large = format!("{{\"targets\":[\"{}\"]}}", "x".repeat(BODY_MAX));
    let large = served.unix(Method::POST, "/connect", &large).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!large.error().is_empty());
    assert_eq!(served.get("/nothing").await.status, StatusCode::NOT_FOUND);
    assert!(served.get("/nothing").await.error().contains("/nothing"));
    let method = served.get("/attach").await;
    assert_eq!(
        (method.status, method.error()),
        (StatusCode::METHOD_NOT_ALLOWED, "/attach does not take GET".to_owned())
    );
}

#[tokio::test]
async fn tcp_reads_and_never_changes_anything() {
    let served = served().await;
    for path in ["/status", "/report", "/metrics", "/health"] {
        assert_eq!(served.tcp(Method::GET, path, "localhost:6784").await.status, StatusCode::OK, "{path}");
    }
    for path in ["/connect", "/forget", "/attach", "/detach", "/expose", "/hide", "/endpoint", "/stop", "/reset"] {
        let answer = served.tcp(Method::POST, path, "127.0.0.1").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(answer.error().contains("unix socket"), "{path}");
    }
    assert_eq!(served.tcp(Method::GET, "/ps", "127.0.0.1").await.status, StatusCode::NOT_FOUND);
    assert_eq!(served.tcp(Method::POST, "/status", "127.0.0.1").await.status, StatusCode::METHOD_NOT_ALLOWED);
    let rebound = served.tcp(Method::GET, "/status", "evil.example:6784").await;
    assert!(rebound.status == StatusCode::FORBIDDEN && !rebound.text.contains("host-1"), "{}", rebound.text);
    assert!(!served.shutdown.token().is_cancelled());
}

#[tokio::test]
async fn health_and_readiness_say_what_is_wrong() {
    let served = served().await;
    assert_eq!(served.get("/health").await.status, StatusCode::OK);
    assert_eq!(served.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    served.ready.send_replace(true);
    assert_eq!(served.get("/ready").await.status, StatusCode::OK);
    served.ends.failure.send_replace(Some("the data plane's thread sleeve-0 panicked".to_owned()));
    let ill = served.get("/health").await;
    assert_eq!(ill.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn names_are_added_looked_up_and_removed_within_the_domain() {
    let served = served().await;
    let add = |name: &str, owner: Value| json!({ "name": name, "addresses": ["10.32.0.1", "fd32::1"], "owner": owner });
    for (name, changed) in [("web", 2), ("web.weft.local.", 0), ("WEB.weft.local", 0)] {
        assert_eq!(served.post("/dns/add", &add(name, json!("c1"))).await.json(), json!({ "changed": changed }));
    }
    assert_eq!(served.post("/dns/add", &add("by-hand", Value::Null)).await.status, StatusCode::OK);
    let found = json!({ "names": ["web.weft.local"], "addresses": ["10.32.0.1", "fd32::1"] });
    for name in ["web", "Web.weft.local"] {
        assert_eq!(served.get(&format!("/dns/lookup/{name}")).await.json(), found);
    }
    let back = served.get("/dns/lookup/10.32.0.1").await.json();
    assert_eq!(back["names"], json!(["by-hand.weft.local", "web.weft.local"]));
    let listed = served.get("/status/dns?format=json").await.json();
    assert_eq!((&listed[0]["owner"], &listed[1]["hostname"]), (&json!("weft:extern"), &json!("web.weft.local")));
    assert!(served.get("/status/dns").await.text.starts_with("NAME"));
    assert!(served.get("/report").await.json()["names"].as_array().is_some_and(|names| names.len() == 2));
    assert_eq!(served.get("/dns").await.json()["domain"], "weft.local");

    for (path, body) in [
        ("/dns/add", json!({ "name": "web.example.com", "addresses": ["10.32.0.1"] })),
        ("/dns/add", json!({ "name": "weft.local", "addresses": ["10.32.0.1"] })),
        ("/dns/add", json!({ "name": "-x", "addresses": ["10.32.0.1"] })),
        ("/dns/add", json!({ "name": "x", "addresses": [] })),
        ("/dns/add", json!({ "name": "x", "addresses": ["127.0.0.1"] })),
        ("/dns/add", json!({ "name": "x", "addresses": ["10.32.0.1"], "owner": "" })),
        ("/dns/remove", json!({})),
    ] {
        let refused = served.post(path, &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body} {}", refused.text);
    }
    assert_eq!(served.get("/dns/lookup/nobody").await.status, StatusCode::NOT_FOUND);
    let nobody = served.get("/explain/peer/no%20body").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
    assert!(nobody.error().contains("`no body`"), "{}", nobody.error());
    assert_eq!(served.tcp(Method::POST, "/dns/add", "localhost").await.status, StatusCode::NOT_FOUND);
    assert_eq!(served.tcp(Method::GET, "/dns/lookup/web", "localhost").await.json(), found);

    let removed = served.post("/dns/remove", &json!({ "addresses": ["fd32::1"] })).await.json();
    assert_eq!(removed, json!({ "changed": 2 }));
    let removed = served.post("/dns/remove", &json!({ "owner": "c1" })).await.json();
    assert_eq!(removed, json!({ "changed": 1 }));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_control_task_costs_a_call_its_deadline_and_no_more() {
    let (asker, _never_read) = crate::control::channel();
    let scratch = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(scratch.path(), &Entropy::System).unwrap());
    let (_, operator) =
        Stations::new(Arc::new(FakeHost::new()), asker.clone(), store, Ranges::default(), watch::channel(Vec::new()).1);
    let api = Api {
        control: asker,
        operator,
        dns: name_server(None, Arc::default()),
        counters: Arc::new(Reading::default),
        fast: watch::channel(FastCounts::default()).1,
        started: 0,
        failure: watch::channel(None).1,
        ready: watch::channel(true).1,
        shutdown: Shutdown::default(),
    };
    let asked = Mutex::new(whole(api).into_service::<String>());
    for (path, status) in [("/status", StatusCode::GATEWAY_TIMEOUT), ("/health", StatusCode::SERVICE_UNAVAILABLE)] {
        let request = Request::builder().uri(path).body(String::new()).unwrap();
        let answered = tower_call(&asked, request);
        assert_eq!(answered.await.status(), status, "{path}");
    }
}

async fn tower_call(
    service: &Mutex<axum::routing::RouterIntoService<String>>,
    request: Request<String>,
) -> axum::response::Response {
    let service = hyper_util::service::TowerToHyperService::new(service.lock().unwrap().clone());
    hyper::service::Service::call(&service, request).await.unwrap()
}

#[tokio::test]
async fn stop_is_answered_before_the_socket_goes() {
    for (path, exit) in [("/stop", Exit::Stopped), ("/reset", Exit::Reset)] {
        let served = served().await;
        assert_eq!(served.post(path, &json!({})).await.status, StatusCode::NO_CONTENT);
        assert_eq!(served.shutdown.exit(), exit);
        timeout(Duration::from_secs(5), served.task).await.unwrap().unwrap();
        assert!(!served.scratch.path().join("weft.sock").exists());
    }
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_only_the_owner_may_use_it() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let scratch = tempfile::tempdir().unwrap();
    let path: &Path = &scratch.path().join("weft.sock");
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    let before = std::fs::metadata(path).unwrap().ino();
    let _listening = bind(scratch.path(), None).unwrap();
    let metadata = std::fs::metadata(path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_ne!(metadata.ino(), before);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    let error = bind(&scratch.path().join("none"), None).unwrap_err();
    assert!(error.to_string().contains("weft.sock"), "{error}");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = bind(scratch.path(), Some(busy.local_addr().unwrap())).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)), "{error}");
}

#[tokio::test]
async fn what_is_not_http_is_refused_without_harm() {
    let served = served().await;
    for bytes in [&b"\0\0\0\0\r\n\r\n"[..], &[b'a'; 100_000], b"GET /status HTTP/9.9\r\n\r\n"] {
        let mut stream = TcpStream::connect(served.tcp).await.unwrap();
        // It may hang up before it has heard all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(served.get("/health").await.status, StatusCode::OK);
}
