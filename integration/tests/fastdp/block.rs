//! Acceptance 3: what carries the frames is blocked, in whatever way, and traffic goes on; and returns when it can.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        cut::{ActiveCut, Cut},
        mesh::Mesh,
        stream::Stream,
        wait::{patience, wait_for},
    },
    scenario::{backend::Backend, fabric},
    uml,
};

/// The promises: what a block may cost, half of the time and at worst, and when the fast datapath is back after it.
const TYPICAL: Duration = Duration::from_secs(1);
const WORST: Duration = Duration::from_secs(3);
const BACK: Duration = Duration::from_secs(10);
/// What the sleeve alone promises: silence of three seconds is its proof.
const BY_RELAY: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(5);
const SETTLING: Duration = Duration::from_secs(30);

/// How often a block is tried; a guest has less time.
fn trials() -> usize {
    if uml::is_here() { 5 } else { 20 }
}

pub(crate) fn at_the_start(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["A", "B"])?;
    let cut = lab.cut(&Cut::between("A", "B").fastdp())?;
    let mesh = fabric::launched(lab, &hosts, false, backend, &[])?;
    mesh.wait_settled(SETTLING)?;
    mesh.all_ping(3)?;
    let path = hosts[0].path_to("B")?;
    ensure!(path.method == "sleeve" && !path.reason.is_empty(), "{path:?}");
    cut.heal()?;
    fabric::wait_settled(&mesh, backend, SETTLING)?;
    mesh.all_ping(3)
}

pub(crate) fn later(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B"], false, backend)?;
    let gaps = blocked_again_and_again(lab, &mesh, backend, trials(), || Cut::between("A", "B").fastdp())?;
    expect_short(gaps)
}

pub(crate) fn one_way(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B"], false, backend)?;
    let mut turn = [("A", "B"), ("B", "A")].into_iter().cycle();
    let gaps = blocked_again_and_again(lab, &mesh, backend, trials().div_ceil(4), || {
        let (from, to) = turn.next().unwrap_or(("A", "B"));
        Cut::one_way(from, to).fastdp()
    })?;
    expect_short(gaps)
}

fn expect_short(mut gaps: Vec<Duration>) -> Result<()> {
    let typical = median(&mut gaps);
    println!("gaps after a block: {gaps:?}");
    let worst = gaps[gaps.len() - 1];
    ensure!(typical <= TYPICAL && worst <= WORST, "p50 {typical:?}, max {worst:?}: {gaps:?}");
    Ok(())
}

/// Blocks and heals, over and over; gives the longest silence that each block cost a stream.
fn blocked_again_and_again(
    lab: &Lab,
    mesh: &Mesh,
    backend: Backend,
    trials: usize,
    mut cut: impl FnMut() -> Cut,
) -> Result<Vec<Duration>> {
    let [a, b] = &mesh.containers[..] else { anyhow::bail!("two containers") };
    let stream = Stream::start(a, b, false, INTERVAL, 64)?;
    let (mut gaps, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..trials {
        let blocked = Instant::now();
        let active = lab.cut(&cut())?;
        fabric::wait_method(&mesh.hosts[0], "B", "sleeve", PATIENCE)?;
        fabric::wait_method(&mesh.hosts[1], "A", "sleeve", PATIENCE)?;
        stream.wait_flowing(PATIENCE)?;
        gaps.push(stream.gap_since(blocked));
        expect_lossy(&active)?;
        active.heal()?;
        let healed = Instant::now();
        let back = fabric::wait_settled(mesh, backend, BACK)?;
        stream.wait_flowing(PATIENCE)?;
        let cost = stream.gap_since(healed);
        println!("blocked: {:?}; back after {back:?}, at the cost of {cost:?}", gaps.last());
        costs.push(cost);
    }
    for flow in stream.stop()? {
        ensure!(flow.duplicates == 0, "{} copies, {}", flow.duplicates, flow.what);
    }
    // One way back may come when the machine is busy.
    let typical = median(&mut costs);
    ensure!(typical <= patience(Duration::from_millis(250)), "the return costs {typical:?}: {costs:?}");
    Ok(gaps)
}

/// The lower one.
fn median(all: &mut [Duration]) -> Duration {
    all.sort();
    all[(all.len() - 1) / 2]
}

fn expect_lossy(cut: &ActiveCut) -> Result<()> {
    ensure!(cut.lost()? > 0, "the cut lost something");
    Ok(())
}

pub(crate) fn both_ports(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B", "C"], false, backend)?;
    let (from, to) = (&mesh.containers[0], &mesh.containers[2]);
    let stream = Stream::start(from, to, false, INTERVAL, 64)?;
    let blocked = Instant::now();
    let sleeve = lab.cut(&Cut::between("A", "C").udp())?;
    let fast = lab.cut(&Cut::between("A", "C").fastdp())?;
    for (host, peer) in [(&mesh.hosts[0], "C"), (&mesh.hosts[2], "A")] {
        wait_for("the path is by relay", BY_RELAY, || host.expect_path(peer, "relay"))?;
    }
    stream.wait_flowing(PATIENCE)?;
    let gap = stream.gap_since(blocked);
    println!("gap until the relay carries: {gap:?}");
    ensure!(gap <= patience(if backend.is_fast() { WORST } else { BY_RELAY }), "{gap:?}");
    sleeve.heal()?;
    fast.heal()?;
    fabric::wait_settled(&mesh, backend, SETTLING)?;
    stream.wait_flowing(PATIENCE)?;
    stream.stop().map(drop)
}
