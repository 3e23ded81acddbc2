//! The IPAM driver: the engine's pools are subnets of the router's range, its addresses are the router's to give.
//!
//! A pool's id says what it is, so that nothing is to be remembered: `weft-10.32.0.0/12`, or `weft-10.32.0.0/12-10.32.5.0/24` when
//! addresses come from a part of it (`--ip-range`). The same pool may be asked for on any number of hosts and as often as one likes.
//!
//! No container needs a gateway on the network, so the address that stands for one takes none away: it is the subnet's own.

use std::{
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde_json::{Value, json};
use thiserror::Error;
use tracing::{debug, warn};
use weft::{api::allocation::AddressStatus, entropy::Entropy};

use super::{
    PREFIX,
    call::{AddressCall, GATEWAY, RequestPool, Scope},
    lease::{KEEP, Leases},
    router::{Router, RouterError},
};

/// What the engine calls our addresses in networks of one engine, and in those of a swarm.
pub(crate) const ADDRESS_SPACES: [&str; 2] = ["weftlocal", "weftglobal"];
/// How the id of a pool begins.
const POOL: &str = "weft-";
/// How often in a row the engine is told of the default pool. It takes none in which the host has an address or a resolver unless it is
/// named, and asks for another one, without end (moby/libnetwork issues 1386 and 1465).
const TOLD_MAX: u32 = 16;

/// Why a call failed; the engine shows it.
#[derive(Debug, Error)]
pub(crate) enum AddressError {
    /// It is no subnet, or no address.
    #[error("`{}` is no {what}", text.escape_debug())]
    Unreadable {
        /// As it was given.
        text: String,
        /// What it should have been.
        what: &'static str,
    },
    /// The pool is not ours to give from.
    #[error(
        "{pool} is not within {ranges}, from which this router gives out addresses: choose a subnet of that, or launch all routers \
         with --ipalloc-range"
    )]
    OutOfRange {
        /// As it was asked for.
        pool: IpNet,
        /// What the router has, in words.
        ranges: String,
    },
    /// An address or a part is not in its pool.
    #[error("{part} is not within {pool}")]
    NotInPool {
        /// As it was asked for.
        part: String,
        /// The pool.
        pool: IpNet,
    },
    /// There is no default.
    #[error("this router gives out no IPv{0} addresses: launch all routers with --ipalloc-range, or give a subnet")]
    NoDefault(u8),
    /// The swarm's managers choose addresses, and would ask whichever router is beside the one that leads.
    #[error(
        "in a swarm its managers choose addresses: leave --ipam-driver out, and give the network a --subnet outside of the routers' \
         --ipalloc-range"
    )]
    Swarm,
    /// The engine asks again and again.
    #[error(
        "Docker does not take {0} by itself, most likely as this host has an address in it (`weft expose`): name it, by \
         --subnet {0}"
    )]
    NotTaken(IpNet),
    /// The router said no.
    #[error(transparent)]
    Router(#[from] RouterError),
}

/// A pool: the subnet that containers see, and the part of it that their addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pool {
    subnet: IpNet,
    part: Option<IpNet>,
}

/// The IPAM driver.
#[derive(Debug)]
pub(crate) struct Addresses {
    router: Router,
    scope: Scope,
    leases: Mutex<Leases>,
    /// How often the engine was told of the default pool since it last asked for anything else.
    told: AtomicU32,
}

impl Addresses {
    pub(crate) fn new(router: Router, scope: Scope) -> Self {
        Self { router, scope, leases: Mutex::default(), told: AtomicU32::default() }
    }

    /// The engine asks for something else than a pool: it goes on.
    pub(crate) fn goes_on(&self) {
        self.told.store(0, Ordering::Relaxed);
    }

    /// The subnet of IPv4 networks that name none; none if there is none, or the router does not say.
    pub(crate) async fn default_subnet(&self) -> Option<IpNet> {
        default_subnet(&self.router.address_status().await.ok()?, false).ok()
    }

    /// Who has which address.
    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `RequestPool`.
    pub(crate) async fn request_pool(&self, call: &RequestPool) -> Result<Value, AddressError> {
        if self.scope == Scope::Global {
            return Err(AddressError::Swarm);
        }
        let status = self.router.address_status().await?;
        let subnet = match call.pool.as_str() {
            "" => self.offer(default_subnet(&status, call.v6)?)?,
            text => subnet(text)?,
        };
        if !status.ranges.iter().any(|range| range.contains(&subnet)) {
            let ranges: Vec<String> = status.ranges.iter().map(ToString::to_string).collect();
            let ranges = if ranges.is_empty() { "any range".to_owned() } else { ranges.join(" and ") };
            return Err(AddressError::OutOfRange { pool: subnet, ranges });
        }
        let part = match call.sub_pool.as_str() {
            "" => None,
            text => Some(self::subnet(text)?).filter(|part| *part != subnet),
        };
        if let Some(part) = part.filter(|part| !subnet.contains(part)) {
            return Err(AddressError::NotInPool { part: part.to_string(), pool: subnet });
        }
        let pool = Pool { subnet, part };
        Ok(json!({ "PoolID": pool.id(), "Pool": subnet, "Data": { GATEWAY: pool.gateway() } }))
    }

    /// `RequestAddress`.
    pub(crate) async fn request_address(&self, call: &AddressCall) -> Result<Value, AddressError> {
        let pool = Pool::read(&call.pool_id)?;
        let wanted = match call.address.as_str() {
            "" => None,
            text => Some(pool.address(text)?),
        };
        let address = match (wanted, call.is_gateway()) {
            (Some(gateway), true) => gateway,
            (None, true) => pool.gateway(),
            (Some(wanted), false) => self.claim(wanted).await?,
            (None, false) => self.allocate(pool).await?,
        };
        Ok(json!({ "Address": address, "Data": {} }))
    }

    /// `ReleaseAddress`. With the router away it is well: what is left is freed when it is back.
    pub(crate) async fn release_address(&self, call: &AddressCall) -> Result<Value, AddressError> {
        let pool = Pool::read(&call.pool_id)?;
        let address = pool.address(&call.address)?.addr();
        let known = self.leases().owner(address).cloned();
        let owner = match known {
            None => self.router.address_status().await.ok().and_then(|status| owner_in(&status, address)),
            known => known,
        };
        // Others are not of ours: a gateway's, which nobody has.
        if let Some(owner) = owner {
            self.leases().rest(address, owner.clone(), Instant::now());
            if let Err(error) = self.router.free(&owner, &[address], KEEP).await {
                warn!(%address, %error, "not given back yet");
            }
        }
        Ok(json!({}))
    }

    /// Gives back at once what was kept for containers that are gone for good.
    pub(crate) async fn give_back(&self, kept: Vec<(IpAddr, String)>) {
        if kept.is_empty() {
            return;
        }
        let status = self.router.address_status().await.unwrap_or_default();
        for (address, owner) in kept {
            // Only what one has can be given back: what is kept is taken first.
            let given_back = match within(&status, address) {
                Some(net) => self.router.claim(&owner, &[net]).await,
                None => Ok(()),
            };
            let freed = self.router.free(&owner, &[address], Duration::ZERO).await;
            if let Err(error) = given_back.and(freed) {
                debug!(%address, %error, "not given back yet");
            }
        }
    }

    /// Claims addresses that containers have and that are the network's to give, but nobody's: the router has lost what it knew.
    pub(crate) async fn adopt(&self, status: &AddressStatus, in_use: Vec<IpAddr>) {
        let nobodys = in_use.into_iter().filter(|address| owner_in(status, *address).is_none());
        for net in nobodys.filter_map(|address| within(status, address)) {
            let known = self.leases().owner(net.addr()).cloned();
            let owner = known.unwrap_or_else(new_owner);
            match self.router.claim(&owner, &[net]).await {
                Ok(()) => self.leases().take(net.addr(), owner),
                Err(error) => {
                    warn!(address = %net.addr(), %error, "a container of Docker has an address that is not its own")
                }
            }
        }
    }

    /// A pool that the engine did not name, unless it has not taken it for too often.
    fn offer(&self, pool: IpNet) -> Result<IpNet, AddressError> {
        if self.told.fetch_add(1, Ordering::Relaxed) < TOLD_MAX {
            return Ok(pool);
        }
        self.goes_on();
        Err(AddressError::NotTaken(pool))
    }

    async fn claim(&self, wanted: IpNet) -> Result<IpNet, AddressError> {
        let kept = self.leases().kept_for(wanted.addr());
        let owner = kept.unwrap_or_else(new_owner);
        self.router.claim(&owner, &[wanted]).await?;
        self.leases().take(wanted.addr(), owner);
        Ok(wanted)
    }

    async fn allocate(&self, pool: Pool) -> Result<IpNet, AddressError> {
        let from = pool.part.unwrap_or(pool.subnet);
        let returning = self.leases().returning(&from, Instant::now());
        let owner = returning.unwrap_or_else(new_owner);
        let given = self.router.allocate(&owner, from).await?.addr();
        self.leases().take(given, owner);
        pool.whole(given).ok_or(AddressError::NotInPool { part: given.to_string(), pool: pool.subnet })
    }
}

impl Pool {
    fn id(&self) -> String {
        let part = self.part.map(|part| format!("-{part}")).unwrap_or_default();
        format!("{POOL}{}{part}", self.subnet)
    }

    fn read(id: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::Unreadable { text: id.to_owned(), what: "pool of ours" };
        let nets = id.strip_prefix(POOL).ok_or_else(bad)?;
        let (net, part) = nets.split_once('-').map_or((nets, None), |(net, part)| (net, Some(part)));
        let pool = Self { subnet: subnet(net)?, part: part.map(subnet).transpose()? };
        if pool.part.is_none_or(|part| pool.subnet.contains(&part)) { Ok(pool) } else { Err(bad()) }
    }

    /// An address of the pool as containers have it: with the prefix length of the subnet.
    fn address(&self, text: &str) -> Result<IpNet, AddressError> {
        let bad = || AddressError::Unreadable { text: text.to_owned(), what: "address" };
        let address: IpAddr = text.parse().map_err(|_| bad())?;
        self.whole(address).ok_or_else(|| AddressError::NotInPool { part: text.to_owned(), pool: self.subnet })
    }

    fn whole(&self, address: IpAddr) -> Option<IpNet> {
        self.subnet.contains(&address).then(|| IpNet::new(address, self.subnet.prefix_len()).ok()).flatten()
    }

    /// What stands for the gateway that nobody has.
    fn gateway(&self) -> IpNet {
        self.subnet
    }
}

fn subnet(text: &str) -> Result<IpNet, AddressError> {
    let net: Option<IpNet> = text.parse().ok();
    net.map(|net| net.trunc()).ok_or_else(|| AddressError::Unreadable { text: text.to_owned(), what: "subnet" })
}

fn default_subnet(status: &AddressStatus, v6: bool) -> Result<IpNet, AddressError> {
    let is_wanted = |net: &&IpNet| net.addr().is_ipv6() == v6;
    let none = AddressError::NoDefault(if v6 { 6 } else { 4 });
    status.default_subnets.iter().find(is_wanted).map(IpNet::trunc).ok_or(none)
}

/// An address with the prefix length of the range that it is in; none if it is in none.
fn within(status: &AddressStatus, address: IpAddr) -> Option<IpNet> {
    let range = status.ranges.iter().find(|range| range.contains(&address))?;
    IpNet::new(address, range.prefix_len()).ok()
}

/// The owner of ours that has an address, as the router says.
fn owner_in(status: &AddressStatus, address: IpAddr) -> Option<String> {
    let mut ours = status.owners.iter().filter(|line| line.owner.starts_with(PREFIX));
    ours.find(|line| line.addresses.iter().any(|net| net.addr() == address)).map(|line| line.owner.clone())
}

/// A name that nobody has: the engine does not say for whom it asks.
fn new_owner() -> String {
    format!("{PREFIX}{:012x}", Entropy::System.number() >> 16)
}
