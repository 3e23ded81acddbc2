//! Tests that need programs of others, such as container engines: where these are not installed, that is written down and told at the end.

use std::time::Instant;

use anyhow::Result;

use super::{
    record::{Record, Verdict},
    table::ENGINE,
};
use crate::{
    demo::screen,
    lab::{Lab, trial::trial},
};

/// Plays a scene, unless `missing` says why it cannot be played here.
///
/// # Panics
/// As [`trial`]; and if it cannot be written down how it went.
#[track_caller]
pub fn with_callers(row: &str, missing: Option<String>, scene: impl FnOnce(&Lab) -> Result<()>) {
    let started = Instant::now();
    let record = |verdict, note: String| {
        let written = Record::new(row, ENGINE, verdict, started.elapsed(), note).write();
        assert!(written.is_ok(), "{written:?}");
    };
    if let Some(why) = missing {
        // The record is what counts.
        let _ = screen::line(format_args!("SKIPPED: {row}: {why}"));
        return record(Verdict::Skipped, why);
    }
    record(Verdict::Failed, "it did not come to an end".to_owned());
    trial(scene);
    record(Verdict::Passed, String::new());
}
