//! Containers whose devices leave nothing to anybody: every checksum is summed before a frame leaves them and looked at when it
//! arrives, nothing is cut or joined on the way in or out. What is wrong with a frame shows there, and is counted.

use std::{
    collections::BTreeMap,
    io::ErrorKind::{TimedOut, WouldBlock},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use weft_integration::{
    lab::{
        Lab,
        container::{Container, DEVICE},
        namespace::{Namespace, join},
        transfer::transfer,
        wait::patience,
    },
    scenario::{backend::Backend, fabric},
};

const OFFLOADS: [&str; 12] = ["tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off", "sg", "off"];
const BYTES: u64 = 10_000_000;
const PATIENCE: Duration = Duration::from_secs(10);
/// Payloads: small, within the MTU, just beyond it so that two fragments travel, and in many.
const SIZES: [usize; 4] = [64, 1200, 1400, 9000];
const DATAGRAMS: u16 = 1000;
/// Datagrams sent at once before others get a turn on busy cores.
const BURST: u16 = 10;
const ROOM: usize = 32 << 20;
/// Nothing is made to be lost; of this share a queue may still have had no room on a busy machine.
const LOST_MAX: f64 = 0.05;
/// What says that a frame was damaged (nstat's names).
const DAMAGE: [&str; 6] = [
    "TcpInCsumErrors",
    "UdpInCsumErrors",
    "IcmpInCsumErrors",
    "IpExtInCsumErrors",
    "Udp6InCsumErrors",
    "Icmp6InCsumErrors",
];

pub(crate) fn without_offloads(lab: &Lab, backend: Backend) -> Result<()> {
    let mesh = fabric::settled(lab, ["A", "B"], false, backend)?;
    for container in &mesh.containers {
        container.namespace().run("ethtool").args(["-K", DEVICE]).args(OFFLOADS).checked()?;
    }
    let before = mesh.containers.iter().map(counters).collect::<Result<Vec<_>>>()?;
    for (from, to) in mesh.pairs() {
        for inner6 in [false, true] {
            let address = to.address(inner6)?;
            transfer(from.namespace(), (to.namespace(), address), BYTES, PATIENCE)?;
            for size in SIZES {
                let arrived = datagrams(from.namespace(), to.namespace(), address, size)?;
                let lost = 1.0 - f64::from(arrived) / f64::from(DATAGRAMS);
                ensure!(lost <= LOST_MAX, "{arrived} of {DATAGRAMS} with {size} bytes to {address} arrived");
            }
        }
    }
    for (container, before) in mesh.containers.iter().zip(before) {
        let after = counters(container)?;
        let grown = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        for name in DAMAGE {
            ensure!(grown(name) == 0, "{}: {name} grew by {}", container.name(), grown(name));
        }
        let (again, sent) = (grown("TcpRetransSegs"), grown("TcpOutSegs"));
        println!("{}: {again} of {sent} segments sent again", container.name());
        ensure!(sent > BYTES / 1500 && again as f64 <= sent as f64 * LOST_MAX, "{again} of {sent} segments sent again");
    }
    Ok(())
}

/// What the container's kernel counted.
fn counters(container: &Container) -> Result<BTreeMap<String, u64>> {
    let text = container.namespace().run("nstat").args(["-asz"]).checked()?;
    let counters: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect();
    let missing = DAMAGE.iter().find(|name| !counters.contains_key(**name));
    ensure!(missing.is_none(), "nstat does not know {missing:?}: {text}");
    Ok(counters)
}

/// Sends datagrams of `size` bytes and returns how many arrived, each as it was sent.
fn datagrams(from: &Namespace, to: &Namespace, address: IpAddr, size: usize) -> Result<u16> {
    let receiver = to.within(move || {
        let socket = UdpSocket::bind((address, 0))?;
        setsockopt(&socket, RcvBufForce, &ROOM)?;
        Ok(socket)
    })?;
    receiver.set_read_timeout(Some(patience(Duration::from_millis(500))))?;
    let target = receiver.local_addr()?;
    let sender = from.spawn(move || send(target, size))?;
    let (mut arrived, mut buffer) = (0, vec![0; size + 1]);
    loop {
        match receiver.recv(&mut buffer) {
            Ok(len) => {
                let number = buffer.first_chunk().map(|number| u16::from_be_bytes(*number)).context("a number")?;
                ensure!(
                    buffer[..len] == content(number, size),
                    "datagram {number} of {size} bytes is not as it was sent"
                );
                arrived += 1;
            }
            Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => break,
            Err(error) => return Err(error.into()),
        }
    }
    join(sender)?;
    Ok(arrived)
}

fn send(to: SocketAddr, size: usize) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    for number in 0..DATAGRAMS {
        socket.send_to(&content(number, size), to)?;
        if number % BURST == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// The number, and noise made from it.
fn content(number: u16, size: usize) -> Vec<u8> {
    let noise = (0..size - 2).map(|at| (at as u32).wrapping_mul(0x9e37_79b9).wrapping_add(u32::from(number)) as u8);
    number.to_be_bytes().into_iter().chain(noise).collect()
}
