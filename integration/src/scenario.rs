//! Acceptance tests of the ways frames may go: one list of scenarios, each tried over each backend, natively or in a guest.
//!
//! ```text
//!               sleeve   vxlan    sleeve-uml   vxlan+esp   ovs      ovs+esp
//!   a scenario  passed   passed   passed       skipped ¹   FAILED   …
//! ```
//! What came of a pair is written down ([`record`]), by whichever process tried it, and shown at the end ([`table`]).

pub mod backend;
pub mod callers;
pub mod fabric;
pub mod guests;
pub mod record;
pub mod suite;
pub mod table;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    lab::{
        Lab,
        trial::{Outcome, attempt},
    },
    uml,
};

use backend::{Backend, Column, Place};
use record::{Record, Verdict};

/// Something that must go well whatever carries the frames.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name: module and function.
    pub name: &'static str,
    /// What is done and expected.
    pub run: fn(&Lab, Backend) -> Result<()>,
    /// About how many seconds it takes in a guest: what is put together into one.
    pub cost: u64,
    /// Backends that it says nothing about, and why.
    pub except: &'static [(Backend, &'static str)],
}

impl Scenario {
    /// A scenario for the list.
    pub const fn new(
        name: &'static str,
        run: fn(&Lab, Backend) -> Result<()>,
        cost: u64,
        except: &'static [(Backend, &'static str)],
    ) -> Self {
        Self { name, run, cost, except }
    }

    /// The name of its test over a column.
    pub fn test(&self, column: &Column) -> String {
        format!("{}::{}", self.name, column.name)
    }

    /// Why it is not tried over a column, if so.
    pub fn not_tried(&self, column: &Column) -> Option<&'static str> {
        let except = self.except.iter().find(|(backend, _)| *backend == column.backend).map(|(_, why)| *why);
        except.or_else(|| column.leaves_out(self.name))
    }

    /// Longest that it may take in a guest before it is ended.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(60 + 3 * self.cost)
    }

    /// Tries it over a column, here, and writes down what came of it.
    pub fn tried(&self, column: &Column) -> Result<Record> {
        let started = Instant::now();
        let outcome = match self.not_tried(column) {
            Some(why) => Outcome::Skipped(why.to_owned()),
            None => attempt(|lab| (self.run)(lab, column.backend)),
        };
        let (verdict, note) = match outcome {
            Outcome::Passed => (Verdict::Passed, String::new()),
            Outcome::Failed(why) => (Verdict::Failed, why),
            Outcome::Skipped(why) => (Verdict::Skipped, why),
        };
        let record = Record::new(self.name, column.name, verdict, started.elapsed(), note);
        record.write()?;
        Ok(record)
    }
}

/// Columns whose pairs are tried by this process: those of the kernel that we are on.
pub fn columns_here() -> impl Iterator<Item = &'static Column> {
    let place = if uml::is_here() { Place::Guest } else { Place::Host };
    backend::COLUMNS.iter().filter(move |column| column.place == place)
}
