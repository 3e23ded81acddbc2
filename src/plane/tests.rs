//! Planes wired together in memory, with real sessions.

mod hostile;
mod sizes;
mod spread;
mod transit;
mod ways;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::*;
use crate::{
    crypto::session::Cipher,
    frame::sample,
    id::Mac,
    switch::forwarding::{PeerForwarding, Route},
};

/// What an outlet was given.
#[derive(Default)]
struct Memory {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    frames: Vec<Vec<u8>>,
    punts: Vec<Input>,
    is_full: bool,
}

impl Outlet for Memory {
    fn datagram(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        if self.is_full {
            return None;
        }
        self.datagrams.push_back((to, vec![0xee; len]));
        self.datagrams.back_mut().map(|(_, bytes)| bytes.as_mut_slice())
    }

    fn frame(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn punt(&mut self, input: Input) {
        self.punts.push(input);
    }
}

/// One peer with one station on its bridge.
struct Host {
    plane: Plane,
    forwarding: Forwarding,
    out: Memory,
}

impl Host {
    fn release(&mut self) {
        self.plane.release(&self.forwarding, &mut self.out);
    }
}

/// Peers 0, 1, …; station N is on the bridge of peer N.
struct Mesh {
    hosts: Vec<Host>,
    next_index: u32,
}

fn name(host: usize) -> PeerName {
    PeerName([host as u8 + 1; 6])
}

fn station(host: usize) -> Mac {
    Mac([2, 0, 0, 0, 1, host as u8])
}

fn station_v4(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 1, host as u8])
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8], 6783))
}

impl Mesh {
    /// `count` peers, each with sessions and direct routes to all others.
    fn full(count: usize) -> Self {
        let hosts = (0..count)
            .map(|host| {
                let mut forwarding = Forwarding { name: Some(name(host)), relays: true, ..Forwarding::default() };
                forwarding.local.insert(station(host));
                for other in (0..count).filter(|other| *other != host) {
                    let route = Some(Route::Direct(address(other)));
                    forwarding.peers.insert(
                        name(other),
                        PeerForwarding {
                            further: Vec::new(),
                            session: None,
                            route,
                            straight: Some((address(other), 1472)),
                            payload_max: 1472,
                            carried: false,
                            frame_max: usize::MAX,
                        },
                    );
                    forwarding.stations.insert(station(other), name(other));
                    forwarding.addresses.insert(station_v4(other), station(other));
                }
                Host { plane: Plane::new(), forwarding, out: Memory::default() }
            })
            .collect();
        let mut mesh = Self { hosts, next_index: 1 };
        for one in 0..count {
            for other in one + 1..count {
                mesh.join(one, other);
            }
        }
        mesh
    }

    /// A new session between two peers, in place of any before.
    fn join(&mut self, one: usize, other: usize) {
        let (mine, theirs) = (self.next_index, self.next_index + 1);
        self.next_index += 2;
        let key = |index: u32| Zeroizing::new([index as u8; 32]);
        for (host, peer, local, remote) in [(one, other, mine, theirs), (other, one, theirs, mine)] {
            let session = Session::new(PacketType::Data, local, remote, Cipher::Aes256Gcm, key(remote), key(local));
            let session = Arc::new(session);
            self.hosts[host].forwarding.receiving.insert(local, (name(peer), session.clone()));
            self.peer_mut(host, peer).session = Some(session);
        }
    }

    fn peer_mut(&mut self, host: usize, peer: usize) -> &mut PeerForwarding {
        self.hosts[host].forwarding.peers.get_mut(&name(peer)).unwrap()
    }

    /// Makes `host` reach `peer` by `relays`.
    fn relay_by(&mut self, host: usize, peer: usize, relays: &[usize]) {
        self.peer_mut(host, peer).route = Some(Route::Relayed(relays.iter().map(|relay| name(*relay)).collect()));
    }

    /// Feeds a frame from `host`'s bridge.
    fn send(&mut self, host: usize, frame: &[u8]) {
        self.send_offloaded(host, vnet::Header::default(), frame);
    }

    fn send_offloaded(&mut self, host: usize, header: vnet::Header, frame: &[u8]) {
        let Host { plane, forwarding, out } = &mut self.hosts[host];
        plane.frame_in(forwarding, header, &mut frame.to_vec(), out);
    }

    /// Feeds a datagram that `from` sent to `host`.
    fn receive(&mut self, host: usize, from: usize, packet: &[u8]) {
        let Host { plane, forwarding, out } = &mut self.hosts[host];
        plane.datagram_in(forwarding, address(from), &mut packet.to_vec(), out);
    }

    /// Carries datagrams until there are none; returns how many there were.
    fn run(&mut self) -> usize {
        let mut carried = 0;
        loop {
            let sent = |host: usize, out: &mut Memory| out.datagrams.pop_front().map(|(to, bytes)| (host, to, bytes));
            let next = self.hosts.iter_mut().enumerate().find_map(|(host, it)| sent(host, &mut it.out));
            let Some((from, to, bytes)) = next else { return carried };
            carried += 1;
            let host = (0..self.hosts.len()).find(|host| address(*host) == to).unwrap();
            self.receive(host, from, &bytes);
        }
    }

    /// Takes the frames that were delivered to `host`'s bridge.
    fn delivered(&mut self, host: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hosts[host].out.frames)
    }

    fn drops(&self, host: usize) -> Vec<(Drop, u64)> {
        self.hosts[host].plane.counters().drops.iter().collect()
    }

    fn traffic(&self, host: usize, peer: usize) -> Traffic {
        self.hosts[host].plane.counters().peers.get(&name(peer)).copied().unwrap_or_default()
    }
}

/// A frame of 100 bytes from station to station.
fn frame(from: usize, to: usize) -> Vec<u8> {
    sample::other(station(to), station(from), &[0x40 + from as u8; 86])
}
