//! The sockets against the kernel, each test in a network namespace of its own.

use super::*;
use crate::{poll::Poller, testing::in_namespace};

const PORT: u16 = 6783;

fn one(host: Option<IpAddr>, port: u16) -> UdpSocket {
    bind(host, port, 1).unwrap().remove(0)
}

/// Everything that arrives at `sockets`, until `count` datagrams have: source, length, first byte.
fn arrivals(sockets: &[UdpSocket], count: usize) -> Vec<(Option<SocketAddr>, usize, u8)> {
    let poller = Poller::new().unwrap();
    for (number, socket) in sockets.iter().enumerate() {
        poller.add(socket, number).unwrap();
    }
    let (mut inbox, mut arrived) = (Inbox::default(), Vec::new());
    while arrived.len() < count {
        let ready = poller.wait(Duration::from_secs(5)).unwrap();
        assert_ne!(ready, crate::poll::Ready::default(), "{} of {count} arrived", arrived.len());
        for (_, socket) in sockets.iter().enumerate().filter(|(number, _)| ready.contains(*number)) {
            socket.receive(&mut inbox, BATCH).unwrap();
            arrived.extend(inbox.datagrams().map(|(from, datagram)| (from, datagram.len(), datagram[0])));
        }
    }
    arrived
}

#[test]
fn a_run_arrives_as_the_datagrams_that_it_was() {
    in_namespace(|| {
        let receivers = bind(None, PORT, 2).unwrap();
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let mut sender = one(Some(host), 0);
            let mut run: Vec<u8> = (0..40).flat_map(|n| [n; 1400]).collect();
            run.extend([40; 77]);
            assert_eq!(sender.send((host, PORT).into(), &run, 1400), Sent::default());
            let from = sender.local_addr().unwrap();
            assert_eq!(from.ip(), host, "not mapped into IPv6");
            let expected: Vec<_> = (0..=40).map(|n| (Some(from), if n < 40 { 1400 } else { 77 }, n)).collect();
            assert_eq!(arrivals(&receivers, 41), expected);
        }
    });
}

#[test]
fn one_socket_for_both_families_answers_both() {
    in_namespace(|| {
        let mut ours = one(None, PORT);
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let theirs = one(Some(host), 0);
            assert_eq!(ours.send(theirs.local_addr().unwrap(), b"to you", 6), Sent::default());
            assert_eq!(arrivals(&[theirs], 1), [(Some((host, PORT).into()), 6, b't')]);
        }
    });
}

#[test]
fn many_sockets_of_ours_share_a_port_but_nobody_else() {
    in_namespace(|| {
        let ours = bind(None, PORT, 4).unwrap();
        assert!(matches!(bind(None, PORT, 1), Err(UdpError::Busy(_))));
        assert!(matches!(bind(Some(Ipv4Addr::LOCALHOST.into()), PORT, 4), Err(UdpError::Busy(_))));
        let to = (Ipv4Addr::LOCALHOST, PORT).into();
        let mut senders: Vec<_> = (0..32).map(|_| one(Some(Ipv4Addr::LOCALHOST.into()), 0)).collect();
        for sender in &mut senders {
            assert_eq!(sender.send(to, &[7; 10], 10), Sent::default());
        }
        assert_eq!(arrivals(&ours, 32).len(), 32);
        drop(ours);
        assert!(bind(None, PORT, 1).is_ok());
    });
}

#[test]
fn what_does_not_fit_the_interface_is_too_big_and_offload_survives_it() {
    in_namespace(|| {
        let _receiver = one(None, PORT);
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let mut sender = one(Some(host), 0);
            let to = (host, PORT).into();
            let segments = sender.state.max_gso_segments();
            assert!(segments > 1, "this kernel segments UDP");
            assert_eq!(sender.send(to, &[1; 1600], 1600), Sent { failed: 1, too_big: true });
            let sent = sender.send(to, &[1; 4800], 1600);
            assert_eq!(sent, Sent { failed: 3, too_big: true });
            assert_eq!(sender.send(to, &[1; 1400], 1400), Sent::default());
            assert_eq!(sender.state.max_gso_segments(), segments);
        }
    });
}

#[test]
fn an_unreachable_address_fails_without_harm_to_others() {
    in_namespace(|| {
        let receiver = one(Some(Ipv4Addr::LOCALHOST.into()), PORT);
        let mut sender = one(None, 0);
        let segments = sender.state.max_gso_segments();
        for nowhere in ["192.0.2.1:9", "[2001:db8::1]:9", "127.0.0.1:0", "255.255.255.255:9"] {
            let sent = sender.send(nowhere.parse().unwrap(), &[1; 300], 100);
            assert_eq!(sent, Sent { failed: 3, too_big: false }, "{nowhere}");
            assert_eq!(sender.state.max_gso_segments(), segments, "{nowhere}");
        }
        assert_eq!(sender.send(receiver.local_addr().unwrap(), &[1; 300], 100), Sent::default());
        assert_eq!(arrivals(&[receiver], 3).len(), 3);
    });
}

#[test]
fn hosts_without_ipv6_are_served() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let mut socket = one(None, PORT);
        let theirs = one(Some(Ipv4Addr::LOCALHOST.into()), 0);
        assert_eq!(socket.send(theirs.local_addr().unwrap(), b"x", 1), Sent::default());
        assert_eq!(arrivals(&[theirs], 1), [(Some((Ipv4Addr::LOCALHOST, PORT).into()), 1, b'x')]);
        assert!(is_without_ipv6(&io::Error::from_raw_os_error(libc::EAFNOSUPPORT)), "ipv6.disable=1 says so");
    });
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    in_namespace(|| {
        let error = bind(Some("192.0.2.7".parse().unwrap()), PORT, 1).unwrap_err();
        assert!(matches!(error, UdpError::NoAddress(_)));
        assert!(error.to_string().contains("192.0.2.7:6783"), "{error}");
    });
}

#[test]
fn a_mapped_address_is_shown_plain_and_senseless_sources_are_not_answered() {
    assert_eq!(canonical("[::ffff:10.0.0.1]:5".parse().unwrap()), "10.0.0.1:5".parse().unwrap());
    assert_eq!(canonical("[fe80::1%3]:5".parse().unwrap()), "[fe80::1%3]:5".parse().unwrap());
    for bad in ["0.0.0.0:5", "10.0.0.1:0", "224.0.0.1:5", "[ff02::1]:5", "[::]:5", "255.255.255.255:5"] {
        assert!(!is_answerable(&bad.parse().unwrap()), "{bad}");
    }
}
