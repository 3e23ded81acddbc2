//! The fast datapath by VXLAN devices on the bridge: what every kernel of today has.
//!
//! ```text
//!   container ── bridge `weft` ─┬─ weft-vx4 ── UDP over IPv4 ──▶ host of the station, as the device's table says
//!                               ├─ weft-vx6 ── UDP over IPv6 ──▶
//!                               └─ weft-tap ── sleeve
//! ```
//! The bridge's forwarding table says which port, that of the VXLAN device which host. Lines are static and sticky: no frame
//! that claims to come from a station moves it. All that is kept here can be read back from the kernel, and is, at start.
//!
//! Packets to a host with several ESP lanes are spread over them by groups of next hops, which the device's table leads to instead of
//! the host.

mod devices;
mod hops;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use nix::errno::Errno;
use weft::{
    fastdp::{Plan, heartbeat_mac},
    id::Mac,
};

use crate::{
    error::HostError,
    fastdp::{FastConfig, FastDatapath},
    fdb::{Change, Entry, Fdb, Line, LineKind, Target},
    netlink::{Family, Netlink},
};
use devices::{Devices, Mended};
use hops::Hops;
use table::{Ground, Held, Slot, Step, Table, Wanted, Way};

/// What the kernel says to removing a line that is gone already, perhaps with its device.
const GONE: [Errno; 4] = [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL, Errno::EOPNOTSUPP];

/// By so much more than the time between two looks a line may be said to be unused, though it was used between: two ticks.
const TICKS: Duration = Duration::from_millis(20);

/// The fast datapath by VXLAN devices.
pub struct Vxlan {
    config: FastConfig,
    netlink: Netlink,
    fdb: Fdb,
    devices: Devices,
    hops: Hops,
    plan: Plan,
    held: BTreeMap<Slot, Held>,
    settled: bool,
    /// The kernel may have something else than what we hold.
    doubtful: bool,
    /// When the kernel's lines were looked at last, and the stations that frames were sent to by then and were not asked for yet.
    looked: Instant,
    used: BTreeSet<Mac>,
}

impl Vxlan {
    /// Makes the devices in the calling thread's network namespace, or takes over those of an earlier run with the forwarding that
    /// they have. Blocks, and may not be called by a worker of tokio's.
    ///
    /// # Errors
    /// [`HostError::NoBridge`] and [`HostError::NoDevice`] before bridge and TAP are there; [`HostError::ForeignDevice`],
    /// [`HostError::VxlanTaken`] and [`HostError::PortInUse`] if somebody else is in the way; or what the kernel says.
    pub fn open(config: FastConfig) -> Result<Self, HostError> {
        let netlink = Netlink::open()?;
        let fdb = Fdb::open()?;
        let (devices, mended) = devices::ensure(&netlink, &config)?;
        tracing::debug!(?mended, "the VXLAN devices are ready");
        let (plan, held) = (Plan::default(), BTreeMap::new());
        let hops = Hops::new(&config.bridge);
        let (looked, used) = (Instant::now(), BTreeSet::new());
        let (settled, doubtful) = (false, true);
        let mut opened = Self { config, netlink, fdb, devices, hops, plan, held, settled, doubtful, looked, used };
        opened.reconcile()?;
        Ok(opened)
    }

    /// Removes the devices that an earlier run may have left for this bridge, with the forwarding that leads there: for a router
    /// that goes without them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(bridge: &str) -> Result<(), HostError> {
        remove(&Netlink::open()?, bridge)
    }

    /// Reads what the kernel has on our devices.
    fn look(&mut self) -> Result<(), HostError> {
        self.hops.look(&mut self.fdb)?;
        let lines = self.fdb.list(self.devices.bridge)?;
        let since = std::mem::replace(&mut self.looked, Instant::now()).elapsed() + TICKS;
        let is_used = |line: &&Line| line.unused <= since && self.leads_away(line);
        let used: Vec<Mac> = lines.iter().filter(is_used).map(|line| line.mac).collect();
        self.used.extend(used);
        let hosts = self.hops.hosts();
        let mut held = BTreeMap::new();
        for (slot, way, right) in lines.iter().filter_map(|line| self.place(line, &hosts)) {
            let known = self.held.get(&slot).is_some_and(|held| !held.spared);
            held.insert(slot, Held { way, right, spared: !known && !self.settled });
        }
        self.held = held;
        self.doubtful = false;
        Ok(())
    }

    /// What a line of the kernel's is to us, and whether it is as we would make it. `hosts` are those that groups lead to.
    fn place(&self, line: &Line, hosts: &BTreeMap<u32, IpAddr>) -> Option<(Slot, Way, bool)> {
        let family = self.family(line.device);
        let port = || family.map(Way::Vxlan).or_else(|| (line.device == self.devices.tap).then_some(Way::Tap));
        let (table, way) = match line.kind {
            LineKind::Made(Target::Port) | LineKind::Odd => (Table::Bridge, port()?),
            // The bridge has more such lines, of its own.
            LineKind::Made(Target::Itself) if line.mac == heartbeat_mac(self.config.own) => {
                (Table::Bridge, Way::Bridge)
            }
            LineKind::Made(Target::Remote(host)) => (Table::Vxlan(family?), Way::Host(host)),
            LineKind::Made(Target::Group(group)) => {
                // One of somebody else's leads, to us, to no host.
                let host = hosts.get(&group).copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                (Table::Vxlan(family?), Way::Lanes(host))
            }
            LineKind::Made(Target::Itself) | LineKind::Heard | LineKind::Other => return None,
        };
        Some((Slot { table, mac: line.mac }, way, line.kind != LineKind::Odd))
    }

    /// Whether it leads to a planned station on another host.
    fn leads_away(&self, line: &Line) -> bool {
        match line.kind {
            LineKind::Made(Target::Remote(_) | Target::Group(_)) => self.plan.stations.contains_key(&line.mac),
            LineKind::Made(Target::Port | Target::Itself) | LineKind::Heard | LineKind::Odd | LineKind::Other => false,
        }
    }

    fn family(&self, device: u32) -> Option<Family> {
        let v6 = (self.devices.v6 == Some(device)).then_some(Family::V6);
        if self.devices.v4 == device { Some(Family::V4) } else { v6 }
    }

    fn wanted(&self) -> Wanted {
        let Devices { bridge_mac, v6, .. } = self.devices;
        let (own, groups) = (self.config.own, self.hops.groups());
        Ground { own, bridge: bridge_mac, v6: v6.is_some(), groups }.wanted(&self.plan)
    }

    /// Makes the kernel's tables as the plan says, next hops before the lines that lead there and the other way round. Answers with how
    /// many messages that took.
    fn reconcile(&mut self) -> Result<usize, HostError> {
        if self.doubtful {
            self.look()?;
        }
        self.doubtful = true;
        let mut hosts = table::spread_hosts(&self.plan, self.devices.v6.is_some());
        let made = self.hops.make(&hosts, &mut self.fdb)?;
        let steps = self.make_lines()?;
        hosts.extend(self.held.values().filter_map(|held| held.way.spread_host()));
        let removed = self.hops.retain(&hosts, &mut self.fdb)?;
        self.doubtful = false;
        Ok(made + steps + removed)
    }

    /// Makes all lines as the plan says.
    fn make_lines(&mut self) -> Result<usize, HostError> {
        let wanted = self.wanted();
        for slot in wanted.keys() {
            if let Some(held) = self.held.get_mut(slot) {
                held.spared = false;
            }
        }
        let steps = table::steps(&self.held, &wanted);
        let changes: Vec<Change> = steps.iter().map(|step| self.change(step)).collect();
        let mut failed = self.fdb.change(&changes)?;
        failed.retain(|position, errno| !matches!(steps.get(*position), Some(Step::Remove(_)) if GONE.contains(errno)));
        for (position, step) in steps.iter().enumerate() {
            if !failed.contains_key(&position) {
                self.note(step);
            }
        }
        let Some((position, errno)) = failed.first_key_value() else { return Ok(steps.len()) };
        let station = steps.get(*position).map(|step| step.slot().mac.to_string()).unwrap_or_default();
        Err(HostError::kernel(&format!("change the forwarding for {station} and {} others", failed.len() - 1), *errno))
    }

    fn change(&self, step: &Step) -> Change {
        let Slot { table, mac } = step.slot();
        // None exists where no line can be: the plan's lines are for devices that exist.
        let of = |family| match family {
            Family::V4 => self.devices.v4,
            Family::V6 => self.devices.v6.unwrap_or_default(),
        };
        let way = match step {
            Step::Put(_, way) => Some(*way),
            Step::Remove(slot) => self.held.get(slot).map(|held| held.way),
        };
        let (device, target) = match (table, way) {
            (Table::Vxlan(family), Some(Way::Host(host))) => (of(family), Target::Remote(host)),
            (Table::Vxlan(family), Some(Way::Lanes(host))) => (of(family), self.group(host)),
            // What is removed from this table is removed whatever it says.
            (Table::Vxlan(family), _) => (of(family), Target::Remote(Ipv4Addr::UNSPECIFIED.into())),
            (Table::Bridge, Some(Way::Vxlan(family))) => (of(family), Target::Port),
            (Table::Bridge, Some(Way::Bridge)) => (self.devices.bridge, Target::Itself),
            (Table::Bridge, Some(Way::Tap | Way::Host(_) | Way::Lanes(_)) | None) => (self.devices.tap, Target::Port),
        };
        let entry = Entry { device, mac, target };
        match step {
            Step::Put(..) => Change::Put(entry),
            Step::Remove(_) => Change::Remove(entry),
        }
    }

    /// The group that leads to a host.
    fn group(&self, host: IpAddr) -> Target {
        self.hops.groups().get(&host).map_or(Target::Remote(host), |group| Target::Group(*group))
    }

    /// Takes note of what has been done.
    fn note(&mut self, step: &Step) {
        match step {
            Step::Put(slot, way) => drop(self.held.insert(*slot, Held { way: *way, right: true, spared: false })),
            Step::Remove(slot) => drop(self.held.remove(slot)),
        }
    }
}

/// Removes all that this backend may have left for a bridge: what leads somewhere before where it leads.
pub(crate) fn remove(netlink: &Netlink, bridge: &str) -> Result<(), HostError> {
    let devices = devices::remove(netlink, bridge);
    devices.and(hops::remove(bridge))
}

impl FastDatapath for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn apply(&mut self, plan: &Plan) -> Result<usize, HostError> {
        if *plan == self.plan && !self.doubtful {
            return Ok(0);
        }
        self.plan.clone_from(plan);
        self.reconcile()
    }

    fn settle(&mut self) -> Result<usize, HostError> {
        self.settled = true;
        self.doubtful = true;
        self.reconcile()
    }

    fn inspect(&mut self) -> Result<Mended, HostError> {
        let (devices, mut mended) = devices::ensure(&self.netlink, &self.config)?;
        self.devices = devices;
        self.doubtful = true;
        let lines = self.reconcile()?;
        if lines > 0 {
            mended.push(format!("{lines} lines of the forwarding tables were not right"));
        }
        Ok(mended)
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError> {
        for family in [Family::V4, Family::V6] {
            if let Some(link) = self.netlink.link(&devices::name(&self.config.bridge, family))? {
                self.netlink.set_mtu(&link, mtu)?;
            }
        }
        Ok(())
    }

    fn learnt(&mut self) -> Result<Vec<Mac>, HostError> {
        let lines = self.fdb.list(self.devices.bridge)?;
        let local = |line: &&Line| self.family(line.device).is_none() && line.device != self.devices.tap;
        let heard = lines.iter().filter(|line| line.kind == LineKind::Heard).filter(local);
        let mut stations: Vec<Mac> = heard.map(|line| line.mac).collect();
        stations.sort();
        stations.dedup();
        Ok(stations)
    }

    fn used(&mut self) -> Result<Vec<Mac>, HostError> {
        Ok(std::mem::take(&mut self.used).into_iter().collect())
    }
}

impl fmt::Debug for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vxlan")
            .field("config", &self.config)
            .field("devices", &self.devices)
            .field("lines", &self.held.len())
            .field("hops", &self.hops)
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}
