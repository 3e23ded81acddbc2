//! Who has a name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use thiserror::Error;

use crate::api::allocation::{self, OWNER_MAX};

/// The host itself, by its addresses on the bridge.
pub const EXPOSED: &str = allocation::EXPOSED;
/// Nobody on the network: names given by hand to addresses.
pub const EXTERN: &str = "weft:extern";

/// What is wrong with an owner.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("an owner of names has 1 to {OWNER_MAX} bytes without control characters")]
pub struct OwnerError;

/// A container as it was named when it was attached, or [`EXPOSED`], or [`EXTERN`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Owner(Box<str>);

impl Owner {
    /// The owner of names given by hand.
    pub fn external() -> Self {
        Self(EXTERN.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is there whatever is attached.
    pub fn is_external(&self) -> bool {
        &*self.0 == EXTERN
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        if text.is_empty() || text.len() > OWNER_MAX || text.chars().any(char::is_control) {
            return Err(OwnerError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_a_bound_and_no_control_characters() {
        assert_eq!("c1".parse::<Owner>().unwrap().to_string(), "c1");
        assert!(EXTERN.parse::<Owner>().unwrap().is_external());
        for bad in ["", "a\nb", &"x".repeat(OWNER_MAX + 1)] {
            assert_eq!(bad.parse::<Owner>(), Err(OwnerError));
        }
    }
}
