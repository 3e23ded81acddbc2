//! TCP load: iperf3 from end to end.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use weft_integration::lab::wait::wait_until;

use super::candidate::Candidate;

const PORT: &str = "5201";
/// For a server to listen, and for a client to say goodbye.
const GRACE: Duration = Duration::from_secs(20);

/// What arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Payload bytes.
    pub(crate) bytes: f64,
    /// Payload bits in a second.
    pub(crate) rate: f64,
}

/// Sends for `run` by so many streams.
pub(crate) fn load(candidate: &Candidate, streams: usize, run: Duration) -> Result<Received> {
    let [from, to] = candidate.ends();
    let server = Server(to.run("iperf3").args(["-s", "-1", "-p", PORT]).spawn(Stdio::null(), Stdio::null())?);
    let listening = ["-Hltn", "sport", "=", &format!(":{PORT}")];
    wait_until("iperf3 listens", GRACE, || Ok(!to.run("ss").args(listening).checked()?.is_empty()))?;
    let (to, seconds, streams) = (candidate.to().to_string(), run.as_secs().to_string(), streams.to_string());
    let args = ["-J", "-c", &to, "-p", PORT, "-t", &seconds, "-P", &streams];
    let text = from.run("iperf3").args(args).deadline(run + GRACE).output()?.stdout;
    drop(server);
    let report: Value = serde_json::from_str(&text).with_context(|| format!("iperf3 printed {text}"))?;
    let sum = &report["end"]["sum_received"];
    let number = |key: &str| sum[key].as_f64().with_context(|| format!("iperf3 says {}", report["error"]));
    Ok(Received { bytes: number("bytes")?, rate: number("bits_per_second")? })
}

/// The server, which ends by itself after one test, or with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
