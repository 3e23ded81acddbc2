//! The program `table`: what came of all scenarios, at the end of `make test`.

use std::{collections::BTreeSet, fmt::Write as _, process::ExitCode};

use super::{
    backend::COLUMNS,
    record::{Record, Verdict},
};
use crate::demo::screen;

/// The column of what is a test of a guest's kernel by itself, and of the guests themselves.
pub const GUEST: &str = "uml";
/// The column of what needs programs of others, such as container engines.
pub const ENGINE: &str = "engine";

/// The program.
pub fn main() -> ExitCode {
    match Record::all().and_then(|records| screen::line(text(&records))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen::complain(&error.context("no scenario has left a record"));
            ExitCode::FAILURE
        }
    }
}

/// The table, the reasons below it, and what else ran in guests.
pub fn text(records: &[Record]) -> String {
    let (others, pairs): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| [GUEST, ENGINE].contains(&record.column.as_str()));
    let rows: BTreeSet<&str> = pairs.iter().map(|record| record.row.as_str()).collect();
    let width = records.iter().map(|record| record.row.len()).max().unwrap_or(0) + 2;
    let mut text = format!("{:width$}", "");
    for column in &COLUMNS {
        let _ = write!(text, "{:14}", column.name);
    }
    let mut notes: Vec<(&str, Verdict)> = Vec::new();
    for row in rows {
        let _ = write!(text, "\n{row:width$}");
        for column in &COLUMNS {
            let found = pairs.iter().find(|record| record.row == row && record.column == column.name);
            let cell = found.map_or_else(|| "-".to_owned(), |record| cell(record, &mut notes));
            let _ = write!(text, "{cell:14}");
        }
    }
    for (number, (note, verdict)) in notes.iter().enumerate() {
        let _ = write!(text, "\n  [{}] {}: {}", number + 1, word(*verdict), note.lines().next().unwrap_or_default());
    }
    for record in &others {
        let note = record.note.lines().next().unwrap_or_default();
        let _ = write!(text, "\n{:width$}{} {:.0} s  {note}", record.row, word(record.verdict), record.seconds);
    }
    let skipped: Vec<&str> =
        others.iter().filter(|record| record.verdict == Verdict::Skipped).map(|record| record.row.as_str()).collect();
    if !skipped.is_empty() {
        let _ = write!(text, "\n{} SKIPPED, NOT TRIED HERE: {}", skipped.len(), skipped.join("; "));
    }
    let ran = others.iter().filter(|record| record.column == GUEST && record.seconds > 0.0);
    let guests: Vec<f64> = ran.map(|record| record.seconds).collect();
    let seconds = guests.iter().fold(0.0, |sum, seconds| sum + seconds);
    let _ = write!(text, "\nUser-Mode Linux: {} guests, {seconds:.0} s", guests.len());
    text
}

fn cell<'a>(record: &'a Record, notes: &mut Vec<(&'a str, Verdict)>) -> String {
    if record.verdict == Verdict::Passed {
        return format!("passed {:.0} s", record.seconds);
    }
    let note = (record.note.as_str(), record.verdict);
    let number = notes.iter().position(|other| *other == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!("{} [{}]", word(record.verdict), number + 1)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(row: &str, column: &str, verdict: Verdict, note: &str) -> Record {
        Record::new(row, column, verdict, std::time::Duration::from_secs(3), note.to_owned())
    }

    #[test]
    fn reasons_stand_below_once_each() {
        let records = [
            record("a::b", "sleeve", Verdict::Passed, ""),
            record("a::b", "ovs", Verdict::Skipped, "not built yet"),
            record("a::c", "ovs", Verdict::Skipped, "not built yet"),
            record("a::c", "sleeve", Verdict::Failed, "no answer\nand a long log"),
            record("guest 1", GUEST, Verdict::Passed, "2 scenarios"),
            record("CNI: podman", ENGINE, Verdict::Skipped, "no podman"),
            record("docker: one", ENGINE, Verdict::Skipped, "no dockerd"),
            record("docker: two", ENGINE, Verdict::Passed, ""),
        ];
        let text = text(&records);
        assert_eq!(text.matches("not built yet").count(), 1, "{text}");
        assert!(text.contains("passed 3 s") && text.contains("FAILED [2]"), "{text}");
        assert!(text.contains("[2] FAILED: no answer\n") && !text.contains("long log"), "{text}");
        assert!(text.contains("\n2 SKIPPED, NOT TRIED HERE: CNI: podman; docker: one\n"), "{text}");
        assert!(text.ends_with("1 guests, 3 s"), "{text}");
    }
}
