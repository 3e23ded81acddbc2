use std::collections::BTreeSet;

use domain::{
    base::{MessageBuilder, message_builder::QuestionBuilder},
    rdata::AllRecordData,
};
use weft::names::NameRequest;

use super::*;

/// Names as a peer's table has them: of `name`, `addresses`.
pub(crate) fn table(names: &[(&str, &[&str])]) -> Table {
    let mut node = crate::control::tests::node();
    for (name, addresses) in names {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let add = NameRequest::Add { owner: "c1".parse().unwrap(), name: name.parse().unwrap(), addresses };
        node.handle(weft::node::input::Input::Names(add), weft::time::Time::ZERO);
    }
    node.handle(weft::node::input::Input::Timeout, weft::time::Time::ZERO + std::time::Duration::from_secs(1));
    let mut table = Table::default();
    while let Some(output) = node.poll_output() {
        if let weft::node::output::Output::Names(names) = output {
            table = names;
        }
    }
    table
}

fn zone(names: &[(&str, &[&str])]) -> Zone {
    Zone::new("weft.local".parse().unwrap(), 1, Arc::new(ArcSwap::from_pointee(table(names))))
}

fn usual() -> Zone {
    zone(&[
        ("web.weft.local", &["10.32.0.1", "10.32.0.2", "fd32::1"]),
        ("v4.weft.local", &["10.32.0.1"]),
        ("far.example.com", &["10.32.0.9"]),
    ])
}

fn question(name: &str, kind: Rtype) -> QuestionBuilder<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((Name::vec_from_str(name).unwrap(), kind)).unwrap();
    question
}

fn query(name: &str, kind: Rtype) -> Vec<u8> {
    question(name, kind).finish()
}

fn with_size(name: &str, kind: Rtype, size: u16) -> Vec<u8> {
    let mut additional = question(name, kind).additional();
    additional
        .opt(|opt| {
            opt.set_udp_payload_size(size);
            Ok(())
        })
        .unwrap();
    additional.finish()
}

fn ask(zone: &Zone, query: &[u8], transport: Transport) -> Message<Vec<u8>> {
    match zone.answer(query, transport, &Dice::new()) {
        Outcome::Answer(bytes) => Message::from_octets(bytes).unwrap(),
        other @ (Outcome::Forward(_) | Outcome::Ignore) => panic!("{other:?}"),
    }
}

fn answers(message: &Message<Vec<u8>>) -> Vec<String> {
    let records = message.answer().unwrap().limit_to::<AllRecordData<_, _>>();
    records.map(|record| record.unwrap().data().to_string()).collect()
}

fn told(zone: &Zone, name: &str, kind: Rtype) -> (Rcode, BTreeSet<String>) {
    let message = ask(zone, &query(name, kind), Transport::Udp);
    (message.header().rcode(), answers(&message).into_iter().collect())
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn is_foreign(zone: &Zone, name: &str, kind: Rtype) -> bool {
    matches!(zone.answer(&query(name, kind), Transport::Udp, &Dice::new()), Outcome::Forward(_))
}

#[test]
fn names_lead_to_their_addresses_whatever_the_case_and_without_the_domain() {
    let zone = usual();
    for name in ["web.weft.local", "WEB.Weft.LOCAL", "web", "Web"] {
        assert_eq!(told(&zone, name, Rtype::A), (Rcode::NOERROR, set(&["10.32.0.1", "10.32.0.2"])), "{name}");
        assert_eq!(told(&zone, name, Rtype::AAAA), (Rcode::NOERROR, set(&["fd32::1"])), "{name}");
        assert_eq!(told(&zone, name, Rtype::ANY).1.len(), 3, "{name}");
    }
    let message = ask(&zone, &query("web.weft.local", Rtype::A), Transport::Udp);
    let header = message.header();
    assert_eq!((header.id(), header.qr(), header.aa(), header.ra(), header.rd()), (0x1234, true, true, true, true));
    assert!(!header.tc() && message.opt().is_none());
    assert_eq!(message.sole_question().unwrap().qtype(), Rtype::A);
    let record = message.answer().unwrap().limit_to::<A>().next().unwrap().unwrap();
    assert_eq!((record.ttl().as_secs(), record.owner().to_string()), (1, "web.weft.local".to_owned()));
}

#[test]
fn what_a_name_does_not_have_is_an_empty_answer_and_what_is_not_there_is_no_name() {
    let zone = usual();
    for (name, kind) in [("web.weft.local", Rtype::MX), ("v4.weft.local", Rtype::AAAA), ("weft.local", Rtype::A)] {
        let message = ask(&zone, &query(name, kind), Transport::Udp);
        assert_eq!((message.header().rcode(), answers(&message).len()), (Rcode::NOERROR, 0), "{name}");
        let soa = message.authority().unwrap().limit_to::<Soa<_>>().next().unwrap().unwrap();
        assert_eq!((soa.owner().to_string(), soa.data().minimum().as_secs()), ("weft.local".to_owned(), 1));
    }
    for name in ["nobody.weft.local", "a.web.weft.local", "nobody", "far.example.com.weft.local", "a\\.b.weft.local"] {
        let message = ask(&zone, &query(name, Rtype::A), Transport::Udp);
        assert_eq!((message.header().rcode(), answers(&message).len()), (Rcode::NXDOMAIN, 0), "{name}");
        let is_ours = name.ends_with("weft.local");
        assert_eq!(message.authority().unwrap().next().is_some(), is_ours, "{name}");
    }
    assert_eq!(told(&zone, "weft.local", Rtype::SOA).1.len(), 1);
    // A dot within a label does not make it two.
    assert!(is_foreign(&zone, "web\\.weft.local", Rtype::A));
}

#[test]
fn addresses_lead_back_to_their_names_of_the_domain() {
    let zone = usual();
    for name in ["1.0.32.10.in-addr.arpa", "1.0.32.10.IN-ADDR.ARPA"] {
        assert_eq!(
            told(&zone, name, Rtype::PTR),
            (Rcode::NOERROR, set(&["web.weft.local.", "v4.weft.local."])),
            "{name}"
        );
    }
    let v6 = format!("1.{}2.3.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(told(&zone, &v6, Rtype::PTR), (Rcode::NOERROR, set(&["web.weft.local."])));
    assert_eq!(told(&zone, "2.0.32.10.in-addr.arpa", Rtype::MX), (Rcode::NOERROR, set(&[])));
    for foreign in [
        "9.0.32.10.in-addr.arpa",
        "8.8.8.8.in-addr.arpa",
        "32.10.in-addr.arpa",
        "256.0.32.10.in-addr.arpa",
        "01.0.32.10.in-addr.arpa",
        "x.1.0.32.10.in-addr.arpa",
        "1.0.ip6.arpa",
    ] {
        assert!(is_foreign(&zone, foreign, Rtype::PTR), "{foreign}");
    }
}

#[test]
fn all_other_names_are_for_others() {
    let zone = usual();
    for name in ["example.com", "far.example.com", "local", "aweft.local", "weft.local.example", "."] {
        assert!(is_foreign(&zone, name, if name == "local" { Rtype::NS } else { Rtype::A }), "{name}");
    }
    assert!(is_foreign(&zone, "com", Rtype::DS), "what validating resolvers ask");
}

#[test]
fn answers_come_in_any_order() {
    let zone = usual();
    let first = || answers(&ask(&zone, &query("web", Rtype::A), Transport::Udp))[0].clone();
    let firsts: BTreeSet<_> = (0..200).map(|_| first()).collect();
    assert_eq!(firsts, set(&["10.32.0.1", "10.32.0.2"]));
}

#[test]
fn large_answers_are_cut_to_what_the_client_takes_and_whole_by_tcp() {
    let many: Vec<String> = (1..=50).map(|i| format!("10.32.1.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let zone = zone(&[("many.weft.local", &many)]);
    let bare = ask(&zone, &query("many.weft.local", Rtype::A), Transport::Udp);
    assert!(
        bare.header().tc() && bare.as_slice().len() <= 512 && answers(&bare).len() > 20,
        "{}",
        answers(&bare).len()
    );
    for (size, limit, is_cut) in [(100, 512, true), (700, 700, true), (1232, 1232, false), (u16::MAX, 1232, false)] {
        let message = ask(&zone, &with_size("many.weft.local", Rtype::A, size), Transport::Udp);
        assert!(message.as_slice().len() <= limit, "{size}: {}", message.as_slice().len());
        assert_eq!((message.header().tc(), answers(&message).len() == 50), (is_cut, !is_cut), "{size}");
        assert_eq!(message.opt().unwrap().udp_payload_size(), 1232, "{size}");
    }
    let whole = ask(&zone, &query("many.weft.local", Rtype::A), Transport::Tcp);
    assert_eq!((whole.header().tc(), answers(&whole).len()), (false, 50));
}

#[test]
fn what_is_no_query_for_names_is_refused_or_ignored() {
    let zone = usual();
    let code = |bytes: &[u8]| ask(&zone, bytes, Transport::Udp).opt_rcode();
    let good = query("web", Rtype::A);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(code(&with(2, 0x28)), OptRcode::NOTIMP, "an update");
    assert_eq!(code(&with(5, 0)), OptRcode::FORMERR, "no question");
    assert_eq!(code(&with(5, 2)), OptRcode::FORMERR, "two questions");
    assert_eq!(code(&good[..good.len() - 3]), OptRcode::FORMERR, "half a question");
    assert_eq!(code(&with(good.len() - 1, 3)), OptRcode::REFUSED, "class CH");
    assert_eq!(code(&query("weft.local", Rtype::AXFR)), OptRcode::REFUSED);
    let mut new = with_size("web", Rtype::A, 1232);
    let version = new.len() - 5;
    new[version] = 1;
    assert_eq!(code(&new), OptRcode::BADVERS);
    for bytes in [&good[..11], &[], &with(2, 0x80)] {
        assert_eq!(zone.answer(bytes, Transport::Udp, &Dice::new()), Outcome::Ignore);
    }
    assert_eq!(Message::from_octets(servfail(&good).unwrap()).unwrap().header().rcode(), Rcode::SERVFAIL);
}

#[test]
fn any_bytes_are_answered_within_bounds() {
    let (zone, dice) = (usual(), Dice::new());
    let seeds = [query("web.weft.local", Rtype::A), with_size("1.0.32.10.in-addr.arpa", Rtype::PTR, 600)];
    bolero::check!().for_each(|input: &[u8]| {
        let (kind, rest) = input.split_first().unwrap_or((&0, &[]));
        let bytes = match seeds.get(usize::from(*kind % 3)) {
            None => rest.to_vec(),
            // A query with some of its bytes changed.
            Some(seed) => {
                let mut bytes = seed.clone();
                for pair in rest.chunks_exact(2) {
                    let at = usize::from(pair[0]) % bytes.len();
                    bytes[at] = pair[1];
                }
                bytes
            }
        };
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Outcome::Answer(answer) = zone.answer(&bytes, transport, &dice) {
                let most = if transport == Transport::Udp { usize::from(UDP_MOST) } else { TCP_MOST };
                assert!(answer.len() <= most, "{}", answer.len());
                assert_eq!(answer[..2], bytes[..2], "the client's number");
            }
        }
        let _ = (truncated(&bytes), servfail(&bytes));
    });
}

#[test]
fn the_dice_are_not_the_same_each_time() {
    let numbers: BTreeSet<u16> = (0..100).map(|_| Dice::new().number()).collect();
    assert!(numbers.len() > 50, "{numbers:?}");
}
