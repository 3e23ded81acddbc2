//! Acceptance 8: a host behind a gateway that translates addresses takes part, also when its outer address changes.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    host::Host,
    mesh::{Mesh, password_file},
    transfer::transfer,
    trial::trial,
    wait::wait_for,
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

#[test]
fn two_hosts_behind_nats_that_keep_ports_send_directly_and_say_so() {
    trial(|lab| {
        let mesh = behind_two_nats(lab, false)?;
        let [_, one, other] = &mesh.hosts[..] else { unreachable!("three hosts") };
        mesh.all_ping(3)?;
        wait_for("both send directly", SETTLING, || {
            one.expect_path("O", "direct")?;
            other.expect_path("N", "direct")
        })?;
        mesh.all_ping(3)?;
        let told = one.weft(&["explain", "O"])?.checked()?;
        println!("{told}");
        ensure!(told.contains("a NAT lies between"), "{told}");
        Ok(())
    });
}

#[test]
fn two_hosts_behind_nats_that_scatter_ports_send_by_a_relay_and_say_why() {
    trial(|lab| {
        let mesh = behind_two_nats(lab, true)?;
        mesh.all_ping(3)?;
        let one = &mesh.hosts[1];
        one.expect_path("O", "relay")?;
        wait_for("it is said that there are NATs", SETTLING, || {
            let told = one.weft(&["explain", "O"])?.checked()?;
            let said = ["(A)", "no answer over UDP", "this host is behind a NAT", "is it behind one, too?"];
            ensure!(said.iter().all(|words| told.contains(words)), "{said:?} in {told}");
            println!("{told}");
            Ok(())
        })?;
        one.expect_path("O", "relay")
    });
}

/// A, whom both know, and N and O, each behind a gateway of its own that lets in nothing that was not asked for.
fn behind_two_nats(lab: &Lab, scattered: bool) -> Result<Mesh> {
    let a = lab.host("A")?;
    let (n, gateway_n) = lab.host_behind_nat("N")?;
    let (o, gateway_o) = lab.host_behind_nat("O")?;
    [gateway_n, gateway_o].iter().try_for_each(|gateway| gateway.close(scattered))?;
    let password = format!("--password-file={}", password_file(lab, &a, "secret")?.display());
    a.launch(&[&password])?;
    for host in [&n, &o] {
        host.launch(&[&password, &a.v4().to_string()])?;
    }
    wait_for("all reach all", SETTLING, || {
        let paths = [n.path_to("O")?, o.path_to("N")?, n.path_to("A")?, o.path_to("A")?];
        ensure!(paths.iter().all(|path| path.path != "none"), "{paths:?}");
        Ok(())
    })?;
    Mesh::of(vec![a, n, o])
}
