//! A name as DNS knows it: labels with dots between them, in lower case.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use thiserror::Error;

/// Longest label in bytes (RFC 1035 §2.3.4).
pub const LABEL_MAX: usize = 63;
/// Longest name in bytes without the dot at its end: with lengths and the root it has 255 (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 253;
/// What is repeated of a bad name, in characters.
const SHOWN_MAX: usize = 64;

/// What is wrong with a name.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "`{0}` is no name: use labels of 1 to {LABEL_MAX} letters, digits, - and _, dots between them, \
     and at most {NAME_MAX} characters"
)]
pub struct NameError(String);

/// A name without the dot at its end; at least one label. Names that differ in case only are one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct DnsName(Box<str>);

impl DnsName {
    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has one label only.
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }

    /// Whether it is `domain` or below it.
    pub fn is_within(&self, domain: &Self) -> bool {
        let before = self.0.strip_suffix(&*domain.0);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    /// The name below `domain`; None if that is too long.
    pub fn below(&self, domain: &Self) -> Option<Self> {
        format!("{self}.{domain}").parse().ok()
    }

    /// The labels, the most special one first.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

/// Letters, digits and hyphens (RFC 1123 §2.1), and the underscores that people use. A hyphen does not begin a label.
fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl FromStr for DnsName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > NAME_MAX || !name.split('.').all(is_label) {
            return Err(NameError(text.chars().take(SHOWN_MAX).collect()));
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DnsName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_read_whatever_their_case_and_with_or_without_the_last_dot() {
        for text in ["web", "Web.Weft.Local", "web.weft.local.", "_srv.a-b.x", "1.2"] {
            assert_eq!(name(text).as_str(), text.trim_end_matches('.').to_lowercase());
        }
        let longest =
            [&"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].map(String::as_str).join(".");
        assert_eq!((longest.len(), name(&longest).as_str()), (NAME_MAX, &*longest));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let too_long = vec!["a"; 128].join(".");
        for text in ["", ".", "a..b", ".a", "a b", "-a", "a-", "ä", "a/b", "a*", &"a".repeat(64), &too_long, "a\0"] {
            assert!(text.parse::<DnsName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_within_a_domain_by_whole_labels() {
        let domain = name("weft.local");
        assert!(name("weft.local").is_within(&domain) && name("a.b.weft.local").is_within(&domain));
        assert!(!name("aweft.local").is_within(&domain) && !name("local").is_within(&domain));
        assert_eq!(name("web").below(&domain), Some(name("web.weft.local")));
        assert_eq!(name(&"a".repeat(63)).below(&name(&vec!["b"; 110].join("."))), None);
    }

    #[test]
    fn any_text_is_a_name_or_an_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(name) = String::from_utf8_lossy(bytes).parse::<DnsName>() {
                assert_eq!(name.as_str().parse(), Ok(name));
            }
        });
    }
}
