//! A call of the plugin: what the runtime says in the environment (specification 1.1.0, section 2 "Parameters").

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, str::FromStr};

use weft::{api::interface, id::Mac};

use super::{
    failure::{Code, Failure},
    version::Version,
};

/// Longest name of a device (IFNAMSIZ less the closing nought).
const DEVICE_NAME_MAX: usize = 15;
/// What Kubernetes' runtimes say in `CNI_ARGS` beside what concerns us.
const KNOWN_ARGS: [&str; 6] =
    ["IgnoreUnknown", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "GATEWAY"];

/// What the runtime wants, by the environment's `CNI_COMMAND`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
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

impl Verb {
    /// The oldest version of the specification that has it.
    pub(super) fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// As the specification spells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl FromStr for Verb {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let all = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];
        all.into_iter().find(|verb| verb.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(16).collect();
            bad(format!("CNI_COMMAND is `{shown}`: expected ADD, DEL, CHECK, GC, STATUS or VERSION"))
        })
    }
}

/// The environment of a call, unchecked.
pub type Environment = BTreeMap<String, String>;

/// One interface of one container, as the runtime calls it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attachment {
    /// The container.
    pub(super) container: String,
    /// Its device.
    pub(super) device: String,
    /// Path of its network namespace; may be missing at DEL.
    pub(super) namespace: Option<String>,
}

impl Attachment {
    /// What it is attached under at the router and who has its addresses: unique over all networks of a host.
    pub(super) fn owner(&self, network: &str) -> String {
        interface::name(network, &self.container, &self.device)
    }

    /// Its namespace, where that is required.
    pub(super) fn namespace(&self) -> Result<&str, Failure> {
        self.namespace.as_deref().ok_or_else(|| bad("CNI_NETNS is not set"))
    }
}

/// What runtimes ask for in `CNI_ARGS`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Args {
    /// Addresses, with or without prefix lengths.
    pub(super) ips: Vec<String>,
    /// The Ethernet address.
    pub(super) mac: Option<Mac>,
}

/// The interface that ADD, DEL and CHECK are about.
///
/// # Errors
/// Code 4 for what is missing or cannot be.
pub(super) fn attachment(verb: Verb, env: &Environment) -> Result<Attachment, Failure> {
    let container = required(env, "CNI_CONTAINERID")?;
    if !is_identifier(container) {
        return Err(bad(format!("CNI_CONTAINERID is `{container}`: letters, digits, `_`, `.` and `-` are possible")));
    }
    let device = required(env, "CNI_IFNAME")?;
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if device.len() > DEVICE_NAME_MAX || matches!(device, "." | "..") || device.contains(is_bad) {
        return Err(bad(format!("CNI_IFNAME is `{device}`: no device can be called so")));
    }
    let namespace = env.get("CNI_NETNS").filter(|path| !path.is_empty()).cloned();
    if namespace.is_none() && verb != Verb::Del {
        return Err(bad("CNI_NETNS is not set"));
    }
    Ok(Attachment { container: container.to_owned(), device: device.to_owned(), namespace })
}

/// Reads `CNI_ARGS`.
///
/// # Errors
/// Code 4 for what is no list of pairs, or not known without `IgnoreUnknown`.
pub(super) fn args(env: &Environment) -> Result<Args, Failure> {
    let mut args = Args::default();
    let text = env.get("CNI_ARGS").map(String::as_str).unwrap_or_default();
    let pairs = text
        .split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').ok_or_else(|| bad(format!("CNI_ARGS has `{pair}`: expected KEY=VALUE"))));
    let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
    let is_true = |text: &str| matches!(text.to_ascii_lowercase().as_str(), "1" | "true" | "t" | "yes");
    let lenient = pairs.iter().any(|(key, value)| *key == "IgnoreUnknown" && is_true(value));
    for (key, value) in pairs {
        match key {
            "IP" => args.ips.extend(value.split(',').map(str::to_owned)),
            "MAC" => args.mac = Some(mac(value)?),
            known if KNOWN_ARGS.contains(&known) || lenient => {}
            unknown => return Err(bad(format!("CNI_ARGS has the unknown key `{unknown}`; IgnoreUnknown=1 allows it"))),
        }
    }
    Ok(args)
}

/// Reads an Ethernet address.
pub(super) fn mac(text: &str) -> Result<Mac, Failure> {
    text.parse().map_err(|error| Failure::new(Code::InvalidConfig, format!("the Ethernet address is wrong: {error}")))
}

/// The directories with plugins.
pub(super) fn path(env: &Environment) -> Vec<PathBuf> {
    let text = env.get("CNI_PATH").map(String::as_str).unwrap_or_default();
    std::env::split_paths(text).filter(|path| path.is_absolute()).collect()
}

/// Whether a text may name a container or a network.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// An address as runtimes write it, with its prefix length if they do.
pub(super) fn address(text: &str) -> Option<(IpAddr, Option<u8>)> {
    match text.split_once('/') {
        None => Some((text.parse().ok()?, None)),
        Some((address, prefix)) => {
            let net = ipnet::IpNet::new(address.parse().ok()?, prefix.parse().ok()?).ok()?;
            Some((net.addr(), Some(net.prefix_len())))
        }
    }
}

fn required<'a>(env: &'a Environment, key: &str) -> Result<&'a str, Failure> {
    env.get(key).map(String::as_str).filter(|text| !text.is_empty()).ok_or_else(|| bad(format!("{key} is not set")))
}

fn bad(msg: impl ToString) -> Failure {
    Failure::new(Code::InvalidEnvironment, msg)
}

#[cfg(test)]
mod tests {
    use super::{args as args_of, *};

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn verbs_are_spelled_as_the_specification_does() {
        assert_eq!("ADD".parse(), Ok(Verb::Add));
        assert_eq!("GC".parse(), Ok(Verb::Gc));
        assert!("add".parse::<Verb>().unwrap_err().msg.contains("expected ADD"));
    }

    #[test]
    fn what_is_missing_or_cannot_be_is_code_4() {
        let good = [("CNI_CONTAINERID", "0a-1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/x")];
        let attachment = attachment(Verb::Add, &env(&good)).unwrap();
        assert_eq!(attachment.owner("weft"), "weft/0a-1/eth0");
        for (key, value) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "."),
            ("CNI_IFNAME", "0123456789abcdef"),
            ("CNI_NETNS", ""),
        ] {
            let mut env = env(&good);
            env.insert(key.to_owned(), value.to_owned());
            let failure = super::attachment(Verb::Add, &env).unwrap_err();
            assert!(failure.is(Code::InvalidEnvironment), "{key}={value}: {failure}");
            assert_eq!(super::attachment(Verb::Del, &env).is_ok(), key == "CNI_NETNS");
        }
    }

    #[test]
    fn arguments_are_read_and_unknown_ones_refused_unless_allowed() {
        let args = |text| args_of(&env(&[("CNI_ARGS", text)]));
        let read = args("IgnoreUnknown=1;IP=10.2.0.1,fd00::1/64;MAC=02:00:00:00:00:01;K8S_POD_NAME=p;X=y").unwrap();
        assert_eq!(read.ips, ["10.2.0.1", "fd00::1/64"]);
        assert_eq!(read.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(args("").unwrap(), Args::default());
        assert!(args("K8S_POD_NAMESPACE=default;K8S_POD_UID=1").is_ok());
        for bad in ["X=y", "IgnoreUnknown=0;X=y", "IP"] {
            assert!(args(bad).unwrap_err().is(Code::InvalidEnvironment), "{bad}");
        }
        assert!(args("MAC=02").unwrap_err().is(Code::InvalidConfig));
    }

    #[test]
    fn any_environment_is_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let keys = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_PATH"];
            let env: Environment = keys.iter().map(|key| ((*key).to_owned(), text.clone())).collect();
            if let Ok(attachment) = attachment(Verb::Add, &env) {
                assert_eq!(attachment.owner("n").matches('/').count(), 2);
            }
            let _ = (args(&env), path(&env), address(&text));
        });
    }
}
