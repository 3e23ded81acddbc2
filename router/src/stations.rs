//! Host operations one after the other, and what is plugged into the bridge as the node knows it.
//!
//! Whoever attaches, detaches, exposes or hides asks this task; after each call, and every few seconds (a container may
//! end without a word), it compares what the host says is plugged in with what the node was told, and tells the node the
//! difference. So the node and the kernel agree whatever happened to either.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weft::{
    api::{AttachRequest, Attachment, ExposeRequest},
    id::Mac,
    names::Held,
    node::input::Input,
};
use weft_host::{EXPOSED, Host, HostError};

use crate::{
    control::{Asker, Gone},
    names::Lifetimes,
};

/// Requests that may wait. Full: the asker waits, within its own deadline.
const REQUESTS_MAX: usize = 16;
/// How often the host is asked what is plugged in.
const RESCAN_EVERY: Duration = Duration::from_secs(5);

/// What came of a request.
pub(crate) type Outcome<T> = Result<T, HostError>;

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
    /// Say what is plugged in.
    List(oneshot::Sender<Outcome<Vec<Attachment>>>),
}

/// Asks for host operations; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Operator(mpsc::Sender<Operation>);

impl Operator {
    /// Has an operation done. One whose caller stops waiting is done all the same.
    pub(crate) async fn ask<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<Outcome<T>>) -> Operation,
    ) -> Result<Outcome<T>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send(operation(answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}

/// The task's state.
pub(crate) struct Stations {
    host: Arc<dyn Host>,
    control: Asker,
    operations: mpsc::Receiver<Operation>,
    /// What the node was told.
    told: BTreeMap<Mac, Vec<IpAddr>>,
    lifetimes: Lifetimes,
    /// This router's own names.
    names: watch::Receiver<Vec<Held>>,
    /// The host's addresses on the bridge, for who listens on them.
    exposed: watch::Sender<Vec<IpAddr>>,
}

impl Stations {
    /// The task, and the way to ask it.
    pub(crate) fn new(host: Arc<dyn Host>, control: Asker, names: watch::Receiver<Vec<Held>>) -> (Self, Operator) {
        let (operator, operations) = mpsc::channel(REQUESTS_MAX);
        let (told, lifetimes, exposed) = (BTreeMap::new(), Lifetimes::default(), watch::Sender::default());
        (Self { host, control, operations, told, lifetimes, names, exposed }, Operator(operator))
    }

    /// The host's addresses on the bridge, now and later.
    pub(crate) fn exposed(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.exposed.subscribe()
    }

    /// Serves until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut rescan = interval(RESCAN_EVERY);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // An operation once begun is finished: only the waiting ends.
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rescan.tick() => {
                    if self.compare().await.is_ok() {
                        self.sweep_names().await;
                    }
                }
                Some(operation) = self.operations.recv() => self.perform(operation).await,
            }
        }
    }

    async fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Attach(request, answer) => self.change(self.host.attach(request), answer).await,
            Operation::Detach(request, answer) => self.change(self.host.detach(request), answer).await,
            Operation::Expose(request, answer) => self.change(self.host.expose(request), answer).await,
            Operation::Hide(request, answer) => self.change(self.host.hide(request), answer).await,
            Operation::List(answer) => {
                let _ = answer.send(self.compare().await);
            }
        }
    }

    /// Waits for a change and answers once the node knows of it.
    async fn change(&mut self, change: weft_host::Answer<Vec<IpNet>>, answer: oneshot::Sender<Outcome<Vec<IpNet>>>) {
        let outcome = change.await;
        let _ = self.compare().await;
        let _ = answer.send(outcome);
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
mod tests {
    use weft::names::NameRequest;
    use weft_host::{BridgeConfig, FakeHost};

    use super::*;
    use crate::control::{self, Ask};

    fn station(mac: u8, addresses: &[&str]) -> Input {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Input::Station { mac: Mac([2, 0, 0, 0, 0, mac]), addresses, attached: true }
    }

    fn gone(mac: u8) -> Input {
        Input::StationGone { mac: Mac([2, 0, 0, 0, 0, mac]) }
    }

    fn attach(container: &str, addresses: &[&str]) -> AttachRequest {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        AttachRequest { container: container.to_owned(), addresses, no_multicast_route: false }
    }

    /// What the node is told next.
    async fn told(asks: &mut mpsc::Receiver<Ask>) -> Input {
        let Some(Ask::Feed(input, done)) = asks.recv().await else { panic!("nothing told") };
        done.send(()).unwrap();
        input
    }

    /// Expects names of `c2` to be removed next: those that led to these addresses, or all.
    async fn names_removed(asks: &mut mpsc::Receiver<Ask>, addresses: &[&str]) {
        let Some(Ask::Names(request, answer)) = asks.recv().await else { panic!("no names removed") };
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let owner = Some("c2".parse().unwrap());
        assert_eq!(request, NameRequest::Remove { owner, name: None, addresses });
        answer.send(Ok(0)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_learns_of_what_is_plugged_in_and_of_what_vanished() {
        let host = Arc::new(FakeHost::new());
        host.ensure_bridge(BridgeConfig { peer: weft::id::PeerName([2; 6]), mtu: None }).await.unwrap();
        host.add_namespace("c1");
        host.add_namespace("c2");
        host.attach(attach("c1", &["10.2.0.1/24"])).await.unwrap();
        let (asker, mut asks) = control::channel();
        let own = watch::channel(Vec::new());
        let (stations, operator) = Stations::new(host.clone(), asker, own.1);
        let stop = CancellationToken::new();
        let task = tokio::spawn(stations.run(stop.clone()));
        assert_eq!(told(&mut asks).await, station(1, &["10.2.0.1"]), "attached in an earlier run");

        let request = attach("c2", &["10.2.0.2/24", "fd00::2/64"]);
        let attached = tokio::spawn({
            let operator = operator.clone();
            async move { operator.ask(|answer| Operation::Attach(request, answer)).await }
        });
        assert_eq!(told(&mut asks).await, station(2, &["10.2.0.2", "fd00::2"]));
        assert_eq!(attached.await.unwrap().unwrap().unwrap().len(), 2);

        host.detach(attach("c2", &["10.2.0.2/24"])).await.unwrap();
        assert_eq!(told(&mut asks).await, gone(2), "seen by the next scan");
        assert_eq!(told(&mut asks).await, station(2, &["fd00::2"]));
        names_removed(&mut asks, &["10.2.0.2"]).await;
        host.remove_namespace("c2");
        assert_eq!(told(&mut asks).await, gone(2));
        names_removed(&mut asks, &[]).await;

        let failed = operator.ask(|answer| Operation::Attach(attach("c3", &["10.2.0.3/24"]), answer)).await.unwrap();
        assert_eq!(failed, Err(HostError::NoNamespace("c3".to_owned())));
        stop.cancel();
        task.await.unwrap();
        assert!(operator.ask(Operation::List).await.is_err(), "stopped");
    }
}
