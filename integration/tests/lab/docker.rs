//! Containers of Docker: real engines, each with a router beside it, driven by `docker` and `weft` alone.

mod names;
mod swarm;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        engine::{self, Engine},
        host::Host,
        mesh::password_file,
        wait::{wait_for, wait_until},
    },
    scenario::callers::with_callers,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A host with an engine and a router.
struct Site {
    host: Host,
    engine: Engine,
}

fn with_engines(row: &str, scene: impl FnOnce(&Lab) -> Result<()>) {
    with_callers(row, engine::missing(), scene);
}

/// Hosts with engines and routers that know each other.
fn sites<const N: usize>(lab: &Lab, names: [&str; N], engine_args: &[&str]) -> Result<[Site; N]> {
    let hosts = lab.hosts(names)?;
    let password = format!("--password-file={}", password_file(lab, &hosts[0], "secret")?.display());
    let first = hosts[0].v4().to_string();
    let start = |host: Host| -> Result<Site> {
        let engine = Engine::start(&host, engine_args)?;
        let flag = engine.flag();
        let mut args = vec![password.as_str(), &flag];
        if host.name() != names[0] {
            args.push(&first);
        }
        host.launch(&args)?;
        let plugin = engine.plugins().join("weft.sock");
        wait_until("the plugin listens", PATIENCE, || Ok(plugin.exists()))?;
        Ok(Site { host, engine })
    };
    // Engines take their time: all at once.
    let started: Vec<Result<Site>> = std::thread::scope(|scope| {
        let threads: Vec<_> = hosts.into_iter().map(|host| scope.spawn(|| start(host))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sites = started.into_iter().collect::<Result<Vec<_>>>()?;
    <[Site; N]>::try_from(sites).map_err(|_| anyhow::anyhow!("one site for each name"))
}

impl Site {
    /// A network whose addresses Docker chooses.
    fn network(&self, name: &str, options: &[&str]) -> Result<()> {
        self.engine.docker(&["network", "create", "-d", "weft"]).args(options).arg(name).checked().map(drop)
    }
}

#[test]
fn containers_of_two_engines_are_on_one_network() {
    with_engines("docker: two engines", |lab| {
        let [a, b] = sites(lab, ["A", "B"], &["--live-restore"])?;
        for (site, range) in [(&a, "10.32.5.0/25"), (&b, "10.32.5.128/25")] {
            site.network("n1", &["--subnet", "10.32.5.0/24", "--ip-range", range])?;
        }
        a.engine.run("c1", &["--net", "n1", "--ip", "10.32.5.10"])?;
        b.engine.run("c2", &["--net", "n1", "--net-alias", "other"])?;
        let there = b.engine.address_of("c2", "n1")?;
        a.engine.ping("c1", &there, PATIENCE)?;
        b.engine.ping("c2", "10.32.5.10", PATIENCE)?;

        looks_as_promised(&a)?;
        docker_knows_containers_by_name(&a)?;
        same_addresses_elsewhere_are_refused(&b)?;
        restarts_leave_connections_alone(&a, &b, &there)?;

        // What is removed is gone at once.
        a.engine.docker(&["rm", "-f", "c1"]).checked()?;
        ensure!(!a.host.ps()?.iter().any(|line| line.container.starts_with("docker:")), "{:?}", a.host.ps()?);
        a.engine.run("c3", &["--net", "n1", "--ip", "10.32.5.10"])?;
        b.engine.ping("c2", "10.32.5.10", PATIENCE)?;
        a.engine.docker(&["rm", "-f", "c3"]).checked()?;
        a.engine.docker(&["network", "rm", "n1"]).checked()?;

        let filter = || a.host.namespace().run("iptables").args(["-S", "FORWARD"]).checked();
        ensure!(filter()?.contains("-i weft -o weft -j ACCEPT"), "{}", filter()?);
        a.host.weft(&["reset"])?.checked()?;
        ensure!(!filter()?.contains("weft"), "{}", filter()?);
        Ok(())
    });
}

/// The device, its name, its routes, and the way out.
fn looks_as_promised(site: &Site) -> Result<()> {
    let show = |command: &[&str]| site.engine.exec("c1", command).checked();
    let device = show(&["ip", "-o", "addr", "show", "ethwe0"])?;
    ensure!(device.contains("10.32.5.10/24"), "{device}");
    ensure!(show(&["ip", "link", "show", "ethwe0"])?.contains("mtu 1340"));
    let routes = show(&["ip", "route"])?;
    ensure!(routes.contains("224.0.0.0/4 dev ethwe0") && routes.contains("default via"), "{routes}");
    ensure!(!routes.contains("default via 10.32"), "the way out is Docker's own: {routes}");
    let mac: String = site.engine.inspected("c1", "{{json (index .NetworkSettings.Networks \"n1\").MacAddress}}")?;
    let listed = site.host.ps()?;
    let line = listed.iter().find(|line| line.container.starts_with("docker:")).context("it is listed")?;
    ensure!(line.mac.to_string() == mac && line.addresses == ["10.32.5.10/24".parse()?], "{line:?}");

    site.network("quiet", &["--subnet", "10.32.6.0/24", "-o", "works.weft.multicast=false", "--internal"])?;
    site.engine.run("silent", &["--net", "quiet"])?;
    let routes = site.engine.exec("silent", &["ip", "route"]).checked()?;
    ensure!(!routes.contains("224.0.0.0/4") && !routes.contains("default"), "{routes}");
    site.engine.docker(&["rm", "-f", "silent"]).checked()?;
    site.engine.docker(&["network", "rm", "quiet"]).checked().map(drop)
}

/// `weft attach`, `ps` and `detach` take what Docker calls a container.
fn docker_knows_containers_by_name(site: &Site) -> Result<()> {
    let id = site.engine.run("plain", &["--net", "none"])?;
    site.host.weft(&["attach", "10.32.7.1/24", "plain"])?.checked()?;
    ensure!(site.engine.exec("plain", &["ip", "-o", "addr", "show", "ethwe"]).checked()?.contains("10.32.7.1/24"));
    for name in ["plain", &id[..12], &id] {
        let listed = site.host.weft(&["ps", name])?.checked()?;
        ensure!(listed.contains("10.32.7.1/24") && listed.lines().count() == 1, "{name}: {listed}");
    }
    let listed = site.host.weft(&["ps", "c1"])?.checked()?;
    ensure!(listed.contains("10.32.5.10/24") && listed.lines().count() == 1, "{listed}");
    site.host.weft(&["detach", &id[..12]])?.checked()?;
    ensure!(site.host.weft(&["ps", "plain"])?.checked()?.is_empty());
    site.engine.docker(&["stop", "-t", "0", "plain"]).checked()?;
    let said = site.host.weft(&["attach", "10.32.7.1/24", "plain"])?.output()?.refused()?;
    ensure!(said.contains("not running") && said.contains("docker start"), "{said}");
    let said = site.host.weft(&["attach", "10.32.7.1/24", "no-such-thing"])?.output()?.refused()?;
    ensure!(said.contains("no-such-thing"), "{said}");
    site.engine.docker(&["rm", "-f", "plain"]).checked().map(drop)
}

/// Engines that choose by themselves do not get two containers of one address.
fn same_addresses_elsewhere_are_refused(site: &Site) -> Result<()> {
    wait_for("the other host's container is known here", PATIENCE, || {
        let known = site.host.endpoints()?;
        ensure!(known.iter().any(|line| line.addresses.contains(&[10, 32, 5, 10].into())), "{known:?}");
        Ok(())
    })?;
    let run = site.engine.docker(&["run", "-d", "--name", "double", "--net", "n1", "--ip", "10.32.5.10"]);
    let said = run.args([engine::IMAGE, "sleep", "9"]).output()?.refused()?;
    ensure!(said.contains("10.32.5.10 is in use on A") || said.contains("10.32.5.10 is taken"), "{said}");
    site.engine.docker(&["rm", "-f", "double"]).checked().map(drop)
}

/// Containers keep their network over restarts of the router and of the engine, stopped or killed.
fn restarts_leave_connections_alone(a: &Site, b: &Site, there: &str) -> Result<()> {
    let before = a.host.ps()?;
    for end in [Host::stop, Host::kill9] {
        end(&a.host)?;
        a.host.relaunch()?;
        a.engine.ping("c1", there, PATIENCE)?;
    }
    for end in [Engine::stop, Engine::kill9] {
        end(&a.engine)?;
        b.engine.ping("c2", "10.32.5.10", PATIENCE)?;
        a.engine.launch()?;
        a.engine.ping("c1", there, PATIENCE)?;
    }
    ensure!(a.host.ps()? == before, "{:?} {before:?}", a.host.ps()?);
    // A container that is started again is where its neighbours remember it.
    a.engine.docker(&["restart", "-t", "0", "c1"]).checked()?;
    a.engine.ping("c1", there, PATIENCE)
}
