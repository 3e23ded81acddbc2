use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

#[test]
fn two_peers_with_one_secret_get_to_know_each_other_and_talk() {
    let (mut a, mut b) = pair(&config(1), &config(2));
    assert_eq!(run(&mut a, &mut b), (Ok(()), Ok(())));
    for (session, other) in [(&mut a, 2), (&mut b, 1)] {
        let theirs = config(other);
        let expected = SessionEvent::Established {
            public: theirs.identity.public(),
            name: theirs.identity.name(),
            uid: theirs.uid,
            version: 1,
            capabilities: 5,
            hello: theirs.hello,
        };
        assert_eq!(session.poll_event(), Some(expected));
        assert!(session.is_established() && session.poll_event().is_none());
    }
    a.send(b"hello").unwrap();
    b.send(b"").unwrap();
    assert_eq!(run(&mut a, &mut b), (Ok(()), Ok(())));
    assert_eq!(b.poll_event(), Some(SessionEvent::Message(b"hello".to_vec())));
    assert_eq!(a.poll_event(), Some(SessionEvent::Message(Vec::new())));
}

#[test]
fn messages_of_any_allowed_size_arrive_whole() {
    let (mut a, mut b) = established();
    let whole_part = 65535 - 17;
    for len in [1, whole_part - 1, whole_part, whole_part + 1, 2 * whole_part, MESSAGE_MAX] {
        let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
        a.send(&message).unwrap();
        assert_eq!(run(&mut a, &mut b).1, Ok(()));
        assert!(b.poll_event() == Some(SessionEvent::Message(message)), "{len}");
    }
    assert_eq!(a.send(&vec![0; MESSAGE_MAX + 1]), Err(SendError::TooLarge(MESSAGE_MAX + 1)));
}

#[test]
fn each_difference_is_named_on_both_sides() {
    let told = Refusal::RefusedByPeer;
    let base = || config(2);
    let open = NetworkSecret::open(&base().network);
    let versions = |min, max| Versions { min, max };
    let no_version = |ours, theirs| Refusal::NoCommonVersion { ours, theirs };
    let cases = [
        (ControlConfig { secret: secret("other"), ..base() }, told(RefusalCode::WrongSecret), Refusal::WrongSecret),
        (ControlConfig { network: "other".parse().unwrap(), ..base() }, Refusal::OtherNetwork, Refusal::OtherNetwork),
        (
            ControlConfig { versions: versions(2, 3), ..base() },
            no_version(versions(1, 1), versions(2, 3)),
            no_version(versions(2, 3), versions(1, 1)),
        ),
        (ControlConfig { secret: open, ..base() }, Refusal::SecretUnexpected, Refusal::SecretMissing),
        (config(1), Refusal::Self_, Refusal::Self_),
        (ControlConfig { uid: Uid(99), ..config(1) }, Refusal::ClonedIdentity, Refusal::ClonedIdentity),
    ];
    for (theirs, at_initiator, at_responder) in cases {
        let (mut a, mut b) = pair(&config(1), &theirs);
        assert_eq!(run(&mut a, &mut b), (Err(at_initiator), Err(at_responder)));
        for session in [&mut a, &mut b] {
            assert!(!session.is_established());
            assert_eq!(session.poll_event(), None, "nothing leaks");
            assert_eq!(session.send(b"x"), Err(SendError::Closed));
            assert_eq!(session.handle(b"anything"), Ok(()), "a closed session is deaf");
        }
    }
}

#[test]
fn a_session_can_be_refused_at_any_time_and_the_peer_learns_why() {
    for flights in 0..5 {
        for refuser_dialled in [true, false] {
            let (mut a, mut b) = pair(&config(1), &config(2));
            for _ in 0..flights {
                let _ = step(&mut a, &mut b);
                let _ = step(&mut b, &mut a);
            }
            let (refuser, other) = if refuser_dialled { (&mut a, &mut b) } else { (&mut b, &mut a) };
            refuser.refuse(RefusalCode::ConnectionLimit);
            let expected = Err(Refusal::RefusedByPeer(RefusalCode::ConnectionLimit));
            let (_, heard) = run(refuser, other);
            assert_eq!(heard, expected, "{flights} {refuser_dialled}");
        }
    }
}

#[test]
fn a_refusal_in_clear_means_nothing_once_sealed_ones_can_be() {
    let (mut a, _) = established();
    let mut forged = Vec::new();
    record::write(&mut forged, Kind::Refused, &RefusalCode::ShuttingDown.number().to_le_bytes());
    assert_eq!(a.handle(&forged), Err(OUT_OF_ORDER));
}

#[test]
fn a_responder_says_nothing_to_strangers() {
    let mut b = Session::responder(&Arc::new(config(2)), &Entropy::System);
    assert_eq!(b.poll_transmit(), None);
    assert_eq!(b.handle(b"GET / HTTP/1.1\r\n\r\n"), Err(Refusal::NotWeft));
    assert_eq!(b.poll_transmit(), None);
}

#[test]
fn an_unknown_peer_cannot_make_us_keep_much() {
    let (mut a, mut b) = pair(&config(1), &config(2));
    step(&mut a, &mut b).unwrap();
    assert_eq!(b.handle(&[3, 0xff, 0xff]), Err(Refusal::Malformed("record")), "a sealed record, too early");
    let (mut a, mut b) = pair(&config(1), &config(2));
    step(&mut a, &mut b).unwrap();
    assert_eq!(b.handle(&[1, 0xff, 0xff]), Err(Refusal::TooLarge));
}

#[test]
fn a_hello_has_a_bound() {
    let full = ControlConfig { hello: vec![7; HELLO_MAX], ..config(1) };
    let (mut a, mut b) = pair(&full, &full_of(2));
    assert_eq!(run(&mut a, &mut b), (Ok(()), Ok(())));
    let (mut a, mut b) = pair(&ControlConfig { hello: vec![7; HELLO_MAX + 1], ..config(1) }, &config(2));
    assert_eq!(run(&mut a, &mut b), (Err(Refusal::TooLarge), Err(Refusal::RefusedByPeer(RefusalCode::TooLarge))));
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let (mut a, mut b) = pair(&config(1), &config(2));
    for turn in 0..6 {
        let (from, to) = if turn % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        for byte in from.poll_transmit().unwrap_or_default() {
            to.handle(&[byte]).unwrap();
        }
    }
    assert!(a.is_established() && b.is_established());
}

#[test]
fn seeds_decide_every_byte() {
    let transcript = |seed| {
        let (mut a, mut b) = pair_seeded(&config(1), &config(2), seed);
        let mut bytes = Vec::new();
        for turn in 0..4 {
            let (from, to) = if turn % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let flight = from.poll_transmit().unwrap();
            to.handle(&flight).unwrap();
            bytes.extend(flight);
        }
        bytes
    };
    assert_eq!(transcript(1), transcript(1));
    assert_ne!(transcript(1), transcript(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Every flipped bit is noticed by one side at least, and neither reports what was not said.
    #[test]
    fn a_flipped_bit_never_establishes_both(flight in 0..6_usize, at: prop::sample::Index, bit in 0..8_u32) {
        let (mut a, mut b) = pair(&config(1), &config(2));
        let mut failed = false;
        for turn in 0..6 {
            let (from, to) = if turn % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let mut bytes = from.poll_transmit().unwrap_or_default();
            if turn == flight && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            failed |= to.handle(&bytes).is_err();
        }
        let both = a.is_established() && b.is_established();
        prop_assert!(!both || flight > 3, "only the first four flights have bytes");
        prop_assert!(flight > 3 || failed || !a.is_established());
    }
}

#[test]
fn any_bytes_are_taken_by_either_side_without_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let entropy = Entropy::seeded([1; 32]);
        let (ours, theirs) = (Arc::new(config(1)), Arc::new(config(2)));
        for start in [&[][..], &Session::initiator(&theirs, &entropy).output] {
            for mut session in [Session::initiator(&ours, &entropy), Session::responder(&ours, &entropy)] {
                let _ = session.handle(&[start, bytes].concat());
                assert!(!session.is_established() && session.poll_event().is_none());
            }
        }
    });
}

#[test]
fn any_sealed_bytes_are_taken_without_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let (mut a, mut b) = established();
        let (Some((&kind, content)), State::Open(channel)) = (bytes.split_first(), &mut a.state) else { return };
        channel.seal(kind % 6, content, &mut a.output);
        let (_, heard) = run(&mut a, &mut b);
        assert_eq!(b.is_established(), heard.is_ok());
        assert!(b.poll_event().is_none_or(|event| event == SessionEvent::Message(content.to_vec())));
    });
}

fn config(number: u8) -> ControlConfig {
    ControlConfig {
        identity: Identity::from_secret(Zeroizing::new([number; 32])),
        secret: secret("weft"),
        network: NetworkName::default(),
        uid: Uid(number.into()),
        versions: Versions::SPOKEN,
        capabilities: 5,
        hello: vec![number; 10],
    }
}

fn full_of(number: u8) -> ControlConfig {
    ControlConfig { hello: vec![number; HELLO_MAX], ..config(number) }
}

/// A secret of the default network that costs no stretching.
fn secret(seed: &str) -> NetworkSecret {
    let seed = std::array::from_fn(|i| seed.as_bytes().get(i).copied().unwrap_or(0));
    let text = crate::secret::generate(&Entropy::seeded(seed));
    NetworkSecret::from_text(&text, &NetworkName::default(), false).unwrap()
}

fn pair(a: &ControlConfig, b: &ControlConfig) -> (Session, Session) {
    pair_seeded(a, b, 1)
}

fn pair_seeded(a: &ControlConfig, b: &ControlConfig, seed: u8) -> (Session, Session) {
    let entropy = Entropy::seeded([seed; 32]);
    (Session::initiator(&Arc::new(a.clone()), &entropy), Session::responder(&Arc::new(b.clone()), &entropy))
}

fn established() -> (Session, Session) {
    let (mut a, mut b) = pair(&config(1), &config(2));
    assert_eq!(run(&mut a, &mut b), (Ok(()), Ok(())));
    for session in [&mut a, &mut b] {
        assert!(matches!(session.poll_event(), Some(SessionEvent::Established { .. })));
    }
    (a, b)
}

fn step(from: &mut Session, to: &mut Session) -> Result<(), Refusal> {
    from.poll_transmit().map_or(Ok(()), |bytes| to.handle(&bytes))
}

/// Carries bytes until both are quiet; the first error of each.
fn run(a: &mut Session, b: &mut Session) -> (Result<(), Refusal>, Result<(), Refusal>) {
    let (mut at_a, mut at_b) = (Ok(()), Ok(()));
    while !a.output.is_empty() || !b.output.is_empty() {
        let heard = step(a, b);
        at_b = at_b.and(heard);
        let heard = step(b, a);
        at_a = at_a.and(heard);
    }
    (at_a, at_b)
}
