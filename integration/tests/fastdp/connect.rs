//! Acceptance 1: hosts are one switch, whatever carries the frames, and status says what does.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        datagram::{Audience, exactly_once},
        mesh::station,
        stream::Stream,
        transfer::transfer,
    },
    scenario::{backend::Backend, fabric},
};

const BYTES: u64 = 4_000_000;
const DATAGRAMS: u32 = 20;
/// A stream of datagrams between two.
const PACE: Duration = Duration::from_millis(5);
const SIZE: usize = 1000;
const STREAMED: Duration = Duration::from_millis(300);
const SETTLING: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn two_hosts(lab: &Lab, backend: Backend) -> Result<()> {
    are_one_switch(lab, ["A", "B"], false, backend)
}

pub(crate) fn two_hosts_over_ipv6(lab: &Lab, backend: Backend) -> Result<()> {
    are_one_switch(lab, ["A", "B"], true, backend)
}

pub(crate) fn three_hosts(lab: &Lab, backend: Backend) -> Result<()> {
    are_one_switch(lab, ["A", "B", "C"], false, backend)
}

pub(crate) fn three_hosts_over_ipv6(lab: &Lab, backend: Backend) -> Result<()> {
    are_one_switch(lab, ["A", "B", "C"], true, backend)
}

/// Out of a NAT, which the sleeve crosses; the fast datapath says that it does not.
pub(crate) fn across_nat(lab: &Lab, backend: Backend) -> Result<()> {
    let a = lab.host("A")?;
    let (n, _gateway) = lab.host_behind_nat("N")?;
    let mesh = fabric::launched(lab, &[a, n], false, backend, &[])?;
    fabric::wait_settled(&mesh, Backend::Sleeve, SETTLING)?;
    mesh.all_ping(5)?;
    for (from, to) in mesh.pairs() {
        transfer(from.namespace(), (to.namespace(), to.v4()?.into()), BYTES, PATIENCE)?;
    }
    fabric::expect_carried(&mesh, Backend::Sleeve)?;
    for host in mesh.hosts.iter().filter(|_| backend.is_fast()) {
        let connections = host.connections()?;
        let named = connections.iter().all(|connection| connection.info.contains("a NAT lies between"));
        ensure!(named, "{} says why not by fastdp: {connections:?}", host.name());
    }
    Ok(())
}

fn are_one_switch<const N: usize>(lab: &Lab, names: [&str; N], ipv6: bool, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, names, ipv6, backend)?;
    mesh.all_ping(5)?;
    for (from, to) in mesh.pairs() {
        for inner6 in [false, true] {
            let done = transfer(from.namespace(), (to.namespace(), to.address(inner6)?), BYTES, PATIENCE)?;
            println!("{} to {}: {:.0} Mbit/s", from.namespace().name(), to.namespace().name(), done.rate() / 1e6);
            ensure!(done.bytes == BYTES);
        }
    }
    for (number, one) in mesh.containers.iter().enumerate() {
        for (other, inner6) in mesh.containers[number + 1..].iter().flat_map(|other| [(other, false), (other, true)]) {
            let stream = Stream::start(one, other, inner6, PACE, SIZE)?;
            thread::sleep(STREAMED);
            for flow in stream.stop()? {
                ensure!(flow.lost.is_empty() && flow.duplicates == 0, "each arrives once: {flow:?}");
            }
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
            exactly_once(&station(from)?, &others, audience, DATAGRAMS)?;
        }
    }
    // And it was this that carried them, to the end.
    fabric::expect_carried(&mesh, backend)
}
