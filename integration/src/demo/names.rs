//! The chapter of names: containers find each other by them, on whatever host they are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    screen::{step, title},
    story::show,
};
use crate::lab::{
    Lab,
    host::Host,
    mesh::Mesh,
    resolver::with_resolv_conf,
    wait::{wait_for, wait_until},
};

/// For a name to be known everywhere.
const PATIENCE: Duration = Duration::from_secs(10);
const PINGS: u32 = 3;
/// The domain of all names unless told otherwise.
const DOMAIN: &str = "weft.local";

/// Tells it, on the hosts of the first chapter.
pub(super) fn chapter(lab: &Lab, mesh: &Mesh) -> Result<()> {
    title("8. Containers are found by name")?;
    let servers = step("weft expose, on each host: its containers reach its name server there", || {
        let servers = mesh.hosts.iter().map(server).collect::<Result<Vec<_>>>()?;
        let seen = servers.join(", ");
        Ok((servers, seen))
    })?;
    let names = ["web", "app", "db"];
    for (container, name) in mesh.containers.iter().zip(names) {
        let host = container.host();
        step(&format!("{}# weft dns-add {} {name}", host.name(), container.name()), || {
            host.weft(&["dns-add", container.namespace().name(), name])?.checked()?;
            Ok(((), format!("{name}.{DOMAIN}")))
        })?;
    }
    for ((from, server), found) in mesh.containers.iter().zip(&servers).zip([[1, 2], [2, 0], [0, 1]]) {
        let conf = format!("search {DOMAIN}\nnameserver {server}\n");
        for index in found {
            let (name, address) = (names[index], mesh.containers[index].v4()?.to_string());
            step(&format!("The container on {} looks for {name} and pings it", from.host().name()), || {
                let run = |script: &str| with_resolv_conf(from.namespace(), lab.dir(), &conf, script)?.checked();
                let (found, _) = wait_for(&format!("{name} is found"), PATIENCE, || {
                    let found = run(&format!("getent ahostsv4 {name}"))?;
                    ensure!(found.starts_with(&address), "not {address}: {found}");
                    Ok(address.clone())
                })?;
                let answers = run(&format!("ping -4 -c {PINGS} -i 0.2 {name}"))?;
                ensure!(answers.contains(&format!("{PINGS} received")), "{answers}");
                Ok(((), format!("{found}, {PINGS} of {PINGS} answered")))
            })?;
        }
    }
    show(&mesh.hosts[0], &["status", "dns"])
}

/// Gives a host an address on the network, where its router answers for names; that address.
fn server(host: &Host) -> Result<String> {
    let given = host.weft(&["expose"])?.checked()?;
    let net = given.split_whitespace().find(|word| word.contains('.')).context("an IPv4 address")?;
    let address = net.split('/').next().unwrap_or(net).to_owned();
    wait_until("the router tells containers where to ask", PATIENCE, || {
        Ok(host.weft(&["dns-args"])?.output()?.stdout.contains(&address))
    })?;
    Ok(address)
}
