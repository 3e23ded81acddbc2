//! The CNI plugin beside the specification: each verb in each version, well and with each fault, as one table; and what runtimes do to
//! a plugin besides.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use weft_integration::{
    lab::{
        cni::{Pod, REFERENCE, Runtime},
        host::Host,
        namespace::join,
        trial::trial,
        wait::{patience, wait_until},
    },
    scenario::callers::with_callers,
};

const PATIENCE: Duration = Duration::from_secs(5);
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What the specification says: success everywhere, or since a version, or a code.
#[derive(Clone, Copy)]
enum Expected {
    Well,
    /// From this column on; before it the version has no such verb.
    Since(usize),
    Code(u64),
    /// As `Since`, but failing so.
    CodeSince(usize, u64),
}

impl Expected {
    fn code(self, column: usize) -> u64 {
        match self {
            Self::Well => 0,
            Self::Code(code) => code,
            Self::Since(first) => u64::from(column < first),
            Self::CodeSince(first, code) => {
                if column < first {
                    1
                } else {
                    code
                }
            }
        }
    }
}

/// The rows of the table so far.
struct Table<'a> {
    runtime: &'a Runtime,
    rows: Vec<(String, Vec<u64>, Vec<u64>)>,
}

impl Table<'_> {
    /// One row: does `act` with a runtime of each version.
    fn row(&mut self, what: &str, expected: Expected, act: impl Fn(&Runtime, usize) -> Result<u64>) -> Result<()> {
        let mut codes = Vec::new();
        for (column, version) in VERSIONS.iter().enumerate() {
            let runtime = self.runtime.with(&json!({ "cniVersion": version }));
            codes.push(act(&runtime, column).with_context(|| format!("{what}, {version}"))?);
        }
        let wanted = (0..VERSIONS.len()).map(|column| expected.code(column)).collect();
        self.rows.push((what.to_owned(), codes, wanted));
        Ok(())
    }

    fn show(&self) -> Result<()> {
        let head = VERSIONS.map(|version| format!("{version:>8}")).concat();
        println!("{:<60}{head}", "code of the failure, - for none");
        for (what, codes, _) in &self.rows {
            let cells = codes.iter().map(|code| if *code == 0 { "-".to_owned() } else { code.to_string() });
            println!("{what:<60}{}", cells.map(|cell| format!("{cell:>8}")).collect::<String>());
        }
        let wrong: Vec<_> = self.rows.iter().filter(|(_, codes, wanted)| codes != wanted).collect();
        ensure!(wrong.is_empty(), "not as the specification says (seen, wanted): {wrong:?}");
        println!("{} rows, all as they should be", self.rows.len());
        Ok(())
    }
}

fn without(env: &[(String, String)], key: &str, value: Option<&str>) -> Vec<(String, String)> {
    let kept = env.iter().filter(|(name, _)| name != key).cloned();
    kept.chain(value.map(|value| (key.to_owned(), value.to_owned()))).collect()
}

fn links(pod: &Pod) -> Result<String> {
    pod.namespace.run("ip").args(["-o", "link"]).checked()
}

#[test]
fn each_verb_in_each_version_with_each_fault() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        let runtime = Runtime::new(&host)?;
        let pods = (0..4).map(|number| runtime.pod(number)).collect::<Result<Vec<_>>>()?;
        let gone = runtime.pod(9)?;
        gone.namespace.remove();
        let mut table = Table { runtime: &runtime, rows: Vec::new() };
        well(&mut table, &host, &pods)?;
        faults_of_callers(&mut table, &pods, &gone)?;
        faults_of_others(&mut table, &pods)?;
        without_router(&mut table, &host, &pods)?;
        table.show()
    });
}

/// All that goes well.
fn well(table: &mut Table<'_>, host: &Host, pods: &[Pod]) -> Result<()> {
    table.row("VERSION", Expected::Well, |runtime, column| {
        let answer = runtime.ask("VERSION")?.result()?;
        ensure!(answer == json!({ "cniVersion": VERSIONS[column], "supportedVersions": VERSIONS }), "{answer}");
        Ok(0)
    })?;
    table.row("ADD", Expected::Well, |runtime, column| {
        let result = runtime.call("ADD", &pods[column])?.result()?;
        expect_form(&result, column, host, &pods[column])?;
        Ok(0)
    })?;
    table.row("ADD again", Expected::Well, |runtime, column| {
        let result = runtime.call("ADD", &pods[column])?.result()?;
        expect_form(&result, column, host, &pods[column])?;
        Ok(0)
    })?;
    table.row("STATUS", Expected::Since(3), |runtime, _| Ok(runtime.ask("STATUS")?.code()))?;
    table.row("CHECK", Expected::Since(1), |runtime, column| {
        let added = runtime.call("ADD", &pods[column])?.result()?;
        Ok(runtime.with(&json!({ "prevResult": added })).call("CHECK", &pods[column])?.code())
    })?;
    table.row("CHECK, but an address was taken away", Expected::CodeSince(1, 101), |runtime, column| {
        let added = runtime.call("ADD", &pods[column])?.result()?;
        pods[column].namespace.ip(&format!("addr del 10.32.0.{}/16 dev eth0\n", column + 2))?;
        let code = runtime.with(&json!({ "prevResult": added })).call("CHECK", &pods[column])?.code();
        runtime.call("ADD", &pods[column])?.result()?;
        Ok(code)
    })?;
    table.row("CHECK, but the default route was taken away", Expected::CodeSince(1, 101), |runtime, column| {
        let added = runtime.call("ADD", &pods[column])?.result()?;
        pods[column].namespace.ip("route del default\n")?;
        Ok(runtime.with(&json!({ "prevResult": added })).call("CHECK", &pods[column])?.code())
    })?;
    table.row("GC", Expected::Since(3), |runtime, _| {
        let valid: Vec<Value> =
            pods[1..].iter().map(|pod| json!({ "containerID": pod.id, "ifname": "eth0" })).collect();
        Ok(runtime.with(&json!({ "cni.dev/valid-attachments": valid })).ask("GC")?.code())
    })?;
    ensure!(!links(&pods[0])?.contains("eth0") && links(&pods[1])?.contains("eth0"), "GC took the one it should");
    for what in ["DEL", "DEL again"] {
        table.row(what, Expected::Well, |runtime, column| {
            let code = runtime.call("DEL", &pods[column])?.code();
            ensure!(!links(&pods[column])?.contains("eth0"));
            Ok(code)
        })?;
    }
    table.row("DEL without a namespace", Expected::Well, |runtime, column| {
        runtime.call("ADD", &pods[column])?.result()?;
        let env = without(&runtime.env("DEL", Some(&pods[column])), "CNI_NETNS", None);
        let code = runtime.call_with(&env, runtime.config().to_string())?.code();
        ensure!(!links(&pods[column])?.contains("eth0"));
        Ok(code)
    })?;
    ensure!(host.ps()?.is_empty(), "{:?}", host.ps()?);
    Ok(())
}

/// Whether the result of an ADD has the form of its version, and says what is so.
fn expect_form(result: &Value, column: usize, host: &Host, pod: &Pod) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ensure!(text(&result["cniVersion"]) == VERSIONS[column], "{result}");
    let (outside, inside) = (&result["interfaces"][0], &result["interfaces"][1]);
    let link =
        |run: weft_integration::lab::command::Run, device: &str| run.args(["-o", "link", "show", device]).checked();
    let seen = link(host.namespace().run("ip"), &text(&outside["name"]))?;
    ensure!(seen.contains(&text(&outside["mac"])) && seen.contains("master weft"), "{seen} {result}");
    let seen = link(pod.namespace.run("ip"), "eth0")?;
    ensure!(seen.contains(&text(&inside["mac"])) && inside["name"] == "eth0", "{seen} {result}");
    ensure!(Path::new(&text(&inside["sandbox"])) == pod.namespace.path() && outside["sandbox"] == "", "{result}");
    ensure!(inside["mtu"].is_number() == (column == 3), "MTUs came with 1.1.0: {result}");
    let ip = &result["ips"][0];
    ensure!(ip["version"].is_string() == (column < 2) && ip["interface"] == 1, "{result}");
    ensure!(text(&ip["address"]).starts_with("10.32.") && ip["gateway"] == "10.32.255.1", "{result}");
    ensure!(result["ips"][1]["address"] == format!("fd32::1:{}/64", pod.id.trim_start_matches("pod-")), "{result}");
    ensure!(result["routes"][0]["dst"] == "0.0.0.0/0" && result["dns"].is_object(), "{result}");
    let routes = pod.namespace.run("ip").args(["route"]).checked()?;
    ensure!(routes.contains("default via 10.32.255.1 dev eth0"), "{routes}");
    Ok(())
}

/// What the caller does wrong.
fn faults_of_callers(table: &mut Table<'_>, pods: &[Pod], gone: &Pod) -> Result<()> {
    let gone_path = gone.namespace.path().display().to_string();
    let long = "x".repeat(16);
    let environment: [(&str, &str, Option<&str>, u64); 9] = [
        ("ADD without CNI_CONTAINERID", "CNI_CONTAINERID", None, 4),
        ("ADD with a bad CNI_CONTAINERID", "CNI_CONTAINERID", Some("../x"), 4),
        ("ADD without CNI_IFNAME", "CNI_IFNAME", None, 4),
        ("ADD with a CNI_IFNAME that is too long", "CNI_IFNAME", Some(&long), 4),
        ("ADD without CNI_NETNS", "CNI_NETNS", None, 4),
        ("ADD in the host's own namespace", "CNI_NETNS", Some("/proc/self/ns/net"), 4),
        ("ADD in something else than a namespace", "CNI_NETNS", Some("/etc/hostname"), 4),
        ("ADD in a namespace that is gone", "CNI_NETNS", Some(&gone_path), 3),
        ("ADD with unknown CNI_ARGS", "CNI_ARGS", Some("COLOUR=red"), 4),
    ];
    for (what, key, value, code) in environment {
        table.row(what, Expected::Code(code), |runtime, column| {
            let env = without(&runtime.env("ADD", Some(&pods[column])), key, value);
            Ok(runtime.call_with(&env, runtime.config().to_string())?.code())
        })?;
    }
    table.row("an unknown CNI_COMMAND", Expected::Code(4), |runtime, _| Ok(runtime.ask("JUMP")?.code()))?;
    for (what, input) in [("ADD without a configuration", ""), ("ADD with a broken configuration", "{\"cniVersion\":")]
    {
        table.row(what, Expected::Code(6), |runtime, column| {
            Ok(runtime.call_with(&runtime.env("ADD", Some(&pods[column])), input.to_owned())?.code())
        })?;
    }
    let keys: [(&str, Value, u64); 7] = [
        ("ADD without a network's name", json!({ "name": null }), 7),
        ("ADD with a bad network's name", json!({ "name": "a/b" }), 7),
        ("ADD with isGateway", json!({ "isGateway": true }), 2),
        ("ADD with ipMasq", json!({ "ipMasq": true }), 2),
        ("ADD with an MTU above the bridge's", json!({ "mtu": 9000 }), 100),
        ("ADD with an unknown plugin for addresses", json!({ "ipam": { "type": "nowhere" } }), 7),
        ("ADD in a version that is not spoken", json!({ "cniVersion": "9.9.9" }), 1),
    ];
    for (what, keys, code) in keys {
        table.row(what, Expected::Code(code), |runtime, column| {
            Ok(runtime.with(&keys).call("ADD", &pods[column])?.code())
        })?;
    }
    table.row("CHECK without prevResult", Expected::CodeSince(1, 7), |runtime, column| {
        Ok(runtime.call("CHECK", &pods[column])?.code())
    })?;
    table.row("CHECK in a namespace that is gone", Expected::CodeSince(1, 3), |runtime, _| {
        Ok(runtime.with(&json!({ "prevResult": { "ips": [] } })).call("CHECK", gone)?.code())
    })?;
    table.row("DEL in a namespace that is gone", Expected::Well, |runtime, _| Ok(runtime.call("DEL", gone)?.code()))?;
    table.row("GC without a list", Expected::CodeSince(3, 7), |runtime, _| Ok(runtime.ask("GC")?.code()))?;
    for pod in pods {
        ensure!(!links(pod)?.contains("eth0"), "what was refused left nothing: {}", links(pod)?);
    }
    Ok(())
}

/// What others do wrong.
fn faults_of_others(table: &mut Table<'_>, pods: &[Pod]) -> Result<()> {
    table.row("ADD where somebody else has the device's name", Expected::Code(100), |runtime, column| {
        pods[column].namespace.ip("link add eth0 type bridge\n")?;
        let code = runtime.call("ADD", &pods[column])?.code();
        ensure!(links(&pods[column])?.contains("eth0"), "it is not touched");
        pods[column].namespace.ip("link del eth0\n")?;
        Ok(code)
    })?;
    let fail = table.runtime.stub_file("fail");
    fs::write(&fail, r#"{"cniVersion":"1.1.0","code":77,"msg":"all given out"}"#)?;
    table.row("ADD, but the plugin for addresses fails", Expected::Code(77), |runtime, column| {
        Ok(runtime.call("ADD", &pods[column])?.code())
    })?;
    table.row("DEL, but the plugin for addresses fails", Expected::Code(77), |runtime, column| {
        Ok(runtime.call("DEL", &pods[column])?.code())
    })?;
    fs::write(&fail, "Segmentation fault")?;
    table.row("ADD, but the plugin for addresses crashes", Expected::Code(102), |runtime, column| {
        Ok(runtime.call("ADD", &pods[column])?.code())
    })?;
    fs::remove_file(&fail)?;
    let before = table.runtime.stub_file("before");
    fs::write(&before, "if [ $CNI_COMMAND = ADD ]; then ip netns del $(basename $CNI_NETNS); fi")?;
    table.row("ADD, and the namespace vanishes meanwhile", Expected::Code(3), |runtime, column| {
        let pod = runtime.pod(20 + column)?;
        let code = runtime.call("ADD", &pod)?.code();
        let calls = fs::read_to_string(runtime.stub_file("calls"))?;
        ensure!(calls.ends_with(&format!("DEL {}\n", pod.id)), "its address was given back: {calls}");
        Ok(code)
    })?;
    fs::remove_file(&before)?;
    Ok(())
}

/// No router, and one that is stuck.
fn without_router(table: &mut Table<'_>, host: &Host, pods: &[Pod]) -> Result<()> {
    for (runtime, pod) in VERSIONS.iter().map(|version| table.runtime.with(&json!({ "cniVersion": version }))).zip(pods)
    {
        runtime.call("ADD", pod)?.result()?;
    }
    let router = Pid::from_raw(host.pid()?);
    kill(router, Signal::SIGSTOP)?;
    let impatient = json!({ "timeout": 0.3 });
    table.row("ADD, but the router is stuck", Expected::Code(11), |runtime, column| {
        let answer = runtime.with(&impatient).call("ADD", &pods[column])?;
        ensure!(answer.took < patience(PATIENCE), "it took {:?}", answer.took);
        Ok(answer.code())
    })?;
    table.row("STATUS, but the router is stuck", Expected::CodeSince(3, 51), |runtime, _| {
        Ok(runtime.with(&impatient).ask("STATUS")?.code())
    })?;
    kill(router, Signal::SIGCONT)?;
    host.stop()?;
    table.row("ADD without a router", Expected::Code(11), |runtime, _| {
        let pod = runtime.pod(40)?;
        let code = runtime.call("ADD", &pod)?.code();
        pod.namespace.remove();
        Ok(code)
    })?;
    table.row("STATUS without a router", Expected::CodeSince(3, 51), |runtime, _| Ok(runtime.ask("STATUS")?.code()))?;
    table.row("GC without a router", Expected::CodeSince(3, 11), |runtime, _| {
        Ok(runtime.with(&json!({ "cni.dev/valid-attachments": [] })).ask("GC")?.code())
    })?;
    table.row("CHECK without a router", Expected::Since(1), |runtime, column| {
        Ok(runtime
            .with(&json!({ "prevResult": { "ips": [{ "address": format!("10.32.0.{}/16", column + 2) }] } }))
            .call("CHECK", &pods[column])?
            .code())
    })?;
    table.row("DEL without a router", Expected::Well, |runtime, column| {
        let code = runtime.call("DEL", &pods[column])?.code();
        ensure!(!links(&pods[column])?.contains("eth0"), "the device is gone all the same");
        Ok(code)
    })?;
    let notes = || fs::read_dir(host.data_dir().join("cni")).map_or(0, Iterator::count);
    ensure!(notes() >= pods.len(), "{} notes", notes());
    host.relaunch()?;
    ensure!(
        notes() == 0 && host.ps()?.is_empty(),
        "the router has made up for it: {} notes, {:?}",
        notes(),
        host.ps()?
    );
    table.row("ADD after all that", Expected::Well, |runtime, column| Ok(runtime.call("ADD", &pods[column])?.code()))
}

#[test]
fn pods_keep_their_network_while_the_router_is_replaced() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        let runtime = Runtime::new(&host)?;
        let pods = [runtime.pod(1)?, runtime.pod(2)?];
        let added = pods.iter().map(|pod| runtime.call("ADD", pod)?.result()).collect::<Result<Vec<_>>>()?;
        let pings = || {
            let ping = pods[0].namespace.run("ping").args(["-c1", "-W2", "10.32.0.4"]).output()?;
            Ok(ping.status.success())
        };
        wait_until("the pods ping", PATIENCE, pings)?;
        host.kill9()?;
        ensure!(pings()?, "without a router, too");
        host.relaunch()?;
        ensure!(pings()? && host.ps()?.len() == 2, "{:?}", host.ps()?);
        for (pod, added) in pods.iter().zip(&added) {
            runtime.with(&json!({ "prevResult": added })).call("CHECK", pod)?.result()?;
            runtime.call("DEL", pod)?.result()?;
        }
        ensure!(host.ps()?.is_empty());
        Ok(())
    });
}

#[test]
fn fifty_are_added_and_removed_at_once() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        let runtime = Runtime::new(&host)?.with(&json!({ "timeout": 60 }));
        let pods = (0..50).map(|number| runtime.pod(number)).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        at_once(&runtime, &pods, "ADD")?;
        println!("50 ADDs at once: {:?}", began.elapsed());
        let listed = host.ps()?;
        ensure!(listed.len() == 50, "{} are listed", listed.len());
        at_once(&runtime, &pods, "DEL")?;
        ensure!(host.ps()?.is_empty());
        Ok(())
    });
}

pub(super) fn at_once(runtime: &Runtime, pods: &[Pod], verb: &'static str) -> Result<()> {
    let call = |pod: &Pod| {
        let (runtime, pod) = (runtime.clone(), pod.clone());
        thread::spawn(move || runtime.call(verb, &pod)?.result().map(drop))
    };
    pods.iter().map(call).collect::<Vec<_>>().into_iter().try_for_each(join)
}

#[test]
fn a_pod_is_as_the_configuration_says() {
    trial(|lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        let plain = Runtime::new(&host)?;
        let pod = plain.pod(1)?;
        let runtime = plain.with(&json!({
            "mtu": 1300, "hairpinMode": false, "dns": { "nameservers": ["10.32.0.1"] },
            "runtimeConfig": { "mac": "02:00:00:00:00:51" }, "capabilities": { "mac": true },
        }));
        let added = runtime.call("ADD", &pod)?.result()?;
        ensure!(
            added["interfaces"][1]["mac"] == "02:00:00:00:00:51" && added["interfaces"][1]["mtu"] == 1300,
            "{added}"
        );
        ensure!(added["dns"]["nameservers"][0] == "10.32.0.1", "{added}");
        let device = added["interfaces"][0]["name"].as_str().context("name")?.to_owned();
        let hairpin = || -> Result<String> {
            host.namespace().run("cat").arg(format!("/sys/class/net/{device}/brport/hairpin_mode")).checked()
        };
        ensure!(hairpin()?.trim() == "0");
        // Not given: true, as with Weave Net.
        plain.call("ADD", &pod)?.result()?;
        ensure!(hairpin()?.trim() == "1");
        Ok(())
    });
}

/// Which of the reference plugins is not here.
pub(super) fn missing(plugin: &str) -> Option<String> {
    let path = Path::new(REFERENCE).join(plugin);
    (!path.exists()).then(|| format!("no {}; `make cni-deps` installs it", path.display()))
}

#[test]
fn another_plugin_gives_addresses_and_routes() {
    with_callers("CNI: host-local", missing("host-local"), |lab| {
        let host = lab.host("A")?;
        host.launch::<&str>(&[])?;
        let routes = json!({ "ipam": { "type": "host-local", "dataDir": lab.dir().join("ipam"),
            "ranges": [[{ "subnet": "10.33.0.0/16" }]], "routes": [{ "dst": "10.99.0.0/16" }, { "dst": "10.98.0.0/16", "gw": "10.33.0.9" }] },
            "cniVersion": "1.0.0" });
        let other = Runtime::new(&host)?.with(&routes);
        let pod = other.pod(2)?;
        let added = other.call("ADD", &pod)?.result()?;
        ensure!(added["ips"][0]["address"] == "10.33.0.2/16", "{added}");
        let seen = pod.namespace.run("ip").args(["route"]).checked()?;
        ensure!(
            seen.contains("10.99.0.0/16 via 10.33.0.1 dev eth0") && seen.contains("10.98.0.0/16 via 10.33.0.9"),
            "{seen}"
        );
        ensure!(!seen.contains("default"), "{seen}");
        // An ADD that was broken off: the plugin for addresses remembers it, the network does not.
        host.weft(&["detach", "lab/pod-2/eth0"])?.checked()?;
        let again = other.call("ADD", &pod)?.result()?;
        ensure!(again["ips"][0]["address"].as_str().is_some_and(|ip| ip.starts_with("10.33.0.")), "{again}");
        other.with(&json!({ "prevResult": again })).call("CHECK", &pod)?.result()?;
        other.call("DEL", &pod)?.result()?;
        let left = fs::read_dir(lab.dir().join("ipam/lab"))?.flatten().map(|e| e.file_name().into_string());
        let left: Vec<_> = left.flatten().filter(|name| name.starts_with("10.")).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}
