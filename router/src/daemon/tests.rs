//! A whole router against the kernel, in a network namespace that vanishes with its thread. Needs root.

use std::{
    io::{Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::Path,
    sync::mpsc,
    thread::JoinHandle,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Uid as UserId, gettid},
};
use serde_json::{Value, json};
use weft::{id::NetworkName, secret::NetworkSecret};

use super::*;
use crate::{
    dns::{DEFAULT_DOMAIN, DEFAULT_TTL, DnsConfig},
    fastdp::Mode,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does `work` on a thread in a network namespace of its own.
fn in_new_namespace(work: impl FnOnce() + Send + 'static) {
    assert!(UserId::effective().is_root(), "these tests make network namespaces: run them as root");
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    });
    thread.join().unwrap();
}

/// A container: a network namespace that lives as long as this.
struct Container {
    path: String,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Container {
    fn new() -> Self {
        let ((tell, told), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).unwrap();
            let _ = ended.recv();
        });
        Self { path: told.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn config(directory: &Path) -> Config {
    Config {
        version: "0.0.0-test".to_owned(),
        data_dir: directory.join("data"),
        run_dir: directory.join("run"),
        host: None,
        port: 6783,
        network: NetworkName::default(),
        nickname: "host-1".parse().unwrap(),
        secret: NetworkSecret::open(&NetworkName::default()),
        conn_limit: 0,
        discovery: true,
        relay: true,
        realtime: true,
        trusted_subnets: Vec::new(),
        targets: Vec::new(),
        resume: false,
        mtu: None,
        fastdp: Mode::Off,
        rekey_after: weft::link::keys::REKEY_AFTER,
        esp_lanes: None,
        bridge: "weft".to_owned(),
        http_addr: Some("127.0.0.1:6784".parse().unwrap()),
        dns: DnsConfig {
            domain: DEFAULT_DOMAIN.parse().unwrap(),
            ttl: DEFAULT_TTL,
            listen: None,
            resolv_conf: directory.join("resolv.conf"),
        },
        allocation: None,
        record: None,
    }
}

/// Starts a router in the caller's namespace and waits until it is ready.
fn launch(config: &Config) -> JoinHandle<Result<Exit, RunError>> {
    let router = thread::spawn({
        let config = config.clone();
        move || run(config)
    });
    let deadline = std::time::Instant::now() + PATIENCE;
    while call(config, "GET", "/ready", &json!({})).is_none_or(|(status, _)| status != 200) {
        assert!(!router.is_finished(), "{:?}", router.join());
        assert!(std::time::Instant::now() < deadline, "not ready");
        thread::sleep(Duration::from_millis(10));
    }
    router
}

/// One call on the unix socket; None when nobody listens.
fn call(config: &Config, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let mut stream = UnixStream::connect(Config::socket_path(&config.run_dir)).ok()?;
    let body = body.to_string();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\naccept: application/json\r\n");
    // In one piece: a body that comes after the answer was made would end the connection by a reset.
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

#[test]
fn a_router_comes_up_keeps_containers_over_a_restart_and_leaves_nothing_after_a_reset() {
    in_new_namespace(|| {
        let scratch = tempfile::tempdir().unwrap();
        let config = config(scratch.path());
        let container = Container::new();

        let router = launch(&config);
        let name = call(&config, "GET", "/status", &json!({})).unwrap().1["name"].clone();
        let error = run(Config { port: 7000, ..config.clone() }).unwrap_err();
        assert!(matches!(error, RunError::AlreadyRunning { pid, .. } if pid == std::process::id()), "{error}");
        let request = json!({ "container": container.path, "addresses": ["10.2.0.1/24"] });
        let (status, attached) = call(&config, "POST", "/attach", &request).unwrap();
        assert_eq!((status, &attached), (200, &json!({ "addresses": ["10.2.0.1/24"] })));
        assert_eq!(call(&config, "POST", "/stop", &json!({})).unwrap().0, 204);
        assert_eq!(router.join().unwrap().unwrap(), Exit::Stopped);
        assert_eq!(std::fs::read_dir(&config.run_dir).unwrap().count(), 0, "socket and pid file are gone");

        let router = launch(&config);
        assert_eq!(call(&config, "GET", "/status", &json!({})).unwrap().1["name"], name);
        let (_, listed) = call(&config, "GET", "/ps", &json!({})).unwrap();
        assert_eq!((&listed[0]["container"], &listed[0]["addresses"]), (&request["container"], &request["addresses"]));
        assert_eq!(call(&config, "POST", "/reset", &json!({})).unwrap().0, 204);
        assert_eq!(router.join().unwrap().unwrap(), Exit::Reset);
        assert!(!config.data_dir.exists() && !has_device("weft") && !has_device("weft-tap"));
    });
}

#[test]
fn what_stands_in_the_way_is_named_before_anything_is_touched() {
    in_new_namespace(|| {
        let scratch = tempfile::tempdir().unwrap();
        let config = config(scratch.path());
        let tcp = std::net::TcpListener::bind("0.0.0.0:6783").unwrap();
        let error = run(config.clone()).unwrap_err();
        assert!(matches!(error, RunError::Listen(_)) && error.to_string().contains("TCP port 6783"), "{error}");
        drop(tcp);
        let udp = std::net::UdpSocket::bind("0.0.0.0:6783").unwrap();
        let error = run(config.clone()).unwrap_err();
        assert!(matches!(error, RunError::Udp(_)), "{error}");
        drop(udp);
        std::fs::create_dir(Config::socket_path(&config.run_dir)).unwrap();
        let error = run(config.clone()).unwrap_err();
        assert!(matches!(error, RunError::Http(_)), "{error}");
        std::fs::remove_dir(Config::socket_path(&config.run_dir)).unwrap();
        assert!(!has_device("weft"));

        let error = run(Config { mtu: Some(100), ..config }).unwrap_err();
        assert!(matches!(error, RunError::Host(_)) && error.to_string().contains("100 bytes"), "{error}");
    });
}

#[test]
fn a_run_is_recorded_and_played_back() {
    in_new_namespace(|| {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run.jsonl");
        let config = Config { record: Some(path.clone()), http_addr: None, ..config(scratch.path()) };
        let router = launch(&config);
        assert!(std::fs::metadata(Config::socket_path(&config.run_dir)).unwrap().file_type().is_socket());
        let connect = json!({ "targets": ["192.0.2.1"] });
        assert_eq!(call(&config, "POST", "/connect", &connect).unwrap().0, 204);
        assert_eq!(call(&config, "POST", "/stop", &json!({})).unwrap().0, 204);
        assert_eq!(router.join().unwrap().unwrap(), Exit::Stopped);
        let replayed = crate::record::replay(&path).unwrap();
        assert_eq!(replayed.recorded, Some(replayed.node.report(replayed.now)));
    });
}

fn has_device(name: &str) -> bool {
    // /proc/thread-self is of our namespace, /sys/class/net of whoever mounted it.
    std::fs::read_to_string("/proc/thread-self/net/dev")
        .unwrap()
        .lines()
        .any(|line| line.trim_start().split_once(':').is_some_and(|(device, _)| device == name))
}
