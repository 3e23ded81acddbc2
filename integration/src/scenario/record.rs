//! What came of a scenario over a column: one small file for each pair, as many processes try them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// All was as expected.
    Passed,
    /// Something was not.
    Failed,
    /// It was not tried.
    Skipped,
}

/// What came of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The scenario, or what else stands in a row.
    pub row: String,
    /// The column.
    pub column: String,
    /// How it went.
    pub verdict: Verdict,
    /// What it took.
    pub seconds: f64,
    /// Why, if it did not pass.
    pub note: String,
}

impl Record {
    /// What came of `row` over `column`.
    pub fn new(row: &str, column: &str, verdict: Verdict, took: Duration, note: String) -> Self {
        Self { row: row.to_owned(), column: column.to_owned(), verdict, seconds: took.as_secs_f64(), note }
    }

    /// Writes it down, over an earlier one of the pair.
    pub fn write(&self) -> Result<()> {
        let path = path(&self.row, &self.column)?;
        fs::create_dir_all(directory()?)?;
        fs::write(&path, serde_json::to_string(self)?).with_context(|| path.display().to_string())
    }

    /// The one of a pair.
    pub fn read(row: &str, column: &str) -> Result<Self> {
        Self::parse(&path(row, column)?)
    }

    /// All there are, by row and column.
    pub fn all() -> Result<Vec<Self>> {
        let directory = directory()?;
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        let mut all = entries.flatten().map(|entry| Self::parse(&entry.path())).collect::<Result<Vec<_>>>()?;
        all.sort_by(|one, other| (&one.row, &one.column).cmp(&(&other.row, &other.column)));
        Ok(all)
    }

    fn parse(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{}: {text}", path.display()))
    }
}

/// Where they are kept: beside the programs built, `target/debug/scenarios`.
pub fn directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    let built = own.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).context("where programs are built")?;
    Ok(built.join("scenarios"))
}

fn path(row: &str, column: &str) -> Result<PathBuf> {
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '-', "_");
    Ok(directory()?.join(format!("{}.{}.json", plain(row), plain(column))))
}
