//! Calls that change something, and `ps`: on the unix socket only.

use std::{collections::BTreeSet, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use ipnet::IpNet;
use tokio::{sync::oneshot, time::timeout};
use tracing::warn;
use weft::{
    api::{
        Addresses, AttachRequest, Attachment, ConnectRequest, ExposeRequest, ForgetRequest,
        allocation::{AddressRequest, AllocationError},
        endpoint::{EndpointRemoval, EndpointRequest, FreeEnd},
    },
    node::input::Input,
};

use super::{
    Api,
    answer::{Body, Failure},
};
use crate::{
    daemon::Exit,
    stations::{Operation, Outcome},
};

/// How long another peer may take to take over this one's addresses.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn connect(
    State(api): State<Api>,
    Body(request): Body<ConnectRequest>,
) -> Result<StatusCode, Failure> {
    let ConnectRequest { targets, replace } = request;
    if targets.is_empty() && !replace {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "no peer given: name at least one, as HOST or HOST:PORT"));
    }
    api.control.feed(Input::Connect { targets, replace }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget(State(api): State<Api>, Body(request): Body<ForgetRequest>) -> Result<StatusCode, Failure> {
    let known: BTreeSet<_> = api.report().await?.targets.into_iter().map(|line| line.target).collect();
    let unknown: Vec<_> = request.targets.iter().filter(|t| !known.contains(t)).map(ToString::to_string).collect();
    if !unknown.is_empty() {
        let error = format!("no target {}: `weft status targets` lists those there are", unknown.join(", "));
        return Err(Failure::new(StatusCode::NOT_FOUND, error));
    }
    api.control.feed(Input::Forget { targets: request.targets }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach(state: State<Api>, Body(request): Body<AttachRequest>) -> Result<Json<Addresses>, Failure> {
    addresses(state, |answer| Operation::Attach(request, answer)).await
}

pub(super) async fn detach(state: State<Api>, Body(request): Body<AttachRequest>) -> Result<Json<Addresses>, Failure> {
    addresses(state, |answer| Operation::Detach(request, answer)).await
}

pub(super) async fn expose(state: State<Api>, Body(request): Body<ExposeRequest>) -> Result<Json<Addresses>, Failure> {
    addresses(state, |answer| Operation::Expose(request, answer)).await
}

pub(super) async fn hide(state: State<Api>, Body(request): Body<ExposeRequest>) -> Result<Json<Addresses>, Failure> {
    addresses(state, |answer| Operation::Hide(request, answer)).await
}

pub(super) async fn endpoint(
    State(api): State<Api>,
    Body(request): Body<EndpointRequest>,
) -> Result<Json<FreeEnd>, Failure> {
    Ok(Json(api.operator.ask(|answer| Operation::Endpoint(request, answer)).await?))
}

pub(super) async fn remove_endpoint(
    State(api): State<Api>,
    Body(EndpointRemoval { name }): Body<EndpointRemoval>,
) -> Result<StatusCode, Failure> {
    api.operator.ask(|answer| Operation::RemoveEndpoint(name, answer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn ps(State(api): State<Api>) -> Result<Json<Vec<Attachment>>, Failure> {
    Ok(Json(api.operator.ask(Operation::List).await?))
}

pub(super) async fn stop(State(api): State<Api>) -> StatusCode {
    end(&api, Exit::Stopped)
}

/// Hands this peer's part of the network's addresses to another before all is removed.
pub(super) async fn reset(State(api): State<Api>) -> StatusCode {
    match timeout(HAND_OVER_WITHIN, api.control.addresses(AddressRequest::Leave)).await {
        Ok(Ok(Ok(_) | Err(AllocationError::Off)) | Err(_)) => {}
        Ok(Ok(Err(error))) => {
            warn!(%error, "nobody has taken over this router's part of the addresses: run `weft rmpeer` for it elsewhere")
        }
        Err(_) => warn!(
            "nobody has taken over this router's part of the addresses in time: run `weft rmpeer` for it elsewhere"
        ),
    }
    end(&api, Exit::Reset)
}

/// Begins to end the router; the answer is sent before its socket is closed.
fn end(api: &Api, exit: Exit) -> StatusCode {
    api.shutdown.begin(exit);
    StatusCode::NO_CONTENT
}

async fn addresses(
    State(api): State<Api>,
    operation: impl FnOnce(oneshot::Sender<Outcome<Vec<IpNet>>>) -> Operation,
) -> Result<Json<Addresses>, Failure> {
    let addresses = api.operator.ask(operation).await?;
    Ok(Json(Addresses { addresses }))
}
