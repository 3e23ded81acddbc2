//! The HTTP API: everything on the unix socket, what only reads on TCP. `docs/http-api.md` is its promise.
//!
//! ```text
//! weft.sock (0600) ── whole() ───┬── status, report, dns, metrics, health, ready ──▶ control task (a question, an answer)
//! 127.0.0.1:6784 ─── reading() ──┘
//! weft.sock ──────── whole() ─────── connect, forget, attach, detach, expose, hide, endpoint, ps, dns/…, ipam/…, stop, reset
//! ```
//! Runs on a runtime and thread of its own, so that a scrape never delays the control task. Every call has a deadline.
//! Answers are built from what the control task says and from counters that the data plane puts up anyway: no call
//! waits for the data plane.

mod answer;
mod guard;
mod ipam;
mod names;
mod orders;
mod server;
mod status;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use tokio::sync::watch;

pub use self::server::BindError;
pub(crate) use self::server::{Listening, bind};
use crate::{control::Asker, dataplane::Reading, dns::Dns, fastdp::FastCounts, shutdown::Shutdown, stations::Operator};

/// Largest body of a request in bytes: thousands of targets.
const BODY_MAX: usize = 64 << 10;
/// How long a call that reads or tells the node something may take.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long a call about addresses may take; the node gives itself 10 s, the control task 12 s.
const ADDRESSES_DEADLINE: Duration = Duration::from_secs(15);
/// How long a call that changes the host may take; less than the 30 s after which `weft` gives up.
const HOST_DEADLINE: Duration = Duration::from_secs(25);

/// Whom the handlers ask.
#[derive(Clone)]
pub(crate) struct Api {
    /// The control task.
    pub(crate) control: Asker,
    /// Host operations.
    pub(crate) operator: Operator,
    /// The names, and who answers queries for them.
    pub(crate) dns: Arc<Dns>,
    /// Reads the data plane's counters, without waiting for it.
    pub(crate) counters: Arc<dyn Fn() -> Reading + Send + Sync>,
    /// The fast datapath's counters.
    pub(crate) fast: watch::Receiver<FastCounts>,
    /// When the router was started, Unix seconds.
    pub(crate) started: u64,
    /// Some when a worker of the data plane has failed.
    pub(crate) failure: watch::Receiver<Option<String>>,
    /// Whether everything listens.
    pub(crate) ready: watch::Receiver<bool>,
    /// How to end the router.
    pub(crate) shutdown: Shutdown,
}

/// Every route: for the unix socket.
pub(crate) fn whole(api: Api) -> Router {
    let orders = Router::new()
        .route("/connect", post(orders::connect))
        .route("/forget", post(orders::forget))
        .route("/dns/add", post(names::add))
        .route("/dns/remove", post(names::remove))
        .route("/stop", post(orders::stop))
        .layer(middleware::from_fn_with_state(READ_DEADLINE, guard::deadline));
    let addresses = Router::new()
        .route("/ipam/allocate", post(ipam::allocate))
        .route("/ipam/claim", post(ipam::claim))
        .route("/ipam/free", post(ipam::free))
        .route("/ipam/owners/{*owner}", get(ipam::owner))
        .route("/ipam/remove-peers", post(ipam::remove_peers))
        .route("/ipam/prime", post(ipam::prime))
        .layer(middleware::from_fn_with_state(ADDRESSES_DEADLINE, guard::deadline));
    let host = Router::new()
        .route("/attach", post(orders::attach))
        .route("/detach", post(orders::detach))
        .route("/expose", post(orders::expose))
        .route("/hide", post(orders::hide))
        .route("/endpoint", post(orders::endpoint))
        .route("/endpoint/remove", post(orders::remove_endpoint))
        .route("/ps", get(orders::ps))
        .route("/reset", post(orders::reset))
        .layer(middleware::from_fn_with_state(HOST_DEADLINE, guard::deadline));
    finished(questions().merge(orders).merge(addresses).merge(host), api)
}

/// The routes that change nothing: for TCP. With `only_local`, calls that name another host are refused.
pub(crate) fn reading(api: Api, only_local: bool) -> Router {
    let router = finished(questions(), api);
    if only_local { router.layer(middleware::from_fn(guard::only_local)) } else { router }
}

fn questions() -> Router<Api> {
    Router::new()
        .route("/status", get(status::summary))
        .route("/status/connections", get(status::connections))
        .route("/status/peers", get(status::peers))
        .route("/status/targets", get(status::targets))
        .route("/status/endpoints", get(status::endpoints))
        .route("/status/paths", get(status::paths))
        .route("/status/dns", get(names::status))
        .route("/dns", get(names::server))
        .route("/dns/lookup/{name}", get(names::lookup))
        .route("/status/ipam", get(status::ipam))
        .route("/explain/ip/{address}", get(ipam::explain))
        .route("/explain/peer/{peer}", get(status::explain))
        .route("/report", get(status::report))
        .route("/metrics", get(status::metrics))
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .layer(middleware::from_fn_with_state(READ_DEADLINE, guard::deadline))
}

fn finished(router: Router<Api>, api: Api) -> Router {
    router
        .fallback(answer::no_such_route)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

#[cfg(test)]
mod tests;
