//! What the demo prints, and how: titles, what is done, what came of it, in colours where there is a terminal.

use std::{
    fmt::Display,
    io::{self, Write},
    time::Instant,
};

use anstyle::{AnsiColor, Style};
use anyhow::Result;

const TITLE: Style = AnsiColor::Cyan.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const QUIET: Style = Style::new().dimmed();

/// Prints a line; a reader that went away is no error.
pub fn line(text: impl Display) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a title.
pub fn title(text: &str) -> Result<()> {
    line(format_args!("\n{TITLE}{text}{TITLE:#}"))
}

/// Prints a command as it would be typed on `host`, and what it printed.
pub fn command(host: &str, words: &str, output: &str) -> Result<()> {
    line(format_args!("  {QUIET}{host}#{QUIET:#} {words}"))?;
    output.trim_end().lines().try_for_each(|text| line(format_args!("    {text}")))
}

/// Does a step and prints its verdict: what `work` says was seen, or why it failed.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    let started = Instant::now();
    match work() {
        Ok((value, seen)) => {
            let took = started.elapsed().as_secs_f64();
            line(format_args!("  {GOOD}✓{GOOD:#} {what}: {seen} {QUIET}({took:.1} s){QUIET:#}"))?;
            Ok(value)
        }
        Err(error) => {
            line(format_args!("  {BAD}✗{BAD:#} {what}"))?;
            Err(error)
        }
    }
}

/// Prints the last line of all.
pub fn verdict(well: bool, text: &str) -> Result<()> {
    let (style, mark) = if well { (GOOD, '✓') } else { (BAD, '✗') };
    line(format_args!("\n{style}{mark} {text}{style:#}"))
}

/// Prints an error to standard error.
pub fn complain(error: &anyhow::Error) {
    // Nothing can be said about a standard error that does not work.
    let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {error:#}");
}
