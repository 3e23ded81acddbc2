//! Everything beside the control task that is not the data plane, on a thread and runtime of its own: the HTTP API, host
//! operations, signals, and the store's writes. What it does never delays the control task.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tracing::{error, info, warn};
use weft::node::input::Target;

use super::{Exit, RunError, runtime, spawn};
use crate::{
    http::{Api, Listening},
    keep::{Writer, keep},
    mtu::Mtu,
    shutdown::Shutdown,
    stations::Stations,
    store::Store,
};

/// How long the services may take to end: answers under way, a host operation begun, the last write.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// What the services work with.
pub(super) struct Services {
    pub(super) listening: Listening,
    pub(super) api: Api,
    pub(super) stations: Stations,
    pub(super) mtu: Mtu,
    pub(super) store: Arc<Store>,
    /// The targets to remember; ends with the control task.
    pub(super) targets: watch::Receiver<Vec<Target>>,
    /// Brings the states of the addresses; ends with the control task.
    pub(super) writer: Writer,
    pub(super) shutdown: Shutdown,
}

impl Services {
    /// Starts the thread; it ends some time after the shutdown has begun.
    pub(super) fn start(self) -> io::Result<JoinHandle<Result<(), RunError>>> {
        let runtime = runtime()?;
        spawn("weft-http", move || {
            let ended = runtime.block_on(self.run());
            // A write that hangs must not hold the process.
            runtime.shutdown_background();
            ended
        })
    }

    async fn run(self) -> Result<(), RunError> {
        let Self { listening, api, mut stations, mtu, store, targets, writer, shutdown } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(keep(store.clone(), writer));
        stations.begin().await;
        tasks.spawn(listening.serve(api, shutdown.token().clone()));
        tasks.spawn(stations.run(shutdown.token().clone()));
        tasks.spawn(mtu.run(shutdown.token().clone()));
        tasks.spawn(keep_targets(store, targets));
        tasks.spawn(heed_signals(shutdown.clone()));
        let mut ended = Ok(());
        let draining = async {
            while let Some(task) = tasks.join_next().await {
                if task.is_err() {
                    error!("a task panicked: the router ends");
                    ended = Err(RunError::Panic);
                    shutdown.begin(Exit::Stopped);
                }
            }
        };
        let overdue = async {
            shutdown.token().cancelled().await;
            sleep(STOP_PATIENCE).await;
        };
        tokio::select! {
            () = draining => {}
            () = overdue => warn!("not everything ended in time"),
        }
        ended
    }
}

/// Writes down the targets each time that they change, the last ones at the latest when the control task has ended.
/// What changes while a write is under way is written with the next one.
async fn keep_targets(store: Arc<Store>, mut targets: watch::Receiver<Vec<Target>>) {
    while targets.changed().await.is_ok() {
        let now = targets.borrow_and_update().clone();
        let store = store.clone();
        match spawn_blocking(move || store.keep_targets(&now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the targets are not remembered for --resume"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Begins the stop at SIGTERM, SIGINT, or when the terminal hangs up.
async fn heed_signals(shutdown: Shutdown) {
    let [terminate, interrupt, hang_up] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) = (terminate, interrupt, hang_up) else {
        warn!("cannot wait for signals: stop this router with `weft stop`");
        return;
    };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hang_up.recv() => "SIGHUP",
        () = shutdown.token().cancelled() => return,
    };
    info!(signal = name, "stopping");
    shutdown.begin(Exit::Stopped);
}
