//! The plugin's socket, and which call is whose.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{net::UnixListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    PluginError,
    addresses::{ADDRESS_SPACES, Addresses},
    call::{AddressCall, CreateNetwork, EndpointCall, Failure, RequestPool},
    network::Networks,
};

/// Largest body of a call in bytes: an endpoint with thousands of published ports.
const BODY_MAX: usize = 1 << 20;
/// How long a call may take, reading it included: longer than the router may for its part.
const DEADLINE: Duration = Duration::from_secs(60);
/// How the engine wants answers labelled.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// The call that an engine repeats until it is content with the answer.
const REQUEST_POOL: &str = "IpamDriver.RequestPool";

/// Who answers.
#[derive(Clone, Debug)]
struct Drivers {
    networks: Arc<Networks>,
    addresses: Arc<Addresses>,
}

/// The socket, open but not served yet.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    socket: Socket,
}

/// The socket's file; removed when dropped, with the directory if it is empty then.
#[derive(Debug)]
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens the socket, replacing one that a killed router left.
pub(crate) fn bind(path: &Path) -> Result<Listening, PluginError> {
    if UnixStream::connect(path).is_ok() {
        return Err(PluginError::InUse(path.to_owned()));
    }
    let open = || -> io::Result<UnixListener> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = open().map_err(|source| PluginError::Listen { path: path.to_owned(), source })?;
    Ok(Listening { listener, socket: Socket(path.to_owned()) })
}

impl Listening {
    /// Serves until `stop`; calls under way are finished.
    pub(crate) async fn serve(self, networks: Networks, addresses: Arc<Addresses>, stop: CancellationToken) {
        let Self { listener, socket } = self;
        info!(socket = %socket.0.display(), "Docker's plugin listens");
        let drivers = Drivers { networks: Arc::new(networks), addresses };
        let app = Router::new().fallback(answer).with_state(drivers);
        let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            warn!(%error, "Docker's plugin has ended");
        }
    }
}

/// Any call.
async fn answer(State(drivers): State<Drivers>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let answered = timeout(DEADLINE, async {
        let body = to_bytes(request.into_body(), BODY_MAX)
            .await
            .map_err(|_| format!("the body cannot be read, or is larger than {BODY_MAX} bytes"))?;
        drivers.answer(&path, &body).await
    });
    let answered = answered.await.unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())));
    let (status, body) = match answered {
        Ok(Some(answer)) => (StatusCode::OK, answer.to_string()),
        Ok(None) => (StatusCode::NOT_FOUND, failure(format!("no call {path} here"))),
        Err(err) => {
            info!(call = path, error = err, "Docker was told no");
            (StatusCode::OK, failure(err))
        }
    };
    debug!(call = path, %status, answer = body, "Docker asked");
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from(body)).into_response()
}

fn failure(err: String) -> String {
    serde_json::to_string(&Failure { error: err.clone(), err }).unwrap_or_default()
}

impl Drivers {
    /// The answer to a call; none if there is no such, text for people if it failed.
    async fn answer(&self, path: &str, body: &[u8]) -> Result<Option<Value>, String> {
        let Self { networks, addresses } = self;
        if path != REQUEST_POOL {
            addresses.goes_on();
        }
        let answer = match path {
            "Plugin.Activate" => json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
            "NetworkDriver.GetCapabilities" => networks.capabilities(),
            "NetworkDriver.AllocateNetwork" => networks.allocate(&read::<CreateNetwork>(body)?).map_err(text)?,
            "NetworkDriver.CreateNetwork" => networks.create(&read::<CreateNetwork>(body)?).map_err(text)?,
            "NetworkDriver.DeleteNetwork" => networks.delete(&read::<CreateNetwork>(body)?),
            "NetworkDriver.CreateEndpoint" => networks.create_endpoint(&read(body)?).await.map_err(text)?,
            "NetworkDriver.DeleteEndpoint" => networks.delete_endpoint(&read(body)?).await.map_err(text)?,
            "NetworkDriver.Join" => networks.join(&read(body)?).await.map_err(text)?,
            "NetworkDriver.EndpointOperInfo" => read::<EndpointCall>(body).map(|_| json!({ "Value": {} }))?,
            // Nothing is to be done: the device goes with its endpoint, gossip knows the nodes, docker_gwbridge publishes ports.
            "NetworkDriver.FreeNetwork"
            | "NetworkDriver.Leave"
            | "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete"
            | "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity"
            | "IpamDriver.ReleasePool" => json!({}),
            "IpamDriver.GetCapabilities" => json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }),
            "IpamDriver.GetDefaultAddressSpaces" => {
                let [local, global] = ADDRESS_SPACES;
                json!({ "LocalDefaultAddressSpace": local, "GlobalDefaultAddressSpace": global })
            }
            REQUEST_POOL => addresses.request_pool(&read::<RequestPool>(body)?).await.map_err(text)?,
            "IpamDriver.RequestAddress" => addresses.request_address(&read(body)?).await.map_err(text)?,
            "IpamDriver.ReleaseAddress" => {
                addresses.release_address(&read::<AddressCall>(body)?).await.map_err(text)?
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }
}

/// The body of a call; an empty one is as good as `{}`.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| format!("the call is not as expected: {error}"))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_body_is_survived() {
        bolero::check!().for_each(|bytes: &[u8]| {
            drop(read::<CreateNetwork>(bytes).map(|call| call.given()));
            drop(read::<EndpointCall>(bytes));
            drop(read::<RequestPool>(bytes));
            drop(read::<AddressCall>(bytes));
        });
    }

    #[tokio::test]
    async fn one_socket_has_one_server_and_a_dead_ones_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins/weft.sock");
        let listening = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(PluginError::InUse(_))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::mem::forget(listening.socket);
        drop(listening.listener);
        drop(bind(&path).unwrap());
        assert!(!path.exists());
    }
}
