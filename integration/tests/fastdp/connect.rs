//! Acceptance 1: hosts are one switch, whatever carries the frames, and status says what does.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        capture::{Frame, UDP},
        datagram::{Audience, exactly_once},
        host::PORT,
        mesh::{Mesh, station},
        stream::Stream,
        transfer::transfer,
    },
    scenario::{backend::Backend, fabric},
};

use super::capture::{ESP, ICMP, is_ours};

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

/// Out of a NAT, and when it shows another address: what is sealed by ESP crosses it in UDP, as the sleeve does.
pub(crate) fn across_nat(lab: &Lab, backend: Backend) -> Result<()> {
    let a = lab.host("A")?;
    let (n, gateway) = lab.host_behind_nat("N")?;
    let capture = lab.capture()?;
    let mesh = fabric::launched(lab, &[a, n], false, backend, &[])?;
    crossed(&mesh, backend)?;
    gateway.move_to(77)?;
    // What was settled is so no more, which takes a moment to be noticed.
    for (from, to) in mesh.pairs() {
        from.ping(to.v4()?).until_answered(SETTLING)?;
    }
    crossed(&mesh, backend)?;
    expect_in_udp(&capture.stop()?, backend)
}

fn crossed(mesh: &Mesh, backend: Backend) -> Result<()> {
    fabric::wait_settled(mesh, backend, SETTLING)?;
    mesh.all_ping(5)?;
    for (from, to) in mesh.pairs() {
        transfer(from.namespace(), (to.namespace(), to.v4()?.into()), BYTES, PATIENCE)?;
    }
    // A busy machine may let heartbeats wait behind a transfer; what carried it, the capture tells.
    fabric::wait_settled(mesh, backend, SETTLING)?;
    for host in mesh.hosts.iter().filter(|_| backend.is_fast()) {
        let connections = host.connections()?;
        let named = connections.iter().all(|connection| connection.info.starts_with("ESP in UDP"));
        ensure!(named, "{} says by what: {connections:?}", host.name());
    }
    Ok(())
}

/// Whether all that crossed the NAT was of control connections, of the sleeve, or ESP in UDP.
fn expect_in_udp(frames: &[Frame], backend: Backend) -> Result<()> {
    let port = if backend.is_fast() { PORT + 2 } else { PORT };
    let mut carried = 0;
    for frame in frames {
        let packet = frame.packet();
        let on = |port| packet.as_ref().is_some_and(|it| it.ports.is_some_and(|(from, to)| from == port || to == port));
        // With the marker comes a Control packet of the sleeve.
        let in_udp = packet.as_ref().filter(|packet| packet.protocol == UDP && on(PORT + 2)).is_some_and(|packet| {
            matches!(packet.payload, [0, 0, 0, 0, 1..=5, 1, 0, 0, ..]) || !packet.payload.starts_with(&[0; 4])
        });
        // The gateway says that nobody has its old address, or where else to ask for it.
        let moved = packet.as_ref().is_some_and(|it| it.protocol == ICMP && matches!(it.payload, [3, 1, ..] | [5, ..]));
        let is_plain = packet.as_ref().is_some_and(|packet| packet.protocol == ESP);
        ensure!((is_ours(frame) || in_udp || moved) && !is_plain, "it does not belong here: {frame:?}");
        carried += packet.as_ref().filter(|_| on(port)).map_or(0, |packet| packet.payload.len() as u64);
    }
    // Four transfers; a moment of doubt on a busy machine, when the sleeve carries, proves nothing.
    ensure!(carried > 2 * BYTES, "the traffic was seen: {carried} bytes");
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
