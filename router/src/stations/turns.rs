//! Turns: what is done for one owner follows each other, what is done for others goes on meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Whose turn it is, by owner; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<BTreeMap<String, Weak<Turn<()>>>>>);

impl Turns {
    /// Waits for the owner's turn, which ends when the result is dropped.
    pub(super) async fn take(&self, owner: &str) -> OwnedMutexGuard<()> {
        self.turn(owner).lock_owned().await
    }

    fn turn(&self, owner: &str) -> Arc<Turn<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = turns.get(owner).and_then(Weak::upgrade).unwrap_or_default();
        turns.insert(owner.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_owner_waits_for_itself_and_for_nobody_else() {
        let turns = Turns::default();
        let first = turns.take("c1").await;
        turns.take("c2").await;
        let second = turns.clone();
        let second = tokio::spawn(async move { second.take("c1").await });
        assert!(timeout(Duration::from_secs(1), turns.take("c1")).await.is_err());
        drop(first);
        drop(second.await.unwrap());
        drop(turns.take("c3").await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "those who wait for nothing are forgotten");
    }
}
