//! Acceptance 1: three hosts; all containers ping, a transfer arrives whole, what is for many reaches all, once.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    datagram::{Audience, exactly_once},
    mesh::{Mesh, attached, station},
    transfer::transfer,
    trial::trial,
};

const BYTES: u64 = 20_000_000;
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn three_hosts_are_one_switch() {
    trial(|lab| are_one_switch(lab, false));
}

#[test]
fn three_hosts_are_one_switch_over_ipv6() {
    trial(|lab| are_one_switch(lab, true));
}

fn are_one_switch(lab: &Lab, ipv6: bool) -> Result<()> {
    let mut mesh = Mesh::settled(lab, ["A", "B", "C"], ipv6)?;
    // A second one on A: containers of one host are on the same switch as all others.
    mesh.containers.push(attached(&mesh.hosts[0], "c2", 4)?);
    mesh.all_ping(5)?;
    let [a, _, c, a2] = &mesh.containers[..] else { unreachable!("four containers") };
    for (from, to) in [(a, c), (c, a2), (a, a2)] {
        for inner6 in [false, true] {
            let done = transfer(from.namespace(), (to.namespace(), to.address(inner6)?), BYTES, PATIENCE)?;
            println!("{} to {}: {:.0} Mbit/s", from.namespace().name(), to.namespace().name(), done.rate() / 1e6);
            ensure!(done.bytes == BYTES);
        }
    }
    for audience in [
        Audience::Broadcast([10, 32, 255, 255].into()),
        Audience::Group([239, 7, 7, 7].into()),
        Audience::Group("ff15::77".parse()?),
    ] {
        for from in &mesh.containers {
            let others = mesh.containers.iter().filter(|to| to.namespace() != from.namespace());
            let others = others.map(station).collect::<Result<Vec<_>>>()?;
            exactly_once(&station(from)?, &others, audience, 20)?;
        }
    }
    Ok(())
}
