//! Two hosts on one wire, each with a VXLAN device, and what crosses the wire between them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use weft::{
    fastdp::{EspPlan, Plan, PlannedPeer, Protection, SA_KEY_LEN, SaKey, SaSet},
    id::PeerName,
};

use super::super::Xfrm;

pub(super) const PORT: u16 = 6784;
static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) fn key(byte: u8) -> SaKey {
    SaKey([byte; SA_KEY_LEN].into())
}

pub(crate) fn set(destination: &str, spi: u32, keys: &[SaKey]) -> SaSet {
    SaSet { spi, destination: destination.parse().unwrap(), keys: keys.to_vec(), encap: None }
}

pub(super) fn plan_of(remote: &str, esp: EspPlan) -> Plan {
    let peer =
        PlannedPeer { remote: remote.parse().unwrap(), carries: true, protection: Protection::Esp(Box::new(esp)) };
    Plan { peers: BTreeMap::from([(PeerName([2; 6]), peer)]), ..Plan::default() }
}

/// Whether the kernel can seal. If not, the test that asks has nothing to test, and says so.
pub(crate) fn has_esp() -> bool {
    let mut can = Ok(());
    crate::testing::in_namespace_with(&mut can, |can| *can = Xfrm::open(PORT).unwrap().ability());
    if let Err(why) = &can {
        assert!(std::env::var_os("UML_RUN").is_none(), "this kernel is there to have ESP: {why}");
        // Past the test harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}: {why}", std::thread::current().name().unwrap_or_default());
    }
    can.is_ok()
}

/// A network namespace with a name, which goes with it.
pub(super) struct Host {
    namespace: String,
    /// 1 or 2: the last byte of its addresses.
    number: u8,
}

/// Two hosts: 10.9.0.1 and .2, fd00:9::1 and ::2 on the wire; 10.32.0.1 and .2 on the VXLAN of `family`.
pub(super) fn pair(ipv6: bool) -> (Host, Host) {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let host = |side: &str, last| {
        let namespace = format!("weft-xfrm-{}-{number}{side}", std::process::id());
        run(&format!("ip netns add {namespace}"));
        Host { namespace, number: last }
    };
    let (one, two) = (host("a", 1), host("b", 2));
    run(&format!("ip link add eth0 netns {} type veth peer name eth0 netns {}", one.namespace, two.namespace));
    for (host, other) in [(&one, 2), (&two, 1)] {
        let n = host.number;
        let remote = underlay(other, ipv6);
        let local = underlay(n, ipv6);
        for command in [
            "ip link set lo up".to_owned(),
            "ip link set eth0 up".to_owned(),
            format!("ip addr add 10.9.0.{n}/24 dev eth0"),
            format!("ip addr add fd00:9::{n}/64 dev eth0 nodad"),
            format!(
                "ip link add vx address 02:00:00:00:00:0{n} type vxlan id 42 dstport {PORT} local {local} nolearning"
            ),
            format!("ip addr add 10.32.0.{n}/24 dev vx"),
            "ip link set vx up mtu 1300".to_owned(),
            format!("bridge fdb add 02:00:00:00:00:0{other} dev vx dst {remote}"),
            format!("ip neigh add 10.32.0.{other} lladdr 02:00:00:00:00:0{other} dev vx"),
        ] {
            host.run(&command);
        }
    }
    (one, two)
}

pub(super) fn underlay(number: u8, ipv6: bool) -> String {
    if ipv6 { format!("fd00:9::{number}") } else { format!("10.9.0.{number}") }
}

impl Host {
    /// A container that `host` forwards packets for: 10.7.0.2.
    pub(super) fn beside(host: &Self) -> Self {
        let namespace = format!("{}c", host.namespace);
        run(&format!("ip netns add {namespace}"));
        let container = Self { namespace, number: 2 };
        run(&format!("ip link add c0 netns {} type veth peer name eth0 netns {}", host.namespace, container.namespace));
        for command in ["ip addr add 10.7.0.1/24 dev c0", "ip link set c0 up", "sysctl -q -w net.ipv4.ip_forward=1"] {
            host.run(command);
        }
        for command in ["ip addr add 10.7.0.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 10.7.0.1"]
        {
            container.run(command);
        }
        container
    }

    /// Runs something on a thread inside.
    pub(super) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(super) fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.namespace))
    }

    /// XFRM of this host.
    pub(super) fn xfrm(&self) -> Xfrm {
        self.inside(|| Xfrm::open(PORT).unwrap())
    }

    /// The kernel's counters of refused packets that are not nought.
    pub(super) fn refused(&self) -> String {
        let all = self.inside(|| std::fs::read_to_string("/proc/thread-self/net/xfrm_stat").unwrap());
        let lines = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join("="));
        lines.filter(|line| !line.ends_with("=0")).collect::<Vec<_>>().join(" ")
    }

    /// A socket for frames of others on the VXLAN.
    pub(super) fn station(&self, port: u16) -> UdpSocket {
        let address: SocketAddr = format!("10.32.0.{}:{port}", self.number).parse().unwrap();
        let socket = self.inside(move || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }

    /// All frames that come to this host from now on.
    pub(super) fn wire(&self) -> Wire {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = self.inside(move || Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap());
        socket.set_recv_buffer_size(8 << 20).unwrap();
        socket.set_nonblocking(true).unwrap();
        Wire(socket)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

pub(super) struct Wire(Socket);

/// What was seen of packets between hosts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OnWire {
    pub(super) esp: u32,
    pub(super) esp_in_udp: u32,
    pub(super) clear: u32,
    /// Other UDP from or to containers.
    pub(super) other: u32,
}

impl Wire {
    /// What came since the last look.
    pub(super) fn seen(&self) -> OnWire {
        let mut seen = OnWire::default();
        let mut frame = [0; 2048];
        while let Ok(length) = (&self.0).read(&mut frame) {
            let (proto, payload) = match frame[12..14] {
                [0x08, 0x00] => (frame[23], 34),
                [0x86, 0xdd] => (frame[20], 54),
                _ => continue,
            };
            let port = u16::from_be_bytes([frame[payload + 2], frame[payload + 3]]);
            match (proto, port) {
                (50, _) => seen.esp += 1,
                (17, PORT) => seen.clear += 1,
                (17, 4500) if length > payload + 12 && frame[payload + 8..payload + 12] != [0; 4] => {
                    seen.esp_in_udp += 1
                }
                (17, _) if frame[26..28] == [10, 7] => seen.other += 1,
                _ => {}
            }
        }
        seen
    }
}

/// Sends `count` datagrams and returns how many of them arrive.
pub(super) fn cross(from: &UdpSocket, to: &UdpSocket, count: u32) -> u32 {
    let address = to.local_addr().unwrap();
    let mut buffer = [0; 16];
    let mut arrived = 0;
    for number in 0..count {
        // What a policy blocks, the kernel may say.
        let _ = from.send_to(&number.to_be_bytes(), address);
        // Not more at once than the queues of a slow kernel hold.
        if number % 16 == 15 || number + 1 == count {
            to.set_nonblocking(true).unwrap();
            while to.recv(&mut buffer).is_ok() {
                arrived += 1;
            }
            to.set_nonblocking(false).unwrap();
        }
    }
    while arrived < count && to.recv(&mut buffer).is_ok() {
        arrived += 1;
    }
    arrived
}

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
