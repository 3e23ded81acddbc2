//! One trial: the path of the fast datapath fails, the sleeve takes over; it heals, and the fast datapath takes over again.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    paced::{Paced, Seen},
    pair::Pair,
};

/// Before and after what is measured, with datagrams flowing.
const MARGIN: Duration = Duration::from_millis(300);

/// Between the phases of the heartbeats, the slower of which go every half second, in which trials begin.
const PHASE: Duration = Duration::from_millis(73);
const PHASES: Duration = Duration::from_millis(500);

/// One change of the method.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Change {
    /// Longest time that nothing came, of the worse direction, ms.
    pub(crate) silence_ms: f64,
    /// Datagrams lost, both directions together.
    pub(crate) lost: u32,
    /// Until both ends said that they had changed, ms; as fine as they were asked, each 50 ms or more.
    pub(crate) after_ms: f64,
}

/// There and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// From fastdp to the sleeve.
    pub(crate) left: Change,
    /// From the sleeve to fastdp.
    pub(crate) back: Change,
}

impl Trial {
    /// Blocks and heals once; fastdp carries before and after it.
    pub(crate) fn run(pair: &Pair, number: u32) -> Result<Self> {
        let phase = (PHASE * number).as_millis() % PHASES.as_millis();
        thread::sleep(Duration::from_millis(u64::try_from(phase)?));
        let mut block = None;
        let left = change(pair, "sleeve", || {
            block = Some(pair.block()?);
            Ok(())
        })?;
        let back = change(pair, "fastdp", || block.take().map_or(Ok(()), |block| block.heal()))?;
        Ok(Self { left, back })
    }
}

/// Does `cause` under load, and sees what comes until both ends send by `method`.
fn change(pair: &Pair, method: &str, cause: impl FnOnce() -> Result<()>) -> Result<Change> {
    let [a, b] = &pair.mesh.containers[..] else { anyhow::bail!("two containers") };
    let ways = [Paced::start(a, b)?, Paced::start(b, a)?];
    thread::sleep(MARGIN);
    cause()?;
    let after = pair.wait_method(method)?;
    thread::sleep(MARGIN);
    let seen = ways.into_iter().map(Paced::finish).collect::<Result<Vec<Seen>>>()?;
    let silence = seen.iter().map(|seen| seen.silence).max().unwrap_or_default();
    ensure!(!silence.is_zero(), "nothing came");
    let millis = |span: Duration| span.as_secs_f64() * 1000.0;
    Ok(Change { silence_ms: millis(silence), lost: seen.iter().map(|seen| seen.lost).sum(), after_ms: millis(after) })
}
