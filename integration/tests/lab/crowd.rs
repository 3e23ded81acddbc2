//! Acceptance 10: twenty hosts settle quickly, forty soon after, and an idle router costs little.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weft::api::ConnectionState;
use weft_integration::lab::{
    host::Host,
    mesh::{Mesh, launch_all, password_file},
    trial::trial_alone,
    wait::wait_for,
};

const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn twenty_hosts_settle_and_idle() {
    settle_and_idle(20, Duration::from_secs(10));
}

#[test]
fn forty_hosts_settle_and_idle() {
    settle_and_idle(40, Duration::from_secs(15));
}

/// So many routers are settled within `promised` of the start of the last.
fn settle_and_idle(crowd: usize, promised: Duration) {
    trial_alone(|lab| {
        let hosts = (1..=crowd).map(|number| lab.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
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
        let direct = mesh.wait_settled(Duration::from_secs(30))?;
        println!("all paths direct after another {direct:?}");

        let before = mesh.hosts.iter().map(Host::cpu_time).collect::<Result<Vec<_>>>()?;
        thread::sleep(WATCHED);
        let after = mesh.hosts.iter().map(Host::cpu_time).collect::<Result<Vec<_>>>()?;
        let used = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before).as_secs_f64());
        let share = used.sum::<f64>() / crowd as f64 / WATCHED.as_secs_f64();
        let resident = mesh.hosts.iter().map(Host::resident_kib).collect::<Result<Vec<_>>>()?;
        let largest = resident.iter().max().context("hosts")?;
        println!("an idle router of {crowd}: {:.2} % of a core, {largest} KiB resident at most", share * 100.0);
        ensure!(share < 0.1 && *largest < 256 * 1024, "an idle router is idle");
        Ok(())
    });
}

/// Whether every router is connected with all others and has a path to each.
fn expect_settled(mesh: &Mesh) -> Result<()> {
    mesh.hosts.iter().try_for_each(|host| {
        let report = host.report()?;
        let established = report.connections.iter().filter(|c| c.state == ConnectionState::Established).count();
        let paths = report.paths.iter().filter(|path| path.path != "none").count();
        let counts = (report.peers.len(), established, paths);
        let all = mesh.hosts.len();
        ensure!(counts == (all, all - 1, all - 1), "{}: peers, connections, paths {counts:?}", host.name());
        Ok(())
    })
}
