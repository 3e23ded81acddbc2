//! Guests that try scenarios: a handful each, one after another, every one in a process of its own.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Scenario,
    backend::{COLUMNS, Column, Place},
    record::{self, Record, Verdict},
    table::GUEST,
};
use crate::{
    lab::wait::SLOWNESS,
    uml::{self, Ended, Guest},
};

/// What scenarios of one guest may cost together, in seconds: long beside the start of a guest, short beside a test's limit.
const COST_MAX: u64 = 90;
/// For the guest itself, on a busy machine.
const STARTING: Duration = Duration::from_secs(60);
/// Time limits there are this many times as long: everything is a system call or two.
pub(super) const GUEST_SLOWNESS: &str = "4";
/// The program and pairs of a test's name and its limit in seconds; each may fail for itself.
const SCRIPT: &str = r#"
program=$0
while [ $# -gt 0 ]; do
    echo "===== $1"
    timeout -k 5 "$2" "$program" --exact "$1" --nocapture --test-threads 1 || echo "===== $1: status $?"
    shift 2
done
"#;

/// Scenarios that one guest tries over a column.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its name: the column's and a number.
    pub name: String,
    column: &'static Column,
    scenarios: Vec<Scenario>,
}

/// The batches that try `scenarios` over all columns of guests; what needs no guest to be skipped is in the first.
pub fn batches(scenarios: &[Scenario]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for column in COLUMNS.iter().filter(|column| column.place == Place::Guest) {
        let (mut number, mut cost) = (0, COST_MAX);
        for scenario in scenarios {
            let own = if scenario.not_tried(column).is_some() { 0 } else { scenario.cost };
            if number == 0 || cost + own > COST_MAX {
                (number, cost) = (number + 1, 0);
                batches.push(Batch { name: format!("{}::{number}", column.name), column, scenarios: Vec::new() });
            }
            cost += own;
            if let Some(batch) = batches.last_mut() {
                batch.scenarios.push(*scenario);
            }
        }
    }
    batches
}

impl Batch {
    /// Tries them all; fails if one of them did. Why none was tried, if so.
    pub fn run(&self) -> Result<Option<String>> {
        let (skipped, tried): (Vec<&Scenario>, Vec<&Scenario>) =
            self.scenarios.iter().partition(|scenario| scenario.not_tried(self.column).is_some());
        for scenario in skipped {
            scenario.tried(self.column)?;
        }
        let missing = uml::missing();
        let (verdict, note) = match &missing {
            Some(why) => (Verdict::Skipped, format!("no User-Mode Linux: {why}")),
            None => (Verdict::Failed, "its guest ended before".to_owned()),
        };
        for scenario in &tried {
            Record::new(scenario.name, self.column.name, verdict, Duration::ZERO, note.clone()).write()?;
        }
        if missing.is_some() || tried.is_empty() {
            return Ok(Some(if tried.is_empty() { "nothing of it can be tried yet".to_owned() } else { note }));
        }
        self.run_guest(&tried).map(|()| None)
    }

    fn run_guest(&self, scenarios: &[&Scenario]) -> Result<()> {
        let own = std::env::current_exe().context("where this program is")?;
        let own = own.to_str().context("a path in UTF-8")?;
        let mut command = vec!["bash".to_owned(), "-c".to_owned(), SCRIPT.to_owned(), own.to_owned()];
        for scenario in scenarios {
            command.extend([scenario.test(self.column), scenario.limit().as_secs().to_string()]);
        }
        let started = Instant::now();
        let limit = STARTING + scenarios.iter().map(|scenario| scenario.limit()).sum::<Duration>();
        let ended = guest(limit)?.run(&command, &mut io::stdout(), &mut io::stderr())?;
        let took = started.elapsed();
        let mut failed = Vec::new();
        for scenario in scenarios {
            let record = Record::read(scenario.name, self.column.name)?;
            if record.verdict == Verdict::Failed {
                failed.push(format!("{}: {}", scenario.test(self.column), record.note));
            }
        }
        let verdict = if failed.is_empty() { Verdict::Passed } else { Verdict::Failed };
        let note = format!("{} of {} scenarios passed", scenarios.len() - failed.len(), scenarios.len());
        Record::new(&format!("guest {}", self.name), GUEST, verdict, took, note).write()?;
        if let Ended::TimedOut(console) | Ended::Died(console) = &ended {
            failed.push(format!("the guest ended before its time: {console}"));
        }
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
    }
}

/// A guest that may write records, with patience.
pub(super) fn guest(limit: Duration) -> Result<Guest> {
    let directory = record::directory()?;
    fs::create_dir_all(&directory)?;
    Ok(Guest::new(limit).writable(directory).env(SLOWNESS, GUEST_SLOWNESS))
}
