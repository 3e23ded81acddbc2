//! Names: what Weave Net's smoke tests of its DNS ask for, with real routers, containers and resolvers.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use domain::base::Rtype;
use weft_integration::lab::{
    Lab,
    command::Run,
    container::Container,
    host::Host,
    mesh::{Mesh, attached},
    namespace::Namespace,
    resolver::{Names, Resolver, Upstream, reverse, with_resolv_conf},
    trial::trial,
    wait::{patience, wait_for, wait_until},
};

const PATIENCE: Duration = Duration::from_secs(5);
/// The host's own address on the network, by the number of the host, beyond those of containers.
fn own(number: usize) -> String {
    format!("10.32.1.{number}")
}

/// A router with an address on the network and a container.
fn served(lab: &Lab, flags: &[&str]) -> Result<(Host, Container, Resolver)> {
    let host = lab.host("A")?;
    let conf = resolv_conf(lab, "")?;
    let conf = format!("--resolv-conf={}", conf.display());
    host.launch(&[&[&*conf], flags].concat())?;
    expose(&host, 1)?;
    let container = attached(&host, "c1", 1)?;
    let resolver = Resolver::new(container.namespace(), own(1).parse::<Ipv4Addr>()?);
    wait_until("the name server answers", PATIENCE, || resolver.is_answered())?;
    Ok((host, container, resolver))
}

fn expose(host: &Host, number: usize) -> Result<()> {
    host.weft(&["expose", &format!("{}/16", own(number))])?.checked().map(drop)
}

/// A resolv.conf of this lab; the machine's own is nobody's business.
fn resolv_conf(lab: &Lab, text: &str) -> Result<PathBuf> {
    let path = lab.dir().join("resolv.conf");
    fs::write(&path, text)?;
    Ok(path)
}

/// `getent ahosts NAME` in a container whose resolv.conf says this: the C library's own resolver.
fn getent(lab: &Lab, namespace: &Namespace, conf: &str, name: &str) -> Result<Vec<String>> {
    let shown = with_resolv_conf(namespace, lab.dir(), conf, &format!("exec getent ahostsv4 {name}"))?.output()?;
    let mut found: Vec<String> =
        shown.stdout.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn weft(host: &Host, words: &str) -> Result<String> {
    host.weft(&words.split(' ').collect::<Vec<_>>())?.checked()
}

/// Until all of these resolvers find exactly these addresses.
fn wait_names(resolvers: &[Resolver], name: &str, expected: &[&str]) -> Result<()> {
    let look = || resolvers.iter().try_for_each(|resolver| resolver.expect(name, Rtype::A, expected));
    wait_for(&format!("{name} leads to {expected:?}"), PATIENCE * 2, look).map(drop)
}

fn wait_no_name(resolvers: &[Resolver], name: &str, deadline: Duration) -> Result<Duration> {
    let look = || resolvers.iter().try_for_each(|resolver| resolver.expect_none(name, Rtype::A, "NXDOMAIN"));
    wait_for(&format!("{name} is gone"), deadline, look).map(|((), took)| took)
}

/// Weave's 200, 205 (in part), 220, 230, 245, 250.
#[test]
fn a_name_leads_to_an_address_and_back_in_every_form() {
    trial(|lab| {
        let (host, container, resolver) = served(lab, &[])?;
        let c1 = container.namespace().name();
        weft(&host, &format!("attach --name C1.weft.local --name alias 10.32.0.1/16 fd32::1/64 {c1}"))?;
        for name in ["c1.weft.local", "c1.weft.local.", "C1.Weft.LOCAL", "c1", "alias"] {
            resolver.expect(name, Rtype::A, &["10.32.0.1"])?;
            resolver.expect(name, Rtype::AAAA, &["fd32::1"])?;
        }
        for name in [reverse("10.32.0.1")?, reverse("10.32.0.1")?.to_uppercase()] {
            resolver.expect(&name, Rtype::PTR, &["alias.weft.local.", "c1.weft.local."])?;
        }
        // What is there in part, not at all, and elsewhere with nobody to ask.
        resolver.expect_none("c1.weft.local", Rtype::MX, "NOERROR")?;
        resolver.expect_none("nobody.weft.local", Rtype::A, "NXDOMAIN")?;
        resolver.expect_none("nobody", Rtype::A, "NXDOMAIN")?;
        resolver.expect_none("www.example.com", Rtype::A, "SERVFAIL")?;
        ensure!(resolver.lookup("c1", Rtype::A)?.authoritative);

        // The host by several names, asked from itself, too.
        weft(&host, &format!("expose -h bridge.weft.local --name gateway {}/16", own(1)))?;
        let from_host = Resolver::new(host.namespace(), own(1).parse::<Ipv4Addr>()?);
        for resolver in [&resolver, &from_host] {
            resolver.expect("bridge.weft.local", Rtype::A, &[&own(1)])?;
            resolver.expect("gateway", Rtype::A, &[&own(1)])?;
            resolver.expect(&reverse(&own(1))?, Rtype::PTR, &["bridge.weft.local.", "gateway.weft.local."])?;
        }
        // The C library's resolver, with a search list and without.
        for (conf, name) in [
            ("search weft.local\nnameserver 10.32.1.1", "c1"),
            ("nameserver 10.32.1.1", "c1"),
            ("nameserver 10.32.1.1", "c1.weft.local"),
        ] {
            let found = getent(lab, container.namespace(), conf, name)?;
            ensure!(found == ["10.32.0.1"], "{conf:?} {name}: {found:?}");
        }
        let args = weft(&host, "dns-args")?;
        ensure!(args.trim() == "--dns=10.32.1.1 --dns-search=weft.local", "{args}");
        let listed = weft(&host, "status dns")?;
        ensure!(
            listed.contains("c1.weft.local") && listed.contains("(A)") && listed.contains("weft:expose"),
            "{listed}"
        );
        ensure!(weft(&host, "dns-lookup c1")?.lines().count() == 2);
        ensure!(weft(&host, &format!("dns-lookup {}", own(1)))?.contains("gateway.weft.local"));
        ensure!(host.weft(&["dns-lookup", "nobody"])?.output()?.refused()?.contains("nobody"));
        Ok(())
    });
}

/// Weave's 220, 225: another domain, sub-domains, `--dns-search`.
#[test]
fn the_domain_may_be_another_and_have_sub_domains() {
    trial(|lab| {
        let (host, container, resolver) = served(lab, &["--dns-domain=Apps.example.", "--dns-ttl=30"])?;
        weft(&host, "dns-add web.apps.example 10.32.0.7")?;
        weft(&host, "dns-add db.eu.apps.example. 10.32.0.8")?;
        resolver.expect("web", Rtype::A, &["10.32.0.7"])?;
        resolver.expect("db.eu.apps.example", Rtype::A, &["10.32.0.8"])?;
        let conf = "search eu.apps.example\nnameserver 10.32.1.1";
        ensure!(getent(lab, container.namespace(), conf, "db")? == ["10.32.0.8"]);
        ensure!(weft(&host, "dns-args")?.contains("--dns-search=apps.example"));
        let refused = host.weft(&["dns-add", "web.weft.local", "10.32.0.7"])?.output()?.refused()?;
        ensure!(refused.contains("not within the network's domain"), "{refused}");
        Ok(())
    });
}

/// Weave's 240, 260, 265: names by hand, and all that ends one.
#[test]
fn names_are_added_and_removed_exactly() {
    trial(|lab| {
        let (host, container, resolver) = served(lab, &[])?;
        let c1 = container.namespace().name().to_owned();
        weft(&host, &format!("dns-add {c1} both"))?;
        resolver.expect("both", Rtype::A, &["10.32.0.1"])?;
        resolver.expect("both", Rtype::AAAA, &["fd32::1"])?;
        weft(&host, &format!("dns-add 10.32.0.1 {c1} one"))?;
        weft(&host, "dns-add both 10.32.0.5 10.32.0.6")?;
        resolver.expect("both", Rtype::A, &["10.32.0.1", "10.32.0.5", "10.32.0.6"])?;
        weft(&host, "dns-remove both 10.32.0.5")?;
        resolver.expect("both", Rtype::A, &["10.32.0.1", "10.32.0.6"])?;
        weft(&host, &format!("dns-remove {c1} both"))?;
        resolver.expect("both", Rtype::A, &["10.32.0.6"])?;
        resolver.expect("one", Rtype::A, &["10.32.0.1"])?;
        weft(&host, "dns-remove 10.32.0.6")?;
        resolver.expect_none("both", Rtype::A, "NXDOMAIN")?;

        // An address that goes from name to name leads back to the living one each time.
        for name in ["a", "b", "c", "d"] {
            weft(&host, &format!("dns-add {name} 10.32.0.9"))?;
            resolver.expect(&reverse("10.32.0.9")?, Rtype::PTR, &[&format!("{name}.weft.local.")])?;
            weft(&host, &format!("dns-remove {name}"))?;
        }
        resolver.expect_none(&reverse("10.32.0.9")?, Rtype::PTR, "SERVFAIL")?;

        // An address taken, all of them, the container gone.
        let other = attached(&host, "c2", 2)?;
        let c2 = other.namespace().name().to_owned();
        weft(&host, &format!("dns-add {c2} two"))?;
        weft(&host, "dns-add kept 10.32.0.2")?;
        weft(&host, &format!("detach 10.32.0.2/16 {c2}"))?;
        resolver.expect_none("two", Rtype::A, "NOERROR")?;
        resolver.expect("two", Rtype::AAAA, &["fd32::2"])?;
        weft(&host, &format!("detach {c2}"))?;
        resolver.expect_none("two", Rtype::AAAA, "NXDOMAIN")?;
        resolver.expect("kept", Rtype::A, &["10.32.0.2"])?;
        weft(&host, &format!("attach --name two 10.32.0.2/16 {c2}"))?;
        resolver.expect("two", Rtype::A, &["10.32.0.2"])?;
        other.namespace().remove();
        let took = wait_no_name(std::slice::from_ref(&resolver), "two", 2 * PATIENCE)?;
        println!("the name of a container that vanished is gone after {took:?}");
        // A name of somebody who never came.
        weft(&host, "dns-add 10.32.0.3 stranger ghost")?;
        resolver.expect("ghost", Rtype::A, &["10.32.0.3"])?;
        wait_no_name(std::slice::from_ref(&resolver), "ghost", 4 * PATIENCE)?;
        weft(&host, "dns-remove --all stranger")?;
        resolver.expect("one", Rtype::A, &["10.32.0.1"])?;
        Ok(())
    });
}

/// Weave's 210 and 255, and the death of a peer.
#[test]
fn names_are_shared_by_hosts_and_go_and_come_back_with_them() {
    trial(|lab| {
        let mesh = Mesh::settled(lab, ["A", "B", "C"], false)?;
        let mut resolvers = Vec::new();
        for (index, (host, container)) in mesh.hosts.iter().zip(&mesh.containers).enumerate() {
            expose(host, index + 1)?;
            resolvers.push(Resolver::new(container.namespace(), own(index + 1).parse::<Ipv4Addr>()?));
        }
        let [a, b, c] = &mesh.hosts[..] else { unreachable!() };
        // Six containers, two names, three hosts: rounds of death and birth with other addresses.
        for round in 1..=5 {
            let mut containers = Vec::new();
            let mut expected = [Vec::new(), Vec::new()];
            for (index, host) in mesh.hosts.iter().enumerate() {
                for (which, name) in ["web", "db"].iter().enumerate() {
                    let container = host.container(&format!("r{round}{name}"))?;
                    let address = format!("10.32.{}.{}", round + 1, index * 2 + which + 1);
                    let arguments = ["attach", "--name", name, &format!("{address}/16"), container.namespace().name()];
                    host.weft(&arguments)?.checked()?;
                    expected[which].push(address);
                    containers.push((host, container));
                }
            }
            for (name, addresses) in ["web", "db"].iter().zip(&expected) {
                wait_names(&resolvers, name, &addresses.iter().map(String::as_str).collect::<Vec<_>>())?;
            }
            for (host, container) in containers {
                weft(host, &format!("detach {}", container.namespace().name()))?;
                container.namespace().remove();
            }
            wait_no_name(&resolvers, "web", PATIENCE)?;
            wait_no_name(&resolvers, "db", PATIENCE)?;
        }

        // Routers restarted, in good order and not: names of containers and by hand are there again.
        for (host, container, address) in [(a, &mesh.containers[0], "10.32.0.1"), (b, &mesh.containers[1], "10.32.0.2")]
        {
            let name = format!("on-{}", host.name().to_lowercase());
            weft(host, &format!("dns-add {} {name}", container.namespace().name()))?;
            weft(host, &format!("dns-add hand-{name} 10.32.0.99"))?;
            wait_names(&resolvers, &name, &[address])?;
        }
        wait_until("what was named last is stored", PATIENCE, || {
            Ok(a.weft(&["status", "dns"])?.checked()?.contains("hand-on-b"))
        })?;
        a.stop()?;
        wait_no_name(&resolvers[1..], "on-a", PATIENCE)?;
        std::thread::sleep(Duration::from_millis(500));
        b.kill9()?;
        a.relaunch()?;
        b.relaunch()?;
        for (name, address) in [("on-a", "10.32.0.1"), ("hand-on-a", "10.32.0.99"), ("on-b", "10.32.0.2")] {
            wait_names(&resolvers, name, &[address])?;
        }
        // A container that vanished while its router was away.
        b.stop()?;
        mesh.containers[1].namespace().remove();
        b.relaunch()?;
        let others = [resolvers[0].clone(), resolvers[2].clone()];
        wait_no_name(&others, "on-b", 4 * PATIENCE)?;
        wait_names(&others, "hand-on-b", &["10.32.0.99"])?;
        // A host that died.
        weft(c, "dns-add on-c 10.32.0.77")?;
        wait_names(&resolvers[..1], "on-c", &["10.32.0.77"])?;
        c.kill9()?;
        let took = wait_no_name(&resolvers[..1], "on-c", Duration::from_secs(90))?;
        println!("the names of a killed router are gone after {took:?}");
        Ok(())
    });
}

/// Weave's 290 and 250: all other names are asked of the host's resolvers, whichever of them work.
#[test]
fn other_names_are_asked_of_the_hosts_resolvers() {
    trial(|lab| {
        let (host, container, resolver) = served(lab, &[])?;
        let [one, two] = ["one", "two"].map(|name| lab.host(name));
        let (one, two) = (one?, two?);
        let names = |last: u8| {
            Names::from([
                ("www.example".to_owned(), vec![Ipv4Addr::new(192, 0, 2, last)]),
                ("many.example".to_owned(), (1..=100).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect()),
            ])
        };
        let first = Upstream::start(one.namespace(), one.v4(), names(1))?;
        let conf = |servers: &[&str]| {
            let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
            resolv_conf(lab, &lines).map(drop)
        };
        let (at_one, at_two) = (one.v4().to_string(), two.v4().to_string());
        // Itself first, then one that is not there, then the one that is.
        conf(&[&own(1), "10.77.0.250", &at_one])?;
        let works = |last: &str| {
            wait_for("the host's resolver is asked", 2 * PATIENCE, || {
                resolver.expect("www.example", Rtype::A, &[&format!("192.0.2.{last}")])
            })
        };
        works("1")?;
        // The one that works comes first from now on.
        let (asked, began) = (first.asked(), Instant::now());
        for _ in 0..3 {
            resolver.expect("www.example", Rtype::A, &["192.0.2.1"])?;
        }
        ensure!(first.asked() >= asked + 3 && began.elapsed() < patience(PATIENCE), "{:?}", began.elapsed());
        resolver.expect_none("nobody.example", Rtype::A, "NXDOMAIN")?;
        resolver.expect("mail.example", Rtype::MX, &["10 mx.example."])?;
        resolver.expect("8.8.8.8.in-addr.arpa", Rtype::PTR, &["dns.example."])?;
        ensure!(!resolver.lookup("www.example", Rtype::A)?.authoritative);
        let cut = resolver.by_udp("many.example", Rtype::A, None)?;
        ensure!(cut.truncated && cut.records.len() < 100, "{cut:?}");
        ensure!(resolver.lookup("many.example", Rtype::A)?.records.len() == 100, "by TCP, all of them");
        ensure!(getent(lab, container.namespace(), "nameserver 10.32.1.1", "many.example")?.len() == 100);

        // The file changes: another is asked.
        let second = Upstream::start(two.namespace(), two.v4(), names(2))?;
        conf(&[&at_two])?;
        works("2")?;
        ensure!(weft(&host, "report")?.contains(&format!("{at_two}:53")));
        // The first that works is asked when another ends.
        conf(&[&at_two, &at_one])?;
        works("2")?;
        second.stop()?;
        works("1")?;
        first.stop()?;
        wait_for("nobody answers", 4 * PATIENCE, || resolver.expect_none("www.example", Rtype::A, "SERVFAIL"))?;
        conf(&[])?;
        std::thread::sleep(Duration::from_millis(1200));
        resolver.expect_none("www.example", Rtype::A, "SERVFAIL")?;
        Ok(())
    });
}

/// Weave's 295.
#[test]
fn fifty_addresses_come_whole_in_every_way() {
    trial(|lab| {
        let (host, container, resolver) = served(lab, &[])?;
        let addresses: Vec<String> = (1..=50).map(|last| format!("10.32.2.{last}")).collect();
        weft(&host, &format!("dns-add many {}", addresses.join(" ")))?;
        let expected: Vec<&str> = addresses.iter().map(String::as_str).collect();
        resolver.expect("many", Rtype::A, &expected)?;
        let cut = resolver.by_udp("many.weft.local", Rtype::A, None)?;
        ensure!(cut.truncated && cut.len <= 512, "{cut:?}");
        let cut = resolver.by_udp("many.weft.local", Rtype::A, Some(700))?;
        ensure!(cut.truncated && cut.len > 512 && cut.len <= 700, "{cut:?}");
        let whole = resolver.by_udp("many.weft.local", Rtype::A, Some(4096))?;
        ensure!(!whole.truncated && whole.records.len() == 50, "{whole:?}");
        let whole = resolver.by_tcp("many.weft.local", Rtype::A)?;
        ensure!(!whole.truncated && whole.records.len() == 50, "{whole:?}");
        ensure!(getent(lab, container.namespace(), "nameserver 10.32.1.1", "many.weft.local")?.len() == 50);
        let firsts: Vec<_> = (0..8).map(|_| resolver.by_tcp("many", Rtype::A)).collect::<Result<_>>()?;
        ensure!(firsts.iter().any(|answer| answer.records != firsts[0].records), "in another order each time");
        Ok(())
    });
}

/// Weave's 205, 280; and where it listens.
#[test]
fn it_listens_where_it_is_told_to_and_for_nobody_else() {
    trial(|lab| {
        let host = lab.host("A")?;
        let world = lab.host("world")?;
        host.launch::<&str>(&[])?;
        ensure!(weft(&host, "dns-args")?.is_empty(), "no address yet");
        let container = attached(&host, "c1", 1)?;
        let resolver = |number: usize, from: &Namespace| -> Result<Resolver> {
            Ok(Resolver::new(from, own(number).parse::<Ipv4Addr>()?))
        };
        let inside = resolver(1, container.namespace())?;
        expose(&host, 1)?;
        wait_until("it listens on the new address", PATIENCE, || inside.is_answered())?;
        // Who comes from the underlay is not let in, though there is a route.
        world.namespace().ip(&format!("route add 10.32.0.0/16 via {}\n", host.v4()))?;
        world.ping(own(1).parse::<Ipv4Addr>()?).until_answered(PATIENCE)?;
        ensure!(!resolver(1, world.namespace())?.is_answered()?, "not for the underlay");
        ensure!(resolver(1, host.namespace())?.is_answered()?, "for the host itself");
        // Addresses come and go.
        host.weft(&["expose", &format!("{}/16", own(2))])?.checked()?;
        let second = resolver(2, container.namespace())?;
        wait_until("it listens on the second address", PATIENCE, || second.is_answered())?;
        host.weft(&["hide", &format!("{}/16", own(1))])?.checked()?;
        wait_until("it does not listen on the first any more", PATIENCE, || Ok(!inside.is_answered()?))?;
        ensure!(second.is_answered()?);
        host.stop()?;
        host.launch(&["--no-dns"])?;
        weft(&host, "dns-add web 10.32.0.1")?;
        ensure!(weft(&host, "dns-args")?.is_empty() && !second.is_answered()?);
        ensure!(weft(&host, "status dns")?.contains("web.weft.local"), "others may answer for it");
        host.stop()?;
        host.launch(&[&format!("--dns-listen=127.0.0.1,{}", own(2))])?;
        let local = Resolver::new(host.namespace(), Ipv4Addr::LOCALHOST);
        wait_until("it listens on both", PATIENCE, || Ok(local.is_answered()? && second.is_answered()?))?;
        local.expect("web", Rtype::A, &["10.32.0.1"])?;
        Ok(())
    });
}

#[test]
fn floods_and_garbage_are_survived() {
    trial(|lab| {
        let (host, container, resolver) = served(lab, &[])?;
        weft(&host, "dns-add web 10.32.0.7")?;
        let before = host.resident_kib()?;
        let server = format!("{}:53", own(1));
        let flood = container.namespace().spawn(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            let mut held = Vec::new();
            for number in 0..60_000_u32 {
                let seed = number.wrapping_mul(2_654_435_761);
                let mut bytes: Vec<u8> = (0..seed % 60).map(|i| (seed >> (i % 24)) as u8).collect();
                if number % 3 == 0 {
                    // A question for others, who do not answer.
                    bytes =
                        [&seed.to_be_bytes()[..2], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 1, b'y', 0, 0, 1, 0, 1]]
                            .concat();
                }
                // The kernel may refuse some: that is no matter.
                let _ = socket.send_to(&bytes, &server);
                if number % 1000 == 0
                    && let Ok(stream) = std::net::TcpStream::connect_timeout(&server.parse()?, Duration::from_secs(1))
                {
                    held.push(stream);
                }
            }
            Ok(held.len())
        })?;
        while !flood.is_finished() {
            wait_for("an answer within the flood", PATIENCE, || resolver.expect("web", Rtype::A, &["10.32.0.7"]))?;
        }
        let held = weft_integration::lab::namespace::join(flood)?;
        println!("{held} connections were held open");
        resolver.expect("web", Rtype::A, &["10.32.0.7"])?;
        let grown = host.resident_kib()?.saturating_sub(before);
        ensure!(grown < 64 * 1024, "{grown} KiB");
        let report = host.report()?;
        ensure!(report.counters["dns_answered"] > 0 && report.counters["dns_refused"] > 0, "{:?}", report.counters);
        Ok(())
    });
}

#[test]
fn the_tools_of_this_test_are_there() -> Result<()> {
    Run::new("getent").args(["hosts", "localhost"]).checked().map(drop).context("getent of the C library")
}
