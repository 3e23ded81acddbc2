//! The configuration that comes on standard input (specification 1.1.0, section 1): what is the specification's, and what is ours.

use std::{fmt::Display, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;
use weft::{
    api::{Route, allocation::OWNER_MAX},
    id::Mac,
};

use super::{
    call::{self, Environment, Verb},
    failure::{Code, Failure},
    outcome::Dns,
    version::Version,
};

/// Largest configuration in bytes.
pub(super) const CONFIG_MAX: usize = 4 << 20;
/// How long the router may take if the configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that may be given to it, in seconds.
const TIMEOUT_MAX: f64 = 600.0;
/// Where a router is if nobody says.
const RUN_DIR: &str = "/run/weft";
const DATA_DIR: &str = "/var/lib/weft";
/// Our own plugin for addresses.
pub(super) const OWN_IPAM: &str = "weft-ipam";
/// Longest name of a network in bytes: what the container and its device take besides.
const NAME_MAX: usize = OWNER_MAX - 150;

/// A configuration as read and checked.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// As it came, for delegated plugins.
    pub(super) text: Vec<u8>,
    /// The version to speak.
    pub(super) version: Version,
    /// The network's name.
    pub(super) network: String,
    /// What is asked of this network.
    pub(super) fields: Fields,
}

/// The fields that concern us; all others are for others.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fields {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: Option<String>,
    /// Bytes of the largest IP packet of containers; 0 for the bridge's.
    #[serde(default)]
    pub(super) mtu: u32,
    /// Whether a container may reach itself by an address of another (a service's); true if not given, as with Weave Net.
    #[serde(default)]
    pub(super) hairpin_mode: Option<bool>,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    ip_masq: bool,
    /// Where addresses come from.
    #[serde(default)]
    pub(super) ipam: Ipam,
    /// Copied to the result, unless the plugin for addresses has its own.
    #[serde(default)]
    pub(super) dns: Dns,
    /// The result of the plugins before, or of ADD.
    #[serde(default)]
    pub(super) prev_result: Option<serde_json::Value>,
    /// What the runtime asks for this container.
    #[serde(default)]
    pub(super) runtime_config: RuntimeConfig,
    #[serde(default)]
    args: Conventions,
    #[serde(default)]
    run_dir: Option<PathBuf>,
    #[serde(default)]
    data_dir: Option<PathBuf>,
    #[serde(default)]
    timeout: Option<f64>,
    /// GC: what the runtime still knows.
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub(super) valid: Option<Vec<Valid>>,
    /// The same in drafts of the specification and in libcni.
    #[serde(rename = "cni.dev/attachments", default)]
    valid_draft: Option<Vec<Valid>>,
}

/// Where addresses come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ipam {
    /// The plugin for addresses; empty or `weft-ipam`: the network gives them out itself.
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    subnet: Option<IpNet>,
    #[serde(default)]
    subnets: Vec<IpNet>,
    /// What the default route leads to.
    #[serde(default)]
    pub(super) gateway: Option<IpAddr>,
    /// Instead of a default route.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

/// What the runtime asks for one container, by the capabilities that the configuration declares.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RuntimeConfig {
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    mac: Option<String>,
}

/// `args.cni` (CONVENTIONS.md of the specification).
#[derive(Clone, Debug, Default, Deserialize)]
struct Conventions {
    #[serde(default)]
    cni: RuntimeConfig,
}

/// An attachment that GC shall leave.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Valid {
    /// The container.
    #[serde(rename = "containerID")]
    pub(super) container: String,
    /// Its device.
    #[serde(rename = "ifname")]
    pub(super) device: String,
}

/// What is asked for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Addresses, with prefix lengths if they were given.
    pub(super) ips: Vec<(IpAddr, Option<u8>)>,
    /// The Ethernet address.
    pub(super) mac: Option<Mac>,
}

impl Config {
    /// Reads a configuration for a verb.
    ///
    /// # Errors
    /// Code 6 for what is no such JSON, 1 for a version that is not spoken or has no such verb, 7 for what makes no sense, 2 for what is
    /// not supported.
    pub(super) fn read(verb: Verb, text: Vec<u8>) -> Result<Self, Failure> {
        let unreadable = |why: &dyn Display| {
            Failure::new(Code::Decode, "the network configuration on standard input cannot be read").with(why)
        };
        // A list of values would do for a struct, too.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(unreadable(&"it is no JSON object"));
        }
        let fields: Fields = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
        let version = fields.version(verb)?;
        let network = fields.name.clone().unwrap_or_default();
        if !call::is_identifier(&network) || network.len() > NAME_MAX {
            let shown: String = network.chars().take(NAME_MAX).collect();
            return Err(invalid(format!(
                "the network's name is `{shown}`: 1 to {NAME_MAX} letters, digits, `_`, `.` and `-` are possible"
            )));
        }
        fields.check()?;
        Ok(Self { text, version, network, fields })
    }

    /// The router's unix socket: of the configuration, of the environment, or the usual one.
    pub(super) fn socket(&self, env: &Environment) -> PathBuf {
        directory(&self.fields.run_dir, env, "WEFT_RUN_DIR", RUN_DIR).join("weft.sock")
    }

    /// The router's data directory, likewise.
    pub(super) fn data_dir(&self, env: &Environment) -> PathBuf {
        directory(&self.fields.data_dir, env, "WEFT_DATA_DIR", DATA_DIR)
    }

    /// How long the router may take for all that one call of ours needs.
    pub(super) fn timeout(&self) -> Duration {
        self.fields.timeout.map_or(TIMEOUT, Duration::from_secs_f64)
    }

    /// Whether the network itself gives out addresses.
    pub(super) fn is_own_ipam(&self) -> bool {
        matches!(self.fields.ipam.kind.as_str(), "" | OWN_IPAM)
    }

    /// Subnets to have an address in; none for the default ones.
    pub(super) fn subnets(&self) -> Vec<IpNet> {
        let ipam = &self.fields.ipam;
        let mut subnets: Vec<IpNet> = ipam.subnet.iter().chain(&ipam.subnets).map(IpNet::trunc).collect();
        subnets.dedup();
        subnets
    }

    /// What is asked for this container: by the runtime, else by `args`, else in `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 7 for what is no address, 4 as [`call::args`].
    pub(super) fn asked(&self, env: &Environment) -> Result<Asked, Failure> {
        let args = call::args(env)?;
        let (runtime, conventions) = (&self.fields.runtime_config, &self.fields.args.cni);
        let ips = [&runtime.ips, &conventions.ips, &args.ips].into_iter().find(|ips| !ips.is_empty());
        let bad = |text: &String| invalid(format!("`{text}` is no IP address"));
        let ips = ips.into_iter().flatten().map(|text| call::address(text).ok_or_else(|| bad(text)));
        let mac = runtime.mac.as_deref().or(conventions.mac.as_deref()).map(call::mac).transpose()?;
        Ok(Asked { ips: ips.collect::<Result<_, _>>()?, mac: mac.or(args.mac) })
    }

    /// The attachments that GC shall leave.
    ///
    /// # Errors
    /// Code 7 if the runtime does not say: none and not told are not the same.
    pub(super) fn valid(&self) -> Result<&[Valid], Failure> {
        let valid = self.fields.valid.as_deref().or(self.fields.valid_draft.as_deref());
        valid.ok_or_else(|| invalid("GC needs `cni.dev/valid-attachments`"))
    }
}

impl Fields {
    fn version(&self, verb: Verb) -> Result<Version, Failure> {
        let text = self.cni_version.as_deref().unwrap_or_default();
        let spoken = Version::parse(text).ok_or_else(|| {
            let spoken = Version::ALL.map(Version::as_str).join(", ");
            let shown: String = text.chars().take(32).collect();
            Failure::new(Code::IncompatibleVersion, "the version of the specification is not spoken")
                .with(format!("cniVersion is `{shown}`: use one of {spoken}"))
        })?;
        if spoken < verb.since() {
            let msg = format!("version {spoken} of the specification has no {}", verb.as_str());
            return Err(Failure::new(Code::IncompatibleVersion, msg)
                .with(format!("cniVersion has to be at least {}", verb.since())));
        }
        Ok(spoken)
    }

    fn check(&self) -> Result<(), Failure> {
        let unsupported = |key: &str, instead: &str| {
            Err(Failure::new(Code::UnsupportedField, format!("`{key}: true` is not supported")).with(instead))
        };
        if self.is_gateway || self.is_default_gateway {
            let key = if self.is_gateway { "isGateway" } else { "isDefaultGateway" };
            return unsupported(key, "the host is made a gateway by `weft expose`, or by itself if `ipam` is weft's");
        }
        if self.ip_masq {
            return unsupported("ipMasq", "what leaves the network through the host is masqueraded by `weft expose`");
        }
        if self.timeout.is_some_and(|timeout| !(timeout > 0.0 && timeout <= TIMEOUT_MAX)) {
            return Err(invalid(format!("`timeout` is not above 0 and at most {TIMEOUT_MAX} seconds")));
        }
        let ipam = &self.ipam;
        if ipam.kind.contains('/') || matches!(ipam.kind.as_str(), "." | "..") {
            return Err(invalid(format!("`ipam.type` is `{}`: expected the name of a plugin", ipam.kind)));
        }
        Ok(())
    }
}

fn directory(own: &Option<PathBuf>, env: &Environment, key: &str, usual: &str) -> PathBuf {
    let of_env = || env.get(key).filter(|path| !path.is_empty()).map(PathBuf::from);
    own.clone().or_else(of_env).unwrap_or_else(|| PathBuf::from(usual))
}

fn invalid(msg: impl ToString) -> Failure {
    Failure::new(Code::InvalidConfig, msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Failure> {
        Config::read(Verb::Add, text.as_bytes().to_vec())
    }

    #[test]
    fn a_configuration_with_keys_of_others_is_read() {
        let config = read(
            r#"{"cniVersion":"1.0.0","name":"weft","type":"weft-net","color":"red","timeout":1.5,"runDir":"/r",
                "ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}]],"dataDir":"/x"},
                "runtimeConfig":{"portMappings":[],"ips":["10.0.0.5/24"],"mac":"02:00:00:00:00:01"}}"#,
        )
        .unwrap();
        assert_eq!((config.network.as_str(), config.version), ("weft", Version::V1_0_0));
        assert!(!config.is_own_ipam());
        assert_eq!(config.timeout(), Duration::from_millis(1500));
        let env: Environment = [("WEFT_RUN_DIR", "/e"), ("WEFT_DATA_DIR", "/d"), ("CNI_ARGS", "IP=10.0.0.6")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(config.socket(&env), PathBuf::from("/r/weft.sock"));
        assert_eq!(config.data_dir(&env), PathBuf::from("/d"));
        let asked = config.asked(&env).unwrap();
        assert_eq!(asked.ips, [("10.0.0.5".parse().unwrap(), Some(24))], "the runtime's word counts");
        assert_eq!(asked.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    }

    #[test]
    fn what_is_wrong_has_the_code_of_the_specification() {
        for (text, code) in [
            ("", Code::Decode),
            ("[]", Code::Decode),
            (r#"{"cniVersion":"1.0.0","name":"a","mtu":"big"}"#, Code::Decode),
            (r#"{"cniVersion":"1.0.0","name":"a","ipam":{"subnet":"10.0.0.0"}}"#, Code::Decode),
            (r#"{"name":"a"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"0.2.0","name":"a"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"9.0.0","name":"a"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.0.0","name":"a/b"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.0.0","name":"a","timeout":0}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.0.0","name":"a","timeout":1e9}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.0.0","name":"a","ipam":{"type":"../x"}}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.0.0","name":"a","isGateway":true}"#, Code::UnsupportedField),
            (r#"{"cniVersion":"1.0.0","name":"a","isDefaultGateway":true}"#, Code::UnsupportedField),
            (r#"{"cniVersion":"1.0.0","name":"a","ipMasq":true}"#, Code::UnsupportedField),
        ] {
            let failure = read(text).unwrap_err();
            assert!(failure.is(code), "{text}: {failure}");
        }
    }

    #[test]
    fn verbs_exist_since_their_version() {
        for version in Version::ALL {
            let text = format!(r#"{{"cniVersion":"{version}","name":"a","cni.dev/valid-attachments":[]}}"#);
            for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status] {
                let read = Config::read(verb, text.as_bytes().to_vec());
                assert_eq!(read.is_ok(), version >= verb.since(), "{} in {version}", verb.as_str());
            }
        }
    }

    #[test]
    fn gc_needs_to_be_told_what_is_valid() {
        let gc = |keys: &str| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"a"{keys}}}"#);
            Config::read(Verb::Gc, text.into_bytes()).unwrap()
        };
        assert!(gc("").valid().unwrap_err().is(Code::InvalidConfig));
        let told = gc(r#","cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]"#);
        assert_eq!(told.valid().unwrap(), [Valid { container: "c".to_owned(), device: "eth0".to_owned() }]);
        assert!(gc(r#","cni.dev/attachments":[]"#).valid().unwrap().is_empty());
    }

    #[test]
    fn any_text_is_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = Config::read(Verb::Add, bytes.to_vec());
        });
    }
}
