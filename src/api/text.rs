//! Status as people read it: tables with aligned columns, made from the types of [`crate::api`].
//!
//! A table is pure: cells carry a [`Tone`], and who prints it may paint tones ([`Table::painted`]) or not
//! ([`std::fmt::Display`]). The daemon answers `GET /status…` with the plain form, the command line paints it.
//! A printed table ends with a newline. Control characters never come through, so that what a peer tells us cannot
//! move a terminal's cursor.

mod ipam;
mod path;
#[cfg(feature = "sim")]
mod simulation;

use std::fmt;

#[cfg(feature = "sim")]
pub use self::simulation::simulation;
pub use self::{
    ipam::{explanation, ipam},
    path::peer,
};
use super::{Connection, ConnectionState, Direction, DnsServer, Endpoint, NameLine, Path, Peer, Report, TargetStatus};
use crate::id::{Nickname, PeerName};

/// How a cell is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Just text.
    Plain,
    /// Column heads and labels.
    Label,
    /// As it should be.
    Good,
    /// Works, but look at it.
    Warn,
    /// Does not work.
    Bad,
}

/// Where text sits in its column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Align {
    Left,
    Right,
}

/// One field of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cell {
    text: String,
    tone: Tone,
}

/// Rows of cells, printed with aligned columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    columns: Vec<Align>,
    indent: usize,
    gap: usize,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// The table as text, each cell as `paint` makes it; `paint` must not change how wide it looks.
    pub fn painted(&self, paint: impl Fn(Tone, &str) -> String) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let mut blanks = self.indent;
            for (column, cell) in row.iter().enumerate() {
                let padding = self.width(column).saturating_sub(width_of(&cell.text));
                let before = if self.columns.get(column) == Some(&Align::Right) { padding } else { 0 };
                blanks += before;
                if !cell.text.is_empty() {
                    // Blanks are written when something follows them, so that no line ends with any.
                    text.extend(std::iter::repeat_n(' ', blanks));
                    text.push_str(&paint(cell.tone, &cell.text));
                    blanks = 0;
                }
                blanks += padding - before + self.gap;
            }
            text.push('\n');
        }
        text
    }

    fn with_heads(heads: &[(&str, Align)]) -> Self {
        let columns = heads.iter().map(|(_, align)| *align).collect();
        let row = heads.iter().map(|(head, _)| Cell::toned(Tone::Label, head)).collect();
        Self { columns, indent: 0, gap: 2, rows: vec![row] }
    }

    /// One label and value a line, the colons in one column.
    fn labelled(lines: impl IntoIterator<Item = (&'static str, Cell)>) -> Self {
        let label = |name: &str| {
            if name.is_empty() { Cell::plain("") } else { Cell::toned(Tone::Label, format_args!("{name}:")) }
        };
        let rows = lines.into_iter().map(|(name, value)| vec![label(name), value]).collect();
        Self { columns: vec![Align::Right, Align::Left], indent: 1, gap: 1, rows }
    }

    fn width(&self, column: usize) -> usize {
        self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width_of(&cell.text)).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.painted(|_, text| text.to_owned()))
    }
}

impl Cell {
    fn toned(tone: Tone, text: impl fmt::Display) -> Self {
        let text = text.to_string().replace(char::is_control, "\u{fffd}");
        Self { text, tone }
    }

    fn plain(text: impl fmt::Display) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

/// `weft status`: one label and value a line.
pub fn summary(report: &Report) -> Table {
    let router = &report.router;
    let on_off = |on: bool| if on { "enabled" } else { "disabled" };
    let subnets = router.trusted_subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let limit = if router.conn_limit == 0 { "none".to_owned() } else { router.conn_limit.to_string() };
    let sealed = if router.encryption { Tone::Good } else { Tone::Warn };
    let lines = [
        ("Version", Cell::plain(&report.version)),
        ("", Cell::plain("")),
        ("Service", Cell::plain("router")),
        ("Protocol", Cell::plain(format_args!("weft {}..{}", router.protocol.0, router.protocol.1))),
        ("Name", Cell::plain(who(router.name, Some(&router.nickname)))),
        ("Network", Cell::plain(&router.network)),
        ("Port", Cell::plain(router.port)),
        ("Encryption", Cell::toned(sealed, on_off(router.encryption))),
        ("PeerDiscovery", Cell::plain(on_off(router.discovery))),
        ("Relaying", Cell::plain(&router.relaying)),
        ("Targets", Cell::plain(report.targets.len())),
        ("Connections", connections_counted(&report.connections)),
        ("ConnLimit", Cell::plain(limit)),
        ("Peers", peers_counted(&report.peers)),
        ("Endpoints", Cell::plain(report.endpoints.len())),
        ("TrustedSubnets", Cell::plain(if subnets.is_empty() { "none" } else { &subnets })),
        ("FastDatapath", Cell::plain(fast_datapath(router))),
        ("Addresses", ipam::line(&report.ipam)),
        ("Names", Cell::plain(report.names.len())),
        ("DNS", Cell::plain(dns(report.dns.as_ref()))),
        ("Uptime", Cell::plain(span(router.uptime_s))),
    ];
    Table::labelled(lines)
}

fn fast_datapath(router: &crate::api::Summary) -> String {
    match router.fastdp_info.as_str() {
        "" => router.fastdp.clone(),
        info => format!("{} ({info})", router.fastdp),
    }
}

/// `weft.local at 10.32.0.254`.
fn dns(server: Option<&DnsServer>) -> String {
    match server {
        None => "off".to_owned(),
        Some(DnsServer { domain, listening, .. }) if listening.is_empty() => {
            format!("{domain}, nowhere yet: `weft expose` gives this host an address to listen on")
        }
        Some(DnsServer { domain, listening, .. }) => {
            let places: Vec<_> = listening.iter().map(ToString::to_string).collect();
            format!("{domain} at {}", places.join(" "))
        }
    }
}

/// `weft status connections`.
pub fn connections(connections: &[Connection]) -> Table {
    let mut table = Table::with_heads(&[
        ("", Align::Left),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("ENCRYPTED", Align::Left),
        ("METHOD", Align::Left),
        ("PEER", Align::Left),
        ("MTU", Align::Right),
        ("RTT", Align::Right),
        ("INFO", Align::Left),
    ]);
    table.rows.extend(connections.iter().map(|connection| {
        let live = matches!(connection.state, ConnectionState::Established | ConnectionState::Pending);
        let (encrypted, sealed) = match (live, connection.encrypted) {
            (false, _) => ("-", Tone::Plain),
            (true, true) => ("yes", Tone::Good),
            (true, false) => ("no", Tone::Warn),
        };
        let peer = connection.name.map(|name| who(name, connection.nickname.as_ref()));
        vec![
            Cell::plain(match connection.direction {
                Direction::Outbound => "->",
                Direction::Inbound => "<-",
            }),
            Cell::plain(&connection.address),
            Cell::toned(tone_of(connection.state), word_of(connection.state)),
            Cell::toned(sealed, encrypted),
            Cell::plain(&connection.method),
            Cell::plain(or_dash(peer)),
            Cell::plain(or_dash(connection.mtu)),
            Cell::plain(or_dash(connection.rtt_us.map(micros))),
            Cell::plain(&connection.info),
        ]
    }));
    table
}

/// `weft status peers`: each peer, below it its links to others.
pub fn peers(peers: &[Peer]) -> Table {
    let mut table = Table::with_heads(&[
        ("PEER", Align::Left),
        ("LINK", Align::Left),
        ("RTT", Align::Right),
        ("ADDRESSES", Align::Left),
    ]);
    for peer in peers {
        table.rows.push(vec![
            Cell::plain(who(peer.name, Some(&peer.nickname))),
            Cell::plain(""),
            Cell::plain(""),
            Cell::plain(or_dash((!peer.addresses.is_empty()).then(|| peer.addresses.join(" ")))),
        ]);
        table.rows.extend(peer.connections.iter().map(|link| {
            vec![
                Cell::plain(format_args!("   {}", who(link.name, link.nickname.as_ref()))),
                if link.up { Cell::toned(Tone::Good, "up") } else { Cell::toned(Tone::Bad, "down") },
                Cell::plain(or_dash(link.rtt_us.map(micros))),
            ]
        }));
    }
    table
}

/// `weft status targets`.
pub fn targets(targets: &[TargetStatus]) -> Table {
    let mut table = Table::with_heads(&[
        ("TARGET", Align::Left),
        ("STATE", Align::Left),
        ("TRIES", Align::Right),
        ("RETRY", Align::Right),
        ("INFO", Align::Left),
    ]);
    table.rows.extend(targets.iter().map(|target| {
        let tone = match target.state.as_str() {
            "connected" => Tone::Good,
            "connecting" => Tone::Warn,
            _ => Tone::Bad,
        };
        vec![
            Cell::plain(&target.target),
            Cell::toned(tone, &target.state),
            Cell::plain(target.tries),
            Cell::plain(or_dash(target.retry_ms.map(|ms| micros(ms.saturating_mul(1_000))))),
            Cell::plain(&target.info),
        ]
    }));
    table
}

/// `weft status endpoints`.
pub fn endpoints(endpoints: &[Endpoint]) -> Table {
    let mut table = Table::with_heads(&[("MAC", Align::Left), ("PEER", Align::Left), ("ADDRESSES", Align::Left)]);
    table.rows.extend(endpoints.iter().map(|endpoint| {
        let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
        vec![
            Cell::plain(endpoint.mac),
            Cell::plain(who(endpoint.name, endpoint.nickname.as_ref())),
            Cell::plain(or_dash((!addresses.is_empty()).then(|| addresses.join(" ")))),
        ]
    }));
    table
}

/// `weft status dns`.
pub fn names(names: &[NameLine]) -> Table {
    let mut table = Table::with_heads(&[
        ("NAME", Align::Left),
        ("ADDRESSES", Align::Left),
        ("PEER", Align::Left),
        ("OWNER", Align::Left),
    ]);
    table.rows.extend(names.iter().map(|line| {
        let addresses: Vec<_> = line.addresses.iter().map(ToString::to_string).collect();
        vec![
            Cell::plain(&line.hostname),
            Cell::plain(addresses.join(" ")),
            Cell::plain(who(line.name, line.nickname.as_ref())),
            Cell::plain(&line.owner),
        ]
    }));
    table
}

/// `weft status paths`, as of `now` in Unix seconds.
pub fn paths(paths: &[Path], now: u64) -> Table {
    let mut table = Table::with_heads(&[
        ("PEER", Align::Left),
        ("PATH", Align::Left),
        ("VIA", Align::Left),
        ("METHOD", Align::Left),
        ("RTT", Align::Right),
        ("LOSS", Align::Right),
        ("MTU", Align::Right),
        ("FOR", Align::Right),
        ("REASON", Align::Left),
    ]);
    let nickname = |name: PeerName| paths.iter().find(|p| p.name == name).and_then(|p| p.nickname.as_ref());
    table.rows.extend(paths.iter().map(|path| {
        let tone = match path.path.as_str() {
            "direct" => Tone::Good,
            "relay" => Tone::Warn,
            _ => Tone::Bad,
        };
        let mut relays: Vec<_> = path.relays.iter().map(|relay| who(*relay, nickname(*relay))).collect();
        relays.extend((!path.further.is_empty()).then(|| format!("+{}", path.further.len())));
        vec![
            Cell::plain(who(path.name, path.nickname.as_ref())),
            Cell::toned(tone, &path.path),
            Cell::plain(or_dash((!relays.is_empty()).then(|| relays.join(" ")))),
            Cell::plain(&path.method),
            Cell::plain(or_dash(path.rtt_us.map(micros))),
            Cell::plain(or_dash(path.loss.map(share))),
            Cell::plain(or_dash(path.mtu)),
            Cell::plain(span(now.saturating_sub(path.since))),
            Cell::plain(&path.reason),
        ]
    }));
    table
}

/// A peer as people see it: `7e:52:00:aa:bb:01(host-1)`.
pub fn who(name: PeerName, nickname: Option<&Nickname>) -> String {
    nickname.map_or_else(|| name.to_string(), |nickname| format!("{name}({nickname})"))
}

/// Microseconds in the unit that suits: `340 µs`, `1.2 ms`, `3.0 s`.
pub fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        // From here on it would be rounded to 1000.0 ms.
        1_000..999_950 => format!("{:.1} ms", micros as f64 / 1e3),
        999_950.. => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// Seconds in the two units that suit: `12 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min {} s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
        DAY.. => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

/// A share of 0 to 1 in per cent, with a decimal where that tells something: `0 %`, `0.4 %`, `12 %`.
fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn width_of(text: &str) -> usize {
    text.chars().count()
}

fn word_of(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Established => "established",
        ConnectionState::Pending => "pending",
        ConnectionState::Retrying => "retrying",
        ConnectionState::Failed => "failed",
        ConnectionState::Connecting => "connecting",
    }
}

fn tone_of(state: ConnectionState) -> Tone {
    match state {
        ConnectionState::Established => Tone::Good,
        ConnectionState::Pending | ConnectionState::Connecting | ConnectionState::Retrying => Tone::Warn,
        ConnectionState::Failed => Tone::Bad,
    }
}

/// `3 (2 established, 1 failed)`: in the order of the states, without zeros; as alarming as the worst of them.
fn connections_counted(connections: &[Connection]) -> Cell {
    let states = [
        ConnectionState::Established,
        ConnectionState::Pending,
        ConnectionState::Retrying,
        ConnectionState::Failed,
        ConnectionState::Connecting,
    ];
    let count = |state| connections.iter().filter(|c| c.state == state).count();
    let parts: Vec<_> = states.into_iter().filter(|state| count(*state) > 0).collect();
    if parts.is_empty() {
        return Cell::plain("0");
    }
    let words: Vec<_> = parts.iter().map(|state| format!("{} {}", count(*state), word_of(*state))).collect();
    let all_up = parts == [ConnectionState::Established];
    let tone = if all_up { Tone::Good } else { Tone::Warn };
    Cell::toned(tone, format_args!("{} ({})", connections.len(), words.join(", ")))
}

/// `3 (with 6 established connections)`.
fn peers_counted(peers: &[Peer]) -> Cell {
    let up = peers.iter().flat_map(|peer| &peer.connections).filter(|link| link.up).count();
    let s = if up == 1 { "" } else { "s" };
    Cell::plain(format_args!("{} (with {up} established connection{s})", peers.len()))
}

#[cfg(test)]
mod tests;
