//! Acceptance 6: a path that swallows large packets without a word is measured, and large things pass all the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{Lab, cut::Cut, mesh::Mesh, transfer::transfer, trial::trial, wait::wait_for};

/// The promise is "after at most one loss" of pings a second apart, as people send them.
const INTERVAL: Duration = Duration::from_secs(1);
const PINGS: u32 = 5;
const LARGE: usize = 10_000;
const UNDERLAY_MTU: usize = 1300;
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn large_packets_pass_a_path_that_became_narrow() {
    trial(|lab| pass_a_narrow_path(lab, false, ["A", "C"]));
}

#[test]
fn large_packets_pass_a_path_that_became_narrow_over_ipv6() {
    trial(|lab| pass_a_narrow_path(lab, true, ["A", "C"]));
}

#[test]
fn large_packets_pass_a_narrow_path_beside_others() {
    trial(|lab| pass_a_narrow_path(lab, false, ["A", "C", "B"]));
}

fn pass_a_narrow_path<const N: usize>(lab: &Lab, ipv6: bool, names: [&str; N]) -> Result<()> {
    let mesh = Mesh::settled(lab, names, ipv6)?;
    let (from, to) = (&mesh.containers[0], &mesh.containers[1]);
    from.ping(to.v4()?).size(LARGE).until_answered(PATIENCE)?;
    from.ping(to.v6()?).size(LARGE).until_answered(PATIENCE)?;

    let narrow = lab.lower_mtu(&mesh.hosts[0], &mesh.hosts[1], UNDERLAY_MTU)?;
    let _no_icmp = lab.cut(&Cut::between(names[0], names[1]).icmp())?;
    for inner6 in [false, true] {
        let answers = from.ping(to.address(inner6)?).size(LARGE).interval(INTERVAL).count(PINGS).send()?;
        println!("inner IPv6 {inner6}: {} of {} answered", answers.received, answers.sent);
        ensure!(answers.received + 1 >= PINGS, "at most one loss: {answers:?}");
    }
    for (from, to) in [(from, to), (to, from)] {
        for inner6 in [false, true] {
            transfer(from.namespace(), (to.namespace(), to.address(inner6)?), 2_000_000, PATIENCE)?;
        }
    }
    let (mtu, _) = wait_for("status tells the path's MTU", PATIENCE, || {
        let path = mesh.hosts[0].path_to(names[1])?;
        ensure!(path.mtu.is_some_and(|mtu| mtu < 1300), "{path:?}");
        Ok(path.mtu)
    })?;
    println!("mtu {mtu:?}, {} packets lost", narrow.lost()?);
    if N == 2 {
        // What must not be fragmented is answered with the size that would do.
        let refused = from.ping(to.v4()?).size(1300).whole().count(3).send()?;
        let told = refused.errors.iter().any(|error| error.contains("Frag needed") || error.contains("too long"));
        ensure!(refused.received == 0 && told, "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_path_narrow_from_the_start_is_no_obstacle() {
    trial(|lab| {
        // All paths, before any router runs.
        let [a, c] = lab.hosts(["A", "C"])?;
        let _narrow = lab.lower_mtu(&a, &c, UNDERLAY_MTU)?;
        let password = weft_integration::lab::mesh::password_file(lab, &a, "secret")?;
        let password = format!("--password-file={}", password.display());
        a.launch(&[&password])?;
        c.launch(&[&password, &a.v4().to_string()])?;
        let mesh = Mesh::of(vec![a, c])?;
        mesh.wait_settled(Duration::from_secs(20))?;
        let (from, to) = (&mesh.containers[0], &mesh.containers[1]);
        let answers = from.ping(to.v4()?).size(LARGE).interval(INTERVAL).count(PINGS).send()?;
        ensure!(answers.received + 1 >= PINGS, "at most one loss: {answers:?}");
        transfer(from.namespace(), (to.namespace(), to.v4()?.into()), 2_000_000, PATIENCE)?;
        Ok(())
    });
}
