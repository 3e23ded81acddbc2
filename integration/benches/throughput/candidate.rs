//! What is compared. Each has a lab of its own: two hosts on a switch, and in each a container behind a bridge.
//!
//! ```text
//!   container ── bridge ── (nothing | VXLAN device | Weft's TAP and router) ── eth0 ── switch ── eth0 ── …
//! ```

use std::{fmt, net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use weft_integration::lab::{
    Lab,
    host::{Host, UNDERLAY},
    mesh::Mesh,
    namespace::Namespace,
    ping::Ping,
};

use super::options::{Options, Underlay};

/// How containers of two hosts are joined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// The hosts' devices are ports of the bridges: no tunnel at all.
    Veth,
    /// A VXLAN device (RFC 7348) is; not encrypted.
    Vxlan,
    /// Weft's sleeve; encrypted.
    Weft,
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
    /// All three, up and answering.
    pub(crate) fn all(options: &Options) -> Result<Vec<Self>> {
        [Kind::Veth, Kind::Vxlan, Kind::Weft].into_iter().map(|kind| Self::up(kind, options)).collect()
    }

    fn up(kind: Kind, options: &Options) -> Result<Self> {
        let lab = Lab::new()?;
        let candidate = match kind {
            Kind::Veth | Kind::Vxlan => bridged(kind, lab)?,
            Kind::Weft => woven(lab)?,
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
        if self.kind == Kind::Weft { &self.hosts } else { &[] }
    }

    /// Fails unless traffic goes where it should: with Weft, sealed, by the sleeve, directly.
    pub(crate) fn verify(&self) -> Result<()> {
        let [a, b] = self.routers() else { return Ok(()) };
        a.expect_path(b.name(), "direct")?;
        let connection = a.expect_established(b.name())?;
        ensure!(connection.encrypted, "not encrypted: {connection:?}");
        let path = a.path_to(b.name())?;
        ensure!(path.method == "sleeve", "not by the sleeve: {path:?}");
        Ok(())
    }

    /// What the routers think.
    pub(crate) fn diagnosis(&self) -> String {
        if self.kind == Kind::Weft { self.lab.diagnosis() } else { String::new() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::Weft => "weft",
        })
    }
}

fn woven(lab: Lab) -> Result<Candidate> {
    let Mesh { hosts, containers } = Mesh::settled(&lab, ["A", "B"], false)?;
    let ends = [containers[0].namespace().clone(), containers[1].namespace().clone()];
    let to = containers[1].v4()?;
    let candidate = Candidate { kind: Kind::Weft, lab, hosts, ends, to };
    candidate.verify()?;
    Ok(candidate)
}

fn bridged(kind: Kind, lab: Lab) -> Result<Candidate> {
    let hosts = lab.hosts(["A", "B"])?;
    let [a, b] = &hosts;
    for (here, there) in [(a, b), (b, a)] {
        let (local, remote) = (here.v4(), there.v4());
        let port = match kind {
            Kind::Vxlan => format!(
                "link add vx0 type vxlan id 42 local {local} remote {remote} dstport 4789 dev {UNDERLAY}\n\
                 link set vx0 master br0 up\n"
            ),
            Kind::Veth | Kind::Weft => format!("addr flush dev {UNDERLAY}\nlink set {UNDERLAY} master br0\n"),
        };
        let bridge = "link add br0 type bridge mcast_snooping 0 forward_delay 0\nlink set br0 up\n";
        here.namespace().ip(&format!("{bridge}{port}"))?;
    }
    let to = Ipv4Addr::new(10, 32, 0, 2);
    let mtu = if kind == Kind::Vxlan { 1450 } else { 1500 };
    let ends = [contained(a, Ipv4Addr::new(10, 32, 0, 1), mtu)?, contained(b, to, mtu)?];
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
