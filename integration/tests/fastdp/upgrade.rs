//! Acceptance 5: a router is replaced under traffic, and the kernel goes on carrying: nothing is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::{
    lab::{Lab, host::Host, stream::Stream},
    scenario::{backend::Backend, fabric},
};

/// A thousand packets a second in each direction.
const INTERVAL: Duration = Duration::from_millis(1);
const SIZE: usize = 200;
const SETTLING: Duration = Duration::from_secs(30);
/// How long the network is without one of its routers, and watched after its return.
const WITHOUT: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(5);

pub(crate) fn loses_nothing(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B"], false, backend)?;
    let [a, b] = &mesh.containers[..] else { anyhow::bail!("two containers") };
    for (what, end) in [("stopped", Host::stop as fn(&Host) -> Result<()>), ("killed", Host::kill9)] {
        let stream = Stream::start(a, b, false, INTERVAL, SIZE)?;
        end(&mesh.hosts[0])?;
        std::thread::sleep(WITHOUT);
        mesh.hosts[0].relaunch()?;
        fabric::wait_settled(&mesh, backend, SETTLING)?;
        std::thread::sleep(AFTER);
        for flow in stream.stop()? {
            println!("{what}, {}: {} sent, longest gap {:?}", flow.what, flow.sent, flow.longest_gap);
            let whole = flow.lost.is_empty() && flow.duplicates == 0;
            ensure!(whole, "{what}: {} lost, {} copies: {:?}", flow.lost.len(), flow.duplicates, flow);
        }
    }
    for host in &mesh.hosts {
        let refused = refused(host)?;
        ensure!(refused.is_empty(), "{}'s IPsec refused packets: {refused:?}", host.name());
    }
    Ok(())
}

/// What the kernel's IPsec has ever refused there, by its own counters (Documentation/networking/xfrm_proc.rst); nothing without IPsec.
fn refused(host: &Host) -> Result<Vec<String>> {
    let counters = host.namespace().run("sh").args(["-c", "cat /proc/net/xfrm_stat 2>/dev/null || true"]).checked()?;
    let count = |line: &&str| line.split_whitespace().nth(1).is_none_or(|count| count != "0");
    Ok(counters.lines().filter(count).map(str::to_owned).collect())
}
