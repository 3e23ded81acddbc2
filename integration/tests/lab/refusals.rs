//! Acceptance 4: who is not one of us is refused, both sides are told why, and nothing leaks.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use weft_integration::lab::{
    Lab,
    container::Container,
    host::Host,
    mesh::{Mesh, password_file},
    trial::trial,
    wait::wait_for,
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn another_secret_is_refused() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        let (one, other) = (secret(lab, &a, "one")?, secret(lab, &a, "other")?);
        refused(lab, (&a, &[&one]), (&b, &[&other]), &["secret", "password"])
    });
}

#[test]
fn no_secret_does_not_open_a_network_with_one() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        refused(lab, (&a, &[&secret(lab, &a, "one")?]), (&b, &[]), &["secret", "password"])
    });
}

#[test]
fn a_secret_does_not_join_a_network_without() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        refused(lab, (&a, &[]), (&b, &[&secret(lab, &a, "one")?]), &["secret", "password"])
    });
}

#[test]
fn another_network_is_refused() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        let secret = secret(lab, &a, "one")?;
        refused(lab, (&a, &[&secret, "--network=red"]), (&b, &[&secret, "--network=blue"]), &["network"])
    });
}

#[test]
fn a_cloned_identity_is_refused() {
    trial(|lab| {
        let [a, b] = lab.hosts(["A", "B"])?;
        let secret = secret(lab, &a, "one")?;
        a.launch(&[&secret, "--no-ipalloc"])?;
        a.stop()?;
        copy_dir(&a.data_dir(), &b.data_dir())?;
        refused(lab, (&a, &[&secret]), (&b, &[&secret]), &["identity", "clone", "copied"])?;
        ensure!(a.report()?.router.name == b.report()?.router.name, "it was a clone");
        Ok(())
    });
}

#[test]
fn oneself_is_refused() {
    trial(|lab| {
        let a = lab.host("A")?;
        a.launch(&[&secret(lab, &a, "one")?, &a.v4().to_string()])?;
        let reason = wait_for("A says that it dials itself", SOON, || told(&a, &["itself", "ourselves", "self"]))?.0;
        println!("{reason}");
        ensure!(a.peers()?.len() == 1, "{:?}", a.peers()?);
        Ok(())
    });
}

/// Launches one, and another with the first as peer; both tell a reason with one of `words`, and neither knows the other.
fn refused(lab: &Lab, one: (&Host, &[&str]), other: (&Host, &[&str]), words: &[&str]) -> Result<()> {
    let capture = lab.capture()?;
    // Typed addresses: hosts that never meet agree on none.
    one.0.launch(&[one.1, &["--no-ipalloc"]].concat())?;
    other.0.launch(&[other.1, &["--no-ipalloc", &one.0.v4().to_string()]].concat())?;
    for host in [one.0, other.0] {
        let what = format!("{} tells a reason with one of {words:?}", host.name());
        println!("{}: {}", host.name(), wait_for(&what, SOON, || told(host, words))?.0);
    }
    let mesh = Mesh::of(vec![one.0.clone(), other.0.clone()])?;
    let answers = mesh.containers[0].ping(mesh.containers[1].v4()?).count(5).send()?;
    ensure!(answers.received == 0, "{answers:?}");
    for host in &mesh.hosts {
        ensure!(host.peers()?.len() == 1, "{} knows nobody: {:?}", host.name(), host.peers()?);
        let (own, endpoints) = (host.report()?.router.name, host.endpoints()?);
        ensure!(endpoints.iter().all(|endpoint| endpoint.name == own), "nor stations of others: {endpoints:?}");
        ensure!(host.paths()?.iter().all(|path| path.path == "none"), "{:?}", host.paths()?);
        let established = host.connections()?.into_iter().find(|c| c.method != "none");
        ensure!(established.is_none(), "{established:?}");
    }
    let macs = mesh.containers.iter().map(Container::mac).collect::<Result<Vec<_>>>()?;
    for frame in capture.stop()? {
        ensure!(!macs.iter().any(|mac| frame.contains(&mac.0)), "a container's frame: {frame:?}");
    }
    Ok(())
}

/// What status or the log give as reason that has one of the words.
fn told(host: &Host, words: &[&str]) -> Result<String> {
    let infos = host.connections()?.into_iter().map(|connection| connection.info);
    let infos = infos.chain(host.targets()?.into_iter().map(|target| target.info));
    let log = host.log();
    let reasons = log.lines().filter(|line| line.contains("reason="));
    let mut told = infos.chain(reasons.map(str::to_owned));
    let found = told.find(|text| words.iter().any(|word| text.to_lowercase().contains(word)));
    found.with_context(|| format!("{} says nothing of {words:?}; connections {:?}", host.name(), host.connections()))
}

fn secret(lab: &Lab, host: &Host, name: &str) -> Result<String> {
    Ok(format!("--password-file={}", password_file(lab, host, name)?.display()))
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
