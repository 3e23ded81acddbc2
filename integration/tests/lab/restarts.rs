//! Acceptance 7: a router that died or was stopped comes back as itself, containers and all; reset leaves no trace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    host::Host,
    mesh::{Mesh, attached},
    namespace::Namespace,
    trial::trial,
};

/// The promise: traffic is back within five seconds.
const PROMISED: Duration = Duration::from_secs(5);

#[test]
fn a_killed_router_comes_back_as_itself() {
    trial(|lab| comes_back(lab, false, Host::kill9));
}

#[test]
fn a_killed_router_comes_back_as_itself_over_ipv6() {
    trial(|lab| comes_back(lab, true, Host::kill9));
}

#[test]
fn a_stopped_router_comes_back_as_itself() {
    trial(|lab| comes_back(lab, false, Host::stop));
}

#[test]
fn a_stopped_router_comes_back_as_itself_over_ipv6() {
    trial(|lab| comes_back(lab, true, Host::stop));
}

fn comes_back(lab: &Lab, ipv6: bool, end: impl Fn(&Host) -> Result<()>) -> Result<()> {
    let mesh = Mesh::settled(lab, ["A", "B", "C"], ipv6)?;
    for number in [0, 1] {
        let (host, container) = (&mesh.hosts[number], &mesh.containers[number]);
        let (name, attachments) = (host.report()?.router.name, host.ps()?);
        let other = &mesh.containers[2];
        let inward = other.ping(container.v4()?).start()?;
        let outward = container.ping(other.v6()?).start()?;
        inward.next_answer(PROMISED)?;
        end(host)?;
        ensure!(host.weft(&["status"])?.output()?.refused()?.contains("not running"));
        let restarted = Instant::now();
        host.relaunch()?;
        inward.next_answer(PROMISED)?;
        outward.next_answer(PROMISED)?;
        println!("{} is back after {:?}", host.name(), restarted.elapsed());
        ensure!(restarted.elapsed() < PROMISED, "{:?}", restarted.elapsed());
        ensure!(host.report()?.router.name == name, "the same name");
        ensure!(host.ps()? == attachments, "{:?}", host.ps()?);
        // And to a container of its own host, which never needed the router.
        let neighbour = attached(host, "c2", 10 + number)?;
        neighbour.ping(container.v4()?).until_answered(PROMISED)?;
        ensure!(host.ps()?.len() == 2);
    }
    mesh.wait_settled(Duration::from_secs(40))?;
    mesh.all_ping(2)
}

#[test]
fn peers_of_the_last_run_are_resumed() {
    trial(|lab| {
        let mesh = Mesh::settled(lab, ["A", "B"], false)?;
        let b = &mesh.hosts[1];
        let password = format!("--password-file={}", lab.dir().join("secret").display());
        mesh.hosts[0].stop()?;
        b.stop()?;
        mesh.hosts[0].relaunch()?;
        b.launch(&[&password, "--resume"])?;
        ensure!(b.targets()?.len() == 1, "{:?}", b.targets()?);
        mesh.wait_settled(Duration::from_secs(20)).map(drop)
    });
}

#[test]
fn reset_leaves_the_host_as_before() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        let c1 = a.container("c1")?;
        let before = [trace(a.namespace())?, trace(c1.namespace())?];
        let password = weft_integration::lab::mesh::password_file(lab, &a, "secret")?;
        let password = format!("--password-file={}", password.display());
        a.launch(&[&password])?;
        b.launch(&[&password, &a.v4().to_string()])?;
        let name = a.report()?.router.name;
        let c1 = c1.attach(&["10.32.0.1/16", "fd32::1/64"])?;
        a.weft(&["expose", "10.32.0.100/16", "fd32::100/64"])?.checked()?;
        let during = [trace(a.namespace())?, trace(c1.namespace())?];
        ensure!(before[0] != during[0] && before[1] != during[1], "the router does something: {during:?}");
        a.weft(&["reset"])?.checked()?;
        let after = [trace(a.namespace())?, trace(c1.namespace())?];
        ensure!(after == before, "before {before:#?}\nafter {after:#?}");
        ensure!(!a.data_dir().exists() && !a.run_dir().exists(), "no files");
        a.weft(&["reset"])?.checked()?;
        a.launch(&[&password])?;
        ensure!(a.report()?.router.name != name, "a new identity");
        Ok(())
    });
}

#[test]
fn reset_cleans_up_after_a_killed_router() {
    trial(|lab| {
        let a = lab.host("A")?;
        let c1 = a.container("c1")?;
        let before = [trace(a.namespace())?, trace(c1.namespace())?];
        a.launch::<&str>(&[])?;
        let c1 = c1.attach(&["10.32.0.1/16"])?;
        a.weft(&["expose", "10.32.0.100/16"])?.checked()?;
        a.kill9()?;
        a.weft(&["reset"])?.checked()?;
        let after = [trace(a.namespace())?, trace(c1.namespace())?];
        ensure!(after == before, "before {before:#?}\nafter {after:#?}");
        ensure!(!a.data_dir().exists() && !a.run_dir().exists(), "no files");
        Ok(())
    });
}

/// All of a namespace that a router could leave something in.
fn trace(namespace: &Namespace) -> Result<Vec<String>> {
    let run = |program: &str, args: &[&str]| namespace.run(program).args(args).checked();
    let mut trace = vec![
        run("ip", &["-o", "link"])?,
        run("ip", &["-o", "-br", "addr"])?,
        run("ip", &["route", "show", "table", "all"])?,
        run("ip", &["-6", "route", "show", "table", "all"])?,
        run("ip", &["rule"])?,
        run("nft", &["list", "ruleset"])?,
    ];
    trace.push(run("cat", &["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"])?);
    Ok(trace)
}
