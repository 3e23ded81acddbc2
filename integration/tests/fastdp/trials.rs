//! The tests of this program: pairs of the kernel that we are on, guests for the others, test programs in guests.

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use weft_integration::{
    scenario::{
        Scenario,
        backend::Column,
        columns_here, guests,
        record::{Record, Verdict},
    },
    uml,
};

use super::list::{SCENARIOS, SUITES};

/// Runs those that the command line asks for, all by default.
pub(crate) fn run() {
    let mut trials: Vec<Trial> =
        SCENARIOS.iter().flat_map(|scenario| columns_here().map(|column| pair(*scenario, column))).collect();
    if !uml::is_here() {
        trials.extend(
            guests::batches(SCENARIOS)
                .into_iter()
                .map(|batch| Trial::ignorable_test(format!("uml::{}", batch.name), move || completion(batch.run()))),
        );
        trials.extend(
            SUITES
                .iter()
                .map(|suite| Trial::ignorable_test(format!("uml::suite::{}", suite.name), || completion(suite.run()))),
        );
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

fn pair(scenario: Scenario, column: &'static Column) -> Trial {
    Trial::ignorable_test(scenario.test(column), move || match scenario.tried(column) {
        Ok(Record { verdict: Verdict::Passed, .. }) => Ok(Completion::Completed),
        Ok(Record { verdict: Verdict::Skipped, note, .. }) => Ok(skipped(&note)),
        Ok(Record { verdict: Verdict::Failed, note, .. }) => Err(note.into()),
        Err(error) => Err(format!("{error:#}").into()),
    })
}

fn completion(outcome: Result<Option<String>>) -> Result<Completion, Failed> {
    match outcome {
        Ok(None) => Ok(Completion::Completed),
        Ok(Some(why)) => Ok(skipped(&why)),
        Err(error) => Err(format!("{error:#}").into()),
    }
}

fn skipped(why: &str) -> Completion {
    println!("SKIPPED: {why}");
    Completion::ignored_with(why)
}
