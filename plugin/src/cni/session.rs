//! What one call works with, and the notes of calls that no router heard.

use std::time::{Duration, Instant};

use weft::api::{Addresses, AttachRequest};
use weft_host::spool::Spool;

use super::{
    call::Environment,
    config::Config,
    failure::{Code, Failure},
};
use crate::client::{Client, ClientError};

/// What one call works with.
#[derive(Debug)]
pub(super) struct Session<'a> {
    /// The environment.
    pub(super) env: &'a Environment,
    /// The configuration.
    pub(super) config: Config,
    /// The way to the router, with a deadline for the whole call.
    pub(super) router: Client,
    /// What no router heard.
    pub(super) spool: Spool,
    until: Instant,
}

impl<'a> Session<'a> {
    /// Begins a call; its time runs.
    pub(super) fn new(env: &'a Environment, config: Config) -> Self {
        let timeout: Duration = config.timeout();
        let router = Client::new(config.socket(env)).within(timeout);
        let spool = Spool::of(&config.data_dir(env));
        Self { env, config, router, spool, until: Instant::now() + timeout }
    }

    /// Has a container unplugged by the router.
    pub(super) fn detach(&self, owner: &str) -> Result<(), ClientError> {
        let request: AttachRequest =
            AttachRequest { container: owner.to_owned(), name: Some(owner.to_owned()), ..AttachRequest::default() };
        self.router.post::<Addresses>("/detach", &request).map(drop)
    }

    /// Has all addresses of an owner freed. A router that gives out none has none to free.
    pub(super) fn free(&self, owner: &str) -> Result<(), ClientError> {
        let request = serde_json::json!({ "owner": owner, "addresses": [], "keep_ms": 0 });
        match self.router.tell("/ipam/free", &request) {
            Err(ClientError::Refused { status: 400 | 404, .. }) => Ok(()),
            result => result,
        }
    }

    /// Tells the router first what earlier calls could not. Costs a look at a directory when there is nothing.
    pub(super) fn catch_up(&self) -> Result<(), Failure> {
        let unreadable = |error| Failure::new(Code::Io, "the notes of earlier calls cannot be read").with(error);
        if self.spool.list().map_err(unreadable)?.is_empty() {
            return Ok(());
        }
        let Some(_lock) = self.spool.lock(self.until).map_err(unreadable)? else {
            return Err(Failure::new(
                Code::TryAgain,
                "another call still tells the router what earlier ones could not",
            ));
        };
        for owner in self.spool.list().map_err(unreadable)? {
            self.detach(&owner)?;
            self.free(&owner)?;
            self.spool.remove(&owner).map_err(unreadable)?;
        }
        Ok(())
    }

    /// Leaves a note for the next router.
    pub(super) fn note(&self, owner: &str) -> Result<(), Failure> {
        self.spool
            .add(owner)
            .map_err(|error| Failure::new(Code::Io, "no router runs, and no note can be left for the next").with(error))
    }
}

/// Whether there was no router to talk to: what it would have done is to be done without it.
pub(super) fn is_absence(failure: &Failure) -> bool {
    failure.is(Code::TryAgain)
}
