//! **weft-host**: the Linux kernel behind traits and small safe types. No protocol is here.
//!
//! [`Host`] is what a router asks of its host for bridge, containers and exposure; [`Kernel`] answers with netlink,
//! namespaces and nftables, [`FakeHost`] from memory. [`tap`] and [`udp`] are what packets come and go by.

mod addressing;
mod announce;
mod device;
mod error;
mod fake;
mod fastdp;
mod fdb;
mod heartbeat;
mod host;
mod kernel;
mod mark;
mod netlink;
mod netns;
mod nft;
mod ovs;
mod packet_socket;
pub mod poll;
pub mod precedence;
mod sockopt;
pub mod spool;
pub mod station;
mod sysctl;
pub mod tap;
#[cfg(test)]
mod testing;
pub mod udp;
mod underlay;
pub mod xfrm;

pub use device::device_of;
pub use error::HostError;
pub use fake::FakeHost;
pub use fastdp::{FakeFastDatapath, FastConfig, FastDatapath, Vxlan};
pub use heartbeat::HeartbeatSocket;
pub use host::{Answer, Bridge, BridgeConfig, EXPOSED, Facts, Host, HostRoute, Port, Underlay};
pub use kernel::Kernel;
pub use ovs::Ovs;
