use std::panic::AssertUnwindSafe;

use super::*;
use crate::{
    crypto::session::SessionContext,
    id::NetworkName,
    wire::sleeve::{HEADER_LEN, Header, TAG_LEN},
};

const STAMP: Stamp = Stamp { incarnation: 5, sequence: 9 };

#[test]
fn both_sides_get_the_same_sessions() {
    let (a, b) = (config(1), config(2));
    let (mut initiation, packet) = dial(&a, &b, b"from a");
    assert_eq!((packet[..4].to_vec(), sender_index(&packet)), (vec![1, 1, 0, 0], Some(10)));
    let accept = |peer: &PublicKey, stamp| *peer == a.identity.public() && stamp == STAMP;
    let (at_b, response) = respond(&b, &packet, 20, accept, b"from b", &Entropy::System).unwrap();
    assert_eq!((sender_index(&response), receiver_index(&response)), (None, Some(10)));
    assert_eq!(response[..8], [2, 1, 0, 0, 20, 0, 0, 0]);
    let at_a = initiation.finish(&a, &response).unwrap();
    assert_eq!((at_a.peer, at_a.remote_index, &at_a.payload[..]), (b.identity.public(), 20, &b"from b"[..]));
    assert_eq!((at_b.peer, at_b.remote_index, &at_b.payload[..]), (a.identity.public(), 10, &b"from a"[..]));
    let (at_a, at_b) = (at_a.keys.into_sessions(10, 20), at_b.keys.into_sessions(20, 10));
    assert_eq!(at_a.exporter, at_b.exporter);
    for (from, to) in [(&at_a.data, &at_b.data), (&at_b.data, &at_a.data)] {
        assert!(carries(from, to));
    }
    for (from, to) in [(&at_a.control, &at_b.control), (&at_b.control, &at_a.control)] {
        assert!(carries(from, to));
    }
}

#[test]
fn every_use_has_a_key_of_its_own() {
    let (a, b) = (config(1), config(2));
    let (mut initiation, packet) = dial(&a, &b, b"");
    let (at_b, response) = answer(&b, &packet).unwrap();
    let at_a = initiation.finish(&a, &response).unwrap().keys.into_sessions(10, 20);
    let at_b = at_b.keys.into_sessions(20, 10);
    assert!(!carries(&at_a.data, &at_b.control) && !carries(&at_a.control, &at_b.data));
    assert!(!carries(&at_a.data, &at_a.data) && !carries(&at_a.control, &at_a.control), "each direction too");
}

#[test]
fn aes_is_used_only_where_both_prefer_it() {
    let (aes, chacha) = (Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305);
    for (ours, theirs, both) in
        [(aes, aes, aes), (aes, chacha, chacha), (chacha, aes, chacha), (chacha, chacha, chacha)]
    {
        let (a, b) = (LinkConfig { cipher: ours, ..config(1) }, LinkConfig { cipher: theirs, ..config(2) });
        let (mut initiation, packet) = dial(&a, &b, b"");
        let (at_b, response) = answer(&b, &packet).unwrap();
        let at_a = initiation.finish(&a, &response).unwrap();
        assert_eq!((at_a.cipher, at_b.cipher), (both, both));
        assert_eq!(at_a.keys.into_sessions(10, 20).data.cipher(), both);
    }
    assert_eq!(choose(aes, cipher_of(77)), chacha, "a cipher of later times");
}

#[test]
fn without_the_secret_no_link_comes_about() {
    let a = config(1);
    let b = LinkConfig { secret: NetworkSecret::open(&"other".parse().unwrap()), ..config(2) };
    let (mut initiation, packet) = dial(&a, &b, b"");
    let (_, response) = answer(&b, &packet).unwrap();
    assert_eq!(initiation.finish(&a, &response).unwrap_err(), HandshakeError::NotAuthentic);
}

#[test]
fn an_initiation_is_answered_only_by_its_addressee_and_if_accepted() {
    let (a, b) = (config(1), config(2));
    let (_, packet) = dial(&a, &b, b"");
    assert_eq!(answer(&config(3), &packet).unwrap_err(), HandshakeError::NotForUs);
    let refused = respond(&b, &packet, 20, |_, _| false, b"", &Entropy::System);
    assert_eq!(refused.unwrap_err(), HandshakeError::NotAccepted);
    assert_eq!(answer(&b, &[]).unwrap_err(), HandshakeError::Malformed);
}

#[test]
fn forged_responses_do_not_spoil_the_true_one() {
    let (a, b) = (config(1), config(2));
    let (mut initiation, packet) = dial(&a, &b, b"");
    let (_, response) = answer(&b, &packet).unwrap();
    for at in 0..response.len() - MACS_LEN {
        // An attacker who knows public keys can make mac1 fit, so forge that too.
        let mut forged = response[..response.len() - MACS_LEN].to_vec();
        forged[at] ^= 0x41;
        cookie::append_macs(&mut forged, &a.identity.public(), None);
        // The sender index is said again under seal, and only that counts: a change of it in clear is harmless.
        if !(4..8).contains(&at) {
            assert!(initiation.finish(&a, &forged).is_err(), "byte {at}");
        }
    }
    assert_eq!(initiation.finish(&a, &response).unwrap().remote_index, 20);
    assert!(initiation.finish(&a, &response).is_err(), "only once");
}

#[test]
fn a_changed_index_in_clear_does_not_mislead() {
    let (a, b) = (config(1), config(2));
    let (mut initiation, packet) = dial(&a, &b, b"");
    let (_, response) = answer(&b, &packet).unwrap();
    let mut forged = response[..response.len() - MACS_LEN].to_vec();
    forged[4] ^= 0xff;
    cookie::append_macs(&mut forged, &a.identity.public(), None);
    assert_eq!(initiation.finish(&a, &forged).unwrap().remote_index, 20);
}

#[test]
fn a_flipped_bit_in_an_initiation_is_noticed() {
    let (a, b) = (config(1), config(2));
    let (_, packet) = dial(&a, &b, b"payload");
    for bit in 0..(packet.len() - MAC_LEN) * 8 {
        let mut forged = packet.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(answer(&b, &forged).is_err(), "bit {bit}");
        let mut refitted = forged[..packet.len() - MACS_LEN].to_vec();
        if refitted[..] != packet[..packet.len() - MACS_LEN] {
            cookie::append_macs(&mut refitted, &b.identity.public(), None);
            assert!(answer(&b, &refitted).is_err(), "bit {bit} with a fitting mac1");
        }
    }
}

#[test]
fn keys_of_low_order_and_long_payloads_are_refused() {
    let entropy = Entropy::seeded([1; 32]);
    let start = |peer: &PublicKey, payload: &[u8]| {
        initiate(&config(1), peer, 10, STAMP, payload, None, &entropy).map(|_| ()).unwrap_err()
    };
    assert_eq!(start(&PublicKey([0; 32]), b""), HandshakeError::BadKey);
    let long = [0; PAYLOAD_MAX + 1];
    assert_eq!(start(&config(2).identity.public(), &long), HandshakeError::PayloadTooLong(PAYLOAD_MAX + 1));
    let (a, b) = (config(1), config(2));
    let (mut initiation, packet) = dial(&a, &b, &long[1..]);
    assert_eq!(packet.len(), PACKET_MAX);
    let (_, response) = respond(&b, &packet, 20, |_, _| true, &long[1..], &entropy).unwrap();
    assert_eq!(initiation.finish(&a, &response).unwrap().payload, &long[1..]);
}

#[test]
fn seeds_decide_every_byte() {
    let (a, b) = (config(1), config(2));
    let packets = |seed| {
        let entropy = Entropy::seeded([seed; 32]);
        let (_, packet) = initiate(&a, &b.identity.public(), 10, STAMP, b"", None, &entropy).unwrap();
        let (_, response) = respond(&b, &packet, 20, |_, _| true, b"", &entropy).unwrap();
        (packet, response)
    };
    assert_eq!(packets(1), packets(1));
    assert_ne!(packets(1), packets(2));
}

#[test]
fn any_bytes_are_taken_without_panic() {
    let (a, b) = (config(1), config(2));
    let (initiation, packet) = dial(&a, &b, b"");
    let (_, response) = answer(&b, &packet).unwrap();
    let initiation = AssertUnwindSafe(std::sync::Mutex::new(initiation));
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut initiation = initiation.lock().unwrap();
        for start in [&[][..], &packet[..INITIATION_START], &response[..RESPONSE_START]] {
            let mut packet = [start, bytes].concat();
            assert!(answer(&b, &packet).is_err() && initiation.finish(&a, &packet).is_err());
            // Past mac1 too.
            cookie::append_macs(&mut packet, &b.identity.public(), None);
            assert!(answer(&b, &packet).is_err());
            let mut packet = [start, bytes].concat();
            cookie::append_macs(&mut packet, &a.identity.public(), None);
            assert!(initiation.finish(&a, &packet).is_err());
        }
        for content in [bytes, &[&[1], bytes].concat()] {
            let (first, second) = (parse_initiation(content), parse_response(content));
            assert!(first.is_none_or(|(_, _, payload)| payload.len() + 17 == content.len()));
            assert!(second.is_none_or(|(_, _, payload)| payload.len() + 5 == content.len()));
        }
    });
}

fn config(number: u8) -> LinkConfig {
    LinkConfig {
        identity: Identity::from_secret(Zeroizing::new([number; 32])),
        secret: NetworkSecret::open(&NetworkName::default()),
        cipher: Cipher::Aes256Gcm,
    }
}

fn dial(from: &LinkConfig, to: &LinkConfig, payload: &[u8]) -> (Initiation, Vec<u8>) {
    initiate(from, &to.identity.public(), 10, STAMP, payload, None, &Entropy::System).unwrap()
}

fn answer(config: &LinkConfig, packet: &[u8]) -> Result<(Established, Vec<u8>), HandshakeError> {
    respond(config, packet, 20, |_, _| true, b"", &Entropy::System)
}

/// Whether what one session seals the other opens.
fn carries(from: &Session, to: &Session) -> bool {
    let mut packet = [&[0; HEADER_LEN][..], b"body", &[0; TAG_LEN]].concat();
    SessionContext::new(from).seal(from, &mut packet).unwrap();
    let header = Header::parse(&packet).unwrap();
    SessionContext::new(to).open(to, &header, &mut packet).is_ok_and(|body| body == b"body")
}
