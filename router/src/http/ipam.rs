//! Calls about the addresses that the network gives out: `/ipam/…` on the unix socket, what explains one everywhere.

use std::net::IpAddr;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use weft::api::{
    Addresses, AllocateRequest, ClaimRequest, FreeRequest, PrimeRequest, RemovePeersRequest,
    allocation::{AddressAnswer, AddressRequest, Removal},
    text,
};

use super::{
    Api,
    answer::{Body, Failure},
    status::Format,
};

pub(super) async fn allocate(
    State(api): State<Api>,
    Body(request): Body<AllocateRequest>,
) -> Result<Json<Addresses>, Failure> {
    let AllocateRequest { owner, subnets } = request;
    addresses(&api, AddressRequest::Allocate { owner, subnets }).await
}

pub(super) async fn claim(
    State(api): State<Api>,
    Body(request): Body<ClaimRequest>,
) -> Result<Json<Addresses>, Failure> {
    let ClaimRequest { owner, addresses: wanted } = request;
    addresses(&api, AddressRequest::Claim { owner, addresses: wanted }).await
}

pub(super) async fn free(State(api): State<Api>, Body(request): Body<FreeRequest>) -> Result<Json<Addresses>, Failure> {
    let FreeRequest { owner, addresses: freed, keep_ms } = request;
    addresses(&api, AddressRequest::Free { owner, addresses: freed, keep_ms }).await
}

pub(super) async fn owner(State(api): State<Api>, Path(owner): Path<String>) -> Result<Json<Addresses>, Failure> {
    addresses(&api, AddressRequest::Lookup { owner }).await
}

pub(super) async fn remove_peers(
    State(api): State<Api>,
    Body(request): Body<RemovePeersRequest>,
) -> Result<Json<Removal>, Failure> {
    let RemovePeersRequest { peers } = request;
    if peers.is_empty() {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "no peer given: name at least one, by name or nickname"));
    }
    match api.control.addresses(AddressRequest::RemovePeers { peers }).await?? {
        AddressAnswer::Removed(removal) => Ok(Json(removal)),
        AddressAnswer::Addresses(_) | AddressAnswer::Done => Ok(Json(Removal::default())),
    }
}

pub(super) async fn prime(
    State(api): State<Api>,
    Body(PrimeRequest { alone }): Body<PrimeRequest>,
) -> Result<StatusCode, Failure> {
    api.control.addresses(AddressRequest::Prime { alone }).await??;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn explain(
    State(api): State<Api>,
    Path(address): Path<String>,
    format: Format,
) -> Result<Response, Failure> {
    let address: IpAddr = address.parse().map_err(|_| {
        let shown: String = address.chars().take(64).collect();
        Failure::new(StatusCode::BAD_REQUEST, format!("`{shown}` is no IP address"))
    })?;
    let explanation = api.control.explain(address).await?;
    Ok(format.answer(&explanation, || text::explanation(&explanation)))
}

async fn addresses(api: &Api, request: AddressRequest) -> Result<Json<Addresses>, Failure> {
    match api.control.addresses(request).await?? {
        AddressAnswer::Addresses(addresses) => Ok(Json(Addresses { addresses })),
        AddressAnswer::Removed(_) | AddressAnswer::Done => Ok(Json(Addresses { addresses: Vec::new() })),
    }
}
