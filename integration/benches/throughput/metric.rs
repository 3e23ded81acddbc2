//! What is measured: names, units, order in the table.

use std::fmt;

use serde::Serialize;

/// Payload sizes of the datagrams, bytes. The last does not fit Weft's containers (MTU 1340, less 28 for IPv4 and UDP):
/// it travels as two fragments there.
pub(crate) const DATAGRAMS: [usize; 3] = [64, 1200, 1400];

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Received by so many TCP streams together, Mbit/s.
    Tcp(usize),
    /// Datagrams of so many bytes received in a second, at the highest rate that lost 1 % at most.
    UdpClean(usize),
    /// The same while the sender sends as fast as it can.
    UdpFlat(usize),
    /// The same while twice the highest such rate is sent.
    UdpOverloaded(usize),
    /// Datagrams sent in a second for that: fewer than twice as many where the senders cannot do more.
    UdpOverload(usize),
    /// Median of round-trip times, µs.
    PingMedian,
    /// The round-trip time that 99 % are within, µs.
    PingTail,
    /// The same two during TCP with one stream.
    LoadedMedian,
    /// See there.
    LoadedTail,
    /// Seconds of the two routers' CPU time for 10⁹ bytes received by one TCP stream.
    RouterCpu,
    /// Milliseconds of the two routers' CPU time in a second of one TCP stream.
    RouterLoaded,
    /// The same while nothing is sent.
    RouterIdle,
    /// The same of the whole machine: with iperf3, the kernel's work, and whatever else ran.
    MachineCpu,
    /// Memory that the larger of the two routers occupied after the load, MiB.
    Resident,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(1) => write!(f, "TCP, 1 stream, Mbit/s"),
            Self::Tcp(streams) => write!(f, "TCP, {streams} streams, Mbit/s"),
            Self::UdpClean(size) => write!(f, "UDP, {size} bytes, loss ≤ 1 %, packets/s"),
            Self::UdpFlat(size) => write!(f, "UDP, {size} bytes, flat out, packets/s"),
            Self::UdpOverloaded(size) => write!(f, "UDP, {size} bytes, overload, packets/s"),
            Self::UdpOverload(size) => write!(f, "UDP, {size} bytes, overload: sent"),
            Self::LoadedMedian => write!(f, "ping p50 during TCP, µs"),
            Self::LoadedTail => write!(f, "ping p99 during TCP, µs"),
            Self::PingMedian => write!(f, "ping p50, µs"),
            Self::PingTail => write!(f, "ping p99, µs"),
            Self::RouterCpu => write!(f, "CPU of the routers, s/GB"),
            Self::RouterLoaded => write!(f, "CPU of the routers in TCP, ms/s"),
            Self::RouterIdle => write!(f, "CPU of the routers idle, ms/s"),
            Self::MachineCpu => write!(f, "CPU of the machine, s/GB"),
            Self::Resident => write!(f, "memory of a router, MiB"),
        }
    }
}
