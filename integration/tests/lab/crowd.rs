//! Acceptance 10: twenty hosts settle quickly, forty soon after, and an idle router costs little.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weft_integration::lab::{
    Lab,
    host::{Host, UNDERLAY},
    mesh::{Mesh, launch_all, password_file},
    trial::trial_alone,
    wait::wait_for,
};

/// For all paths to be direct: what seems slow while all start at once on one machine may go by others at first.
const DIRECT: Duration = Duration::from_secs(30);
/// After the start, until routers are idle.
const CALM: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn twenty_hosts_settle_and_idle() {
    trial_alone(|lab| {
        let mesh = settled(lab, 20, Duration::from_secs(10))?;
        let direct = mesh.wait_settled(DIRECT)?;
        println!("all paths direct after another {direct:?}");
        expect_idle(&mesh)
    });
}

/// So many on two cores keep each other waiting, and paths by relay may be faster: none of them need be direct.
#[test]
fn forty_hosts_settle_and_idle() {
    trial_alone(|lab| {
        let mesh = settled(lab, 40, Duration::from_secs(15))?;
        thread::sleep(CALM);
        expect_idle(&mesh)
    });
}

/// So many hosts, whose routers know each other within `promised` of the start of the last.
fn settled(lab: &Lab, crowd: usize, promised: Duration) -> Result<Mesh> {
    let hosts = (1..=crowd).map(|number| lab.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
    know_neighbours(&hosts)?;
    let password = format!("--password-file={}", password_file(lab, &hosts[0], "secret")?.display());
    let first = hosts[0].v4().to_string();
    let started = Instant::now();
    launch_all(&hosts, |host| {
        let peer = if host.name() == "h1" { None } else { Some(first.clone()) };
        [password.clone()].into_iter().chain(peer).collect()
    })?;
    let launched = started.elapsed();
    let mesh = Mesh { hosts, containers: Vec::new() };
    let (_, settled) = wait_for("all know all and have paths", promised, || expect_settled(&mesh))?;
    println!("{crowd} hosts: launched in {launched:?}, settled {settled:?} later");
    Ok(mesh)
}

fn expect_idle(mesh: &Mesh) -> Result<()> {
    let before = mesh.hosts.iter().map(Host::cpu_time).collect::<Result<Vec<_>>>()?;
    thread::sleep(WATCHED);
    let after = mesh.hosts.iter().map(Host::cpu_time).collect::<Result<Vec<_>>>()?;
    let used = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before).as_secs_f64());
    let crowd = mesh.hosts.len();
    let share = used.sum::<f64>() / crowd as f64 / WATCHED.as_secs_f64();
    let resident = mesh.hosts.iter().map(Host::resident_kib).collect::<Result<Vec<_>>>()?;
    let largest = resident.iter().max().context("hosts")?;
    println!("an idle router of {crowd}: {:.2} % of a core, {largest} KiB resident at most", share * 100.0);
    ensure!(share < 0.1 && *largest < 256 * 1024, "an idle router is idle");
    Ok(())
}

/// Tells each host the others' Ethernet addresses. All namespaces share one table of neighbours, which takes 1024 learned ones for each
/// protocol (Documentation/networking/ip-sysctl.rst, `gc_thresh3`), as for one host; those told by hand do not count.
fn know_neighbours(hosts: &[Host]) -> Result<()> {
    let mut lines = String::new();
    for host in hosts {
        let mac = host.namespace().run("cat").arg(format!("/sys/class/net/{UNDERLAY}/address")).checked()?;
        for address in [host.address(false), host.address(true)] {
            lines += &format!("neigh replace {address} lladdr {} dev {UNDERLAY} nud permanent\n", mac.trim());
        }
    }
    hosts.iter().try_for_each(|host| host.namespace().ip(&lines))
}

/// Whether every router knows all others and has a path to each.
fn expect_settled(mesh: &Mesh) -> Result<()> {
    mesh.hosts.iter().try_for_each(|host| {
        let report = host.report()?;
        let paths = report.paths.iter().filter(|path| path.path != "none").count();
        let (counts, all) = ((report.peers.len(), paths), mesh.hosts.len());
        ensure!(counts == (all, all - 1), "{}: peers, paths {counts:?}", host.name());
        Ok(())
    })
}
