//! Acceptance 2: with a secret the underlay never sees a clear packet; and what is somebody else's stays as it is.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        capture::{Frame, TCP, UDP},
        cut::Cut,
        host::PORT,
        mesh::{Mesh, attached},
        remains::{Remains, place_foreign},
        transfer::{MARKER, transfer},
        trial::Skipped,
    },
    scenario::{backend::Backend, fabric},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// After a switch of method, or a restart.
const RETURN: Duration = Duration::from_secs(40);
const BYTES: u64 = 1_000_000;
/// IP protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const ESP: u8 = 50;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ARP: u16 = 0x0806;

pub(crate) fn nothing_in_clear(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["alpha", "bravo", "carol"])?;
    let capture = lab.capture()?;
    let mesh = fabric::launched(lab, &hosts, false, backend, &[])?;
    // From the first moment on, whether they have settled or not.
    let early = mesh.containers[0].ping(mesh.containers[1].v4()?).interval(Duration::from_millis(20)).start()?;
    fabric::wait_settled(&mesh, backend, RETURN)?;
    carry(&mesh)?;
    early.stop()?;

    let cut = lab.cut(&Cut::between("alpha", "bravo").fastdp())?;
    fabric::wait_method(&mesh.hosts[0], "bravo", "sleeve", PATIENCE)?;
    carry(&mesh)?;
    cut.heal()?;
    fabric::wait_settled(&mesh, backend, RETURN)?;

    let others = mesh.containers[1].ping(mesh.containers[0].v4()?).interval(Duration::from_millis(20)).start()?;
    mesh.hosts[0].kill9()?;
    std::thread::sleep(Duration::from_secs(1));
    mesh.hosts[0].relaunch()?;
    fabric::wait_settled(&mesh, backend, RETURN)?;
    carry(&mesh)?;
    mesh.hosts[1].weft(&["reset"])?.checked()?;
    std::thread::sleep(Duration::from_secs(1));
    others.stop()?;
    expect_sealed(&mesh, &capture.stop()?, backend)
}

fn carry(mesh: &Mesh) -> Result<()> {
    let [a, b, c] = &mesh.containers[..] else { anyhow::bail!("three containers") };
    for (from, to) in [(a, b), (b, c), (c, a)] {
        transfer(from.namespace(), (to.namespace(), to.v4()?.into()), BYTES, PATIENCE)?;
    }
    Ok(())
}

fn expect_sealed(mesh: &Mesh, frames: &[Frame], backend: Backend) -> Result<()> {
    let mut secrets = vec![MARKER.to_vec()];
    for container in &mesh.containers {
        secrets.push(container.v6()?.octets().to_vec());
    }
    let carries = if backend.is_fast() { ESP } else { UDP };
    let sealed = frames.iter().filter_map(Frame::packet).filter(|packet| packet.protocol == carries);
    let sealed: u64 = sealed.map(|packet| packet.payload.len() as u64).sum();
    ensure!(sealed > 3 * BYTES, "the traffic was seen: {sealed} bytes");
    for frame in frames {
        for secret in &secrets {
            ensure!(!frame.contains(secret), "{} in {frame:?}", String::from_utf8_lossy(secret));
        }
        ensure!(is_ours(frame), "neither control connection, nor sleeve, nor ESP: {frame:?}");
    }
    Ok(())
}

/// Whether a frame is of a control connection, of the sleeve, sealed by ESP, or finds neighbours.
pub(crate) fn is_ours(frame: &Frame) -> bool {
    let Some(packet) = frame.packet() else { return frame.ethertype() == Some(ARP) };
    let on_port = packet.ports.is_some_and(|(from, to)| from == PORT || to == PORT);
    match packet.protocol {
        TCP => on_port,
        // Type, version, two zeros: the start of every sleeve packet.
        UDP => on_port && matches!(packet.payload, [1..=5, 1, 0, 0, ..]),
        ESP => true,
        ICMP => packet.payload.starts_with(&[3, 3]),
        ICMPV6 => packet.payload.starts_with(&[1, 4]) || matches!(packet.payload.first(), Some(133..=136)),
        HOP_BY_HOP => packet.payload.first() == Some(&ICMPV6),
        _ => false,
    }
}

pub(crate) fn reset_leaves_others_alone(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["A", "B"])?;
    let refused = place_foreign(&hosts[0], &hosts[1])?;
    let before = Remains::of(hosts[0].namespace())?;
    let mesh = fabric::launched(lab, &hosts, false, backend, &[])?;
    fabric::wait_settled(&mesh, backend, RETURN)?;
    mesh.all_ping(3)?;
    ensure!(!Remains::of(hosts[0].namespace())?.beyond(&before).is_empty(), "a router does something");
    // Once by a running router, once after a killed one.
    for kill in [false, true] {
        if kill {
            hosts[0].kill9()?;
        }
        hosts[0].weft(&["reset"])?.checked()?;
        let left = Remains::of(hosts[0].namespace())?.beyond(&before);
        ensure!(left.is_empty(), "after reset: {left:#?}");
        if !kill {
            hosts[0].relaunch()?;
            attached(&hosts[0], "c2", 9)?;
            fabric::wait_method(&hosts[0], "B", backend.method(), RETURN)?;
        }
    }
    if backend.encrypted() && backend.is_fast() && !refused.is_empty() {
        return Err(Skipped(format!("only in part: no place for others' {refused:?}")).into());
    }
    Ok(())
}
