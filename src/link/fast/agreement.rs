//! What both ends have to agree on before anything goes by the fast datapath: whether at all, how it is protected, and between which
//! addresses; and the greeting that tells the peer our part of it.

use std::net::{IpAddr, SocketAddr};

use super::{Fast, FastConfig, HEARD_FOR, SMALL_TO_ONE_FULL};
use crate::{
    fastdp::{Ability, LANES_MAX},
    link::{
        esp::{EncapEnds, Ends},
        message::Hello,
    },
    time::Time,
};

impl Fast {
    /// How both ends protect what they send each other, or why they do not.
    pub(super) fn agreed(&self, config: &FastConfig) -> Result<Agreed, String> {
        let (no_esp, remote) = match (&config.ability, self.remote) {
            (Ability::Off(why), _) => return Err(why.clone()),
            (Ability::Ready { no_esp, .. }, Some(remote)) => (no_esp, remote),
            (Ability::Ready { .. }, None) => return Err("the peer's address is not known yet".to_owned()),
        };
        let Some(theirs) = self.theirs else {
            return Err("the peer has not said what its fast datapath can do".to_owned());
        };
        if !theirs.ready {
            return Err("the peer's fast datapath is off".to_owned());
        }
        if self.peer_mtu != 0 && config.mtu > self.peer_mtu {
            let (ours, theirs) = (config.mtu, self.peer_mtu);
            return Err(format!(
                "our containers send {ours} bytes and the peer's take {theirs}: only the sleeve cuts packets"
            ));
        }
        if remote.is_ipv4() != theirs.to.is_ipv4() {
            return Err("the peer reaches us by another protocol (IPv4, IPv6) than we reach it".to_owned());
        }
        let nat = self.nat(config);
        if let (Some(nat), false) = (&nat, config.secret) {
            return Err(format!("{nat}; only sealed frames can cross it, and the network has no secret"));
        }
        if nat.is_none() && (!config.secret || (theirs.trusts && config.trusts(remote))) {
            return Ok(Agreed::Clear);
        }
        match no_esp {
            Some(why) => Err(format!("frames must be sealed, and this kernel cannot: {why}")),
            None if !theirs.esp => Err("frames must be sealed, and the peer's kernel has no ESP".to_owned()),
            None => match nat.and_then(|nat| Some(format!("{nat}; {}", self.nat_obstacle(config, theirs)?))) {
                Some(why) => Err(why),
                None if self.nat(config).is_some() => Ok(Agreed::EspInUdp),
                None => Ok(Agreed::Esp),
            },
        }
    }

    /// What shows that a NAT lies between, in words; None if none does, as far as both ends know.
    pub fn nat(&self, config: &FastConfig) -> Option<String> {
        let (theirs, remote) = (self.theirs?, self.remote?);
        if theirs.nat {
            return Some(format!("a NAT lies between: {remote} is not the peer's own address"));
        }
        let is_ours = config.addresses.contains(&theirs.to);
        (!is_ours).then(|| format!("a NAT lies between: the peer sees us at {}, which is not our address", theirs.to))
    }

    /// Why ESP in UDP does not cross the NAT, in words; None if it may.
    fn nat_obstacle(&self, config: &FastConfig, theirs: Hello) -> Option<String> {
        if !theirs.to.is_ipv4() {
            return Some("the fast datapath crosses one of IPv4 only".to_owned());
        }
        let own = match &config.ability {
            Ability::Off(why) | Ability::Ready { encap: Err(why), .. } => {
                return Some(format!("this host takes no ESP in UDP: {why}"));
            }
            Ability::Ready { encap: Ok(port), .. } => port,
        };
        if self.is_crowded {
            return Some("the fast datapath is that of another peer behind it".to_owned());
        }
        if theirs.encap == 0 {
            return Some("the peer takes no ESP in UDP, or is another's behind the same NAT".to_owned());
        }
        if self.encap.place().is_none() {
            let theirs = theirs.encap;
            return Some(format!("our UDP {own} is not answered by its UDP {theirs}: is a firewall in the way?"));
        }
        theirs.sees.is_none().then(|| "the peer has had no answer from our port for ESP in UDP yet".to_owned())
    }

    /// Our port and the peer's for ESP in UDP; None where that is not needed or cannot be.
    pub(super) fn encap_port(&self, config: &FastConfig) -> Option<(u16, u16)> {
        let ours = self.own_encap(config)?;
        let theirs = self.theirs.filter(|theirs| theirs.ready && theirs.esp && theirs.to.is_ipv4())?;
        (theirs.encap != 0 && self.nat(config).is_some()).then_some((ours, theirs.encap))
    }

    /// Our port for ESP in UDP, if we have one for this peer.
    fn own_encap(&self, config: &FastConfig) -> Option<u16> {
        match &config.ability {
            Ability::Ready { encap: Ok(port), no_esp: None, .. } => {
                Some(*port).filter(|_| config.secret && !self.is_crowded)
            }
            Ability::Ready { .. } | Ability::Off(_) => None,
        }
    }

    pub(super) fn hello(&self, config: &FastConfig, now: Time) -> Option<Hello> {
        let to = self.remote?;
        let (ready, esp, lanes) = match &config.ability {
            Ability::Off(_) => (false, false, 1),
            Ability::Ready { no_esp, lanes, .. } => (true, no_esp.is_none(), *lanes),
        };
        let [small, full] = self.hears(now);
        let nat = self.theirs.is_some_and(|theirs| !config.addresses.contains(&theirs.to));
        let encap = self.own_encap(config).unwrap_or(0);
        let sees = self.encap.place().map(|place| place.peer).filter(|_| self.nat(config).is_some());
        let trusts = config.trusts(to);
        Some(Hello { ready, esp, trusts, hears: small, hears_full: full, nat, lanes, to, encap, sees })
    }

    /// Whether small heartbeats of the peer come, and large ones. That may be seldom while none of ours are missing: their echoes have
    /// come by then, and small ones pass.
    fn hears(&self, now: Time) -> [bool; 2] {
        let [small, full] = self.heard.map(|at| at.is_some_and(|at| now.since(at) < HEARD_FOR));
        let may_rest = self.carries && self.beats.suspect_since(now).is_none();
        let since_full = self.heard_small.wrapping_sub(self.heard_full_at);
        [small || may_rest, full || (may_rest && since_full < SMALL_TO_ONE_FULL)]
    }

    pub(super) fn ends(&self, config: &FastConfig) -> Option<Ends> {
        let theirs = self.theirs?;
        let (own, peer) = (config.own, self.peer);
        if self.nat(config).is_none() {
            return Some(Ends { own, peer, own_address: theirs.to, peer_address: self.remote?, encap: None });
        }
        let ((port, _), place) = self.encap_port(config).zip(self.encap.place())?;
        let ours = SocketAddr::new(place.own, port);
        let encap = Some(EncapEnds { ours, theirs: place.peer, seen: theirs.sees? });
        Some(Ends { own, peer, own_address: place.own, peer_address: place.peer.ip(), encap })
    }

    /// A power of two that both ends are content with.
    pub(super) fn lanes_to_receive(&self, config: &FastConfig) -> u8 {
        let ours = match &config.ability {
            Ability::Off(_) => 1,
            Ability::Ready { lanes, .. } => *lanes,
        };
        let most = self.theirs.map_or(1, |theirs| theirs.lanes).min(ours).clamp(1, LANES_MAX);
        1 << most.ilog2()
    }
}

/// How frames are protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Agreed {
    Clear,
    Esp,
    EspInUdp,
}

impl Agreed {
    pub(super) fn is_sealed(self) -> bool {
        match self {
            Self::Clear => false,
            Self::Esp | Self::EspInUdp => true,
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Clear => "UDP of the fast datapath",
            Self::Esp => "ESP",
            Self::EspInUdp => "ESP in UDP",
        }
    }

    pub(super) fn check(self) -> &'static str {
        match self {
            Self::Clear | Self::EspInUdp => "is a firewall in the way?",
            Self::Esp => "does a firewall drop IP protocol 50?",
        }
    }
}

impl FastConfig {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_subnets.iter().any(|subnet| subnet.contains(&address))
    }
}
