//! Calls that read.

use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use weft::api::{Connection, ConnectionState, Report, text};

use super::{Api, answer::Failure};
use crate::{control::Snapshot, metrics};

/// A control task that does not answer for so long is not healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(1);

/// Connections that failed which the answer to a question for a stranger names.
const UNMET_MAX: usize = 4;

/// Content type of `/metrics` (OpenMetrics 1.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the caller wants the answer: `?format=json` or `?format=text`, else JSON if it accepts that, else text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Deserialize)]
struct FormatQuery {
    format: Option<Format>,
}

impl<S: Send + Sync> FromRequestParts<S> for Format {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::<FormatQuery>::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        let accepts_json = || {
            let accepted = parts.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
            accepted.is_some_and(|accept| accept.contains("application/json"))
        };
        let by_header = || if accepts_json() { Self::Json } else { Self::Text };
        Ok(query.format.unwrap_or_else(by_header))
    }
}

impl Format {
    pub(super) fn answer<T: Display>(self, value: &impl Serialize, text: impl FnOnce() -> T) -> Response {
        match self {
            Self::Json => Json(value).into_response(),
            Self::Text => text().to_string().into_response(),
        }
    }
}

impl Api {
    /// The report, with what the data plane and the events count.
    pub(super) async fn report(&self) -> Result<Report, Failure> {
        let Snapshot { mut report, events } = self.control.snapshot().await?;
        let counters = (self.counters)().counters;
        let drops = counters.drops.iter().map(|(reason, count)| (format!("dropped_{}", reason.as_str()), count));
        report.counters.extend(drops);
        report.counters.extend(
            [
                ("connections_established", events.connections_established),
                ("connections_ended", events.connections_ended),
            ]
            .map(|(name, count)| (name.to_owned(), count)),
        );
        report.counters.extend(self.dns.counters().map(|(outcome, count)| (format!("dns_{outcome}"), count)));
        report.dns = self.dns.status();
        Ok(report)
    }
}

pub(super) async fn summary(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let report = api.report().await?;
    Ok(format.answer(&report.router, || text::summary(&report)))
}

pub(super) async fn connections(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let lines = api.report().await?.connections;
    Ok(format.answer(&lines, || text::connections(&lines)))
}

pub(super) async fn peers(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let lines = api.report().await?.peers;
    Ok(format.answer(&lines, || text::peers(&lines)))
}

pub(super) async fn targets(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let lines = api.report().await?.targets;
    Ok(format.answer(&lines, || text::targets(&lines)))
}

pub(super) async fn endpoints(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let lines = api.report().await?.endpoints;
    Ok(format.answer(&lines, || text::endpoints(&lines)))
}

pub(super) async fn paths(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let lines = api.report().await?.paths;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    Ok(format.answer(&lines, || text::paths(&lines, now)))
}

pub(super) async fn explain(
    State(api): State<Api>,
    Path(peer): Path<String>,
    format: Format,
) -> Result<Response, Failure> {
    let shown: String = peer.chars().take(64).collect();
    let Some(explanation) = api.control.explain_peer(peer).await? else {
        let error = format!(
            "`{shown}` is neither the name of another peer nor the nickname of exactly one: see `weft status peers`{}",
            unmet(&api.report().await?.connections)
        );
        return Err(Failure::new(StatusCode::NOT_FOUND, error));
    };
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let tables = || text::peer(&explanation, now).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Ok(format.answer(&explanation, tables))
}

/// Who could not be connected with, and why: who is asked for may be among them.
fn unmet(connections: &[Connection]) -> String {
    let failed = connections.iter().filter(|it| it.name.is_none() && it.state == ConnectionState::Failed);
    let lines: Vec<String> = failed.take(UNMET_MAX).map(|it| format!("{} ({})", it.address, it.info)).collect();
    if lines.is_empty() { String::new() } else { format!("; not connected with {}", lines.join(", ")) }
}

pub(super) async fn ipam(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let status = api.report().await?.ipam;
    let tables = || text::ipam(&status).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Ok(format.answer(&status, tables))
}

pub(super) async fn report(State(api): State<Api>) -> Result<Json<Report>, Failure> {
    api.report().await.map(Json)
}

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Failure> {
    let snapshot = api.control.snapshot().await?;
    let text = metrics::render(&snapshot, &(api.counters)(), &api.fast.borrow(), &api.dns.counters(), api.started)
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

pub(super) async fn health(State(api): State<Api>) -> Result<Json<serde_json::Value>, Failure> {
    let ill = |error: String| Failure::new(StatusCode::SERVICE_UNAVAILABLE, error);
    if let Some(failure) = api.failure.borrow().clone() {
        return Err(ill(failure));
    }
    match timeout(HEALTHY_WITHIN, api.control.snapshot()).await {
        Ok(Ok(_)) => Ok(Json(serde_json::json!({ "healthy": true }))),
        Ok(Err(gone)) => Err(gone.into()),
        Err(_) => Err(ill(format!("the control task has not answered within {} s", HEALTHY_WITHIN.as_secs()))),
    }
}

pub(super) async fn ready(State(api): State<Api>) -> Result<Json<serde_json::Value>, Failure> {
    if *api.ready.borrow() {
        return Ok(Json(serde_json::json!({ "ready": true })));
    }
    Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the router is starting, or stopping"))
}
