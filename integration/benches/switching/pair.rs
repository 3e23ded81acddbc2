//! Two hosts of a lab whose containers reach each other by the fast datapath, in clear.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    cut::{ActiveCut, Cut},
    mesh::{Mesh, launch_all},
    wait::wait_for,
};

/// UDP port of the fast datapath: one above that of the sleeve.
const PORT: u16 = 6784;
/// For two routers to find each other, or to prove a path for three seconds, on a busy machine.
const SETTLING: Duration = Duration::from_secs(30);

/// The two, up.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    lab: Lab,
}

impl Pair {
    /// Launches both; fastdp carries when this returns.
    pub(crate) fn up() -> Result<Self> {
        let lab = Lab::new()?;
        let hosts = lab.hosts(["A", "B"])?;
        let first = hosts[0].clone();
        launch_all(&hosts, |host| {
            let peer = (host.name() != first.name()).then(|| first.v4().to_string());
            [Some("--fastdp=vxlan".to_owned()), peer].into_iter().flatten().collect()
        })?;
        let pair = Self { mesh: Mesh::of(hosts.to_vec())?, lab };
        pair.wait_method("fastdp")?;
        // Broadcast goes by the sleeve, which is there later than fastdp: without it addresses are not resolved.
        let [a, b] = &pair.mesh.containers[..] else { anyhow::bail!("two containers") };
        a.ping(b.v4()?).until_answered(SETTLING)?;
        Ok(pair)
    }

    /// Waits until both ends send directly and by this method; how long that took.
    pub(crate) fn wait_method(&self, method: &str) -> Result<Duration> {
        let [a, b] = &self.mesh.hosts[..] else { anyhow::bail!("two hosts") };
        let both = || {
            for (from, to) in [(a, b), (b, a)] {
                let path = from.path_to(to.name())?;
                ensure!(path.path == "direct" && path.method == method, "{} has {path:?}", from.name());
            }
            Ok(())
        };
        wait_for(&format!("both ends send by {method}"), SETTLING, both).map(|((), took)| took)
    }

    /// Blocks UDP of the fast datapath between the two.
    pub(crate) fn block(&self) -> Result<ActiveCut> {
        self.lab.cut(&Cut::between("A", "B").port(PORT))
    }

    /// What the routers think.
    pub(crate) fn diagnosis(&self) -> String {
        self.lab.diagnosis()
    }
}
