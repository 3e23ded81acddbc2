//! A host: a namespace on the underlay in which one real router runs, driven by the `weft` command line only.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;
use weft::api;

use super::{
    cage,
    command::{Done, Run},
    container::Container,
    engine,
    namespace::Namespace,
    nat::{self, Gateway},
    ping::Ping,
    switch::{self, Switch},
    wait::wait_until,
};

/// The host's device on the underlay.
pub const UNDERLAY: &str = "eth0";
/// The control and sleeve port.
pub const PORT: u16 = 6783;
/// A verb that takes longer hangs.
const VERB_DEADLINE: Duration = Duration::from_secs(20);
/// Unit of times in /proc (proc(5): sysconf(_SC_CLK_TCK) is 100 on all Linux).
const TICK: Duration = Duration::from_millis(10);
/// Lines of each log in a diagnosis.
const LOG_LINES: usize = 40;

/// A host; clones are the same host.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    dir: PathBuf,
    namespace: Namespace,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    launched: Mutex<Vec<String>>,
    foreground: Mutex<Option<Child>>,
    env: Mutex<Vec<(String, String)>>,
    /// The process that holds the mount namespace for `weft` commands.
    cage: Mutex<Option<u32>>,
}

impl Host {
    /// The host `name` of a lab on the switch's port of that name, with the addresses of number `index`.
    pub fn on_switch(lab: &str, name: &str, lab_dir: &Path, switch: &Switch, index: u8) -> Result<Self> {
        let namespace = Namespace::create(&format!("{lab}-{name}"))?;
        switch.plug(&namespace, UNDERLAY, name)?;
        let (v4, v6) = switch::addresses(index);
        namespace.ip(&format!("addr add {v4}/24 dev {UNDERLAY}\naddr add {v6}/64 dev {UNDERLAY} nodad\n"))?;
        Self::new(name, lab_dir, namespace, v4, v6)
    }

    /// The host `name` of a lab behind a gateway.
    pub fn behind(lab: &str, name: &str, lab_dir: &Path, gateway: &Gateway) -> Result<Self> {
        let namespace = Namespace::create(&format!("{lab}-{name}"))?;
        let [(gateway4, gateway6), (v4, v6)] = nat::INNER;
        let outer = gateway.namespace();
        let to = outer.name();
        namespace.ip(&format!(
            "link add {UNDERLAY} type veth peer name lan netns {to}\n\
             link set {UNDERLAY} addrgenmode none\nlink set {UNDERLAY} up\n"
        ))?;
        outer.ip(&format!(
            "link set lan addrgenmode none\nlink set lan up\n\
             addr add {gateway4}/24 dev lan\naddr add {gateway6}/64 dev lan nodad\n"
        ))?;
        namespace.ip(&format!(
            "addr add {v4}/24 dev {UNDERLAY}\naddr add {v6}/64 dev {UNDERLAY} nodad\n\
             route add default via {gateway4}\nroute add default via {gateway6} dev {UNDERLAY}\n"
        ))?;
        Self::new(name, lab_dir, namespace, v4, v6)
    }

    fn new(name: &str, lab_dir: &Path, namespace: Namespace, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        let dir = lab_dir.join(name);
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        let (launched, foreground, env) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (name, cage) = (name.to_owned(), Mutex::default());
        Ok(Self(Arc::new(Inner { name, dir, namespace, v4, v6, launched, foreground, env, cage })))
    }

    /// Its name, also the router's nickname and the name of its port on the switch.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// Its IPv4 address on the underlay.
    pub fn v4(&self) -> Ipv4Addr {
        self.0.v4
    }

    /// Its IPv6 address on the underlay.
    pub fn v6(&self) -> Ipv6Addr {
        self.0.v6
    }

    /// Its addresses as targets: IPv4 or IPv6.
    pub fn address(&self, ipv6: bool) -> IpAddr {
        if ipv6 { self.0.v6.into() } else { self.0.v4.into() }
    }

    /// Where its router listens.
    pub fn sleeve(&self, ipv6: bool) -> SocketAddr {
        SocketAddr::new(self.address(ipv6), PORT)
    }

    /// The directory of all its files.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The router's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.0.dir.join("data")
    }

    /// The router's run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.0.dir.join("run")
    }

    /// A container of this host, not attached yet.
    pub fn container(&self, name: &str) -> Result<Container> {
        Container::new(self, name)
    }

    /// A ping from the host itself, on the underlay.
    pub fn ping(&self, to: impl Into<IpAddr>) -> Ping {
        Ping::new(&self.0.namespace, to.into())
    }

    /// Takes its IPv4 address on the underlay away: what works from now on works by IPv6.
    pub fn drop_ipv4(&self) -> Result<()> {
        self.0.namespace.ip(&format!("addr del {}/24 dev {UNDERLAY}\n", self.v4()))
    }

    /// Makes the kernel cut packets to size before they leave the host, not later, and join none that arrive.
    pub fn disable_offloads(&self) -> Result<()> {
        self.set_offloads("off", "off")
    }

    /// Has runs of segments pass the underlay's device whole, as veth devices do by themselves, or be cut before it, as by a network card
    /// that cannot; what arrives may be joined again.
    pub fn pass_runs_whole(&self, is_so: bool) -> Result<()> {
        self.set_offloads(if is_so { "on" } else { "off" }, "on")
    }

    fn set_offloads(&self, cutting: &str, joining: &str) -> Result<()> {
        let offloads = ["tso", cutting, "gso", cutting, "tx-udp-segmentation", cutting, "gro", joining];
        self.0.namespace.run("ethtool").args(["-K", UNDERLAY]).args(offloads).checked().map(drop)
    }

    /// Has all `weft` commands from now on run with a variable of the environment.
    pub fn set_env(&self, name: &str, value: &str) {
        lock(&self.0.env).push((name.to_owned(), value.to_owned()));
    }

    /// Has all `weft` commands from now on run in the cage that this process holds.
    pub fn enter(&self, holder: u32) {
        *lock(&self.0.cage) = Some(holder);
    }

    /// A `weft` command on this host.
    pub fn weft<S: AsRef<str>>(&self, args: &[S]) -> Result<Run> {
        let program = binary()?;
        let run = match *lock(&self.0.cage) {
            Some(holder) => cage::inside(holder, program),
            None => self.0.namespace.run(program),
        };
        let run = run
            .args(args.iter().map(AsRef::as_ref))
            .env("WEFT_DATA_DIR", self.data_dir())
            .env("WEFT_RUN_DIR", self.run_dir())
            .env("NO_COLOR", "1")
            .deadline(VERB_DEADLINE);
        Ok(lock(&self.0.env).iter().fold(run, |run, (name, value)| run.env(name, value)))
    }

    /// `weft launch ARGS`: in the background; returns when it is ready.
    pub fn launch<S: AsRef<str>>(&self, args: &[S]) -> Result<()> {
        self.try_launch(args)?.checked().map(drop)
    }

    /// `weft launch ARGS`, whatever its exit status.
    pub fn try_launch<S: AsRef<str>>(&self, args: &[S]) -> Result<Done> {
        let args: Vec<String> = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let done = self.weft(&["launch", "--nickname", self.name()])?.args(&args).output()?;
        *lock(&self.0.launched) = args;
        Ok(done)
    }

    /// `weft launch` as it was launched last.
    pub fn relaunch(&self) -> Result<()> {
        let args = lock(&self.0.launched).clone();
        self.launch(&args)
    }

    /// `weft router ARGS`: in the foreground, as a child of ours; returns when it is ready.
    pub fn router<S: AsRef<str>>(&self, args: &[S]) -> Result<()> {
        let log = fs::File::create(self.0.dir.join("router.log"))?;
        let run = self.weft(&["router", "--nickname", self.name()])?.args(args.iter().map(AsRef::as_ref));
        *lock(&self.0.foreground) = Some(run.spawn(log.try_clone()?, log)?);
        wait_until("the router in the foreground is ready", VERB_DEADLINE, || {
            Ok(self.weft(&["status"])?.output()?.status.success())
        })
        .map(drop)
    }

    /// `weft stop`.
    pub fn stop(&self) -> Result<()> {
        self.weft(&["stop"])?.checked()?;
        if let Some(mut child) = lock(&self.0.foreground).take() {
            let ended = || Ok(child.try_wait()?.is_some());
            wait_until("the router in the foreground ends", VERB_DEADLINE, ended)?;
        }
        Ok(())
    }

    /// Process id of the router, by its pid file.
    pub fn pid(&self) -> Result<i32> {
        let path = self.run_dir().join("weft.pid");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.trim().parse().with_context(|| format!("{}: `{text}`", path.display()))
    }

    /// Memory that the router occupies, in KiB (proc(5), VmRSS of status).
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().context("VmRSS")
    }

    /// CPU time that the router used so far, by itself and for it by the kernel (proc(5), fields 14 and 15 of stat).
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let (_, fields) = stat.rsplit_once(") ").context("a name in brackets")?;
        let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
        Ok(TICK * u32::try_from(times.iter().sum::<u64>())?)
    }

    /// Lets its router have no more than so many percent of a core, until it ends.
    pub fn limit_cpu(&self, percent: u32) -> Result<()> {
        const PERIOD_US: u32 = 20_000;
        let quota_us = PERIOD_US * percent / 100;
        // The older version has a hierarchy for each controller.
        let older = Path::new("/sys/fs/cgroup/cpu");
        let top = if older.exists() { older } else { Path::new("/sys/fs/cgroup") };
        // Goes with the lab, by its name.
        let group = top.join(self.namespace().name());
        fs::create_dir(&group).with_context(|| group.display().to_string())?;
        let set = |file, value: String| fs::write(group.join(file), &value).with_context(|| format!("{file} {value}"));
        if top == older {
            set("cpu.cfs_period_us", PERIOD_US.to_string())?;
            set("cpu.cfs_quota_us", quota_us.to_string())?;
        } else {
            fs::write(top.join("cgroup.subtree_control"), "+cpu").context("the controller of CPUs")?;
            set("cpu.max", format!("{quota_us} {PERIOD_US}"))?;
        }
        set("cgroup.procs", self.pid()?.to_string())
    }

    /// Kills the router as `kill -9` does, and waits for its end.
    pub fn kill9(&self) -> Result<()> {
        let pid = Pid::from_raw(self.pid()?);
        ensure!(self.0.namespace.processes().contains(&pid), "{pid} of {}'s pid file is not its process", self.name());
        kill(pid, Signal::SIGKILL)?;
        if let Some(mut child) = lock(&self.0.foreground).take() {
            child.wait()?;
        }
        wait_until("the killed router is gone", VERB_DEADLINE, || Ok(is_gone(pid))).map(drop)
    }

    /// A verb with `--json`, parsed.
    pub fn json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let run = self.weft(args)?.arg("--json");
        let text = run.checked()?;
        serde_json::from_str(&text).with_context(|| format!("`{run}` printed {text}"))
    }

    /// `weft status connections --json`.
    pub fn connections(&self) -> Result<Vec<api::Connection>> {
        self.json(&["status", "connections"])
    }

    /// `weft status peers --json`.
    pub fn peers(&self) -> Result<Vec<api::Peer>> {
        self.json(&["status", "peers"])
    }

    /// `weft status paths --json`.
    pub fn paths(&self) -> Result<Vec<api::Path>> {
        self.json(&["status", "paths"])
    }

    /// `weft status endpoints --json`.
    pub fn endpoints(&self) -> Result<Vec<api::Endpoint>> {
        self.json(&["status", "endpoints"])
    }

    /// `weft status targets --json`.
    pub fn targets(&self) -> Result<Vec<api::TargetStatus>> {
        self.json(&["status", "targets"])
    }

    /// `weft ps --json`.
    pub fn ps(&self) -> Result<Vec<api::Attachment>> {
        self.json(&["ps"])
    }

    /// `weft report`.
    pub fn report(&self) -> Result<api::Report> {
        let text = self.weft(&["report"])?.checked()?;
        serde_json::from_str(&text).with_context(|| format!("`weft report` printed {text}"))
    }

    /// The path to the peer with the nickname `nickname`.
    pub fn path_to(&self, nickname: &str) -> Result<api::Path> {
        let paths = self.paths()?;
        let is_it = |path: &&api::Path| path.nickname.as_ref().is_some_and(|name| name.to_string() == nickname);
        paths
            .iter()
            .find(is_it)
            .cloned()
            .with_context(|| format!("{} has no path to {nickname}: {paths:?}", self.name()))
    }

    /// Whether the peer with the nickname `nickname` is reached as `path` says: `direct`, `relay` or `none`.
    pub fn expect_path(&self, nickname: &str, path: &str) -> Result<()> {
        let found = self.path_to(nickname)?;
        if found.path != path {
            bail!("the path from {} to {nickname} should be {path}, is {found:?}", self.name());
        }
        Ok(())
    }

    /// Whether there is an established connection with the peer of the nickname `nickname`.
    pub fn expect_established(&self, nickname: &str) -> Result<api::Connection> {
        let connections = self.connections()?;
        let is_it = |connection: &&api::Connection| {
            connection.state == api::ConnectionState::Established
                && connection.nickname.as_ref().is_some_and(|name| name.to_string() == nickname)
        };
        let found = connections.iter().find(is_it).cloned();
        found.with_context(|| format!("{} is not connected with {nickname}: {connections:#?}", self.name()))
    }

    /// The router's logs.
    pub fn log(&self) -> String {
        let files = [self.0.dir.clone(), self.data_dir(), self.run_dir()];
        let logs = files.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        let paths = logs.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log"));
        paths.filter_map(|path| fs::read_to_string(path).ok()).collect()
    }

    /// The kernel's own counters of what its IPsec refused (Documentation/networking/xfrm_proc.rst); empty without IPsec.
    pub fn ipsec_refused(&self) -> Result<String> {
        self.0.namespace.run("sh").args(["-c", "cat /proc/net/xfrm_stat 2>/dev/null || true"]).checked()
    }

    /// What the router says about itself, with the end of its log.
    pub fn diagnosis(&self) -> String {
        let mut text = format!("\n===== {} ({}, {})\n", self.name(), self.v4(), self.v6());
        for what in ["summary", "connections", "targets", "peers", "paths", "endpoints", "dns"] {
            let args: &[&str] = if what == "summary" { &["status"] } else { &["status", what] };
            text += &match self.weft(args).and_then(|run| run.deadline(Duration::from_secs(5)).output()) {
                Ok(done) => format!("--- {what}\n{}{}", done.stdout, done.stderr),
                Err(error) => format!("--- {what}\n{error:#}\n"),
            };
        }
        if let Ok(report) = self.report() {
            text += &format!("--- counters\n{:?}\n", report.counters);
        }
        text += &format!("--- log\n{}\n", last_lines(&self.log()));
        if let Ok(log) = fs::read_to_string(engine::log_of(self)) {
            text += &format!("--- Docker's log\n{}\n", last_lines(&log));
        }
        text
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// The `weft` program: WEFT_BIN, or the one built beside this program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("where this program is")?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("weft")).find(|path| path.is_file());
    beside
        .with_context(|| format!("no `weft` beside {}: run `cargo build -p weft-cmd`, or set WEFT_BIN", own.display()))
}

/// Whether a process has ended with all its threads; until then its sockets may still be open.
fn is_gone(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    threads == 0 || (threads == 1 && stat.contains(") Z "))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
