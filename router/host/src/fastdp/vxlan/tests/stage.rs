//! Two hosts on one underlay, each with a bridge, a TAP that nobody serves, and a container: what arrives came by the tables alone.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use weft::{
    fastdp::{EspPlan, Plan, PlannedPeer, Protection, SaSet},
    id::{Mac, PeerName},
};

use crate::{
    BridgeConfig, FastConfig, Host, HostError, Kernel, Vxlan,
    kernel::tests::stage::{Container, done, to},
    netlink::{Netlink, Veth},
    netns::Namespace,
    tap::{self, TapQueue},
    testing::ip,
    xfrm::tests::stage::key,
};

/// Time enough for what shall come.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Time enough for what shall not.
const SILENCE: Duration = Duration::from_millis(150);
pub(super) const PORT: u16 = 6784;
pub(super) const VNI: u32 = 0x00ab_cdef;

/// A host with all that a router would have made.
pub(super) struct Node {
    pub(super) number: u8,
    pub(super) host: Container,
    pub(super) kernel: Kernel,
    pub(super) container: Container,
    vxlan: Arc<Mutex<Option<Vxlan>>>,
    taps: Vec<TapQueue>,
}

pub(super) fn name(number: u8) -> PeerName {
    PeerName([0x7e, 0x52, 0, 0xaa, 0xbb, number])
}

pub(super) fn config(number: u8) -> FastConfig {
    FastConfig { bridge: "weft".to_owned(), tap: "weft-tap".to_owned(), port: PORT, vni: VNI, own: name(number) }
}

/// Where a host is on the underlay.
pub(super) fn underlay(number: u8, v6: bool) -> IpAddr {
    if v6 { format!("fd00:1::{number}") } else { format!("192.0.2.{number}") }.parse().unwrap()
}

/// A plan of one peer and its stations.
pub(super) fn plan(peer: u8, remote: IpAddr, carries: bool, stations: impl IntoIterator<Item = Mac>) -> Plan {
    let planned = PlannedPeer { remote, carries, protection: Protection::Clear };
    Plan {
        peers: BTreeMap::from([(name(peer), planned)]),
        stations: stations.into_iter().map(|mac| (mac, name(peer))).collect(),
    }
}

/// The same plan with so many lanes to each peer.
pub(super) fn laned(mut plan: Plan, lanes: u8) -> Plan {
    for planned in plan.peers.values_mut() {
        let keys = (1..=lanes).map(key).collect();
        let send = Some(SaSet { spi: 0x1000, destination: planned.remote, keys, encap: None });
        planned.protection = Protection::Esp(Box::new(EspPlan { send, ..EspPlan::default() }));
    }
    plan
}

impl Node {
    /// A host with bridge and TAP, but no VXLAN devices yet.
    pub(super) fn bare(number: u8) -> Self {
        let host = Container::new();
        let kernel = host.inside(move || {
            let kernel = Kernel::start("weft").unwrap();
            done(kernel.ensure_bridge(BridgeConfig { peer: name(number), mtu: None })).unwrap();
            kernel
        });
        let container = Container::new();
        done(kernel.attach(to(&container.path, &[&format!("10.2.0.{number}/24")]))).unwrap();
        let mut node = Self { number, host, kernel, container, vxlan: Arc::default(), taps: Vec::new() };
        node.plug_tap();
        node
    }

    /// A host with everything.
    pub(super) fn new(number: u8) -> Self {
        let node = Self::bare(number);
        node.open().unwrap();
        node
    }

    fn plug_tap(&mut self) {
        self.taps = self.host.inside(|| tap::create("weft-tap", 1).unwrap());
        done(self.kernel.add_port("weft-tap".to_owned())).unwrap();
    }

    pub(super) fn open(&self) -> Result<(), HostError> {
        let (place, number) = (Arc::clone(&self.vxlan), self.number);
        self.host.inside(move || {
            *place.lock().unwrap() = Some(Vxlan::open(config(number))?);
            Ok(())
        })
    }

    /// What a killed router leaves.
    pub(super) fn die(&mut self) {
        drop(self.vxlan.lock().unwrap().take());
        self.taps.clear();
    }

    /// What its successor does.
    pub(super) fn succeed(&mut self) {
        self.plug_tap();
        self.open().unwrap();
    }

    /// Does something with the backend, on its host.
    pub(super) fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut Vxlan) -> T + Send + 'static) -> T {
        let place = Arc::clone(&self.vxlan);
        self.host.inside(move || act(place.lock().unwrap().as_mut().unwrap()))
    }

    /// The container's address on Ethernet.
    pub(super) fn station(&self) -> Mac {
        done(self.kernel.attachments()).unwrap()[0].mac
    }

    /// Lets the container know another, as ARP would.
    fn introduce(&self, other: &Self) {
        let (number, mac) = (other.number, other.station());
        self.container.inside(move || ip(&format!("neighbour replace 10.2.0.{number} lladdr {mac} dev ethwe")));
    }

    /// Whether a frame for a station comes to the sleeve.
    pub(super) fn sleeve_hears(&self, station: Mac) -> bool {
        self.comes_to_sleeve(station, PATIENCE)
    }

    /// Whether no frame for a station comes to the sleeve.
    pub(super) fn sleeve_misses(&self, station: Mac) -> bool {
        !self.comes_to_sleeve(station, SILENCE)
    }

    fn comes_to_sleeve(&self, station: Mac, within: Duration) -> bool {
        let mut buffer = vec![0; tap::READ_LEN];
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            match self.taps[0].read(&mut buffer) {
                Ok(_) if buffer[tap::VNET_HEADER_LEN..].starts_with(&station.0) => return true,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        false
    }

    /// What the sleeve does with a frame from a peer.
    pub(super) fn sleeve_says(&self, frame: &[u8]) {
        self.taps[0].write(&[0; tap::VNET_HEADER_LEN], frame).unwrap();
    }
}

/// Two hosts joined by a cable.
pub(super) fn two() -> (Node, Node) {
    let (one, two) = (Node::new(1), Node::new(2));
    join(&one, &two);
    (one, two)
}

pub(super) fn join(one: &Node, two: &Node) {
    let path = two.host.path.clone();
    one.host.inside(move || {
        let other = Namespace::find(&path).unwrap();
        let cable = Veth { name: "eth0", peer: "eth0", namespace: other.fd(), mtu: 1500 };
        Netlink::open().unwrap().add_veth(&cable).unwrap();
    });
    for node in [one, two] {
        let number = node.number;
        node.host.inside(move || {
            let netlink = Netlink::open().unwrap();
            let link = netlink.link("eth0").unwrap().unwrap();
            for (v6, length) in [(false, 24), (true, 64)] {
                let net = ipnet::IpNet::new(underlay(number, v6), length).unwrap();
                netlink.add_address(&link, net).unwrap();
            }
            netlink.set_up(&link).unwrap();
        });
    }
    // The kernel takes its time to notice that the cable is in.
    for v6 in [false, true] {
        let (here, there) = (SocketAddr::new(underlay(1, v6), 7000), SocketAddr::new(underlay(2, v6), 7000));
        let listening = two.host.inside(move || UdpSocket::bind(there).unwrap());
        listening.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let deadline = Instant::now() + PATIENCE;
        one.host.inside(move || {
            let socket = UdpSocket::bind(here).unwrap();
            while listening.recv(&mut [0]).is_err() {
                assert!(Instant::now() < deadline, "no cable");
                // Refused while there is no route yet.
                let _ = socket.send_to(&[0], there);
            }
        });
    }
    one.introduce(two);
    two.introduce(one);
}

/// Lets each host lead to the other's container by the fast datapath.
pub(super) fn carry(one: &Node, two: &Node, v6: bool) {
    for (here, there) in [(one, two), (two, one)] {
        let plan = plan(there.number, underlay(there.number, v6), true, [there.station()]);
        here.with(move |vxlan| crate::FastDatapath::apply(vxlan, &plan)).unwrap();
    }
}

/// Whether a packet of `length` bytes of payload gets from one container to the other.
pub(super) fn passes(from: &Node, to: &Node, length: usize) -> bool {
    arrives(from, to, length, PATIENCE)
}

/// Whether it does not.
pub(super) fn lost(from: &Node, to: &Node, length: usize) -> bool {
    !arrives(from, to, length, SILENCE)
}

fn arrives(from: &Node, to: &Node, length: usize, within: Duration) -> bool {
    let address = |node: &Node| SocketAddr::from(([10, 2, 0, node.number], 7000));
    let (here, there) = (address(from), address(to));
    let listening = to.container.inside(move || bind(there));
    from.container.inside(move || bind(here).send_to(&vec![7; length], there).unwrap());
    listening.set_read_timeout(Some(within)).unwrap();
    let mut buffer = vec![0; length + 1];
    match listening.recv_from(&mut buffer) {
        Ok(got) => got == (length, here),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

/// A socket. One that was closed may still be held for a moment, by the child of another test between fork and exec.
pub(super) fn bind(address: SocketAddr) -> UdpSocket {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => std::thread::yield_now(),
            socket => return socket.unwrap(),
        }
    }
}

/// Whether packets pass both ways.
pub(super) fn talk(one: &Node, two: &Node) -> bool {
    passes(one, two, 100) && passes(two, one, 100)
}
