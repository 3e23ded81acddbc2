//! Docker's network plugins: the engine posts JSON to a unix socket, one path a call.
//!
//! The first call is `/Plugin.Activate`, answered by an [`Activation`]; every call may be answered by a [`Failure`]
//! instead (Docker plugin API v1.2; libnetwork's remote driver).

use serde::Serialize;

/// What a plugin can be to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Role {
    /// Makes networks and plugs containers in: `/NetworkDriver.…`.
    NetworkDriver,
    /// Chooses addresses: `/IpamDriver.…`.
    IpamDriver,
}

/// The answer to `/Plugin.Activate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Activation {
    /// All roles of this plugin.
    #[serde(rename = "Implements")]
    pub implements: Vec<Role>,
}

/// The answer to a call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What went wrong; the engine shows it.
    #[serde(rename = "Err")]
    pub err: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_engines_spelling() {
        let activation = Activation { implements: vec![Role::NetworkDriver, Role::IpamDriver] };
        assert_eq!(serde_json::to_string(&activation).unwrap(), r#"{"Implements":["NetworkDriver","IpamDriver"]}"#);
        assert_eq!(serde_json::to_string(&Failure { err: "x".into() }).unwrap(), r#"{"Err":"x"}"#);
    }
}
