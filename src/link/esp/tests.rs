use zeroize::Zeroizing;

use super::*;

const A: Ends = Ends {
    own: PeerName([2, 0, 0, 0, 0, 1]),
    peer: PeerName([2, 0, 0, 0, 0, 2]),
    own_address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    peer_address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    encap: None,
};
const B: Ends =
    Ends { own: A.peer, peer: A.own, own_address: A.peer_address, peer_address: A.own_address, encap: None };

/// Two ends whose messages arrive at once and whose kernels do as asked.
struct Pair {
    a: Esp,
    b: Esp,
    entropy: Entropy,
    session: u32,
    key: Key,
    now: Time,
}

impl Pair {
    fn new() -> Self {
        let entropy = Entropy::seeded([3; 32]);
        Self {
            a: Esp::default(),
            b: Esp::default(),
            entropy,
            session: 7,
            key: Zeroizing::new([7; 32]),
            now: Time::ZERO,
        }
    }

    fn rekey(&mut self) {
        self.session += 1;
        self.key = Zeroizing::new([u8::try_from(self.session).unwrap(); 32]);
    }

    /// A makes a set and B takes it, and the other way round.
    fn exchange(&mut self) {
        // Indices differ at the two ends.
        let at_a = Source { local: self.session, remote: self.session + 100, exporter: &self.key };
        let at_b = Source { local: self.session + 100, remote: self.session, exporter: &self.key };
        one_way(&mut self.a, &mut self.b, (at_a, A), (at_b, B), self.now, &self.entropy);
        one_way(&mut self.b, &mut self.a, (at_b, B), (at_a, A), self.now, &self.entropy);
    }
}

fn one_way(
    receiver: &mut Esp,
    sender: &mut Esp,
    (at_receiver, receiver_ends): (Source<'_>, Ends),
    (at_sender, sender_ends): (Source<'_>, Ends),
    now: Time,
    entropy: &Entropy,
) {
    assert!(receiver.renew(at_receiver, receiver_ends, 2, now, entropy));
    assert_eq!(receiver.poll_offer(now), None, "the kernel comes first");
    let spi = receiver.receiving.last().unwrap().set.spi;
    receiver.installed(spi, None, now);
    let offer = receiver.poll_offer(now).unwrap();
    assert_eq!((offer.session, offer.spi), (at_sender.remote, spi));
    assert!(sender.offered(offer, at_sender, sender_ends));
    assert!(!sender.offered(offer, at_sender, sender_ends), "a repeated offer changes nothing");
    assert!(!sender.seals_with(spi), "not before the kernel does");
    assert!(sender.sealing(spi, None, now) && sender.seals_with(spi));
    receiver.taken(spi, now);
    assert_eq!(receiver.poll_offer(now + OFFER_INTERVAL), None);
}

#[test]
fn both_ends_have_the_same_keys_and_each_direction_its_own() {
    let mut pair = Pair::new();
    pair.exchange();
    let (a, b) = (pair.a.plan(), pair.b.plan());
    assert_eq!(a.send.as_ref(), b.receive.last());
    assert_eq!(b.send.as_ref(), a.receive.last());
    let keys: Vec<_> = [a.send.unwrap(), b.send.unwrap()].into_iter().flat_map(|set| set.keys).collect();
    assert_eq!(keys.len(), 4);
    assert!((0..4).all(|i| (0..i).all(|j| keys[i] != keys[j])), "no two lanes share a key");
    assert!(pair.a.is_ready() && pair.b.is_ready());
}

#[test]
fn keys_are_changed_while_the_old_ones_still_receive() {
    let mut pair = Pair::new();
    pair.exchange();
    let first = pair.a.plan();
    pair.rekey();
    pair.exchange();
    let second = pair.a.plan();
    assert_ne!(first.send, second.send);
    assert_eq!(second.send_before, first.send);
    assert_eq!(second.receive.len(), 2);
    assert!(pair.a.handle_timeout(pair.now + SEAL_ON));
    assert_eq!(pair.a.plan().send_before, None);
    assert!(!pair.a.handle_timeout(pair.now + RECEIVE_ON - Duration::from_secs(1)));
    assert!(pair.a.handle_timeout(pair.now + RECEIVE_ON));
    assert_eq!(pair.a.plan().receive, second.receive[1..]);
    assert_eq!(pair.a.deadline(), None);
}

#[test]
fn a_set_that_the_kernel_refuses_is_replaced_by_another_spi_a_few_times() {
    let mut pair = Pair::new();
    let source = Source { local: 1, remote: 2, exporter: &pair.key };
    let mut spis = Vec::new();
    while pair.a.renew(source, A, 1, pair.now, &pair.entropy) {
        let spi = pair.a.receiving.last().unwrap().set.spi;
        assert!(spi > 255 && spi.is_multiple_of(u32::from(LANES_MAX)));
        assert!(pair.a.installed(spi, Some("SPI in use"), pair.now));
        spis.push(spi);
    }
    assert_eq!(spis.len(), TRIES_MAX as usize);
    assert_eq!(pair.a.refused(), Some("SPI in use"));
}

#[test]
fn an_offer_is_repeated_until_it_is_taken() {
    let mut pair = Pair::new();
    let source = Source { local: 1, remote: 2, exporter: &pair.key };
    pair.a.renew(source, A, 1, pair.now, &pair.entropy);
    pair.a.installed(pair.a.receiving[0].set.spi, None, pair.now);
    assert!(pair.a.poll_offer(pair.now).is_some());
    assert_eq!(pair.a.poll_offer(pair.now), None);
    assert!(pair.a.poll_offer(pair.a.deadline().unwrap()).is_some());
}

#[test]
fn another_address_gets_other_keys() {
    let mut pair = Pair::new();
    pair.exchange();
    let before = pair.a.plan();
    let moved = Ends { own_address: "10.9.9.9".parse().unwrap(), ..A };
    let source = Source { local: pair.session, remote: pair.session + 100, exporter: &pair.key };
    assert!(pair.a.renew(source, moved, 2, pair.now, &pair.entropy));
    let after = pair.a.plan();
    assert_eq!(after.receive.len(), 1);
    assert_ne!(after.receive[0].keys, before.receive[0].keys);
    assert_eq!(after.send, before.send);
    let gone = Ends { peer_address: "10.8.8.8".parse().unwrap(), ..moved };
    pair.a.renew(source, gone, 2, pair.now, &pair.entropy);
    assert_eq!(pair.a.plan().send, None, "what was sealed with is never installed for another address");
}

#[test]
fn what_the_kernel_lost_is_not_sealed_with_again() {
    let mut pair = Pair::new();
    pair.exchange();
    let spi = pair.a.sending().unwrap();
    assert!(pair.a.lost(spi) && !pair.a.is_ready());
    assert!(!pair.a.lost(spi));
}

#[test]
fn nothing_is_ready_before_the_kernel_seals_and_the_old_keys_serve_until_it_does() {
    let mut pair = Pair::new();
    pair.exchange();
    let first = pair.a.sending().unwrap();
    let source = Source { local: 20, remote: 21, exporter: &pair.key };
    let offer = |spi| Offer { session: 21, spi, lanes: 1, in_udp: false };
    assert!(pair.a.offered(offer(0x1000), source, A));
    assert!(pair.a.is_ready(), "by the keys before");
    assert!(!pair.a.handle_timeout(pair.now + SEAL_ON * 9), "which stay");
    // Another comes before the kernel has had that one.
    assert!(pair.a.offered(offer(0x2000), source, A));
    assert_eq!(pair.a.plan().send_before.unwrap().spi, first);
    assert!(!pair.a.sealing(0x1000, None, pair.now), "an answer that comes late");
    assert!(!pair.a.sealing(0x2000, Some("no memory"), pair.now) && pair.a.refused() == Some("no memory"));
    assert!(pair.a.sealing(0x2000, None, pair.now) && pair.a.refused().is_none());
    assert!(pair.a.handle_timeout(pair.now + SEAL_ON));

    let mut new = Esp::default();
    assert!(new.offered(offer(0x1000), source, A));
    assert!(!new.is_sealing());
    assert!(new.sealing(0x1000, None, pair.now) && new.is_sealing());
}

/// B is behind a NAT, which A sees at another address.
fn across_nat(port: u16) -> (Ends, Ends) {
    let [inner, outer] = [[192, 168, 0, 2], [10, 0, 0, 9]].map(IpAddr::from);
    let at = SocketAddr::new;
    let seen = EncapEnds { ours: at(inner, 6785), theirs: at(A.own_address, 6785), seen: at(outer, port) };
    let sees = EncapEnds { ours: seen.theirs, theirs: seen.seen, seen: seen.theirs };
    let a = Ends { peer_address: outer, encap: Some(sees), ..A };
    (a, Ends { own_address: inner, encap: Some(seen), ..B })
}

#[test]
fn across_a_nat_each_end_has_the_same_keys_by_the_addresses_that_it_sees() {
    let pair = Pair::new();
    let (mut at_a, mut at_b) = (Esp::default(), Esp::default());
    let (a, b) = across_nat(6785);
    let source = Source { local: 1, remote: 1, exporter: &pair.key };
    one_way(&mut at_b, &mut at_a, (source, b), (source, a), pair.now, &pair.entropy);
    let (sends, receives) = (at_a.plan().send.unwrap(), at_b.plan().receive.pop().unwrap());
    assert_eq!((sends.spi, &sends.keys), (receives.spi, &receives.keys));
    assert_eq!((sends.destination, receives.destination), (a.peer_address, b.own_address));
    assert_eq!(sends.encap, Some((a.encap.unwrap().ours, a.encap.unwrap().theirs)));

    // The NAT gives B another port. A seals with nothing that leads to the old one, and gets new keys from B.
    let (a, b) = across_nat(40_000);
    one_way(&mut at_a, &mut at_b, (source, a), (source, b), pair.now, &pair.entropy);
    assert_eq!(at_a.plan().send, None);
    one_way(&mut at_b, &mut at_a, (source, b), (source, a), pair.now, &pair.entropy);
    assert_ne!(at_a.plan().send.unwrap().keys, sends.keys);
    assert_eq!(at_b.plan().receive.len(), 2, "what is on its way is still opened");
    assert!(at_b.handle_timeout(pair.now + RECEIVE_ON));
    assert_eq!(at_b.plan().receive.len(), 1);
}

#[test]
fn a_nat_that_only_one_end_has_noticed_makes_no_keys() {
    let pair = Pair::new();
    let source = Source { local: 1, remote: 1, exporter: &pair.key };
    let plain = Offer { session: 1, spi: 0x1000, lanes: 1, in_udp: false };
    let (_, b) = across_nat(6785);
    let mut esp = Esp::default();
    assert!(!esp.offered(plain, source, b) && !esp.offered(Offer { in_udp: true, ..plain }, source, A));
    assert!(esp.offered(plain, source, A));
}
