//! The datapath as a whole: made, found, removed; its ports; its flows, as many as wanted in one call.

use nix::errno::Errno;
use weft::id::Mac;

use super::{
    attribute::{Attributes, nest, put, put_name, put_u32},
    flow::{self, Action, Found, Match, Network},
    genl::{Genl, Request},
};
use crate::error::HostError;

/// Bytes of `struct ovs_header`: the number of the datapath's device.
const HEADER: usize = 4;

// Commands, the same for all three families, and versions (linux/openvswitch.h).
const NEW: u8 = 1;
const DELETE: u8 = 2;
const GET: u8 = 3;
const SET: u8 = 4;
const DATAPATH_VERSION: u8 = 2;
const VERSION: u8 = 1;
// enum ovs_datapath_attr; so all that follow.
const DATAPATH_NAME: u16 = 1;
const DATAPATH_UPCALL_PID: u16 = 2;
const DATAPATH_STATS: u16 = 3;
// enum ovs_vport_attr
const PORT_NUMBER: u16 = 1;
const PORT_TYPE: u16 = 2;
const PORT_NAME: u16 = 3;
const PORT_OPTIONS: u16 = 4;
const PORT_UPCALL_PID: u16 = 5;
// enum ovs_vport_type
const TYPE_NETDEV: u32 = 1;
const TYPE_VXLAN: u32 = 4;
/// Option of a VXLAN port: the UDP port, 16 bits in host order.
const OPTION_UDP_PORT: u16 = 1;
/// Nobody hears of frames that match no flow: they are dropped, and counted as lost.
const NOBODY: u32 = 0;
/// Where `struct ovs_dp_stats` counts frames that matched no flow, and flows; between them, as before, hits and losses of 64 bits.
const STATS_MISSED: usize = 8;
const STATS_FLOWS: usize = 24;

/// The datapaths of a network namespace.
#[derive(Debug)]
pub(super) struct Datapaths {
    genl: Genl,
    datapath: u16,
    vport: u16,
    flow: u16,
}

/// A datapath that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datapath {
    /// Number of its device.
    pub(super) index: u32,
    /// How many flows it has.
    pub(super) flows: u64,
    /// How many frames matched none.
    pub(super) missed: u64,
}

/// A port of a datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VPort {
    /// Its number in the datapath; nought is the datapath's own device.
    pub(super) number: u32,
    /// Its device.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: VPortKind,
}

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VPortKind {
    /// A device that was there.
    Device,
    /// A VXLAN device that comes and goes with the port, on this UDP port.
    Vxlan(u16),
    /// Any other.
    Other,
}

/// A change of one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Makes it; an error if it is there.
    Make(Match, Action),
    /// Changes in place what it does; an error if it is not there.
    Alter(Match, Action),
    /// Removes it.
    Remove(Match),
    /// Removes one that is not ours, by its name.
    RemoveStrange(Vec<u8>),
}

impl Datapaths {
    /// Looks for the families in the kernel, which loads its module if it has one.
    ///
    /// # Errors
    /// [`HostError::NoOpenVswitch`], or what the kernel says.
    pub(super) fn open() -> Result<Self, HostError> {
        let mut genl = Genl::open()?;
        let mut family = |name| genl.family(name)?.ok_or(HostError::NoOpenVswitch { module: "openvswitch" });
        let (datapath, vport, flow) = (family("ovs_datapath")?, family("ovs_vport")?, family("ovs_flow")?);
        Ok(Self { genl, datapath, vport, flow })
    }

    /// The datapath of a name.
    pub(super) fn find(&mut self, name: &str) -> Result<Option<Datapath>, HostError> {
        let request = Request::new(self.datapath, GET, DATAPATH_VERSION, &[0; HEADER])
            .with(|attributes| put_name(attributes, DATAPATH_NAME, name));
        match self.genl.ask(&format!("look for the datapath {name}"), request) {
            Ok(answer) => Ok(answer.as_deref().and_then(Datapath::decode)),
            Err(error) if error.is_errno(&[Errno::ENODEV]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a datapath.
    pub(super) fn create(&mut self, name: &str) -> Result<Datapath, HostError> {
        let doing = format!("make the datapath {name}");
        let request = Request::new(self.datapath, NEW, DATAPATH_VERSION, &[0; HEADER]).with(|attributes| {
            put_name(attributes, DATAPATH_NAME, name);
            put_u32(attributes, DATAPATH_UPCALL_PID, NOBODY);
        });
        self.genl.ask(&doing, request)?;
        self.find(name)?.ok_or(HostError::Unexpected { doing })
    }

    /// Removes a datapath with its ports and flows; one that is gone already is no error.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), HostError> {
        let request = Request::new(self.datapath, DELETE, DATAPATH_VERSION, &[0; HEADER])
            .with(|attributes| put_name(attributes, DATAPATH_NAME, name));
        match self.genl.ask(&format!("remove the datapath {name}"), request) {
            Err(error) if error.is_errno(&[Errno::ENODEV]) => Ok(()),
            result => result.map(drop),
        }
    }

    /// All ports of a datapath.
    pub(super) fn ports(&mut self, datapath: Datapath) -> Result<Vec<VPort>, HostError> {
        let request = Request::new(self.vport, GET, VERSION, &datapath.header());
        let list = self.genl.list("list the ports of the datapath", &request)?;
        Ok(list.iter().filter_map(|entry| VPort::decode(entry)).collect())
    }

    /// Adds a port.
    ///
    /// # Errors
    /// [`HostError::PortInUse`], [`HostError::NoOpenVswitch`] without VXLAN, or what the kernel says.
    pub(super) fn add_port(&mut self, datapath: Datapath, port: &VPort) -> Result<(), HostError> {
        let request = Request::new(self.vport, NEW, VERSION, &datapath.header()).with(|bytes| port.encode(bytes));
        let result = self.genl.ask(&format!("plug {} into the datapath", port.name), request);
        let VPortKind::Vxlan(udp) = port.kind else { return result.map(drop) };
        match result {
            Err(error) if error.is_errno(&[Errno::EAFNOSUPPORT]) => {
                Err(HostError::NoOpenVswitch { module: "vport-vxlan" })
            }
            // A socket has it, or a VXLAN device that also takes all networks.
            Err(error) if error.is_errno(&[Errno::EADDRINUSE, Errno::EEXIST]) => Err(port_in_use(udp)),
            result => result.map(drop),
        }
    }

    /// Takes a port out; a VXLAN device ends with that.
    pub(super) fn remove_port(&mut self, datapath: Datapath, port: &VPort) -> Result<(), HostError> {
        let request = Request::new(self.vport, DELETE, VERSION, &datapath.header())
            .with(|attributes| put_u32(attributes, PORT_NUMBER, port.number));
        self.genl.ask(&format!("take {} out of the datapath", port.name), request).map(drop)
    }

    /// All flows of a datapath.
    pub(super) fn flows(&mut self, datapath: Datapath, network: Network) -> Result<Vec<Found>, HostError> {
        let request = Request::new(self.flow, GET, VERSION, &datapath.header());
        let list = self.genl.list("list the flows of the datapath", &request)?;
        let flows = list.iter().filter_map(|entry| Found::decode(Attributes(entry.get(HEADER..)?), network));
        Ok(flows.collect())
    }

    /// The flows of ours that were ever used, and when they were last: in milliseconds of the kernel's clock.
    pub(super) fn used(&mut self, datapath: Datapath) -> Result<Vec<(Match, u64)>, HostError> {
        let request = Request::new(self.flow, GET, VERSION, &datapath.header()).with(flow::encode_counts_only);
        let list = self.genl.list("list the flows of the datapath", &request)?;
        Ok(list.iter().filter_map(|entry| flow::decode_used(Attributes(entry.get(HEADER..)?))).collect())
    }

    /// Changes flows, each whatever becomes of the others, and answers with those that failed, by position. To remove what is gone
    /// already is no failure.
    pub(super) fn change(
        &mut self,
        datapath: Datapath,
        network: Network,
        changes: &[Change],
    ) -> Result<Vec<(usize, Errno)>, HostError> {
        let mut requests: Vec<Request> =
            changes.iter().map(|change| change.request(self.flow, &datapath.header(), network)).collect();
        let mut failed = self.genl.change("change the flows of the datapath", &mut requests)?;
        failed.retain(|(place, errno)| match changes.get(*place) {
            Some(Change::Remove(_) | Change::RemoveStrange(_)) => *errno != Errno::ENOENT,
            Some(Change::Make(..) | Change::Alter(..)) | None => true,
        });
        Ok(failed)
    }
}

/// Somebody else's, who cannot be known: it may be in another network namespace.
pub(super) fn port_in_use(port: u16) -> HostError {
    HostError::PortInUse { port, by: "another program or VXLAN device".to_owned() }
}

impl Datapath {
    fn header(self) -> [u8; HEADER] {
        self.index.to_ne_bytes()
    }

    fn decode(answer: &[u8]) -> Option<Self> {
        let (index, attributes) = answer.split_first_chunk::<HEADER>()?;
        let stats = Attributes(attributes).find(DATAPATH_STATS)?;
        let count = |at| Some(u64::from_ne_bytes(*stats.get(at..)?.first_chunk()?));
        Some(Self { index: u32::from_ne_bytes(*index), flows: count(STATS_FLOWS)?, missed: count(STATS_MISSED)? })
    }
}

impl VPort {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let kind = if let VPortKind::Vxlan(_) = self.kind { TYPE_VXLAN } else { TYPE_NETDEV };
        put_u32(bytes, PORT_NUMBER, self.number);
        put_u32(bytes, PORT_TYPE, kind);
        put_name(bytes, PORT_NAME, &self.name);
        put_u32(bytes, PORT_UPCALL_PID, NOBODY);
        if let VPortKind::Vxlan(udp) = self.kind {
            nest(bytes, PORT_OPTIONS, |options| put(options, OPTION_UDP_PORT, &udp.to_ne_bytes()));
        }
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let attributes = Attributes(entry.get(HEADER..)?);
        let options = || Attributes(attributes.find(PORT_OPTIONS).unwrap_or_default());
        let kind = match attributes.u32(PORT_TYPE)? {
            TYPE_NETDEV => VPortKind::Device,
            TYPE_VXLAN => options().u16(OPTION_UDP_PORT).map_or(VPortKind::Other, VPortKind::Vxlan),
            _ => VPortKind::Other,
        };
        Some(Self { number: attributes.u32(PORT_NUMBER)?, name: attributes.name(PORT_NAME)?.to_owned(), kind })
    }
}

impl Change {
    /// The station that it is about.
    pub(super) fn station(&self) -> Option<Mac> {
        let (Self::Make(matching, _) | Self::Alter(matching, _) | Self::Remove(matching)) = self else { return None };
        matching.station()
    }

    fn request(&self, family: u16, header: &[u8], network: Network) -> Request {
        // NEW could alter one, too, but compares what is masked out of the key then, and finds that it is another.
        let command = match self {
            Self::Make(..) => NEW,
            Self::Alter(..) => SET,
            Self::Remove(_) | Self::RemoveStrange(_) => DELETE,
        };
        Request::new(family, command, VERSION, header).with(|bytes| match self {
            Self::Make(matching, action) | Self::Alter(matching, action) => {
                matching.encode(bytes, network);
                action.encode(bytes, *matching, network);
            }
            Self::Remove(matching) => matching.encode(bytes, network),
            Self::RemoveStrange(name) => bytes.extend_from_slice(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ovs::{flow::Frames, golden};

    /// An entry as it follows the generic header.
    fn entry(name: &str) -> Vec<u8> {
        golden::message(name).split_off(golden::HEADERS - HEADER)
    }

    #[test]
    fn a_datapath_is_read() {
        assert_eq!(Datapath::decode(&entry("datapath-answer")), Some(Datapath { index: 4, flows: 2, missed: 3 }));
    }

    #[test]
    fn ports_are_read() {
        let veth = VPort { number: 2, name: "v1".to_owned(), kind: VPortKind::Device };
        assert_eq!(VPort::decode(&entry("vport-answer-veth")), Some(veth));
        // That one was made outside and plugged in.
        let vxlan = VPort { number: 1, name: "vxlan_sys_6784".to_owned(), kind: VPortKind::Device };
        assert_eq!(VPort::decode(&entry("vport-answer-vxlan")), Some(vxlan));
    }

    #[test]
    fn a_port_is_plugged_in_as_open_vswitch_itself_does() {
        let mut bytes = Vec::new();
        VPort { number: 2, name: "v1".to_owned(), kind: VPortKind::Device }.encode(&mut bytes);
        assert_eq!(bytes, golden::attributes("vport-request-veth"));
    }

    #[test]
    fn a_port_reads_as_it_was_written() {
        for kind in [VPortKind::Device, VPortKind::Vxlan(6784)] {
            let port = VPort { number: 1, name: "weft-ox".to_owned(), kind };
            let mut bytes = vec![0; HEADER];
            port.encode(&mut bytes);
            assert_eq!(VPort::decode(&bytes), Some(port));
        }
    }

    #[test]
    fn a_flow_is_removed_as_open_vswitch_itself_does() {
        let matching = Match { frames: Frames::To(Mac([2, 0, 0, 0, 0, 6])), tagged: false };
        let network = Network { vni: 0x2a, port: 6784 };
        let request = Change::Remove(matching).request(0x1e, &4_u32.to_ne_bytes(), network);
        assert_eq!(request.body(), &golden::message("delete-to")[16..]);
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = (Datapath::decode(bytes), VPort::decode(bytes));
        });
    }
}
