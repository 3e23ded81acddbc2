//! Host operations one after the other, and what is plugged into the bridge as the node knows it.
//!
//! Whoever attaches, detaches, exposes or hides asks this task; after each call, and every few seconds (a container may
//! end without a word), it compares what the host says is plugged in with what the node was told, and tells the node the
//! difference. So the node and the kernel agree whatever happened to either.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weft::{
    api::{
        AttachRequest, Attachment, ExposeRequest,
        endpoint::{EndpointRequest, FreeEnd},
    },
    id::Mac,
    node::input::Input,
};
use weft_host::{Host, HostError};

use crate::control::{Asker, Gone};

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
    /// Make a device whose other end somebody else puts into a container.
    Endpoint(EndpointRequest, oneshot::Sender<Outcome<FreeEnd>>),
    /// Remove one, by its name.
    RemoveEndpoint(String, oneshot::Sender<Outcome<()>>),
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
}

impl Stations {
    /// The task, and the way to ask it.
    pub(crate) fn new(host: Arc<dyn Host>, control: Asker) -> (Self, Operator) {
        let (operator, operations) = mpsc::channel(REQUESTS_MAX);
        (Self { host, control, operations, told: BTreeMap::new() }, Operator(operator))
    }

    /// Serves until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut rescan = interval(RESCAN_EVERY);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // An operation once begun is finished: only the waiting ends.
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rescan.tick() => { let _ = self.compare().await; }
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
            Operation::Endpoint(request, answer) => self.change(self.host.endpoint(request), answer).await,
            Operation::RemoveEndpoint(name, answer) => self.change(self.host.remove_endpoint(name), answer).await,
            Operation::List(answer) => {
                let _ = answer.send(self.compare().await);
            }
        }
    }

    /// Waits for a change and answers once the node knows of it.
    async fn change<T>(&mut self, change: weft_host::Answer<T>, answer: oneshot::Sender<Outcome<T>>) {
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
        Ok(listed)
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

    #[tokio::test(start_paused = true)]
    async fn the_node_learns_of_what_is_plugged_in_and_of_what_vanished() {
        let host = Arc::new(FakeHost::new());
        host.ensure_bridge(BridgeConfig { peer: weft::id::PeerName([2; 6]), mtu: None }).await.unwrap();
        host.add_namespace("c1");
        host.add_namespace("c2");
        host.attach(attach("c1", &["10.2.0.1/24"])).await.unwrap();
        let (asker, mut asks) = control::channel();
        let (stations, operator) = Stations::new(host.clone(), asker);
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
        host.remove_namespace("c2");
        assert_eq!(told(&mut asks).await, gone(2));

        let failed = operator.ask(|answer| Operation::Attach(attach("c3", &["10.2.0.3/24"]), answer)).await.unwrap();
        assert_eq!(failed, Err(HostError::NoNamespace("c3".to_owned())));
        stop.cancel();
        task.await.unwrap();
        assert!(operator.ask(Operation::List).await.is_err(), "stopped");
    }
}
