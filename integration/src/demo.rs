//! The demo: Weft on three hosts, shown step by step with measured numbers; and the same hosts left up to play with.
//!
//! The work is done by a second process of this program (`story` or `lab up`), watched by the first, which clears up
//! whatever way the second ends: by success, failure, Ctrl-C, or a kill.

pub mod guard;
mod names;
mod playground;
pub mod screen;
mod story;
mod upgrade;

use std::process::ExitCode;

use anyhow::{Result, ensure};

const USAGE: &str = "usage: demo [lab up | lab down]";

/// The program: `demo` tells the story, `demo lab up` and `demo lab down` make and remove the playground.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            screen::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "the demo makes network namespaces: run it as root");
    match args {
        [] => guard::watch(&["story"], guard::sweep_leftovers),
        ["lab", "up"] => {
            playground::expect_absent()?;
            guard::watch(&["playground"], playground::remove_unless_up)
        }
        ["lab", "down"] => playground::down().map(|()| ExitCode::SUCCESS),
        ["story"] => guard::watched(story::tell),
        ["playground"] => guard::watched(playground::up),
        _ => {
            screen::line(USAGE)?;
            Ok(ExitCode::from(2))
        }
    }
}
