use std::{path::PathBuf, time::Duration};

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

use super::{
    fake::{FakeEngine, FakeRouter},
    http::Socket,
    *,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A plugin between a router and an engine.
struct Stage {
    dir: TempDir,
    router: FakeRouter,
    engine: FakeEngine,
    stop: CancellationToken,
    task: JoinHandle<Result<(), PluginError>>,
}

impl Stage {
    fn new(scope: Scope) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (router, engine) = (FakeRouter::start(&path("router.sock")), FakeEngine::start(&path("engine.sock")));
        let settings =
            Settings { plugins: path("plugins"), engine: path("engine.sock"), router: path("router.sock"), scope };
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(settings, stop.clone()));
        Self { dir, router, engine, stop, task }
    }

    async fn watched(scope: Scope) -> Self {
        let stage = Self::new(scope);
        stage.until("the engine is watched", |stage| stage.engine.listeners() == 1).await;
        stage
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("plugins/weft.sock")
    }

    async fn call(&self, call: &str, body: Value) -> Value {
        self.raw(call, body.to_string().into_bytes()).await.1
    }

    async fn raw(&self, call: &str, body: Vec<u8>) -> (u16, Value) {
        let answer = Socket(self.socket()).call(Method::POST, &format!("/{call}"), body, PATIENCE).await.unwrap();
        (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap())
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    /// A container that runs with an endpoint of ours.
    async fn container(&self, id: &str, address: &str) {
        let endpoint = format!("e{id}");
        let interface = json!({ "Address": format!("{address}/12"), "MacAddress": "02:42:0a:20:00:01" });
        let made = self.call(
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": "n1", "EndpointID": endpoint, "Interface": interface }),
        );
        assert_eq!(made.await, json!({ "Interface": {} }));
        let container = json!({
            "Id": id, "Name": format!("/name-{id}"), "State": { "Running": true, "Pid": 7 },
            "Config": { "Hostname": format!("host-{id}"), "Domainname": "" },
            "NetworkSettings": { "Networks": { "n1": {
                "EndpointID": endpoint, "IPAddress": address, "GlobalIPv6Address": "", "Aliases": [format!("alias-{id}")]
            } } },
        });
        self.engine.state().containers.insert(id.to_owned(), container);
    }
}

#[tokio::test]
async fn what_an_engine_asked_once_is_answered() {
    let stage = Stage::watched(Scope::Local).await;
    let mut answers = Vec::new();
    for line in include_str!("golden/calls.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let call = line["call"].as_str().unwrap().trim_start_matches('/');
        answers.push(json!({ "call": call, "answer": stage.call(call, line["body"].clone()).await }).to_string());
    }
    let expected: Vec<&str> = include_str!("golden/answers.jsonl").lines().collect();
    assert_eq!(answers, expected, "{}", answers.join("\n"));
    let left = stage.router.state();
    assert!(left.taken.is_empty() && left.endpoints.is_empty(), "{left:?}");
}

#[tokio::test]
async fn bodies_may_be_empty_or_chunked_and_the_host_unnamed() {
    let stage = Stage::watched(Scope::Global).await;
    let chunked = "POST /NetworkDriver.GetCapabilities HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let empty =
        "POST /NetworkDriver.GetCapabilities HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for request in [chunked, empty] {
        let mut stream = UnixStream::connect(stage.socket()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""Scope":"global""#), "{answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_words() {
    let stage = Stage::watched(Scope::Local).await;
    let cases = [
        ("NetworkDriver.CreateNetwork", json!({ "NetworkID": "" }), "no usable id"),
        ("NetworkDriver.CreateNetwork", json!({ "NetworkID": "../x" }), "no usable id"),
        ("NetworkDriver.CreateNetwork", json!("text"), "not as expected"),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": "n", "Options": { "com.docker.network.generic": { "works.weft.multicast": "maybe" } } }),
            "true or false",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "EndpointID": "e", "Interface": { "Address": "10.32.0.300/12" } }),
            "no address",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "EndpointID": "e", "Interface": { "MacAddress": "x" } }),
            "no Ethernet address",
        ),
        ("IpamDriver.RequestPool", json!({ "Pool": "192.168.0.0/24" }), "--ipalloc-range"),
        ("IpamDriver.RequestPool", json!({ "Pool": "elephant" }), "no subnet"),
        ("IpamDriver.RequestPool", json!({ "Pool": "10.32.1.0/24", "SubPool": "10.32.2.0/25" }), "not within"),
        ("IpamDriver.RequestPool", json!({ "V6": true }), "no IPv6"),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "somebody's" }), "no pool of ours"),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "weft-10.32.0.0/24-10.33.0.0/24" }), "no pool of ours"),
        ("IpamDriver.RequestAddress", json!({ "PoolID": "weft-10.32.1.0/24", "Address": "10.32.2.1" }), "not within"),
        ("IpamDriver.ReleaseAddress", json!({ "PoolID": "weft-10.32.1.0/24", "Address": "" }), "no address"),
    ];
    for (call, body, word) in cases {
        let err = stage.call(call, body.clone()).await["Err"].as_str().map(str::to_owned).unwrap_or_default();
        assert!(err.contains(word), "{call} {body}: {err}");
    }
    assert_eq!(stage.raw("NetworkDriver.Dance", Vec::new()).await.0, 404);
    let large = stage.raw("NetworkDriver.CreateNetwork", vec![b' '; (1 << 20) + 1]).await.1;
    assert!(large["Err"].as_str().unwrap().contains("larger"), "{large}");
}

#[tokio::test]
async fn options_are_of_the_network_and_known_after_a_restart() {
    let stage = Stage::watched(Scope::Local).await;
    let generic = json!({ "works.weft.multicast": "false", "com.docker.network.driver.mtu": "1200" });
    let options = json!({ "com.docker.network.generic": generic });
    assert_eq!(
        stage.call("NetworkDriver.CreateNetwork", json!({ "NetworkID": "plain", "Options": options })).await,
        json!({})
    );
    // Made before this plugin was started: the engine knows.
    let described = json!({ "Options": generic, "IPAM": { "Driver": "weft", "Config": [] } });
    stage.engine.state().networks.insert("older".to_owned(), described);
    for network in ["plain", "older", "unknown"] {
        let ids = json!({ "NetworkID": network, "EndpointID": network, "SandboxKey": "/run/docker/netns/x", "Interface": null });
        stage.call("NetworkDriver.CreateEndpoint", ids.clone()).await;
        let joined = stage.call("NetworkDriver.Join", ids).await;
        let routes = joined["StaticRoutes"].as_array().unwrap().len();
        assert_eq!(routes, usize::from(network == "unknown"), "{network}: {joined}");
        let mtu = &stage.router.state().endpoints[&format!("docker:{network}")]["mtu"];
        assert_eq!(*mtu, if network == "unknown" { json!(null) } else { json!(1200) }, "{network}");
    }
    let allocated =
        stage.call("NetworkDriver.AllocateNetwork", json!({ "NetworkID": "swarm", "Options": generic })).await;
    assert_eq!(allocated, json!({ "Options": generic }), "what other nodes are told");
}

#[tokio::test]
async fn addresses_that_engines_choose_for_themselves_meet_no_other_hosts() {
    let stage = Stage::watched(Scope::Local).await;
    let pools = json!([{ "AddressSpace": "LocalDefault", "Pool": "10.32.0.0/24", "Gateway": "10.32.0.1/24" }]);
    stage.call("NetworkDriver.CreateNetwork", json!({ "NetworkID": "n", "IPv4Data": pools })).await;
    stage.router.state().elsewhere = vec!["172.18.0.2".parse().unwrap()];
    stage.router.state().taken.insert("10.32.0.2".parse().unwrap(), "c9".to_owned());
    let create = async |endpoint: &str, address: &str| {
        let body = json!({ "NetworkID": "n", "EndpointID": endpoint, "Interface": { "Address": address } });
        stage.call("NetworkDriver.CreateEndpoint", body).await
    };
    let err = create("e1", "172.18.0.2/16").await["Err"].to_string();
    assert!(err.contains("172.18.0.2 is in use on host-2") && err.contains("--ipam-driver weft"), "{err}");
    assert!(create("e1", "10.32.0.2/24").await["Err"].to_string().contains("taken by c9"));
    assert!(stage.router.state().endpoints.is_empty());
    assert_eq!(create("e1", "10.32.0.3/24").await["Interface"]["MacAddress"], "02:42:0a:20:00:03");
    assert_eq!(stage.router.state().taken.len(), 2, "claimed");
    stage.call("NetworkDriver.DeleteEndpoint", json!({ "NetworkID": "n", "EndpointID": "e1" })).await;
    assert_eq!(stage.router.state().taken.len(), 1);
}

#[tokio::test]
async fn pools_addresses_and_what_stands_for_gateways() {
    let stage = Stage::watched(Scope::Local).await;
    let whole = stage.call("IpamDriver.RequestPool", json!({ "Pool": "", "V6": false, "Options": null })).await;
    assert_eq!(
        whole,
        json!({ "PoolID": "weft-10.32.0.0/12", "Pool": "10.32.0.0/12", "Data": { "com.docker.network.gateway": "10.32.0.0/12" } })
    );
    let part = stage.call("IpamDriver.RequestPool", json!({ "Pool": "10.33.0.0/16", "SubPool": "10.33.7.0/24" })).await;
    let pool = part["PoolID"].clone();
    let address = stage.call("IpamDriver.RequestAddress", json!({ "PoolID": pool })).await;
    assert_eq!(address["Address"], "10.33.7.1/16", "of the part, as of the whole");
    let gateway = json!({ "PoolID": pool, "Address": "10.33.0.9", "Options": { "RequestAddressType": "com.docker.network.gateway" } });
    assert_eq!(stage.call("IpamDriver.RequestAddress", gateway).await["Address"], "10.33.0.9/16");
    let given = json!({ "PoolID": pool, "Address": "10.33.0.8" });
    assert_eq!(stage.call("IpamDriver.RequestAddress", given.clone()).await["Address"], "10.33.0.8/16");
    assert!(stage.call("IpamDriver.RequestAddress", given.clone()).await["Err"].to_string().contains("taken"));
    assert_eq!(stage.router.state().taken.len(), 2, "a gateway takes none");

    stage.call("IpamDriver.ReleaseAddress", given.clone()).await;
    assert_eq!(
        stage.call("IpamDriver.RequestAddress", given.clone()).await["Address"],
        "10.33.0.8/16",
        "kept for itself"
    );
    // An address that was given out before this plugin was started.
    stage.router.state().taken.insert("10.33.0.77".parse().unwrap(), "docker:old".to_owned());
    stage.call("IpamDriver.ReleaseAddress", json!({ "PoolID": pool, "Address": "10.33.0.77" })).await;
    assert!(!stage.router.state().taken.contains_key(&"10.33.0.77".parse().unwrap()));
}

/// An engine takes no pool in which the host has an address, or where a resolver of it is, and asks for another (moby/libnetwork issue 1465).
#[tokio::test]
async fn an_engine_that_takes_no_pool_is_not_told_of_the_same_for_ever() {
    let stage = Stage::watched(Scope::Local).await;
    let any = async || stage.call("IpamDriver.RequestPool", json!({})).await;
    let mut told = 0;
    let refused = loop {
        let answer = any().await;
        if answer["PoolID"].is_null() {
            break answer["Err"].to_string();
        }
        told += 1;
        assert!(told < 100, "without end");
    };
    assert!(refused.contains("--subnet 10.32.0.0/12"), "{refused}");
    for _ in 0..2 * told {
        assert_eq!(any().await["PoolID"], "weft-10.32.0.0/12", "networks are made, one after the other");
        stage.call("NetworkDriver.CreateNetwork", json!({ "NetworkID": "n" })).await;
    }
}

#[tokio::test]
async fn a_network_that_could_not_be_made_is_made_later_and_left_alone_then() {
    let stage = Stage::new(Scope::Local);
    stage.engine.state().failures = 1;
    stage.until("it failed once", |stage| stage.engine.state().failures == 0).await;
    assert!(stage.engine.state().networks.is_empty());
    let pass = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::time::resume();
    };
    pass().await;
    stage.until("it is there", |stage| stage.engine.state().networks.contains_key("weft")).await;
    let made = stage.engine.state().networks.remove("weft").unwrap();
    assert_eq!(made["IPAM"]["Config"], json!([{ "Subnet": "10.32.0.0/12" }]), "named, or Docker may not take it");
    stage.container("c1", "10.32.0.1").await;
    pass().await;
    stage.until("all is looked at again", |stage| stage.router.names() == ["alias-c1", "host-c1", "name-c1"]).await;
    assert!(stage.engine.state().networks.is_empty(), "somebody removed it");
}

#[tokio::test]
async fn names_come_and_go_with_containers() {
    let stage = Stage::watched(Scope::Local).await;
    stage.until("the network is there", |stage| stage.engine.state().networks.contains_key("weft")).await;
    stage.container("c1", "10.32.0.1").await;
    stage.engine.event("container", "start", "c1");
    stage.until("names are there", |stage| stage.router.names() == ["alias-c1", "host-c1", "name-c1"]).await;
    stage.router.state().names.insert(("docker:ec1".to_owned(), "by-hand".to_owned()));
    stage.engine.state().containers.get_mut("c1").unwrap()["Name"] = json!("/renamed");
    stage.engine.event("container", "rename", "c1");
    let renamed = ["alias-c1", "by-hand", "host-c1", "renamed"];
    stage.until("the new name is there, and others stay", |stage| stage.router.names() == renamed).await;

    stage.engine.hang_up();
    stage.engine.state().containers.clear();
    stage.container("c2", "10.32.0.2").await;
    stage.until("what was missed is seen", |stage| stage.router.names() == ["alias-c2", "host-c2", "name-c2"]).await;
    stage.engine.event("container", "die", "c2");
    stage.until("names are gone", |stage| stage.router.names().is_empty()).await;
    // A container that is on no network of ours has no names.
    stage.engine.state().containers.get_mut("c2").unwrap()["NetworkSettings"] = json!({ "Networks": null });
    stage.engine.event("container", "start", "c2");
    stage.container("c3", "10.32.0.3").await;
    stage.engine.event("container", "start", "c3");
    stage.until("those of c3 only", |stage| stage.router.names() == ["alias-c3", "host-c3", "name-c3"]).await;
}

#[tokio::test]
async fn a_container_comes_back_to_its_address_unless_it_was_removed() {
    let stage = Stage::watched(Scope::Local).await;
    let request = async || {
        let answer = stage.call("IpamDriver.RequestAddress", json!({ "PoolID": "weft-10.32.0.0/12" })).await;
        answer["Address"].as_str().unwrap().to_owned()
    };
    let release = async |address: &str| {
        stage.call("IpamDriver.ReleaseAddress", json!({ "PoolID": "weft-10.32.0.0/12", "Address": address })).await
    };
    let taken = |stage: &Stage| {
        let router = stage.router.state();
        router.taken.len() + router.kept.len()
    };
    assert_eq!(request().await, "10.32.0.1/12");
    stage.container("c1", "10.32.0.1").await;
    stage.engine.event("container", "start", "c1");
    stage.until("c1 is known", |stage| stage.router.names().len() == 3).await;
    for _ in 0..2 {
        stage.engine.event("container", "die", "c1");
        release("10.32.0.1").await;
        assert_eq!(request().await, "10.32.0.1/12", "started again");
        stage.engine.event("container", "start", "c1");
    }
    stage.engine.event("container", "die", "c1");
    release("10.32.0.1").await;
    assert_eq!(taken(&stage), 1, "kept");
    stage.engine.event("container", "destroy", "c1");
    stage.until("it is free", |stage| taken(stage) == 0).await;
    assert_eq!(request().await, "10.32.0.1/12", "for anybody");
}

#[tokio::test]
async fn addresses_in_use_are_claimed_anew_if_the_router_forgot_them() {
    let stage = Stage::watched(Scope::Local).await;
    stage.container("c1", "10.32.0.1").await;
    stage.engine.hang_up();
    let address = "10.32.0.1".parse().unwrap();
    stage.until("it is claimed", |stage| stage.router.state().taken.contains_key(&address)).await;
    assert!(stage.router.state().taken[&address].starts_with(PREFIX));
}

#[tokio::test]
async fn a_swarms_routers_find_each_other() {
    let stage = Stage::watched(Scope::Global).await;
    stage.until("connected", |stage| stage.router.state().targets == ["10.99.0.2", "fd00::3"]).await;
    assert!(stage.engine.state().networks.is_empty(), "a swarm's networks are made by its managers");
}

#[tokio::test]
async fn in_a_swarm_no_router_chooses_addresses() {
    let stage = Stage::watched(Scope::Global).await;
    let refused = stage.call("IpamDriver.RequestPool", json!({ "AddressSpace": "weftglobal" })).await;
    assert!(refused["Err"].as_str().unwrap().contains("leave --ipam-driver out"), "{refused}");
}

#[tokio::test]
async fn the_socket_goes_with_the_plugin() {
    let stage = Stage::watched(Scope::Local).await;
    assert!(stage.socket().exists());
    stage.stop.cancel();
    stage.task.await.unwrap().unwrap();
    assert!(!stage.dir.path().join("plugins/weft.sock").exists());
}
