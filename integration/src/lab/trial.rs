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

#[track_caller]
fn run(test: impl FnOnce(&Lab) -> Result<()>) {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => panic!("no lab: {error:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&lab)));
    let problem = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => text_of(panic.as_ref()).unwrap_or_else(|| resume_unwind(panic)),
    };
    let diagnosis = lab.diagnosis();
    drop(lab);
    panic!("{problem}\n{diagnosis}");
}

fn text_of(panic: &(dyn Any + Send)) -> Option<String> {
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}
