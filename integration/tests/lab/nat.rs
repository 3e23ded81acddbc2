//! Acceptance 8: a host behind a gateway that translates addresses takes part, also when its outer address changes.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    host::Host,
    mesh::{Mesh, password_file},
    transfer::transfer,
    trial::trial,
};

const SETTLING: Duration = Duration::from_secs(20);
/// Liveness takes three seconds to see the old path dead; the rest is for dialling again.
const MOVING: Duration = Duration::from_secs(10);

#[test]
fn a_host_behind_nat_takes_part_and_may_move() {
    trial(|lab| takes_part_and_moves(lab, false));
}

#[test]
fn a_host_behind_nat_takes_part_and_may_move_over_ipv6() {
    trial(|lab| takes_part_and_moves(lab, true));
}

fn takes_part_and_moves(lab: &Lab, ipv6: bool) -> Result<()> {
    let [a, b] = lab.hosts(["A", "B"])?;
    let (n, gateway) = lab.host_behind_nat("N")?;
    if ipv6 {
        [&a, &b].into_iter().try_for_each(Host::drop_ipv4)?;
    }
    let password = format!("--password-file={}", password_file(lab, &a, "secret")?.display());
    a.launch(&[&password])?;
    let first = a.address(ipv6).to_string();
    b.launch(&[&password, &first])?;
    n.launch(&[&password, &first])?;
    let mesh = Mesh::of(vec![a, b, n])?;
    mesh.wait_settled(SETTLING)?;
    mesh.all_ping(3)?;

    let [in_a, in_b, in_n] = &mesh.containers[..] else { unreachable!("three containers") };
    let pings = [in_n.ping(in_a.v4()?).start()?, in_b.ping(in_n.v6()?).start()?];
    for ping in &pings {
        ping.next_answer(MOVING)?;
    }
    gateway.move_to(201)?;
    for ping in pings {
        ping.next_answer(MOVING)?;
        let (answers, silence) = ping.stop()?;
        println!("silence of {silence:?} through the move");
        ensure!(silence < MOVING && answers.duplicates == 0, "{silence:?}");
    }
    transfer(in_n.namespace(), (in_a.namespace(), in_a.v4()?.into()), 2_000_000, MOVING)?;
    mesh.wait_settled(Duration::from_secs(40))?;
    mesh.all_ping(3)
}
