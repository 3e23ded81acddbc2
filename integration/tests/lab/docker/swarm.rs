//! A swarm of two engines: the router is the managed plugin that this repository makes, and nothing else runs on the hosts.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use weft_integration::lab::{
    Lab,
    command::Run,
    engine::{self, Engine},
    host::{self, Host},
    wait::wait_for,
};

use super::with_engines;

/// A swarm takes its time to give out tasks.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_swarm_is_on_one_network_by_the_managed_plugin() {
    with_engines("docker: swarm, managed plugin", |lab| {
        let hosts = lab.hosts(["A", "B"])?;
        let plugin = make_plugin(lab)?;
        let secret = hosts[0].weft(&["secret"])?.checked()?;
        let engines: Vec<Result<Engine>> = thread::scope(|scope| {
            let started = hosts.iter().map(|host| scope.spawn(|| Engine::start(host, &[])));
            started.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let engines = engines.into_iter().collect::<Result<Vec<_>>>()?;
        let [a, b] = &engines[..] else { unreachable!("two engines") };
        join(&hosts, a, b)?;
        for (engine, host) in engines.iter().zip(&hosts) {
            enable(engine, host, &plugin, secret.trim())?;
        }
        let network = ["network", "create", "-d", "weft:latest", "--attachable", "--subnet", "10.60.0.0/24", "mesh"];
        a.docker(&network).checked()?;
        a.run("c1", &["--net", "mesh"])?;
        b.run("c2", &["--net", "mesh"])?;
        a.ping("c1", &b.address_of("c2", "mesh")?, PATIENCE)?;
        b.ping("c2", "c1", PATIENCE).context("by the swarm's own names")?;
        services_reach_each_other(a, b)?;
        for engine in &engines {
            engine.docker(&["plugin", "disable", "-f", "weft"]).checked()?;
        }
        Ok(())
    });
}

fn join(hosts: &[Host; 2], a: &Engine, b: &Engine) -> Result<()> {
    let [first, second] = [hosts[0].v4().to_string(), hosts[1].v4().to_string()];
    a.docker(&["swarm", "init", "--advertise-addr", &first]).checked()?;
    let token = a.docker(&["swarm", "join-token", "-q", "worker"]).checked()?;
    let manager = format!("{first}:2377");
    b.docker(&["swarm", "join", "--token", token.trim(), "--advertise-addr", &second, &manager]).checked().map(drop)
}

/// The plugin's directory, as `make docker-plugin` makes it, of the program under test.
fn make_plugin(lab: &Lab) -> Result<std::path::PathBuf> {
    let docker = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?.join("docker");
    let plugin = lab.dir().join("plugin");
    fs::create_dir_all(&plugin)?;
    let programs = ["nft", "iptables", "ip6tables", "busybox"];
    Run::new(docker.join("rootfs.sh")).arg(plugin.join("rootfs")).arg(host::binary()?).args(programs).checked()?;
    fs::copy(docker.join("plugin/config.json"), plugin.join("config.json"))?;
    Ok(plugin)
}

fn enable(engine: &Engine, host: &Host, plugin: &Path, secret: &str) -> Result<()> {
    let plugin = plugin.to_str().context("a path in UTF-8")?;
    engine.docker(&["plugin", "create", "weft", plugin]).checked()?;
    let socket = format!("docker.source={}", engine.socket().display());
    let (password, args) = (format!("WEFT_PASSWORD={secret}"), format!("args=--nickname {}", host.name()));
    engine.docker(&["plugin", "set", "weft", &password, &socket, &args]).checked()?;
    engine.docker(&["plugin", "enable", "weft"]).checked().map(drop)
}

/// The two replicas of a service, one on each host.
fn services_reach_each_other(a: &Engine, b: &Engine) -> Result<()> {
    let create = ["service", "create", "--detach", "--no-resolve-image", "--name", "web", "--network", "mesh"];
    let how = ["--endpoint-mode", "dnsrr", "--replicas", "2", "--replicas-max-per-node", "1", engine::IMAGE];
    a.docker(&create).args(how).args(["sleep", "100000"]).checked()?;
    let task = |engine: &Engine| {
        let ids = engine.docker(&["ps", "-q", "-f", "name=web"]).checked()?;
        let id = ids.trim().to_owned();
        ensure!(!id.is_empty() && !id.contains('\n'), "one task: {ids}");
        Ok((engine.address_of(&id, "mesh")?, id))
    };
    let ((_, here), _) = wait_for("a task on A", PATIENCE, || task(a))?;
    let ((there, _), _) = wait_for("a task on B", PATIENCE, || task(b))?;
    a.ping(&here, &there, PATIENCE)?;
    a.docker(&["service", "rm", "web"]).checked().map(drop)
}
