//! `weft sim`: the routers' own protocols on a network that is only described, in virtual time.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use weft::{
    api::{Report, text},
    sim::{
        course::Course,
        outcome::Outcome,
        scenario::{EXAMPLE, PEERS, Scenario, Share, Span},
    },
};
use weft_router::config::DEFAULT_CONN_LIMIT;

use crate::{output, settings};

/// Largest scenario, and largest report, in bytes: a thousand peers, each with a link to each.
const FILE_MAX: u64 = 256 << 20;

/// How often it is told how far a simulation is; a quick one says nothing.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// `weft sim`.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Sim {
    /// What to simulate, as `--example` shows; `-` for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print a file that says all that one may say
    #[arg(long, exclusive = true)]
    example: bool,
    /// So many peers
    #[arg(long, value_name = "NUMBER", value_parser = peers)]
    peers: Option<usize>,
    /// The peers and measured links that `weft report` printed into this file; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "peers")]
    from_report: Option<PathBuf>,
    /// What chance comes from: the same gives the same [default: 1]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How much time to simulate, such as 90s or 5m [default: 60s]
    #[arg(long = "for", value_name = "TIME")]
    span: Option<Span>,
    /// Latency of links, one way [default: 10ms]
    #[arg(long, value_name = "TIME")]
    latency: Option<Span>,
    /// Added to each packet's latency by chance, at most [default: 0ms]
    #[arg(long, value_name = "TIME")]
    jitter: Option<Span>,
    /// Share of datagrams that are lost, such as 1% [default: 0%]
    #[arg(long, value_name = "SHARE")]
    loss: Option<Share>,
    /// Added to the latency of the two peers that are farthest apart, less the nearer they are [default: 0ms]
    #[arg(long, value_name = "TIME")]
    spread: Option<Span>,
    /// Share of links that are bad: slower by 100 ms, and lossy by 5 %, unless the file says otherwise [default: 0%]
    #[arg(long, value_name = "SHARE")]
    bad_links: Option<Share>,
    /// Most control connections of a peer, 0 for no limit [default: 200]
    #[arg(long, value_name = "NUMBER")]
    conn_limit: Option<usize>,
    /// Connect only to the given peers, not to those that they tell of
    #[arg(long)]
    no_discovery: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Simulates, and prints what came of it; an error if that is not as the scenario expects.
pub(crate) fn sim(sim: Sim) -> anyhow::Result<()> {
    if sim.example {
        return output::print(EXAMPLE);
    }
    let json = sim.json;
    let outcome = run(Course::new(scenario(sim)?)?);
    if json {
        output::json(&outcome)?;
    } else {
        for (number, table) in text::simulation(&outcome).iter().enumerate() {
            if number > 0 {
                output::print("\n")?;
            }
            output::table(table)?;
        }
    }
    if !outcome.is_as_expected() {
        let missed = outcome.expectations.iter().filter(|expectation| !expectation.met).map(|missed| missed.what);
        bail!("not as expected: {}", missed.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// What is to be simulated: the report or the number of peers, then the file, then the other flags.
fn scenario(sim: Sim) -> anyhow::Result<Scenario> {
    let mut scenario = Scenario { conn_limit: DEFAULT_CONN_LIMIT, ..Scenario::default() };
    if let Some(path) = &sim.from_report {
        let report = report(path).with_context(|| format!("cannot use {}, given by --from-report", path.display()))?;
        scenario = Scenario::recorded(&report, scenario)?;
    }
    scenario.peers = sim.peers.map_or(scenario.peers, Scenario::numbered);
    if let Some(path) = &sim.file {
        let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        scenario = Scenario::parse(&text, scenario).with_context(|| format!("cannot use {}", path.display()))?;
    }
    scenario.seed = sim.seed.unwrap_or(scenario.seed);
    scenario.conn_limit = sim.conn_limit.unwrap_or(scenario.conn_limit);
    scenario.discovery &= !sim.no_discovery;
    let way = &mut scenario.links.way;
    let spans = [
        (sim.span, &mut scenario.span),
        (sim.latency, &mut way.latency),
        (sim.jitter, &mut way.jitter),
        (sim.spread, &mut scenario.links.spread),
    ];
    for (given, into) in spans {
        *into = given.map_or(*into, |Span(span)| span);
    }
    for (given, into) in [(sim.loss, &mut way.loss), (sim.bad_links, &mut scenario.links.bad)] {
        *into = given.map_or(*into, |Share(share)| share);
    }
    Ok(scenario)
}

fn run(mut course: Course) -> Outcome {
    let span = course.scenario().span;
    let started = Instant::now();
    let mut told = started;
    while let Some(at) = course.advance() {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let (at, of, took) = (at.as_secs_f64(), span.as_secs_f64(), started.elapsed().as_secs());
            output::progress(format_args!("{at:.1} of {of:.0} s simulated, in {}", text::span(took)));
        }
    }
    course.outcome()
}

fn report(path: &Path) -> anyhow::Result<Report> {
    serde_json::from_str(&read(path)?).context("it is not what `weft report` prints")
}

fn read(path: &Path) -> io::Result<String> {
    if path != Path::new("-") {
        return settings::read_bounded(path, FILE_MAX);
    }
    let mut text = String::new();
    io::stdin().lock().take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn peers(text: &str) -> Result<usize, String> {
    let bad = || format!("`{text}` is no number of peers from {} to {}", PEERS.start(), PEERS.end());
    text.parse().ok().filter(|count| PEERS.contains(count)).ok_or_else(bad)
}
