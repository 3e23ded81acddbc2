use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SOON: Duration = Duration::from_secs(5);

/// A transport that listens on a port of its own, and its address.
fn transport() -> (Transport, mpsc::Receiver<Arrival>, SocketAddr) {
    let listeners = tcp::listen(Some(LOOPBACK), 0).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let (transport, arrivals) = Transport::new(listeners, Some(LOOPBACK), address.port());
    (transport, arrivals, address)
}

async fn next(transport: &mut Transport, arrivals: &mut mpsc::Receiver<Arrival>) -> Input {
    loop {
        let arrival = timeout(SOON, arrivals.recv()).await.expect("an arrival in time").unwrap();
        if let Some(input) = transport.admit(arrival) {
            return input;
        }
    }
}

#[tokio::test]
async fn two_nodes_talk_and_part() {
    let (mut a, mut from_a, _) = transport();
    let (mut b, mut from_b, address) = transport();
    a.dial(ConnId(2), address.into());
    assert_eq!(next(&mut a, &mut from_a).await, Input::Connected { conn: ConnId(2), remote: address });
    let Input::Accepted { conn, remote } = next(&mut b, &mut from_b).await else { panic!("not accepted") };
    assert_eq!((conn, remote.ip()), (ConnId(1), LOOPBACK));

    assert_eq!(a.send(ConnId(2), b"hello".to_vec()), None);
    assert_eq!(next(&mut b, &mut from_b).await, Input::Received { conn, bytes: b"hello".to_vec() });

    // The last words arrive though they are followed by a close and by bytes that nobody reads.
    b.send(conn, b"because".to_vec());
    a.send(ConnId(2), vec![7; 100_000]);
    b.close(conn);
    assert_eq!(next(&mut a, &mut from_a).await, Input::Received { conn: ConnId(2), bytes: b"because".to_vec() });
    let Input::Closed { conn: ConnId(2), reason } = next(&mut a, &mut from_a).await else { panic!("not closed") };
    assert_eq!(reason, "closed by the other side");
    timeout(SOON, b.finish()).await.expect("nothing is left");
    timeout(SOON, a.finish()).await.expect("nothing is left");
}

#[tokio::test]
async fn accepted_connections_have_odd_numbers_of_their_own() {
    let (mut a, mut from_a, address) = transport();
    let mut streams = Vec::new();
    for expected in [1, 3, 5] {
        streams.push(TcpStream::connect(address).await.unwrap());
        let Input::Accepted { conn, .. } = next(&mut a, &mut from_a).await else { panic!("not accepted") };
        assert_eq!(conn, ConnId(expected));
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_off_with_a_reason() {
    let (mut a, mut from_a, address) = transport();
    let _silent = TcpStream::connect(address).await.unwrap();
    let Input::Accepted { conn, .. } = next(&mut a, &mut from_a).await else { panic!("not accepted") };
    let mut sent = 0;
    let closed = loop {
        if let Some(input) = a.send(conn, vec![0; 1 << 20]) {
            break input;
        }
        sent += 1;
        assert!(sent < 100, "the queue has a bound");
        tokio::task::yield_now().await;
    };
    assert!(matches!(closed, Input::Closed { conn: of, reason } if of == conn && reason.starts_with("too slow")));
    assert!(sent >= 8, "{sent}");
    assert_eq!(a.send(conn, vec![0]), None, "it is gone");
}

#[tokio::test]
async fn a_failed_dial_says_what_failed() {
    let (mut a, mut from_a, _) = transport();
    let free = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap();
    a.dial(ConnId(2), free.into());
    let Input::Closed { conn: ConnId(2), reason } = next(&mut a, &mut from_a).await else { panic!("not closed") };
    assert!(reason.starts_with(&free.to_string()) && reason.contains("refused"), "{reason}");
    a.dial(ConnId(4), "[::1]:1".parse().unwrap());
    let Input::Closed { conn: ConnId(4), reason } = next(&mut a, &mut from_a).await else { panic!("not closed") };
    assert!(reason.contains("--host 127.0.0.1"), "{reason}");
    a.dial(ConnId(6), "nothing.invalid".parse().unwrap());
    let Input::Closed { conn: ConnId(6), reason } = next(&mut a, &mut from_a).await else { panic!("not closed") };
    assert!(reason.starts_with("cannot resolve nothing.invalid"), "{reason}");
}

#[tokio::test]
async fn what_the_other_side_said_last_is_heard_before_its_end() {
    let (mut a, mut from_a, address) = transport();
    let mut peer = TcpStream::connect(address).await.unwrap();
    let Input::Accepted { conn, .. } = next(&mut a, &mut from_a).await else { panic!("not accepted") };
    peer.write_all(b"bye").await.unwrap();
    drop(peer);
    assert_eq!(next(&mut a, &mut from_a).await, Input::Received { conn, bytes: b"bye".to_vec() });
    assert!(matches!(next(&mut a, &mut from_a).await, Input::Closed { .. }));
}

#[tokio::test]
async fn closing_sends_what_waits() {
    let (mut a, mut from_a, address) = transport();
    let mut peer = TcpStream::connect(address).await.unwrap();
    let Input::Accepted { conn, .. } = next(&mut a, &mut from_a).await else { panic!("not accepted") };
    a.send(conn, vec![1; 3 << 20]);
    a.close(conn);
    let mut heard = Vec::new();
    timeout(SOON, peer.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard.len(), 3 << 20);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let listeners = tcp::listen(Some(LOOPBACK), 0).unwrap();
    let port = listeners[0].local_addr().unwrap().port();
    let error = tcp::listen(Some(LOOPBACK), port).unwrap_err();
    assert!(error.to_string().contains(&format!("TCP port {port} on 127.0.0.1 is in use")), "{error}");
    assert!(matches!(tcp::listen(Some("192.0.2.1".parse().unwrap()), 0), Err(ListenError::Bind { .. })));
}

#[tokio::test]
async fn without_a_host_both_families_are_served() {
    let listeners = tcp::listen(None, 0).unwrap();
    assert!(listeners[0].local_addr().unwrap().is_ipv4());
    assert!(listeners.iter().skip(1).all(|l| l.local_addr().unwrap().is_ipv6()));
}
