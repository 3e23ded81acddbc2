//! A lab: one switch and any number of hosts on it, each a network namespace, made and removed as a whole.
//!
//! ```text
//!   host A            host B                 host N
//!     eth0              eth0                   eth0 ── gateway (NAT)
//!      │                 │                              │ wan
//!      └── port A ── switch (bridge br0, cuts, capture) ┘ port N
//! ```
//! All that a lab owns carries its name: namespaces `NAME-…`, the directory `NAME` in the system's temporary directory,
//! and the processes inside those namespaces. So [`sweep::remove`] needs the name alone, and a lab whose process was
//! killed is removed by the next lab to start. Nothing is ever made in the namespace that the tests run in.

pub mod api;
pub mod cage;
pub mod capture;
pub mod cni;
pub mod command;
pub mod container;
pub mod cut;
pub mod datagram;
pub mod engine;
pub mod garbage;
pub mod host;
pub mod mesh;
pub mod namespace;
pub mod nat;
pub mod ping;
pub mod podman;
pub mod remains;
pub mod resolver;
pub mod slow;
pub mod stream;
pub mod sweep;
pub mod switch;
pub mod transfer;
pub mod trial;
pub mod wait;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use capture::Capture;
use cut::{ActiveCut, Cut};
use host::Host;
use nat::Gateway;
use slow::Slow;
use switch::Switch;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A switch with hosts, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    switch: Arc<Switch>,
    hosts: Mutex<Vec<Host>>,
    kept: bool,
}

impl Lab {
    /// An empty lab that belongs to this process. Removes labs left behind by killed processes first.
    pub fn new() -> Result<Self> {
        sweep::leftovers()?;
        Self::named(&format!("{}{}-{}", sweep::OWNED, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// An empty lab with a name of its own, which no sweep removes; fails if it exists.
    pub fn named(name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the lab makes network namespaces: run it as root");
        let dir = sweep::directory(name);
        std::fs::create_dir(&dir)
            .with_context(|| format!("the lab {name} exists, or {} cannot be made", dir.display()))?;
        match Switch::new(&format!("{name}-sw")) {
            Ok(switch) => {
                Ok(Self { name: name.to_owned(), dir, switch: Arc::new(switch), hosts: Mutex::default(), kept: false })
            }
            Err(error) => {
                sweep::remove(name);
                Err(error)
            }
        }
    }

    /// The name that all namespaces of this lab begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's directory: routers' data, logs, captures.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the lab in place when this value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// A new host on the switch, with an IPv4 and an IPv6 address.
    pub fn host(&self, name: &str) -> Result<Host> {
        let index = self.next_index()?;
        let host = Host::on_switch(&self.name, name, &self.dir, &self.switch, index)?;
        self.lock_hosts().push(host.clone());
        Ok(host)
    }

    /// New hosts on the switch.
    pub fn hosts<const N: usize>(&self, names: [&str; N]) -> Result<[Host; N]> {
        let hosts = names.iter().map(|name| self.host(name)).collect::<Result<Vec<_>>>()?;
        <[Host; N]>::try_from(hosts).map_err(|_| anyhow::anyhow!("one host for each name"))
    }

    /// A new host behind a gateway of its own that translates its addresses; cuts see the gateway's port under the
    /// host's name.
    pub fn host_behind_nat(&self, name: &str) -> Result<(Host, Gateway)> {
        let index = self.next_index()?;
        let gateway = Gateway::new(&format!("{}-{name}-gw", self.name), name, &self.switch, index)?;
        let host = Host::behind(&self.name, name, &self.dir, &gateway)?;
        self.lock_hosts().push(host.clone());
        Ok((host, gateway))
    }

    /// Begins to lose packets between hosts, on the path and unseen by either, until the result is healed or dropped.
    pub fn cut(&self, cut: &Cut) -> Result<ActiveCut> {
        ActiveCut::new(&self.switch, cut)
    }

    /// Lets packets between two hosts take `delay` longer in each direction, until the result is dropped.
    pub fn slow(&self, one: &Host, other: &Host, delay: Duration) -> Result<Slow> {
        Slow::new(&self.switch, one, other, delay)
    }

    /// Lets at most `mtu` bytes of IP packet pass between two hosts; larger ones vanish without any ICMP.
    ///
    /// Segmentation offloads of both are turned off, as they would carry large packets through the switch.
    pub fn lower_mtu(&self, one: &Host, other: &Host, mtu: usize) -> Result<ActiveCut> {
        one.disable_offloads()?;
        other.disable_offloads()?;
        self.cut(&Cut::between(one.name(), other.name()).longer_than(mtu))
    }

    /// Makes the underlay one of packets of up to `mtu` bytes, on all hosts that are on it now.
    pub fn underlay_mtu(&self, mtu: u32) -> Result<()> {
        let hosts = self.lock_hosts();
        for host in hosts.iter() {
            self.switch.namespace().ip(&format!("link set {} mtu {mtu}\n", host.name()))?;
            host.namespace().ip(&format!("link set {} mtu {mtu}\n", host::UNDERLAY))?;
        }
        self.switch.namespace().ip(&format!("link set {} mtu {mtu}\n", switch::BRIDGE))
    }

    /// Begins to write down all that crosses the switch.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(self.switch.namespace(), switch::BRIDGE, &self.dir.join(format!("capture-{}.pcap", self.tick())))
    }

    /// What each router says about itself, with the last lines of its log.
    pub fn diagnosis(&self) -> String {
        self.lock_hosts().iter().map(Host::diagnosis).collect()
    }

    fn tick(&self) -> u32 {
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    fn next_index(&self) -> Result<u8> {
        let index = self.lock_hosts().len() + 1;
        u8::try_from(index).ok().filter(|index| *index < 200).context("a lab has fewer than 200 hosts")
    }

    fn lock_hosts(&self) -> std::sync::MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.kept {
            sweep::remove(&self.name);
        }
    }
}
