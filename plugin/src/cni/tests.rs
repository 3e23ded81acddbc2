//! Calls from beginning to end, with a small router that answers as the real one, and a small plugin for addresses.
//! What needs a kernel is tried in the lab (`integration/tests/lab/cni.rs`).

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::*;

/// A router that gives out 10.32.0.2, 10.32.0.3 and so on, and remembers what it was asked.
#[derive(Default)]
struct Router {
    owners: BTreeMap<String, Vec<String>>,
    asked: Vec<String>,
    detached: Vec<String>,
    state: String,
}

impl Router {
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.asked.push(format!("{method} {path}"));
        let owner = body["owner"].as_str().unwrap_or_default().to_owned();
        match path {
            "/ready" => (204, Value::Null),
            "/ipam/allocate" => {
                let free = format!("10.32.0.{}/12", self.owners.len() + 2);
                (200, json!({ "addresses": self.owners.entry(owner).or_insert_with(|| vec![free]) }))
            }
            "/ipam/claim" => {
                let wanted: Vec<String> = serde_json::from_value(body["addresses"].clone()).unwrap();
                if self.owners.iter().any(|(other, has)| *other != owner && has.iter().any(|ip| wanted.contains(ip))) {
                    return (409, json!({ "error": "taken", "code": "taken" }));
                }
                self.owners.insert(owner, wanted.clone());
                (200, json!({ "addresses": wanted }))
            }
            "/ipam/free" => (200, json!({ "addresses": self.owners.remove(&owner).unwrap_or_default() })),
            "/detach" => {
                self.detached.push(body["name"].as_str().unwrap().to_owned());
                (200, json!({ "addresses": [] }))
            }
            "/status/ipam" => {
                let owners: Vec<Value> =
                    self.owners.iter().map(|(owner, has)| json!({ "owner": owner, "addresses": has })).collect();
                let (ranges, peers) = (json!(["10.32.0.0/12"]), json!([]));
                let default = json!(["10.32.0.0/12"]);
                (
                    200,
                    json!({ "state": self.state, "info": "", "ranges": ranges, "default_subnets": default,
                              "owners": owners, "peers": peers, "conflicts": [] }),
                )
            }
            other => match other.strip_prefix("/ipam/owners/") {
                Some(owner) => {
                    let owner = owner.replace("%2F", "/");
                    (200, json!({ "addresses": self.owners.get(&owner).cloned().unwrap_or_default() }))
                }
                None => (404, json!({ "error": "no such route" })),
            },
        }
    }
}

struct Stage {
    scratch: tempfile::TempDir,
    router: Arc<Mutex<Router>>,
}

impl Stage {
    fn new() -> Self {
        let router = Arc::new(Mutex::new(Router { state: "ready".to_owned(), ..Router::default() }));
        Self { scratch: tempfile::tempdir().unwrap(), router }
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path().join("weft.sock")
    }

    fn with_router() -> Self {
        let stage = Self::new();
        stage.launch();
        stage
    }

    /// The router's process comes up.
    fn launch(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let router = self.router.clone();
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| serve(&router, stream)));
    }

    fn config(&self, keys: &Value) -> Value {
        let dir = self.scratch.path();
        let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "weft-ipam", "runDir": dir,
                                 "dataDir": dir, "timeout": 1 });
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        config
    }

    fn call(&self, program: Program, command: &str, config: &Value, more: &[(&str, &str)]) -> Result<Value, Failure> {
        let usual =
            [("CNI_CONTAINERID", "0a"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/nowhere"), ("CNI_COMMAND", command)];
        let env = usual.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        printed(&run(program, &env, config.to_string().as_bytes()))
    }

    fn ipam(&self, command: &str, keys: &Value) -> Result<Value, Failure> {
        self.call(Program::Addresses, command, &self.config(keys), &[])
    }
}

fn serve(router: &Mutex<Router>, mut stream: UnixStream) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    let (head, body) = loop {
        let got = stream.read(&mut chunk).unwrap();
        request.extend_from_slice(&chunk[..got]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse::<usize>();
            if body.len() >= length.unwrap() {
                break (head.to_owned(), body.to_owned());
            }
        }
        assert!(got > 0, "the request broke off: {text}");
    };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let body = serde_json::from_str(&body).unwrap_or_default();
    let (status, answer) = router.lock().unwrap().answer(method, path, &body);
    // Whoever asked may have given up.
    let _ = write!(stream, "HTTP/1.0 {status} X\r\n\r\n{answer}");
}

fn printed(printed: &Printed) -> Result<Value, Failure> {
    if printed.success {
        return Ok(if printed.text.is_empty() { Value::Null } else { serde_json::from_str(&printed.text).unwrap() });
    }
    Err(serde_json::from_str(&printed.text).unwrap())
}

#[test]
fn the_program_is_known_by_its_name() {
    let called = |name: &str| Program::called(name.as_ref());
    assert_eq!(called("/opt/cni/bin/weft-net"), Some(Program::Network));
    assert_eq!(called("weft-ipam"), Some(Program::Addresses));
    assert_eq!(called("/usr/bin/weft"), None);
    assert_eq!(called(""), None);
}

#[test]
fn version_is_answered_whatever_is_asked() {
    let env: Environment = [("CNI_COMMAND".to_owned(), "VERSION".to_owned())].into();
    for (text, stated) in
        [(r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), (r#"{"cniVersion":"0.1.0"}"#, "0.1.0"), ("", "1.1.0")]
    {
        let answer = printed(&run(Program::Network, &env, text.as_bytes())).unwrap();
        let supported = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        assert_eq!(answer, json!({ "cniVersion": stated, "supportedVersions": supported }));
    }
}

#[test]
fn failures_are_in_the_version_that_was_asked() {
    let stage = Stage::new();
    let failure = stage.ipam("ADD", &json!({ "cniVersion": "0.4.0", "name": "a/b" })).unwrap_err();
    assert_eq!((failure.cni_version.as_str(), failure.code), ("0.4.0", 7));
    let failure = stage.ipam("ADD", &json!({ "cniVersion": "7" })).unwrap_err();
    assert_eq!((failure.cni_version.as_str(), failure.code), ("1.1.0", 1));
    let failure = stage.call(Program::Network, "JUMP", &json!({}), &[]).unwrap_err();
    assert_eq!(failure.code, 4);
}

#[test]
fn addresses_come_go_and_stay_the_same() {
    let stage = Stage::with_router();
    let keys = json!({ "ipam": { "type": "weft-ipam", "gateway": "10.32.0.1", "routes": [{ "dst": "0.0.0.0/0" }] } });
    for _ in 0..2 {
        let result = stage.ipam("ADD", &keys).unwrap();
        let ip = json!({ "address": "10.32.0.2/12", "gateway": "10.32.0.1" });
        assert_eq!(
            result,
            json!({ "cniVersion": "1.1.0", "ips": [ip], "routes": [{ "dst": "0.0.0.0/0" }], "dns": {} })
        );
        let mut check = keys.clone();
        check["prevResult"] = result;
        stage.ipam("CHECK", &check).unwrap();
        check["prevResult"]["ips"][0]["address"] = json!("10.32.0.9/12");
        assert_eq!(stage.ipam("CHECK", &check).unwrap_err().code, 101);
    }
    assert_eq!(stage.router.lock().unwrap().owners.keys().collect::<Vec<_>>(), ["net/0a/eth0"]);
    for _ in 0..2 {
        stage.ipam("DEL", &keys).unwrap();
        assert!(stage.router.lock().unwrap().owners.is_empty());
    }
    assert_eq!(stage.ipam("CHECK", &keys).unwrap_err().code, 7, "no prevResult");
}

#[test]
fn an_address_that_is_asked_for_is_claimed_with_its_subnets_prefix() {
    let stage = Stage::with_router();
    let add =
        |keys: &Value, args: &str| stage.call(Program::Addresses, "ADD", &stage.config(keys), &[("CNI_ARGS", args)]);
    let address = |result: &Value| result["ips"][0]["address"].as_str().unwrap().to_owned();
    assert_eq!(address(&add(&json!({}), "IP=10.32.5.5").unwrap()), "10.32.5.5/12", "of the network");
    let keys = json!({ "ipam": { "subnet": "10.40.0.0/16" } });
    assert_eq!(address(&add(&keys, "IP=10.40.5.5").unwrap()), "10.40.5.5/16", "of the configuration");
    let keys = json!({ "runtimeConfig": { "ips": ["10.32.7.7/24"] } });
    assert_eq!(address(&add(&keys, "IP=10.32.5.5").unwrap()), "10.32.7.7/24", "as given by the runtime");
    assert_eq!(add(&json!({}), "IP=192.0.2.1").unwrap_err().code, 7);
    let taken = [("CNI_CONTAINERID", "0b"), ("CNI_ARGS", "IP=10.32.7.7/24")];
    let failure = stage.call(Program::Addresses, "ADD", &stage.config(&json!({})), &taken).unwrap_err();
    assert_eq!((failure.code, failure.msg.as_str()), (100, "taken"));
}

#[test]
fn gc_frees_what_is_not_known_and_nothing_else() {
    let stage = Stage::with_router();
    let all = ["net/0a/eth0", "net/0b/eth0", "net/0b/eth1", "other/0c/eth0", "weft:expose", "by-hand"];
    let has = all.map(|owner| (owner.to_owned(), vec!["10.32.0.9/12".to_owned()]));
    stage.router.lock().unwrap().owners = has.into();
    let keys = json!({ "cni.dev/valid-attachments": [{ "containerID": "0b", "ifname": "eth1" }] });
    stage.ipam("GC", &keys).unwrap();
    let left: Vec<_> = stage.router.lock().unwrap().owners.keys().cloned().collect();
    assert_eq!(left, ["by-hand", "net/0b/eth1", "other/0c/eth0", "weft:expose"]);
    assert_eq!(stage.ipam("GC", &json!({})).unwrap_err().code, 7, "not told is not none");
}

#[test]
fn status_says_whether_addresses_are_given_out() {
    let stage = Stage::new();
    assert_eq!(stage.ipam("STATUS", &json!({})).unwrap_err().code, 51, "no router");
    stage.launch();
    for (state, code) in [("ready", None), ("idle", None), ("electing", Some(50)), ("off", Some(50))] {
        stage.router.lock().unwrap().state = state.to_owned();
        let answer = stage.call(Program::Network, "STATUS", &stage.config(&json!({})), &[]);
        assert_eq!(answer.err().map(|failure| failure.code), code, "{state}");
    }
}

#[test]
fn without_a_router_add_is_to_be_tried_again_and_del_is_made_up_for() {
    let stage = Stage::new();
    assert_eq!(stage.ipam("ADD", &json!({})).unwrap_err().code, 11);
    stage.ipam("DEL", &json!({})).unwrap();
    stage.ipam("DEL", &json!({})).unwrap();
    let notes = || fs::read_dir(stage.scratch.path().join("cni")).unwrap().count();
    assert_eq!(notes(), 1);
    let failure = stage.ipam("ADD", &json!({})).unwrap_err();
    assert_eq!(failure.code, 11, "{failure}");
    stage.router.lock().unwrap().owners.insert("net/0a/eth0".to_owned(), vec!["10.32.9.9/12".to_owned()]);
    stage.launch();
    // Any call makes up for it first: of this container too, before it gets anew.
    let result = stage.ipam("ADD", &json!({})).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.32.0.2/12");
    assert_eq!(stage.router.lock().unwrap().detached, ["net/0a/eth0"]);
    assert_eq!(notes(), 0);
}

#[test]
fn a_router_that_does_not_answer_costs_bounded_time() {
    let stage = Stage::new();
    let _deaf = UnixListener::bind(stage.socket()).unwrap();
    let keys = json!({ "timeout": 0.2 });
    for (command, code) in [("ADD", Some(11)), ("DEL", None), ("STATUS", Some(51))] {
        let began = Instant::now();
        assert_eq!(stage.ipam(command, &keys).err().map(|failure| failure.code), code, "{command}");
        assert!(began.elapsed() < Duration::from_secs(3), "{command} took {:?}", began.elapsed());
    }
}

#[test]
fn a_note_that_cannot_be_left_is_a_failure() {
    let stage = Stage::new();
    fs::write(stage.scratch.path().join("cni"), "no directory").unwrap();
    assert_eq!(stage.ipam("DEL", &json!({})).unwrap_err().code, 5);
}

/// A plugin for addresses that says this, and ends so; what it is given lies beside it.
fn delegate(stage: &Stage, says: &str, status: u8) -> Session<'static> {
    let (dir, path) = (stage.scratch.path().display(), stage.scratch.path().join("other"));
    let script = format!(
        "#!/bin/sh\ncat >{dir}/input; echo $CNI_COMMAND $CNI_IFNAME >>{dir}/env\ncat <<'END'\n{says}\nEND\nexit {status}\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let env: Environment =
        [("CNI_PATH", format!("/nowhere:{dir}")), ("CNI_IFNAME", "eth7".to_owned()), ("PATH", "/bin".to_owned())]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
    let text = stage.config(&json!({ "ipam": { "type": "other", "x": 1 } })).to_string().into_bytes();
    Session::new(Box::leak(Box::new(env)), Config::read(Verb::Add, text).unwrap())
}

#[test]
fn another_plugin_is_given_all_and_its_result_taken() {
    let stage = Stage::new();
    let session = delegate(&stage, r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.9.0.2/24"}]}"#, 0);
    assert_eq!(delegate::add(&session).unwrap().ips[0].address, "10.9.0.2/24".parse().unwrap());
    assert!(delegate::run(&session, Verb::Gc).unwrap().contains("10.9.0.2"));
    let given: Value = serde_json::from_slice(&fs::read(stage.scratch.path().join("input")).unwrap()).unwrap();
    assert_eq!(given["ipam"], json!({ "type": "other", "x": 1 }));
    assert_eq!(fs::read_to_string(stage.scratch.path().join("env")).unwrap(), "ADD eth7\nGC eth7\n");
}

#[test]
fn the_failure_of_another_plugin_is_passed_on() {
    let stage = Stage::new();
    let failure = delegate::add(&delegate(&stage, r#"{"cniVersion":"0.4.0","code":77,"msg":"full"}"#, 1)).unwrap_err();
    assert_eq!((failure.code, failure.msg.as_str()), (77, "full"));
    let failure = delegate::add(&delegate(&stage, "panic: oh", 2)).unwrap_err();
    assert_eq!((failure.code, failure.details.as_str()), (102, "panic: oh"));
    assert_eq!(delegate::add(&delegate(&stage, "no json", 0)).unwrap_err().code, 6);
    let session = delegate(&stage, "", 0);
    fs::remove_file(stage.scratch.path().join("other")).unwrap();
    assert_eq!(delegate::add(&session).unwrap_err().code, 7);
}
