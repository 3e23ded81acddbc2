//! Acceptance 6: a peer dies for good, and another takes its address, or nobody does.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::{
    lab::{Lab, mesh::attached, remains::traces_of, wait::wait_until},
    scenario::{backend::Backend, fabric},
};

const PATIENCE: Duration = Duration::from_secs(10);
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
    mesh.containers.pop();
    mesh.containers.push(attached(&b, "c2", 3)?);
    wait_until("only the new one is there, by the backend", SETTLING, || {
        let paths = a.paths()?;
        Ok(paths.iter().all(|path| path.name != old || path.path == "none")
            && paths.iter().any(|path| path.path == "direct" && path.method == backend.method()))
    })?;
    // Both routers begin a handshake with whom they have just met: the first frames of either may come between.
    for (from, to) in mesh.pairs() {
        from.ping(to.v4()?).until_answered(PATIENCE)?;
    }
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
