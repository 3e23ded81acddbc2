//! Which backend carries frames in the kernel, and how it is opened.

use std::{fmt, str::FromStr, thread};

use tracing::{info, warn};
use weft::fastdp::{Ability, LANES_MAX, encap_port};
use weft_host::{
    FastConfig, FastDatapath, HostError, Ovs, Vxlan,
    xfrm::{EncapSocket, Xfrm},
};

/// What was asked for by `--fastdp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The better of those that the kernel has (docs/decisions/0007).
    #[default]
    Auto,
    /// VXLAN devices as ports of the bridge.
    Vxlan,
    /// An Open vSwitch datapath beside the bridge.
    Ovs,
    /// None: all frames go by the sleeve.
    Off,
}

/// A mode's name that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no mode of the fast datapath: give auto, vxlan, ovs or off")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "auto" => Ok(Self::Auto),
            "vxlan" => Ok(Self::Vxlan),
            "ovs" => Ok(Self::Ovs),
            "off" => Ok(Self::Off),
            other => Err(ModeError(other.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Vxlan => "vxlan",
            Self::Ovs => "ovs",
            Self::Off => "off",
        })
    }
}

/// What the fast datapath is opened with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    pub(crate) config: FastConfig,
    /// The network has a secret: what is not sealed neither leaves nor is accepted, but from trusted peers.
    pub(crate) secret: bool,
    /// Most ESP lanes of a direction; None for as many as suit this machine.
    pub(crate) lanes: Option<u8>,
}

/// An open fast datapath.
pub(super) struct Opened {
    pub(super) datapath: Box<dyn FastDatapath>,
    pub(super) xfrm: Option<Xfrm>,
    /// What ESP in UDP comes by, where there may be some.
    pub(super) encap: Option<EncapSocket>,
    pub(super) ability: Ability,
}

impl Setup {
    /// Opens IPsec, closes the port, and only then makes the devices.
    pub(super) fn open(&self, mtu: u32) -> Result<Opened, HostError> {
        let xfrm = self.open_xfrm()?;
        let (mut datapath, xfrm, no_esp) = match xfrm {
            Some((xfrm, no_esp)) => (self.open_datapath()?, Some(xfrm), no_esp),
            None => (self.open_datapath()?, None, Some("the network has no secret".to_owned())),
        };
        datapath.set_mtu(mtu)?;
        let no_esp = no_esp.filter(|_| self.secret);
        let encap = if self.secret && no_esp.is_none() { self.open_encap() } else { Err("there is no ESP".to_owned()) };
        let (encap, port) = match encap {
            Ok((socket, port)) => (Some(socket), Ok(port)),
            Err(why) => (None, Err(why)),
        };
        let ability = Ability::Ready { backend: datapath.name().to_owned(), no_esp, encap: port, lanes: self.lanes() };
        Ok(Opened { datapath, xfrm, encap, ability })
    }

    /// Without it all is well but for peers behind a NAT.
    fn open_encap(&self) -> Result<(EncapSocket, u16), String> {
        let port = encap_port(self.config.port).ok_or("there is no port left for it".to_owned())?;
        let opened = EncapSocket::bind(port).map_err(|error| error.to_string());
        if let Err(error) = &opened {
            warn!(error, "the fast datapath crosses no NAT");
        }
        Ok((opened?, port))
    }

    /// Without a secret there is nothing to seal: what an earlier run with one left is removed.
    fn open_xfrm(&self) -> Result<Option<(Xfrm, Option<String>)>, HostError> {
        if !self.secret {
            if let Ok(mut xfrm) = Xfrm::open(self.config.port) {
                xfrm.remove()?;
            }
            return Ok(None);
        }
        let mut xfrm = Xfrm::open(self.config.port)?;
        xfrm.guard(true)?;
        let no_esp = xfrm.ability().err();
        Ok(Some((xfrm, no_esp)))
    }

    fn open_datapath(&self) -> Result<Box<dyn FastDatapath>, HostError> {
        let (bridge, config) = (&self.config.bridge, || self.config.clone());
        // What an earlier run left of the other backend holds the UDP port.
        let vxlan = || -> Result<Box<dyn FastDatapath>, HostError> {
            Ovs::remove(bridge)?;
            Ok(Box::new(Vxlan::open(config())?))
        };
        let ovs = || -> Result<Box<dyn FastDatapath>, HostError> {
            Vxlan::remove(bridge)?;
            Ok(Box::new(Ovs::open(config())?))
        };
        match self.mode {
            Mode::Vxlan => vxlan(),
            Mode::Ovs => ovs(),
            Mode::Auto | Mode::Off => vxlan().or_else(|error| {
                info!(%error, "no VXLAN devices: trying Open vSwitch");
                // The first is what most kernels have: its error says more.
                ovs().map_err(|_| error)
            }),
        }
    }

    /// A power of two. One lane for each two cores: one core of a pair seals while the other opens.
    fn lanes(&self) -> u8 {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let wanted = self.lanes.map_or(cores / 2, usize::from).clamp(1, LANES_MAX.into());
        1 << wanted.ilog2()
    }
}

/// Removes what routers of this bridge and this VXLAN port left in the kernel of the fast datapath.
pub(crate) fn remove(bridge: &str, port: u16) -> Result<(), HostError> {
    let remove = || {
        let devices = Vxlan::remove(bridge).and(Ovs::remove(bridge));
        // A kernel without IPsec has nothing of ours. States and policies go last: until then nothing leaves in clear.
        let states = Xfrm::open(port).map_or(Ok(()), |mut xfrm| xfrm.remove());
        devices.and(states)
    };
    // In a thread of its own, in the same namespace, because the caller may be a worker of tokio's, which must not block.
    thread::scope(|scope| scope.spawn(remove).join()).unwrap_or(Err(HostError::Stopped))
}
