//! The stage: hosts with a bridge, a container and a datapath each, on an underlay of both protocols.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread::JoinHandle,
};

use weft::{
    fastdp::{Plan, PlannedPeer, Protection, heartbeat_mac},
    id::{Mac, PeerName},
};

use crate::{
    BridgeConfig, FastConfig, FastDatapath as _, HeartbeatSocket, Host as _, Kernel, Ovs, Vxlan,
    kernel::tests::stage::{Container, done, to},
    ovs::datapath::Datapaths,
    tap::{self, TapQueue},
    testing::ip,
};

pub(super) const OWN: PeerName = PeerName([0x7e, 0x52, 0, 0, 0, 1]);
pub(super) const TWO: PeerName = PeerName([0x7e, 0x52, 0, 0, 0, 2]);
/// Of the bridges: what fits an underlay of 1500 bytes over IPv6: 40 + 8 (UDP) + 8 (VXLAN) + 14 (Ethernet) less.
pub(super) const MTU: u32 = 1430;

const MEGABYTE: usize = 1 << 20;

/// The protocol of the underlay.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

/// A host, and a container on it.
pub(super) struct Host {
    pub(super) place: Container,
    pub(super) container: Container,
    pub(super) mac: Mac,
    name: PeerName,
    remote: IpAddr,
    ovs: Arc<Mutex<Option<Ovs>>>,
    _kernel: Kernel,
    _tap: Vec<TapQueue>,
}

/// Whether the kernel has Open vSwitch; says so if not.
pub(super) fn has_ovs() -> bool {
    let found = Datapaths::open().is_ok();
    if !found {
        say("SKIPPED: this kernel has no Open vSwitch");
    }
    found
}

/// Says it even of a test that succeeds, whose output is kept back.
pub(super) fn say(text: &str) {
    let thread = std::thread::current();
    let _ = writeln!(io::stderr(), "{}: {text}", thread.name().unwrap_or("ovs"));
}

pub(super) fn config() -> FastConfig {
    FastConfig { bridge: "weft".to_owned(), tap: "weft-tap".to_owned(), port: 6784, vni: 0x2a, own: OWN }
}

pub(super) fn station(number: usize) -> Mac {
    let [.., a, b, c] = number.to_be_bytes();
    Mac([2, 0, 1, a, b, c])
}

pub(super) fn peer(number: u8) -> PeerName {
    PeerName([0x7e, 0x52, 1, 0, 0, number])
}

/// A plan of stations on four peers in turn.
pub(super) fn many(stations: usize) -> Plan {
    let planned =
        |number| PlannedPeer { remote: [10, 9, 1, number].into(), carries: true, protection: Protection::Clear };
    Plan {
        peers: (0..4).map(|number| (peer(number), planned(number))).collect(),
        stations: (0..stations).map(|number| (station(number), peer((number % 4) as u8))).collect(),
    }
}

/// Two hosts; none without Open vSwitch.
pub(super) fn two_hosts(family: Family) -> Option<(Host, Host)> {
    if !has_ovs() {
        return None;
    }
    let (one, two) = (Container::new(), Container::new());
    let command = format!("link add eth0 type veth peer name eth0 netns {}", two.path);
    one.inside(move || ip(&command));
    Some((Host::new(one, OWN, family), Host::new(two, TWO, family)))
}

impl Host {
    /// A host without an underlay; none without Open vSwitch.
    pub(super) fn alone() -> Option<Self> {
        if !has_ovs() {
            return None;
        }
        let place = Container::new();
        place.inside(|| ip("link add eth0 type dummy"));
        Some(Self::new(place, OWN, Family::V4))
    }

    fn new(place: Container, name: PeerName, family: Family) -> Self {
        let number = name.0[5];
        let remote = match family {
            Family::V4 => format!("10.9.0.{number}"),
            Family::V6 => format!("fd09::{number}"),
        };
        let (kernel, tap) = place.inside(move || {
            ip("link set lo up");
            ip("link set eth0 up");
            ip(&format!("address add 10.9.0.{number}/16 dev eth0"));
            ip(&format!("address add fd09::{number}/64 dev eth0 nodad"));
            let kernel = Kernel::start("weft").unwrap();
            done(kernel.ensure_bridge(BridgeConfig { peer: name, mtu: Some(MTU) })).unwrap();
            let tap = tap::create("weft-tap", 1).unwrap();
            done(kernel.add_port("weft-tap".to_owned())).unwrap();
            (kernel, tap)
        });
        let container = Container::new();
        done(kernel.attach(to(&container.path, &[&format!("10.32.0.{number}/24")]))).unwrap();
        let mac = done(kernel.attachments()).unwrap()[0].mac;
        let ovs = Arc::new(Mutex::new(None));
        let host =
            Self { place, container, mac, name, remote: remote.parse().unwrap(), ovs, _kernel: kernel, _tap: tap };
        host.restart();
        host
    }

    /// Leaves the kernel as it is, and starts anew.
    pub(super) fn restart(&self) {
        self.restart_as(config());
    }

    pub(super) fn restart_as(&self, config: FastConfig) {
        let (place, own) = (Arc::clone(&self.ovs), self.name);
        self.place.inside(move || {
            let mut ovs = place.lock().unwrap();
            drop(ovs.take());
            *ovs = Some(Ovs::open(FastConfig { own, ..config }).unwrap());
        });
    }

    pub(super) fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut Ovs) -> T + Send + 'static) -> T {
        let ovs = Arc::clone(&self.ovs);
        self.place.inside(move || act(ovs.lock().unwrap().as_mut().unwrap()))
    }

    pub(super) fn apply(&self, plan: &Plan) -> usize {
        let plan = plan.clone();
        self.with(move |ovs| ovs.apply(&plan).unwrap())
    }

    /// Leaves Open vSwitch for VXLAN devices, as another host may have it.
    pub(super) fn turn_to_vxlan(&self, plan: &Plan) -> Vxlan {
        let (place, own, plan) = (Arc::clone(&self.ovs), self.name, plan.clone());
        self.place.inside(move || {
            drop(place.lock().unwrap().take());
            Ovs::remove("weft").unwrap();
            let mut vxlan = Vxlan::open(FastConfig { own, ..config() }).unwrap();
            vxlan.apply(&plan).unwrap();
            vxlan
        })
    }

    /// Flows of the datapath, and frames that matched none.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.with(|ovs| {
            let found = ovs.datapaths.find("weft-dp").unwrap().unwrap();
            (found.flows, found.missed)
        })
    }

    pub(super) fn plan_to(&self, other: &Self, carries: bool) -> Plan {
        let planned = PlannedPeer { remote: other.remote, carries, protection: Protection::Clear };
        self.container.inside({
            let command = format!("neighbour replace {} lladdr {} dev ethwe nud permanent", other.inside(), other.mac);
            move || ip(&command)
        });
        Plan { peers: [(other.name, planned)].into(), stations: [(other.mac, other.name)].into() }
    }

    fn inside(&self) -> String {
        format!("10.32.0.{}", self.name.0[5])
    }

    /// An address for a VLAN device.
    pub(super) fn tagged(&self) -> String {
        format!("10.33.0.{}", self.name.0[5])
    }

    /// Pings the other's container from ours; its output if any answer is missing.
    pub(super) fn ping(&self, other: &Self, options: &str) -> Result<(), String> {
        self.ping_address(&other.inside(), options)
    }

    /// Pings until two are answered: a port that was down passes frames once the kernel has noticed that it is up.
    pub(super) fn reach(&self, other: &Self, options: &str) -> Result<(), String> {
        let command = ping(&other.inside(), format!("-c 2 -i 0.2 -w 10 {options}").trim_end());
        self.container.inside(move || answered(command).map(|_| ()))
    }

    pub(super) fn ping_address(&self, address: &str, options: &str) -> Result<(), String> {
        let command = ping(address, options);
        self.container.inside(move || run(command))
    }

    /// The same while others go on.
    pub(super) fn ping_meanwhile(&self, other: &Self, options: &str) -> JoinHandle<Result<(), String>> {
        let command = ping(&other.inside(), options);
        self.container.inside(move || std::thread::spawn(move || run(command)))
    }

    /// Sends a megabyte over TCP from our container to the other's, in super-frames.
    pub(super) fn transfer(&self, other: &Self) {
        let address = format!("{}:7000", other.inside());
        let listener = other.container.inside({
            let address = address.clone();
            move || TcpListener::bind(address).unwrap()
        });
        let connected = self.container.inside(move || TcpStream::connect(address).unwrap());
        let sender = std::thread::spawn(move || (&connected).write_all(&[7; MEGABYTE]).unwrap());
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        assert!(bytes == [7; MEGABYTE], "{} bytes", bytes.len());
    }

    /// Waits for a heartbeat at the bridge.
    pub(super) fn listen(&self) -> Receiver<bool> {
        let (tell, heard) = mpsc::channel();
        let name = self.name;
        let socket = self.place.inside(move || HeartbeatSocket::open("weft", name).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                match socket.receive(&mut buffer) {
                    Ok(Some(len)) => {
                        let _ = tell.send(&buffer[..len] == b"beat");
                        return;
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    Err(_) => return,
                }
            }
        });
        heard
    }

    /// Sends a heartbeat.
    pub(super) fn beat(&self, other: &Self) {
        let (own, to) = (self.name, other.name);
        assert_ne!(heartbeat_mac(own), heartbeat_mac(to));
        self.place.inside(move || HeartbeatSocket::open("weft", own).unwrap().send(to, own, b"beat").unwrap());
    }
}

fn ping(address: &str, options: &str) -> Command {
    let mut command = Command::new("ping");
    command.args(options.split(' ')).args(["-q", address]);
    command
}

fn run(command: Command) -> Result<(), String> {
    let text = answered(command)?;
    if text.contains(" 0% packet loss") { Ok(()) } else { Err(text) }
}

/// What `ping` says if it was answered as often as it asked for.
fn answered(mut command: Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}
