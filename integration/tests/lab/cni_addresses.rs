//! The CNI plugin with addresses that the network itself gives out: each is one pod's only, on all hosts, from ADD until DEL or GC.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_integration::{
    lab::{
        Lab,
        cni::{Pod, REFERENCE, Runtime},
        host::Host,
        ping::Ping,
        podman::{self, Podman},
        trial::trial,
        wait::{patience, wait_for, wait_until},
    },
    scenario::callers::with_callers,
};

use super::cni::at_once;

const PATIENCE: Duration = Duration::from_secs(10);
/// For both kinds of addresses.
const RANGES: &str = "--ipalloc-range=10.32.0.0/16,fd32::/64";

/// Two hosts that know each other, with runtimes whose pods get addresses of the network.
fn pair(lab: &Lab) -> Result<([Host; 2], [Runtime; 2])> {
    let hosts = lab.hosts(["A", "B"])?;
    launch(&hosts)?;
    let runtimes = [own(&hosts[0])?, own(&hosts[1])?];
    Ok((hosts, runtimes))
}

fn launch([a, b]: &[Host; 2]) -> Result<()> {
    a.launch(&[RANGES])?;
    b.launch(&[RANGES, &a.v4().to_string()])?;
    wait_for("they are connected", PATIENCE, || a.expect_established("B")).map(drop)
}

/// One host, likewise.
fn single(lab: &Lab) -> Result<(Host, Runtime)> {
    let host = lab.host("A")?;
    host.launch(&[RANGES])?;
    let runtime = own(&host)?;
    Ok((host, runtime))
}

fn own(host: &Host) -> Result<Runtime> {
    Ok(Runtime::new(host)?.with(&json!({ "ipam": null, "timeout": 60 })))
}

fn add(runtime: &Runtime, pod: &Pod) -> Result<Vec<IpAddr>> {
    addresses(&runtime.call("ADD", pod)?.result()?)
}

fn addresses(added: &Value) -> Result<Vec<IpAddr>> {
    let ips = added["ips"].as_array().with_context(|| added.to_string())?;
    ips.iter().map(|ip| Ok(ip["address"].as_str().context("an address")?.parse::<IpNet>()?.addr())).collect()
}

/// Who has addresses here, but for the host itself.
fn owners(host: &Host) -> Result<Vec<String>> {
    let owners = host.report()?.ipam.owners.into_iter().map(|line| line.owner);
    Ok(owners.filter(|owner| owner != "weft:expose").collect())
}

#[test]
fn pods_of_two_hosts_get_addresses_of_their_own_and_those_they_ask_for() {
    trial(|lab| {
        let ([a, b], [on_a, on_b]) = pair(lab)?;
        let [one, two] = [on_a.pod(1)?, on_b.pod(1)?];
        let [of_one, of_two] = [add(&on_a, &one)?, add(&on_b, &two)?];
        let all: BTreeSet<IpAddr> = [of_one.clone(), of_two.clone()].concat().into_iter().collect();
        ensure!(all.len() == 4 && of_one[0].is_ipv4() && of_one[1].is_ipv6(), "{of_one:?} {of_two:?}");
        for (from, to) in [(&one, &of_two), (&two, &of_one)] {
            to.iter().try_for_each(|to| Ping::new(&from.namespace, *to).until_answered(PATIENCE).map(drop))?;
        }
        ensure!(add(&on_a, &one)? == of_one, "asked again, the same");

        // Some want a certain address: by CNI_ARGS, or by a capability.
        let wanted: IpAddr = "10.32.7.7".parse()?;
        let [third, fourth] = [on_a.pod(2)?, on_b.pod(2)?];
        let mut env = on_a.env("ADD", Some(&third));
        env.push(("CNI_ARGS".to_owned(), "IgnoreUnknown=1;IP=10.32.7.7".to_owned()));
        ensure!(addresses(&on_a.call_with(&env, on_a.config().to_string())?.result()?)? == [wanted]);
        let asking = on_b.with(&json!({ "runtimeConfig": { "ips": ["10.32.7.7"] } }));
        let refused = asking.call("ADD", &fourth)?;
        ensure!(refused.code() == 100 && refused.json.to_string().contains("is taken"), "{}", refused.json);
        on_a.call("DEL", &third)?.result()?;
        ensure!(add(&asking, &fourth)? == [wanted], "given back, it is to be had at once");

        for (runtime, pod) in [(&on_a, &one), (&on_b, &two), (&on_b, &fourth)] {
            runtime.call("DEL", pod)?.result()?;
        }
        ensure!(owners(&a)?.is_empty() && owners(&b)?.is_empty(), "{:?} {:?}", owners(&a)?, owners(&b)?);
        Ok(())
    });
}

#[test]
fn a_pod_keeps_its_addresses_until_del_or_gc_whatever_becomes_of_its_namespace() {
    trial(|lab| {
        let (host, runtime) = single(lab)?;
        let [again, gone, stays] = [runtime.pod(1)?, runtime.pod(2)?, runtime.pod(3)?];
        let before = add(&runtime, &again)?;
        add(&runtime, &gone)?;
        add(&runtime, &stays)?;
        for pod in [&again, &gone] {
            pod.namespace.remove();
        }
        wait_until("their devices are gone", PATIENCE, || Ok(host.ps()?.len() == 2))?;
        // Longer than until the router has noticed it, too.
        wait_until("it is noticed", PATIENCE, || {
            Ok(host.endpoints()?.iter().all(|at| !at.addresses.contains(&before[0])))
        })?;
        ensure!(owners(&host)?.len() == 3, "{:?}", owners(&host)?);
        let again = runtime.pod(1)?;
        ensure!(add(&runtime, &again)? == before, "made anew, it has what it had");

        let valid = [&again, &stays].map(|pod| json!({ "containerID": pod.id, "ifname": "eth0" }));
        runtime.with(&json!({ "cni.dev/valid-attachments": valid })).ask("GC")?.result()?;
        ensure!(owners(&host)? == ["lab/pod-1/eth0", "lab/pod-3/eth0"], "{:?}", owners(&host)?);
        again.namespace.remove();
        runtime.call("DEL", &again)?.result()?;
        ensure!(owners(&host)? == ["lab/pod-3/eth0"], "{:?}", owners(&host)?);

        // What is unplugged while no router runs is free when there is one.
        host.stop()?;
        runtime.call("DEL", &stays)?.result()?;
        host.relaunch()?;
        ensure!(owners(&host)?.is_empty() && host.ps()?.len() == 1, "{:?} {:?}", owners(&host)?, host.ps()?);
        Ok(())
    });
}

#[test]
fn fifty_at_once_have_fifty_addresses() {
    trial(|lab| {
        let (host, runtime) = single(lab)?;
        let pods = (0..50).map(|number| runtime.pod(number)).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        at_once(&runtime, &pods, "ADD")?;
        println!("50 ADDs at once, with addresses of the network: {:?}", began.elapsed());
        let given = host.report()?.ipam.owners.into_iter().filter(|line| line.owner.starts_with("lab/pod-"));
        let given: Vec<IpAddr> = given.flat_map(|line| line.addresses).map(|net| net.addr()).collect();
        ensure!(given.iter().collect::<BTreeSet<_>>().len() == 100 && given.len() == 100, "{given:?}");
        let attached = host.ps()?.into_iter().filter(|line| line.container != "weft:expose");
        let attached: BTreeSet<IpAddr> = attached.flat_map(|line| line.addresses).map(|net| net.addr()).collect();
        ensure!(attached == given.into_iter().collect(), "they are on the devices");
        at_once(&runtime, &pods, "DEL")?;
        ensure!(owners(&host)?.is_empty(), "{:?}", owners(&host)?);
        Ok(())
    });
}

/// As long as nothing can be given out, the runtime is told to try again; and CHECK sees an address that is not the pod's any more.
#[test]
fn what_cannot_be_given_or_was_taken_is_said() {
    trial(|lab| {
        let [off, alone] = lab.hosts(["A", "B"])?;
        off.launch(&["--no-ipalloc"])?;
        let runtime = own(&off)?;
        let pod = runtime.pod(1)?;
        let refused = runtime.call("ADD", &pod)?;
        ensure!(refused.code() == 100 && refused.json.to_string().contains("--no-ipalloc"), "{}", refused.json);
        ensure!(runtime.ask("STATUS")?.code() == 50);
        runtime.call("DEL", &pod)?.result()?;

        alone.launch(&[RANGES, "--ipalloc-init=consensus=3"])?;
        let impatient = own(&alone)?.with(&json!({ "timeout": 2 }));
        let pod = impatient.pod(1)?;
        let refused = impatient.call("ADD", &pod)?;
        ensure!(refused.code() == 11 && refused.took < patience(PATIENCE), "{} {:?}", refused.json, refused.took);
        ensure!(impatient.ask("STATUS")?.code() == 50);
        impatient.call("DEL", &pod)?.result()?;
        alone.stop()?;
        std::fs::remove_dir_all(alone.data_dir())?;
        alone.launch(&[RANGES])?;
        impatient.ask("STATUS")?.result()?;
        let added = impatient.call("ADD", &pod)?.result()?;
        let with_result = impatient.with(&json!({ "prevResult": added }));
        with_result.call("CHECK", &pod)?.result()?;
        alone.post("/ipam/free", &json!({ "owner": "lab/pod-1/eth0", "addresses": [addresses(&added)?[1]] }))?;
        let checked = with_result.call("CHECK", &pod)?;
        ensure!(checked.code() == 101 && checked.json.to_string().contains("fd32::"), "{}", checked.json);
        Ok(())
    });
}

/// The plugin `bandwidth` behind ours finds the host's side of the pod in our result.
#[test]
fn a_chained_plugin_finds_the_device() {
    with_callers("CNI: chained with bandwidth", super::cni::missing("bandwidth"), |lab| {
        let (host, runtime) = single(lab)?;
        let runtime = runtime.with(&json!({ "cniVersion": "1.0.0" }));
        let pod = runtime.pod(1)?;
        let added = runtime.call("ADD", &pod)?.result()?;
        let device = added["interfaces"][0]["name"].as_str().context("a device")?;
        let limits =
            json!({ "type": "bandwidth", "prevResult": added, "ingressRate": 8_000_000, "ingressBurst": 8_000_000 });
        let after = runtime.with(&limits).call("ADD", &pod)?.result()?;
        ensure!(after["ips"] == added["ips"], "{after}");
        let shaped = host.namespace().run("tc").args(["qdisc", "show", "dev", device]).checked()?;
        ensure!(shaped.contains("tbf"), "{shaped}");
        runtime.with(&limits).call("DEL", &pod)?.result()?;
        runtime.call("DEL", &pod)?.result().map(drop)
    });
}

/// `weft-ipam` with the reference plugin `bridge`: no device is ours, only the addresses are.
#[test]
fn addresses_for_pods_of_another_plugin() {
    let missing = super::cni::missing("bridge");
    with_callers("CNI: weft-ipam with the bridge plugin", missing, |lab| {
        let (host, runtime) = single(lab)?;
        let bridge =
            json!({ "type": "bridge", "bridge": "theirs", "cniVersion": "1.0.0", "ipam": { "type": "weft-ipam" } });
        let runtime = runtime.with(&bridge);
        let [one, two] = [runtime.pod(1)?, runtime.pod(2)?];
        let [_, of_two] = [add(&runtime, &one)?, add(&runtime, &two)?];
        ensure!(owners(&host)? == ["lab/pod-1/eth0", "lab/pod-2/eth0"], "{:?}", owners(&host)?);
        of_two.iter().try_for_each(|to| Ping::new(&one.namespace, *to).until_answered(PATIENCE).map(drop))?;
        // A router that is replaced does not take them for lost, though it has no such devices.
        host.kill9()?;
        host.relaunch()?;
        ensure!(owners(&host)?.len() == 2, "{:?}", owners(&host)?);
        let fresh = add(&runtime, &runtime.pod(3)?)?;
        ensure!(!fresh.contains(&of_two[0]), "{fresh:?}");
        runtime.call("DEL", &one)?.result()?;
        ensure!(owners(&host)? == ["lab/pod-2/eth0", "lab/pod-3/eth0"], "{:?}", owners(&host)?);
        host.stop()?;
        runtime.call("DEL", &two)?.result()?;
        host.relaunch()?;
        ensure!(owners(&host)? == ["lab/pod-3/eth0"], "{:?} in {REFERENCE}", owners(&host)?);
        Ok(())
    });
}

/// podman on two hosts, each command as users type it.
#[test]
fn containers_of_podman_on_two_hosts() {
    with_callers("CNI: podman on two hosts", podman::missing(), |lab| {
        let hosts = lab.hosts(["A", "B"])?;
        let [a, b] = [Podman::new(&hosts[0])?, Podman::new(&hosts[1])?];
        launch(&hosts)?;
        a.run("one", &[]).checked()?;
        b.run("two", &[]).checked()?;
        let mut seen = BTreeSet::new();
        for ipv6 in [false, true] {
            let (one, two) = (a.address("one", ipv6)?, b.address("two", ipv6)?);
            a.ping("one", &two, PATIENCE)?;
            b.ping("two", &one, PATIENCE)?;
            seen.extend([one, two]);
        }
        ensure!(seen.len() == 4, "{seen:?}");

        // A port that is published is reached from another host: by portmap, behind ours.
        a.run("web", &["-p", "8088:80"]).checked()?;
        a.podman(&["exec", "-d", "web", "nc", "-ll", "-p", "80", "-e", "hostname"]).checked()?;
        let asked = hosts[1].namespace().run("busybox").args(["nc", "-w", "2", &hosts[0].v4().to_string(), "8088"]);
        wait_for("the published port answers", PATIENCE, || {
            let said = asked.checked()?;
            ensure!(said.trim().len() == 12, "{said}");
            Ok(said)
        })?;
        a.remove("web")?;

        a.run("three", &["--ip=10.32.9.9"]).checked()?;
        ensure!(a.address("three", false)? == "10.32.9.9");
        let said = b.run("four", &["--ip=10.32.9.9"]).output()?.refused()?;
        ensure!(said.contains("10.32.9.9 is taken"), "{said}");
        b.remove("four")?;
        // A container goes while no router runs.
        hosts[0].stop()?;
        a.remove("three")?;
        hosts[0].relaunch()?;
        let again = || b.remove("four").and_then(|()| b.run("four", &["--ip=10.32.9.9"]).checked());
        wait_for("it is to be had", PATIENCE, again)?;
        let one = a.address("one", false)?;
        b.ping("four", &one, PATIENCE)?;
        for (podman, container) in [(&a, "one"), (&b, "two"), (&b, "four")] {
            podman.remove(container)?;
        }
        ensure!(hosts.iter().all(|host| owners(host).is_ok_and(|owners| owners.is_empty())), "{:?}", owners(&hosts[1]));
        Ok(())
    });
}
