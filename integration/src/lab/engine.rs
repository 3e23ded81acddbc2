//! A Docker engine of a host: the real `dockerd`, in the host's network and a mount namespace of its own.
//!
//! ```text
//!   host's namespace ── dockerd, containerd          /run ──▶ DIR/run, so that each host has its own plugins' sockets
//!        │                └── containers             /sys/fs/cgroup/weft-t…-HOST: what the sweep of a killed lab ends
//!        └── router, with --docker-plugin DIR/run/docker/plugins
//! ```
//! Containers are of one image made from busybox alone; no registry is asked.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Child,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use super::{
    cage::Cage,
    command::Run,
    host::Host,
    wait::{wait_for, wait_until},
};

/// What containers are made from.
pub const IMAGE: &str = "weft-test";
/// A static program that is many.
pub(super) const BUSYBOX: &str = "/bin/busybox";
/// What of it containers use, by name.
const APPLETS: [&str; 8] = ["sh", "sleep", "ping", "ip", "nslookup", "cat", "hostname", "nc"];
/// What must be installed.
const NEEDED: [(&str, &str); 4] = [
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/bin/docker", "docker.io"),
    ("/usr/bin/runc", "runc"),
    (BUSYBOX, "busybox-static"),
];
/// For an engine to start or end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a command of Docker's.
const COMMAND: Duration = Duration::from_secs(90);

/// Why engines cannot run here; none if they can.
pub fn missing() -> Option<String> {
    let (path, package) = NEEDED.iter().find(|(path, _)| !Path::new(path).exists())?;
    Some(format!("no {path}; install the package {package} (`make engine-deps` does)"))
}

/// Where a host's engine has its files.
fn dir_of(host: &Host) -> PathBuf {
    host.dir().join("engine")
}

/// Where it writes what it does, if there is one.
pub(super) fn log_of(host: &Host) -> PathBuf {
    dir_of(host).join("dockerd.log")
}

/// An engine; ended, with its containers, when dropped.
#[derive(Debug)]
pub struct Engine {
    host: Host,
    dir: PathBuf,
    args: Vec<String>,
    cage: Cage,
    running: Mutex<Option<Child>>,
}

impl Engine {
    /// Starts one on a host, with the image. The host's `weft` commands ask this engine from now on.
    pub fn start(host: &Host, args: &[&str]) -> Result<Self> {
        let dir = dir_of(host);
        fs::create_dir_all(&dir)?;
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let cage = Cage::new(host, &dir, &["/run", "/etc/docker"])?;
        let engine = Self { host: host.clone(), dir, args, cage, running: Mutex::default() };
        host.set_env("DOCKER_HOST", &engine.address());
        engine.launch()?;
        engine.load_image()?;
        Ok(engine)
    }

    /// Where the engine looks for plugins, as the router is told.
    pub fn plugins(&self) -> PathBuf {
        self.dir.join("run/docker/plugins")
    }

    /// The router's flag for it.
    pub fn flag(&self) -> String {
        format!("--docker-plugin={}", self.plugins().display())
    }

    /// A `docker` command.
    pub fn docker(&self, args: &[&str]) -> Run {
        Run::new("/usr/bin/docker").args(["-H", &self.address()]).args(args).deadline(COMMAND)
    }

    /// A container that sleeps, with these options; its id.
    pub fn run(&self, name: &str, options: &[&str]) -> Result<String> {
        let run = self.docker(&["run", "-d", "--name", name]).args(options).args([IMAGE, "sleep", "100000"]);
        Ok(run.checked()?.trim().to_owned())
    }

    /// A command in a container.
    pub fn exec(&self, container: &str, command: &[&str]) -> Run {
        self.docker(&["exec", container]).args(command)
    }

    /// Pings from a container until there is an answer.
    pub fn ping(&self, container: &str, to: &str, deadline: Duration) -> Result<()> {
        wait_for(&format!("{container} of {} pings {to}", self.host.name()), deadline, || {
            self.exec(container, &["ping", "-c", "1", "-W", "1", to]).checked()
        })
        .map(drop)
    }

    /// What `docker inspect` says by a template.
    pub fn inspect(&self, what: &str, template: &str) -> Result<String> {
        Ok(self.docker(&["inspect", "--format", template, what]).checked()?.trim().to_owned())
    }

    /// What `docker inspect` says, parsed.
    pub fn inspected<T: DeserializeOwned>(&self, what: &str, template: &str) -> Result<T> {
        let text = self.inspect(what, template)?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// A container's address in a network.
    pub fn address_of(&self, container: &str, network: &str) -> Result<String> {
        self.inspect(container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
    }

    /// Ends the engine as its service manager does.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Kills the engine alone.
    pub fn kill9(&self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Starts it again.
    pub fn launch(&self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(log_of(&self.host))?;
        // A killed one leaves its pid files, which mean other processes by now, or none.
        for file in ["run/docker.pid", "run/docker/containerd/containerd.pid"] {
            drop(fs::remove_file(self.dir.join(file)));
        }
        let child = self
            .cage
            .run("/usr/sbin/dockerd")
            .args(["--data-root", &self.dir.join("data").display().to_string()])
            .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "-H", &self.address()])
            .args(["--cgroup-parent", &format!("/{}", self.host.namespace().name())])
            .args(&self.args)
            .spawn(log.try_clone()?, log)?;
        *self.lock() = Some(child);
        wait_for("the engine answers", PATIENCE, || {
            if let Some(status) = self.lock().as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("dockerd has ended ({status}): {}", self.log_end());
            }
            self.docker(&["version"]).checked()
        })
        .map(drop)
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.lock().take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let ended = wait_until("the engine ends", PATIENCE, || Ok(child.try_wait()?.is_some()));
        ended.map(drop).with_context(|| self.log_end())
    }

    fn load_image(&self) -> Result<()> {
        let tar = image(&self.dir)?;
        let tar = tar.to_str().context("a path in UTF-8")?;
        self.docker(&["import", tar, IMAGE]).checked().map(drop)
    }

    /// Where the engine listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The end of the engine's log, for messages.
    fn log_end(&self) -> String {
        let log = fs::read_to_string(log_of(&self.host)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let name = self.host.namespace().name();
        end_control_groups(name);
        // What is still there the lab's sweep ends.
        let _ = self.stop();
        end_control_groups(name);
    }
}

/// An image made of busybox alone, as an archive in a directory.
pub(super) fn image(dir: &Path) -> Result<PathBuf> {
    let (root, tar) = (dir.join("image"), dir.join("image.tar"));
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(BUSYBOX, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Run::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&root).arg(".").checked()?;
    Ok(tar)
}

/// Kills all that runs in control groups whose names begin so, and removes them: a killed engine's containers.
pub fn end_control_groups(prefix: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let tops: Vec<PathBuf> = [PathBuf::from("/sys/fs/cgroup")].into_iter().chain(hierarchies).collect();
    for group in tops.iter().filter_map(|top| fs::read_dir(top).ok()).flatten().flatten() {
        if group.file_name().to_string_lossy().starts_with(prefix) && !prefix.is_empty() {
            // It may be busy for a moment more; the next sweep sees it again.
            let _ = end_control_group(&group.path());
        }
    }
}

fn end_control_group(group: &Path) -> Result<()> {
    for below in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        end_control_group(&below.path())?;
    }
    let processes = || fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in processes().lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    wait_until("the control group is empty", Duration::from_secs(5), || Ok(processes().is_empty()))?;
    ensure!(fs::remove_dir(group).is_ok() || !group.exists(), "{} stays", group.display());
    Ok(())
}
