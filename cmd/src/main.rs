//! The `weft` binary: the command line, the daemon as `weft router`, and CNI plugins by the names `weft-net` and `weft-ipam`.
//! `weft --help` lists the verbs.

mod addresses;
mod cli;
mod cni;
mod containers;
mod docker;
mod flags;
mod handover;
mod kubernetes;
mod launch;
mod logging;
mod manual;
mod names;
mod output;
mod password;
mod process;
mod reset;
mod router;
mod settings;
mod sim;
mod status;
mod stop;
mod targets;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Explain, Verb};
use weft_plugin::cni::Program;

fn main() -> ExitCode {
    // A container runtime waits: before anything else.
    if let Some(program) = std::env::args_os().next().and_then(|name| Program::called(&name)) {
        return cni::plugin(program);
    }
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
        Verb::Explain { what: Some(Explain::Ip { json, address }), .. } => {
            addresses::explain(&globals.client()?, address, json)
        }
        Verb::Explain { what: None, json, peer } => {
            status::explain(&globals.client()?, &peer.unwrap_or_default(), json)
        }
        Verb::Rmpeer { json, peers } => addresses::rmpeer(&globals.client()?, peers, json),
        Verb::Prime { alone } => addresses::prime(&globals.client()?, alone),
        Verb::Connect { replace, peers } => targets::connect(&globals.client()?, peers, replace),
        Verb::Forget { peers } => targets::forget(&globals.client()?, peers),
        Verb::Attach(attach) => containers::attach(&globals.client()?, attach),
        Verb::Detach(detach) => containers::detach(&globals.client()?, detach),
        Verb::Ps { containers, json } => containers::ps(&globals.client()?, &containers, json),
        Verb::Expose(expose) => containers::expose(&globals.client()?, expose),
        Verb::Hide(hide) => containers::hide(&globals.client()?, hide),
        Verb::DnsAdd(add) => names::add(&globals.client()?, &add),
        Verb::DnsRemove(remove) => names::remove(&globals.client()?, remove),
        Verb::DnsLookup { name, json } => names::lookup(&globals.client()?, &name, json),
        Verb::DnsArgs => names::args(&globals.client()?),
        Verb::SetupCni { bin_dir, conf_dir } => cni::setup(&bin_dir, &conf_dir),
        Verb::Kubernetes(kubernetes) => kubernetes::kubernetes(kubernetes, &globals),
        Verb::Sim(what) => sim::sim(*what),
        Verb::Secret => manual::secret(),
        Verb::Version => manual::version(),
        Verb::Completions { shell } => manual::completions(shell),
        Verb::Man { dir } => manual::man(dir.as_deref()),
    }
}
