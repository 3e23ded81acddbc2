//! The loop: events make rounds come earlier, rounds do the work.

use std::{convert::Infallible, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;
use tokio::time::{Instant, sleep, sleep_until};
use weft::{api::Summary, entropy::Entropy, id::PeerName};

use super::{
    KubernetesError, Options, Pace,
    cluster::{Change, Cluster},
    reclaim::{Outcome, reclaim},
    router::Router,
    server::{Server, ServerError},
    targets::{GiveError, Targets},
};

/// Runs beside a router for as long as it is polled.
///
/// # Errors
/// When there is no access to a cluster at all. All else is told in the log and tried again.
pub async fn run(options: Options) -> Result<Infallible, KubernetesError> {
    Ok(serve(Server::infer().await?, options).await)
}

pub(super) async fn serve(server: Server, options: Options) -> Infallible {
    let mut nodes = server.watch();
    let mut sidecar = Sidecar::new(server, options);
    loop {
        tokio::select! {
            // The stream never ends.
            Some(event) = nodes.next() => match event {
                Ok(event) => sidecar.seen(event),
                Err(broken) => {
                    if broken.for_good {
                        nodes = sidecar.server.watch();
                        sleep(jittered(sidecar.pace.server)).await;
                    }
                    sidecar.watching.met(broken.why);
                }
            },
            () = sleep_until(sidecar.round_at) => sidecar.round().await,
        }
    }
}

struct Sidecar {
    server: Server,
    router: Router,
    node: String,
    pace: Pace,
    cluster: Cluster,
    targets: Targets,
    /// Who the router is, once known; who is in the record and announced follows it.
    peer: Option<PeerName>,
    round_at: Instant,
    record_at: Instant,
    announce_at: Instant,
    /// Before this the API server is left alone.
    server_at: Instant,
    failures: u32,
    watching: Trouble,
    lost: Trouble,
    routing: Trouble,
    serving: Trouble,
    reclaiming: Trouble,
}

impl Sidecar {
    fn new(server: Server, options: Options) -> Self {
        let now = Instant::now();
        Self {
            server,
            router: Router::new(options.router),
            cluster: Cluster::new(options.node.clone()),
            node: options.node,
            pace: options.pace,
            targets: Targets::load(options.peers_file),
            peer: None,
            round_at: now,
            record_at: now,
            announce_at: now,
            server_at: now,
            failures: 0,
            watching: Trouble::new("the nodes of the cluster cannot be watched"),
            lost: Trouble::new("the list of nodes lacks our own and is not believed: nothing is changed by it"),
            routing: Trouble::new("the router cannot be told of the cluster"),
            serving: Trouble::new("the API server cannot be told of the router"),
            reclaiming: Trouble::new("addresses of gone nodes cannot be taken over yet"),
        }
    }

    /// Takes in what the watch says.
    fn seen(&mut self, event: Event<Node>) {
        self.watching.over();
        let change = self.cluster.handle(event);
        if change == Change::Nothing {
            return;
        }
        let now = Instant::now();
        let mut soonest = now + self.pace.settle;
        self.round_at = self.round_at.min(soonest);
        if change == Change::Departure {
            soonest = now + self.pace.spread.mul_f64(Entropy::System.fraction());
            self.record_at = self.record_at.min(soonest);
        }
    }

    /// Compares all that is with what shall be, and does what is missing.
    async fn round(&mut self) {
        self.round_at = Instant::now() + self.pace.round;
        let peer = match self.connect().await {
            Ok(peer) => peer,
            Err(error) => {
                self.routing.met(error.to_string());
                self.round_at = Instant::now() + self.pace.router;
                return;
            }
        };
        self.routing.over();
        if self.peer != Some(peer) {
            self.peer = Some(peer);
            self.record_at = Instant::now();
        }
        // Before the first list, nothing; and nothing by one that cannot be believed.
        if self.cluster.lacks_own() {
            self.lost.met(format!("no node \"{}\"", self.node));
        }
        let Some(own) = self.cluster.own() else {
            return;
        };
        self.lost.over();
        let is_announced = own.peer == Some(peer) && own.is_up;
        if Instant::now() >= self.server_at {
            match self.tell(peer, is_announced).await {
                Ok(()) => {
                    self.failures = 0;
                    self.serving.over();
                }
                Err(error) => {
                    self.serving.met(error.to_string());
                    self.server_at = Instant::now() + self.pause();
                }
            }
        }
        // Whoever is due comes with the next round.
        self.round_at = self.round_at.min(self.record_at.max(self.server_at));
    }

    /// The router's part of a round: it is ready and has its targets. Who it is.
    async fn connect(&mut self) -> Result<PeerName, GiveError> {
        if let Some(wanted) = self.cluster.targets() {
            self.targets.give(&self.router, &wanted).await?;
        }
        self.router.ready().await?;
        let summary: Summary = self.router.get("/status?format=json").await?;
        Ok(summary.name)
    }

    /// The API server's part of a round: the router is announced and on record, and no gone one is on record.
    async fn tell(&mut self, peer: PeerName, is_announced: bool) -> Result<(), ServerError> {
        let node = &self.node;
        if !is_announced && Instant::now() >= self.announce_at {
            self.server.announce(node, peer).await?;
            // Somebody may think otherwise: no quarrel at the pace of events.
            self.announce_at = Instant::now() + self.pace.round;
            tracing::info!(%peer, node, "the node has its network, and says whose");
        }
        if Instant::now() < self.record_at {
            return Ok(());
        }
        let mut record = self.server.record().await?;
        if record.nodes.get(&peer) != Some(node) {
            self.server.enter(peer, node).await?;
            record = self.server.record().await?;
        }
        let informed = self.pace.informed;
        let pause = match reclaim(&self.server, &self.router, &self.cluster, &record, peer, informed).await? {
            Outcome::Settled => {
                self.reclaiming.over();
                self.pace.record
            }
            Outcome::Again(why) => {
                self.reclaiming.met(why);
                self.pace.again
            }
        };
        self.record_at = Instant::now() + jittered(pause);
        Ok(())
    }

    /// How long to leave the API server alone after another failure.
    fn pause(&mut self) -> Duration {
        let pause = self.pace.server * (1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        jittered(pause)
    }
}

/// Three quarters to all of it, by chance: nodes shall not come all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - Entropy::System.fraction() / 4.0)
}

/// Something that is wrong: told of when it begins, changes and ends, not each time that it is met.
struct Trouble {
    what: &'static str,
    why: Option<String>,
}

impl Trouble {
    fn new(what: &'static str) -> Self {
        Self { what, why: None }
    }

    fn met(&mut self, why: String) {
        if self.why.as_ref() != Some(&why) {
            tracing::warn!(why, "{}", self.what);
            self.why = Some(why);
        }
    }

    fn over(&mut self) {
        if self.why.take().is_some() {
            tracing::info!("no more: {}", self.what);
        }
    }
}
