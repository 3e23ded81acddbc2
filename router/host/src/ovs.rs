//! The fast datapath by the kernel's Open vSwitch datapath, driven by generic netlink; no program of Open vSwitch is needed.
//!
//! ```text
//!   container ── bridge `weft` ─┬─ weft-ov ══ weft-od ── datapath `weft-dp` ── weft-ox ── UDP ──▶ host of the station, as its flow says
//!                               └─ weft-tap ── sleeve
//! ```
//! The bridge's forwarding table says which frames go into the datapath; there a flow for each station says to which host, over IPv4
//! and IPv6 by the one VXLAN port. Flows are made when the plan comes, ahead of frames: a frame that matches none is dropped and
//! counted, and nothing ever waits for the router. What comes out of the mesh with our network's identifier goes to the bridge; no flow
//! leads from VXLAN to VXLAN, so nothing can loop.
//!
//! Packets to a peer with several lanes are marked. To packets without a mark the kernel gives the route that it remembers with the flow,
//! and with that the security association that the first packet got, whatever lane the others are for.
//!
//! Peers are not relayed for in the kernel. Sealed packets cannot be: the seal is between the two ends, and ESP between hosts ends at
//! the relay. Unsealed ones could, by a second network identifier that leads to direct peers only; no plan asks for that yet.

mod attribute;
mod datapath;
mod devices;
mod flow;
mod genl;
#[cfg(test)]
mod golden;
mod table;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use nix::errno::Errno;
use weft::{
    fastdp::{Plan, heartbeat_mac},
    id::Mac,
};

use crate::{
    error::HostError,
    fastdp::{FastConfig, FastDatapath},
    fdb::{self, Entry, Fdb, Line, LineKind, Target},
    netlink::Netlink,
};
use datapath::{Change, Datapaths};
use devices::{Devices, Mended, Names};
pub(crate) use devices::{is_datapath, remove};
use flow::{Action, Found, Match, Network};
use table::{Held, Holdings, Side, Steps, Wanted};

/// By so many milliseconds what the kernel tells of one use of a flow may be later the next time: it takes off from its clock
/// what passed by its tick (net/openvswitch/flow_netlink.c, ovs_flow_used_time), which is late on a busy host.
const WAVERS: u64 = 100;

/// The fast datapath by Open vSwitch.
pub struct Ovs {
    config: FastConfig,
    network: Network,
    netlink: Netlink,
    fdb: Fdb,
    datapaths: Datapaths,
    devices: Devices,
    plan: Plan,
    flows: Holdings<Match, Action>,
    lines: Holdings<Mac, Side>,
    settled: bool,
    /// Whether the kernel may have other flows than `flows` says.
    doubtful: bool,
    /// When each flow was used last, by the kernel's clock, when that was looked at.
    used: BTreeMap<Match, u64>,
}

impl Ovs {
    /// Makes the devices in the calling thread's network namespace, or takes over those of an earlier run with the forwarding that
    /// they have. Blocks, and may not be called by a worker of tokio's.
    ///
    /// # Errors
    /// [`HostError::NoOpenVswitch`] if the kernel cannot; [`HostError::NoBridge`] and [`HostError::NoDevice`] before bridge and TAP are
    /// there; [`HostError::ForeignDevice`] and [`HostError::PortInUse`] if somebody else is in the way; or what the kernel says.
    pub fn open(config: FastConfig) -> Result<Self, HostError> {
        let mut datapaths = Datapaths::open()?;
        let (netlink, fdb) = (Netlink::open()?, Fdb::open()?);
        let (devices, mended) = devices::ensure(&netlink, &mut datapaths, &config)?;
        tracing::debug!(?mended, "the Open vSwitch datapath is ready");
        let network = Network { vni: config.vni, port: config.port };
        let mut opened = Self {
            config,
            network,
            netlink,
            fdb,
            datapaths,
            devices,
            plan: Plan::default(),
            flows: BTreeMap::new(),
            lines: BTreeMap::new(),
            settled: false,
            doubtful: true,
            used: BTreeMap::new(),
        };
        opened.lines = opened.look_at_lines()?;
        opened.reconcile()?;
        Ok(opened)
    }

    /// Removes what an earlier run may have left for this bridge, with the forwarding that leads there: for a router that goes without.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(bridge: &str) -> Result<(), HostError> {
        remove(&Netlink::open()?, bridge)
    }

    /// Makes the kernel's flows and tables as the plan says. Answers with how many messages that took.
    fn reconcile(&mut self) -> Result<usize, HostError> {
        let strange = if self.doubtful { self.look_at_flows()? } else { Vec::new() };
        let wanted = Wanted::of(&self.plan, self.config.own, self.devices.bridge_mac);
        table::claim(&mut self.flows, &wanted.flows);
        table::claim(&mut self.lines, &wanted.lines);
        let flows = table::steps(&self.flows, &wanted.flows);
        let lines = table::steps(&self.lines, &wanted.lines);
        let messages = strange.len() + flows.put.len() + flows.remove.len() + lines.put.len() + lines.remove.len();
        // In this order no frame enters the datapath that finds no flow. All of it is tried.
        let mut put: Vec<Change> = strange.into_iter().map(Change::RemoveStrange).collect();
        put.extend(flows.put.into_iter().map(|(matching, action)| {
            let is_there = self.flows.contains_key(&matching);
            if is_there { Change::Alter(matching, action) } else { Change::Make(matching, action) }
        }));
        let removed: Vec<Change> = flows.remove.iter().map(|matching| Change::Remove(*matching)).collect();
        let results = [self.change_flows(&put), self.change_lines(&lines), self.change_flows(&removed)];
        results.into_iter().collect::<Result<(), _>>().map(|()| messages)
    }

    fn change_flows(&mut self, changes: &[Change]) -> Result<(), HostError> {
        if changes.is_empty() {
            return Ok(());
        }
        // What becomes of them is known again when all is well.
        let before = std::mem::replace(&mut self.doubtful, true);
        let failed = self.datapaths.change(self.devices.datapath, self.network, changes)?;
        if let Some((position, errno)) = failed.first() {
            let which = changes.get(*position).and_then(Change::station);
            return Err(failure("flows", which, failed.len(), *errno));
        }
        for change in changes {
            match change {
                Change::Make(matching, action) | Change::Alter(matching, action) => {
                    self.flows.insert(*matching, Held { value: Some(*action), spared: false });
                }
                Change::Remove(matching) => drop(self.flows.remove(matching)),
                Change::RemoveStrange(_) => {}
            }
        }
        self.doubtful = before;
        Ok(())
    }

    fn change_lines(&mut self, steps: &Steps<Mac, Side>) -> Result<(), HostError> {
        let put = steps.put.iter().map(|(mac, side)| (*mac, Some(*side)));
        let all: Vec<(Mac, Option<Side>)> = put.chain(steps.remove.iter().map(|mac| (*mac, None))).collect();
        let changes: Vec<fdb::Change> = all.iter().map(|(mac, side)| self.line_change(*mac, *side)).collect();
        let result = self.fdb.change(&changes);
        if result.is_err() {
            // Any of it may have happened.
            all.iter().for_each(|(mac, side)| self.note(*mac, *side, false));
        }
        let mut failed = result?;
        // A line that is gone already, perhaps with its device.
        let gone = [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL];
        failed.retain(
            |position, errno| !matches!(changes.get(*position), Some(fdb::Change::Remove(_)) if gone.contains(errno)),
        );
        for (position, (mac, side)) in all.iter().enumerate() {
            self.note(*mac, *side, !failed.contains_key(&position));
        }
        match failed.first_key_value() {
            Some((position, errno)) => {
                let which = all.get(*position).map(|(mac, _)| *mac);
                Err(failure("forwarding table", which, failed.len(), *errno))
            }
            None => Ok(()),
        }
    }

    fn line_change(&self, mac: Mac, side: Option<Side>) -> fdb::Change {
        let entry = |side| match side {
            Some(Side::Bridge) => Entry { device: self.devices.bridge, mac, target: Target::Itself },
            Some(Side::Datapath) => Entry { device: self.devices.veth, mac, target: Target::Port },
            Some(Side::Tap) | None => Entry { device: self.devices.tap, mac, target: Target::Port },
        };
        match side {
            Some(_) => fdb::Change::Put(entry(side)),
            None => fdb::Change::Remove(entry(self.lines.get(&mac).and_then(|held| held.value))),
        }
    }

    /// Notes a line that was to be made, or to go; after a failure the one counts as unknown, the other as still there.
    fn note(&mut self, mac: Mac, side: Option<Side>, done: bool) {
        match side {
            Some(side) => drop(self.lines.insert(mac, Held { value: done.then_some(side), spared: false })),
            None if done => drop(self.lines.remove(&mac)),
            None => {}
        }
    }

    /// Reads the flows that the kernel has; answers with the names of those that we would not have made.
    fn look_at_flows(&mut self) -> Result<Vec<Vec<u8>>, HostError> {
        let (mut flows, mut strange) = (BTreeMap::new(), Vec::new());
        for found in self.datapaths.flows(self.devices.datapath, self.network)? {
            match found {
                Found::Ours(matching, action) => {
                    let known = self.flows.get(&matching).is_some_and(|held| !held.spared);
                    flows.insert(matching, Held { value: Some(action), spared: !known && !self.settled });
                }
                Found::Strange(name) => strange.push(name),
            }
        }
        self.flows = flows;
        self.doubtful = false;
        Ok(strange)
    }

    /// Reads the lines of the bridge's table that are ours, or in the way of ours.
    fn look_at_lines(&mut self) -> Result<Holdings<Mac, Side>, HostError> {
        let mut lines = BTreeMap::new();
        for line in self.fdb.list(self.devices.bridge)? {
            let Some(value) = self.place(&line) else { continue };
            let known = self.lines.get(&line.mac).is_some_and(|held| !held.spared);
            lines.insert(line.mac, Held { value, spared: !known && !self.settled });
        }
        Ok(lines)
    }

    /// What a line is to us: none if nothing, or where it leads if we would have made it so.
    fn place(&self, line: &Line) -> Option<Option<Side>> {
        let port = match line.device {
            device if device == self.devices.veth => Some(Side::Datapath),
            device if device == self.devices.tap => Some(Side::Tap),
            _ => None,
        };
        match line.kind {
            LineKind::Made(Target::Port) => port.map(Some),
            LineKind::Odd => port.map(|_| None),
            // The bridge has more such lines, of its own.
            LineKind::Made(Target::Itself) if line.mac == heartbeat_mac(self.config.own) => Some(Some(Side::Bridge)),
            LineKind::Made(Target::Itself | Target::Remote(_) | Target::Group(_))
            | LineKind::Heard
            | LineKind::Other => None,
        }
    }
}

impl FastDatapath for Ovs {
    fn name(&self) -> &'static str {
        "ovs"
    }

    fn apply(&mut self, plan: &Plan) -> Result<usize, HostError> {
        self.plan.clone_from(plan);
        self.reconcile()
    }

    fn settle(&mut self) -> Result<usize, HostError> {
        self.settled = true;
        self.doubtful = true;
        self.lines = self.look_at_lines()?;
        self.reconcile()
    }

    fn inspect(&mut self) -> Result<Mended, HostError> {
        let before = self.devices.datapath.index;
        let (devices, mut mended) = devices::ensure(&self.netlink, &mut self.datapaths, &self.config)?;
        self.devices = devices;
        // Their number tells whether any came or went without us; to read all of them each time would be dear.
        let count = u64::try_from(self.flows.len()).unwrap_or(u64::MAX);
        self.doubtful |= devices.datapath.index != before || devices.datapath.flows != count;
        self.lines = self.look_at_lines()?;
        let changes = self.reconcile()?;
        if changes > 0 {
            mended.push(format!("{changes} flows of the datapath and lines of the forwarding table were not right"));
        }
        Ok(mended)
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError> {
        let Names { outside, inside, .. } = Names::new(&self.config.bridge);
        for name in [outside, inside] {
            if let Some(link) = self.netlink.link(&name)? {
                self.netlink.set_mtu(&link, mtu)?;
            }
        }
        Ok(())
    }

    fn learnt(&mut self) -> Result<Vec<Mac>, HostError> {
        let ours = [self.devices.veth, self.devices.tap];
        let lines = self.fdb.list(self.devices.bridge)?;
        let heard = lines.iter().filter(|line| line.kind == LineKind::Heard && !ours.contains(&line.device));
        let mut stations: Vec<Mac> = heard.map(|line| line.mac).collect();
        stations.sort();
        stations.dedup();
        Ok(stations)
    }

    fn used(&mut self) -> Result<Vec<Mac>, HostError> {
        let used: BTreeMap<Match, u64> = self.datapaths.used(self.devices.datapath)?.into_iter().collect();
        let before = std::mem::replace(&mut self.used, used);
        let again = |(matching, at): &(&Match, &u64)| before.get(matching).is_none_or(|before| **at > before + WAVERS);
        let mut stations: Vec<Mac> =
            self.used.iter().filter(again).filter_map(|(matching, _)| matching.station()).collect();
        stations.retain(|mac| self.plan.stations.contains_key(mac));
        stations.dedup();
        Ok(stations)
    }
}

impl fmt::Debug for Ovs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ovs")
            .field("config", &self.config)
            .field("devices", &self.devices)
            .field("flows", &self.flows.len())
            .field("lines", &self.lines.len())
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

fn failure(what: &str, station: Option<Mac>, failed: usize, errno: Errno) -> HostError {
    let which = station.map_or_else(String::new, |mac| format!(" for {mac}"));
    let more = if failed > 1 { format!(" and {} others", failed - 1) } else { String::new() };
    HostError::kernel(&format!("change the {what}{which}{more}"), errno)
}
