//! What is plugged into the bridge: host operations with the addresses that they need, and what the node knows of it.
//!
//! ```text
//! HTTP ──▶ Operation ──▶ a task for each ([`work`]): addresses from the node, then the host, then ──▶ compare ──▶ answer
//! every few seconds ────────────────────────────────────────────────────────────────────────────────▶ compare
//! ```
//! Whoever attaches, detaches, exposes or hides asks this task; after each call, and every few seconds (a container may
//! end without a word), it compares what the host says is plugged in with what the node was told, and tells the node the
//! difference. So the node and the kernel agree whatever happened to either. Addresses of containers that are gone are given
//! back, after a while in which they may come back; those of containers that are there at the start are claimed.

mod turns;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use weft::{
    api::{
        AttachRequest, Attachment, ExposeRequest,
        allocation::AllocationError,
        endpoint::{EndpointRequest, FreeEnd},
    },
    id::Mac,
    names::Held,
    node::input::Input,
};
use weft_host::{EXPOSED, Host, HostError};

use self::work::Worker;
use crate::{
    control::{Asker, Gone},
    names::Lifetimes,
    store::Store,
};

/// Requests that may wait. Full: the asker waits, within its own deadline.
const REQUESTS_MAX: usize = 16;
/// How often the host is asked what is plugged in.
const RESCAN_EVERY: Duration = Duration::from_secs(5);

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum OperationError {
    /// The host did not do it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no address for it.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The router is stopping.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// What came of a request.
pub(crate) type Outcome<T> = Result<T, OperationError>;

/// One host operation, with the way to answer.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Give a container addresses.
    Attach(AttachRequest, oneshot::Sender<Outcome<Vec<IpNet>>>),
    /// Take them back.
    Detach(AttachRequest, oneshot::Sender<Outcome<Vec<IpNet>>>),
    /// Give the host addresses.
    Expose(ExposeRequest, oneshot::Sender<Outcome<Vec<IpNet>>>),
    /// Take them back.
    Hide(ExposeRequest, oneshot::Sender<Outcome<Vec<IpNet>>>),
    /// Make a device whose other end somebody else puts into a container.
    Endpoint(EndpointRequest, oneshot::Sender<Outcome<FreeEnd>>),
    /// Remove one, by its name.
    RemoveEndpoint(String, oneshot::Sender<Outcome<()>>),
    /// Say what is plugged in, and let the node know.
    List(oneshot::Sender<Outcome<Vec<Attachment>>>),
}

/// Asks for host operations; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Operator(mpsc::Sender<Operation>);

impl Operator {
    /// Has an operation done. One whose caller stops waiting is done all the same.
    pub(crate) async fn ask<T>(&self, operation: impl FnOnce(oneshot::Sender<Outcome<T>>) -> Operation) -> Outcome<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(operation(answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)?
    }
}

/// Which addresses the network gives out; none if it gives out none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// All that it gives out from.
    pub(crate) all: Vec<IpNet>,
    /// Where it does when nobody says where.
    pub(crate) default_subnets: Vec<IpNet>,
}

/// The task's state.
pub(crate) struct Stations {
    host: Arc<dyn Host>,
    control: Asker,
    operations: mpsc::Receiver<Operation>,
    worker: Worker,
    tasks: JoinSet<()>,
    /// What the node was told.
    told: BTreeMap<Mac, Vec<IpAddr>>,
    lifetimes: Lifetimes,
    /// This router's own names.
    names: watch::Receiver<Vec<Held>>,
    /// The host's addresses on the bridge, for who listens on them.
    exposed: watch::Sender<Vec<IpAddr>>,
    /// Who was plugged in when we looked last.
    owners: BTreeSet<String>,
}

impl Stations {
    /// The task, and the way to ask it.
    pub(crate) fn new(
        host: Arc<dyn Host>,
        control: Asker,
        store: Arc<Store>,
        ranges: Ranges,
        names: watch::Receiver<Vec<Held>>,
    ) -> (Self, Operator) {
        let (operator, operations) = mpsc::channel(REQUESTS_MAX);
        let operator = Operator(operator);
        let worker = Worker::new(host.clone(), control.clone(), operator.clone(), store, ranges);
        let stations = Self {
            host,
            control,
            operations,
            worker,
            tasks: JoinSet::new(),
            told: BTreeMap::new(),
            owners: BTreeSet::new(),
            lifetimes: Lifetimes::default(),
            names,
            exposed: watch::Sender::default(),
        };
        (stations, operator)
    }

    /// The host's addresses on the bridge, now and later.
    pub(crate) fn exposed(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.exposed.subscribe()
    }

    /// Looks what earlier runs have left, and has the node claim the addresses that are in use, before anybody asks for any.
    pub(crate) async fn begin(&mut self) {
        for line in self.compare().await.unwrap_or_default() {
            if let Some(claim) = self.worker.claim(line).await {
                self.spawn(|worker| worker.adopt(claim));
            }
        }
        let found = self.owners.clone();
        self.spawn(|worker| worker.reconcile(found));
    }

    /// Serves until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut rescan = interval(RESCAN_EVERY);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = rescan.tick() => {
                    if self.compare().await.is_ok() {
                        self.sweep_names().await;
                    }
                    // What fails there is told there.
                    let _ = self.host.keep_passing().await;
                }
                Some(operation) = self.operations.recv() => self.perform(operation).await,
                Some(ended) = self.tasks.join_next() => {
                    if ended.is_err() {
                        error!("an operation on the host panicked: please report it, with the log");
                    }
                }
            }
        }
        // An operation once begun is finished: only the waiting ends.
        self.operations.close();
        while self.operations.try_recv().is_ok() {}
        while self.tasks.join_next().await.is_some() {}
    }

    /// Does what is asked, and all that waits behind it. Whoever wants to know what is plugged in gets one look's answer together:
    /// each of many attaches at a time ends with that question, and a look takes the longer the more is plugged in.
    async fn perform(&mut self, operation: Operation) {
        let mut asking = Vec::new();
        asking.extend(self.begin_operation(operation));
        while let Ok(next) = self.operations.try_recv() {
            asking.extend(self.begin_operation(next));
        }
        if asking.is_empty() {
            return;
        }
        let seen = self.compare().await;
        for answer in asking {
            let _ = answer.send(seen.clone());
        }
    }

    /// Begins what takes its own time; returns whom to tell what is plugged in.
    fn begin_operation(&mut self, operation: Operation) -> Option<oneshot::Sender<Outcome<Vec<Attachment>>>> {
        match operation {
            Operation::Attach(request, answer) => {
                self.spawn(|worker| async move { worker.answer(worker.attach(request), answer).await });
            }
            Operation::Detach(request, answer) => {
                self.spawn(|worker| async move { worker.answer(worker.detach(request), answer).await });
            }
            Operation::Expose(request, answer) => {
                self.spawn(|worker| async move { worker.answer(worker.expose(request), answer).await });
            }
            Operation::Hide(request, answer) => {
                self.spawn(|worker| async move { worker.answer(worker.hide(request), answer).await });
            }
            Operation::Endpoint(request, answer) => {
                self.spawn(|worker| async move { worker.answer(worker.endpoint(request), answer).await });
            }
            Operation::RemoveEndpoint(name, answer) => {
                self.spawn(|worker| async move { worker.answer(worker.remove_endpoint(name), answer).await });
            }
            Operation::List(answer) => return Some(answer),
        }
        None
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, work: impl FnOnce(Worker) -> F) {
        self.tasks.spawn(work(self.worker.clone()));
    }

    /// Asks the host what is plugged in and tells the node what is new or gone.
    async fn compare(&mut self) -> Outcome<Vec<Attachment>> {
        let listed = self.host.attachments().await.inspect_err(|error| {
            warn!(%error, "cannot see what is plugged into the bridge; trying again soon");
        })?;
        let now: BTreeMap<Mac, Vec<IpAddr>> =
            listed.iter().map(|line| (line.mac, line.addresses.iter().map(IpNet::addr).collect())).collect();
        for input in differences(&self.told, &now) {
            // A router that is stopping has no more use for it.
            let _ = self.control.feed(input).await;
        }
        self.told = now;
        for removal in self.lifetimes.compare(&listed) {
            let _ = self.control.names(removal).await;
        }
        let bridge = listed.iter().filter(|line| line.container == EXPOSED);
        let exposed: Vec<IpAddr> = bridge.flat_map(|line| line.addresses.iter().map(IpNet::addr)).collect();
        self.exposed.send_if_modified(|before| std::mem::replace(before, exposed.clone()) != exposed);
        let owners = listed.iter().map(|line| line.container.clone()).collect();
        let gone: Vec<String> = self.owners.difference(&owners).cloned().collect();
        self.owners = owners;
        if !gone.is_empty() {
            self.spawn(|worker| worker.release(gone));
        }
        Ok(listed)
    }

    /// Removes names whose owners are not plugged in.
    async fn sweep_names(&mut self) {
        let own = self.names.borrow_and_update().clone();
        for removal in self.lifetimes.sweep(&own) {
            let _ = self.control.names(removal).await;
        }
    }
}

/// The inputs that turn `before` into `now`. The node only ever adds to a station's addresses, so one that lost some is
/// gone first and then there again.
fn differences(before: &BTreeMap<Mac, Vec<IpAddr>>, now: &BTreeMap<Mac, Vec<IpAddr>>) -> Vec<Input> {
    let lost =
        |mac: &Mac, had: &Vec<IpAddr>| now.get(mac).is_none_or(|has| had.iter().any(|address| !has.contains(address)));
    let gone = before.iter().filter(|(mac, had)| lost(mac, had)).map(|(mac, _)| Input::StationGone { mac: *mac });
    let changed = now.iter().filter(|(mac, has)| before.get(mac) != Some(has));
    let there = changed.map(|(mac, has)| Input::Station { mac: *mac, addresses: has.clone(), attached: true });
    gone.chain(there).collect()
}

#[cfg(test)]
mod tests;
