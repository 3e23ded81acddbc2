//! The fast datapath: what carries frames between hosts within the kernel, behind one trait.
//!
//! The driver hands over a whole [`Plan`]; a backend compares it with what the kernel has and changes what differs. What is in the
//! kernel outlives the router: a killed one leaves forwarding as it is, and its successor takes it over. What the successor
//! finds stays for a time of grace, until its peers are back and its plan is whole; [`FastDatapath::settle`] ends that.
//!
//! Calls block. One thread makes them all, in the router's network namespace, where also the backend was opened.

mod fake;
pub(crate) mod vxlan;

use std::fmt;

use weft::{
    fastdp::Plan,
    id::{Mac, PeerName},
};

pub use fake::FakeFastDatapath;
pub use vxlan::Vxlan;

use crate::error::HostError;

/// What a backend works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastConfig {
    /// Name of the bridge, which exists.
    pub bridge: String,
    /// Name of the TAP of the sleeve, which is a port of the bridge.
    pub tap: String,
    /// UDP port of VXLAN, on all hosts of the network.
    pub port: u16,
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// Our own name: heartbeats for it end here.
    pub own: PeerName,
}

/// Forwarding in the kernel.
pub trait FastDatapath: Send + fmt::Debug {
    /// `vxlan` or `ovs`.
    fn name(&self) -> &'static str;

    /// Makes the kernel's forwarding as the plan says, and sends only what differs. Answers with how many messages that took.
    ///
    /// # Errors
    /// What the kernel says. The rest of the plan is in force then, and the next call tries again what failed.
    fn apply(&mut self, plan: &Plan) -> Result<usize, HostError>;

    /// Ends the time of grace: what was found at start and no plan has asked for is removed. Answers with how many messages that took.
    ///
    /// # Errors
    /// What the kernel says; the next call tries again.
    fn settle(&mut self) -> Result<usize, HostError>;

    /// Looks whether our devices are there and right, and mends what is not, forwarding included. Answers with what was mended, in
    /// words for people.
    ///
    /// # Errors
    /// What could not be mended; the next call tries again.
    fn inspect(&mut self) -> Result<Vec<String>, HostError>;

    /// Gives the devices this MTU in bytes, that of the bridge.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError>;

    /// Stations that the bridge has lately heard on ports that are not ours, sorted: they live, although the sleeve sees none of
    /// the frames that they send by the fast datapath.
    ///
    /// # Errors
    /// What the kernel says.
    fn learnt(&mut self) -> Result<Vec<Mac>, HostError>;

    /// Planned stations that frames were sent to by the fast datapath between the last two calls of [`Self::inspect`] or since, sorted:
    /// frames of containers and of the host itself. Heartbeats are none. One that the kernel was just told of may be among them.
    ///
    /// # Errors
    /// What the kernel says.
    fn used(&mut self) -> Result<Vec<Mac>, HostError>;
}
