//! Hosts as network namespaces on one switch, each with a data plane; all vanish with their [`Lab`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    process::Command,
    sync::Arc,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::mpsc;
use weft::{
    crypto::session::{Cipher, Key, Session},
    id::{Mac, PeerName},
    node::input::Input,
    switch::forwarding::{Forwarding, PeerForwarding, Route},
    wire::{DEFAULT_PORT, sleeve::PacketType},
};
use weft_host::{tap, udp};

use super::super::{DataPlane, DataPlaneConfig, channel};

/// How long anything may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// What fits a 1500-byte underlay of either family.
const PAYLOAD_MAX: usize = 1452;
const WORKERS: usize = 2;

/// An IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

/// The hosts. The switch's namespace lives as long as its descriptor.
pub(super) struct Lab {
    pub(super) hosts: Vec<Host>,
    family: Family,
    _switch: File,
}

/// One host: `eth0` on the underlay, `weft-tap` with an address inside, a data plane.
pub(super) struct Host {
    pub(super) name: PeerName,
    pub(super) plane: DataPlane,
    pub(super) punts: mpsc::Receiver<Input>,
    number: usize,
    family: Family,
    namespace: File,
}

impl Lab {
    /// `count` hosts whose routers speak over `family` and do not know each other yet.
    pub(super) fn new(count: usize, family: Family) -> Self {
        let switch = new_namespace(|| ip("link add sw type bridge"));
        within(&switch, || ip("link set sw up"));
        let hosts = (0..count).map(|number| Host::new(number, family, &switch)).collect();
        Self { hosts, family, _switch: switch }
    }

    /// Gives every host a session with and a direct route to every other.
    pub(super) fn join_all(&self) {
        for host in &self.hosts {
            host.plane.publish(Arc::new(self.forwarding_of(host)));
        }
    }

    fn forwarding_of(&self, host: &Host) -> Forwarding {
        let mut peers = BTreeMap::new();
        let mut receiving = HashMap::default();
        let mut stations = HashMap::default();
        for other in self.hosts.iter().filter(|other| other.number != host.number) {
            let session = Arc::new(session(host.number as u8, other.number as u8));
            receiving.insert(session.local_index(), (other.name, Arc::clone(&session)));
            stations.insert(other.station(), other.name);
            let to = underlay(other.number, self.family);
            let route = Some(Route::Direct(to));
            peers.insert(
                other.name,
                PeerForwarding {
                    further: Vec::new(),
                    session: Some(session),
                    route,
                    straight: Some((to, PAYLOAD_MAX)),
                    payload_max: PAYLOAD_MAX,
                    carried: false,
                    frame_max: usize::MAX,
                },
            );
        }
        Forwarding {
            name: Some(host.name),
            peers,
            stations,
            local: HashSet::from_iter([host.station()]),
            receiving,
            relays: true,
            ..Forwarding::default()
        }
    }
}

impl Host {
    fn new(number: usize, family: Family, switch: &File) -> Self {
        let switch_path = format!("/proc/{}/fd/{}", std::process::id(), switch.as_raw_fd());
        let (punts, received) = channel();
        let mut plane = None;
        let namespace = new_namespace(|| {
            ip(&format!("link add eth0 type veth peer name p{number} netns {switch_path}"));
            ip(&format!("address add {}/24 dev eth0", underlay(number, Family::V4).ip()));
            ip(&format!("address add {}/64 dev eth0 nodad", underlay(number, Family::V6).ip()));
            ip("link set lo up");
            ip("link set eth0 up");
            let taps = tap::create("weft-tap", WORKERS).unwrap();
            ip(&format!("link set weft-tap address {} mtu 1340 up", station(number)));
            ip(&format!("address add {}/24 dev weft-tap", inner(number, Family::V4)));
            ip(&format!("address add {}/64 dev weft-tap nodad", inner(number, Family::V6)));
            let sockets = udp::bind(Some(underlay(number, family).ip()), DEFAULT_PORT, WORKERS).unwrap();
            plane = Some(DataPlane::start(DataPlaneConfig { taps, sockets, punts, realtime: true }).unwrap());
        });
        within(switch, || ip(&format!("link set p{number} master sw up")));
        let name = PeerName([0x7e, 0, 0, 0, 0, number as u8]);
        Self { name, plane: plane.unwrap(), punts: received, number, family, namespace }
    }

    /// Does something in the host's namespace; sockets made there stay there.
    pub(super) fn inside<T>(&self, action: impl FnOnce() -> T) -> T {
        within(&self.namespace, action)
    }

    /// Runs `ip` on the host.
    pub(super) fn ip(&self, arguments: &str) {
        self.inside(|| ip(arguments));
    }

    /// Mean length of the frames that its data plane wrote to its TAP.
    pub(super) fn mean_frame_written(&self) -> u64 {
        let output =
            self.inside(|| Command::new("ip").args(["-s", "-j", "link", "show", "weft-tap"]).output().unwrap());
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let received = |what: &str| links[0]["stats64"]["rx"][what].as_u64().unwrap();
        received("bytes") / received("packets")
    }

    /// Where its router is reached.
    pub(super) fn underlay(&self) -> SocketAddr {
        underlay(self.number, self.family)
    }

    /// Its address on the encrypted network.
    pub(super) fn inner(&self, family: Family) -> IpAddr {
        inner(self.number, family)
    }

    fn station(&self) -> Mac {
        station(self.number)
    }
}

fn underlay(number: usize, family: Family) -> SocketAddr {
    let host = number + 1;
    let ip = match family {
        Family::V4 => format!("172.30.0.{host}"),
        Family::V6 => format!("fd30::{host}"),
    };
    SocketAddr::new(ip.parse().unwrap(), DEFAULT_PORT)
}

fn inner(number: usize, family: Family) -> IpAddr {
    let host = number + 1;
    match family {
        Family::V4 => format!("10.9.0.{host}"),
        Family::V6 => format!("fd09::{host}"),
    }
    .parse()
    .unwrap()
}

fn station(number: usize) -> Mac {
    Mac([2, 0, 0, 0, 9, number as u8])
}

/// The session of host `ours` with host `theirs`: keys and indices follow from the two numbers.
fn session(ours: u8, theirs: u8) -> Session {
    let key = |from: u8, to: u8| Key::new(std::array::from_fn(|n| n as u8 ^ (16 * from + to)));
    let index = |at: u8, from: u8| u32::from(at) << 8 | u32::from(from);
    Session::new(
        PacketType::Data,
        index(ours, theirs),
        index(theirs, ours),
        Cipher::Aes256Gcm,
        key(ours, theirs),
        key(theirs, ours),
    )
}

/// Makes a namespace, does something in it, and comes back.
fn new_namespace(action: impl FnOnce()) -> File {
    let home = current_namespace();
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    let made = current_namespace();
    setns(&home, CloneFlags::CLONE_NEWNET).unwrap();
    within(&made, action);
    made
}

/// Does something in `namespace` and comes back, also from a panic.
fn within<T>(namespace: &File, action: impl FnOnce() -> T) -> T {
    struct Home(File);
    impl Drop for Home {
        fn drop(&mut self) {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
        }
    }
    let _home = Home(current_namespace());
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    action()
}

fn current_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}
