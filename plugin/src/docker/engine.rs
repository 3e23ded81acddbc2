//! What is asked of the engine, by its HTTP API on its unix socket, in the version that both speak.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::{Method, StatusCode, body::Bytes};
use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;

use super::{
    DRIVER,
    call::or_default,
    http::{HttpError, Lines, Socket},
};

/// The newest version of the API that we know: what an older engine has not, we do not use.
const NEWEST: (u32, u32) = (1, 44);
/// How long the engine may take for an answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// What it is told to report, and no more.
const EVENTS: &str =
    r#"{"type":["container","network"],"event":["create","start","die","destroy","rename","connect","disconnect"]}"#;

/// Why the engine gave nothing.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct EngineError(#[from] Trouble);

/// What was wrong.
#[derive(Debug, Error)]
pub(crate) enum Trouble {
    /// It could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It said no, and why.
    #[error("Docker answered {status}: {message}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// In its words.
        message: String,
    },
    /// It said something else than expected.
    #[error("cannot read Docker's answer to {path}: {why}")]
    Unreadable {
        /// What was asked for.
        path: String,
        /// What was wrong.
        why: serde_json::Error,
    },
}

impl EngineError {
    /// Whether it answered that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self.0, Trouble::NotFound(_))
    }

    /// Whether nobody is there to answer.
    pub fn is_absent(&self) -> bool {
        matches!(self.0, Trouble::Http(HttpError::Unreachable { .. }))
    }
}

impl From<HttpError> for EngineError {
    fn from(error: HttpError) -> Self {
        Self(error.into())
    }
}

/// A running engine.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: Socket,
    version: (u32, u32),
}

/// A container, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    name: String,
    state: State,
    config: Config,
    network_settings: NetworkSettings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    running: bool,
    pid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    hostname: String,
    domainname: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    #[serde(deserialize_with = "or_default")]
    networks: BTreeMap<String, Port>,
}

/// A container's place in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Port {
    #[serde(rename = "EndpointID")]
    pub(crate) endpoint_id: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "GlobalIPv6Address")]
    ipv6_address: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) aliases: Vec<String>,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Network {
    #[serde(deserialize_with = "or_default")]
    pub(crate) options: BTreeMap<String, String>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
    #[serde(deserialize_with = "or_default")]
    config: Vec<IpamConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct IpamConfig {
    #[serde(rename = "AuxiliaryAddresses", alias = "AuxAddress", deserialize_with = "or_default")]
    auxiliary: BTreeMap<String, String>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Event {
    pub(crate) action: String,
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    pub(crate) actor: Actor,
}

/// What it happened to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Actor {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Attributes", deserialize_with = "or_default")]
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Engine {
    /// Finds out which version of the API both speak.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let socket = Socket(socket.to_owned());
        let answer = socket.call(Method::GET, "/_ping", Vec::new(), DEADLINE).await?;
        let version = answer.api_version.as_deref().and_then(parse_version).unwrap_or(NEWEST).min(NEWEST);
        Ok(Self { socket, version })
    }

    /// The container of a name or id.
    ///
    /// # Errors
    /// There is none, or the engine does not answer.
    pub async fn container(&self, name: &str) -> Result<Container, EngineError> {
        self.get(&format!("/containers/{}/json", escaped(name))).await
    }

    /// Ids of all containers that run.
    pub(crate) async fn running(&self) -> Result<Vec<String>, EngineError> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(rename = "Id")]
            id: String,
        }
        let lines: Vec<Line> = self.get("/containers/json").await?;
        Ok(lines.into_iter().map(|line| line.id).collect())
    }

    /// The network of a name or id.
    pub(crate) async fn network(&self, name: &str) -> Result<Network, EngineError> {
        self.get(&format!("/networks/{}", escaped(name))).await
    }

    /// All networks.
    pub(crate) async fn networks(&self) -> Result<Vec<Network>, EngineError> {
        self.get("/networks").await
    }

    /// Makes the network that is there without anybody's doing, with this subnet. One that is not named the engine may not take.
    pub(crate) async fn create_network(&self, subnet: Option<IpNet>) -> Result<(), EngineError> {
        let config: Vec<_> = subnet.map(|subnet| json!({ "Subnet": subnet })).into_iter().collect();
        let ipam = json!({ "Driver": DRIVER, "Config": config });
        let body = json!({ "Name": DRIVER, "Driver": DRIVER, "IPAM": ipam, "CheckDuplicate": true });
        self.call(Method::POST, "/networks/create", body.to_string().into_bytes()).await.map(drop)
    }

    /// Removes it again; well too if there is none.
    ///
    /// # Errors
    /// It is in use, or the engine does not answer.
    pub async fn remove_network(&self) -> Result<(), EngineError> {
        match self.call(Method::DELETE, &format!("/networks/{DRIVER}"), Vec::new()).await {
            Err(error) if error.is_not_found() => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// Addresses of this engine's swarm managers but its own, without ports; none outside a swarm.
    pub(crate) async fn managers(&self) -> Result<Vec<String>, EngineError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Info {
            #[serde(rename = "Swarm")]
            swarm: Swarm,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Swarm {
            #[serde(rename = "NodeAddr")]
            own: String,
            #[serde(rename = "RemoteManagers", deserialize_with = "or_default")]
            managers: Vec<Manager>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Manager {
            #[serde(rename = "Addr")]
            address: String,
        }
        let Info { swarm } = self.get("/info").await?;
        let hosts = swarm.managers.iter().filter_map(|manager| Some(manager.address.rsplit_once(':')?.0));
        let hosts = hosts.map(|host| host.trim_matches(['[', ']']).to_owned());
        Ok(hosts.filter(|host| *host != swarm.own).collect())
    }

    /// What happens from now on.
    pub(crate) async fn events(&self) -> Result<Events, EngineError> {
        Ok(Events(self.socket.lines(&self.path(&format!("/events?filters={}", escaped(EVENTS)))).await?))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let body = self.call(Method::GET, path, Vec::new()).await?;
        serde_json::from_slice(&body).map_err(|why| EngineError(Trouble::Unreadable { path: path.to_owned(), why }))
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, EngineError> {
        #[derive(Deserialize)]
        struct Said {
            message: String,
        }
        let answer = self.socket.call(method, &self.path(path), body, DEADLINE).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let message = serde_json::from_slice::<Said>(&answer.body).map(|said| said.message).unwrap_or_default();
        Err(EngineError(match answer.status {
            StatusCode::NOT_FOUND => Trouble::NotFound(message),
            status => Trouble::Refused { status, message },
        }))
    }

    fn path(&self, path: &str) -> String {
        let (major, minor) = self.version;
        format!("/v{major}.{minor}{path}")
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.socket.path().to_owned()
    }
}

impl Container {
    /// The process whose namespaces are the container's; none unless it runs.
    pub fn pid(&self) -> Option<u32> {
        Some(self.state.pid).filter(|pid| self.state.running && *pid != 0)
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// The attachments of the router that are this container's endpoints.
    pub fn attachments(&self) -> Vec<String> {
        self.ports().map(|port| super::label(&port.endpoint_id)).collect()
    }

    /// Its places in networks that it is plugged into.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Port> {
        self.network_settings.networks.values().filter(|port| !port.endpoint_id.is_empty())
    }

    /// What the container calls itself.
    pub(crate) fn hostname(&self) -> String {
        let Config { hostname, domainname } = &self.config;
        if domainname.is_empty() { hostname.clone() } else { format!("{hostname}.{domainname}") }
    }
}

impl Port {
    /// The container's addresses there.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [&self.ip_address, &self.ipv6_address].into_iter().filter_map(|text| text.parse().ok())
    }
}

impl Network {
    /// Whether its addresses are the router's to give.
    pub(crate) fn has_our_addresses(&self) -> bool {
        // A managed plugin's name has a tag: weft:latest.
        self.ipam.driver.split(':').next() == Some(DRIVER)
    }

    /// Addresses that are set aside in it.
    pub(crate) fn set_aside(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.ipam.config.iter().flat_map(|config| config.auxiliary.values());
        all.filter_map(|text| text.split('/').next()?.parse().ok())
    }
}

/// Things that happen, one after the other.
#[derive(Debug)]
pub(crate) struct Events(Lines);

impl Events {
    /// The next one; none when the engine has ended. What cannot be read is skipped. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, EngineError> {
        while let Some(line) = self.0.next().await? {
            if let Ok(event) = serde_json::from_str(&line) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A text as a part of a URL (RFC 3986 section 2.1): all but letters, digits and `-._~` as bytes.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_read_as_the_engine_tells_of_it() {
        let container: Container = serde_json::from_str(include_str!("golden/container.json")).unwrap();
        assert_eq!((container.name(), container.pid()), ("c1", Some(19277)));
        assert_eq!(container.attachments(), ["docker:41cf6977db56"]);
        let port = container.ports().next().unwrap();
        assert_eq!(port.addresses().collect::<Vec<_>>(), ["10.32.0.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(port.aliases, ["al1", "915ae43e023f"]);
        assert_eq!(container.hostname(), "915ae43e023f");
        let stopped: Container = serde_json::from_str(r#"{"Id":"a","NetworkSettings":{"Networks":null}}"#).unwrap();
        assert_eq!((stopped.pid(), stopped.ports().count()), (None, 0));
    }

    #[test]
    fn versions_and_odd_names_are_written_for_urls() {
        assert_eq!(parse_version("1.41"), Some((1, 41)));
        assert_eq!(parse_version("x"), None);
        assert!((1, 9) < NEWEST && (1, 100) > NEWEST);
        assert_eq!(escaped("a b/../c?d\n"), "a%20b%2F..%2Fc%3Fd%0A");
    }

    #[test]
    fn any_event_can_be_read() {
        bolero::check!().for_each(|bytes: &[u8]| {
            drop(serde_json::from_slice::<Event>(bytes));
            drop(serde_json::from_slice::<Container>(bytes));
            drop(serde_json::from_slice::<Network>(bytes));
        });
    }
}
