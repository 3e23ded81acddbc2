//! Sidecars against an API server's and a router's double: over HTTP, with everything that goes wrong there.

mod fake_router;
mod fake_server;
mod manifest;
mod tls;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kube::Config;
use tempfile::TempDir;
use tokio::task::AbortHandle;

use self::{
    fake_router::{Answer, FakeRouter},
    fake_server::FakeServer,
};
use super::{
    Options, Pace,
    cluster::Cluster,
    first,
    reclaim::{Outcome, reclaim},
    router::Router,
    server::Server,
    sidecar,
    targets::Targets,
};

/// How long anything may take here; two busy cores, and the library's pauses after a broken watch.
const PATIENCE: Duration = Duration::from_secs(60);

const A: &str = "0a:00:00:00:00:0a";
const B: &str = "0a:00:00:00:00:0b";
const C: &str = "0a:00:00:00:00:0c";
const C_NEW: &str = "0a:00:00:00:00:cc";

fn hurried() -> Pace {
    Pace {
        round: Duration::from_millis(100),
        settle: Duration::from_millis(5),
        router: Duration::from_millis(50),
        record: Duration::from_millis(150),
        again: Duration::from_millis(100),
        spread: Duration::from_millis(50),
        server: Duration::from_millis(50),
        informed: Duration::from_secs(300),
    }
}

fn access(address: SocketAddr) -> Server {
    Server::new(Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

/// A node's router and sidecar.
struct Host {
    router: FakeRouter,
    dir: TempDir,
    address: SocketAddr,
    node: String,
    sidecar: Option<AbortHandle>,
}

impl Host {
    fn new(server: &FakeServer, node: &str, peer: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let router = FakeRouter::start(dir.path(), peer);
        Self { router, dir, address: server.address, node: node.to_owned(), sidecar: None }
    }

    fn start(&mut self) {
        let options = Options {
            node: self.node.clone(),
            router: self.router.client.clone(),
            peers_file: self.dir.path().join("peers.toml"),
            pace: hurried(),
        };
        let server = access(self.address);
        self.sidecar = Some(tokio::spawn(async move { sidecar::serve(server, options).await }).abort_handle());
    }

    fn stop(&mut self) {
        self.sidecar.take().unwrap().abort();
    }

    fn peers_file(&self) -> String {
        fs::read_to_string(self.dir.path().join("peers.toml")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(sidecar) = &self.sidecar {
            sidecar.abort();
        }
    }
}

/// Nodes a, b and c at 10.0.0.1 to 3; b and c have announced routers B and C and are on record. A sidecar runs on a.
async fn three() -> (FakeServer, Host) {
    let server = FakeServer::start().await;
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        server.add_node(name, address);
    }
    for (name, peer) in [("b", B), ("c", C)] {
        server.annotate(name, peer);
        server.enter(peer, name);
    }
    let mut host = Host::new(&server, "a", A);
    host.start();
    eventually("the sidecar is at work", || server.announced("a").as_deref() == Some(A) && record(&server).len() == 3)
        .await;
    (server, host)
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the record has been looked at some times more.
async fn rounds(server: &FakeServer) {
    let before = server.record_reads();
    eventually("rounds go on", || server.record_reads() >= before + 4).await;
}

fn record(server: &FakeServer) -> Vec<(String, String)> {
    server.record()
}

fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(peer, node)| ((*peer).to_owned(), (*node).to_owned())).collect()
}

#[tokio::test]
async fn the_router_is_told_of_all_other_nodes_and_of_changes() {
    let (server, host) = three().await;
    host.router.add_target("outside.example");
    assert_eq!(host.router.targets(), ["10.0.0.2", "10.0.0.3", "outside.example"]);

    server.add_node("d", "10.0.0.4");
    eventually("a new node is a target", || host.router.targets().contains(&"10.0.0.4".into())).await;
    server.delete_node("d");
    eventually("a node that is no more is none", || !host.router.targets().contains(&"10.0.0.4".into())).await;

    rounds(&server).await;
    assert_eq!(host.router.targets(), ["10.0.0.2", "10.0.0.3", "outside.example"]);
    assert_eq!(host.router.target_calls(), 3, "nothing is told twice");
    // What the router would start with is what the sidecar gave it.
    assert!(host.peers_file().ends_with("peers = [\n  \"10.0.0.2\",\n  \"10.0.0.3\",\n]\n"), "{}", host.peers_file());
}

#[tokio::test]
async fn a_ready_router_is_announced_and_on_record() {
    let server = FakeServer::start().await;
    server.add_node("a", "10.0.0.1");
    server.set_condition("a", "NetworkUnavailable", "True");
    let mut host = Host::new(&server, "a", A);
    host.router.set_ready(false);
    host.start();
    eventually("nodes are listed", || server.watches() >= 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.announced("a"), None);
    assert_eq!(server.condition("a", "NetworkUnavailable").unwrap().0, "True");
    assert_eq!(record(&server), []);

    host.router.set_ready(true);
    eventually("the router is announced", || server.announced("a").as_deref() == Some(A)).await;
    assert_eq!(server.condition("a", "NetworkUnavailable").unwrap(), ("False".into(), "WeftIsUp".into()));
    assert_eq!(server.condition("a", "Ready").unwrap().0, "True");
    eventually("the router is on record", || record(&server) == lines(&[(A, "a")])).await;
    rounds(&server).await;
    assert_eq!(server.calls("PATCH "), 2, "it is said once");
    let objects = ["nodes/a/status", "namespaces/default/configmaps/weft-peers"];
    let by_weft = objects.map(|object| server.calls(&format!("PATCH /api/v1/{object}?&fieldManager=weft")));
    assert_eq!(by_weft, [1, 1], "whose fields these are");
}

#[tokio::test]
async fn addresses_of_a_deleted_node_are_taken_over_once() {
    let (server, host) = three().await;
    server.delete_node("c");
    eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    rounds(&server).await;
    assert_eq!(host.router.removals(), [[C]]);
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_left_alone() {
    let (server, host) = three().await;
    server.set_condition("c", "Ready", "Unknown");
    server.set_condition("c", "NetworkUnavailable", "True");
    rounds(&server).await;
    assert!(host.router.removals().is_empty());
    assert!(host.router.targets().contains(&"10.0.0.3".into()));
}

#[tokio::test]
async fn a_deletion_that_was_missed_is_made_up_for() {
    let (server, mut host) = three().await;
    host.stop();
    rounds_are_over(&server).await;
    server.delete_node("c");
    server.add_node("d", "10.0.0.4");
    host.start();
    eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    assert_eq!(host.router.removals(), [[C]]);
    eventually("targets are those of today", || host.router.targets() == ["10.0.0.2", "10.0.0.4"]).await;
}

/// Waits until a sidecar that was stopped says nothing more.
async fn rounds_are_over(server: &FakeServer) {
    loop {
        let before = server.calls("");
        tokio::time::sleep(Duration::from_millis(300)).await;
        if server.calls("") == before {
            return;
        }
    }
}

#[tokio::test]
async fn deletions_behind_a_gap_in_the_watch_are_found() {
    for compact in [true, false] {
        let (server, host) = three().await;
        if compact {
            // Told within the watch, as servers do, and instead of a watch, as what is before them may.
            server.compact();
            eventually("nodes are listed anew", || server.lists() >= 2).await;
            server.disconnect(true);
        } else {
            server.disconnect(false);
        }
        server.delete_node("c");
        server.add_node("d", "10.0.0.4");
        eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
        assert_eq!(host.router.removals(), [[C]]);
        eventually("targets are those of today", || host.router.targets() == ["10.0.0.2", "10.0.0.4"]).await;
    }
}

#[tokio::test]
async fn a_node_with_a_new_router_loses_its_old_one_once() {
    let (server, host) = three().await;
    server.delete_node("c");
    server.add_node("c", "10.0.0.33");
    server.enter(C_NEW, "c");
    server.annotate("c", C_NEW);
    eventually("the old one is struck", || record(&server) == lines(&[(A, "a"), (B, "b"), (C_NEW, "c")])).await;
    rounds(&server).await;
    assert_eq!(host.router.removals(), [[C]]);
    assert_eq!(host.router.targets(), ["10.0.0.2", "10.0.0.33"]);
}

#[tokio::test]
async fn a_node_that_has_not_said_who_its_router_is_may_still_have_the_old_one() {
    let (server, host) = three().await;
    host.router.answer(C, Answer::Alive);
    server.delete_node("c");
    server.add_node("c", "10.0.0.3");
    rounds(&server).await;
    let before = host.router.removals().len();
    rounds(&server).await;
    assert_eq!(host.router.removals().len(), before, "the node is there again: nobody asks for its router's removal");
    assert!(record(&server).contains(&(C.to_owned(), "c".to_owned())));
}

#[tokio::test]
async fn who_cannot_be_removed_yet_is_tried_again() {
    for answer in [Answer::Alive, Answer::Waiting] {
        let (server, host) = three().await;
        host.router.answer(C, answer);
        server.delete_node("c");
        eventually("it is tried again", || host.router.removals().len() >= 6).await;
        assert!(record(&server).contains(&(C.to_owned(), "c".to_owned())));
        host.router.answer(C, Answer::Removed);
        eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    }
}

#[tokio::test]
async fn who_never_had_addresses_is_struck_by_a_router_that_must_know() {
    let (server, host) = three().await;
    host.router.restart(A);
    host.router.answer(C, Answer::Unknown);
    server.delete_node("c");
    rounds(&server).await;
    assert!(record(&server).contains(&(C.to_owned(), "c".to_owned())), "this router has just come");

    let (server, host) = three().await;
    host.router.answer(C, Answer::Unknown);
    server.delete_node("c");
    eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    assert!(!host.router.removals().is_empty());
}

#[tokio::test]
async fn nodes_gone_together_are_removed_together() {
    let (server, mut host) = three().await;
    host.stop();
    rounds_are_over(&server).await;
    server.delete_node("b");
    server.delete_node("c");
    host.start();
    eventually("both are struck", || record(&server) == lines(&[(A, "a")])).await;
    assert_eq!(host.router.removals(), [[B, C]]);
}

#[tokio::test]
async fn one_that_is_still_there_does_not_keep_the_others() {
    let (server, mut host) = three().await;
    host.stop();
    rounds_are_over(&server).await;
    host.router.answer(B, Answer::Alive);
    server.delete_node("b");
    server.delete_node("c");
    host.start();
    eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    assert_eq!(host.router.removals()[..3], [vec![B, C], vec![B], vec![C]]);
}

#[tokio::test]
async fn without_the_api_server_the_router_keeps_what_it_has() {
    let (server, host) = three().await;
    server.set_down(true);
    server.delete_node("c");
    let (calls, begun) = (server.calls(""), Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(host.router.targets(), ["10.0.0.2", "10.0.0.3"]);
    assert!(host.router.removals().is_empty());
    // 50 ms at first, doubled each time; the library's own pauses begin at 0.8 s.
    let (calls, seconds) = (server.calls("") - calls, begun.elapsed().as_secs());
    assert!(calls <= 20, "{calls} calls in {seconds} s: it does not back off");

    server.set_down(false);
    eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    eventually("c is no target", || host.router.targets() == ["10.0.0.2"]).await;
}

#[tokio::test]
async fn an_api_server_that_comes_late_is_found() {
    let reserved = FakeServer::start().await;
    let address = reserved.address;
    let mut host = Host::new(&reserved, "a", A);
    drop(reserved);
    host.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let server = FakeServer::start_at(address).await;
    server.add_node("a", "10.0.0.1");
    server.add_node("b", "10.0.0.2");
    eventually("the router is announced", || server.announced("a").as_deref() == Some(A)).await;
    eventually("the router is told", || host.router.targets() == ["10.0.0.2"]).await;
}

#[tokio::test]
async fn a_router_that_was_restarted_is_told_again() {
    let (server, host) = three().await;
    host.router.restart(A);
    eventually("it has its targets", || host.router.targets() == ["10.0.0.2", "10.0.0.3"]).await;
    rounds(&server).await;
    assert!(host.router.removals().is_empty());

    // Its data are lost: it is somebody else now, and who it was is gone.
    host.router.restart(C_NEW);
    eventually("it is announced", || server.announced("a").as_deref() == Some(C_NEW)).await;
    eventually("its old self is struck", || record(&server) == lines(&[(B, "b"), (C, "c"), (C_NEW, "a")])).await;
    assert_eq!(host.router.removals(), [[A]]);
}

#[tokio::test]
async fn a_list_without_its_own_node_changes_nothing() {
    let (server, host) = three().await;
    server.delete_node("a");
    server.delete_node("c");
    server.disconnect(true);
    eventually("nodes are listed anew", || server.lists() >= 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(host.router.removals().is_empty());

    // Deleted by mistake, and registered again by its kubelet.
    server.add_node("a", "10.0.0.1");
    eventually("the router is announced again", || server.announced("a").as_deref() == Some(A)).await;
    eventually("C is struck", || record(&server) == lines(&[(A, "a"), (B, "b")])).await;
    eventually("c is no target", || host.router.targets() == ["10.0.0.2"]).await;
}

#[tokio::test]
async fn many_sidecars_do_not_disturb_each_other() {
    let server = FakeServer::start().await;
    let peer = |n: usize| format!("0a:00:00:00:00:{n:02x}");
    let mut hosts: Vec<Host> = (1..=8)
        .map(|n| {
            server.add_node(&format!("n{n}"), &format!("10.0.0.{n}"));
            Host::new(&server, &format!("n{n}"), &peer(n))
        })
        .collect();
    hosts.iter_mut().for_each(Host::start);
    eventually("all are on record", || record(&server).len() == 8).await;
    eventually("all know all", || hosts.iter().all(|host| host.router.targets().len() == 7)).await;

    for n in [7, 8] {
        hosts.pop();
        server.delete_node(&format!("n{n}"));
    }
    eventually("the two are struck", || record(&server).len() == 6).await;
    eventually("the two are no targets", || hosts.iter().all(|host| host.router.targets().len() == 5)).await;
    let removed: Vec<String> = hosts.iter().flat_map(|host| host.router.removals()).flatten().collect();
    for n in [7, 8] {
        assert!(removed.contains(&peer(n)), "{removed:?}");
    }
    assert!(removed.iter().all(|name| *name == peer(7) || *name == peer(8)), "{removed:?}");
}

#[tokio::test]
async fn a_cache_that_lags_removes_nobody() {
    let server = FakeServer::start().await;
    server.add_node("a", "10.0.0.1");
    let dir = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(dir.path(), A);
    let access = access(server.address);
    let cluster = Cluster::of("a".into(), access.list().await.unwrap());
    // The watch has not told of b, but the record has it already.
    server.add_node("b", "10.0.0.2");
    server.annotate("b", B);
    server.enter(B, "b");
    let record = access.record().await.unwrap();
    assert!(cluster.has_lost(B.parse().unwrap(), "b"));
    let outcome =
        reclaim(&access, &Router::new(router.client.clone()), &cluster, &record, A.parse().unwrap(), Duration::ZERO)
            .await;
    assert_eq!(outcome.unwrap(), Outcome::Settled);
    assert!(router.removals().is_empty());

    // A line that has been written since is not struck by who read an old record.
    server.delete_node("b");
    server.enter(B, "a");
    let struck = access.strike(&record, &[B.parse().unwrap()]).await;
    assert!(struck.unwrap_err().to_string().contains("Conflict"));
    assert_eq!(server.record(), lines(&[(B, "a")]));
}

#[tokio::test]
async fn the_first_peers_are_written_down_before_the_router_starts() {
    let server = FakeServer::start().await;
    server.add_node("b", "10.0.0.2");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peers.toml");
    let find = |patience| {
        let router = crate::client::Client::new(dir.path().join("weft.sock"));
        let options = Options { node: "a".into(), router, peers_file: file.clone(), pace: hurried() };
        let access = access(server.address);
        tokio::spawn(async move { first::find(&access, options, patience).await })
    };
    // Its own node is not there yet.
    let finding = find(Duration::ZERO);
    eventually("it asks again", || server.calls("GET /api/v1/nodes") >= 3).await;
    assert!(!finding.is_finished() && !file.exists());
    server.add_node("a", "10.0.0.1");
    finding.await.unwrap().unwrap();
    assert!(fs::read_to_string(&file).unwrap().ends_with("peers = [\n  \"10.0.0.2\",\n]\n"));

    // The API server is away: what is known will do, after a while.
    server.set_down(true);
    find(Duration::from_millis(200)).await.unwrap().unwrap();
    assert!(Targets::is_kept(&file));
    fs::remove_file(&file).unwrap();
    let finding = find(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!finding.is_finished(), "a router that knows of nobody must not be started");
    server.set_down(false);
    finding.await.unwrap().unwrap();
    assert!(Targets::is_kept(&file));
}
