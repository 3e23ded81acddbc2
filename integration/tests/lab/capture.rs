//! Acceptance 5: the underlay sees nothing in clear, and what an enemy throws at a router changes nothing but counters.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weft_integration::lab::{
    Lab,
    capture::{Frame, TCP, UDP},
    datagram::{Audience, Listener, send},
    garbage::{self, Noise},
    host::{Host, PORT},
    mesh::{Mesh, station},
    transfer::{MARKER, transfer},
    trial::trial,
    wait::wait_for,
};

const PATIENCE: Duration = Duration::from_secs(5);
const DATAGRAMS: usize = 100_000;
const NUMBERED: u32 = 50;
/// What a router's memory may grow by through all the garbage, in KiB.
const GROWTH: u64 = 32 * 1024;
/// IP protocol numbers of ICMP and ICMPv6. Hosts use them to find neighbours, behind hop-by-hop options to report
/// multicast listeners, and to tell that a stopped router's port is closed.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;

#[test]
fn the_underlay_sees_sealed_packets_only() {
    trial(|lab| sees_sealed_packets_only(lab, false));
}

#[test]
fn the_underlay_sees_sealed_packets_only_over_ipv6() {
    trial(|lab| sees_sealed_packets_only(lab, true));
}

fn sees_sealed_packets_only(lab: &Lab, ipv6: bool) -> Result<()> {
    let mesh = Mesh::settled(lab, ["alpha", "bravo", "carol"], ipv6)?;
    let capture = lab.capture()?;
    let [a, b, c] = &mesh.containers[..] else { unreachable!("three containers") };
    for (from, to) in [(a, b), (b, c), (c, a)] {
        transfer(from.namespace(), (to.namespace(), to.v4()?.into()), 1_000_000, PATIENCE)?;
    }
    mesh.all_ping(2)?;
    mesh.hosts[0].stop()?;
    mesh.hosts[0].relaunch()?;
    mesh.wait_settled(Duration::from_secs(40))?;
    let frames = capture.stop()?;

    let mut secrets = vec![MARKER.to_vec()];
    for (host, container) in mesh.hosts.iter().zip(&mesh.containers) {
        let nickname = host.name().as_bytes().to_vec();
        secrets.extend([nickname, container.v6()?.octets().to_vec(), container.mac()?.0.to_vec()]);
    }
    let sealed = frames.iter().filter_map(Frame::packet).filter(|packet| packet.protocol == UDP);
    let sealed: usize = sealed.map(|packet| packet.payload.len()).sum();
    ensure!(sealed > 3_000_000, "the traffic was seen: {sealed} bytes");
    for frame in &frames {
        for secret in &secrets {
            ensure!(!frame.contains(secret), "{} in {frame:?}", String::from_utf8_lossy(secret));
        }
        ensure!(is_ours(frame), "neither control connection nor sleeve: {frame:?}");
    }
    Ok(())
}

/// Whether a frame is of a control connection, of the sleeve by its header, or finds neighbours.
fn is_ours(frame: &Frame) -> bool {
    const ARP: u16 = 0x0806;
    let Some(packet) = frame.packet() else { return frame.ethertype() == Some(ARP) };
    let on_port = packet.ports.is_some_and(|(from, to)| from == PORT || to == PORT);
    match packet.protocol {
        TCP => on_port,
        // Type, version, two zeros: the start of every sleeve packet.
        UDP => on_port && matches!(packet.payload, [1..=5, 1, 0, 0, ..]),
        ICMP => packet.payload.starts_with(&[3, 3]),
        ICMPV6 => packet.payload.starts_with(&[1, 4]) || matches!(packet.payload.first(), Some(133..=136)),
        HOP_BY_HOP => packet.payload.first() == Some(&ICMPV6),
        _ => false,
    }
}

#[test]
fn garbage_changes_nothing_but_counters() {
    trial(|lab| changes_nothing(lab, false));
}

#[test]
fn garbage_changes_nothing_but_counters_over_ipv6() {
    trial(|lab| changes_nothing(lab, true));
}

fn changes_nothing(lab: &Lab, ipv6: bool) -> Result<()> {
    let mesh = Mesh::settled(lab, ["A", "B", "C"], ipv6)?;
    let enemy = lab.host("enemy")?;
    let (from, to) = (&mesh.containers[0], &mesh.containers[1]);
    let (a, b) = (&mesh.hosts[0], &mesh.hosts[1]);
    // Each datagram is to be captured by itself.
    a.disable_offloads()?;
    from.ping(to.v4()?).until_answered(PATIENCE)?;
    // Numbered datagrams are captured on their way; a replay that worked would deliver them a second time.
    let capture = lab.capture()?;
    let listener = Listener::start(&station(to)?, Audience::One(to.v4()?.into()), NUMBERED)?;
    send(&station(from)?, Audience::One(to.v4()?.into()), NUMBERED)?;
    a.stop()?;
    a.relaunch()?;
    mesh.wait_settled(Duration::from_secs(40))?;
    let genuine = sleeve_payloads(&capture.stop()?, (a.address(ipv6), b.address(ipv6)));
    ensure!(genuine.len() > NUMBERED as usize, "handshakes, probes and data: {}", genuine.len());

    let before = Picture::at_rest(b)?;
    let memory = b.resident_kib()?;
    let mut noise = Noise::new(7);
    let spoilt = (0..DATAGRAMS).map(|number| noise.spoil(&genuine[number % genuine.len()])).collect::<Vec<_>>();
    if ipv6 {
        garbage::send(enemy.namespace(), b.sleeve(true), spoilt)?;
    } else {
        let (claimed, victim) = (SocketAddrV4::new(a.v4(), PORT), SocketAddrV4::new(b.v4(), PORT));
        let packets = spoilt.iter().map(|payload| garbage::udp_packet(claimed, victim, payload));
        garbage::send_forged(enemy.namespace(), b.v4().into(), packets.collect::<Result<_>>()?)?;
    }
    nonsense_by_tcp(&enemy, b, ipv6)?;

    mesh.all_ping(3)?;
    let copies = listener.finish(Duration::from_millis(300))?;
    ensure!(copies.iter().all(|copies| *copies == 1), "copies of each: {copies:?}");
    let after = Picture::of(b)?;
    ensure!(after == before, "before {before:#?}\nafter {after:#?}");
    let grown = b.resident_kib()?.saturating_sub(memory);
    ensure!(grown < GROWTH, "{grown} KiB more memory");
    let counters = b.report()?.counters;
    for reason in ["replayed", "unknown_session", "not_authentic", "not_sleeve", "bad_handshake"] {
        let counted = counters.iter().filter(|(name, _)| name.contains(reason)).map(|(_, count)| count).sum::<u64>();
        ensure!(counted > 0, "{reason} was counted: {counters:#?}");
    }
    Ok(())
}

/// What garbage must not change: who is there, how frames go, and since when.
#[derive(Debug, PartialEq)]
struct Picture {
    connections: BTreeSet<String>,
    peers: BTreeSet<String>,
    endpoints: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl Picture {
    /// Once nothing has changed for a second.
    fn at_rest(host: &Host) -> Result<Self> {
        let mut seen = (Self::of(host)?, Instant::now());
        let rests = wait_for("nothing changes any more", Duration::from_secs(20), || {
            let now = Self::of(host)?;
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            ensure!(seen.1.elapsed() > Duration::from_secs(1), "{:?}", seen.0);
            Ok(())
        });
        rests.map(|_| seen.0)
    }

    fn of(host: &Host) -> Result<Self> {
        let connections = host.connections()?.into_iter().filter(|connection| connection.name.is_some());
        let peers = host.peers()?;
        Ok(Self {
            connections: connections
                .map(|c| format!("{:?} {} {:?} {:?}", c.direction, c.address, c.state, c.name))
                .collect(),
            peers: peers.iter().map(|peer| format!("{} {} {:?}", peer.name, peer.nickname, peer.addresses)).collect(),
            endpoints: host.endpoints()?.iter().map(|e| format!("{} {} {:?}", e.mac, e.name, e.addresses)).collect(),
            paths: host.paths()?.iter().map(|path| format!("{} {} {}", path.name, path.path, path.since)).collect(),
        })
    }
}

/// Connections that say nonsense, say nothing, or go away.
fn nonsense_by_tcp(enemy: &Host, victim: &Host, ipv6: bool) -> Result<()> {
    let to = victim.sleeve(ipv6);
    enemy.namespace().within(move || {
        let mut noise = Noise::new(11);
        let mut silent = Vec::new();
        for number in 0..100 {
            let mut stream =
                TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connection {number}"))?;
            let length = noise.below(100_000);
            // The router hangs up in the middle, as it should.
            let _ = stream.write_all(&noise.bytes(length));
            if number % 10 == 0 {
                silent.push(TcpStream::connect_timeout(&to, PATIENCE)?);
            }
        }
        Ok(())
    })
}

fn sleeve_payloads(frames: &[Frame], (from, to): (IpAddr, IpAddr)) -> Vec<Vec<u8>> {
    let packets = frames.iter().filter_map(Frame::packet);
    let ours = packets.filter(|packet| packet.protocol == UDP && packet.source == from && packet.destination == to);
    ours.map(|packet| packet.payload.to_vec()).collect()
}
