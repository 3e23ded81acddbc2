//! Two engines with the network's own addresses and names: nobody types an address, and containers find each other by name.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use domain::base::Rtype;
use weft_integration::lab::{
    engine::{self, Engine},
    host::Host,
    resolver::Resolver,
    wait::wait_for,
};

use super::{PATIENCE, Site, sites, with_engines};

/// Addresses and names of what was removed are gone at once, which takes a fraction of a second: far less than the 30 s for which one is
/// kept that may come back.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn containers_have_addresses_and_names_of_the_network() {
    with_engines("docker: addresses and names", |lab| {
        let [a, b] = sites(lab, ["A", "B"], &["--live-restore"])?;
        let [at_a, at_b] = [a.served()?, b.served()?];
        made_where_the_host_has_an_address(&b)?;
        a.engine.run("ann", &strs(&at_a.options, &["--net-alias", "alias"]))?;
        b.engine.run("bob", &strs(&at_b.options, &[]))?;
        let [of_a, of_b] = [a.engine.address_of("ann", "weft")?, b.engine.address_of("bob", "weft")?];
        ensure!(of_a != of_b && of_a.starts_with("10."), "{of_a} {of_b}");
        a.engine.ping("ann", &of_b, PATIENCE)?;
        for name in ["ann", "alias", "ann.weft.local"] {
            found(&[(&at_a, &a), (&at_b, &b)], name, &of_a)?;
            b.engine.ping("bob", name, PATIENCE).context("by name, from the other host")?;
        }
        let said = b.engine.exec("bob", &["nslookup", "ann.weft.local"]).checked()?;
        ensure!(said.contains(&of_a), "{said}");

        own_subnet([&a, &b], &at_b)?;
        names_by_hand([&a, &b], &at_b, &of_a)?;
        plugged_in_by_hand([&a, &b], &at_b)?;
        restarts([&a, &b], &at_b, &of_a)?;

        a.engine.docker(&["rm", "-f", "ann"]).checked()?;
        lost(&at_b, "ann")?;
        lost(&at_b, "alias")
    });
}

/// What containers of a host need, and where its names are asked for.
struct Served {
    /// For `docker run`.
    options: Vec<String>,
    resolver: Resolver,
}

impl Site {
    /// Once the engine's network is there and names are answered.
    fn served(&self) -> Result<Served> {
        let own: Ipv4Addr = self.host.weft(&["expose"])?.checked()?.trim().parse()?;
        let resolver = Resolver::new(self.host.namespace(), own);
        wait_for("the network is made", PATIENCE, || self.engine.inspect("weft", "{{.Driver}}"))?;
        let (args, _) = wait_for("names are answered", PATIENCE, || {
            let args = self.host.weft(&["dns-args"])?.checked()?;
            ensure!(args.contains(&own.to_string()), "{args}");
            Ok(args)
        })?;
        let options = ["--net", "weft"].into_iter().chain(args.split_whitespace()).map(str::to_owned).collect();
        Ok(Served { options, resolver })
    }
}

fn strs<'a>(options: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    options.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// Until a name leads to an address on these hosts, by their name servers and by the command.
fn found(sites: &[(&Served, &Site)], name: &str, address: &str) -> Result<()> {
    for (served, site) in sites {
        wait_for(&format!("{} finds {name}", site.host.name()), PATIENCE, || {
            served.resolver.expect(name, Rtype::A, &[address])
        })?;
        let said = site.host.weft(&["dns-lookup", name])?.checked()?;
        ensure!(said.trim() == address, "{name}: {said}");
    }
    Ok(())
}

fn lost(served: &Served, name: &str) -> Result<()> {
    wait_for(&format!("{name} is gone"), AT_ONCE, || served.resolver.expect_none(name, Rtype::A, "NXDOMAIN")).map(drop)
}

/// Docker does not choose a subnet in which the host has an address: it has to be named, also by a router that finds itself on such a host.
fn made_where_the_host_has_an_address(site: &Site) -> Result<()> {
    site.engine.docker(&["network", "rm", "weft"]).checked()?;
    site.host.stop()?;
    site.host.relaunch()?;
    wait_for("the network is made again", PATIENCE, || site.engine.inspect("weft", "{{.Driver}}"))?;
    let create = ["network", "create", "-d", "weft", "--ipam-driver", "weft", "back"];
    let said = site.engine.docker(&create).output()?.refused()?;
    ensure!(said.contains("--subnet 10.32.0.0/12"), "{said}");
    site.engine.docker(&create).args(["--subnet", "10.32.0.0/12"]).checked()?;
    site.engine.docker(&["network", "rm", "back"]).checked().map(drop)
}

/// A subnet that is asked for, and addresses in it; what is removed is to be had elsewhere at once.
fn own_subnet([a, b]: [&Site; 2], at_b: &Served) -> Result<()> {
    let shop = ["--ipam-driver", "weft", "--subnet", "10.32.7.0/24"];
    a.network("shop", &shop)?;
    b.network("shop", &shop)?;
    a.engine.run("till", &["--net", "shop", "--ip", "10.32.7.10"])?;
    b.engine.run("customer", &["--net", "shop"])?;
    let address = b.engine.address_of("customer", "shop")?;
    ensure!(address.starts_with("10.32.7.") && address != "10.32.7.10", "{address}");
    b.engine.ping("customer", "10.32.7.10", PATIENCE)?;
    let taken = ["run", "-d", "--name", "second", "--net", "shop", "--ip", "10.32.7.10", engine::IMAGE, "sleep", "9"];
    let said = b.engine.docker(&taken).output()?.refused()?;
    ensure!(said.contains("10.32.7.10 is taken"), "{said}");
    b.engine.docker(&["rm", "-f", "second"]).checked()?;
    found(&[(at_b, b)], "till", "10.32.7.10")?;

    a.engine.docker(&["rm", "-f", "till"]).checked()?;
    lost(at_b, "till")?;
    let (_, took) = wait_for("the address is free", AT_ONCE, || {
        b.engine.docker(&["rm", "-f", "second"]).checked()?;
        b.engine.run("second", &["--net", "shop", "--ip", "10.32.7.10"])
    })?;
    println!("the address of a removed container was had on another host after {took:?}");
    b.engine.docker(&["rm", "-f", "second", "customer"]).checked().map(drop)
}

/// `weft dns-add` and `dns-remove` with containers by what Docker calls them.
fn names_by_hand([a, b]: [&Site; 2], at_b: &Served, of_a: &str) -> Result<()> {
    let id = a.engine.inspect("ann", "{{.Id}}")?;
    a.host.weft(&["dns-add", "ann", "nick"])?.checked()?;
    a.host.weft(&["dns-add", &id[..12], "other"])?.checked()?;
    for name in ["nick", "other"] {
        found(&[(at_b, b)], name, of_a)?;
    }
    a.host.weft(&["dns-remove", "ann", "other"])?.checked()?;
    lost(at_b, "other")?;
    // Called otherwise, it is found by its new name, and by those that were given by hand.
    a.engine.docker(&["rename", "ann", "anew"]).checked()?;
    found(&[(at_b, b)], "anew", of_a)?;
    lost(at_b, "ann")?;
    found(&[(at_b, b)], "nick", of_a)?;
    a.engine.docker(&["rename", "anew", "ann"]).checked()?;
    found(&[(at_b, b)], "ann", of_a)?;
    a.host.weft(&["dns-remove", "--all", "nobody-is-called-so"])?.checked()?;
    a.host.weft(&["dns-remove", "ann", "nick"])?.checked()?;
    lost(at_b, "nick")
}

/// A container that Docker does not put on the network: its name, its address, and what a restart leaves of them.
fn plugged_in_by_hand([a, b]: [&Site; 2], at_b: &Served) -> Result<()> {
    let id = a.engine.run("plain", &["--net", "none"])?;
    let attach = |more: &[&str]| -> Result<String> {
        Ok(a.host.weft(&["attach"])?.args(more).arg(&id[..12]).checked()?.trim().to_owned())
    };
    let address = attach(&["--name", "friend"])?;
    let listed: Vec<String> = a.host.ps()?.into_iter().map(|line| line.container).collect();
    ensure!(listed.contains(&"plain".to_owned()), "{listed:?}");
    found(&[(at_b, b)], "friend", &address)?;
    a.host.weft(&["dns-add", "plain", "pal"])?.checked()?;
    found(&[(at_b, b)], "pal", &address)?;

    a.engine.docker(&["restart", "-t", "0", "plain"]).checked()?;
    wait_for("its names are gone", PATIENCE, || at_b.resolver.expect_none("pal", Rtype::A, "NXDOMAIN"))?;
    let again = attach(&[])?;
    ensure!(again == address, "{again} is not {address}");
    b.engine.ping("bob", &address, PATIENCE)?;
    a.engine.docker(&["stop", "-t", "0", "plain"]).checked()?;
    a.host.weft(&["detach", "plain"])?.checked()?;
    a.engine.docker(&["rm", "-f", "plain"]).checked().map(drop)
}

/// Routers and engines that are replaced: what was there goes on, and what comes is found.
fn restarts([a, b]: [&Site; 2], at_b: &Served, of_a: &str) -> Result<()> {
    let mut late = 0;
    let mut check = |what: &str| -> Result<()> {
        b.engine.ping("bob", of_a, PATIENCE).with_context(|| what.to_owned())?;
        found(&[(at_b, b)], "ann", of_a).with_context(|| what.to_owned())?;
        found(&[(at_b, b)], "alias", of_a)?;
        late += 1;
        let name = format!("late{late}");
        wait_for("there are more containers", PATIENCE, || {
            a.engine.docker(&["rm", "-f", &name]).checked()?;
            a.engine.run(&name, &["--net", "weft"])
        })?;
        let address = a.engine.address_of(&name, "weft")?;
        ensure!(address != of_a, "{address}");
        found(&[(at_b, b)], &name, &address).with_context(|| what.to_owned())
    };
    for (what, end) in [("stopped router", Host::stop as fn(&Host) -> Result<()>), ("killed router", Host::kill9)] {
        end(&a.host)?;
        a.host.relaunch()?;
        check(what)?;
    }
    for (what, end) in [("stopped engine", Engine::stop as fn(&Engine) -> Result<()>), ("killed engine", Engine::kill9)]
    {
        end(&a.engine)?;
        a.engine.launch()?;
        check(what)?;
    }
    let names = ["late1", "late2", "late3", "late4"];
    a.engine.docker(&["rm", "-f"]).args(names).checked()?;
    names.iter().try_for_each(|name| lost(at_b, name))
}
