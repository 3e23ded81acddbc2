//! What the plugin asks of the router, by its HTTP API (`docs/http-api.md`).

use std::{net::IpAddr, path::Path, time::Duration};

use hyper::Method;
use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;
use tokio::time::sleep;
use weft::{
    api::{
        Addresses, ApiError, Attachment, Endpoint, Summary,
        allocation::AddressStatus,
        endpoint::{EndpointRequest, FreeEnd},
    },
    id::PeerName,
};

use super::http::{HttpError, Socket};

/// How long the router may take: longer than it gives itself for any call.
const DEADLINE: Duration = Duration::from_secs(28);

/// Why the router did not do it.
#[derive(Debug, Error)]
pub(crate) enum RouterError {
    /// It could not be asked.
    #[error("the router cannot be asked: {0}")]
    Http(#[from] HttpError),
    /// It said no, and why, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It is of another version.
    #[error("cannot read the router's answer to {path}: {why}")]
    Unreadable {
        /// What was asked for.
        path: String,
        /// What was wrong.
        why: serde_json::Error,
    },
}

/// How often it is tried whether it serves yet.
const POLL: Duration = Duration::from_millis(50);

/// A way to the router.
#[derive(Clone, Debug)]
pub(crate) struct Router(Socket);

impl Router {
    pub(crate) fn new(socket: &Path) -> Self {
        Self(Socket(socket.to_owned()))
    }

    /// Waits until it serves.
    pub(crate) async fn ready(&self) {
        while self.call(Method::GET, "/ready", &()).await.is_err() {
            sleep(POLL).await;
        }
    }

    /// Makes a device whose other end is free, or finds it while it is.
    pub(crate) async fn endpoint(&self, request: &EndpointRequest) -> Result<FreeEnd, RouterError> {
        self.post("/endpoint", request).await
    }

    /// Removes one; well too if there is none.
    pub(crate) async fn remove_endpoint(&self, name: &str) -> Result<(), RouterError> {
        self.call(Method::POST, "/endpoint/remove", &json!({ "name": name })).await.map(drop)
    }

    /// What is plugged in.
    pub(crate) async fn attachments(&self) -> Result<Vec<Attachment>, RouterError> {
        self.get("/ps").await
    }

    /// The router's name.
    pub(crate) async fn name(&self) -> Result<PeerName, RouterError> {
        let summary: Summary = self.get("/status?format=json").await?;
        Ok(summary.name)
    }

    /// Stations of the whole network.
    pub(crate) async fn stations(&self) -> Result<Vec<Endpoint>, RouterError> {
        self.get("/status/endpoints?format=json").await
    }

    /// How address allocation does.
    pub(crate) async fn address_status(&self) -> Result<AddressStatus, RouterError> {
        self.get("/status/ipam?format=json").await
    }

    /// One address in a subnet.
    pub(crate) async fn allocate(&self, owner: &str, subnet: IpNet) -> Result<IpNet, RouterError> {
        let path = "/ipam/allocate";
        let answer: Addresses = self.post(path, &json!({ "owner": owner, "subnets": [subnet] })).await?;
        answer.addresses.first().copied().ok_or_else(|| RouterError::Refused(format!("no address in {subnet}")))
    }

    /// Exactly these addresses.
    pub(crate) async fn claim(&self, owner: &str, addresses: &[IpNet]) -> Result<(), RouterError> {
        let body = json!({ "owner": owner, "addresses": addresses });
        self.call(Method::POST, "/ipam/claim", &body).await.map(drop)
    }

    /// Gives addresses back, all if none is named, after having kept them for the owner.
    pub(crate) async fn free(&self, owner: &str, addresses: &[IpAddr], keep: Duration) -> Result<(), RouterError> {
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let body = json!({ "owner": owner, "addresses": addresses, "keep_ms": keep });
        self.call(Method::POST, "/ipam/free", &body).await.map(drop)
    }

    /// Has a name found.
    pub(crate) async fn add_name(&self, owner: &str, name: &str, addresses: &[IpAddr]) -> Result<(), RouterError> {
        let body = json!({ "owner": owner, "name": name, "addresses": addresses });
        self.call(Method::POST, "/dns/add", &body).await.map(drop)
    }

    /// Has a name of an owner, or all of them, found no more.
    pub(crate) async fn remove_names(&self, owner: &str, name: Option<&str>) -> Result<(), RouterError> {
        let body = json!({ "owner": owner, "name": name, "addresses": [] });
        self.call(Method::POST, "/dns/remove", &body).await.map(drop)
    }

    /// Connects to more routers.
    pub(crate) async fn connect(&self, targets: &[String]) -> Result<(), RouterError> {
        self.call(Method::POST, "/connect", &json!({ "targets": targets })).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RouterError> {
        let body = self.call(Method::GET, path, &()).await?;
        serde_json::from_slice(&body).map_err(|why| RouterError::Unreadable { path: path.to_owned(), why })
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, RouterError> {
        let body = self.call(Method::POST, path, body).await?;
        serde_json::from_slice(&body).map_err(|why| RouterError::Unreadable { path: path.to_owned(), why })
    }

    async fn call(&self, method: Method, path: &str, body: &impl Serialize) -> Result<hyper::body::Bytes, RouterError> {
        let unreadable = |why| RouterError::Unreadable { path: path.to_owned(), why };
        let body = if method == Method::GET { Vec::new() } else { serde_json::to_vec(body).map_err(unreadable)? };
        let answer = self.0.call(method, path, body, DEADLINE).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let said = serde_json::from_slice::<ApiError>(&answer.body).map(|said| said.error);
        Err(RouterError::Refused(said.unwrap_or_else(|_| format!("the router answered {} to {path}", answer.status))))
    }
}
