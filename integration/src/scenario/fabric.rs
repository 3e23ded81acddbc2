//! A mesh over a backend, and whether its routers say that this is what carries their frames.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft::api::{ConnectionState, Report};

use super::backend::Backend;
use crate::lab::{
    Lab,
    host::Host,
    mesh::{Mesh, launch_all, password_file},
    wait::wait_for,
};

/// For all paths to be direct and carried as they should: a few seconds of proof after the mesh has settled.
const SETTLING: Duration = Duration::from_secs(30);

/// What a router is launched with for a backend, its peers aside. The first call makes the network's secret.
pub fn launch_args(lab: &Lab, host: &Host, backend: Backend) -> Result<Vec<String>> {
    let mut args: Vec<String> = backend.launch_args().iter().map(|arg| (*arg).to_owned()).collect();
    if backend.encrypted() {
        let path = lab.dir().join("secret");
        if !path.exists() {
            password_file(lab, host, "secret")?;
        }
        args.push(format!("--password-file={}", path.display()));
    }
    Ok(args)
}

/// Launches a router on each of these hosts, all given the first as peer, with a container on each.
pub fn launched(lab: &Lab, hosts: &[Host], ipv6: bool, backend: Backend, more: &[&str]) -> Result<Mesh> {
    let [first, ..] = hosts else { anyhow::bail!("no hosts") };
    let mut args = launch_args(lab, first, backend)?;
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let peer = first.address(ipv6).to_string();
    launch_all(hosts, |host| {
        let mut args = args.clone();
        args.extend((host.name() != first.name()).then(|| peer.clone()));
        args
    })?;
    Mesh::of(hosts.to_vec())
}

/// One host for each name, with a router and a container; all frames go by `backend` when this returns. With `ipv6` the
/// underlay has no IPv4.
pub fn settled<const N: usize>(lab: &Lab, names: [&str; N], ipv6: bool, backend: Backend) -> Result<Mesh> {
    let hosts = lab.hosts(names)?;
    if ipv6 {
        hosts.iter().try_for_each(Host::drop_ipv4)?;
    }
    let mesh = launched(lab, &hosts, ipv6, backend, &[])?;
    wait_settled(&mesh, backend, SETTLING)?;
    Ok(mesh)
}

/// Waits until [`expect_carried`].
pub fn wait_settled(mesh: &Mesh, backend: Backend, deadline: Duration) -> Result<Duration> {
    wait_for("all paths are direct, by the backend", deadline, || expect_carried(mesh, backend)).map(|(_, took)| took)
}

/// Whether every router has a direct path to every other, by the backend's method and encryption, with an MTU.
pub fn expect_carried(mesh: &Mesh, backend: Backend) -> Result<()> {
    for host in &mesh.hosts {
        // One question for both: where programs start slowly the answers to two would be of different times.
        let Report { paths, connections, .. } = host.report()?;
        mesh.all_direct(host, &paths)?;
        for path in paths {
            let well = path.method == backend.method() && path.mtu.is_some();
            ensure!(well, "{}'s path should be by {}: {path:?}", host.name(), backend.method());
        }
        for connection in connections.iter().filter(|it| it.state == ConnectionState::Established) {
            let well = connection.method == backend.method()
                && connection.encrypted == backend.encrypted()
                && connection.mtu.is_some();
            ensure!(well, "{}'s connection over {backend:?}: {connection:?}", host.name());
        }
    }
    Ok(())
}

/// Waits until the path from one host to another is direct, by a method.
pub fn wait_method(host: &Host, nickname: &str, method: &str, deadline: Duration) -> Result<Duration> {
    let look = || {
        let path = host.path_to(nickname)?;
        ensure!(path.path == "direct" && path.method == method, "by {}: {path:?}", path.method);
        Ok(())
    };
    wait_for(&format!("the path from {} to {nickname} is direct, by {method}", host.name()), deadline, look)
        .map(|(_, took)| took)
}
