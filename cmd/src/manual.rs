//! Verbs that need no router: `weft secret`, `version`, `completions` and `man`.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use weft::entropy::Entropy;

use crate::{cli::Cli, output};

/// Prints a new network secret.
pub(crate) fn secret() -> anyhow::Result<()> {
    output::line(weft::secret::generate(&Entropy::System).as_str())
}

/// Prints the version of this binary.
pub(crate) fn version() -> anyhow::Result<()> {
    output::line(concat!("weft ", env!("CARGO_PKG_VERSION")))
}

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    output::print(String::from_utf8(script)?)
}

/// Prints the manual page of `weft`, or writes those of all verbs into a directory.
pub(crate) fn man(dir: Option<&Path>) -> anyhow::Result<()> {
    if let Some(dir) = dir {
        let written = clap_mangen::generate_to(Cli::command(), dir);
        return written.with_context(|| format!("cannot write manual pages into {}", dir.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output::print(String::from_utf8(page)?)
}
