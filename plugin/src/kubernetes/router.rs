//! The router, asked without holding up the watch: its client blocks, so it is called on a thread for blocking.

use serde::{Serialize, de::DeserializeOwned};

use crate::client::{Client, ClientError};

/// A way to the router.
#[derive(Clone, Debug)]
pub(super) struct Router(Client);

impl Router {
    /// The router behind this client.
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned + Send + 'static>(&self, path: &'static str) -> Result<T, ClientError> {
        self.call(move |client| client.get(path)).await
    }

    /// Tells the router to do something, with an answer.
    pub(super) async fn post<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
        body: impl Serialize + Send + 'static,
    ) -> Result<T, ClientError> {
        self.call(move |client| client.post(path, &body)).await
    }

    /// Tells the router to do something; the answer tells nothing.
    pub(super) async fn tell(
        &self,
        path: &'static str,
        body: impl Serialize + Send + 'static,
    ) -> Result<(), ClientError> {
        self.call(move |client| client.tell(path, &body)).await
    }

    /// Whether it is ready.
    pub(super) async fn ready(&self) -> Result<(), ClientError> {
        self.call(Client::ready).await
    }

    #[expect(clippy::expect_used, reason = "the client does not panic, and nobody cancels its calls")]
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let client = self.0.clone();
        tokio::task::spawn_blocking(move || call(&client)).await.expect("a call ends")
    }
}
