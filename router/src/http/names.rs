//! Names: add, remove, look up.

use std::net::IpAddr;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use weft::{
    api::{DnsServer, Lookup, NameAddRequest, NameRemoveRequest, NamesChanged, text},
    names::{DnsName, NameRequest, Owner, RequestError},
};

use super::{
    Api,
    answer::{Body, Failure},
    status::Format,
};

pub(super) async fn add(
    State(api): State<Api>,
    Body(request): Body<NameAddRequest>,
) -> Result<Json<NamesChanged>, Failure> {
    let owner = request.owner.unwrap_or_else(Owner::external);
    let name = whole(&api, request.name)?;
    change(&api, NameRequest::Add { owner, name, addresses: request.addresses }).await
}

pub(super) async fn remove(
    State(api): State<Api>,
    Body(request): Body<NameRemoveRequest>,
) -> Result<Json<NamesChanged>, Failure> {
    let NameRemoveRequest { owner, name, addresses } = request;
    if owner.is_none() && name.is_none() && addresses.is_empty() {
        return Err(bad("nothing given: name an owner, a name, or addresses"));
    }
    let name = name.map(|name| whole(&api, name)).transpose()?;
    change(&api, NameRequest::Remove { owner, name, addresses }).await
}

pub(super) async fn lookup(State(api): State<Api>, Path(asked): Path<String>) -> Result<Json<Lookup>, Failure> {
    let table = api.dns.zone.table();
    let found = if let Ok(address) = asked.parse::<IpAddr>() {
        let names: Vec<DnsName> = table.names(address).cloned().collect();
        (!names.is_empty()).then(|| Lookup { names, addresses: vec![address] })
    } else {
        let name = whole(&api, asked.parse().map_err(bad)?)?;
        table.addresses(&name).map(|addresses| Lookup { names: vec![name], addresses })
    };
    found.map(Json).ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("nobody on the network has {asked}")))
}

pub(super) async fn server(State(api): State<Api>) -> Result<Json<DnsServer>, Failure> {
    let off = || Failure::new(StatusCode::NOT_FOUND, "this router answers no queries for names: it runs with --no-dns");
    api.dns.status().map(Json).ok_or_else(off)
}

pub(super) async fn status(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let lines = api.report().await?.names;
    Ok(format.answer(&lines, || text::names(&lines)))
}

async fn change(api: &Api, request: NameRequest) -> Result<Json<NamesChanged>, Failure> {
    let changed = api.control.names(request).await?.map_err(|error| {
        let status = match error {
            RequestError::TooManyNames | RequestError::TooManyAddresses { .. } => StatusCode::SERVICE_UNAVAILABLE,
            RequestError::NoAddress(_) | RequestError::BadAddress(_) => StatusCode::BAD_REQUEST,
        };
        Failure::new(status, error)
    })?;
    Ok(Json(NamesChanged { changed }))
}

/// The name within the domain: as it is given, or a single label below it.
fn whole(api: &Api, name: DnsName) -> Result<DnsName, Failure> {
    let domain = api.dns.zone.domain();
    if name == *domain {
        return Err(bad(format!("{name} is the domain itself: put a name in front")));
    }
    if name.is_within(domain) {
        return Ok(name);
    }
    if !name.is_single_label() {
        return Err(bad(format!("{name} is not within the network's domain: write {}.{domain}, or one label", name)));
    }
    name.below(domain).ok_or_else(|| bad(format!("{name}.{domain} is too long for a name")))
}

fn bad(error: impl ToString) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, error)
}
