//! The one way to print. Colours end where a terminal does, or when `NO_COLOR` is set; a reader that has gone away
//! (`weft status | head -1`) is no error.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use weft::api::text::{Table, Tone};

/// Prints text to standard output as it is; it ends with its own newline.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints one line.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))
}

/// Prints JSON for people and programs alike.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints a table in colours.
pub(crate) fn table(table: &Table) -> anyhow::Result<()> {
    print(table.painted(|tone, text| {
        let style = style(tone);
        format!("{style}{text}{style:#}")
    }))
}

/// Says on standard error why the command failed, and what led to it.
pub(crate) fn complain(error: &anyhow::Error) {
    note("error", AnsiColor::Red.on_default().bold(), causes(error));
}

/// An error and what led to it, each once: some errors repeat their cause in their own words.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}

/// Says on standard error what should be looked at.
pub(crate) fn warn(text: impl Display) {
    note("warning", AnsiColor::Yellow.on_default().bold(), text);
}

/// Says on standard error what goes on.
pub(crate) fn progress(text: impl Display) {
    // Nothing can be said about a standard error that does not work.
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn note(word: &str, style: Style, text: impl Display) {
    progress(format_args!("{style}{word}:{style:#} {text}"));
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Label => Style::new().dimmed(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Warn => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("no space").context("cannot write x: no space").context("cannot start");
        assert_eq!(causes(&error), "cannot start: cannot write x: no space");
    }
}
