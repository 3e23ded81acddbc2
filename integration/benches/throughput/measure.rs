//! The rounds: each measures every candidate, one load after the other, in turns, so that whatever else the machine does
//! meets all of them alike.

use std::{collections::BTreeMap, fmt, fs::OpenOptions, io::Write, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use weft_integration::{
    demo::screen,
    lab::{host::Host, wait::wait_for},
    uml,
};

use super::{
    candidate::{Candidate, Kind},
    datagrams, machine,
    metric::{DATAGRAMS, Metric},
    options::Options,
    stream,
};

/// Streams of the TCP loads.
const STREAMS: [usize; 2] = [1, 4];
/// Pings of one round, and the time between them.
const PINGS: u32 = 1000;
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// The time between pings during a TCP run: a probe, no load.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// The same as the first two in a guest, whose clock ticks every 10 ms.
const GUEST_PINGS: u32 = 100;
const GUEST_PING_INTERVAL: Duration = Duration::from_millis(60);
/// How often one thing is measured at most until it was what it should be, and how long that is waited for.
const TRIES: u32 = 5;
const SETTLING: Duration = Duration::from_secs(30);
/// A UDP trial is so much shorter than a TCP run, as a search needs several, but takes [`TRIAL_MIN`].
const TRIAL_SHARE: u32 = 4;
const TRIAL_MIN: Duration = Duration::from_millis(500);

/// All values of each metric, by round.
pub(crate) type Values = BTreeMap<(Metric, Kind), Vec<f64>>;

/// One load, and what it measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Load {
    /// So many TCP streams.
    Tcp(usize),
    /// Datagrams of so many bytes.
    Udp(usize),
    /// Pings alone.
    Ping,
    /// Pings beside one TCP stream.
    LoadedPing,
    /// None: what routers do by themselves.
    Idle,
}

/// Measures all.
pub(crate) fn rounds(candidates: &[Candidate], options: &Options) -> Result<Values> {
    let mut values = Values::new();
    for round in 1..=options.rounds {
        for (turn, load) in (round as usize..).zip(&options.loads) {
            // Another one begins each time.
            let order = candidates.iter().cycle().skip(turn % candidates.len()).take(candidates.len());
            for candidate in order {
                let seen = load
                    .run_verified(candidate, options)
                    .with_context(|| format!("{load:?} over {}", candidate.kind()))?;
                record(options, round, candidate.kind(), &seen)?;
                seen.into_iter().for_each(|(metric, value)| {
                    values.entry((metric, candidate.kind())).or_default().push(value);
                });
            }
        }
        screen::line(format_args!("round {round} of {} done", options.rounds))?;
    }
    Ok(values)
}

fn record(options: &Options, round: u32, kind: Kind, seen: &[(Metric, f64)]) -> Result<()> {
    let Some(path) = &options.out else { return Ok(()) };
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    for (metric, value) in seen {
        let underlay = format!("{:?}", options.underlay).to_lowercase();
        let name = metric.to_string();
        let line = json!({"round": round, "candidate": kind.to_string(), "underlay": underlay, "metric": name, "value": value});
        writeln!(file, "{line}")?;
    }
    Ok(())
}

impl Load {
    /// Those that say something on the kernel that we are on: in a guest a datagram is as dear as its system call.
    pub(crate) fn all() -> Vec<Self> {
        if uml::is_here() {
            return vec![Self::Tcp(1), Self::Ping, Self::Idle];
        }
        let datagrams = DATAGRAMS.map(Self::Udp);
        let others = [Self::Ping, Self::LoadedPing, Self::Idle];
        STREAMS.map(Self::Tcp).into_iter().chain(datagrams).chain(others).collect()
    }

    /// Measures when traffic goes where it should, and again if it did not to the end: where one core does all, a load may starve
    /// the proof that the path works.
    fn run_verified(self, candidate: &Candidate, options: &Options) -> Result<Vec<(Metric, f64)>> {
        let mut outcome = Err(anyhow!("never tried"));
        for _ in 0..TRIES {
            wait_for("frames go as they should", SETTLING, || candidate.verify())?;
            outcome = self.run(candidate, options).and_then(|seen| candidate.verify().map(|()| seen));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn run(self, candidate: &Candidate, options: &Options) -> Result<Vec<(Metric, f64)>> {
        match self {
            Self::Tcp(streams) => tcp(candidate, streams, options.run),
            Self::Udp(size) => {
                let rates = datagrams::rates(candidate, size, (options.run / TRIAL_SHARE).max(TRIAL_MIN))?;
                Ok(vec![
                    (Metric::UdpClean(size), rates.clean),
                    (Metric::UdpFlat(size), rates.flat),
                    (Metric::UdpOverloaded(size), rates.overloaded),
                    (Metric::UdpOverload(size), rates.overload),
                ])
            }
            Self::Ping => ping(candidate),
            Self::LoadedPing => loaded_ping(candidate, options.run),
            Self::Idle => idle(candidate, options.run),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(streams) => write!(f, "tcp-{streams}"),
            Self::Udp(size) => write!(f, "udp-{size}"),
            Self::Ping => write!(f, "ping"),
            Self::LoadedPing => write!(f, "ping-loaded"),
            Self::Idle => write!(f, "idle"),
        }
    }
}

fn tcp(candidate: &Candidate, streams: usize, run: Duration) -> Result<Vec<(Metric, f64)>> {
    let (machine, routers) = (machine::busy()?, router_cpu(candidate)?);
    let received = stream::load(candidate, streams, run)?;
    let (machine, routers) = (machine::busy()?.saturating_sub(machine), router_cpu(candidate)?.saturating_sub(routers));
    let mut seen = vec![(Metric::Tcp(streams), received.rate / 1e6)];
    if streams == 1 {
        let gigabytes = received.bytes / 1e9;
        seen.push((Metric::MachineCpu, machine.as_secs_f64() / gigabytes));
        if !candidate.routers().is_empty() {
            seen.push((Metric::RouterCpu, routers.as_secs_f64() / gigabytes));
            seen.push((Metric::RouterLoaded, routers.as_secs_f64() * 1000.0 / run.as_secs_f64()));
        }
    }
    let memory = candidate.routers().iter().map(Host::resident_kib).collect::<Result<Vec<_>>>()?;
    seen.extend(memory.into_iter().max().map(|kib| (Metric::Resident, kib as f64 / 1024.0)));
    Ok(seen)
}

fn idle(candidate: &Candidate, run: Duration) -> Result<Vec<(Metric, f64)>> {
    if candidate.routers().is_empty() {
        return Ok(Vec::new());
    }
    let before = router_cpu(candidate)?;
    thread::sleep(run);
    let spent = router_cpu(candidate)?.saturating_sub(before);
    Ok(vec![(Metric::RouterIdle, spent.as_secs_f64() * 1000.0 / run.as_secs_f64())])
}

fn router_cpu(candidate: &Candidate) -> Result<Duration> {
    candidate.routers().iter().map(Host::cpu_time).sum()
}

fn ping(candidate: &Candidate) -> Result<Vec<(Metric, f64)>> {
    let (count, interval) = if uml::is_here() { (GUEST_PINGS, GUEST_PING_INTERVAL) } else { (PINGS, PING_INTERVAL) };
    let times = candidate.ping().count(count).interval(interval).send()?.round_trips;
    ensure!(times.len() * 100 >= count as usize * 99, "only {} of {count} pings were answered", times.len());
    Ok(vec![(Metric::PingMedian, micros(&times, 50)), (Metric::PingTail, micros(&times, 99))])
}

/// What a ping meets that shares the way with a bulk transfer: every queue on it.
fn loaded_ping(candidate: &Candidate, run: Duration) -> Result<Vec<(Metric, f64)>> {
    let pings = candidate.ping().interval(PROBE_INTERVAL).start()?;
    stream::load(candidate, 1, run)?;
    let times = pings.stop()?.0.round_trips;
    ensure!(
        times.len() as u128 * 2 > run.as_millis() / PROBE_INTERVAL.as_millis(),
        "only {} pings came back",
        times.len()
    );
    Ok(vec![(Metric::LoadedMedian, micros(&times, 50)), (Metric::LoadedTail, micros(&times, 99))])
}

/// The time that so many per cent are within.
fn micros(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
