//! Acceptance 3: when the direct path of two hosts is cut in whatever way, traffic goes on through a third, and returns.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{Lab, cut::Cut, mesh::Mesh, transfer::transfer, trial::trial, wait::wait_for};

/// The promise: traffic goes on by relay within five seconds.
const PROMISED: Duration = Duration::from_secs(5);
/// Dialling again may have backed off to half a minute.
const RETURN: Duration = Duration::from_secs(40);

#[test]
fn all_of_the_direct_path_is_cut() {
    trial(|lab| goes_on_through_b(lab, &Cut::between("A", "C"), false));
}

#[test]
fn all_of_the_direct_path_is_cut_over_ipv6() {
    trial(|lab| goes_on_through_b(lab, &Cut::between("A", "C"), true));
}

#[test]
fn only_udp_is_cut() {
    trial(|lab| goes_on_through_b(lab, &Cut::between("A", "C").udp(), false));
}

#[test]
fn only_udp_is_cut_over_ipv6() {
    trial(|lab| goes_on_through_b(lab, &Cut::between("A", "C").udp(), true));
}

#[test]
fn only_one_direction_is_cut() {
    trial(|lab| goes_on_through_b(lab, &Cut::one_way("A", "C"), false));
}

#[test]
fn only_the_other_direction_is_cut_over_ipv6() {
    trial(|lab| goes_on_through_b(lab, &Cut::one_way("C", "A"), true));
}

fn goes_on_through_b(lab: &Lab, cut: &Cut, ipv6: bool) -> Result<()> {
    let mesh = Mesh::settled(lab, ["A", "B", "C"], ipv6)?;
    let [a, b, c] = &mesh.hosts[..] else { unreachable!("three hosts") };
    let (from, to) = (&mesh.containers[0], &mesh.containers[2]);
    from.ping(to.v4()?).until_answered(PROMISED)?;
    let direct = a.path_to("C")?;
    let pings = [from.ping(to.v4()?).start()?, from.ping(to.v6()?).start()?];
    for ping in &pings {
        ping.next_answer(PROMISED)?;
    }

    let active = lab.cut(cut)?;
    wait_for("the path from A to C is by relay", PROMISED, || a.expect_path("C", "relay"))?;
    wait_for("the path from C to A is by relay", PROMISED, || c.expect_path("A", "relay"))?;
    for ping in &pings {
        ping.next_answer(PROMISED)?;
    }
    ensure!(active.lost()? > 0, "the cut lost something");
    let relayed = a.path_to("C")?;
    ensure!(relayed.relays == [b.report()?.router.name], "by B: {relayed:?}");
    ensure!(!relayed.reason.is_empty() && relayed.reason != direct.reason, "status says why: {relayed:?}");
    let done = transfer(from.namespace(), (to.namespace(), to.v4()?.into()), 2_000_000, PROMISED)?;
    ensure!(done.bytes == 2_000_000);

    active.heal()?;
    wait_for("the path from A to C is direct again", RETURN, || a.expect_path("C", "direct"))?;
    wait_for("the path from C to A is direct again", RETURN, || c.expect_path("A", "direct"))?;
    for ping in pings {
        ping.next_answer(PROMISED)?;
        let (answers, silence) = ping.stop()?;
        println!(
            "{cut:?}: silence of {silence:?}, {} of {} answered; {}",
            answers.received, answers.sent, relayed.reason
        );
        ensure!(silence < PROMISED, "silent for {silence:?}");
        ensure!(answers.duplicates == 0, "{answers:?}");
    }
    Ok(())
}
