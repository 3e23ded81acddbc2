use proptest::prelude::*;

use super::*;
use crate::api::{ConnectionState, TargetStatus};

const A: PeerName = PeerName([1; 6]);
const B: PeerName = PeerName([2; 6]);
const C: PeerName = PeerName([3; 6]);

fn maker(conn_limit: usize) -> Maker {
    Maker::new(MakerConfig { name: A, discovery: true, conn_limit })
}

fn entropy() -> Entropy {
    Entropy::seeded([3; 32])
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn at(seconds: f64) -> Time {
    Time::ZERO + Duration::from_secs_f64(seconds)
}

fn end(kind: EndKind) -> End {
    End { kind, reason: "it ended".to_owned() }
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn status(maker: &Maker, now: Time) -> TargetStatus {
    maker.target_status(now).remove(0)
}

/// All dials due at `now`, as texts.
fn dials(maker: &mut Maker, now: Time) -> Vec<String> {
    std::iter::from_fn(|| maker.poll_dial(now)).map(|dial| dial.target.to_string()).collect()
}

/// The next dial, which fails like this.
fn fail(maker: &mut Maker, kind: EndKind, now: Time) -> String {
    let dial = maker.poll_dial(now).unwrap();
    maker.ended(dial.conn, &end(kind), now, &entropy());
    dial.target.to_string()
}

#[test]
fn a_target_is_dialled_until_it_connects() {
    let mut maker = maker(0);
    assert!(maker.add_targets([target("b")], at(0.0)));
    assert!(!maker.add_targets([target("b")], at(0.0)), "nothing new");
    let first = maker.poll_dial(at(0.0)).unwrap();
    assert_eq!((first.conn, &first.target, first.peer), (ConnId(2), &target("b"), None));
    assert_eq!(maker.poll_dial(at(0.0)), None);
    assert_eq!(status(&maker, at(0.0)).state, "connecting");
    assert_eq!(maker.pending()[0].state, ConnectionState::Connecting);

    maker.ended(first.conn, &end(EndKind::Broken), at(1.0), &entropy());
    let waiting = status(&maker, at(1.0));
    assert_eq!((waiting.state.as_str(), waiting.tries, waiting.info.as_str()), ("waiting", 1, "it ended"));
    assert!(waiting.retry_ms.is_some_and(|ms| (250..=500).contains(&ms)), "{waiting:?}");
    assert_eq!((maker.pending()[0].state, maker.pending()[0].info.as_str()), (ConnectionState::Failed, "it ended"));
    assert_eq!(maker.poll_dial(at(1.2)), None);
    let due = maker.deadline().unwrap();
    let second = maker.poll_dial(due).unwrap();
    assert_eq!(maker.pending()[0].state, ConnectionState::Retrying);

    maker.connected(second.conn, B, at(2.0), &entropy());
    assert_eq!(status(&maker, at(2.0)).state, "connected");
    assert!(maker.pending().is_empty());
    assert_eq!((maker.poll_dial(at(99.0)), maker.deadline()), (None, None));
}

#[test]
fn a_lost_connection_is_dialled_again_soon_if_it_was_good() {
    let mut maker = maker(0);
    maker.add_targets([target("b")], at(0.0));
    for _ in 0..6 {
        let due = maker.deadline().unwrap();
        fail(&mut maker, EndKind::Broken, due);
    }
    let start = maker.deadline().unwrap();
    let conn = maker.poll_dial(start).unwrap().conn;
    maker.connected(conn, B, start, &entropy());
    let over = start + GOOD_AFTER;
    maker.ended(conn, &end(EndKind::Broken), over, &entropy());
    assert_eq!(maker.poll_dial(over), None);
    assert_eq!(maker.poll_dial(over + RETRY_FIRST).unwrap().peer, Some(B));
}

#[test]
fn a_flapping_connection_is_dialled_less_and_less() {
    let mut maker = maker(0);
    maker.add_targets([target("b")], at(0.0));
    let mut waits = Vec::new();
    for _ in 0..5 {
        let now = maker.deadline().unwrap();
        let conn = maker.poll_dial(now).unwrap().conn;
        maker.connected(conn, B, now, &entropy());
        maker.ended(conn, &end(EndKind::Broken), now, &entropy());
        waits.push(maker.deadline().unwrap().since(now));
    }
    assert!(waits[4] >= Duration::from_secs(4), "{waits:?}");
}

#[test]
fn a_refused_target_is_suspended_and_tried_slowly() {
    let mut maker = maker(0);
    maker.add_targets([target("b")], at(0.0));
    fail(&mut maker, EndKind::Refused, at(0.0));
    let refused = status(&maker, at(0.0));
    assert_eq!((refused.state.as_str(), refused.info.as_str()), ("suspended", "it ended"));
    assert!(refused.retry_ms.is_some_and(|ms| ms >= 15_000), "{refused:?}");
    assert!(dials(&mut maker, at(14.0)).is_empty());
    assert_eq!(dials(&mut maker, at(30.0)), ["b"]);
}

#[test]
fn ourselves_we_do_not_dial_again_until_something_changes() {
    let mut maker = maker(0);
    maker.add_targets([target("me")], at(0.0));
    fail(&mut maker, EndKind::Own, at(0.0));
    assert_eq!((status(&maker, at(0.0)).state.as_str(), status(&maker, at(0.0)).retry_ms), ("suspended", None));
    assert_eq!((maker.deadline(), maker.poll_dial(at(9999.0))), (None, None));
    maker.network_changed(at(9999.0));
    assert_eq!(dials(&mut maker, at(9999.0)), ["me"]);
}

#[test]
fn a_change_of_network_ends_all_waiting() {
    let mut maker = maker(0);
    maker.add_targets([target("b")], at(0.0));
    fail(&mut maker, EndKind::Refused, at(0.0));
    maker.network_changed(at(1.0));
    assert_eq!(status(&maker, at(1.0)).tries, 0);
    assert_eq!(dials(&mut maker, at(1.0)), ["b"]);
}

#[test]
fn a_discovered_peer_is_dialled_at_each_address_in_turn() {
    let mut maker = maker(0);
    maker.set_known(B, addresses(&["10.0.0.1:1", "10.0.0.2:2", "10.0.0.1:1"]), at(0.0));
    assert_eq!(fail(&mut maker, EndKind::Broken, at(0.0)), "10.0.0.1:1");
    assert_eq!(fail(&mut maker, EndKind::Broken, at(0.0)), "10.0.0.2:2");
    assert_eq!(maker.poll_dial(at(0.0)), None, "all tried: wait");
    assert_eq!(fail(&mut maker, EndKind::Broken, at(0.5)), "10.0.0.1:1");
    maker.set_known(B, addresses(&["10.0.0.3:3", "10.0.0.1:1"]), at(0.5));
    assert_eq!(dials(&mut maker, at(0.5)), ["10.0.0.3:3"], "a new address is tried at once");
}

#[test]
fn an_address_where_somebody_else_answers_is_left_out() {
    let mut maker = maker(0);
    maker.set_known(B, addresses(&["10.0.0.1:1", "10.0.0.2:2"]), at(0.0));
    assert_eq!(fail(&mut maker, EndKind::Own, at(0.0)), "10.0.0.1:1");
    let conn = maker.poll_dial(at(0.0)).unwrap().conn;
    maker.connected(conn, C, at(0.0), &entropy());
    assert_eq!((maker.deadline(), maker.poll_dial(at(99.0))), (None, None), "no address is left");
    maker.network_changed(at(100.0));
    assert_eq!(dials(&mut maker, at(100.0)), ["10.0.0.1:1"]);
}

#[test]
fn of_two_peers_that_learn_of_each_other_one_dials_first() {
    let config = MakerConfig { name: C, discovery: true, conn_limit: 0 };
    let mut later = Maker::new(config);
    later.set_known(B, addresses(&["10.0.0.1:1"]), at(0.0));
    assert!(dials(&mut later, at(0.9)).is_empty());
    assert_eq!(dials(&mut later, at(1.0)), ["10.0.0.1:1"]);
}

#[test]
fn without_discovery_only_targets_are_dialled() {
    let mut maker = Maker::new(MakerConfig { name: A, discovery: false, conn_limit: 0 });
    maker.set_known(B, addresses(&["10.0.0.1:1"]), at(0.0));
    maker.add_targets([target("c")], at(0.0));
    assert_eq!(dials(&mut maker, at(99.0)), ["c"]);
}

#[test]
fn a_connected_peer_is_not_dialled_in_whatever_way_it_is_known() {
    let mut maker = maker(0);
    maker.add_targets([target("b")], at(0.0));
    let conn = maker.poll_dial(at(0.0)).unwrap().conn;
    // Its own dial arrived first and is kept.
    maker.connected(ConnId(1), B, at(0.0), &entropy());
    maker.ended(conn, &end(EndKind::Duplicate(B)), at(0.0), &entropy());
    maker.set_known(B, addresses(&["10.0.0.1:1"]), at(0.0));
    assert_eq!(status(&maker, at(0.0)).state, "connected");
    assert_eq!(maker.poll_dial(at(99.0)), None);

    maker.ended(ConnId(1), &end(EndKind::Broken), at(99.0), &entropy());
    assert_eq!(dials(&mut maker, at(100.0)), ["b"], "one dial, not one for the target and one for the peer");
}

#[test]
fn of_two_connections_to_a_peer_one_may_end() {
    let mut maker = maker(0);
    maker.set_known(B, addresses(&["10.0.0.1:1"]), at(0.0));
    maker.connected(ConnId(1), B, at(0.0), &entropy());
    maker.connected(ConnId(3), B, at(0.0), &entropy());
    maker.ended(ConnId(1), &end(EndKind::Duplicate(B)), at(0.0), &entropy());
    assert_eq!(maker.poll_dial(at(99.0)), None);
}

#[test]
fn the_limit_holds_for_whom_gossip_told_of_and_targets_go_first() {
    let mut maker = maker(2);
    maker.set_known(C, addresses(&["10.0.0.3:3"]), at(0.0));
    maker.add_targets([target("b"), target("d")], at(0.5));
    assert_eq!(dials(&mut maker, at(1.0)), ["b", "d"]);
    assert_eq!(maker.deadline(), None, "nothing to wait for at the limit");
    assert!(!maker.admits(ConnId(1), false));
    assert!(maker.admits(ConnId(2), false), "b's own place");
    maker.connected(ConnId(2), B, at(1.0), &entropy());
    maker.ended(ConnId(4), &end(EndKind::Refused), at(1.0), &entropy());
    assert!(maker.admits(ConnId(1), false));
    assert_eq!(dials(&mut maker, at(1.0)), ["10.0.0.3:3"]);
    assert_eq!(maker.target_status(at(1.0))[1].state, "suspended");
    maker.set_known(PeerName([5; 6]), addresses(&["10.0.0.5:5"]), at(1.0));
    assert_eq!(dials(&mut maker, at(99.0)), ["d"], "and nobody else");
}

#[test]
fn a_target_is_dialled_at_the_limit_too() {
    let mut maker = maker(1);
    maker.connected(ConnId(1), C, at(0.0), &entropy());
    maker.set_known(B, addresses(&["10.0.0.2:2"]), at(0.0));
    maker.add_targets([target("d")], at(5.0));
    assert_eq!(maker.deadline(), Some(at(5.0)), "that of the target");
    assert_eq!(dials(&mut maker, at(5.0)), ["d"]);
}

#[test]
fn strangers_are_let_in_a_quarter_beyond_the_limit() {
    let mut maker = maker(8);
    for conn in [1, 3, 5, 7, 9, 11, 13, 15, 17, 19] {
        let is_beyond = conn > 15;
        assert_eq!(maker.admits(ConnId(conn), false), !is_beyond, "{conn}");
        assert!(maker.admits(ConnId(conn), true), "{conn}");
        maker.connected(ConnId(conn), PeerName([9, 0, 0, 0, 0, u8::try_from(conn).unwrap()]), at(0.0), &entropy());
    }
    assert!(!maker.admits(ConnId(21), true));
    assert!(self::maker(0).admits(ConnId(1), false), "no limit");
}

#[test]
fn the_more_discovered_peers_refuse_the_slower_others_are_dialled() {
    let mut maker = maker(1);
    for i in 1..=4 {
        maker.set_known(PeerName([9, 0, 0, 0, 0, i]), addresses(&[&format!("10.0.0.{i}:1")]), at(0.0));
    }
    assert_eq!(fail(&mut maker, EndKind::Broken, at(0.0)), "10.0.0.1:1");
    assert_eq!(fail(&mut maker, EndKind::Refused, at(0.0)), "10.0.0.2:1");
    maker.add_targets([target("d")], at(0.0));
    assert_eq!(fail(&mut maker, EndKind::Refused, at(0.0)), "d", "targets do not wait");
    assert_eq!((maker.deadline(), maker.poll_dial(at(0.04))), (Some(at(0.05)), None));
    assert_eq!(fail(&mut maker, EndKind::Refused, at(0.05)), "10.0.0.3:1");
    assert_eq!((maker.deadline(), maker.poll_dial(at(0.1))), (Some(at(0.15)), None));
    assert_eq!(dials(&mut maker, at(0.15)), ["10.0.0.4:1"]);
}

#[test]
fn a_discovered_peer_that_waits_for_room_says_so() {
    let mut maker = maker(1);
    maker.set_known(B, addresses(&["10.0.0.1:1"]), at(0.0));
    fail(&mut maker, EndKind::Broken, at(0.0));
    assert_eq!(maker.pending()[0].info, "it ended");
    maker.connected(ConnId(1), C, at(0.0), &entropy());
    assert_eq!((maker.poll_dial(at(99.0)), maker.deadline()), (None, None));
    assert_eq!(maker.pending()[0].info, "connection limit reached (1)");
}

#[test]
fn a_forgotten_target_is_dialled_no_more() {
    let mut maker = maker(0);
    maker.add_targets([target("b"), target("c")], at(0.0));
    let dial = maker.poll_dial(at(0.0)).unwrap();
    assert!(maker.forget(&[target("b")]));
    assert!(!maker.forget(&[target("b")]));
    maker.ended(dial.conn, &end(EndKind::Broken), at(0.0), &entropy());
    assert_eq!(maker.targets(), [target("c")]);
    assert_eq!(dials(&mut maker, at(99.0)), ["c"]);
}

#[test]
fn a_peer_that_gossip_forgets_is_dialled_no_more() {
    let mut maker = maker(0);
    maker.set_known(B, addresses(&["10.0.0.1:1"]), at(0.0));
    maker.set_known(A, addresses(&["10.0.0.9:1"]), at(0.0));
    maker.remove_known(B);
    assert_eq!((maker.deadline(), maker.poll_dial(at(99.0))), (None, None), "and we are not a peer of ours");
}

#[test]
fn a_large_network_is_not_dialled_all_at_once() {
    let mut maker = maker(0);
    for i in 0..100 {
        maker.set_known(PeerName([9, 0, 0, 0, 0, i]), addresses(&["10.0.0.1:1"]), at(0.0));
    }
    assert_eq!(dials(&mut maker, at(0.0)).len(), DIALS_MAX);
}

#[derive(Clone, Debug)]
enum Op {
    Target(u8),
    Forget(u8),
    Known(u8, Vec<u8>),
    Unknown(u8),
    Poll,
    Connected(prop::sample::Index, u8),
    Accepted(u8, bool),
    Ended(prop::sample::Index, u8),
    Changed,
    Later(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let peer = || 2_u8..6;
    prop_oneof![
        peer().prop_map(Op::Target),
        peer().prop_map(Op::Forget),
        (peer(), prop::collection::vec(1_u8..5, 0..4)).prop_map(|(peer, at)| Op::Known(peer, at)),
        peer().prop_map(Op::Unknown),
        Just(Op::Poll),
        (any::<prop::sample::Index>(), peer()).prop_map(|(index, peer)| Op::Connected(index, peer)),
        (peer(), any::<bool>()).prop_map(|(peer, is_stranger)| Op::Accepted(peer, is_stranger)),
        (any::<prop::sample::Index>(), 0_u8..6).prop_map(|(index, kind)| Op::Ended(index, kind)),
        Just(Op::Changed),
        (0_u64..40_000).prop_map(Op::Later),
    ]
}

proptest! {
    #[test]
    fn the_limit_is_kept_nobody_is_dialled_twice_and_nothing_is_dialled_without_end(
        limit in 0_usize..4,
        ops in prop::collection::vec(any_op(), 0..150),
    ) {
        let (mut maker, entropy, mut now) = (maker(limit), entropy(), Time::ZERO);
        let (mut open, mut accepted): (Vec<ConnId>, u64) = (Vec::new(), 1);
        let mut for_targets = BTreeSet::new();
        for op in ops {
            match op {
                Op::Target(peer) => drop(maker.add_targets([target(&format!("host-{peer}"))], now)),
                Op::Forget(peer) => drop(maker.forget(&[target(&format!("host-{peer}"))])),
                Op::Known(peer, at) => {
                    let at = at.into_iter().map(|host| SocketAddr::from(([10, 0, 0, host], 1))).collect();
                    maker.set_known(PeerName([peer; 6]), at, now);
                }
                Op::Unknown(peer) => maker.remove_known(PeerName([peer; 6])),
                Op::Poll => {
                    while let Some(dial) = maker.poll_dial(now) {
                        let busy = |peer| maker.connections.values().any(|connection| connection.peer == peer);
                        prop_assert!(!dial.peer.is_some_and(busy), "{:?} is connected", dial.peer);
                        prop_assert!(dial.conn.0 % 2 == 0 && !open.contains(&dial.conn));
                        if matches!(maker.dials[&dial.conn], Goal::Target(_)) {
                            for_targets.insert(dial.conn);
                        } else {
                            prop_assert!(limit == 0 || open.len() < limit);
                        }
                        open.push(dial.conn);
                    }
                    prop_assert!(maker.deadline().is_none_or(|due| due > now), "what is due is dialled");
                }
                Op::Connected(index, peer) if !open.is_empty() => {
                    let conn = *index.get(&open);
                    if !maker.connections.contains_key(&conn) {
                        maker.connected(conn, PeerName([peer; 6]), now, &entropy);
                    }
                }
                Op::Accepted(peer, is_stranger) if maker.admits(ConnId(accepted), is_stranger) => {
                    let most = if is_stranger { limit + stranger_slack(limit) } else { limit };
                    prop_assert!(limit == 0 || open.len() < most);
                    maker.connected(ConnId(accepted), PeerName([peer; 6]), now, &entropy);
                    open.push(ConnId(accepted));
                    accepted += 2;
                }
                Op::Ended(index, kind) if !open.is_empty() => {
                    let conn = open.swap_remove(index.index(open.len()));
                    let kind = match kind {
                        0 | 1 => EndKind::Broken,
                        2 => EndKind::Refused,
                        3 => EndKind::Own,
                        peer => EndKind::Duplicate(PeerName([peer; 6])),
                    };
                    maker.ended(conn, &end(kind), now, &entropy);
                }
                Op::Connected(..) | Op::Accepted(..) | Op::Ended(..) => {}
                Op::Changed => maker.network_changed(now),
                Op::Later(millis) => now = now + Duration::from_millis(millis),
            }
            prop_assert_eq!(maker.dials.len() + maker.connections.len(), open.len());
            let others = open.iter().filter(|conn| !for_targets.contains(conn)).count();
            prop_assert!(limit == 0 || others <= limit + stranger_slack(limit));
            prop_assert_eq!(maker.target_status(now).len(), maker.targets().len());
            let _ = maker.pending();
        }
        // With everything failing, tries at each moment come to an end.
        for conn in open {
            maker.ended(conn, &end(EndKind::Broken), now, &entropy);
        }
        let mut tries = 0;
        while let Some(dial) = maker.poll_dial(now) {
            maker.ended(dial.conn, &end(EndKind::Broken), now, &entropy);
            tries += 1;
            prop_assert!(tries < 100);
        }
    }
}
