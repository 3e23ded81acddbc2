//! Test programs of this and other crates that are run in a guest, for its kernel: all tests of a filter, counted.
//!
//! Where the programs are is told by `cargo test --no-run --message-format=json`, in the file that [`BINARIES`] names;
//! `make test` sees to that. A test that cannot be done prints a line with the word `SKIPPED` and why.

use std::{
    fs, io,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    guests,
    record::{Record, Verdict},
    table::GUEST,
};
use crate::uml::{self, Ended};

/// Names the file of cargo's messages.
pub const BINARIES: &str = "WEFT_TEST_BINARIES";

/// Tests of one program.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// Its name in the list of tests.
    pub name: &'static str,
    /// The package.
    pub package: &'static str,
    /// The target: the library's name, or that of a file in `tests`.
    pub target: &'static str,
    /// What to give the program: parts of tests' names, or options of libtest.
    pub args: &'static [&'static str],
    /// For all of them together.
    pub limit: Duration,
}

/// What a test program said of its tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
    skipped: Vec<String>,
}

impl Suite {
    /// Runs it in a guest; fails if a test does. Why it was not run, if so.
    pub fn run(&self) -> Result<Option<String>> {
        let skipped = match self.obstacle() {
            Some(why) => Some(why),
            None => self.run_guest()?,
        };
        if let Some(why) = &skipped {
            self.record(Verdict::Skipped, Duration::ZERO, why.clone())?;
        }
        Ok(skipped)
    }

    fn obstacle(&self) -> Option<String> {
        let listed = std::env::var_os(BINARIES).is_some();
        let not_listed = || (!listed).then(|| format!("{BINARIES} is not set; `make test` sets it"));
        uml::missing().map(|why| format!("no User-Mode Linux: {why}")).or_else(not_listed)
    }

    fn run_guest(&self) -> Result<Option<String>> {
        self.record(Verdict::Failed, Duration::ZERO, "it did not come to an end".to_owned())?;
        let program = self.program()?;
        let mut command = vec![program.to_str().context("a path in UTF-8")?];
        command.extend(self.args);
        command.extend(["--test-threads=1", "--show-output"]);
        let (started, mut said) = (Instant::now(), Tee::default());
        let ended = guests::guest(self.limit)?.run(&command, &mut said, &mut io::stderr())?;
        let count = Count::of(&String::from_utf8_lossy(&said.0));
        if ended == Ended::Status(0) && count == Count::default() {
            return Ok(Some("there are no such tests".to_owned()));
        }
        let well = ended == Ended::Status(0) && count.failed == 0;
        let verdict = if well { Verdict::Passed } else { Verdict::Failed };
        self.record(verdict, started.elapsed(), count.to_string())?;
        ensure!(well, "{count}; {ended:?}");
        Ok(None)
    }

    /// The program that cargo built.
    fn program(&self) -> Result<PathBuf> {
        let list = PathBuf::from(std::env::var_os(BINARIES).context(BINARIES)?);
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let messages = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let found = messages.filter_map(|message| self.executable(&message)).next_back();
        let Some(program) = found else {
            bail!("{} tells of no tests of {} in {}", list.display(), self.target, self.package)
        };
        ensure!(program.exists(), "{} is gone: build anew", program.display());
        Ok(program)
    }

    /// The executable that a message of cargo tells of, if it is the one (The Cargo Book, "External tools", artifacts).
    fn executable(&self, message: &Value) -> Option<PathBuf> {
        let package = message["package_id"].as_str()?;
        // `path+file:///…/host#weft-host@0.1.0`, or with the directory's name for the package's: `…/weft#0.1.0`.
        let (place, version) = package.rsplit_once('#')?;
        let name = version.split_once('@').map(|(name, _)| name).or_else(|| place.rsplit('/').next())?;
        let is_it =
            name == self.package && message["target"]["name"] == self.target && message["profile"]["test"] == true;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    }

    fn record(&self, verdict: Verdict, took: Duration, note: String) -> Result<()> {
        Record::new(self.name, GUEST, verdict, took, note).write()
    }
}

impl Count {
    /// Reads what libtest prints.
    fn of(text: &str) -> Self {
        let mut count = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("test ") {
                count.passed += u32::from(rest.ends_with("... ok"));
                count.failed += u32::from(rest.ends_with("... FAILED"));
            } else if line.contains("SKIPPED") {
                count.skipped.push(line.trim().to_owned());
            }
        }
        let skipped = u32::try_from(count.skipped.len()).unwrap_or(u32::MAX);
        count.passed = count.passed.saturating_sub(skipped);
        count
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len())?;
        self.skipped.iter().try_for_each(|why| write!(f, "; {why}"))
    }
}

/// Keeps what it passes on to our output.
#[derive(Default)]
struct Tee(Vec<u8>);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: Suite =
        Suite { name: "x", package: "weft-host", target: "weft_host", args: &[], limit: Duration::from_secs(1) };

    #[test]
    fn tests_are_counted() {
        let count = Count::of(
            "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest a::d ... ok\n\n---- a::d stdout ----\n\
             SKIPPED: no ESP\n",
        );
        assert_eq!((count.passed, count.failed, count.skipped.len()), (1, 1, 1));
        assert_eq!(count.to_string(), "1 passed, 1 failed, 1 skipped; SKIPPED: no ESP");
    }

    #[test]
    fn cargo_tells_where_a_program_is() {
        let message = |package: &str, target: &str, test: bool| {
            serde_json::json!({"reason": "compiler-artifact", "package_id": package, "target": {"name": target},
                "profile": {"test": test}, "executable": "/t/x"})
        };
        let own = "path+file:///w/router/host#weft-host@0.1.0";
        assert_eq!(SUITE.executable(&message(own, "weft_host", true)), Some("/t/x".into()));
        assert_eq!(SUITE.executable(&message(own, "weft_host", false)), None);
        assert_eq!(SUITE.executable(&message(own, "other", true)), None);
        assert_eq!(
            SUITE.executable(&message("path+file:///w/weft-host#0.1.0", "weft_host", true)),
            Some("/t/x".into())
        );
        assert_eq!(SUITE.executable(&message("path+file:///w/router#weft-router@0.1.0", "weft_host", true)), None);
    }
}
