//! What came of a simulation, as people read it.

use super::{Align, Cell, Table, Tone, or_dash};
use crate::sim::outcome::{Expectation, Load, Outcome, Phase, Stretch};

/// `weft sim`: what was simulated, how it went from event to event, the longest way, and whether it was as expected.
pub fn simulation(outcome: &Outcome) -> Vec<Table> {
    let mut tables = vec![overview(outcome), reaching(&outcome.phases), costs(&outcome.phases)];
    if !outcome.expectations.is_empty() {
        tables.push(expectations(&outcome.expectations));
    }
    tables
}

fn overview(outcome: &Outcome) -> Table {
    let stretches = outcome.phases.iter().filter_map(|phase| phase.stretch.as_ref());
    let worst = stretches.max_by(|a, b| a.max.total_cmp(&b.max)).map(longest);
    Table::labelled([
        ("Peers", Cell::plain(outcome.peers)),
        ("Seed", Cell::plain(outcome.seed)),
        (
            "Simulated",
            Cell::plain(format_args!("{} s, looked at every {} ms", outcome.simulated_s, outcome.resolution_ms)),
        ),
        ("LongestWay", Cell::plain(or_dash(worst))),
    ])
}

/// `berlin to tokyo by paris: 91 ms, best 70 ms`.
fn longest(stretch: &Stretch) -> String {
    let worst = &stretch.worst;
    let by = if worst.by.is_empty() { "directly".to_owned() } else { format!("by {}", worst.by.join(", ")) };
    format!("{} to {} {by}: {:.1} ms there and back, best {:.1} ms", worst.from, worst.to, worst.time_ms, worst.best_ms)
}

/// Who reaches whom.
fn reaching(phases: &[Phase]) -> Table {
    let mut table = Table::with_heads(&[
        ("AT", Align::Right),
        ("EVENT", Align::Left),
        ("ALL REACH ALL", Align::Right),
        ("GAPS", Align::Right),
        ("LONGEST", Align::Right),
        ("LACK A PATH", Align::Right),
        ("PARTED", Align::Right),
        ("CHANGES", Align::Right),
        ("FLAPS", Align::Right),
    ]);
    table.rows.extend(phases.iter().map(|phase| {
        let settled = phase.settled_ms.map_or(Cell::toned(Tone::Bad, "never"), |after| {
            let words = if after == 0 { "at once".to_owned() } else { format!("after {}", time(after)) };
            Cell::toned(Tone::Good, words)
        });
        let longest = (phase.gaps.count > 0).then(|| time(phase.gaps.longest_ms));
        vec![
            Cell::plain(time(phase.at_ms)),
            Cell::plain(&phase.event),
            settled,
            Cell::plain(phase.gaps.count),
            Cell::plain(or_dash(longest)),
            counted(phase.pairs_without_path as u64, Tone::Bad),
            counted(phase.pairs_parted as u64, Tone::Warn),
            Cell::plain(phase.changes),
            counted(phase.flaps, Tone::Warn),
        ]
    }));
    table
}

/// How good the paths are, and what they cost.
fn costs(phases: &[Phase]) -> Table {
    let mut table = Table::with_heads(&[
        ("AT", Align::Right),
        ("TIME/BEST: MEDIAN", Align::Right),
        ("99 %", Align::Right),
        ("MOST", Align::Right),
        ("BYTES/S: MEAN", Align::Right),
        ("MOST", Align::Right),
        ("CALM: MEAN", Align::Right),
        ("MOST", Align::Right),
        ("CONNECTIONS: MEAN", Align::Right),
        ("MOST", Align::Right),
    ]);
    table.rows.extend(phases.iter().map(|phase| {
        let stretch =
            |figure: fn(&Stretch) -> f64| or_dash(phase.stretch.as_ref().map(|s| format!("{:.2}", figure(s))));
        let calm =
            |figure: fn(Load) -> f64| or_dash(phase.calm_bytes_per_second.map(|load| format!("{:.0}", figure(load))));
        [
            time(phase.at_ms),
            stretch(|s| s.median),
            stretch(|s| s.p99),
            stretch(|s| s.max),
            format!("{:.0}", phase.bytes_per_second.mean),
            format!("{:.0}", phase.bytes_per_second.most),
            calm(|load| load.mean),
            calm(|load| load.most),
            format!("{:.1}", phase.connections.mean),
            format!("{:.0}", phase.connections.most),
        ]
        .into_iter()
        .map(Cell::plain)
        .collect()
    }));
    table
}

fn expectations(expectations: &[Expectation]) -> Table {
    let mut table = Table::with_heads(&[
        ("EXPECTED", Align::Left),
        ("AT MOST", Align::Right),
        ("WAS", Align::Right),
        ("", Align::Left),
    ]);
    table.rows.extend(expectations.iter().map(|Expectation { what, at_most, was, met }| {
        let (tone, word) = if *met { (Tone::Good, "as expected") } else { (Tone::Bad, "NOT AS EXPECTED") };
        let is_time = ["settled", "settled_after_change", "longest_gap"].contains(what);
        let figure = |figure: f64| if is_time { time(figure as u64) } else { figure.to_string() };
        let was = was.map_or("never".to_owned(), figure);
        vec![Cell::plain(what), Cell::plain(figure(*at_most)), Cell::plain(was), Cell::toned(tone, word)]
    }));
    table
}

/// A counter that should be none.
fn counted(count: u64, tone: Tone) -> Cell {
    Cell::toned(if count == 0 { Tone::Plain } else { tone }, count)
}

fn time(millis: u64) -> String {
    format!("{:.1} s", millis as f64 / 1000.0)
}
