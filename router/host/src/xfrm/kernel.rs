//! The kernel's XFRM, one question or change at a time, of states and policies that are ours.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use nix::errno::Errno;
use weft::fastdp::{SA_KEY_LEN, SaKey};

use super::{
    message::{self, Ours, Policy, Seen, Selector, State, StateId, Verdict, Way, read_seen},
    socket::{Refusal, XfrmSocket},
    wanted,
};
use crate::error::HostError;

/// Packets by which one may overtake another, tried in this order. The first is the most that the kernel can do, and all kernels are
/// said to take it: each core of the sender and each queue of a network card reorders.
const WINDOWS: [u32; 4] = [4096, 2048, 1024, 32];
/// A state that seals takes nothing, but without a window it may not have extended sequence numbers.
const NO_WINDOW: u32 = 32;
/// For the state that shows what the kernel can do. Peers choose none below 256 (RFC 4303 §2.1), so it stands in nobody's way.
const TRIAL_SPI: u32 = 255;

/// The way to it.
pub(super) struct XfrmKernel {
    ours: Ours,
    socket: XfrmSocket,
}

impl XfrmKernel {
    pub(super) fn open(port: u16) -> Result<Self, HostError> {
        Ok(Self { ours: Ours::new(port), socket: XfrmSocket::open()? })
    }

    pub(super) fn port(&self) -> u16 {
        self.ours.port
    }

    /// Whether this kernel can do what we need, shown by adding a state that takes nothing and removing it.
    pub(super) fn ability(&mut self) -> Result<(), String> {
        let id = StateId { destination: Ipv4Addr::LOCALHOST.into(), spi: TRIAL_SPI };
        let key = SaKey([0; SA_KEY_LEN].into());
        let trial = State { source: Some(Ipv4Addr::LOCALHOST.into()), key, encap: None };
        let doing = "try ESP";
        let said = |error: HostError| error.to_string();
        // A router that was killed in between may have left it.
        drop(self.socket.change(doing, Ours::delete_state(id)).map_err(said)?);
        let added = self.try_state(doing, id, &trial).map_err(said)?;
        drop(self.socket.change(doing, Ours::delete_state(id)).map_err(said)?);
        added.map_err(|refusal| {
            let why = explain(&refusal);
            if refusal.errno == Errno::EPERM {
                return format!("no permission for IPsec ({why}): run as root, or with CAP_NET_ADMIN");
            }
            if [Errno::EPROTONOSUPPORT, Errno::ENOENT, Errno::ENOSYS].contains(&refusal.errno) {
                return format!(
                    "this kernel lacks ESP with AES-GCM ({why}): `modprobe -a esp4 esp6 gcm seqiv` may help"
                );
            }
            format!("this kernel refuses ESP with AES-256-GCM and extended sequence numbers: {why}")
        })
    }

    /// All states of ours with their keys; without, where the kernel keeps keys to itself.
    pub(super) fn states(&mut self) -> Result<BTreeMap<StateId, Option<SaKey>>, HostError> {
        let ours = self.ours;
        let read = |kind, body: &[u8]| (kind == message::NEWSA).then(|| ours.read_state(body)).flatten();
        Ok(self.socket.list("list IPsec states", Ours::list_states, read)?.into_iter().collect())
    }

    /// All policies of ours.
    pub(super) fn policies(&mut self) -> Result<BTreeMap<Selector, Policy>, HostError> {
        let ours = self.ours;
        let read = |kind, body: &[u8]| (kind == message::NEWPOLICY).then(|| ours.read_policy(body)).flatten();
        let policies = self.socket.list("list IPsec policies", Ours::list_policies, read)?;
        Ok(policies.into_iter().filter(|(_, policy)| wanted::is_priority(policy.priority)).collect())
    }

    /// Adds a state; the inner error is the kernel's refusal, in words for people.
    pub(super) fn add_state(&mut self, id: StateId, state: &State) -> Result<Result<(), String>, HostError> {
        let added = self.try_state("add an IPsec state", id, state)?;
        Ok(added.map_err(|refusal| {
            format!("the kernel refuses SPI {:#x} to {}: {}", id.spi, id.destination, explain(&refusal))
        }))
    }

    /// Adds a state with the widest window that the kernel takes.
    fn try_state(&mut self, doing: &str, id: StateId, state: &State) -> Result<Result<(), Refusal>, HostError> {
        let windows = if state.source.is_some() { &WINDOWS[..] } else { &[NO_WINDOW] };
        let mut result = Ok(());
        for &window in windows {
            result = self.socket.change(doing, self.ours.add_state(id, state, window))?;
            if !matches!(&result, Err(refusal) if refusal.errno == Errno::EINVAL) {
                break;
            }
        }
        Ok(result)
    }

    /// Removes a state, if it is there.
    pub(super) fn delete_state(&mut self, id: StateId) -> Result<(), HostError> {
        let doing = format!("remove the IPsec state {:#x} to {}", id.spi, id.destination);
        gone(&doing, self.socket.change(&doing, Ours::delete_state(id))?)
    }

    /// What a state has seen; None if there is none.
    pub(super) fn seen(&mut self, id: StateId) -> Result<Option<Seen>, HostError> {
        let doing = "read the counters of an IPsec state";
        let mut seen = None;
        let answer = self.socket.ask(doing, Ours::ask_state(id), |kind, body| {
            if kind == message::NEWAE {
                seen = read_seen(body);
            }
        })?;
        gone(doing, answer)?;
        Ok(seen)
    }

    /// Adds a policy, or puts it in the place of ours for the same packets. The inner error concerns this one alone.
    pub(super) fn put_policy(
        &mut self,
        selector: Selector,
        priority: u32,
        verdict: Verdict,
        replace: bool,
    ) -> Result<Result<(), HostError>, HostError> {
        let doing = format!("put the IPsec policy for {selector}");
        let Err(refusal) = self.socket.change(&doing, self.ours.put_policy(selector, priority, verdict, replace))?
        else {
            return Ok(Ok(()));
        };
        // A kernel without IPv6 has no packets of it to guard against.
        if refusal.errno == Errno::EAFNOSUPPORT && selector.peer.is_unspecified() {
            return Ok(Ok(()));
        }
        if refusal.errno == Errno::EEXIST {
            return Ok(Err(HostError::ForeignPolicy(selector.to_string())));
        }
        Ok(Err(HostError::kernel(&doing, refusal.errno)))
    }

    /// Removes a policy, if it is there.
    pub(super) fn delete_policy(&mut self, selector: Selector) -> Result<(), HostError> {
        let doing = format!("remove the IPsec policy for {selector}");
        gone(&doing, self.socket.change(&doing, self.ours.delete_policy(selector))?)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::In => "packets from",
            Way::Out => "packets to",
            Way::Forward => "forwarded packets to",
        };
        match self.peer {
            IpAddr::V4(peer) if peer.is_unspecified() => write!(f, "{way} any IPv4 address"),
            IpAddr::V6(peer) if peer.is_unspecified() => write!(f, "{way} any IPv6 address"),
            IpAddr::V4(_) | IpAddr::V6(_) => write!(f, "{way} {}", self.peer),
        }
    }
}

/// The kernel's own words where it has some.
fn explain(refusal: &Refusal) -> String {
    refusal.words.clone().unwrap_or_else(|| refusal.errno.desc().to_owned())
}

/// What is not there need not be removed.
fn gone(doing: &str, result: Result<(), Refusal>) -> Result<(), HostError> {
    match result {
        Err(refusal) if !matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT) => {
            Err(HostError::kernel(doing, refusal.errno))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
