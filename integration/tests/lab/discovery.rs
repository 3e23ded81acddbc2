//! Acceptance 2: who knows one peer finds all; without discovery frames go by those known, as long as they are there, the first too.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    host::Host,
    mesh::{Mesh, password_file},
    trial::trial,
    wait::{wait_for, wait_until},
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn hosts_that_know_a_third_only_connect_directly() {
    trial(|lab| connect_directly(lab, false));
}

#[test]
fn hosts_that_know_a_third_only_connect_directly_over_ipv6() {
    trial(|lab| connect_directly(lab, true));
}

fn connect_directly(lab: &Lab, ipv6: bool) -> Result<()> {
    let mesh = a_and_c_know_b(lab, ipv6, &[])?;
    mesh.wait_settled(SOON)?;
    let [a, _, c] = &mesh.hosts[..] else { unreachable!("three hosts") };
    a.expect_established("C")?;
    c.expect_established("A")?;
    mesh.all_ping(3)
}

#[test]
fn without_discovery_frames_go_through_the_peer_known() {
    trial(|lab| go_through_b(lab, false));
}

#[test]
fn without_discovery_frames_go_through_the_peer_known_over_ipv6() {
    trial(|lab| go_through_b(lab, true));
}

fn go_through_b(lab: &Lab, ipv6: bool) -> Result<()> {
    let mesh = a_and_c_know_b(lab, ipv6, &["--no-discovery"])?;
    let [a, b, c] = &mesh.hosts[..] else { unreachable!("three hosts") };
    wait_for("A and C reach each other by relay", SOON, || {
        a.expect_path("C", "relay")?;
        c.expect_path("A", "relay")
    })?;
    let b_name = b.report()?.router.name;
    ensure!(a.path_to("C")?.relays == [b_name], "by B: {:?}", a.path_to("C")?);

    let capture = lab.capture()?;
    // The first frame to a peer that no direct path made a session with waits for one: not even that is lost.
    mesh.all_ping(3)?;
    let frames = capture.stop()?;
    let ends = [a.address(ipv6), c.address(ipv6)];
    let direct = frames
        .iter()
        .filter_map(|frame| frame.packet())
        .filter(|packet| packet.ports.is_some() && ends.contains(&packet.source) && ends.contains(&packet.destination));
    ensure!(direct.count() == 0, "nothing goes from A to C directly");
    ensure!(a.connections()?.len() == 1, "A knows B only: {:?}", a.connections()?);

    b.stop()?;
    let (from, to) = (&mesh.containers[0], &mesh.containers[2]);
    let nothing_gets_through = || Ok(from.ping(to.v4()?).count(2).send()?.received == 0);
    wait_until("without B nothing gets through", SOON, nothing_gets_through)?;
    let knows_no_path = || Ok(a.path_to("C").map_or(true, |path| path.path == "none"));
    wait_until("A says that there is no path to C", SOON, knows_no_path)?;
    b.relaunch()?;
    from.ping(to.v4()?).until_answered(Duration::from_secs(35))?;
    Ok(())
}

/// B is the only way from A to C, and was told to pass on nothing.
#[test]
fn a_router_that_shall_not_relay_passes_on_nothing() {
    trial(|lab| {
        let mesh = a_and_c_know_b(lab, false, &["--no-discovery", "--no-relay"])?;
        let [a, b, _] = &mesh.hosts[..] else { unreachable!("three hosts") };
        wait_for("A knows C", SOON, || a.path_to("C"))?;
        let [from, middle, to] = &mesh.containers[..] else { unreachable!("three containers") };
        from.ping(middle.v4()?).until_answered(SOON)?;
        let lost = from.ping(to.v4()?).count(3).send()?;
        ensure!(lost.received == 0 && a.path_to("C")?.path == "none", "nothing leads to C: {:?}", a.path_to("C")?);
        ensure!(b.report()?.router.relaying == "off", "B says so");
        let why = a.weft(&["explain", "C"])?.checked()?;
        ensure!(why.contains("--no-relay"), "and A can say why: {why}");
        Ok(())
    });
}

/// Each of six knows the one before it: frames between the ends go by the four others.
#[test]
fn without_discovery_frames_go_along_a_chain_of_six() {
    trial(|lab| {
        let hosts = lab.hosts(["A", "B", "C", "D", "E", "F"])?;
        let password = format!("--password-file={}", password_file(lab, &hosts[0], "secret")?.display());
        for (number, host) in hosts.iter().enumerate() {
            let known = number.checked_sub(1).map(|before| hosts[before].v4().to_string());
            let flags = [password.as_str(), "--no-discovery"].into_iter().chain(known.as_deref());
            host.launch(&flags.collect::<Vec<_>>())?;
        }
        let mesh = Mesh::of(hosts.to_vec())?;
        let [a, .., f] = &mesh.hosts[..] else { unreachable!("six hosts") };
        wait_for("the ends have paths by all others", SOON, || {
            let relays = [a.path_to("F")?, f.path_to("A")?].map(|path| path.relays.len());
            ensure!(relays == [4, 4], "{relays:?}");
            Ok(())
        })?;
        mesh.all_ping(3)
    });
}

/// A and C are given B as peer; B is given none.
fn a_and_c_know_b(lab: &Lab, ipv6: bool, flags: &[&str]) -> Result<Mesh> {
    let hosts = lab.hosts(["A", "B", "C"])?;
    if ipv6 {
        hosts.iter().try_for_each(Host::drop_ipv4)?;
    }
    let [a, b, c] = &hosts;
    let password = format!("--password-file={}", password_file(lab, a, "secret")?.display());
    let flags = [&[password.as_str()], flags].concat();
    b.launch(&flags)?;
    let b_address = b.address(ipv6).to_string();
    for host in [a, c] {
        host.launch(&[&flags[..], &[&b_address]].concat())?;
    }
    Mesh::of(hosts.to_vec())
}
