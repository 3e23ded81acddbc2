//! Faults, and that `weft explain` names their causes in words that help.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft::api::path::PeerExplanation;
use weft_integration::{
    lab::{
        Lab,
        cut::Cut,
        host::Host,
        mesh::{Mesh, password_file},
        ping::RunningPing,
        trial::trial,
        wait::wait_for,
    },
    scenario::{backend::Backend, fabric},
};

/// For a fault to be told: a dead control connection takes ten seconds, lossy paths are looked at for some.
const SOON: Duration = Duration::from_secs(25);
const SETTLING: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until `weft explain` on `host` says all of this of a peer.
fn expect(host: &Host, peer: &str, said: &[&str]) -> Result<()> {
    let look = || {
        let text = host.weft(&["explain", peer])?.checked()?;
        let missing: Vec<_> = said.iter().filter(|words| !text.contains(**words)).collect();
        ensure!(missing.is_empty(), "{missing:?} should be in\n{text}");
        Ok(text)
    };
    let what = format!("{} says why it reaches {peer} so", host.name());
    let (text, took) = wait_for(&what, SOON, look)?;
    println!("after {took:.1?} on {}:\n{text}", host.name());
    Ok(())
}

/// A, B and C with frames going from A to C.
fn talking(lab: &Lab) -> Result<(Mesh, RunningPing)> {
    let mesh = Mesh::settled(lab, ["A", "B", "C"], false)?;
    let ping = mesh.containers[0].ping(mesh.containers[2].v4()?).start()?;
    ping.next_answer(PATIENCE)?;
    Ok((mesh, ping))
}

#[test]
fn udp_is_blocked() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        let _cut = lab.cut(&Cut::between("A", "C").udp())?;
        for (host, peer, at) in [(0, "C", "10.77.0.3:6783"), (2, "A", "10.77.0.1:6783")] {
            let silent = format!("no answer over UDP at {at}");
            let firewall = "TCP passes: does a firewall drop UDP port 6783?";
            expect(&mesh.hosts[host], peer, &["(B)", &silent, "nothing comes from there", firewall])?;
        }
        Ok(())
    });
}

#[test]
fn udp_is_blocked_in_one_direction() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        let _cut = lab.cut(&Cut::one_way("A", "C").udp())?;
        let there = "UDP comes from there, but what we send to 10.77.0.3:6783 does not arrive";
        expect(&mesh.hosts[0], "C", &["(B)", there, "TCP passes"])?;
        expect(&mesh.hosts[2], "A", &["(B)", "no answer over UDP at 10.77.0.1:6783", "nothing comes from there"])
    });
}

#[test]
fn the_network_between_two_is_cut() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        let _cut = lab.cut(&Cut::between("A", "C"))?;
        let silent = "no answer over UDP at 10.77.0.3:6783";
        expect(&mesh.hosts[0], "C", &["(B)", silent, "nor does TCP pass: no answer for 10 s"])
    });
}

#[test]
fn the_direct_path_loses_packets() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        let _cut = lab.cut(&Cut::between("A", "C").percent(10))?;
        let said = ["(B)", "the path before got worse", "the direct path is up and has to get better", "loss"];
        expect(&mesh.hosts[0], "C", &said)?;
        let told: PeerExplanation = mesh.hosts[0].json(&["explain", "C"])?;
        let direct = told.ways.iter().find(|way| way.path == "direct").with_context(|| format!("{told:#?}"))?;
        // 19 % of round trips, less what may be chance.
        ensure!(direct.loss.is_some_and(|loss| (0.03..0.4).contains(&loss)) && !direct.in_use, "{told:#?}");
        Ok(())
    });
}

#[test]
fn the_other_router_hangs() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        let router = Pid::from_raw(mesh.hosts[2].pid()?);
        kill(router, Signal::SIGSTOP)?;
        let said = ["no peer that we reach hears from it: its router is down", "(no answer for 10 s)"];
        let told = expect(&mesh.hosts[0], "C", &said);
        kill(router, Signal::SIGCONT)?;
        told
    });
}

#[test]
fn the_other_router_died() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        mesh.hosts[2].kill9()?;
        let said = ["no peer that we reach hears from it: its router is down", "Connection refused"];
        expect(&mesh.hosts[0], "C", &said)
    });
}

#[test]
fn the_other_router_was_stopped() {
    trial(|lab| {
        let (mesh, _ping) = talking(lab)?;
        mesh.hosts[2].stop()?;
        expect(&mesh.hosts[0], "C", &["it stopped", "its router was stopped there: `weft launch` brings it back"])
    });
}

/// Of two that could, the one in use: the other takes over.
#[test]
fn the_relay_died() {
    trial(|lab| {
        let mesh = Mesh::settled(lab, ["A", "B", "C", "D"], false)?;
        let [a, b, _, d] = &mesh.hosts[..] else { unreachable!("four hosts") };
        let ping = mesh.containers[0].ping(mesh.containers[2].v4()?).start()?;
        let _cut = lab.cut(&Cut::between("A", "C").udp())?;
        let by = |relay: &Host| -> Result<bool> {
            let (path, name) = (a.path_to("C")?, relay.report()?.router.name);
            Ok(path.relays == [name])
        };
        wait_for("the path is by relay", PATIENCE, || a.expect_path("C", "relay"))?;
        let (relay, other) = if by(b)? { (b, d) } else { (d, b) };
        ping.next_answer(PATIENCE)?;
        let name = relay.report()?.router.name;
        relay.kill9()?;
        wait_for("the path is by the other", PATIENCE, || {
            ensure!(by(other)?, "{:?}", a.path_to("C")?);
            Ok(())
        })?;
        ping.next_answer(PATIENCE)?;
        let (_, silence) = ping.stop()?;
        println!("silent for {silence:?} when the relay died");
        ensure!(silence < PATIENCE, "{silence:?}");
        // By whichever of the two signs was seen first.
        let died = format!("relay {name}({}): no answer over UDP", relay.name());
        let parted = format!("a link of the path by relay {name}({}) is down", relay.name());
        let told = a.weft(&["explain", "C"])?.checked()?;
        ensure!(told.contains(&died) || told.contains(&parted), "{told}");
        expect(a, "C", &[&format!("({})", other.name())])
    });
}

#[test]
fn nobody_may_look_for_others() {
    trial(|lab| {
        let hosts = lab.hosts(["A", "B", "C"])?;
        let password = format!("--password-file={}", password_file(lab, &hosts[0], "secret")?.display());
        let first = hosts[1].v4().to_string();
        hosts[1].launch(&[&password, "--no-discovery"])?;
        for host in [&hosts[0], &hosts[2]] {
            host.launch(&[&password, "--no-discovery", &first])?;
        }
        expect(&hosts[0], "C", &["(B)", "without discovery (--no-discovery)", "`weft connect`"])
    });
}

#[test]
fn the_secrets_differ() {
    trial(|lab| {
        let [a, c] = lab.hosts(["A", "C"])?;
        for (host, secret) in [(&a, "one"), (&c, "other")] {
            let password = format!("--password-file={}", password_file(lab, host, secret)?.display());
            host.launch(&[password, a.v4().to_string(), c.v4().to_string()])?;
        }
        wait_for("it is said why the other is no peer", SOON, || {
            let said = a.weft(&["explain", "C"])?.output()?.refused()?;
            ensure!(said.contains("10.77.0.2") && said.contains("wrong network secret"), "{said}");
            println!("{said}");
            Ok(())
        })
        .map(drop)
    });
}

#[test]
fn the_fast_datapath_is_off_on_one_host() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        a.launch(&["--fastdp=off"])?;
        b.launch(&["--fastdp=vxlan", &a.v4().to_string()])?;
        Mesh { hosts: vec![a.clone(), b.clone()], containers: Vec::new() }.wait_settled(SETTLING)?;
        expect(&a, "B", &["fastdp instead of the sleeve: it is off on this host (--fastdp off)"])?;
        expect(&b, "A", &["fastdp instead of the sleeve: the peer's fast datapath is off"])
    });
}

#[test]
fn the_fast_datapath_is_blocked() {
    trial(|lab| {
        let mesh = fabric::settled(lab, ["A", "B"], false, Backend::Vxlan)?;
        let _cut = lab.cut(&Cut::between("A", "B").fastdp())?;
        let blocked = "UDP of the fast datapath passes in neither direction: is a firewall in the way?";
        expect(&mesh.hosts[0], "B", &["sleeve", "fastdp instead of the sleeve: ", blocked])
    });
}

#[test]
fn the_underlay_became_narrow() {
    trial(|lab| {
        let mesh = fabric::settled(lab, ["A", "B"], false, Backend::Vxlan)?;
        let _narrow = lab.lower_mtu(&mesh.hosts[0], &mesh.hosts[1], 1300)?;
        let _silent = lab.cut(&Cut::between("A", "B").icmp())?;
        // Frames make it look at the size.
        let _ping = mesh.containers[0].ping(mesh.containers[1].v4()?).size(1200).start()?;
        thread::sleep(Duration::from_secs(1));
        let full = "packets of full size do not pass the fast datapath: the underlay carries less than the MTU needs";
        let cut = "bytes are cut: the underlay carries less than the containers' MTU";
        expect(&mesh.hosts[0], "B", &["sleeve", full, cut])
    });
}
