//! The wish that the router end: said once, heard by every task.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::daemon::Exit;

/// Cheap to clone; clones share one wish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    token: CancellationToken,
    exit: Arc<OnceLock<Exit>>,
}

impl Shutdown {
    /// Ends the router like this. Who came first decides how.
    pub(crate) fn begin(&self, exit: Exit) {
        let _ = self.exit.set(exit);
        self.token.cancel();
    }

    /// Cancelled when the router shall end.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// How it was to end; as after a signal when nobody said.
    pub(crate) fn exit(&self) -> Exit {
        self.exit.get().copied().unwrap_or(Exit::Stopped)
    }
}
