//! Acceptance 5: keys are renewed under traffic, again and again, and nothing is lost.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use weft_integration::{
    lab::{Lab, host::Host, stream::Stream, wait::patience},
    scenario::{backend::Backend, fabric},
};

/// A thousand packets a second in each direction.
const INTERVAL: Duration = Duration::from_millis(1);
const SIZE: usize = 200;
const SETTLING: Duration = Duration::from_secs(30);
const REKEYS: u64 = 20;
/// Instead of two minutes.
const OFTEN: &str = "--rekey-after=3";
/// For all of them, with as much again.
const ALL: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(2);

pub(crate) fn loses_nothing(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["A", "B"])?;
    let mesh = fabric::launched(lab, &hosts, false, backend, &[OFTEN])?;
    fabric::wait_settled(&mesh, backend, SETTLING)?;
    let [a, b] = &mesh.containers[..] else { anyhow::bail!("two containers") };
    // Before there were keys, heartbeats were refused, as they have to be.
    let refused = || mesh.hosts.iter().map(Host::ipsec_refused).collect::<Result<Vec<_>>>();
    let (before, goal) = (refused()?, rekeys(&mesh.hosts[0])? + REKEYS);
    let stream = Stream::start(a, b, false, INTERVAL, SIZE)?;
    let mut seen = BTreeSet::new();
    let mut waited = Duration::ZERO;
    while rekeys(&mesh.hosts[0])? < goal {
        ensure!(waited < patience(ALL), "too few rekeys: {} of {goal}", rekeys(&mesh.hosts[0])?);
        seen.extend(states(&mesh.hosts[0])?);
        thread::sleep(LOOK);
        waited += LOOK;
    }
    fabric::expect_carried(&mesh, backend)?;
    for flow in stream.stop()? {
        println!("{}: {} sent, longest gap {:?}", flow.what, flow.sent, flow.longest_gap);
        let whole = flow.lost.is_empty() && flow.duplicates == 0;
        ensure!(whole, "{} lost, {} copies: {flow:?}", flow.lost.len(), flow.duplicates);
    }
    let after = refused()?;
    ensure!(before == after, "the kernel's IPsec refused packets: {before:?}, later {after:?}");
    if backend.is_fast() {
        println!("{} states of ESP, one after the other, to A and from it", seen.len());
        ensure!(seen.len() as u64 >= 2 * (REKEYS - 1), "the kernel's keys were renewed too: {seen:?}");
    }
    Ok(())
}

/// Times that new keys came into use on a host.
fn rekeys(host: &Host) -> Result<u64> {
    let counters = host.report()?.counters;
    counters.get("rekeys").copied().with_context(|| format!("{counters:?}"))
}

/// The SPIs of the kernel's security associations on a host.
fn states(host: &Host) -> Result<Vec<String>> {
    let shown = host.namespace().run("ip").args(["-o", "xfrm", "state"]).output()?.stdout;
    let mut words = shown.split_whitespace();
    Ok(std::iter::from_fn(|| words.by_ref().skip_while(|word| *word != "spi").nth(1)).map(str::to_owned).collect())
}
