//! Addresses that the network gives out: they are nobody else's, survive what hosts go through, and are given back.
//! The names in brackets are those of Weave Net's acceptance tests that these restate.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use weft::api::allocation::PeerShare;
use weft_integration::lab::{
    Lab,
    container::Container,
    host::Host,
    ping::Ping,
    trial::trial,
    wait::{wait_for, wait_until},
};

/// What a request may take that needs others.
const PATIENCE: Duration = Duration::from_secs(10);
/// A small range: 14 addresses that can be given.
const SMALL: &str = "--ipalloc-range=10.40.0.0/28";

/// What attach prints: the addresses.
fn attach(host: &Host, addresses: &[&str], container: &Container) -> Result<Vec<String>> {
    let said = host.weft(&["attach"])?.args(addresses).arg(container.namespace().name()).checked()?;
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

/// A new container with an address that the network chose, tried until there is one.
fn given(host: &Host, name: &str) -> Result<(Container, String)> {
    let container = host.container(name)?;
    let (words, _) = wait_for("an address is given", PATIENCE, || attach(host, &[], &container))?;
    Ok((container, words.first().context("an address")?.clone()))
}

/// The addresses of a container, by `weft ps`.
fn listed(host: &Host, container: &str) -> Result<Vec<String>> {
    let mut lines = host.ps()?.into_iter();
    let line = lines.find(|line| line.container == container);
    Ok(line.map(|line| line.addresses.iter().map(IpNet::to_string).collect()).unwrap_or_default())
}

fn launched(lab: &Lab, args: &[&str]) -> Result<Host> {
    let host = lab.host("A")?;
    host.launch(args)?;
    Ok(host)
}

/// Two hosts, the second told of the first.
fn pair(lab: &Lab, args: &[&str]) -> Result<[Host; 2]> {
    let [a, b] = lab.hosts(["A", "B"])?;
    a.launch(args)?;
    b.launch(&[args, &[&a.v4().to_string()]].concat())?;
    wait_for("they are connected", PATIENCE, || a.expect_established("B"))?;
    Ok([a, b])
}

fn state(host: &Host) -> Result<String> {
    Ok(host.report()?.ipam.state)
}

/// (300) An address that moves to another container is found there at the first ping.
#[test]
fn an_address_that_moves_is_found_at_once() {
    trial(|lab| {
        let host = launched(lab, &[])?;
        let [asker, first, second] = ["asker", "first", "second"].map(|name| host.container(name));
        let (asker, first, second) = (asker?, first?, second?);
        attach(&host, &[], &asker)?;
        attach(&host, &["10.32.9.9/12"], &first)?;
        let ping = || Ping::new(asker.namespace(), "10.32.9.9".parse::<std::net::IpAddr>().unwrap_or([0; 4].into()));
        ping().count(1).all_answered()?;
        host.weft(&["detach", first.namespace().name()])?.checked()?;
        attach(&host, &["10.32.9.9/12"], &second)?;
        ping().count(1).all_answered()?;
        host.weft(&["detach", "10.32.9.9/12", second.namespace().name()])?.checked()?;
        attach(&host, &[], &first)?;
        attach(&host, &["10.32.9.9/12"], &first)?;
        ping().count(1).all_answered()?;
        Ok(())
    });
}

/// (310) A container that starts again within 30 s has its address, though a lower one became free meanwhile.
#[test]
fn a_container_that_comes_back_has_its_address() {
    trial(|lab| {
        let host = launched(lab, &[])?;
        let (low, low_address) = given(&host, "low")?;
        let (again, address) = given(&host, "again")?;
        ensure!(low_address < address, "the lowest first: {low_address} {address}");
        host.weft(&["detach", low.namespace().name()])?.checked()?;
        let name = again.namespace().name().to_owned();
        again.namespace().remove();
        wait_until("it is gone", PATIENCE, || Ok(listed(&host, &name)?.is_empty()))?;
        // Nobody gets it meanwhile, and a router that is replaced does not forget.
        let (_, other) = given(&host, "other")?;
        ensure!(other == low_address, "{other}");
        let (_, third) = given(&host, "third")?;
        ensure!(third != address, "{third} is kept");
        host.kill9()?;
        host.relaunch()?;
        let (_, back) = given(&host, "again")?;
        ensure!(back == address, "{back} is not {address}");
        Ok(())
    });
}

/// (320) Addresses in use outlive the loss of all data, and are given to nobody else.
#[test]
fn addresses_in_use_outlive_the_loss_of_all_data() {
    trial(|lab| {
        let [a, b] = pair(lab, &[SMALL])?;
        let (on_a, address_a) = given(&a, "c1")?;
        let (on_b, address_b) = given(&b, "c1")?;
        for host in [&a, &b] {
            host.stop()?;
            std::fs::remove_dir_all(host.data_dir())?;
        }
        // B alone cannot know whether what is asked for is free; what is outside the range is nobody's business.
        let args = [SMALL.to_owned(), a.v4().to_string()];
        b.launch(&args)?;
        let blocked = b.container("blocked")?;
        let name = blocked.namespace().name();
        let said = b.weft(&["attach", "10.40.0.13/28", name])?.output()?.refused()?;
        ensure!(said.contains("cannot be given out yet"), "{said}");
        b.weft(&["attach", "10.99.0.1/24", name])?.checked()?;
        a.launch(&[SMALL])?;
        wait_for("the other is there", PATIENCE, || attach(&b, &["10.40.0.13/28"], &blocked))?;
        let taken: BTreeSet<String> = [address_a.clone(), address_b.clone(), "10.40.0.13".to_owned()].into();
        for number in 0..4 {
            for host in [&a, &b] {
                let (_, fresh) = given(host, &format!("fresh{number}"))?;
                ensure!(!taken.contains(&fresh), "{fresh} is in use");
            }
        }
        on_a.ping(address_b.parse::<std::net::IpAddr>()?).until_answered(PATIENCE)?;
        on_b.ping(address_a.parse::<std::net::IpAddr>()?).until_answered(PATIENCE).map(drop)
    });
}

/// (330) Hosts that are reset and launched one after the other: addresses can be given all the time.
#[test]
fn hosts_are_reset_one_after_the_other() {
    trial(|lab| {
        let [a, b] = pair(lab, &[SMALL])?;
        given(&a, "c0")?;
        for (host, other) in [(&a, &b), (&b, &a), (&a, &b)] {
            host.weft(&["reset"])?.checked()?;
            host.launch(&[SMALL, &other.v4().to_string()])?;
            let (container, _) = given(host, "c1")?;
            container.namespace().remove();
        }
        let shares = b.report()?.ipam.peers;
        let is_lost = |share: &PeerShare| !share.reachable && share.addresses > 0;
        ensure!(!shares.iter().any(is_lost), "nothing is lost: {shares:?}");
        ensure!(shares.iter().map(|share| share.addresses).sum::<u128>() == 16, "{shares:?}");
        Ok(())
    });
}

/// (335) The owner of all space dies; one command on one other host, and there are addresses on all of them.
#[test]
fn the_space_of_the_dead_is_taken_over() {
    trial(|lab| {
        let [a, b, c] = lab.hosts(["A", "B", "C"])?;
        a.launch(&[SMALL])?;
        given(&a, "c1")?;
        for host in [&b, &c] {
            host.launch(&[SMALL, &a.v4().to_string()])?;
        }
        wait_for("they are connected", PATIENCE, || b.expect_established("C"))?;
        wait_until("they know the owner", PATIENCE, || Ok(state(&b)? == "ready" && state(&c)? == "ready"))?;
        a.kill9()?;
        wait_for("the loss is noticed", PATIENCE, || b.weft(&["rmpeer", "A"])?.checked())?;
        given(&b, "c1")?;
        given(&c, "c1")?;
        let alive = b.weft(&["rmpeer", "C"])?.output()?.refused()?;
        ensure!(alive.contains("is reachable"), "{alive}");
        let unknown = b.weft(&["rmpeer", "nobody"])?.output()?.refused()?;
        ensure!(unknown.contains("no peer \"nobody\""), "{unknown}");
        Ok(())
    });
}

/// (340, 350) Observers found nothing by themselves; what they ask for makes others do it.
#[test]
fn observers_ask_and_do_not_vote() {
    trial(|lab| {
        let [elector, observer, second] = lab.hosts(["A", "B", "C"])?;
        elector.launch(&[SMALL, "--ipalloc-init=consensus=2"])?;
        observer.launch(&[SMALL, "--ipalloc-init=observer", &elector.v4().to_string()])?;
        wait_for("they are connected", PATIENCE, || elector.expect_established("B"))?;
        ensure!(state(&elector)? == "idle" && state(&observer)? == "idle", "nobody asked for anything");
        let container = observer.container("c1")?;
        let said = observer.weft(&["attach", container.namespace().name()])?.output()?.refused()?;
        ensure!(said.contains("takes no part in the start"), "{said}");
        second.launch(&[SMALL, "--ipalloc-init=consensus=2", &observer.v4().to_string()])?;
        wait_for("the observer has an address", PATIENCE, || attach(&observer, &[], &container)).map(drop)
    });
}

/// (360) Two networks that were founded apart are joined: nobody dies, all that went goes on, and it is said.
#[test]
fn networks_founded_apart_are_told_so_and_go_on() {
    trial(|lab| {
        let [a, b, c] = lab.hosts(["A", "B", "C"])?;
        for host in [&a, &c] {
            host.launch(&[SMALL])?;
        }
        let (on_a, _) = given(&a, "c1")?;
        attach(&c, &["10.99.0.3/24"], &given(&c, "c1")?.0)?;
        attach(&a, &["10.99.0.1/24"], &on_a)?;
        b.launch(&["--no-ipalloc", &a.v4().to_string(), &c.v4().to_string()])?;
        for host in [&a, &c] {
            wait_until("the conflict is seen", PATIENCE, || Ok(state(host)? == "conflict"))?;
            let status = host.weft(&["status", "ipam"])?.checked()?;
            ensure!(status.contains("kept apart"), "{status}");
        }
        on_a.ping("10.99.0.3".parse::<std::net::IpAddr>()?).until_answered(PATIENCE)?;
        for host in [&a, &c] {
            given(host, "c2")?;
            ensure!(host.pid().is_ok());
        }
        let off = b.container("c1")?;
        let said = b.weft(&["attach", off.namespace().name()])?.output()?.refused()?;
        ensure!(said.contains("--no-ipalloc") && said.contains("name one"), "{said}");
        ensure!(b.weft(&["status", "ipam"])?.checked()?.contains("State: off"));
        Ok(())
    });
}

/// (362) Another range: what was stored of the old one is of no use, and that is said.
#[test]
fn another_range_begins_anew() {
    trial(|lab| {
        let host = launched(lab, &[SMALL])?;
        let (container, _) = given(&host, "c1")?;
        container.namespace().remove();
        host.stop()?;
        host.launch(&["--ipalloc-range=10.41.0.0/24"])?;
        let (_, address) = given(&host, "c2")?;
        ensure!(address.starts_with("10.41.0."), "{address}");
        ensure!(host.log().contains("another --ipalloc-range"), "{}", host.log());
        Ok(())
    });
}

/// (370) What the store says after all were stopped: others' space, containers that went meanwhile, the host's own address.
#[test]
fn a_stopped_network_remembers_whose_is_what() {
    trial(|lab| {
        let [a, b] = pair(lab, &[SMALL])?;
        let (gone, of_gone) = given(&a, "gone")?;
        let (_, of_b) = given(&b, "c1")?;
        let exposed = a.weft(&["expose"])?.checked()?.trim().to_owned();
        a.stop()?;
        b.stop()?;
        gone.namespace().remove();
        a.relaunch()?;
        let container = a.container("c2")?;
        let said = a.weft(&["attach", container.namespace().name()])?.output()?.refused()?;
        ensure!(said.contains("weft prime --alone") && said.contains("(B)"), "{said}");
        a.weft(&["prime", "--alone"])?.checked()?;
        let mut fresh = Vec::new();
        for number in 0..4 {
            fresh.push(given(&a, &format!("fresh{number}"))?.1);
        }
        ensure!(!fresh.contains(&of_b) && !fresh.contains(&exposed), "{fresh:?} {of_b} {exposed}");
        ensure!(!fresh.contains(&of_gone), "it may come back yet");
        let freed = || Ok(a.report()?.ipam.owners.iter().all(|owner| !owner.owner.ends_with("-gone")));
        wait_until("what went meanwhile is given back", Duration::from_secs(40), freed).map(drop)
    });
}

/// (380) Routers that know each other's names share the space without a word, and agree when they meet.
#[test]
fn seeded_routers_need_no_word_of_each_other() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        let mut names = Vec::new();
        for host in [&a, &b] {
            host.launch(&["--no-ipalloc"])?;
            names.push(host.report()?.router.name.to_string());
            host.stop()?;
        }
        let seed = format!("--ipalloc-init=seed={}", names.join(","));
        a.launch(&[SMALL, &seed])?;
        b.launch(&[SMALL, &seed])?;
        let [(on_a, of_a), (_, of_b)] = [given(&a, "c1")?, given(&b, "c1")?];
        ensure!(of_a != of_b, "{of_a}");
        b.weft(&["connect", &a.v4().to_string()])?.checked()?;
        wait_for("they are connected", PATIENCE, || a.expect_established("B"))?;
        on_a.ping(of_b.parse::<std::net::IpAddr>()?).until_answered(PATIENCE)?;
        ensure!(state(&a)? == "ready" && state(&b)? == "ready", "{:?}", a.report()?.ipam);
        // (390) Another identity knows nothing of what the old one held.
        b.weft(&["reset"])?.checked()?;
        b.launch(&[SMALL])?;
        ensure!(b.report()?.router.name.to_string() != names[1] && b.report()?.ipam.peers.is_empty());
        Ok(())
    });
}

/// (500) Addresses in every form in one call, given and taken; the lowest free one first; and what is wrong is said.
#[test]
fn addresses_in_every_form_are_given_and_taken() {
    trial(|lab| {
        let args = ["--ipalloc-range=10.40.0.0/16,fd40::/64", "--ipalloc-default-subnet=10.40.1.0/24,fd40::/64"];
        let host = launched(lab, &args)?;
        let container = host.container("c1")?;
        let name = container.namespace().name();
        let said = attach(&host, &["10.40.5.1/24", "ip:10.40.6.1/24", "net:10.40.2.0/24", "net:default"], &container)?;
        ensure!(said == ["10.40.5.1", "10.40.6.1", "10.40.2.1", "10.40.1.1", "fd40::1"], "{said:?}");
        let all = ["10.40.1.1/24", "10.40.2.1/24", "10.40.5.1/24", "10.40.6.1/24", "fd40::1/64"];
        ensure!(listed(&host, name)? == all, "{:?}", listed(&host, name)?);
        ensure!(attach(&host, &["net:default"], &container)?.len() == 2, "the same again");
        let explained = host.weft(&["explain", "ip", "10.40.2.1"])?.checked()?;
        ensure!(explained.contains(name) && explained.contains("(A)"), "{explained}");

        let said = host.weft(&["detach", "net:10.40.2.0/24", "10.40.5.1/24", "10.40.6.1/24", name])?.checked()?;
        ensure!(said.split_whitespace().count() == 3, "{said}");
        ensure!(listed(&host, name)? == ["10.40.1.1/24", "fd40::1/64"], "{:?}", listed(&host, name)?);
        let other = host.container("c2")?;
        ensure!(attach(&host, &[], &other)? == ["10.40.1.2", "fd40::2"]);
        let exposed = host.weft(&["expose", "net:10.40.2.0/24", "10.40.3.1/24"])?.checked()?;
        ensure!(exposed.trim() == "10.40.2.1 10.40.3.1", "{exposed}");
        ensure!(listed(&host, "weft:expose")? == ["10.40.2.1/24", "10.40.3.1/24"]);
        ensure!(host.weft(&["hide", "net:10.40.2.0/24"])?.checked()?.trim() == "10.40.2.1");
        host.weft(&["hide"])?.checked()?;
        for (wrong, why) in [
            ("net:10.40.2.5/24", "is an address, not a subnet"),
            ("net:10.40.2.4/31", "too small"),
            ("net:10.99.0.0/24", "10.99.0.0/24"),
            ("10.40.1.2/24", "is taken by"),
        ] {
            let said = host.weft(&["attach", wrong, name])?.output()?.refused()?;
            ensure!(said.contains(why), "{wrong}: {said}");
        }
        let owners = host.report()?.ipam.owners;
        ensure!(owners.len() == 2 && owners.iter().all(|owner| owner.addresses.len() == 2), "{owners:?}");
        Ok(())
    });
}

/// (510) Without agreement nothing is given out, but what is there can be taken away at once.
#[test]
fn detach_and_hide_need_nobodys_consent() {
    trial(|lab| {
        let host = launched(lab, &[SMALL, "--ipalloc-init=consensus=3"])?;
        let container = host.container("c1")?;
        let name = container.namespace().name();
        attach(&host, &["10.99.0.1/24"], &container)?;
        host.weft(&["expose", "--without-masquerade", "10.99.0.9/24"])?.checked()?;
        let said = host.weft(&["attach", name])?.output()?.refused()?;
        ensure!(said.contains("cannot be given out yet"), "{said}");
        let started = std::time::Instant::now();
        host.weft(&["detach", name])?.checked()?;
        host.weft(&["hide"])?.checked()?;
        ensure!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        ensure!(host.ps()?.is_empty());
        Ok(())
    });
}

/// A peer is killed and replaced again and again: after one command each time, nothing of the space is lost.
#[test]
fn peers_come_and_go_and_no_space_is_lost() {
    trial(|lab| {
        let [a, b, c] = lab.hosts(["A", "B", "C"])?;
        a.launch(&[SMALL])?;
        for host in [&b, &c] {
            host.launch(&[SMALL, &a.v4().to_string()])?;
        }
        wait_for("they are connected", PATIENCE, || b.expect_established("C"))?;
        let (_, used) = given(&a, "c0")?;
        for number in 0..ROUNDS {
            let dead = [&a, &b, &c][number * 7 % 3];
            let (heir, other) =
                if dead.name() == "A" { (&b, &c) } else { (&a, if dead.name() == "B" { &c } else { &b }) };
            for host in [heir, other] {
                wait_until("it is a member", PATIENCE, || Ok(state(host)? == "ready"))?;
            }
            dead.kill9()?;
            std::fs::remove_dir_all(dead.data_dir())?;
            let dead_one = [dead.name()];
            let removed = || heir.weft(&["rmpeer"])?.args(dead_one).checked();
            wait_for("the dead one is removed", PATIENCE, removed).with_context(|| format!("round {number}"))?;
            dead.launch(&[SMALL, &heir.v4().to_string(), &other.v4().to_string()])?;
            wait_for("it is back", PATIENCE, || heir.expect_established(dead.name()))?;
        }
        // The container on A outlived its routers, and so did its address.
        let mut given_out = BTreeSet::from([used]);
        for number in 1..14 {
            let host = [&a, &b, &c][number % 3];
            let owner = format!("owner{number}");
            let (words, _) = wait_for("an address", PATIENCE, || allocated(host, &owner))?;
            given_out.insert(words);
        }
        ensure!(given_out.len() == 14, "{given_out:?}");
        Ok(())
    });
}

/// Times that a host is replaced; the simulator does it far more often.
const ROUNDS: usize = 20;

/// An address for an owner that is no container, by the API.
fn allocated(host: &Host, owner: &str) -> Result<String> {
    let answer = host.post("/ipam/allocate", &serde_json::json!({ "owner": owner }))?;
    Ok(answer["addresses"][0].as_str().context("an address")?.to_owned())
}
