//! The Container Network Interface: what podman, containerd and the kubelet speak (specification 0.3.1 to 1.1.0).
//!
//! A runtime runs the plugin with a verb and its arguments in the environment and a configuration on standard input; the plugin prints a
//! result or a failure, and ends. It keeps no state: what is plugged in, the router and the kernel know.
//!
//! ```text
//! runtime ─▶ weft-net ─┬─ addresses: weft-ipam's code, or another plugin, run likewise
//!                      └─ POST /attach, /detach ─▶ router
//! ```
//! An interface is attached, and owns its addresses, under `NETWORK/CONTAINER/DEVICE`. While no router runs, DEL removes the device
//! itself and leaves a note in the [spool](weft_host::spool) for the next router, or for the next call that finds one.

mod call;
mod config;
mod delegate;
mod failure;
mod gateway;
mod ipam;
mod network;
mod outcome;
mod own;
mod session;
pub mod setup;
mod version;

use std::{ffi::OsStr, io::Read, path::Path};

use serde::Deserialize;

pub use self::{
    call::Environment,
    failure::{Code, Failure},
    version::Version,
};
use self::{
    call::Verb,
    config::{CONFIG_MAX, Config},
    session::Session,
};

/// What this program is called when it is a plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// `weft-net`: devices and, unless another plugin is asked, addresses.
    Network,
    /// `weft-ipam`: addresses only, for other plugins.
    Addresses,
}

impl Program {
    /// By the name that the program was called by, if that is a plugin's.
    pub fn called(name: &OsStr) -> Option<Self> {
        let name = Path::new(name).file_name()?;
        [Self::Network, Self::Addresses].into_iter().find(|program| name == program.name())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "weft-net",
            Self::Addresses => config::OWN_IPAM,
        }
    }
}

/// What a call prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Printed {
    /// The text; may be empty.
    pub text: String,
    /// Whether the call succeeded.
    pub success: bool,
}

/// Answers one call.
pub fn run(program: Program, env: &Environment, input: impl Read) -> Printed {
    let mut text = Vec::new();
    // One byte more than is taken, to see that there is more.
    let read = input.take(CONFIG_MAX as u64 + 1).read_to_end(&mut text);
    let version = stated(&text);
    let done = match read {
        Err(error) => Err(Failure::new(Code::Io, "standard input cannot be read").with(error)),
        Ok(length) if length > CONFIG_MAX => {
            Err(Failure::new(Code::Decode, format!("the network configuration is larger than {CONFIG_MAX} bytes")))
        }
        Ok(_) => answer(program, env, text),
    };
    match done {
        Ok(text) => Printed { text, success: true },
        Err(failure) => {
            let failure = Failure { cni_version: version.to_string(), ..failure };
            let text = serde_json::to_string(&failure).unwrap_or_else(|error| error.to_string());
            Printed { text, success: false }
        }
    }
}

fn answer(program: Program, env: &Environment, text: Vec<u8>) -> Result<String, Failure> {
    let verb: Verb = env.get("CNI_COMMAND").map(String::as_str).unwrap_or_default().parse()?;
    if verb == Verb::Version {
        return Ok(versions(&text));
    }
    let session = Session::new(env, Config::read(verb, text)?);
    let nothing = |()| String::new();
    match (program, verb) {
        (Program::Network, Verb::Add) => network::add(&session)?.written(session.config.version),
        (Program::Network, Verb::Del) => network::del(&session).map(nothing),
        (Program::Network, Verb::Check) => network::check(&session).map(nothing),
        (Program::Network, Verb::Gc) => network::gc(&session).map(nothing),
        (Program::Network, Verb::Status) => network::status(&session).map(nothing),
        (Program::Addresses, Verb::Add) => ipam::alone::add(&session)?.written(session.config.version),
        (Program::Addresses, Verb::Del) => ipam::alone::del(&session).map(nothing),
        (Program::Addresses, Verb::Check) => ipam::alone::check(&session).map(nothing),
        (Program::Addresses, Verb::Gc) => own::gc(&session).map(nothing),
        (Program::Addresses, Verb::Status) => own::status(&session).map(nothing),
        (_, Verb::Version) => Ok(versions(&session.config.text)),
    }
}

/// The answer to VERSION, which has the version that was asked with, known or not.
fn versions(text: &[u8]) -> String {
    let stated = serde_json::from_slice::<Stated>(text).ok().and_then(|stated| stated.cni_version);
    let stated = stated.unwrap_or_else(|| Version::default().to_string());
    serde_json::json!({ "cniVersion": stated, "supportedVersions": Version::ALL.map(Version::as_str) }).to_string()
}

/// The version to fail in: that of the configuration if it can be told, else the newest.
fn stated(text: &[u8]) -> Version {
    let stated = serde_json::from_slice::<Stated>(text).ok().and_then(|stated| stated.cni_version);
    stated.as_deref().and_then(Version::parse).unwrap_or_default()
}

#[derive(Deserialize)]
struct Stated {
    #[serde(rename = "cniVersion")]
    cni_version: Option<String>,
}

#[cfg(test)]
mod tests;
