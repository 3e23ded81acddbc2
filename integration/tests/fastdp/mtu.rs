//! Acceptance 4: the underlay becomes narrow without a word, is wide, or is not what one was told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        container::{Container, DEVICE},
        cut::Cut,
        mesh::Mesh,
        transfer::transfer,
        wait::wait_for,
    },
    scenario::{backend::Backend, fabric},
};

const UNDERLAY: u32 = 1500;
const NARROW: usize = 1300;
const JUMBO: u32 = 9000;
const LARGE: usize = 10_000;
const BYTES: u64 = 2_000_000;
/// Pings a second apart, as people send them. Two may be lost: what is sent until the hole is found, and what is answered
/// by the size that passes.
const PINGS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn becomes_narrow(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B"], false, backend)?;
    let (from, to) = (&mesh.containers[0], &mesh.containers[1]);
    from.ping(to.v4()?).size(LARGE).until_answered(PATIENCE)?;
    let running = from.ping(to.v4()?).size(1000).start()?;
    let narrow = lab.lower_mtu(&mesh.hosts[0], &mesh.hosts[1], NARROW)?;
    let _no_icmp = lab.cut(&Cut::between("A", "B").icmp())?;
    for inner6 in [false, true] {
        let ping = from.ping(to.address(inner6)?).size(LARGE).interval(Duration::from_secs(1)).count(PINGS);
        let answers = ping.send()?;
        println!("inner IPv6 {inner6}: {} of {} answered", answers.received, answers.sent);
        ensure!(answers.received + 2 >= PINGS, "at most two losses: {answers:?}");
    }
    large_things_pass(&mesh)?;
    let (mtu, _) = wait_for("status tells the path's MTU", PATIENCE, || {
        let path = mesh.hosts[0].path_to("B")?;
        path.mtu.filter(|mtu| (*mtu as usize) < NARROW).with_context(|| format!("{path:?}"))
    })?;
    println!("mtu {mtu}, {} packets lost", narrow.lost()?);
    running.next_answer(PATIENCE)?;
    running.stop().map(drop)
}

pub(crate) fn jumbo(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["A", "B"])?;
    lab.underlay_mtu(JUMBO)?;
    let mesh = fabric::launched(lab, &hosts, false, backend, &[])?;
    fabric::wait_settled(&mesh, backend, Duration::from_secs(30))?;
    large_things_pass(&mesh)?;
    if backend.is_fast() {
        let path = hosts[0].path_to("B")?;
        ensure!(path.mtu.is_some_and(|mtu| mtu > JUMBO - 200), "the path is wide: {path:?}");
        let device = device_mtu(&mesh.containers[0])?;
        ensure!(device > JUMBO - 200, "and so are containers: {device}");
    }
    Ok(())
}

pub(crate) fn told_wrong(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["A", "B"])?;
    let told = format!("--mtu={UNDERLAY}");
    let mesh = fabric::launched(lab, &hosts, false, backend, &[&told])?;
    mesh.wait_settled(Duration::from_secs(30))?;
    ensure!(device_mtu(&mesh.containers[0])? == UNDERLAY, "as told");
    large_things_pass(&mesh)?;
    if backend.is_fast() {
        let status = hosts[0].weft(&["status"])?.checked()? + &hosts[0].log();
        ensure!(status.to_lowercase().contains("mtu"), "somebody is warned: {status}");
    }
    Ok(())
}

/// Pings and transfers, each way, by both protocols.
fn large_things_pass(mesh: &Mesh) -> Result<()> {
    for (from, to) in mesh.pairs() {
        for inner6 in [false, true] {
            from.ping(to.address(inner6)?).size(LARGE).until_answered(PATIENCE)?;
            transfer(from.namespace(), (to.namespace(), to.address(inner6)?), BYTES, PATIENCE)?;
        }
    }
    Ok(())
}

fn device_mtu(container: &Container) -> Result<u32> {
    let shown = container.namespace().run("ip").args(["-o", "link", "show", DEVICE]).checked()?;
    let mut words = shown.split(' ').skip_while(|word| *word != "mtu").skip(1);
    words.next().and_then(|mtu| mtu.parse().ok()).with_context(|| shown.clone())
}
