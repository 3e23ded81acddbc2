//! CNI: this program as a plugin, and its installation as one.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use weft_plugin::cni::{
    self, Environment, Program,
    setup::{self, Installed},
};

use crate::output;

/// Answers one call of a container runtime.
pub(crate) fn plugin(program: Program) -> ExitCode {
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let env: Environment = std::env::vars_os().map(|(key, value)| (text(key), text(value))).collect();
    let printed = cni::run(program, &env, io::stdin().lock());
    // A runtime that does not listen gets no more than the status.
    let said = io::stdout().lock().write_all(printed.text.as_bytes());
    if printed.success && said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Installs this program as plugins.
pub(crate) fn setup(bin_dir: &Path, conf_dir: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program itself")?;
    for installed in setup::install(&program, bin_dir, conf_dir)? {
        match installed {
            Installed::New(path) => output::line(format_args!("{}: installed", path.display()))?,
            Installed::Same(path) => output::line(format_args!("{}: up to date", path.display()))?,
            Installed::Kept(path) => {
                output::line(format_args!("{}: left alone, as it is not ours or was changed", path.display()))?;
            }
        }
    }
    Ok(())
}
