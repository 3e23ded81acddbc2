//! Why frames go to a peer the way they do, as people read of it.

use super::{Align, Cell, Table, Tone, micros, or_dash, paths, share, span};
use crate::api::path::{Losses, Method, PathChange, PeerExplanation, Way};

/// `weft explain PEER`, as of `now` in Unix seconds: the path, the ways there, the methods of the direct link, the latest changes.
pub fn peer(explanation: &PeerExplanation, now: u64) -> Vec<Table> {
    let PeerExplanation { path, cost_us, ways: _, methods, nat, changes, better } = explanation;
    let mut lines = vec![("Cost", Cell::plain(or_dash(cost_us.map(micros)))), ("NAT", Cell::plain(nat))];
    if better.is_empty() {
        lines.push(("Better", Cell::toned(Tone::Good, "nothing better is known")));
    }
    lines.extend(better.iter().map(|better| ("Better", Cell::toned(Tone::Warn, better))));
    let mut tables = vec![paths(std::slice::from_ref(path), now), Table::labelled(lines)];
    if !explanation.ways.is_empty() {
        tables.push(ways(&explanation.ways));
    }
    if !methods.is_empty() {
        tables.push(method_lines(methods));
    }
    if !changes.is_empty() {
        tables.push(change_lines(changes, now));
    }
    tables
}

fn ways(ways: &[Way]) -> Table {
    let mut table = Table::with_heads(&[
        ("WAY", Align::Left),
        ("VIA", Align::Left),
        ("COST", Align::Right),
        ("RTT", Align::Right),
        ("JITTER", Align::Right),
        ("LOSS", Align::Right),
        ("RELAYS", Align::Left),
        ("", Align::Left),
    ]);
    table.rows.extend(ways.iter().map(|way| {
        let relays: Vec<_> = way.relays.iter().map(ToString::to_string).collect();
        vec![
            Cell::plain(&way.path),
            Cell::plain(or_dash((!relays.is_empty()).then(|| relays.join(" ")))),
            Cell::plain(micros(way.cost_us)),
            Cell::plain(or_dash(way.rtt_us.map(micros))),
            Cell::plain(or_dash(way.jitter_us.map(micros))),
            Cell::plain(or_dash(way.loss.map(share))),
            Cell::plain(or_dash(way.relaying.as_deref())),
            if way.in_use { Cell::toned(Tone::Good, "in use") } else { Cell::plain("") },
        ]
    }));
    table
}

fn method_lines(methods: &[Method]) -> Table {
    let mut table = Table::with_heads(&[
        ("METHOD", Align::Left),
        ("STATE", Align::Left),
        ("ADDRESS", Align::Left),
        ("RTT", Align::Right),
        ("JITTER", Align::Right),
        ("LOSS", Align::Right),
        ("THERE / BACK", Align::Left),
        ("INFO", Align::Left),
    ]);
    table.rows.extend(methods.iter().map(|method| {
        let tone = match method.state.as_str() {
            "carries" => Tone::Good,
            "down" => Tone::Warn,
            _ => Tone::Plain,
        };
        vec![
            Cell::plain(&method.method),
            Cell::toned(tone, &method.state),
            Cell::plain(or_dash(method.address.as_deref())),
            Cell::plain(or_dash(method.rtt_us.map(micros))),
            Cell::plain(or_dash(method.jitter_us.map(micros))),
            Cell::plain(or_dash(method.loss.map(share))),
            Cell::plain(or_dash(method.losses.as_ref().map(losses))),
            Cell::plain(&method.info),
        ]
    }));
    table
}

fn losses(Losses { there, back, of }: &Losses) -> String {
    format!("{} / {} of {of}", share(*there), share(*back))
}

fn change_lines(changes: &[PathChange], now: u64) -> Table {
    let mut table = Table::with_heads(&[
        ("AGO", Align::Right),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("REASON", Align::Left),
    ]);
    // The newest first.
    table.rows.extend(changes.iter().rev().map(|change| {
        vec![
            Cell::plain(span(now.saturating_sub(change.at))),
            Cell::plain(&change.from),
            Cell::plain(&change.to),
            Cell::plain(&change.reason),
        ]
    }));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Path, allocation::PeerLabel},
        id::PeerName,
    };

    #[test]
    fn why_frames_go_as_they_do_is_told_in_tables() {
        let (relay, reason) = (PeerName([0x7e, 0, 0, 0, 0, 2]), "the path before got worse".to_owned());
        let label = PeerLabel { name: relay, nickname: Some("B".parse().unwrap()) };
        let way = |relays: Vec<PeerLabel>, cost_us, loss| Way {
            relaying: (!relays.is_empty()).then(|| "busy".to_owned()),
            path: if relays.is_empty() { "direct" } else { "relay" }.to_owned(),
            in_use: !relays.is_empty(),
            relays,
            cost_us,
            rtt_us: Some(1000),
            jitter_us: Some(100),
            loss: Some(loss),
        };
        let explanation = PeerExplanation {
            path: Path {
                name: PeerName([0x7e, 0, 0, 0, 0, 3]),
                nickname: Some("C".parse().unwrap()),
                path: "relay".to_owned(),
                relays: vec![relay],
                further: Vec::new(),
                method: "sleeve".to_owned(),
                rtt_us: Some(2100),
                loss: None,
                losses: None,
                mtu: Some(1340),
                since: 88,
                reason: reason.clone(),
            },
            cost_us: Some(12_100),
            ways: vec![way(vec![label], 12_100, 0.0), way(Vec::new(), 71_000, 0.041)],
            methods: vec![Method {
                method: "sleeve".to_owned(),
                state: "ready".to_owned(),
                address: Some("10.0.0.3:6783".to_owned()),
                rtt_us: Some(1000),
                jitter_us: None,
                loss: Some(0.055),
                losses: Some(Losses { there: 0.055, back: 0.0, of: "probes".to_owned() }),
                info: String::new(),
            }],
            nat: "none that shows".to_owned(),
            changes: vec![PathChange { at: 88, from: "direct".to_owned(), to: "by B".to_owned(), reason }],
            better: vec!["a better direct path".to_owned()],
        };
        let text: Vec<String> = peer(&explanation, 100).iter().map(ToString::to_string).collect();
        assert_eq!(
            text[1..].join("\n"),
            "   Cost: 12.1 ms
    NAT: none that shows
 Better: a better direct path

WAY     VIA                      COST     RTT  JITTER   LOSS  RELAYS
relay   7e:00:00:00:00:02(B)  12.1 ms  1.0 ms  100 µs    0 %  busy    in use
direct  -                     71.0 ms  1.0 ms  100 µs  4.1 %  -

METHOD  STATE  ADDRESS           RTT  JITTER   LOSS  THERE / BACK           INFO
sleeve  ready  10.0.0.3:6783  1.0 ms       -  5.5 %  5.5 % / 0 % of probes

 AGO  FROM    TO    REASON
12 s  direct  by B  the path before got worse
"
        );
        let best = PeerExplanation { better: Vec::new(), ways: Vec::new(), methods: Vec::new(), ..explanation };
        let text: Vec<String> = peer(&best, 100).iter().map(ToString::to_string).collect();
        assert!(text.len() == 3 && text[1].contains("nothing better is known"), "{text:?}");
    }
}
