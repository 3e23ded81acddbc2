//! The program `uml`: a guest from the command line.
//!
//! Its status is the command's; 124 if the time limit passed, 125 if there was no guest or it died.

use std::{ffi::OsString, io, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};

use super::{Ended, Guest};
use crate::demo::screen;

const USAGE: &str = "usage: uml [--limit SECONDS] [--writable DIR]... [--] COMMAND [ARG]...";
/// Seconds, unless told otherwise.
const LIMIT: u64 = 300;
const TIMED_OUT: u8 = 124;
const NO_GUEST: u8 = 125;

/// The program.
pub fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            screen::complain(&error);
            ExitCode::from(NO_GUEST)
        }
    }
}

fn run(args: Vec<OsString>) -> Result<u8> {
    let (guest, command) = parse(args)?;
    match guest.run(&command, &mut io::stdout(), &mut io::stderr())? {
        Ended::Status(status) => Ok(status),
        Ended::TimedOut(console) => {
            screen::complain(&anyhow::anyhow!("the time limit passed; the console's last lines:\n{console}"));
            Ok(TIMED_OUT)
        }
        Ended::Died(console) => bail!("the guest died: {console}"),
    }
}

fn parse(args: Vec<OsString>) -> Result<(Guest, Vec<OsString>)> {
    let (mut limit, mut writable) = (LIMIT, Vec::new());
    let mut args = args.into_iter().peekable();
    while let Some(option) = args.next_if(|arg| arg.as_encoded_bytes().starts_with(b"-")) {
        match option.to_str() {
            Some("--limit") => {
                let value = args.next().and_then(|value| value.to_str()?.parse().ok());
                limit = value.context("--limit SECONDS")?;
            }
            Some("--writable") => writable.push(args.next().context("--writable DIR")?),
            Some("--") => break,
            _ => bail!("{}: {USAGE}", option.display()),
        }
    }
    let command: Vec<_> = args.collect();
    if command.is_empty() {
        bail!("{USAGE}");
    }
    let guest = Guest::new(Duration::from_secs(limit));
    Ok((writable.into_iter().fold(guest, Guest::writable), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<(Guest, Vec<OsString>)> {
        parse(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let (guest, command) = parsed(&["--limit", "7", "--writable", "/a", "ls", "--limit"]).unwrap();
        assert_eq!((guest.limit, guest.writable), (Duration::from_secs(7), vec!["/a".into()]));
        assert_eq!(command, ["ls", "--limit"]);
        assert_eq!(parsed(&["--", "--odd"]).unwrap().1, ["--odd"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for args in [&[][..], &["--limit", "x", "ls"], &["--what", "ls"], &["--"]] {
            assert!(parsed(args).is_err(), "{args:?}");
        }
    }
}
