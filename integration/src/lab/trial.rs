//! One lab test: a lab is made, the test runs in it, and on failure the routers are asked what they think.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{PoisonError, RwLock},
};

use anyhow::Result;

use super::Lab;

/// Trials hold it for reading, those that need the whole machine for writing. (Across processes nextest does this.)
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs `test` in a lab of its own; panics with every router's status and log if it fails.
#[track_caller]
pub fn trial(test: impl FnOnce(&Lab) -> Result<()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

/// As [`trial`], while no other trial of this process runs: for what is measured or large.
#[track_caller]
pub fn trial_alone(test: impl FnOnce(&Lab) -> Result<()>) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as expected.
    Passed,
    /// What was not, with every router's status and log.
    Failed(String),
    /// It could not be tried here, and why.
    Skipped(String),
}

/// The error of a trial that cannot be tried here.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skipped {}

#[track_caller]
fn run(test: impl FnOnce(&Lab) -> Result<()>) {
    match outcome(test) {
        Outcome::Passed => {}
        Outcome::Failed(why) | Outcome::Skipped(why) => panic!("{why}"),
    }
}

/// As [`trial`], for who wants to know how it went.
pub fn attempt(test: impl FnOnce(&Lab) -> Result<()>) -> Outcome {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    outcome(test)
}

fn outcome(test: impl FnOnce(&Lab) -> Result<()>) -> Outcome {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => return Outcome::Failed(format!("no lab: {error:#}")),
    };
    let problem = match catch_unwind(AssertUnwindSafe(|| test(&lab))) {
        Ok(Ok(())) => return Outcome::Passed,
        Ok(Err(error)) => match error.downcast::<Skipped>() {
            Ok(Skipped(why)) => return Outcome::Skipped(why),
            Err(error) => format!("{error:#}"),
        },
        Err(panic) => text_of(panic.as_ref()).unwrap_or_else(|| resume_unwind(panic)),
    };
    Outcome::Failed(format!("{problem}\n{}", lab.diagnosis()))
}

fn text_of(panic: &(dyn Any + Send)) -> Option<String> {
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}
