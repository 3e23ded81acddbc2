//! podman on a host, with its network back end for CNI: the host's `weft` commands run in the same mount namespace, and install the
//! plugin there as people do.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    cage::Cage,
    cni::REFERENCE,
    command::Run,
    engine::{BUSYBOX, end_control_groups, image},
    host::Host,
    wait::wait_for,
};

/// What containers are made from.
const IMAGE: &str = "localhost/weft-test";
/// What must be installed.
const NEEDED: [(&str, &str); 4] = [
    ("/usr/bin/podman", "podman"),
    ("/usr/sbin/runc", "runc"),
    (BUSYBOX, "busybox-static"),
    ("/usr/lib/cni/portmap", "containernetworking-plugins"),
];
/// For a command.
const COMMAND: Duration = Duration::from_secs(90);
/// Where `weft setup-cni` puts what podman reads.
const CONFLIST: &str = "/etc/cni/net.d/10-weft.conflist";

/// Why podman cannot run here; none if it can.
pub fn missing() -> Option<String> {
    let (path, package) = NEEDED.iter().find(|(path, _)| !std::path::Path::new(path).exists())?;
    Some(format!("no {path}; install the package {package} (`make cni-deps` does)"))
}

/// podman of a host; its containers are removed when dropped.
#[derive(Debug)]
pub struct Podman {
    host: Host,
    dir: PathBuf,
    cage: Cage,
}

impl Podman {
    /// On a host without a router yet, with the image and the plugin.
    pub fn new(host: &Host) -> Result<Self> {
        let dir = host.dir().join("podman");
        fs::create_dir_all(&dir)?;
        let cage = Cage::new(host, &dir, &["/run", "/etc/cni", "/opt/cni", "/var/lib/cni"])?;
        host.enter(cage.pid());
        let podman = Self { host: host.clone(), dir, cage };
        podman.configure()?;
        let tar = image(&podman.dir)?;
        podman.podman(&["import", "-q", tar.to_str().context("a path in UTF-8")?, IMAGE]).checked()?;
        Ok(podman)
    }

    /// A `podman` command.
    pub fn podman(&self, args: &[&str]) -> Run {
        let run = self.cage.run("/usr/bin/podman").args(args).deadline(COMMAND);
        run.env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"))
    }

    /// `podman run` of a container that sleeps, on the network `weft`, with these options.
    pub fn run(&self, name: &str, options: &[&str]) -> Run {
        let group = format!("--cgroup-parent=/{}", self.host.namespace().name());
        let run = self.podman(&["run", "-d", "--name", name, "--pull=never", "--network=weft", &group]);
        run.args(options).args([IMAGE, "sleep", "100000"])
    }

    /// A container's address, IPv4 or IPv6.
    pub fn address(&self, container: &str, ipv6: bool) -> Result<String> {
        let family = if ipv6 { "-6" } else { "-4" };
        let show = ["exec", container, "ip", family, "-o", "addr", "show", "dev", "eth0", "scope", "global"];
        let shown = self.podman(&show).checked()?;
        let mut words = shown.split_whitespace().skip_while(|word| !word.starts_with("inet"));
        let net = words.nth(1).with_context(|| format!("{container} has no address: {shown}"))?;
        Ok(net.split('/').next().unwrap_or_default().to_owned())
    }

    /// Pings from a container until there is an answer.
    pub fn ping(&self, container: &str, to: &str, deadline: Duration) -> Result<()> {
        wait_for(&format!("{container} of {} pings {to}", self.host.name()), deadline, || {
            self.podman(&["exec", container, "ping", "-c", "1", "-W", "1", to]).checked()
        })
        .map(drop)
    }

    /// Removes a container.
    pub fn remove(&self, container: &str) -> Result<()> {
        self.podman(&["rm", "-f", "-t0", container]).checked().map(drop)
    }

    fn configure(&self) -> Result<()> {
        self.host.weft(&["setup-cni"])?.checked()?;
        // The plugin is told where this host's router is: podman's own processes do not hand on our environment.
        let path = self.dir.join(CONFLIST.trim_start_matches('/'));
        let mut conflist: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let Some(plugin) = conflist["plugins"][0].as_object_mut() else { bail!("no plugin in {conflist}") };
        plugin.insert("runDir".to_owned(), json!(self.host.run_dir()));
        plugin.insert("dataDir".to_owned(), json!(self.host.data_dir()));
        fs::write(&path, conflist.to_string())?;
        let containers = format!(
            "[containers]\ndefault_ulimits = [\"nofile=16384:16384\", \"nproc=16384:16384\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\nlock_type = \"file\"\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/opt/cni/bin\", \"{REFERENCE}\"]\n\
             network_config_dir = \"/etc/cni/net.d\"\n"
        );
        fs::write(self.dir.join("containers.conf"), containers)?;
        let storage = self.dir.join("storage");
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/storage\"\ngraphroot = \"{}\"\n",
            storage.display()
        );
        fs::write(self.dir.join("storage.conf"), storage).map_err(Into::into)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What is still there the lab's sweep ends.
        let _ = self.podman(&["rm", "-f", "-a", "-t0"]).output();
        end_control_groups(self.host.namespace().name());
    }
}
