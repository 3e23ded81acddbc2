//! What calls are answered with, and how their bodies are read: JSON both, errors as [`ApiError`].

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use weft::api::{ApiError, allocation::AllocationError};
use weft_host::HostError;

use crate::{control::Gone, stations::OperationError};

/// A call that did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: String,
    code: Option<&'static str>,
}

impl Failure {
    /// A failure with this status, in words for people.
    pub(super) fn new(status: StatusCode, error: impl ToString) -> Self {
        Self { status, error: error.to_string(), code: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(ApiError { error: self.error, code: self.code.map(str::to_owned) })).into_response()
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, gone)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        if error.is_request_error() {
            return Self::new(StatusCode::BAD_REQUEST, error);
        }
        let passes = matches!(error, HostError::Busy | HostError::Stopped);
        let status = if passes { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self::new(status, error)
    }
}

impl From<AllocationError> for Failure {
    fn from(error: AllocationError) -> Self {
        let status = match &error {
            AllocationError::Taken { .. } => StatusCode::CONFLICT,
            AllocationError::NoSpace { .. }
            | AllocationError::NotStarted { .. }
            | AllocationError::Unconfirmed { .. }
            | AllocationError::Unreachable { .. }
            | AllocationError::Unstored { .. }
            | AllocationError::Deadline { .. } => StatusCode::SERVICE_UNAVAILABLE,
            AllocationError::Off
            | AllocationError::BadSubnet { .. }
            | AllocationError::BadOwner
            | AllocationError::NoSuchPeer(_)
            | AllocationError::PeerAlive(_) => StatusCode::BAD_REQUEST,
        };
        Self { status, error: error.to_string(), code: Some(error.code()) }
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Host(error) => error.into(),
            OperationError::Allocation(error) => error.into(),
            OperationError::Gone(gone) => gone.into(),
        }
    }
}

/// The body of a call, read from JSON whatever its content type says.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(Self)
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("the body is not as expected: {error}")))
    }
}

/// The answer where there is no route.
pub(super) async fn no_such_route(method: Method, uri: Uri) -> Failure {
    let error = format!(
        "no {method} {} here; calls that change something are served on the unix socket only, see docs/http-api.md",
        uri.path()
    );
    Failure::new(StatusCode::NOT_FOUND, error)
}

/// The answer where the route has another method.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}
