//! What is compared. Each has a lab of its own: two hosts on a switch, and in each a container behind a bridge.
//!
//! ```text
//!   container ── bridge ── (nothing | VXLAN device, ours or Weft's | Weft's TAP and router) ── eth0 ── switch ── …
//! ```
//! For the fast datapath the fair comparison is the same made by hand with the same MTU, a VXLAN device, with IPsec states and
//! policies, or a datapath of Open vSwitch with flows: what Weft adds to it.

use std::{fmt, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use weft_integration::{
    lab::{
        Lab,
        container::DEVICE,
        cut::{ActiveCut, Cut},
        host::{Host, UNDERLAY},
        mesh::Mesh,
        namespace::Namespace,
        ping::Ping,
        wait::wait_for,
    },
    scenario::{backend::Backend, fabric},
    uml,
};

use super::options::{Options, Underlay};

/// MTU of Weft's containers on an underlay of 1500 bytes, whatever the method.
const WEFT_MTU: u16 = 1340;
/// MTU of a jumbo underlay, and of Weft's containers on it.
const JUMBO: u32 = 9000;
const WEFT_MTU_JUMBO: u16 = 8840;
/// Per cent of a core for a router that is to be overloaded.
const SLOW: u32 = 25;
/// What Linux uses unless it is told otherwise.
const CONGESTION_CONTROL: &str = "cubic";
/// For two routers to find each other and to prove a path.
const SETTLING: Duration = Duration::from_secs(30);
/// Ports of VXLAN made by hand: IANA's, and of Open vSwitch Weft's, which is free there.
const VXLAN: u16 = 4789;
const OVS_VXLAN: u16 = 6784;
/// Key and salt of the states made by hand, hexadecimal: what it is changes nothing.
const KEY: &str = "0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

/// How containers of two hosts are joined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// The hosts' devices are ports of the bridges: no tunnel at all.
    Veth,
    /// A VXLAN device (RFC 7348) is; not encrypted. The MTU is the largest that fits.
    Vxlan,
    /// The same with the MTU that Weft gives its containers.
    VxlanAlike,
    /// Weft's fast datapath, VXLAN in the kernel; not encrypted.
    Fastdp,
    /// Weft's sleeve; encrypted.
    Sleeve,
    /// The same on an underlay with jumbo frames.
    Jumbo,
    /// The same with all offloads of the containers' devices switched off.
    Plain,
    /// The same by a third router that passes the packets on, as the two hosts do not reach each other.
    Relay,
    /// The sleeve, the second host's router being given [`SLOW`] per cent of a core: its sender can send more than it can take.
    Slow,
    /// The VXLAN device with Weft's MTU in ESP, by states and policies made by hand.
    Xfrm,
    /// Weft's fast datapath, VXLAN in the kernel and ESP with so many lanes.
    Esp(u8),
    /// A datapath of Open vSwitch with flows made by hand, joined to the bridge by a veth pair; not encrypted.
    Flows,
    /// Weft's fast datapath, by Open vSwitch; not encrypted.
    Ovs,
}

/// One of them, up.
pub(crate) struct Candidate {
    kind: Kind,
    /// What keeps packets from the straight way; healed before the lab goes.
    _cut: Option<ActiveCut>,
    lab: Lab,
    hosts: Vec<Host>,
    ends: [Namespace; 2],
    to: Ipv4Addr,
}

impl Candidate {
    /// Those that are asked for, up and answering.
    pub(crate) fn all(options: &Options) -> Result<Vec<Self>> {
        options.kinds.iter().map(|kind| Self::up(*kind, options)).collect()
    }

    fn up(kind: Kind, options: &Options) -> Result<Self> {
        let lab = Lab::new()?;
        let candidate = match kind.backend() {
            None => bridged(kind, lab)?,
            Some(backend) => woven(kind, backend, lab)?,
        };
        if options.underlay == Underlay::Nicish {
            candidate.hosts.iter().try_for_each(|host| host.pass_runs_whole(false))?;
        }
        candidate.ping().until_answered(Duration::from_secs(10))?;
        candidate.ends.iter().try_for_each(with_usual_congestion_control)?;
        Ok(candidate)
    }

    /// What it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the load comes from, and where it goes.
    pub(crate) fn ends(&self) -> &[Namespace; 2] {
        &self.ends
    }

    /// The address of the second end.
    pub(crate) fn to(&self) -> Ipv4Addr {
        self.to
    }

    /// A ping from end to end.
    pub(crate) fn ping(&self) -> Ping {
        Ping::new(&self.ends[0], self.to.into())
    }

    /// The hosts on which a router runs.
    pub(crate) fn routers(&self) -> &[Host] {
        if self.kind.backend().is_some() { &self.hosts } else { &[] }
    }

    /// Fails unless traffic goes where it should: with Weft directly, by the method that is measured, sealed or not.
    pub(crate) fn verify(&self) -> Result<()> {
        let (Some(backend), [a, b, ..]) = (self.kind.backend(), self.routers()) else { return Ok(()) };
        for (from, to) in [(a, b), (b, a)] {
            let (path, way) = (from.path_to(to.name())?, self.kind.way());
            ensure!(path.path == way && path.method == backend.method(), "not by {}: {path:?}", self.kind);
            if self.kind == Kind::Relay {
                continue;
            }
            let connection = from.expect_established(to.name())?;
            let sealed = backend.encrypted();
            ensure!(connection.encrypted == sealed, "encrypted should be {sealed}: {connection:?}");
            let lanes = self.kind.lanes().filter(|lanes| *lanes > 1).map(|lanes| format!("{lanes} lanes"));
            let is_so = lanes.as_ref().is_none_or(|lanes| connection.info.contains(lanes));
            ensure!(is_so, "there should be {lanes:?}: {connection:?}");
        }
        let mtu = self.ends[0].run("cat").arg(format!("/sys/class/net/{DEVICE}/mtu")).checked()?;
        let wanted = self.kind.mtu();
        ensure!(mtu.trim() == wanted.to_string(), "the MTU is {mtu}, not the {wanted} of what it is compared with");
        Ok(())
    }

    /// What the routers think.
    pub(crate) fn diagnosis(&self) -> String {
        if self.kind.backend().is_some() { self.lab.diagnosis() } else { String::new() }
    }
}

impl Kind {
    /// Those that can be compared on the kernel that we are on, in the order of the table.
    pub(crate) fn all() -> &'static [Self] {
        const NATIVE: [Kind; 9] = [
            Kind::Veth,
            Kind::Vxlan,
            Kind::VxlanAlike,
            Kind::Fastdp,
            Kind::Sleeve,
            Kind::Jumbo,
            Kind::Plain,
            Kind::Relay,
            Kind::Slow,
        ];
        const GUEST: [Kind; 6] = [Kind::Xfrm, Kind::Esp(1), Kind::Esp(2), Kind::Esp(4), Kind::Flows, Kind::Ovs];
        if uml::is_here() { &GUEST } else { &NATIVE }
    }

    /// Whether it is measured without being asked for: the sleeve's variants tell of the sleeve alone.
    pub(crate) fn is_usual(self) -> bool {
        !matches!(self, Self::Jumbo | Self::Plain | Self::Relay | Self::Slow)
    }

    /// The way that packets take, in the word of `weft status`.
    fn way(self) -> &'static str {
        if self == Self::Relay { "relay" } else { "direct" }
    }

    /// How Weft is to carry it; None for what is made by hand.
    fn backend(self) -> Option<Backend> {
        match self {
            Self::Veth | Self::Vxlan | Self::VxlanAlike | Self::Xfrm | Self::Flows => None,
            Self::Fastdp => Some(Backend::Vxlan),
            Self::Sleeve | Self::Jumbo | Self::Plain | Self::Relay | Self::Slow => Some(Backend::Sleeve),
            Self::Esp(_) => Some(Backend::VxlanEsp),
            Self::Ovs => Some(Backend::Ovs),
        }
    }

    fn lanes(self) -> Option<u8> {
        if let Self::Esp(lanes) = self { Some(lanes) } else { None }
    }

    fn mtu(self) -> u16 {
        match self {
            Self::Veth => 1500,
            Self::Vxlan => 1450,
            Self::Jumbo => WEFT_MTU_JUMBO,
            Self::VxlanAlike
            | Self::Fastdp
            | Self::Sleeve
            | Self::Plain
            | Self::Relay
            | Self::Slow
            | Self::Xfrm
            | Self::Esp(_)
            | Self::Flows
            | Self::Ovs => WEFT_MTU,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Esp(lanes) => return f.pad(&format!("esp-{lanes}")),
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::VxlanAlike => "vxlan-1340",
            Self::Fastdp => "fastdp",
            Self::Sleeve => "sleeve",
            Self::Jumbo => "sleeve-9000",
            Self::Plain => "sleeve-plain",
            Self::Relay => "sleeve-relay",
            Self::Slow => "sleeve-slow",
            Self::Xfrm => "xfrm",
            Self::Flows => "flows",
            Self::Ovs => "ovs",
        };
        f.pad(name)
    }
}

fn woven(kind: Kind, backend: Backend, lab: Lab) -> Result<Candidate> {
    let names: &[&str] = if kind == Kind::Relay { &["A", "B", "R"] } else { &["A", "B"] };
    let hosts = names.iter().map(|name| lab.host(name)).collect::<Result<Vec<_>>>()?;
    if kind == Kind::Jumbo {
        lab.underlay_mtu(JUMBO)?;
    }
    let lanes = kind.lanes().map(|lanes| format!("--esp-lanes={lanes}"));
    // A thread with real-time priority is not held to its share.
    let no_realtime = (kind == Kind::Slow).then_some("--no-realtime");
    let more: Vec<&str> = lanes.as_deref().into_iter().chain(no_realtime).collect();
    let mesh = fabric::launched(&lab, &hosts, false, backend, &more)?;
    fabric::wait_settled(&mesh, backend, SETTLING).with_context(|| lab.diagnosis())?;
    let Mesh { hosts, containers } = mesh;
    let ends = [containers[0].namespace().clone(), containers[1].namespace().clone()];
    if kind == Kind::Plain {
        ends.iter().try_for_each(without_offloads)?;
    }
    if kind == Kind::Slow {
        hosts[1].limit_cpu(SLOW)?;
    }
    let cut = (kind == Kind::Relay).then(|| lab.cut(&Cut::between("A", "B"))).transpose()?;
    let to = containers[1].v4()?;
    let candidate = Candidate { kind, _cut: cut, lab, hosts, ends, to };
    wait_for("frames go the way that is measured", SETTLING, || candidate.verify())?;
    Ok(candidate)
}

fn bridged(kind: Kind, lab: Lab) -> Result<Candidate> {
    let hosts = lab.hosts(["A", "B"])?;
    let [a, b] = &hosts;
    let stations = [Station::number(1), Station::number(2)];
    for (here, there, other) in [(a, b, &stations[1]), (b, a, &stations[0])] {
        let namespace = here.namespace();
        namespace.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0\nlink set br0 up\n")?;
        let (local, remote) = (here.v4(), there.v4());
        match kind {
            Kind::Vxlan | Kind::VxlanAlike => namespace.ip(&vxlan(local, remote))?,
            Kind::Xfrm => namespace.ip(&(esp(local, remote) + &vxlan(local, remote)))?,
            Kind::Flows => flows(namespace, local, remote, other)?,
            Kind::Veth
            | Kind::Fastdp
            | Kind::Sleeve
            | Kind::Jumbo
            | Kind::Plain
            | Kind::Relay
            | Kind::Slow
            | Kind::Esp(_)
            | Kind::Ovs => {
                namespace.ip(&format!("addr flush dev {UNDERLAY}\nlink set {UNDERLAY} master br0\n"))?;
            }
        }
    }
    let ends = [contained(a, &stations[0], kind.mtu())?, contained(b, &stations[1], kind.mtu())?];
    for (end, other) in ends.iter().zip([&stations[1], &stations[0]]) {
        // What is for many has no flow.
        end.ip(&format!("neigh replace {} lladdr {} dev eth0 nud permanent\n", other.address, other.mac))?;
    }
    Ok(Candidate { kind, _cut: None, lab, hosts: hosts.to_vec(), ends, to: stations[1].address })
}

fn vxlan(local: Ipv4Addr, remote: Ipv4Addr) -> String {
    format!(
        "link add vx0 type vxlan id 42 local {local} remote {remote} dstport {VXLAN} dev {UNDERLAY}\n\
         link set vx0 master br0 up\n"
    )
}

/// States and policies for VXLAN between two hosts, as Weft has them with one lane.
fn esp(local: Ipv4Addr, remote: Ipv4Addr) -> String {
    let state = |from: Ipv4Addr, to: Ipv4Addr| {
        let spi = 0x100 + u32::from(from.octets()[3]);
        format!(
            "xfrm state add src {from} dst {to} proto esp spi {spi} reqid 1 mode transport replay-window 4096 flag esn \
             aead rfc4106(gcm(aes)) {KEY} 128\n"
        )
    };
    let policy = |from: Ipv4Addr, to: Ipv4Addr, way: &str| {
        format!(
            "xfrm policy add src {from}/32 dst {to}/32 proto udp dport {VXLAN} dir {way} \
             tmpl src {from} dst {to} proto esp reqid 1 mode transport\n"
        )
    };
    let states = state(local, remote) + &state(remote, local);
    states + &policy(local, remote, "out") + &policy(remote, local, "in")
}

/// A datapath of Open vSwitch beside the bridge, with a flow for each way.
fn flows(namespace: &Namespace, local: Ipv4Addr, remote: Ipv4Addr, other: &Station) -> Result<()> {
    namespace.ip("link add to-dp type veth peer name to-br\nlink set to-dp up\nlink set to-br master br0 up\n")?;
    let vxlan = format!("vxlan1,type=vxlan,port_no=1,remote_ip=flow,key=flow,dst_port={OVS_VXLAN}");
    let out = format!("in_port(2),eth(dst={}),eth_type(0x0800),ipv4(frag=no)", other.mac);
    let tunnel = format!("set(tunnel(tun_id=0x2a,src={local},dst={remote},ttl=64,tp_dst={OVS_VXLAN},flags(df|key))),1");
    let back = format!(
        "tunnel(tun_id=0x2a,src={remote},dst={local},ttl=0/0,flags(-df-csum+key)),in_port(1),eth(),eth_type(0x0800),\
         ipv4(frag=no)"
    );
    for args in [
        &["add-dp", "dp1"][..],
        &["add-if", "dp1", &vxlan],
        &["add-if", "dp1", "to-dp,port_no=2"],
        &["add-flow", "dp1", &out, &tunnel],
        &["add-flow", "dp1", &back, "2"],
    ] {
        namespace.run("ovs-dpctl").args(args).checked()?;
    }
    Ok(())
}

/// A container that is made by hand.
struct Station {
    address: Ipv4Addr,
    mac: String,
}

impl Station {
    fn number(number: u8) -> Self {
        Self { address: Ipv4Addr::new(10, 32, 0, number), mac: format!("02:00:00:00:00:{number:02x}") }
    }
}

/// A container behind a host's bridge `br0`.
fn contained(host: &Host, station: &Station, mtu: u16) -> Result<Namespace> {
    let outside = host.namespace();
    let inside = Namespace::create(&format!("{}-c1", outside.name()))?;
    let Station { address, mac } = station;
    inside.ip(&format!(
        "link add eth0 address {mac} mtu {mtu} type veth peer name vc1 mtu {mtu} netns {}\n\
         addr add {address}/16 dev eth0\nlink set eth0 up\n",
        outside.name()
    ))?;
    outside.ip("link set vc1 master br0 up\n")?;
    Ok(inside)
}

/// Has TCP of a container use [`CONGESTION_CONTROL`] from a connection's beginning. What the machine would use otherwise may be one
/// that paces, as BBR, which measures something else; and a connection that began with that goes on pacing under any other.
fn with_usual_congestion_control(container: &Namespace) -> Result<()> {
    let text = container.run("ip").args(["-4", "route", "show"]).checked()?;
    text.lines().try_for_each(|route| container.ip(&format!("route change {route} congctl {CONGESTION_CONTROL}\n")))
}

/// As a container whose programs or kernel cannot do them: no checksum is left to a device, nothing is cut or joined by one.
fn without_offloads(container: &Namespace) -> Result<()> {
    let offloads = ["tx", "off", "tso", "off", "gso", "off", "gro", "off", "sg", "off"];
    container.run("ethtool").args(["-K", DEVICE]).args(offloads).checked().map(drop)
}
