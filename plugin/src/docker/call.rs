//! What the engine sends and gets: the bodies of libnetwork's remote driver API, with its spelling.
//!
//! Keys that we have no use for are not read. Lists and maps may be `null`, texts empty.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The option that says what an address is for.
pub(crate) const ADDRESS_TYPE: &str = "RequestAddressType";
/// Its value, and the key of a pool's gateway.
pub(crate) const GATEWAY: &str = "com.docker.network.gateway";
/// Where the options are that people give by `-o`.
const GENERIC: &str = "com.docker.network.generic";
/// The network option by which containers get no route for multicast.
const MULTICAST: &str = "works.weft.multicast";
/// The network option that the engine's own drivers have.
const MTU: &str = "com.docker.network.driver.mtu";

/// Whose networks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Of one engine: each is told of each network.
    Local,
    /// Of a swarm: its managers tell the others, and choose addresses for all.
    Global,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "global" => Ok(Self::Global),
            _ => Err(format!("`{text}` is neither `local` nor `global`")),
        }
    }
}

/// The answer to a call that failed, with what the engine shows of it: network drivers have one key for it, IPAM drivers another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Failure {
    pub(crate) err: String,
    pub(crate) error: String,
}

/// `NetworkDriver.CreateNetwork` and `AllocateNetwork`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(crate) network_id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) options: BTreeMap<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub(crate) ipv4_data: Vec<PoolData>,
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub(crate) ipv6_data: Vec<PoolData>,
}

/// A pool of a network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PoolData {
    pub(crate) address_space: String,
    pub(crate) pool: String,
}

/// How a network's endpoints shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetworkOptions {
    /// Whether containers get a route for multicast.
    pub(crate) multicast: bool,
    /// Bytes of the largest IP packet, if not the bridge's.
    pub(crate) mtu: Option<u32>,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { multicast: true, mtu: None }
    }
}

impl NetworkOptions {
    /// Reads what people gave by `-o`.
    pub(crate) fn read(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let multicast = match given.get(MULTICAST).map(String::as_str) {
            None | Some("" | "true" | "1") => true,
            Some("false" | "0") => false,
            Some(other) => return Err(format!("the option {MULTICAST} is `{other}`: it can be true or false")),
        };
        let mtu = given.get(MTU).filter(|text| !text.is_empty()).map(|text| text.parse()).transpose();
        let mtu = mtu.map_err(|_| format!("the option {MTU} is not a number of bytes"))?;
        Ok(Self { multicast, mtu })
    }
}

impl CreateNetwork {
    /// The options that people gave: under a key of their own on engines, by themselves on swarm managers.
    pub(crate) fn given(&self) -> BTreeMap<String, String> {
        let nested = self.options.get(GENERIC).and_then(Value::as_object);
        let nested = nested.into_iter().flatten().map(|(key, value)| (key.clone(), value));
        let plain = self.options.iter().map(|(key, value)| (key.clone(), value));
        plain.chain(nested).filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect()
    }
}

/// Calls that concern one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EndpointCall {
    #[serde(rename = "NetworkID")]
    pub(crate) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(crate) endpoint_id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) interface: Interface,
}

/// An endpoint's device, as far as the engine has settled it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Interface {
    pub(crate) address: String,
    #[serde(rename = "AddressIPv6")]
    pub(crate) address_ipv6: String,
    pub(crate) mac_address: String,
}

/// `IpamDriver.RequestPool`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RequestPool {
    pub(crate) pool: String,
    pub(crate) sub_pool: String,
    #[serde(rename = "V6")]
    pub(crate) v6: bool,
}

/// `IpamDriver.RequestAddress` and `ReleaseAddress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AddressCall {
    #[serde(rename = "PoolID")]
    pub(crate) pool_id: String,
    pub(crate) address: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) options: BTreeMap<String, String>,
}

impl AddressCall {
    /// Whether the address is that of a gateway.
    pub(crate) fn is_gateway(&self) -> bool {
        self.options.get(ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY)
    }
}

/// What is `null` is as if it were left out.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
