//! Acceptance 9: attach, detach, expose and hide in every form, again and again, with `ps` exact; and what is wrong is said.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        container::{Container, DEVICE},
        host::Host,
        mesh::{Mesh, attached},
        trial::trial,
        wait::wait_until,
    },
    scenario::callers::with_callers,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Until the router has looked at the packet filter again: 15 s.
const FILTER_SEEN: Duration = Duration::from_secs(25);

fn launched(lab: &Lab) -> Result<Host> {
    let host = lab.host("A")?;
    host.launch::<&str>(&[])?;
    Ok(host)
}

/// What `weft ps` says, as container and its addresses.
fn listed(host: &Host) -> Result<Vec<(String, Vec<String>)>> {
    let addresses = |nets: Vec<ipnet::IpNet>| nets.iter().map(ToString::to_string).collect();
    let mut listed: Vec<_> = host.ps()?.into_iter().map(|a| (a.container, addresses(a.addresses))).collect();
    listed.sort();
    Ok(listed)
}

/// What the kernel says of the container's device: global addresses with prefix lengths.
fn addresses(container: &Container) -> Result<Vec<String>> {
    let shown = container.namespace().run("ip").args(["-o", "addr", "show", "scope", "global"]).checked()?;
    let words = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut addresses = words
        .map(|words| {
            let at = words.iter().position(|word| word.starts_with("inet")).context("inet")?;
            ensure!(words[1] == DEVICE, "{shown}");
            Ok(words[at + 1].to_owned())
        })
        .collect::<Result<Vec<_>>>()?;
    addresses.sort();
    Ok(addresses)
}

#[test]
fn a_container_is_named_by_name_path_or_pid() {
    trial(|lab| {
        let host = launched(lab)?;
        let [by_name, by_path, by_pid] = ["c1", "c2", "c3"].map(|name| host.container(name));
        let (by_name, by_path, by_pid) = (by_name?, by_path?, by_pid?);
        let mut sleeper = by_pid.namespace().run("sleep").arg("100").spawn(Stdio::null(), Stdio::null())?;
        wait_until("a process in the container", PATIENCE, || Ok(!by_pid.namespace().processes().is_empty()))?;
        let path = by_path.namespace().path().display().to_string();
        let pid = by_pid.namespace().processes().first().context("a process")?.to_string();
        for (address, container) in
            [("10.32.0.1/16", by_name.namespace().name()), ("10.32.0.2/16", &path), ("10.32.0.3/16", &pid)]
        {
            let said = host.weft(&["attach", address, container])?.checked()?;
            ensure!(said.trim() == address.trim_end_matches("/16"), "attach prints the address: {said}");
        }
        by_name.ping("10.32.0.2".parse::<std::net::IpAddr>()?).until_answered(PATIENCE)?;
        by_name.ping("10.32.0.3".parse::<std::net::IpAddr>()?).until_answered(PATIENCE)?;
        ensure!(host.ps()?.len() == 3, "{:?}", host.ps()?);
        for container in [by_name.namespace().name(), &path, &pid] {
            host.weft(&["detach", container])?.checked()?;
        }
        ensure!(host.ps()?.is_empty(), "{:?}", host.ps()?);
        sleeper.kill()?;
        sleeper.wait()?;
        Ok(())
    });
}

#[test]
fn attach_and_detach_may_be_repeated_and_ps_is_exact() {
    trial(|lab| {
        let host = launched(lab)?;
        let container = host.container("c1")?;
        let name = container.namespace().name();
        for _ in 0..2 {
            host.weft(&["attach", "10.32.0.1/16", "fd32::1/64", name])?.checked()?;
            ensure!(addresses(&container)? == ["10.32.0.1/16", "fd32::1/64"]);
            ensure!(listed(&host)? == [(name.to_owned(), vec!["10.32.0.1/16".to_owned(), "fd32::1/64".to_owned()])]);
        }
        let mac = host.ps()?.first().context("attached")?.mac.to_string();
        let link = container.namespace().run("ip").args(["-o", "link", "show", DEVICE]).checked()?;
        ensure!(link.contains(&mac) && link.contains("mtu 1340") && link.contains("UP"), "{mac} {link}");
        let routes = container.namespace().run("ip").args(["route"]).checked()?;
        ensure!(routes.contains("224.0.0.0/4"), "a route for multicast: {routes}");

        host.weft(&["attach", "10.33.0.1/24", name])?.checked()?;
        ensure!(addresses(&container)? == ["10.32.0.1/16", "10.33.0.1/24", "fd32::1/64"]);
        for _ in 0..2 {
            host.weft(&["detach", "10.32.0.1/16", name])?.checked()?;
            ensure!(addresses(&container)? == ["10.33.0.1/24", "fd32::1/64"]);
        }
        ensure!(listed(&host)? == [(name.to_owned(), vec!["10.33.0.1/24".to_owned(), "fd32::1/64".to_owned()])]);
        for _ in 0..2 {
            host.weft(&["detach", name])?.checked()?;
            ensure!(addresses(&container)?.is_empty() && listed(&host)?.is_empty());
        }
        let links = container.namespace().run("ip").args(["-o", "link"]).checked()?;
        ensure!(!links.contains(DEVICE), "{links}");
        Ok(())
    });
}

#[test]
fn a_container_that_goes_away_is_forgotten() {
    trial(|lab| {
        let host = launched(lab)?;
        let container = attached(&host, "c1", 1)?;
        ensure!(host.ps()?.len() == 1);
        container.namespace().remove();
        wait_until("ps is empty again", PATIENCE, || Ok(host.ps()?.is_empty()))?;
        // Its address and name are free.
        attached(&host, "c1", 1).map(drop)
    });
}

#[test]
fn the_multicast_route_may_be_left_out() {
    trial(|lab| {
        let host = launched(lab)?;
        let container = host.container("c1")?;
        host.weft(&["attach", "--no-multicast-route", "10.32.0.1/16", container.namespace().name()])?.checked()?;
        let routes = container.namespace().run("ip").args(["route"]).checked()?;
        ensure!(!routes.contains("224.0.0.0/4"), "{routes}");
        Ok(())
    });
}

#[test]
fn an_exposed_host_is_on_the_network_until_hidden() {
    trial(|lab| {
        let mesh = Mesh::settled(lab, ["A", "B"], false)?;
        let (a, in_b) = (&mesh.hosts[0], &mesh.containers[1]);
        let links = || a.namespace().run("ip").args(["-o", "-br", "addr", "show", "dev", "weft"]).checked();
        let before = links()?;
        for _ in 0..2 {
            a.weft(&["expose", "10.32.0.100/16", "fd32::100/64"])?.checked()?;
            ensure!(links()?.contains("10.32.0.100/16") && links()?.contains("fd32::100/64"), "{}", links()?);
        }
        a.ping(in_b.v4()?).until_answered(PATIENCE)?;
        a.ping(in_b.v6()?).until_answered(PATIENCE)?;
        in_b.ping("10.32.0.100".parse::<std::net::IpAddr>()?).until_answered(PATIENCE)?;
        let exposed = listed(a)?.into_iter().find(|(name, _)| name == "weft:expose").context("ps lists the host")?;
        ensure!(exposed.1 == ["10.32.0.100/16", "fd32::100/64"], "{exposed:?}");
        a.weft(&["hide", "fd32::100/64"])?.checked()?;
        ensure!(links()?.contains("10.32.0.100/16") && !links()?.contains("fd32::100/64"), "{}", links()?);
        for _ in 0..2 {
            a.weft(&["hide"])?.checked()?;
        }
        ensure!(links()? == before, "{} {before}", links()?);
        ensure!(listed(a)?.iter().all(|(name, _)| name != "weft:expose"));
        ensure!(a.ping(in_b.v4()?).send()?.received == 0);
        Ok(())
    });
}

#[test]
fn an_exposed_host_is_a_way_out_under_its_own_address() {
    trial(|lab| {
        let a = launched(lab)?;
        let world = lab.host("world")?;
        let container = attached(&a, "c1", 1)?;
        a.weft(&["expose", "10.32.0.100/16"])?.checked()?;
        container.namespace().ip("route add default via 10.32.0.100\n")?;
        container.ping(world.v4()).until_answered(PATIENCE)?;
        a.weft(&["hide"])?.checked()?;
        // Only masquerade makes the host forward; who wants to route sees to that.
        a.namespace().sysctl("ipv4/ip_forward", "1")?;
        a.weft(&["expose", "--without-masquerade", "10.32.0.100/16"])?.checked()?;
        let capture = lab.capture()?;
        ensure!(container.ping(world.v4()).send()?.received == 0, "the world knows no way back");
        let seen = capture.stop()?;
        let sources: Vec<_> = seen.iter().filter_map(|frame| frame.packet()).map(|packet| packet.source).collect();
        ensure!(sources.contains(&container.v4()?.into()), "its own source: {sources:?}");
        Ok(())
    });
}

#[test]
fn what_is_wrong_is_said_and_nothing_changes() {
    trial(|lab| {
        let host = launched(lab)?;
        let container = attached(&host, "c1", 1)?;
        let other = host.container("c2")?;
        let (name, other_name) = (container.namespace().name(), other.namespace().name());
        let before = listed(&host)?;
        let cases: &[(&[&str], &[&str])] = &[
            (&["attach", "10.32.0.5/16", "no-such-namespace"], &["no-such-namespace"]),
            (&["attach", "10.32.0.5/16", "/run/netns/no-such"], &["/run/netns/no-such"]),
            (&["attach", "10.32.0.5/16", "4194304"], &["4194304"]),
            (&["attach", "10.32.0.1/16", other_name], &["10.32.0.1", "taken", "already", "has"]),
            (&["attach", "10.32.0.500/16", name], &["10.32.0.500/16"]),
            (&["attach", "10.32.0.5/33", name], &["10.32.0.5/33"]),
            (&["attach", "10.32.0.5", name], &["10.32.0.5"]),
            (&["attach"], &["CONTAINER", "Usage"]),
            (&["attach", "net:10.32.0.5/24", name], &["its subnet is net:10.32.0.0/24"]),
            (&["detach", "no-such-namespace"], &["no-such-namespace"]),
            (&["expose", "10.32.0.1/16"], &["10.32.0.1"]),
            (&["expose", "elephant"], &["elephant"]),
            (&["connect", "bad host name"], &["bad host name"]),
            (&["connect", "10.0.0.300"], &["10.0.0.300"]),
            (&["forget", "never.heard.of"], &["never.heard.of"]),
            (&["launch"], &["already running"]),
        ];
        for (args, words) in cases {
            let said = host.weft(args)?.output()?.refused()?;
            ensure!(words.iter().any(|word| said.contains(word)), "weft {args:?}: {said}");
            ensure!(!said.contains("panicked"), "weft {args:?}: {said}");
            ensure!(listed(&host)? == before, "weft {args:?} changed something: {:?}", listed(&host)?);
        }
        ensure!(addresses(&other)?.is_empty());
        Ok(())
    });
}

#[test]
fn without_a_router_every_verb_says_so() {
    trial(|lab| {
        let host = lab.host("A")?;
        let verbs: &[&[&str]] = &[
            &["status"],
            &["status", "connections"],
            &["report"],
            &["ps"],
            &["connect", "10.0.0.1"],
            &["forget", "10.0.0.1"],
            &["attach", "10.32.0.1/16", "c1"],
            &["detach", "c1"],
            &["expose", "10.32.0.1/16"],
            &["hide"],
        ];
        for verb in verbs {
            let said = host.weft(verb)?.output()?.refused()?;
            ensure!(said.contains("not running") && said.contains("weft launch"), "weft {verb:?}: {said}");
        }
        host.weft(&["stop"])?.checked()?;
        Ok(())
    });
}

/// Docker has the packet filter drop what is forwarded, and the kernel show it what is bridged: before the router starts, and meanwhile.
#[test]
fn a_packet_filter_that_drops_forwarded_packets_lets_containers_talk() {
    let shown = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    let missing = (!shown).then(|| "this kernel shows no bridged packets to the filter: no br_netfilter".to_owned());
    with_callers("packet filter: bridged packets", missing, |lab| {
        let [first, second] = lab.hosts(["A", "B"])?;
        let filter = |host: &Host, words: &str| host.namespace().run("iptables").args(words.split(' ')).checked();
        for host in [&first, &second] {
            host.namespace().sysctl("bridge/bridge-nf-call-iptables", "1")?;
        }
        filter(&first, "-P FORWARD DROP")?;
        first.launch::<&str>(&[])?;
        second.launch(&[first.v4().to_string()])?;
        ensure!(!filter(&second, "-S FORWARD")?.contains("weft"), "a filter that drops nothing is left alone");
        let [one, other] = [attached(&first, "c1", 1)?, attached(&first, "c2", 2)?];
        let far = attached(&second, "c1", 3)?;
        one.ping(other.v4()?).until_answered(PATIENCE)?;
        far.ping(one.v4()?).until_answered(PATIENCE)?;

        // An engine is started.
        let near = attached(&second, "c2", 4)?;
        filter(&second, "-P FORWARD DROP")?;
        filter(&second, "-F FORWARD")?;
        near.ping(far.v4()?).until_answered(FILTER_SEEN)?;
        near.ping(one.v4()?).until_answered(PATIENCE)?;
        first.weft(&["reset"])?.checked()?;
        ensure!(!filter(&first, "-S FORWARD")?.contains("weft"), "{}", filter(&first, "-S FORWARD")?);
        Ok(())
    });
}
