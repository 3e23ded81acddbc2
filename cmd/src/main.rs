//! The `weft` binary: the command line, and the daemon as `weft router`. `weft --help` lists the verbs.

mod cli;
mod client;
mod containers;
mod docker;
mod flags;
mod handover;
mod launch;
mod logging;
mod manual;
mod output;
mod password;
mod process;
mod reset;
mod router;
mod settings;
mod status;
mod stop;
mod targets;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Verb};

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, matches: &clap::ArgMatches) -> anyhow::Result<()> {
    let globals = cli.globals;
    match cli.verb {
        Verb::Launch(flags) => launch::launch(*flags, globals, matches),
        Verb::Router { flags, background } => router::router(*flags, globals, background, matches),
        Verb::Stop => stop::stop(&globals.dirs()?),
        Verb::Reset => reset::reset(&globals),
        Verb::Status { what, json } => status::status(&globals.client()?, what, json),
        Verb::Report => status::report(&globals.client()?),
        Verb::Connect { replace, peers } => targets::connect(&globals.client()?, peers, replace),
        Verb::Forget { peers } => targets::forget(&globals.client()?, peers),
        Verb::Attach(attach) => containers::attach(&globals.client()?, attach),
        Verb::Detach(detach) => containers::detach(&globals.client()?, detach),
        Verb::Ps { containers, json } => containers::ps(&globals.client()?, &containers, json),
        Verb::Expose(expose) => containers::expose(&globals.client()?, expose),
        Verb::Hide(hide) => containers::hide(&globals.client()?, hide),
        Verb::Secret => manual::secret(),
        Verb::Version => manual::version(),
        Verb::Completions { shell } => manual::completions(shell),
        Verb::Man { dir } => manual::man(dir.as_deref()),
    }
}
