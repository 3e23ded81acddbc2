//! The Container Network Interface: what podman, containerd and the kubelet speak.
//!
//! A runtime runs the plugin with a [`Verb`] and its arguments in the environment and a [`NetworkConfig`] on standard
//! input; the plugin prints a result or a [`Failure`] (CNI specification 1.1.0, sections 2 and 5).

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the runtime wants, by the environment's `CNI_COMMAND`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Plug a container in.
    Add,
    /// Unplug it; well too if it is not plugged in.
    Del,
    /// See whether it is as ADD left it.
    Check,
    /// Unplug all that the runtime does not know any more.
    Gc,
    /// Whether an ADD could succeed.
    Status,
    /// Which versions of the specification are spoken.
    Version,
}

/// `CNI_COMMAND` is none that the specification knows.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("CNI_COMMAND is `{0}`: expected ADD, DEL, CHECK, GC, STATUS or VERSION")]
pub struct UnknownVerb(String);

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        match text {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            _ => Err(UnknownVerb(text.chars().take(16).collect())),
        }
    }
}

/// The part of the configuration that every plugin gets (section 1); other keys are the plugin's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NetworkConfig {
    /// Version of the specification to answer in.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// The network's name in the runtime.
    pub name: String,
    /// The plugin's executable.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What is printed when something went wrong (section 5, "Error").
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Version of the specification, as it was asked for.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// 1 to 99 have a meaning in the specification, from 100 on they are ours.
    pub code: u32,
    /// In short.
    pub msg: String,
    /// In detail.
    pub details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_spelled_as_the_specification_does() {
        assert_eq!("ADD".parse(), Ok(Verb::Add));
        assert_eq!("GC".parse(), Ok(Verb::Gc));
        assert!("add".parse::<Verb>().unwrap_err().to_string().contains("expected ADD"));
    }

    #[test]
    fn a_configuration_with_keys_of_others_is_read() {
        let text = r#"{"cniVersion":"1.0.0","name":"weft","type":"weft","ipam":{"type":"host-local"}}"#;
        let config: NetworkConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.name.as_str(), config.kind.as_str()), ("weft", "weft"));
    }

    #[test]
    fn a_failure_has_the_keys_of_the_specification() {
        let failure = Failure { cni_version: "1.0.0".into(), code: 11, msg: "m".into(), details: "d".into() };
        let json = r#"{"cniVersion":"1.0.0","code":11,"msg":"m","details":"d"}"#;
        assert_eq!(serde_json::to_string(&failure).unwrap(), json);
    }
}
