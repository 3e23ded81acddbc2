//! Two hosts of a lab whose containers reach each other by the fast datapath, in clear.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_integration::{
    lab::{
        Lab,
        cut::{ActiveCut, Cut},
        mesh::Mesh,
    },
    scenario::{backend::Backend, fabric},
};

/// For two routers to prove a path for three seconds, on a busy machine.
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
        let mesh = fabric::settled(&lab, ["A", "B"], false, Backend::Vxlan).with_context(|| lab.diagnosis())?;
        Ok(Self { mesh, lab })
    }

    /// Waits until both ends send directly and by this method; how long that took.
    pub(crate) fn wait_method(&self, method: &str) -> Result<Duration> {
        let started = Instant::now();
        for (host, peer) in self.mesh.hosts.iter().zip(["B", "A"]) {
            fabric::wait_method(host, peer, method, SETTLING)?;
        }
        Ok(started.elapsed())
    }

    /// Blocks the fast datapath between the two.
    pub(crate) fn block(&self) -> Result<ActiveCut> {
        self.lab.cut(&Cut::between("A", "B").fastdp())
    }

    /// What the routers think.
    pub(crate) fn diagnosis(&self) -> String {
        self.lab.diagnosis()
    }
}
