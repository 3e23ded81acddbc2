//! One operation: which addresses it concerns, from the node or to it, and the host's part.
//!
//! An address is the owner's before it is on a device, and off the device before it is given back: whatever ends in between,
//! nobody else gets an address that is in use. What such an end leaves is found at the next start ([`Worker::reconcile`]).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{sync::oneshot, task::spawn_blocking, time::sleep};
use tracing::{info, warn};
use weft::api::{
    AttachRequest, Attachment, ExposeRequest,
    address::WantedAddress,
    allocation::{AddressAnswer, AddressRequest, AllocationError, EXPOSED},
    endpoint::{self, EndpointRequest, FreeEnd},
    interface,
};
use weft_host::{Host, HostError};

use super::{Operation, OperationError, Operator, Outcome, Ranges, turns::Turns};
use crate::{
    control::{Asker, Settled},
    store::{Store, StoreError},
};

/// How long the addresses of a container that is gone are kept for it: it may be about to start again.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Until an address that is in use is claimed again, when the network could not yet say whose it is.
const CLAIM_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Does operations; clones are the same.
#[derive(Clone)]
pub(super) struct Worker {
    host: Arc<dyn Host>,
    control: Asker,
    operator: Operator,
    store: Arc<Store>,
    ranges: Arc<Ranges>,
    turns: Turns,
}

/// A claim under way.
pub(super) struct Claim {
    owner: String,
    addresses: Vec<IpNet>,
    settled: oneshot::Receiver<Settled>,
}

/// The addresses for an operation.
struct Settlement {
    /// All, in the order in which they were asked for.
    all: Vec<IpNet>,
    /// Those that the owner did not have before.
    fresh: Vec<IpAddr>,
}

impl Worker {
    pub(super) fn new(
        host: Arc<dyn Host>,
        control: Asker,
        operator: Operator,
        store: Arc<Store>,
        ranges: Ranges,
    ) -> Self {
        Self { host, control, operator, store, ranges: Arc::new(ranges), turns: Turns::default() }
    }

    /// Does an operation, and answers once the node knows of it.
    pub(super) async fn answer<T>(
        &self,
        operation: impl Future<Output = Outcome<T>>,
        answer: oneshot::Sender<Outcome<T>>,
    ) {
        let outcome = operation.await;
        let _ = self.plugged_in().await;
        // One who stopped waiting is no concern of ours.
        let _ = answer.send(outcome);
    }

    pub(super) async fn attach(&self, request: AttachRequest) -> Outcome<Vec<IpNet>> {
        let owner = self.owner(&request).await?;
        let _turn = self.turns.take(&owner).await;
        let settlement = self.settle(&owner, &request.addresses).await?;
        let given = self.host.attach(request.with_addresses(settlement.all.clone())).await;
        self.settled(&owner, settlement, given).await
    }

    /// Who has a container's addresses: the container by its name.
    async fn owner(&self, request: &AttachRequest) -> Outcome<String> {
        match &request.name {
            Some(name) => Ok(name.clone()),
            None => Ok(self.host.name_of(request.container.clone()).await?),
        }
    }

    /// Makes a device whose other end somebody else puts into a container, with addresses that they have settled.
    pub(super) async fn endpoint(&self, request: EndpointRequest) -> Outcome<FreeEnd> {
        Ok(self.host.endpoint(request).await?)
    }

    pub(super) async fn remove_endpoint(&self, name: String) -> Outcome<()> {
        Ok(self.host.remove_endpoint(name).await?)
    }

    pub(super) async fn expose(&self, request: ExposeRequest) -> Outcome<Vec<IpNet>> {
        let _turn = self.turns.take(EXPOSED).await;
        let settlement = self.settle(EXPOSED, &request.addresses).await?;
        let given = self.host.expose(request.with_addresses(settlement.all.clone())).await;
        self.settled(EXPOSED, settlement, given).await
    }

    pub(super) async fn detach(&self, request: AttachRequest) -> Outcome<Vec<IpNet>> {
        let owner = match self.owner(&request).await {
            Err(OperationError::Host(HostError::NoNamespace(_))) => return self.forget(request.container).await,
            named => named?,
        };
        let _turn = self.turns.take(&owner).await;
        let leaving = self.leaving(&owner, &request.addresses).await?;
        if !request.addresses.is_empty() && leaving.is_empty() {
            return Ok(leaving);
        }
        let taken = self.host.detach(request.with_addresses(leaving.clone())).await?;
        self.give_back(&owner, &leaving).await;
        Ok(taken)
    }

    pub(super) async fn hide(&self, request: ExposeRequest) -> Outcome<Vec<IpNet>> {
        let _turn = self.turns.take(EXPOSED).await;
        let leaving = self.leaving(EXPOSED, &request.addresses).await?;
        if !request.addresses.is_empty() && leaving.is_empty() {
            return Ok(leaving);
        }
        let taken = self.host.hide(request.with_addresses(leaving.clone())).await?;
        self.give_back(EXPOSED, &leaving).await;
        Ok(taken)
    }

    /// Gives back, after a while, the addresses of containers that are not plugged in any more.
    pub(super) async fn release(self, gone: Vec<String>) {
        for owner in gone.into_iter().filter(|owner| !is_looked_after(owner)) {
            let _turn = self.turns.take(&owner).await;
            // It may have been plugged in again meanwhile.
            let Ok(listed) = self.host.attachments().await else { continue };
            if listed.iter().any(|line| line.container == owner) {
                continue;
            }
            let keep = if owner == EXPOSED { Duration::ZERO } else { KEPT_FOR };
            self.free(&owner, Vec::new(), keep).await;
        }
    }

    /// At the start: gives back the addresses of containers that have gone since the last run.
    pub(super) async fn reconcile(self, found: BTreeSet<String>) {
        if self.ranges.all.is_empty() {
            return;
        }
        let known = self.control.snapshot().await.map(|snapshot| snapshot.report.ipam.owners).unwrap_or_default();
        let owners: BTreeSet<&str> = known.iter().map(|allotment| allotment.owner.as_str()).collect();
        let noted = self.store.plugged();
        let is_stale = |owner: &&String| !owners.contains(owner.as_str()) && !found.contains(owner.as_str());
        let stale: Vec<String> = noted.iter().filter(is_stale).cloned().collect();
        self.store(move |store| store.forget_plugged(stale.iter().map(String::as_str))).await;
        let gone = noted.into_iter().filter(|owner| !found.contains(owner)).collect();
        self.release(gone).await;
    }

    /// Begins to claim what a container has. The node knows of the claim when this returns.
    pub(super) async fn claim(&self, line: Attachment) -> Option<Claim> {
        let Attachment { container: owner, addresses, .. } = line;
        if owner.starts_with(endpoint::PREFIX) {
            return None;
        }
        let addresses: Vec<IpNet> = addresses.into_iter().filter(|net| self.ranges.contain(*net)).collect();
        if addresses.is_empty() {
            return None;
        }
        self.note(&owner).await;
        let request = AddressRequest::Claim { owner: owner.clone(), addresses: addresses.clone() };
        let settled = self.control.begin_addresses(request).await.ok()?;
        Some(Claim { owner, addresses, settled })
    }

    /// Claims until the network has said whose the addresses are.
    pub(super) async fn adopt(self, claim: Claim) {
        let Claim { owner, addresses, mut settled } = claim;
        loop {
            match settled.await {
                Err(_) => return,
                Ok(Ok(_)) => break,
                Ok(Err(error @ AllocationError::Taken { .. })) => {
                    warn!(container = owner, %error, "a container has an address of another: give it another one");
                    return;
                }
                Ok(Err(error)) => {
                    info!(container = owner, %error, "addresses in use are not confirmed yet; trying again");
                    tokio::select! {
                        () = sleep(CLAIM_AGAIN_AFTER) => {}
                        () = self.control.gone() => return,
                    }
                }
            }
            if !self.has(&owner, &addresses).await {
                break;
            }
            let request = AddressRequest::Claim { owner: owner.clone(), addresses: addresses.clone() };
            let Ok(again) = self.control.begin_addresses(request).await else { return };
            settled = again;
        }
        let _turn = self.turns.take(&owner).await;
        if !self.has(&owner, &addresses).await {
            // Taken from it meanwhile; then nobody has given them back.
            self.free(&owner, addresses.iter().map(IpNet::addr).collect(), Duration::ZERO).await;
        }
    }

    /// Whether a container has all of these, as far as can be seen.
    async fn has(&self, owner: &str, addresses: &[IpNet]) -> bool {
        let Ok(listed) = self.host.attachments().await else { return true };
        listed.iter().any(|line| line.container == owner && addresses.iter().all(|net| line.addresses.contains(net)))
    }

    /// Makes the addresses wanted the owner's.
    async fn settle(&self, owner: &str, wanted: &[WantedAddress]) -> Outcome<Settlement> {
        let wanted = if wanted.is_empty() { &[WantedAddress::OfDefault] } else { wanted };
        let given = wanted.iter().filter_map(WantedAddress::given).filter(|net| self.ranges.contain(*net));
        let given: Vec<IpNet> = given.collect();
        let subnets: Vec<IpNet> = wanted.iter().flat_map(|wanted| self.ranges.subnets(*wanted)).collect();
        if subnets.is_empty() && wanted.iter().any(|wanted| wanted.given().is_none()) {
            return Err(AllocationError::Off.into());
        }
        let had: BTreeSet<IpAddr> = if given.is_empty() && subnets.is_empty() {
            BTreeSet::new()
        } else {
            self.note(owner).await;
            self.ask(AddressRequest::Lookup { owner: owner.to_owned() }).await?.iter().map(IpNet::addr).collect()
        };
        let mut settlement = Settlement { all: Vec::new(), fresh: Vec::new() };
        if !given.is_empty() {
            // First, so that none of them is what is free.
            settlement.fresh.extend(given.iter().map(IpNet::addr).filter(|address| !had.contains(address)));
            let request = AddressRequest::Claim { owner: owner.to_owned(), addresses: given };
            if let Err(error) = self.ask(request).await {
                self.take_back(owner, settlement.fresh).await;
                return Err(error);
            }
        }
        let mut chosen = Vec::new();
        if !subnets.is_empty() {
            match self.ask(AddressRequest::Allocate { owner: owner.to_owned(), subnets }).await {
                Ok(addresses) => chosen = addresses,
                Err(error) => {
                    self.take_back(owner, settlement.fresh).await;
                    return Err(error);
                }
            }
            settlement.fresh.extend(chosen.iter().map(IpNet::addr).filter(|address| !had.contains(address)));
        }
        for wanted in wanted {
            settlement.all.extend(wanted.given());
            for subnet in self.ranges.subnets(*wanted) {
                settlement.all.extend(chosen.iter().find(|net| net.trunc() == subnet));
            }
        }
        Ok(settlement)
    }

    /// Takes back what was settled if the host did not do its part.
    async fn settled(
        &self,
        owner: &str,
        settlement: Settlement,
        given: Result<Vec<IpNet>, HostError>,
    ) -> Outcome<Vec<IpNet>> {
        if given.is_err() {
            self.take_back(owner, settlement.fresh).await;
        }
        Ok(given?)
    }

    async fn take_back(&self, owner: &str, fresh: Vec<IpAddr>) {
        if !fresh.is_empty() {
            self.free(owner, fresh, Duration::ZERO).await;
        }
    }

    /// Which addresses leave an owner: the given ones, and those that it has of the named subnets.
    async fn leaving(&self, owner: &str, wanted: &[WantedAddress]) -> Outcome<Vec<IpNet>> {
        let mut leaving: Vec<IpNet> = wanted.iter().filter_map(WantedAddress::given).collect();
        if leaving.len() < wanted.len() {
            let listed = self.host.attachments().await?;
            let has = listed.into_iter().filter(|line| line.container == owner).flat_map(|line| line.addresses);
            let subnets: Vec<IpNet> = wanted.iter().flat_map(|wanted| self.ranges.subnets(*wanted)).collect();
            leaving.extend(has.filter(|net| subnets.contains(&net.trunc())));
        }
        Ok(leaving)
    }

    /// Gives back what was taken from an owner; all if nothing is named.
    async fn give_back(&self, owner: &str, addresses: &[IpNet]) {
        self.free(owner, addresses.iter().map(IpNet::addr).collect(), Duration::ZERO).await;
        if addresses.is_empty() {
            let owner = owner.to_owned();
            self.store(move |store| store.forget_plugged([owner.as_str()])).await;
        }
    }

    /// Gives back the addresses of a container whose namespace has vanished.
    async fn forget(&self, container: String) -> Outcome<Vec<IpNet>> {
        let _turn = self.turns.take(&container).await;
        let addresses = if self.ranges.all.is_empty() {
            Vec::new()
        } else {
            self.ask(AddressRequest::Lookup { owner: container.clone() }).await?
        };
        if addresses.is_empty() {
            return Err(HostError::NoNamespace(container).into());
        }
        self.give_back(&container, &[]).await;
        Ok(addresses)
    }

    async fn free(&self, owner: &str, addresses: Vec<IpAddr>, keep: Duration) {
        if self.ranges.all.is_empty() {
            return;
        }
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let request = AddressRequest::Free { owner: owner.to_owned(), addresses, keep_ms };
        match self.ask(request).await {
            Ok(_) | Err(OperationError::Gone(_)) => {}
            Err(error) => warn!(container = owner, %error, "addresses are not given back"),
        }
    }

    /// Notes that an owner's addresses are for something plugged in, so that they are not lost with it, unless others see to that.
    async fn note(&self, owner: &str) {
        if is_looked_after(owner) {
            return;
        }
        let owner = owner.to_owned();
        self.store(move |store| store.note_plugged(&owner)).await;
    }

    /// Writes down whose addresses are on containers. What waits for the disk gets a thread that may.
    async fn store(&self, work: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static) {
        let store = self.store.clone();
        match spawn_blocking(move || work(&store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "it cannot be noted whose addresses are on containers"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn ask(&self, request: AddressRequest) -> Outcome<Vec<IpNet>> {
        match self.control.addresses(request).await?? {
            AddressAnswer::Addresses(addresses) => Ok(addresses),
            AddressAnswer::Removed(_) | AddressAnswer::Done => Ok(Vec::new()),
        }
    }

    /// What is plugged in; the node knows of it when this returns.
    async fn plugged_in(&self) -> Outcome<Vec<Attachment>> {
        self.operator.ask(Operation::List).await
    }
}

impl Ranges {
    /// Whether an address is one that the network gives out.
    fn contain(&self, net: IpNet) -> bool {
        self.all.iter().any(|range| range.contains(&net.addr()))
    }

    /// The subnets of which one address each is wanted.
    fn subnets(&self, wanted: WantedAddress) -> Vec<IpNet> {
        match wanted {
            WantedAddress::Given(_) => Vec::new(),
            WantedAddress::Of(subnet) => vec![subnet],
            WantedAddress::OfDefault => self.default_subnets.clone(),
        }
    }
}

/// Whether somebody else says when an owner is gone for good and its addresses are free: whoever asked for a free end, and the runtime
/// that plugged a container in by CNI.
fn is_looked_after(owner: &str) -> bool {
    owner.starts_with(endpoint::PREFIX) || interface::network_of(owner).is_some()
}
