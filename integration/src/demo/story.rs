//! The story that `make demo` tells: each step does something real and checks what came of it.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    names,
    screen::{command, line, step, title, verdict},
    upgrade,
};
use crate::lab::{
    Lab,
    capture::{Capture, Frame, UDP},
    container::DEVICE,
    cut::Cut,
    host::Host,
    mesh::{Mesh, password_file},
    transfer::{MARKER, Transfer, transfer},
    wait::{wait_for, wait_until},
};

/// For three routers to have direct paths.
pub(super) const SETTLING: Duration = Duration::from_secs(20);
/// The file of the network's secret, in the lab's directory.
pub(super) const SECRET: &str = "secret";
/// IPv4 and IPv6 addresses for the containers.
pub(super) const RANGE: &str = "--ipalloc-range=10.32.0.0/12,fd32::/64";
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const HEALING: Duration = Duration::from_secs(45);
/// Bytes of the transfer whose rate is told.
pub(super) const BULK: u64 = 500_000_000;
/// Transfers that are listened to, and the bytes of each: so few packets that tcpdump misses none on a slow machine.
const LISTENED: u64 = 10;
const LISTENED_BYTES: u64 = 100_000;
/// IP protocol number of ESP (RFC 4303).
const ESP: u8 = 50;
/// How many of a hundred packets a bad path loses, each way.
const LOST: u8 = 10;
/// For a bad path to be seen by chance alone, on a busy machine.
const AVOIDING: Duration = Duration::from_secs(30);
/// For it to be trusted again, which takes the longer the more often it was left of late.
const TRUSTING: Duration = Duration::from_secs(120);
/// Between the pings while the path is cut.
const BEAT: Duration = Duration::from_millis(50);

/// Tells it; whether all went well. On failure prints what the routers think.
pub(super) fn tell() -> Result<bool> {
    let lab = Lab::new()?;
    let told = acts(&lab);
    if let Err(error) = &told {
        line(format_args!("    {error:#}\n{}", lab.diagnosis()))?;
    }
    drop(lab);
    match told {
        Ok(()) => verdict(true, "All of it worked. Nothing is left behind: no namespace, no process, no file.")?,
        Err(_) => verdict(false, "It did not work; see above. Nothing is left behind.")?,
    }
    Ok(told.is_ok())
}

fn acts(lab: &Lab) -> Result<()> {
    let hosts = discovery(lab)?;
    let mesh = containers(hosts)?;
    bulk(&mesh)?;
    eavesdropper(lab, &mesh)?;
    cut_and_heal(lab, &mesh)?;
    bad_and_good(lab, &mesh)?;
    upgrade::chapter(lab)?;
    names::chapter(lab, &mesh)
}

/// Three hosts, as `make demo` and `make lab` have them: A and C are told of B only.
pub(super) fn launched(lab: &Lab) -> Result<Vec<Host>> {
    let hosts = step("Three hosts on one underlay", || {
        let hosts = lab.hosts(["A", "B", "C"])?;
        let seen = hosts.iter().map(|host| format!("{} {}", host.name(), host.v4())).collect::<Vec<_>>().join(", ");
        Ok((hosts, seen))
    })?;
    let [a, b, c] = &hosts;
    let password = step("A secret for the network", || {
        Ok((password_file(lab, a, SECRET)?, "256 bits, made by `weft secret`, in a file".to_owned()))
    })?;
    let password = format!("--password-file={}", password.display());
    let told = b.v4().to_string();
    for (host, peers) in [(b, vec![]), (a, vec![told.as_str()]), (c, vec![told.as_str()])] {
        let words = [vec![password.as_str(), RANGE], peers.clone()].concat();
        step(&format!("{}# weft launch --password-file secret {RANGE} {}", host.name(), peers.join(" ")), || {
            host.launch(&words)?;
            Ok(((), "ready".to_owned()))
        })?;
    }
    Ok(hosts.to_vec())
}

fn discovery(lab: &Lab) -> Result<Vec<Host>> {
    title("1. Three hosts find each other")?;
    let hosts = launched(lab)?;
    let mesh = Mesh { hosts, containers: Vec::new() };
    step("A and C, which were told of B only, connect with each other", || {
        let took = mesh.wait_settled(SETTLING)?;
        Ok(((), format!("all direct after another {:.1} s", took.as_secs_f64())))
    })?;
    step("Frames are sealed", || {
        wait_for("the kernel carries what it can seal", SETTLING, || by_kernel_if_able(&mesh.hosts))
            .map(|(seen, _)| ((), seen))
    })?;
    show(&mesh.hosts[0], &["status", "connections"])?;
    Ok(mesh.hosts)
}

/// Where frames are sealed, in words; an error while the kernel could and does not yet.
fn by_kernel_if_able(hosts: &[Host]) -> Result<String> {
    for host in hosts {
        let router = host.report()?.router;
        if router.fastdp == "off" || !router.fastdp_info.is_empty() {
            return Ok("by the routers (sleeve), as this kernel cannot; INFO says why".to_owned());
        }
        let paths = host.paths()?;
        ensure!(paths.iter().all(|path| path.method == "fastdp"), "{} has {paths:?}", host.name());
    }
    Ok("by the kernel (fastdp with ESP)".to_owned())
}

fn containers(hosts: Vec<Host>) -> Result<Mesh> {
    title("2. Containers on all of them are on one switch")?;
    let mesh = attached(hosts)?;
    step("Every container pings every other, by IPv4 and IPv6", || {
        let (mut sent, mut best) = (0, Duration::MAX);
        for (from, to) in mesh.pairs() {
            for address in [IpAddr::from(to.v4()?), to.v6()?.into()] {
                let answers = from.ping(address).count(5).all_answered()?;
                sent += answers.sent;
                best = best.min(answers.round_trips.into_iter().min().unwrap_or(Duration::MAX));
            }
        }
        Ok(((), format!("{sent} of {sent} answered, the quickest in {:.2} ms", best.as_secs_f64() * 1000.0)))
    })?;
    show(&mesh.hosts[0], &["status", "ipam"])?;
    Ok(mesh)
}

/// A container on each of these hosts, attached.
pub(super) fn attached(hosts: Vec<Host>) -> Result<Mesh> {
    step("weft attach, on each host; the network gives the addresses", || {
        let mesh = Mesh::given(hosts)?;
        let addresses = mesh.containers.iter().map(|container| Ok(container.v4()?.to_string()));
        let seen = addresses.collect::<Result<Vec<_>>>()?.join(", ");
        Ok((mesh, seen))
    })
}

fn bulk(mesh: &Mesh) -> Result<()> {
    title("3. They carry a load")?;
    step("A bulk TCP transfer from the container on A to that on C, every byte checked", || {
        let done = send(mesh, BULK)?;
        let link = mesh.hosts[0].expect_established("C")?;
        ensure!(link.encrypted, "not encrypted: {link:?}");
        let (megabytes, gigabits, method) = (done.bytes / 1_000_000, done.rate() / 1e9, link.method);
        Ok(((), format!("{megabytes} MB at {gigabits:.2} Gbit/s, encrypted, by {method}, all hosts on this machine")))
    })
}

fn eavesdropper(lab: &Lab, mesh: &Mesh) -> Result<()> {
    title("4. An eavesdropper on the underlay hears nothing")?;
    let (underlay, inside) =
        step("Ten transfers are captured twice: on the underlay, and inside the container", || {
            let inner = mesh.hosts[0].dir().join("inside.pcap");
            let inside = Capture::start(mesh.containers[0].namespace(), DEVICE, &inner)?;
            let underlay = lab.capture()?;
            for number in 1..=LISTENED {
                send(mesh, LISTENED_BYTES)?;
                // Sealing adds more than a sixteenth.
                let written = number * (LISTENED_BYTES + LISTENED_BYTES / 16);
                wait_until("it is written down", PATIENCE, || Ok(recorded(lab.dir())? > written))?;
            }
            let captures = (underlay.stop()?, inside.stop()?);
            let seen = format!("{} frames there, {} here", captures.0.len(), captures.1.len());
            Ok((captures, seen))
        })?;
    let text = String::from_utf8_lossy(&MARKER).into_owned();
    let hits = |frames: &[Frame]| frames.iter().filter(|frame| frame.contains(&MARKER)).count();
    step(&format!("The text \"{text}\" inside the container"), || {
        ensure!(hits(&inside) > 0, "the control failed: the text should be seen there");
        Ok(((), format!("in {} frames, as it should be", hits(&inside))))
    })?;
    step("The same text on the underlay", || {
        let packets = underlay.iter().filter_map(|frame| frame.packet());
        let sealed = packets.filter(|packet| matches!(packet.protocol, UDP | ESP));
        let bytes: usize = sealed.map(|packet| packet.bytes.len()).sum();
        ensure!(bytes as u64 > LISTENED * LISTENED_BYTES, "the transfers were not seen on the underlay");
        ensure!(hits(&underlay) == 0, "it is there, in {} frames", hits(&underlay));
        Ok(((), format!("nowhere in {bytes} bytes of UDP and ESP")))
    })
}

fn cut_and_heal(lab: &Lab, mesh: &Mesh) -> Result<()> {
    title("5. The direct path from A to C is cut")?;
    let (a, c) = (&mesh.hosts[0], &mesh.hosts[2]);
    let (from, to) = (&mesh.containers[0], &mesh.containers[2]);
    let ping = from.ping(to.v4()?).interval(BEAT).start()?;
    ping.next_answer(PATIENCE)?;
    let cut = lab.cut(&Cut::between("A", "C"))?;
    step("The ping goes on, through B", || {
        let started = Instant::now();
        wait_for("the path from A to C is by relay", PATIENCE, || a.expect_path("C", "relay"))?;
        wait_for("the path from C to A is by relay", PATIENCE, || c.expect_path("A", "relay"))?;
        let found = started.elapsed();
        ping.next_answer(PATIENCE)?;
        let lost = cut.lost()?;
        Ok(((), format!("other path after {:.1} s; the cut swallowed {lost} packets", found.as_secs_f64())))
    })?;
    show(a, &["status", "paths"])?;
    step("The cut heals, and the path is direct again", || {
        cut.heal()?;
        let back = || Ok(a.expect_path("C", "direct").and_then(|()| c.expect_path("A", "direct")).is_ok());
        let took = wait_until("direct both ways", HEALING, back)?;
        thread::sleep(Duration::from_secs(1));
        Ok(((), format!("after {:.1} s", took.as_secs_f64())))
    })?;
    show(a, &["status", "paths"])?;
    step("The ping through all of it", || {
        let (answers, silence) = ping.stop()?;
        ensure!(silence < PATIENCE && answers.duplicates == 0, "silent for {silence:?}, {} twice", answers.duplicates);
        let (received, sent, longest) = (answers.received, answers.sent, silence.as_secs_f64());
        Ok(((), format!("{received} of {sent} answered, none twice, the longest silence was {longest:.1} s")))
    })
}

/// The path is not dead, only bad: traffic moves away from it all the same, and the router says why.
fn bad_and_good(lab: &Lab, mesh: &Mesh) -> Result<()> {
    title("6. The direct path from A to C loses packets")?;
    let (a, c) = (&mesh.hosts[0], &mesh.hosts[2]);
    let (from, to) = (&mesh.containers[0], &mesh.containers[2]);
    let ping = from.ping(to.v4()?).interval(BEAT).start()?;
    ping.next_answer(PATIENCE)?;
    let bad = lab.cut(&Cut::between("A", "C").percent(LOST))?;
    step(&format!("{LOST} of 100 are lost each way: the ping leaves it, and goes through B"), || {
        let left = || {
            a.expect_path("C", "relay")?;
            c.expect_path("A", "relay")
        };
        let ((), took) = wait_for("both ends send by relay", AVOIDING, left)?;
        Ok(((), format!("after {:.1} s", took.as_secs_f64())))
    })?;
    show(a, &["explain", "C"])?;
    step("The path loses nothing any more; trust comes back slowly", || {
        bad.heal()?;
        let back = || Ok(a.expect_path("C", "direct").and_then(|()| c.expect_path("A", "direct")).is_ok());
        let took = wait_until("direct both ways", TRUSTING, back)?;
        Ok(((), format!("direct again after {:.1} s", took.as_secs_f64())))
    })?;
    step("The ping through all of it", || {
        let (answers, silence) = ping.stop()?;
        ensure!(silence < PATIENCE && answers.duplicates == 0, "silent for {silence:?}, {} twice", answers.duplicates);
        Ok(((), format!("{} of {} answered, none twice", answers.received, answers.sent)))
    })
}

/// Bytes in the lab's captures of the underlay so far.
fn recorded(dir: &Path) -> Result<u64> {
    let files = fs::read_dir(dir)?.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "pcap"));
    files.map(|file| Ok(file.metadata()?.len())).sum()
}

fn send(mesh: &Mesh, bytes: u64) -> Result<Transfer> {
    let (from, to) = (&mesh.containers[0], &mesh.containers[2]);
    transfer(from.namespace(), (to.namespace(), to.v4()?.into()), bytes, PATIENCE)
}

/// Shows what a verb prints on `host`.
pub(super) fn show(host: &Host, verb: &[&str]) -> Result<()> {
    command(host.name(), &format!("weft {}", verb.join(" ")), &host.weft(verb)?.checked()?)
}
