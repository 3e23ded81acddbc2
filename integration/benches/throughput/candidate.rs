//! What is compared. Each has a lab of its own: two hosts on a switch, and in each a container behind a bridge.
//!
//! ```text
//!   container ── bridge ── (nothing | VXLAN device, ours or Weft's | Weft's TAP and router) ── eth0 ── switch ── …
//! ```
//! For the fast datapath the fair comparison is a VXLAN device made by hand with the same MTU: what Weft adds to it.

use std::{fmt, net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    container::DEVICE,
    host::{Host, UNDERLAY},
    mesh::{Mesh, launch_all, password_file},
    namespace::Namespace,
    ping::Ping,
    wait::wait_for,
};

use super::options::{Options, Underlay};

/// MTU of Weft's containers on an underlay of 1500 bytes, whatever the method.
const WEFT_MTU: u16 = 1340;
/// For two routers to find each other and to prove a path.
const SETTLING: Duration = Duration::from_secs(20);

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
}

/// One of them, up.
pub(crate) struct Candidate {
    kind: Kind,
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
        let candidate = match kind {
            Kind::Veth | Kind::Vxlan | Kind::VxlanAlike => bridged(kind, lab)?,
            Kind::Fastdp | Kind::Sleeve => woven(kind, lab)?,
        };
        if options.underlay == Underlay::Nicish {
            candidate.hosts.iter().try_for_each(cut_before_the_wire)?;
        }
        candidate.ping().until_answered(Duration::from_secs(10))?;
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
        if self.kind.is_weft() { &self.hosts } else { &[] }
    }

    /// Fails unless traffic goes where it should: with Weft directly, by the method that is measured, sealed or not.
    pub(crate) fn verify(&self) -> Result<()> {
        let [a, b] = self.routers() else { return Ok(()) };
        for (from, to) in [(a, b), (b, a)] {
            let path = from.path_to(to.name())?;
            ensure!(path.path == "direct" && path.method == self.kind.to_string(), "not by {}: {path:?}", self.kind);
            let connection = from.expect_established(to.name())?;
            let sealed = self.kind == Kind::Sleeve;
            ensure!(connection.encrypted == sealed, "encrypted should be {sealed}: {connection:?}");
        }
        let mtu = self.ends[0].run("cat").arg(format!("/sys/class/net/{DEVICE}/mtu")).checked()?;
        ensure!(mtu.trim() == WEFT_MTU.to_string(), "the MTU is {mtu}, not the {WEFT_MTU} of what it is compared with");
        Ok(())
    }

    /// What the routers think.
    pub(crate) fn diagnosis(&self) -> String {
        if self.kind.is_weft() { self.lab.diagnosis() } else { String::new() }
    }
}

impl Kind {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 5] = [Self::Veth, Self::Vxlan, Self::VxlanAlike, Self::Fastdp, Self::Sleeve];

    fn is_weft(self) -> bool {
        match self {
            Self::Veth | Self::Vxlan | Self::VxlanAlike => false,
            Self::Fastdp | Self::Sleeve => true,
        }
    }

    fn mtu(self) -> u16 {
        match self {
            Self::Veth => 1500,
            Self::Vxlan => 1450,
            Self::VxlanAlike | Self::Fastdp | Self::Sleeve => WEFT_MTU,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::VxlanAlike => "vxlan-1340",
            Self::Fastdp => "fastdp",
            Self::Sleeve => "sleeve",
        })
    }
}

fn woven(kind: Kind, lab: Lab) -> Result<Candidate> {
    let hosts = lab.hosts(["A", "B"])?;
    let [a, _] = &hosts;
    let mode = match kind {
        Kind::Sleeve => {
            vec![format!("--password-file={}", password_file(&lab, a, "secret")?.display()), "--fastdp=off".to_owned()]
        }
        Kind::Fastdp | Kind::Veth | Kind::Vxlan | Kind::VxlanAlike => vec!["--fastdp=vxlan".to_owned()],
    };
    let peers = |host: &Host| if host.name() == a.name() { Vec::new() } else { vec![a.v4().to_string()] };
    launch_all(&hosts, |host| [mode.clone(), peers(host)].concat())?;
    let Mesh { hosts, containers } = Mesh::of(hosts.to_vec())?;
    let ends = [containers[0].namespace().clone(), containers[1].namespace().clone()];
    let to = containers[1].v4()?;
    let candidate = Candidate { kind, lab, hosts, ends, to };
    wait_for("frames go as they should", SETTLING, || candidate.verify())?;
    Ok(candidate)
}

fn bridged(kind: Kind, lab: Lab) -> Result<Candidate> {
    let hosts = lab.hosts(["A", "B"])?;
    let [a, b] = &hosts;
    for (here, there) in [(a, b), (b, a)] {
        let (local, remote) = (here.v4(), there.v4());
        let port = match kind {
            Kind::Vxlan | Kind::VxlanAlike => format!(
                "link add vx0 type vxlan id 42 local {local} remote {remote} dstport 4789 dev {UNDERLAY}\n\
                 link set vx0 master br0 up\n"
            ),
            Kind::Veth | Kind::Fastdp | Kind::Sleeve => {
                format!("addr flush dev {UNDERLAY}\nlink set {UNDERLAY} master br0\n")
            }
        };
        let bridge = "link add br0 type bridge mcast_snooping 0 forward_delay 0\nlink set br0 up\n";
        here.namespace().ip(&format!("{bridge}{port}"))?;
    }
    let to = Ipv4Addr::new(10, 32, 0, 2);
    let ends = [contained(a, Ipv4Addr::new(10, 32, 0, 1), kind.mtu())?, contained(b, to, kind.mtu())?];
    Ok(Candidate { kind, lab, hosts: hosts.to_vec(), ends, to })
}

/// A container behind a host's bridge `br0`.
fn contained(host: &Host, address: Ipv4Addr, mtu: u16) -> Result<Namespace> {
    let outside = host.namespace();
    let inside = Namespace::create(&format!("{}-c1", outside.name()))?;
    inside.ip(&format!(
        "link add eth0 mtu {mtu} type veth peer name vc1 mtu {mtu} netns {}\n\
         addr add {address}/16 dev eth0\nlink set eth0 up\n",
        outside.name()
    ))?;
    outside.ip("link set vc1 master br0 up\n")?;
    Ok(inside)
}

fn cut_before_the_wire(host: &Host) -> Result<()> {
    let offloads = ["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "gro", "on"];
    host.namespace().run("ethtool").args(["-K", UNDERLAY]).args(offloads).checked().map(drop)
}
