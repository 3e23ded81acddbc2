//! Acceptance 6: a peer dies for good, and another takes its address, or nobody does.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft::api::Path;
use weft_integration::{
    lab::{
        Lab,
        mesh::attached,
        remains::traces_of,
        wait::{wait_for, wait_until},
    },
    scenario::{backend::Backend, fabric},
};

const SETTLING: Duration = Duration::from_secs(40);
/// The promise: a minute after its death nothing leads to a peer.
const GONE: Duration = Duration::from_secs(60);

pub(crate) fn by_another(lab: &Lab, backend: Backend) -> Result<()> {
    let mut mesh = fabric::settled(lab, ["A", "B"], false, backend)?;
    mesh.all_ping(2)?;
    let (a, b) = (mesh.hosts[0].clone(), mesh.hosts[1].clone());
    let old = b.report()?.router.name;
    b.kill9()?;
    b.weft(&["reset"])?.checked()?;
    b.relaunch()?;
    ensure!(b.report()?.router.name != old, "it is another");
    // That the old one's addresses are free is for people to say.
    wait_for("the loss is noticed", SETTLING, || a.weft(&["rmpeer", &old.to_string()])?.checked())?;
    mesh.containers.pop();
    mesh.containers.push(attached(&b, "c2", 3)?);
    // Each has a path when it has heard that the other has: neither at the same moment.
    wait_until("each has the other, by the backend, and nobody the old one", SETTLING, || {
        let (ours, theirs) = (a.paths()?, b.paths()?);
        let is_right = |path: &Path| path.path == "direct" && path.method == backend.method();
        let is_old_gone = ours.iter().all(|path| path.name != old || path.path == "none");
        Ok(is_old_gone && [ours, theirs].iter().all(|paths| paths.iter().any(is_right)))
    })?;
    mesh.all_ping(3)
}

pub(crate) fn by_nobody(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B", "C"], false, backend)?;
    let [a, b, _] = &mesh.hosts[..] else { anyhow::bail!("three hosts") };
    let address = b.address(false);
    let during = traces_of(a, address)?;
    ensure!(during.is_empty() != backend.is_fast(), "while it lives: {during:?}");
    b.kill9()?;
    b.namespace().ip("link set eth0 down\n")?;
    wait_until("nothing leads to it any more", GONE, || Ok(traces_of(a, address)?.is_empty()))?;
    mesh.containers[0].ping(mesh.containers[2].v4()?).count(3).all_answered().map(drop)
}
