//! Addresses that the network gives out, as people read of them.

use super::{Align, Cell, Table, Tone, or_dash, share, who};
use crate::api::{
    AddressExplanation,
    allocation::{AddressStatus, PeerLabel},
};

/// `weft status ipam`: a summary, and if there is something to list, who may give out how much, and who has what here.
pub fn ipam(status: &AddressStatus) -> Vec<Table> {
    let mut tables = vec![overview(status)];
    if !status.peers.is_empty() {
        tables.push(shares(status));
    }
    if !status.owners.is_empty() {
        tables.push(owners(status));
    }
    tables
}

/// `weft explain ip`.
pub fn explanation(explanation: &AddressExplanation) -> Table {
    let AddressExplanation { address, range, space_of, owner, stations } = explanation;
    let given = match (owner, range) {
        (Some(owner), _) => Cell::toned(Tone::Good, format_args!("by this router, to {owner}")),
        (None, Some(_)) => Cell::plain("not by this router"),
        (None, None) => Cell::plain("not by the network: it is in no range"),
    };
    let space = match (space_of, range) {
        (Some(peer), _) => Cell::plain(peer),
        (None, Some(_)) => Cell::toned(Tone::Warn, "nobody that this router knows of"),
        (None, None) => Cell::plain("-"),
    };
    let mut lines = vec![
        ("Address", Cell::plain(address)),
        ("Range", Cell::plain(or_dash(*range))),
        ("SpaceOf", space),
        ("GivenOut", given),
    ];
    lines.extend(stations.iter().map(|station| {
        let at = who(station.name, station.nickname.as_ref());
        ("UsedBy", Cell::plain(format_args!("{} at {at}", station.mac)))
    }));
    if stations.is_empty() {
        lines.push(("UsedBy", Cell::plain("no station that was seen")));
    }
    Table::labelled(lines)
}

/// The line of `weft status`.
pub(super) fn line(status: &AddressStatus) -> Cell {
    let given: usize = status.owners.iter().map(|owner| owner.addresses.len()).sum();
    let ranges = listed(&status.ranges);
    match status.state.as_str() {
        "off" | "" => Cell::plain("off"),
        state => Cell::toned(tone(state), format_args!("{state}, {given} given out here, of {ranges}")),
    }
}

fn overview(status: &AddressStatus) -> Table {
    let given: usize = status.owners.iter().map(|owner| owner.addresses.len()).sum();
    let mut lines = vec![("State", Cell::toned(tone(&status.state), &status.state))];
    if !status.info.is_empty() {
        lines.push(("Info", Cell::plain(&status.info)));
    }
    lines.push(("Range", Cell::plain(listed(&status.ranges))));
    lines.push(("DefaultSubnet", Cell::plain(listed(&status.default_subnets))));
    lines.push(("GivenOutHere", Cell::plain(given)));
    lines.extend(status.conflicts.iter().map(|conflict| ("Conflict", Cell::toned(Tone::Bad, conflict))));
    Table::labelled(lines)
}

fn shares(status: &AddressStatus) -> Table {
    let mut table = Table::with_heads(&[
        ("PEER", Align::Left),
        ("RANGE", Align::Left),
        ("ADDRESSES", Align::Right),
        ("SHARE", Align::Right),
        ("RANGES", Align::Right),
        ("STATE", Align::Left),
    ]);
    table.rows.extend(status.peers.iter().map(|line| {
        let PeerLabel { name, nickname } = &line.peer;
        vec![
            Cell::plain(who(*name, nickname.as_ref())),
            Cell::plain(line.range),
            Cell::plain(line.addresses),
            Cell::plain(share(line.share)),
            Cell::plain(line.ranges),
            if line.reachable { Cell::toned(Tone::Good, "reachable") } else { Cell::toned(Tone::Bad, "unreachable") },
        ]
    }));
    table
}

fn owners(status: &AddressStatus) -> Table {
    let mut table = Table::with_heads(&[("OWNER", Align::Left), ("ADDRESSES", Align::Left)]);
    table.rows.extend(
        status.owners.iter().map(|owner| vec![Cell::plain(&owner.owner), Cell::plain(listed(&owner.addresses))]),
    );
    table
}

fn listed(nets: &[ipnet::IpNet]) -> String {
    let words: Vec<_> = nets.iter().map(ToString::to_string).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

fn tone(state: &str) -> Tone {
    match state {
        "ready" => Tone::Good,
        "conflict" | "unconfirmed" | "unstored" => Tone::Bad,
        "electing" | "waiting" => Tone::Warn,
        _ => Tone::Plain,
    }
}
