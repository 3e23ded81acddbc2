//! The lab is worth nothing unless its cuts cut, its captures see and its sweeps sweep; no router is needed for that.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddrV4},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weft_integration::lab::{
    Lab,
    capture::{TCP, UDP},
    cut::Cut,
    datagram::{self, Audience, Station},
    garbage,
    host::{Host, PORT, UNDERLAY},
    sweep,
    transfer::{self, transfer},
    trial::trial,
    wait::wait_until,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Tells the test program that it is the lab owner to be killed.
const VICTIM: &str = "WEFT_LAB_VICTIM";

fn reaches(from: &Host, to: &Host) -> Result<bool> {
    Ok(from.ping(to.v4()).send()?.received == 1 && from.ping(to.v6()).send()?.received == 1)
}

fn reaches_neither(from: &Host, to: &Host) -> Result<bool> {
    Ok(from.ping(to.v4()).send()?.received == 0 && from.ping(to.v6()).send()?.received == 0)
}

fn moves(from: &Host, to: &Host, bytes: u64) -> Result<transfer::Transfer> {
    transfer(from.namespace(), (to.namespace(), to.v4().into()), bytes, Duration::from_secs(1))
}

fn station(host: &Host) -> Station {
    Station { namespace: host.namespace().clone(), device: UNDERLAY, v4: host.v4() }
}

fn datagram_passes(from: &Host, to: &Host) -> Result<bool> {
    let audience = Audience::One(to.v4().into());
    let listener = datagram::Listener::start(&station(to), audience, 3)?;
    datagram::send(&station(from), audience, 3)?;
    Ok(listener.finish(Duration::from_millis(200))?.contains(&1))
}

#[test]
fn hosts_reach_each_other_by_both_protocols() {
    trial(|lab| {
        let [a, b, c] = lab.hosts(["A", "B", "C"])?;
        for (from, to) in [(&a, &b), (&b, &c), (&c, &a)] {
            from.ping(to.v4()).count(3).all_answered()?;
            from.ping(to.v6()).count(3).all_answered()?;
        }
        ensure!(moves(&a, &c, 3_000_001)?.bytes == 3_000_001);
        Ok(())
    });
}

#[test]
fn a_cut_is_between_two_hosts_only_and_unseen_by_them() {
    trial(|lab| {
        let [a, b, c] = lab.hosts(["A", "B", "C"])?;
        let cut = lab.cut(&Cut::between("A", "C"))?;
        ensure!(reaches_neither(&a, &c)? && reaches_neither(&c, &a)?);
        ensure!(reaches(&a, &b)? && reaches(&b, &c)?);
        ensure!(cut.lost()? >= 4, "{}", cut.lost()?);
        let answers = a.ping(c.v4()).count(2).send()?;
        ensure!(answers.errors.is_empty(), "no unreachable host, no error: {answers:?}");
        cut.heal()?;
        ensure!(reaches(&a, &c)?);
        Ok(())
    });
}

#[test]
fn a_cut_may_be_one_way() {
    trial(|lab| {
        let [a, c] = lab.hosts(["A", "C"])?;
        let _cut = lab.cut(&Cut::one_way("A", "C"))?;
        ensure!(!datagram_passes(&a, &c)?);
        ensure!(datagram_passes(&c, &a)?);
        Ok(())
    });
}

#[test]
fn a_cut_may_spare_other_protocols_and_ports() {
    trial(|lab| {
        let [a, c] = lab.hosts(["A", "C"])?;
        let cut = lab.cut(&Cut::between("A", "C").udp())?;
        ensure!(!datagram_passes(&a, &c)? && reaches(&a, &c)?);
        moves(&a, &c, 1000)?;
        cut.heal()?;
        let cut = lab.cut(&Cut::between("A", "C").tcp())?;
        ensure!(datagram_passes(&a, &c)? && moves(&a, &c, 1000).is_err());
        cut.heal()?;
        let cut = lab.cut(&Cut::between("A", "C").port(7777))?;
        ensure!(!datagram_passes(&a, &c)?);
        moves(&a, &c, 1000)?;
        cut.heal()?;
        let _cut = lab.cut(&Cut::between("A", "C").icmp())?;
        ensure!(datagram_passes(&a, &c)? && reaches_neither(&a, &c)?);
        Ok(())
    });
}

#[test]
fn a_lowered_mtu_swallows_large_packets_silently() {
    trial(|lab| {
        let [a, c] = lab.hosts(["A", "C"])?;
        moves(&a, &c, 100_000)?;
        let cut = lab.lower_mtu(&a, &c, 1300)?;
        a.ping(c.v4()).size(1300 - 28).whole().all_answered()?;
        a.ping(c.v6()).size(1300 - 48).whole().all_answered()?;
        let large = a.ping(c.v4()).size(1301 - 28).whole().send()?;
        ensure!(large.received == 0 && large.errors.is_empty(), "{large:?}");
        let large = a.ping(c.v6()).size(1301 - 48).whole().send()?;
        ensure!(large.received == 0 && large.errors.is_empty(), "{large:?}");
        ensure!(moves(&a, &c, 100_000).is_err(), "TCP with segments of 1460 bytes hangs");
        cut.heal()?;
        moves(&a, &c, 100_000)?;
        Ok(())
    });
}

#[test]
fn nat_hides_a_host_and_its_address_can_change() {
    trial(|lab| {
        let a = lab.host("A")?;
        let (n, gateway) = lab.host_behind_nat("N")?;
        for address in [IpAddr::from(a.v4()), a.v6().into()] {
            n.ping(address).count(2).all_answered()?;
        }
        ensure!(reaches_neither(&a, &n)?, "nobody gets in");
        let capture = lab.capture()?;
        ensure!(moves(&n, &a, 1000)?.bytes == 1000);
        let old = gateway.outer();
        gateway.move_to(201)?;
        ensure!(gateway.outer() != old);
        ensure!(moves(&n, &a, 1000)?.bytes == 1000 && reaches(&n, &a)?);
        let frames = capture.stop()?;
        let sources: Vec<_> = frames.iter().filter_map(|frame| frame.packet()).map(|packet| packet.source).collect();
        ensure!(sources.contains(&old.0.into()) && sources.contains(&gateway.outer().0.into()), "{sources:?}");
        ensure!(!sources.contains(&n.v4().into()), "the inner address is never seen");
        let cut = lab.cut(&Cut::between("N", "A"))?;
        ensure!(reaches_neither(&n, &a)?);
        cut.heal()
    });
}

#[test]
fn a_capture_sees_all_that_crosses_the_switch() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        let capture = lab.capture()?;
        moves(&a, &b, 50_000)?;
        garbage::send(a.namespace(), b.sleeve(true), vec![b"hello by IPv6".to_vec()])?;
        let port = |host: &Host| SocketAddrV4::new(host.v4(), PORT);
        let forged = garbage::udp_packet(port(&a), port(&b), b"forged")?;
        garbage::send_forged(lab.host("M")?.namespace(), b.v4().into(), vec![forged])?;
        let frames = capture.stop()?;
        ensure!(frames.iter().any(|frame| frame.contains(&transfer::MARKER)));
        let packets: Vec<_> = frames.iter().filter_map(|frame| frame.packet()).collect();
        ensure!(packets.iter().any(|packet| packet.protocol == TCP && packet.source == a.v4()));
        let hello = packets.iter().filter(|packet| packet.payload == b"hello by IPv6").collect::<Vec<_>>();
        ensure!(hello.len() == 1, "exactly once: {hello:?}");
        ensure!((hello[0].protocol, hello[0].source) == (UDP, a.v6().into()));
        ensure!(hello[0].ports.is_some_and(|(_, to)| to == b.sleeve(true).port()));
        ensure!(packets.iter().any(|packet| packet.payload == b"forged" && packet.source == a.v4()));
        Ok(())
    });
}

#[test]
fn copies_to_many_are_counted() {
    trial(|lab| {
        let [a, b, c] = lab.hosts(["A", "B", "C"])?;
        let others = [station(&b), station(&c)];
        for audience in [
            Audience::Broadcast([10, 77, 0, 255].into()),
            Audience::Group(IpAddr::from([239, 7, 7, 7])),
            Audience::Group("ff15::77".parse()?),
        ] {
            datagram::exactly_once(&station(&a), &others, audience, 20).with_context(|| format!("{audience:?}"))?;
        }
        let _cut = lab.cut(&Cut::between("A", "C"))?;
        let error = datagram::exactly_once(&station(&a), &others, Audience::Broadcast([10, 77, 0, 255].into()), 3);
        ensure!(error.is_err(), "a lost one is noticed");
        Ok(())
    });
}

#[test]
fn a_long_ping_tells_the_longest_silence() {
    trial(|lab| {
        let [a, c] = lab.hosts(["A", "C"])?;
        let ping = a.ping(c.v4()).start()?;
        ping.next_answer(PATIENCE)?;
        let cut = lab.cut(&Cut::between("A", "C"))?;
        std::thread::sleep(Duration::from_millis(700));
        cut.heal()?;
        ping.next_answer(PATIENCE)?;
        let (answers, silence) = ping.stop()?;
        ensure!(answers.sent > answers.received && answers.received >= 2, "{answers:?}");
        ensure!(silence >= Duration::from_millis(690) && silence < Duration::from_secs(3), "{silence:?}");
        Ok(())
    });
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let lab = Lab::new().unwrap();
    let host = lab.host("A").unwrap();
    let mut child = host.namespace().run("sleep").arg("100").spawn(Stdio::null(), Stdio::null()).unwrap();
    wait_until("the program runs inside", PATIENCE, || Ok(!host.namespace().processes().is_empty())).unwrap();
    let name = lab.name().to_owned();
    assert!(sweep::exists(&name));
    drop(lab);
    assert!(!sweep::exists(&name));
    assert!(!child.wait().unwrap().success(), "killed");
}

#[test]
fn a_failing_trial_says_what_and_leaves_nothing() {
    let mut name = String::new();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        trial(|lab| {
            name = lab.name().to_owned();
            lab.host("A")?;
            panic!("as it must");
        });
    }));
    let text = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(text.starts_with("as it must") && text.contains("===== A (10.77.0.1"), "{text}");
    assert!(!sweep::exists(&name));
}

#[test]
fn what_a_killed_test_leaves_is_swept_by_the_next() {
    if std::env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    let own_name = "lab::lab_itself::what_a_killed_test_leaves_is_swept_by_the_next";
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", own_name, "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let name = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("lab: ")?.1.to_owned())).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let host = sweep::namespaces(&name).into_iter().find(|namespace| namespace.name().ends_with("-A")).unwrap();
    let pid = host.processes()[0];
    let next = Lab::new().unwrap();
    assert!(!sweep::exists(&name) && sweep::exists(next.name()));
    wait_until("the process inside is gone", PATIENCE, || Ok(!is_running(pid.as_raw()))).unwrap();
}

fn be_killed() {
    let lab = Lab::new().unwrap();
    let host = lab.host("A").unwrap();
    let mut child = host.namespace().run("sleep").arg("100").spawn(Stdio::null(), Stdio::null()).unwrap();
    wait_until("the program runs inside", PATIENCE, || Ok(!host.namespace().processes().is_empty())).unwrap();
    println!("\nlab: {}", lab.name());
    child.wait().unwrap();
}

fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
