//! What happens in the engine: names of containers come and go with them, addresses of removed ones are free at once, and what was
//! left behind while somebody was away is cleaned up.
//!
//! ```text
//!   away ──connect, events, look at all──▶ watching ──event: look at that container──▶ watching
//!    ▲                                        │ each minute: look at all
//!    └───────── the engine went away ─────────┘
//! ```
//! A container's places in our networks are known by their endpoints: the router has attachments of these names. So it does not
//! matter what the network or the driver is called.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weft::api::Attachment;

use super::{
    DRIVER, PREFIX,
    addresses::Addresses,
    call::Scope,
    engine::{Container, Engine, EngineError, Event, Events},
    label,
    router::{Router, RouterError},
};

/// First and longest wait before the engine is tried again; it doubles in between.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];
/// How often all is looked at: events may have been missed.
const LOOK: Duration = Duration::from_secs(60);
/// How long something must be seen to be left behind before it is removed: an engine takes less to start a container.
const LEFT_BEHIND: Duration = Duration::from_secs(45);

/// The watcher.
#[derive(Debug)]
pub(crate) struct Watch {
    engine: PathBuf,
    router: Router,
    addresses: Arc<Addresses>,
    scope: Scope,
    /// What was told of each endpoint.
    told: BTreeMap<String, Told>,
    /// Since when attachments and addresses are seen that no container has.
    orphans: BTreeMap<Orphan, Instant>,
}

/// A container's place in a network, and what it is called there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    container: String,
    names: BTreeSet<String>,
    addresses: Vec<IpAddr>,
}

/// Something that no container has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Orphan {
    /// An attachment.
    Endpoint(String),
    /// An address, with its owner.
    Address(IpAddr, String),
}

impl Watch {
    pub(crate) fn new(engine: PathBuf, router: Router, addresses: Arc<Addresses>, scope: Scope) -> Self {
        Self { engine, router, addresses, scope, told: BTreeMap::new(), orphans: BTreeMap::new() }
    }

    /// Watches until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pause = RETRY[0];
        let mut complained = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = self.session(&mut pause, &mut complained) => {
                    if let Err(error) = ended && !complained {
                        info!(%error, "Docker is not to be watched; trying again until it is");
                        complained = true;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY[1]);
        }
    }

    /// Watches as long as the engine is there.
    async fn session(&mut self, pause: &mut Duration, complained: &mut bool) -> Result<(), EngineError> {
        let engine = Engine::connect(&self.engine).await?;
        // First the events, then the look: nothing falls in between.
        let mut events = engine.events().await?;
        info!(socket = %engine.socket().display(), "Docker is watched");
        (*pause, *complained) = (RETRY[0], false);
        let mut has_network = self.scope == Scope::Global;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match next(&mut look, &mut events).await? {
                Some(Some(event)) => self.happened(&engine, event).await?,
                Some(None) => {
                    // Not again once it was there: who removes it has reasons.
                    has_network = has_network || self.ensure_network(&engine).await;
                    self.look_at_all(&engine).await?;
                }
                None => return Ok(()),
            }
        }
    }

    /// The network `weft` is there without anybody's doing; whether it is.
    async fn ensure_network(&self, engine: &Engine) -> bool {
        let made = match engine.network(DRIVER).await {
            Err(error) if error.is_not_found() => engine.create_network(self.addresses.default_subnet().await).await,
            found => found.map(drop),
        };
        if let Err(error) = &made {
            let seconds = LOOK.as_secs();
            warn!(%error, "cannot make Docker's network `weft`, trying again in {seconds} s; or make it by `docker network create`");
        }
        made.is_ok()
    }

    async fn happened(&mut self, engine: &Engine, event: Event) -> Result<(), EngineError> {
        let Event { action, kind, actor } = event;
        debug!(action, kind, id = actor.id, "Docker tells");
        match (kind.as_str(), action.as_str()) {
            ("container", "create") => self.addresses.leases().made(&actor.id, Instant::now()),
            ("container", "start" | "rename") => self.look_at(engine, &actor.id).await?,
            ("container", "die") => self.forget(&actor.id).await,
            ("container", "destroy") => {
                self.forget(&actor.id).await;
                let kept = self.addresses.leases().removed(&actor.id);
                self.addresses.give_back(kept).await;
            }
            ("network", "connect" | "disconnect") => {
                if let Some(container) = actor.attributes.get("container") {
                    self.look_at(engine, container).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Learns what one container has and is called.
    async fn look_at(&mut self, engine: &Engine, id: &str) -> Result<(), EngineError> {
        match engine.container(id).await {
            Ok(container) => {
                if let Some(attached) = names_of(self.router.attachments().await) {
                    self.tell(&container, &attached).await;
                }
            }
            Err(error) if error.is_not_found() => self.forget(id).await,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Learns what all containers have and are called, and removes what none has.
    async fn look_at_all(&mut self, engine: &Engine) -> Result<(), EngineError> {
        let Some(attached) = names_of(self.router.attachments().await) else { return Ok(()) };
        let mut containers = BTreeMap::new();
        for id in engine.running().await? {
            match engine.container(&id).await {
                Ok(container) => drop(containers.insert(id, container)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for container in containers.values() {
            self.tell(container, &attached).await;
        }
        let gone = self.told.iter().filter(|(_, told)| !containers.contains_key(&told.container));
        let gone = gone.map(|(owner, _)| owner.clone()).collect();
        self.forget_owners(gone).await;
        if self.scope == Scope::Local {
            self.clean_up(engine, &containers, &attached).await?;
        }
        if self.scope == Scope::Global {
            let managers = engine.managers().await?;
            if !managers.is_empty()
                && let Err(error) = self.router.connect(&managers).await
            {
                warn!(%error, "cannot connect to the routers of the swarm's managers");
            }
        }
        Ok(())
    }

    /// Tells the router of a container's names, as far as they changed. They are of its endpoints, and go with these.
    async fn tell(&mut self, container: &Container, attached: &BTreeSet<String>) {
        let ports = container.ports().filter(|port| attached.contains(&label(&port.endpoint_id)));
        let ports: Vec<_> = ports.filter(|_| container.pid().is_some()).collect();
        let mut now = BTreeMap::new();
        for port in ports {
            let addresses: Vec<IpAddr> = port.addresses().collect();
            self.addresses.leases().runs(&container.id, &addresses);
            let own = [container.name().to_owned(), container.hostname()];
            let names = port.aliases.iter().cloned().chain(own).filter(|name| !name.is_empty()).collect();
            now.insert(label(&port.endpoint_id), Told { container: container.id.clone(), names, addresses });
        }
        let before = self.told.iter().filter(|(_, told)| told.container == container.id);
        let changed = before.filter(|(owner, told)| now.get(*owner) != Some(told));
        let changed: Vec<(String, Told)> = changed.map(|(owner, told)| (owner.clone(), told.clone())).collect();
        for (owner, told) in changed {
            match now.get(&owner) {
                None => self.forget_owners(vec![owner]).await,
                Some(now) => self.withdraw(&owner, &told, now).await,
            }
        }
        for (owner, told) in now {
            if self.told.contains_key(&owner) || told.addresses.is_empty() {
                continue;
            }
            for name in &told.names {
                if let Err(error) = self.router.add_name(&owner, name, &told.addresses).await {
                    debug!(name, %error, "not registered");
                }
            }
            self.told.insert(owner, told);
        }
    }

    /// Takes away what a place in a network is not called any more; names that people gave it stay.
    async fn withdraw(&mut self, owner: &str, told: &Told, now: &Told) {
        self.told.remove(owner);
        let moved = told.addresses != now.addresses;
        for name in told.names.iter().filter(|name| moved || !now.names.contains(*name)) {
            if let Err(error) = self.router.remove_names(owner, Some(name)).await {
                debug!(owner, name, %error, "it is not removed");
            }
        }
    }

    /// Takes a container's names away.
    async fn forget(&mut self, container: &str) {
        let own = self.told.iter().filter(|(_, told)| told.container == container);
        let owners = own.map(|(owner, _)| owner.clone()).collect();
        self.forget_owners(owners).await;
    }

    async fn forget_owners(&mut self, owners: Vec<String>) {
        for owner in owners {
            self.told.remove(&owner);
            if let Err(error) = self.router.remove_names(&owner, None).await {
                debug!(owner, %error, "its names are not removed");
            }
        }
    }

    /// Makes addresses that are in use ours, and removes endpoints and addresses that no container has, once they have been seen so
    /// for a while.
    async fn clean_up(
        &mut self,
        engine: &Engine,
        containers: &BTreeMap<String, Container>,
        attached: &BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let endpoints: BTreeSet<String> = containers.values().flat_map(Container::attachments).collect();
        let mut in_use: BTreeSet<IpAddr> =
            containers.values().flat_map(|container| container.ports().flat_map(|port| port.addresses())).collect();
        in_use.extend(engine.networks().await?.iter().flat_map(|network| network.set_aside()));
        let status = self.router.address_status().await.unwrap_or_default();
        let ports = containers.values().flat_map(Container::ports);
        let ports = ports.filter(|port| attached.contains(&label(&port.endpoint_id)));
        self.addresses.adopt(&status, ports.flat_map(|port| port.addresses()).collect()).await;
        let ours = status.owners.iter().filter(|line| line.owner.starts_with(PREFIX));
        let addresses = ours.flat_map(|line| line.addresses.iter().map(|net| (net.addr(), line.owner.clone())));

        let orphans = attached.difference(&endpoints).cloned().map(Orphan::Endpoint);
        let unused = addresses.filter(|(address, _)| !in_use.contains(address));
        let seen: BTreeSet<Orphan> =
            orphans.chain(unused.map(|(address, owner)| Orphan::Address(address, owner))).collect();
        let now = Instant::now();
        self.orphans.retain(|orphan, _| seen.contains(orphan));
        for orphan in seen {
            let since = *self.orphans.entry(orphan.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= LEFT_BEHIND {
                self.remove(&orphan).await;
            }
        }
        Ok(())
    }

    async fn remove(&self, orphan: &Orphan) {
        let removed = match orphan {
            Orphan::Endpoint(name) => self.router.remove_endpoint(name).await,
            Orphan::Address(address, owner) => self.router.free(owner, &[*address], Duration::ZERO).await,
        };
        match removed {
            Ok(()) => info!(?orphan, "no container has it any more: removed"),
            Err(error) => debug!(?orphan, %error, "not removed yet"),
        }
    }
}

/// The next event, or none in its place when it is time to look at all; nothing when the engine has ended.
async fn next(look: &mut tokio::time::Interval, events: &mut Events) -> Result<Option<Option<Event>>, EngineError> {
    tokio::select! {
        _ = look.tick() => Ok(Some(None)),
        event = events.next() => Ok(event?.map(Some)),
    }
}

/// The attachments that are endpoints of the engine's; none if the router does not say.
fn names_of(attached: Result<Vec<Attachment>, RouterError>) -> Option<BTreeSet<String>> {
    let attached = attached.inspect_err(|error| debug!(%error, "the router does not list what is plugged in")).ok()?;
    Some(attached.into_iter().map(|line| line.container).filter(|name| name.starts_with(PREFIX)).collect())
}
