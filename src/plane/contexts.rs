//! One thread's cipher state for each session that it used lately.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::{
    crypto::session::{Session, SessionContext},
    switch::quick_hash::QuickHash,
};

/// Contexts by our index of their session. Looked up, never walked in an order that matters.
#[derive(Debug, Default)]
pub(super) struct Contexts(HashMap<u32, Entry, QuickHash>);

/// A context and the session that it is for. As long as it is here the session's place in memory is not used again, so
/// its address tells it from a later session with the same index.
#[derive(Debug)]
struct Entry {
    session: Weak<Session>,
    context: SessionContext,
}

impl Contexts {
    /// The context of `session`, made when it is used first.
    pub(super) fn of(&mut self, session: &Arc<Session>) -> &mut SessionContext {
        let make = || Entry { session: Arc::downgrade(session), context: SessionContext::new(session) };
        let entry = self.0.entry(session.local_index()).or_insert_with(make);
        if !std::ptr::eq(entry.session.as_ptr(), Arc::as_ptr(session)) {
            *entry = make();
        }
        &mut entry.context
    }

    /// Drops the contexts of sessions that nobody holds any longer.
    pub(super) fn forget_ended(&mut self) {
        self.0.retain(|_, entry| entry.session.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        crypto::session::Cipher,
        wire::sleeve::{Header, PACKET_OVERHEAD, PacketType},
    };

    fn session(key: u8) -> Arc<Session> {
        let key = || Zeroizing::new([key; 32]);
        Arc::new(Session::new(PacketType::Data, 5, 5, Cipher::Aes256Gcm, key(), key()))
    }

    #[test]
    fn an_index_used_again_gets_a_context_of_its_own() {
        let mut contexts = Contexts::default();
        for key in [1, 2] {
            let session = session(key);
            let mut packet = [0; PACKET_OVERHEAD + 4];
            contexts.of(&session).seal(&session, &mut packet).unwrap();
            let header = Header::parse(&packet).unwrap();
            let opened = SessionContext::new(&session).open(&session, &header, &mut packet).map(|body| body.to_vec());
            assert_eq!(opened, Ok(vec![0; 4]), "key {key}");
        }
    }

    #[test]
    fn contexts_of_ended_sessions_go() {
        let mut contexts = Contexts::default();
        let session = session(1);
        contexts.of(&session);
        contexts.forget_ended();
        assert_eq!(contexts.0.len(), 1);
        drop(session);
        contexts.forget_ended();
        assert_eq!(contexts.0.len(), 0);
    }
}
