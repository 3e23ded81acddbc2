//! Spans of time and shares as people write them: `20ms`, `1.5 s`, `5%`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, de};
use thiserror::Error;

/// Units, the longer of two that end alike first.
const UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Longest span that is one, in seconds: a year.
const SPAN_MAX: f64 = 366.0 * 86_400.0;

/// A text that is no quantity.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not a span of time.
    #[error("`{0}` is no time: write a number and its unit, h, m, s, ms or us, such as 20ms")]
    Span(String),
    /// Not a share.
    #[error("`{0}` is no share: write a percentage from 0% to 100%, such as 1.5%, or a number from 0 to 1")]
    Share(String),
}

/// A span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A share of a whole, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parts = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        let number = parts.and_then(|(number, unit)| Some(plain(number.trim_end())? * unit));
        number
            .filter(|seconds| *seconds <= SPAN_MAX)
            .map(|seconds| Self(Duration::from_micros((seconds * 1e6).round() as u64)))
            .ok_or_else(|| QuantityError::Span(shortened(text)))
    }
}

impl FromStr for Share {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let share = match text.strip_suffix('%') {
            Some(number) => plain(number.trim_end()).map(|percent| percent / 100.0),
            None => plain(text),
        };
        share.filter(|share| *share <= 1.0).map(Self).ok_or_else(|| QuantityError::Share(shortened(text)))
    }
}

/// A number of digits and at most one point: neither `inf` nor `1e9` nor a sign.
fn plain(text: &str) -> Option<f64> {
    let is_plain = text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| is_plain)
}

/// Enough of a text to know it again.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Text(text) => text.parse().map_err(de::Error::custom),
            Value::Number(number) => Err(de::Error::custom(QuantityError::Span(number.to_string()))),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::Text(text) => text,
            Value::Number(number) => number.to_string(),
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// What a quantity may be in a file.
enum Value {
    Text(String),
    Number(f64),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity, such as \"20ms\" or \"1%\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Number(number as f64))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Number(number))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit_and_shares_a_bound() {
        let span = |text: &str| text.parse().map(|Span(span)| span).ok();
        assert_eq!(span("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(span("1.5 s"), Some(Duration::from_millis(1500)));
        assert_eq!([span("2m"), span("1h")], [Some(Duration::from_secs(120)), Some(Duration::from_secs(3600))]);
        assert_eq!([span("300us"), span("300µs")], [Some(Duration::from_micros(300)); 2]);
        for bad in ["", "20", "ms", "-1s", "1e9s", "infs", "1 day", "1.2.3s", "99999999h"] {
            assert_eq!(span(bad), None, "{bad}");
        }
        let share = |text: &str| text.parse().map(|Share(share)| share).ok();
        assert_eq!([share("1%"), share("0.25"), share("100 %")], [Some(0.01), Some(0.25), Some(1.0)]);
        for bad in ["", "%", "101%", "1.01", "-1%", "NaN", "half"] {
            assert_eq!(share(bad), None, "{bad}");
        }
    }
}
