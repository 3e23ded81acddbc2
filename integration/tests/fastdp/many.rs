//! Acceptance 7: ten thousand stations on the bridge of one peer, told by gossip and programmed in the kernel at once.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        cut::{ActiveCut, Cut},
        host::Host,
        wait::{wait_for, wait_until},
    },
    scenario::{backend::Backend, fabric},
};

const BRIDGE: &str = "weft";
const STATIONS: usize = 10_000;
/// On the bridge of a third peer: what becomes of the others is not to touch them.
const OTHERS: usize = 1000;
const SETTLING: Duration = Duration::from_secs(30);
/// What the kernel's bridge has learnt is looked at every ten seconds; then all are told.
const TOLD: Duration = Duration::from_secs(60);
/// Promised are two seconds and a fifth of one; the figures are printed, and these are for a machine that does other things too.
const PROGRAMMED: Duration = Duration::from_secs(20);
const SWITCHED: Duration = Duration::from_secs(2);
/// A plan for all stations of a peer; what heartbeats and keys need besides is a handful.
const HANDFUL: usize = 100;

pub(crate) fn stations_of_one_peer(lab: &Lab, backend: Backend) -> Result<()> {
    let hosts = lab.hosts(["A", "B", "C"])?;
    let mesh = fabric::launched(lab, &hosts, false, backend, &["--log-level=debug"])?;
    fabric::wait_settled(&mesh, backend, SETTLING)?;
    let [a, b, c] = &hosts;
    put(c, 0xcc, OTHERS)?;
    wait_until("B has C's stations", TOLD, || Ok(programmed(b, 0xcc)?.fast == OTHERS))?;

    put(a, 0xaa, STATIONS)?;
    wait_until("A begins to tell of its stations", TOLD, || Ok(programmed(b, 0xaa)?.fast > 0))?;
    let began = Instant::now();
    wait_until("B has A's stations", PROGRAMMED, || Ok(programmed(b, 0xaa)?.fast == STATIONS))?;
    println!("{STATIONS} stations: programmed {:?} after the first", began.elapsed());
    wait_until("A knows all of them", PROGRAMMED, || Ok(a.report()?.endpoints.len() >= STATIONS + OTHERS))?;

    // The path to their peer changes, and back: nothing of the others' is written anew.
    let mut cut = Some(lab.cut(&Cut::between("A", "B").fastdp())?);
    for (method, way) in [("sleeve", Way { fast: 0, tap: STATIONS }), ("fastdp", Way { fast: STATIONS, tap: 0 })] {
        let before = Changes::of(b)?.0.len();
        if method == "fastdp" {
            cut.take().map_or(Ok(()), ActiveCut::heal)?;
        }
        fabric::wait_method(b, "A", method, SETTLING)?;
        wait_for("all of A's stations go the other way", SETTLING, || {
            let found = programmed(b, 0xaa)?;
            ensure!(found == way, "{found:?}");
            Ok(())
        })?;
        ensure!(programmed(b, 0xcc)? == Way { fast: OTHERS, tap: 0 }, "others are where they were");
        let new = Changes(Changes::of(b)?.0.split_off(before));
        let (took, messages) = (new.longest(method)?, new.messages());
        println!("to {method}: {messages} netlink messages, {took:?} from the decision until the kernel had them");
        ensure!(took <= SWITCHED, "it took {took:?}");
        ensure!(messages <= STATIONS + HANDFUL, "{messages} messages are more than A's stations need: {new:?}");
    }
    mesh.all_ping(3)
}

/// How many stations of a host's table go by the fast datapath, and how many to the TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    fast: usize,
    tap: usize,
}

/// Those whose addresses begin with 02 and `mark`.
fn programmed(host: &Host, mark: u8) -> Result<Way> {
    let shown = host.namespace().run("bridge").args(["fdb", "show", "br", BRIDGE]).checked()?;
    let start = format!("02:{mark:02x}:");
    let count = |port: &str| {
        let lines = shown.lines().filter(|line| line.starts_with(&start) && line.contains("master"));
        lines.filter(|line| line.contains(port)).count()
    };
    Ok(Way { fast: count("dev weft-vx"), tap: count("dev weft-tap") })
}

/// Has a host's bridge learn stations behind its container's port, as if each had sent a frame.
fn put(host: &Host, mark: u8, count: usize) -> Result<()> {
    let ports = host.namespace().run("ip").args(["-o", "link", "show", "type", "veth", "master", BRIDGE]).checked()?;
    let port = ports.split(' ').nth(1).and_then(|name| name.split('@').next()).context("the container's port")?;
    let mut lines = String::new();
    for number in 0..count {
        let [.., high, low] = number.to_be_bytes();
        writeln!(lines, "fdb replace 02:{mark:02x}:00:00:{high:02x}:{low:02x} dev {port} master dynamic")?;
    }
    host.namespace().run("bridge").args(["-batch", "-"]).input(lines).checked().map(drop)
}

/// What a router's log says of its decisions and of what it told the kernel, in its order.
#[derive(Debug)]
struct Changes(Vec<Change>);

#[derive(Debug)]
enum Change {
    /// Frames for a peer go another way from now on.
    Method { at: Duration, fast: bool },
    /// The kernel has a plan, after so many messages.
    Plan { at: Duration, messages: usize },
}

impl Changes {
    fn of(host: &Host) -> Result<Self> {
        host.log().lines().filter_map(|line| Change::parse(line).transpose()).collect::<Result<_>>().map(Self)
    }

    fn messages(&self) -> usize {
        let of = |change: &Change| if let Change::Plan { messages, .. } = change { *messages } else { 0 };
        self.0.iter().map(of).sum()
    }

    /// From the decision for a method to the end of the largest change after it.
    fn longest(&self, method: &str) -> Result<Duration> {
        let is_decision = |change: &Change| match change {
            Change::Method { at, fast } if *fast == (method == "fastdp") => Some(*at),
            Change::Method { .. } | Change::Plan { .. } => None,
        };
        let decided = self.0.iter().find_map(is_decision).with_context(|| format!("no decision: {self:?}"))?;
        let plans = self.0.iter().filter_map(|change| match change {
            Change::Plan { at, messages } if *at >= decided => Some((*messages, *at)),
            Change::Method { .. } | Change::Plan { .. } => None,
        });
        let (_, done) = plans.max().with_context(|| format!("no plan: {self:?}"))?;
        Ok(done - decided)
    }
}

impl Change {
    /// What a line says, if it is of one.
    fn parse(line: &str) -> Result<Option<Self>> {
        if line.contains("the kernel has the plan") {
            let messages = line.split("messages=").nth(1).and_then(|rest| rest.split(' ').next());
            let messages = messages.with_context(|| line.to_owned())?.parse()?;
            return Ok(Some(Self::Plan { at: time_of_day(line)?, messages }));
        }
        let fast = line.contains("frames go by the fast datapath");
        let is_method = fast || line.contains("frames go by the sleeve");
        Ok(if is_method { Some(Self::Method { at: time_of_day(line)?, fast }) } else { None })
    }
}

/// The time that a line of the log begins with, `2026-01-31T23:59:59.123456Z`, since midnight.
fn time_of_day(line: &str) -> Result<Duration> {
    let time = line.split(['T', 'Z']).nth(1).context("a time")?;
    let parts =
        time.split(':').map(str::parse::<f64>).collect::<Result<Vec<_>, _>>().with_context(|| line.to_owned())?;
    let [hours, minutes, seconds] = parts[..] else { anyhow::bail!("no time: {line}") };
    Ok(Duration::from_secs_f64(hours * 3600.0 + minutes * 60.0 + seconds))
}
