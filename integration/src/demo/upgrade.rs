//! The chapter of two hosts that trust their subnet: their link moves between the sleeve and the kernel's fast datapath.

use std::{thread, time::Duration};

use anyhow::{Result, bail, ensure};

use super::{
    screen::{step, title},
    story::{BULK, PATIENCE, RANGE, SECRET, show},
};
use crate::lab::{
    Lab,
    cut::{ActiveCut, Cut},
    host::Host,
    mesh::Mesh,
    ping::RunningPing,
    transfer::transfer,
    wait::wait_for,
};

/// UDP port of the fast datapath: one above that of the sleeve.
const FASTDP_PORT: u16 = 6784;
/// The subnet of all hosts of a lab.
const SUBNET: &str = "10.77.0.0/24";
/// For two routers to find each other, or to prove a path for three seconds, on a busy machine.
const SETTLING: Duration = Duration::from_secs(20);
/// Longest silence while the link changes its method: three times what it takes on a quiet machine.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Between the pings.
const BEAT: Duration = Duration::from_millis(10);

/// Tells it, on two new hosts of the lab.
pub(super) fn chapter(lab: &Lab) -> Result<()> {
    title("7. Two hosts trust their subnet: the kernel carries, the sleeve is there when it cannot")?;
    let hosts = step("Two more hosts, a network of their own", || {
        let hosts = lab.hosts(["D", "E"])?;
        let [d, e] = &hosts;
        let seen = format!("D {}, E {}", d.v4(), e.v4());
        Ok((hosts, seen))
    })?;
    let path = Cut::between("D", "E").port(FASTDP_PORT);
    let block = step("Port 6784, which the kernel's VXLAN uses, is blocked between them", || {
        Ok((lab.cut(&path)?, "the sleeve's 6783 is not".to_owned()))
    })?;
    launch(lab, &hosts)?;
    let [d, _] = &hosts;
    if let Some(why) = unable(d)? {
        return step("The sleeve carries all, as the kernel cannot", || Ok(((), why)));
    }
    let mesh = sleeve_carries(&hosts)?;
    let [from, to] = &mesh.containers[..] else { bail!("a container for each of two hosts") };
    let ping = from.ping(to.v4()?).interval(BEAT).start()?;
    ping.next_answer(PATIENCE)?;
    step("The block is gone: the link is upgraded from sleeve to fastdp", || {
        block.heal()?;
        Ok(((), format!("after {:.1} s, under a running ping", wait_method(&hosts, "fastdp")?.as_secs_f64())))
    })?;
    show(d, &["status", "connections"])?;
    show(d, &["status", "paths"])?;
    step("A bulk TCP transfer by fastdp, every byte checked", || {
        let done = transfer(from.namespace(), (to.namespace(), to.v4()?.into()), BULK, PATIENCE)?;
        let (megabytes, gigabits) = (done.bytes / 1_000_000, done.rate() / 1e9);
        Ok(((), format!("{megabytes} MB at {gigabits:.2} Gbit/s, unencrypted, within the kernel")))
    })?;
    there_and_back(&hosts, lab.cut(&path)?, &ping)?;
    step("The ping through all of it", || {
        let (answers, silence) = ping.stop()?;
        let is_well = silence < SILENCE_MAX && answers.duplicates == 0;
        ensure!(is_well, "silent for {silence:?}, {} twice", answers.duplicates);
        let (received, sent, longest) = (answers.received, answers.sent, silence.as_secs_f64());
        Ok(((), format!("{received} of {sent} answered, none twice, the longest silence was {longest:.2} s")))
    })
}

/// Attaches containers while the fast datapath is blocked, and shows what the status says of it.
fn sleeve_carries(hosts: &[Host; 2]) -> Result<Mesh> {
    let mesh = step("A container on each; the sleeve carries", || {
        let mesh = Mesh::given(hosts.to_vec())?;
        wait_method(hosts, "sleeve")?;
        mesh.all_ping(1)?;
        Ok((mesh, "all pings answered".to_owned()))
    })?;
    let [d, e] = hosts;
    wait_for("the sleeve's reason", PATIENCE, || {
        let info = d.expect_established(e.name())?.info;
        ensure!(info.contains("passes in neither direction"), "D says `{info}`");
        Ok(())
    })?;
    show(d, &["status", "connections"])?;
    Ok(mesh)
}

/// The kernel's path is cut under a ping, and heals.
fn there_and_back(hosts: &[Host; 2], cut: ActiveCut, ping: &RunningPing) -> Result<()> {
    step("Port 6784 is blocked again: back to the sleeve", || {
        let took = wait_method(hosts, "sleeve")?;
        ping.next_answer(PATIENCE)?;
        Ok(((), format!("after {:.1} s; the cut swallowed {} packets", took.as_secs_f64(), cut.lost()?)))
    })?;
    show(&hosts[1], &["status", "paths"])?;
    step("It heals: fastdp again, once it has answered for 3 s", || {
        cut.heal()?;
        let took = wait_method(hosts, "fastdp")?;
        thread::sleep(Duration::from_secs(1));
        Ok(((), format!("after {:.1} s", took.as_secs_f64())))
    })?;
    show(&hosts[1], &["status", "paths"])
}

/// The same secret, and both trust the other with frames in clear.
fn launch(lab: &Lab, [d, e]: &[Host; 2]) -> Result<()> {
    let secret = lab.dir().join(SECRET);
    for (host, peer) in [(d, String::new()), (e, d.v4().to_string())] {
        let words =
            |file: &str| format!("--network yard --password-file {file} --trusted-subnets {SUBNET} {RANGE} {peer}");
        step(&format!("{}# weft launch {}", host.name(), words(SECRET).trim_end()), || {
            host.launch(&words(&secret.display().to_string()).split_whitespace().collect::<Vec<_>>())?;
            Ok(((), "ready".to_owned()))
        })?;
    }
    Ok(())
}

/// Why this kernel has no fast datapath; None if it has one.
fn unable(host: &Host) -> Result<Option<String>> {
    let router = host.report()?.router;
    Ok((router.fastdp == "off").then_some(router.fastdp_info))
}

/// Waits until both ends send directly and by this method; how long that took.
fn wait_method([d, e]: &[Host; 2], method: &str) -> Result<Duration> {
    let expect = |from: &Host, to: &Host| {
        let path = from.path_to(to.name())?;
        ensure!(path.path == "direct" && path.method == method, "{} has {path:?}", from.name());
        Ok(())
    };
    let both = || expect(d, e).and_then(|()| expect(e, d));
    wait_for(&format!("both ends send by {method}"), SETTLING, both).map(|((), took)| took)
}
