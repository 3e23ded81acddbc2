//! Where the network's secret is, and how it gets out of there without being seen.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use zeroize::Zeroizing;

use crate::{output, settings::read_bounded};

/// The environment's variable with the secret.
pub(crate) const ENV: &str = "WEFT_PASSWORD";
/// Longest secret in bytes; a page, so that it always fits into a pipe.
pub(crate) const SECRET_MAX: u64 = 4096;

/// Where the secret is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Here, from the place named.
    Text(Zeroizing<String>, &'static str),
    /// In a file.
    File(PathBuf),
    /// On standard input, to its end.
    Stdin,
}

impl Source {
    /// The source that one level (command line, environment, file) gives.
    pub(crate) fn pick(text: Option<String>, file: Option<PathBuf>, place: &'static str) -> Option<Self> {
        match (text, file) {
            (Some(text), _) => Some(Self::Text(Zeroizing::new(text), place)),
            (None, Some(file)) if file.as_os_str() == "-" => Some(Self::Stdin),
            (None, Some(file)) => Some(Self::File(file)),
            (None, None) => None,
        }
    }

    /// Reads the secret; one newline at its end is not part of it.
    pub(crate) fn read(&self) -> anyhow::Result<Zeroizing<String>> {
        let text = match self {
            Self::Text(text, _) => text.clone(),
            Self::File(path) => {
                let text = read_bounded(path, SECRET_MAX);
                let text = text.with_context(|| format!("cannot read the password file {}", path.display()))?;
                warn_if_readable(path);
                without_newline(text)
            }
            Self::Stdin => {
                let mut text = String::new();
                let read = io::stdin().lock().take(SECRET_MAX + 1).read_to_string(&mut text);
                read.context("cannot read the password from standard input")?;
                without_newline(text)
            }
        };
        ensure!(!text.is_empty(), "{self} is empty: put a secret there (`weft secret` makes one), or leave it out");
        ensure!(text.len() as u64 <= SECRET_MAX, "{self} is longer than {SECRET_MAX} bytes");
        Ok(text)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_, place) => f.write_str(place),
            Self::File(path) => write!(f, "the password file {}", path.display()),
            Self::Stdin => f.write_str("the password given"),
        }
    }
}

/// `WEFT_PASSWORD`, if it is set.
pub(crate) fn from_env() -> anyhow::Result<Option<String>> {
    let Some(text) = std::env::var_os(ENV) else {
        return Ok(None);
    };
    match text.into_string() {
        Ok(text) => Ok(Some(text)),
        Err(_) => bail!("{ENV} is not UTF-8 text"),
    }
}

/// Warns when others than the owner may read a file with a secret.
pub(crate) fn warn_if_readable(path: &Path) {
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.mode());
    if mode & 0o044 != 0 {
        let path = path.display();
        output::warn(format_args!("others may read the secret in {path}: chmod 600 {path}"));
    }
}

fn without_newline(text: String) -> Zeroizing<String> {
    let mut text = Zeroizing::new(text);
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_dropped() {
        for (text, secret) in [("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")] {
            assert_eq!(without_newline(text.to_owned()).as_str(), secret);
        }
    }

    #[test]
    fn a_file_that_holds_no_secret_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |content: &[u8]| {
            let path = dir.path().join("secret");
            fs::write(&path, content).unwrap();
            format!("{:#}", Source::File(path).read().unwrap_err())
        };
        assert!(error(b"\n").contains("secret is empty: put a secret there"));
        assert!(error(&[b'x'; 5000]).contains("larger than 4096 bytes"));
        assert!(error(b"\xff\xfe").contains("UTF-8"));
        let missing = format!("{:#}", Source::File(dir.path().join("none")).read().unwrap_err());
        assert!(missing.contains("cannot read the password file") && missing.contains("No such file"), "{missing}");
        assert!(Source::File(dir.path().to_owned()).read().is_err());
    }

    #[test]
    fn a_dash_is_standard_input() {
        assert_eq!(Source::pick(None, Some("-".into()), "x"), Some(Source::Stdin));
    }
}
