//! What went wrong, as the specification wants it told (1.1.0, section 2 "Error").

use serde::{Deserialize, Serialize};
use weft_host::HostError;

use super::version::Version;
use crate::client::ClientError;

/// The kinds of failure: 1 to 99 are the specification's, from 100 on they are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The version of the specification is not spoken, or has no such verb.
    IncompatibleVersion = 1,
    /// A field of the configuration cannot be fulfilled; the message has its key and value.
    UnsupportedField = 2,
    /// The container is not there: nothing needs to be cleaned up.
    UnknownContainer = 3,
    /// A variable of the environment is missing or makes no sense.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// What was read cannot be understood.
    Decode = 6,
    /// The configuration makes no sense.
    InvalidConfig = 7,
    /// It may go better in a while.
    TryAgain = 11,
    /// STATUS: no ADD can succeed.
    NotAvailable = 50,
    /// STATUS: no ADD can succeed, and containers may have lost some of the network.
    LimitedConnectivity = 51,
    /// The router or the host refused.
    Refused = 100,
    /// CHECK: the container is not as ADD left it.
    NotAsAdded = 101,
    /// The plugin for addresses failed without saying how.
    Delegate = 102,
    /// GC: not all could be cleaned up.
    Incomplete = 103,
}

/// What is printed when something went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Version of the specification; set when it is printed.
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    /// Its number, see [`Code`]; that of a delegated plugin is passed on.
    pub code: u32,
    /// In short.
    pub msg: String,
    /// In detail.
    #[serde(default)]
    pub details: String,
}

impl Failure {
    /// A failure in words for people.
    pub fn new(code: Code, msg: impl ToString) -> Self {
        let msg = msg.to_string();
        Self { cni_version: Version::default().to_string(), code: code as u32, msg, details: String::new() }
    }

    /// With more words.
    #[must_use]
    pub fn with(self, details: impl ToString) -> Self {
        Self { details: details.to_string(), ..self }
    }

    /// Whether it is of this kind.
    pub fn is(&self, code: Code) -> bool {
        self.code == code as u32
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning(_) | ClientError::Silent { .. } | ClientError::Broken { .. } => Code::TryAgain,
            ClientError::Refused { status: 503 | 504, .. } => Code::TryAgain,
            ClientError::Refused { .. } => Code::Refused,
            ClientError::NotAllowed(_) | ClientError::Unreachable { .. } => Code::Io,
            ClientError::Unreadable { .. } => Code::Decode,
        };
        let details = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Self::new(code, error).with(details)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let code = if let HostError::NoNamespace(_) = error {
            Code::UnknownContainer
        } else if matches!(error, HostError::OwnNamespace(_) | HostError::NotANamespace(_)) {
            Code::InvalidEnvironment
        } else {
            Code::Io
        };
        Self::new(code, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_keys_of_the_specification() {
        let failure = Failure::new(Code::TryAgain, "m").with("d");
        let json = r#"{"cniVersion":"1.1.0","code":11,"msg":"m","details":"d"}"#;
        assert_eq!(serde_json::to_string(&failure).unwrap(), json);
        let brief: Failure = serde_json::from_str(r#"{"code":7,"msg":"m"}"#).unwrap();
        assert_eq!(brief.to_string(), "m (code 7)");
    }

    #[test]
    fn what_passes_is_tried_again_and_what_is_wrong_is_not() {
        let refused = |status| ClientError::Refused { status, code: None, message: "no".to_owned() };
        for (error, code) in [
            (ClientError::NotRunning("/s".into()), Code::TryAgain),
            (refused(503), Code::TryAgain),
            (refused(504), Code::TryAgain),
            (refused(400), Code::Refused),
            (refused(409), Code::Refused),
            (refused(500), Code::Refused),
            (ClientError::NotAllowed("/s".into()), Code::Io),
        ] {
            let shown = error.to_string();
            assert!(Failure::from(error).is(code), "{shown}");
        }
    }
}
