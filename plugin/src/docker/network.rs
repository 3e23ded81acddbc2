//! The network driver: what the engine's networks and endpoints are to the router.
//!
//! ```text
//!   CreateEndpoint ──▶ the router makes a device whose other end is free
//!   Join           ──▶ the engine is told that end's name; it moves it into the container as ethwe0
//!   DeleteEndpoint ──▶ the router removes the device
//! ```
//! Containers get no gateway on the network. So the engine plugs those of ordinary networks into its own bridge `docker_gwbridge` as
//! well: by it they reach the world, and published ports work. Networks made with `--internal` have no such way out.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, warn};
use weft::{api::endpoint::EndpointRequest, id::Mac};

use super::{
    addresses::ADDRESS_SPACES,
    call::{CreateNetwork, EndpointCall, NetworkOptions, Scope},
    engine::Engine,
    label,
    router::{Router, RouterError},
};

/// What containers' devices are called: the engine appends a number.
const INSIDE: &str = "ethwe";
/// IPv4 multicast (RFC 5771); IPv6 has its own route by itself.
const MULTICAST: &str = "224.0.0.0/4";
/// libnetwork's number for a route to what is on the device itself.
const CONNECTED: u8 = 1;
/// How long the engine may take to describe a network, while it waits for us.
const LOOK_UP: Duration = Duration::from_secs(2);
/// Longest id that is taken for one, in bytes; the engine's have 64 hexadecimal digits, the swarm's 25 letters and digits.
const ID_MAX: usize = 128;
/// Most networks remembered; of others the engine is asked each time.
const REMEMBERED_MAX: usize = 4096;

/// Why a call failed; the engine shows it.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    /// Something in the call cannot be.
    #[error("{0}")]
    Bad(String),
    /// The router said no.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// An address is at another host, and nobody but the engine chose it.
    #[error(
        "{address} is in use on {place}: the engines of several hosts choose addresses without knowing of each other; make the \
         network with --ipam-driver weft, or give each host an --ip-range of its own"
    )]
    Elsewhere {
        /// Which.
        address: IpAddr,
        /// At which router.
        place: String,
    },
}

/// What is remembered of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Network {
    options: NetworkOptions,
    /// Whether its addresses are chosen by the engine alone, on each host for itself.
    foreign: bool,
}

/// The network driver.
#[derive(Debug)]
pub(crate) struct Networks {
    router: Router,
    engine: PathBuf,
    scope: Scope,
    known: Mutex<BTreeMap<String, Network>>,
}

impl Networks {
    pub(crate) fn new(router: Router, engine: PathBuf, scope: Scope) -> Self {
        Self { router, engine, scope, known: Mutex::default() }
    }

    /// `GetCapabilities`.
    pub(crate) fn capabilities(&self) -> Value {
        json!({ "Scope": self.scope, "ConnectivityScope": "global" })
    }

    /// `AllocateNetwork`, on swarm managers: what other nodes are told at `CreateNetwork`.
    pub(crate) fn allocate(&self, call: &CreateNetwork) -> Result<Value, NetworkError> {
        let given = call.given();
        NetworkOptions::read(&given).map_err(NetworkError::Bad)?;
        Ok(json!({ "Options": given }))
    }

    /// `CreateNetwork`.
    pub(crate) fn create(&self, call: &CreateNetwork) -> Result<Value, NetworkError> {
        let id = checked(&call.network_id)?;
        let options = NetworkOptions::read(&call.given()).map_err(NetworkError::Bad)?;
        let pools = || call.ipv4_data.iter().chain(&call.ipv6_data);
        let foreign =
            self.scope == Scope::Local && pools().any(|pool| !ADDRESS_SPACES.contains(&pool.address_space.as_str()));
        if foreign {
            let pools: Vec<_> = pools().map(|pool| pool.pool.as_str()).collect();
            warn!(
                network = id,
                ?pools,
                "Docker itself chooses this network's addresses, without knowing of other hosts: better use --ipam-driver weft"
            );
        }
        self.remember(id, Network { options, foreign });
        Ok(json!({}))
    }

    /// `DeleteNetwork`.
    pub(crate) fn delete(&self, call: &CreateNetwork) -> Value {
        self.lock().remove(&call.network_id);
        json!({})
    }

    /// `CreateEndpoint`.
    pub(crate) async fn create_endpoint(&self, call: &EndpointCall) -> Result<Value, NetworkError> {
        let name = label(checked(&call.endpoint_id)?);
        let given = &call.interface;
        let addresses = [&given.address, &given.address_ipv6].into_iter().filter(|text| !text.is_empty());
        let addresses = addresses.map(|text| parsed(text, "address")).collect::<Result<Vec<IpNet>, _>>()?;
        let fixed: Option<Mac> = match given.mac_address.as_str() {
            "" => None,
            text => Some(parsed(text, "Ethernet address")?),
        };
        let network = self.network(&call.network_id).await;
        if network.foreign {
            self.protect(&name, &addresses).await?;
        }
        let mac = fixed.or_else(|| of_address(&addresses));
        let request = EndpointRequest { name: name.clone(), addresses, mac, mtu: network.options.mtu };
        let made = self.router.endpoint(&request).await;
        if made.is_err() && network.foreign {
            self.unprotect(&name).await;
        }
        let interface = if fixed.is_some() { json!({}) } else { json!({ "MacAddress": made?.mac.to_string() }) };
        Ok(json!({ "Interface": interface }))
    }

    /// `Join`.
    pub(crate) async fn join(&self, call: &EndpointCall) -> Result<Value, NetworkError> {
        let name = label(checked(&call.endpoint_id)?);
        let network = self.network(&call.network_id).await;
        // It is there since CreateEndpoint and still free: the router tells its name once more.
        let request = EndpointRequest { name, mtu: network.options.mtu, ..EndpointRequest::default() };
        let end = self.router.endpoint(&request).await?;
        let multicast = json!([{ "Destination": MULTICAST, "RouteType": CONNECTED }]);
        Ok(json!({
            "InterfaceName": { "SrcName": end.device, "DstPrefix": INSIDE },
            "StaticRoutes": if network.options.multicast { multicast } else { json!([]) },
            "Gateway": "",
            "GatewayIPv6": "",
            "DisableGatewayService": false,
        }))
    }

    /// `DeleteEndpoint`. With the router away it is well: what is left is removed when it is back.
    pub(crate) async fn delete_endpoint(&self, call: &EndpointCall) -> Result<Value, NetworkError> {
        let name = label(checked(&call.endpoint_id)?);
        match self.router.remove_endpoint(&name).await {
            Err(RouterError::Http(error)) => warn!(endpoint = name, %error, "not removed yet"),
            removed => removed?,
        }
        if self.lock().get(&call.network_id).is_none_or(|network| network.foreign) {
            self.unprotect(&name).await;
        }
        Ok(json!({}))
    }

    /// Sees to it that no other host has these addresses: by claiming those that are the network's to give, and by what other
    /// hosts tell of their containers.
    async fn protect(&self, name: &str, addresses: &[IpNet]) -> Result<(), NetworkError> {
        let own = self.router.name().await?;
        let mut stations = self.router.stations().await?;
        // Those of this host the router checks itself.
        stations.retain(|station| station.name != own);
        for address in addresses {
            if let Some(station) = stations.iter().find(|station| station.addresses.contains(&address.addr())) {
                let place = station.nickname.as_ref().map_or_else(|| station.name.to_string(), ToString::to_string);
                return Err(NetworkError::Elsewhere { address: address.addr(), place });
            }
        }
        let ranges = self.router.address_status().await.map(|status| status.ranges).unwrap_or_default();
        let ours: Vec<IpNet> = addresses.iter().copied().filter(|net| ranges.iter().any(|r| r.contains(net))).collect();
        if !ours.is_empty() {
            self.router.claim(name, &ours).await?;
        }
        Ok(())
    }

    async fn unprotect(&self, name: &str) {
        if let Err(error) = self.router.free(name, &[], Duration::ZERO).await {
            debug!(endpoint = name, %error, "no addresses given back");
        }
    }

    /// What a network is: as it was made, or by the engine's word if that was before we were started.
    async fn network(&self, id: &str) -> Network {
        if let Some(known) = self.lock().get(id) {
            return *known;
        }
        let look_up = async { Engine::connect(&self.engine).await?.network(id).await };
        let Ok(Ok(described)) = timeout(LOOK_UP, look_up).await else {
            debug!(network = id, "the engine does not describe it: taken to be an ordinary one");
            return Network::default();
        };
        let options = NetworkOptions::read(&described.options).unwrap_or_default();
        let foreign = self.scope == Scope::Local && !described.has_our_addresses();
        let network = Network { options, foreign };
        self.remember(id, network);
        network
    }

    fn remember(&self, id: &str, network: Network) {
        let mut known = self.lock();
        if known.len() < REMEMBERED_MAX {
            known.insert(id.to_owned(), network);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Network>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id, if it can be one.
fn checked(id: &str) -> Result<&str, NetworkError> {
    let fits = !id.is_empty() && id.len() <= ID_MAX && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fits.then_some(id).ok_or_else(|| NetworkError::Bad("the call has no usable id".to_owned()))
}

/// The Ethernet address that goes with an IPv4 address, as Docker's own drivers make it: nobody's memory of a neighbour is wrong when
/// a container is started again, here or elsewhere, for nothing tells neighbours of what the engine does.
fn of_address(addresses: &[IpNet]) -> Option<Mac> {
    let v4 = addresses.iter().find_map(|net| if let IpNet::V4(v4) = net { Some(v4.addr().octets()) } else { None });
    v4.map(|[a, b, c, d]| Mac([0x02, 0x42, a, b, c, d]))
}

fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, NetworkError> {
    text.parse().map_err(|_| NetworkError::Bad(format!("`{}` is no {what}", text.escape_debug())))
}
