//! One trial: the path of the fast datapath fails, the sleeve takes over; it heals, and the fast datapath takes over again.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;
use weft_integration::lab::stream::Stream;

use super::pair::Pair;

/// Between two datagrams of a direction, and their size.
const PACE: Duration = Duration::from_millis(1);
const SIZE: usize = 4;

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
    let stream = Stream::start(a, b, false, PACE, SIZE)?;
    thread::sleep(MARGIN);
    cause()?;
    let after = pair.wait_method(method)?;
    thread::sleep(MARGIN);
    let flows = stream.stop()?;
    let silence = flows.iter().map(|flow| flow.longest_gap).max().unwrap_or_default();
    ensure!(!silence.is_zero(), "nothing came");
    let millis = |span: Duration| span.as_secs_f64() * 1000.0;
    let lost = u32::try_from(flows.iter().map(|flow| flow.lost.len()).sum::<usize>())?;
    Ok(Change { silence_ms: millis(silence), lost, after_ms: millis(after) })
}
