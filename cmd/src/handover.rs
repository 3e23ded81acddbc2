//! Keeps the network's secret out of the process list.
//!
//! Who gives it by `--password` or `WEFT_PASSWORD` has put it into memory that the system shows to others
//! (`/proc/PID/cmdline`, `/proc/PID/environ`). The process therefore starts itself over, with the same id and the same
//! options, but the secret in a pipe as standard input. The same way `launch` hands it to the router it starts.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, ensure};
use clap::{ArgMatches, CommandFactory, parser::ValueSource};

use crate::{
    cli::Cli,
    flags::RouterFlags,
    password::{self, SECRET_MAX, Source},
};

/// Starts this process over if its command line or environment show the secret; returns if they do not.
pub(crate) fn scrub(flags: &RouterFlags, matches: &ArgMatches) -> anyhow::Result<()> {
    let env = if flags.password_file.is_some() { None } else { password::from_env()? };
    let source = Source::pick(flags.password.clone(), None, "--password").or(Source::pick(env, None, password::ENV));
    let (Some(source), Some((verb, _))) = (source, matches.subcommand()) else {
        return Ok(());
    };
    match start_over(&source, &[verb], matches)? {}
}

/// A command for this program: `verb`, a verb and perhaps flags, with the options of the command line, but with the secret on standard input if
/// `by_stdin`.
pub(crate) fn command(verb: &[&str], matches: &ArgMatches, by_stdin: bool) -> Command {
    let mut command = Command::new(program());
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "weft".into()));
    command.args(arguments(verb, matches, by_stdin)).env_remove(password::ENV);
    command
}

fn start_over(source: &Source, verb: &[&str], matches: &ArgMatches) -> anyhow::Result<Infallible> {
    let secret = source.read()?;
    // Readers take one newline off. All of it fits into the pipe: SECRET_MAX is less than any pipe holds.
    ensure!(secret.len() as u64 <= SECRET_MAX, "{source} is longer than {SECRET_MAX} bytes");
    let (reader, mut writer) = io::pipe().context("cannot make a pipe for the secret")?;
    writer
        .write_all(secret.as_bytes())
        .and_then(|()| writer.write_all(b"\n"))
        .context("cannot hand over the secret")?;
    drop(writer);
    let error = command(verb, matches, true).stdin(reader).exec();
    Err(error).context("cannot start over to hide the secret: use --password-file")
}

/// This very binary. Its path, so that the process list shows its name; the link when the path is gone.
fn program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// The command line again as it was understood, with another verb.
fn arguments(verb: &[&str], matches: &ArgMatches, by_stdin: bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = verb.iter().map(OsString::from).collect();
    let mut positional = Vec::new();
    let mut root = Cli::command();
    root.build();
    let Some((given, matches)) = matches.subcommand() else {
        return arguments;
    };
    for arg in root.find_subcommand(given).into_iter().flat_map(clap::Command::get_arguments) {
        let id = arg.get_id().as_str();
        let on_command_line =
            matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine);
        if !on_command_line || (by_stdin && ["password", "password_file"].contains(&id)) {
            continue;
        }
        let values = matches.get_raw(id).into_iter().flatten();
        match arg.get_long() {
            None => positional.extend(values.map(OsStr::to_owned)),
            Some(long) if arg.get_action().takes_values() => {
                arguments.extend(values.map(|value| option(long, value)));
            }
            Some(long) => arguments.push(format!("--{long}").into()),
        }
    }
    if by_stdin {
        arguments.push("--password-file=-".into());
    }
    if !positional.is_empty() {
        arguments.push("--".into());
        arguments.append(&mut positional);
    }
    arguments
}

fn option(long: &str, value: &OsStr) -> OsString {
    let mut option = OsString::from(format!("--{long}="));
    option.push(value);
    option
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Verb;

    const GIVEN: &[&str] = &[
        "weft",
        "--run-dir",
        "/tmp/r",
        "launch",
        "--password",
        "top secret",
        "--port=7000",
        "--no-discovery",
        "--trusted-subnets",
        "10.0.0.0/8,fd00::/8",
        "--log-level",
        "warning",
        "--config",
        "weft.toml",
        "host-1",
        "10.0.0.2:6783",
    ];

    #[test]
    fn options_survive_and_the_secret_does_not() {
        let matches = Cli::command().get_matches_from(GIVEN);
        let mut arguments = arguments(&["router"], &matches, true);
        assert_eq!(arguments.remove(0), "router");
        let targets = arguments.split_off(arguments.len() - 3);
        assert_eq!(targets, ["--", "host-1", "10.0.0.2:6783"]);
        arguments.sort();
        assert_eq!(
            arguments,
            [
                "--config=weft.toml",
                "--log-level=warning",
                "--no-discovery",
                "--password-file=-",
                "--port=7000",
                "--run-dir=/tmp/r",
                "--trusted-subnets=10.0.0.0/8",
                "--trusted-subnets=fd00::/8",
            ]
        );
    }

    #[test]
    fn a_rebuilt_command_line_means_the_same() {
        let given: Vec<_> = GIVEN.iter().filter(|word| !["--password", "top secret"].contains(word)).collect();
        let matches = Cli::command().get_matches_from(given);
        // As `launch` starts it.
        let router = arguments(&["router", "--background"], &matches, true);
        let words = [OsString::from("weft")].into_iter().chain(router);
        let Verb::Router { flags, background } = Cli::parse_from(words).verb else { panic!("not router") };
        assert!(background && flags.no_discovery);
        assert_eq!((flags.port.map(u16::from), flags.peers.len()), (Some(7000), 2));

        let once = arguments(&["launch"], &matches, false);
        let again = Cli::command().get_matches_from([OsString::from("weft")].into_iter().chain(once.clone()));
        assert_eq!(arguments(&["launch"], &again, false), once);
    }
}
