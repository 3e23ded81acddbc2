//! Writes down what the node wants kept of its addresses, and tells it when that is on the disk, or why it is not.
//!
//! ```text
//! Output::Keep ──▶ newest state ──▶ [`keep`]: store, again and again until it is stored ──▶ Input::Kept
//! ```
//! A newer state replaces one that is not being written yet, and says all that the older one said. A disk that is full or
//! broken stops no router: it is tried again, and said aloud once.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, info};
use weft::node::input::Input;

use crate::store::Store;

/// Until a write that failed is tried again, at first; twice as long each time, up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(8);
/// News that may wait for the control task; the writer waits when it is full.
const NEWS_MAX: usize = 4;

/// A state of the addresses and its number; later ones have higher numbers.
pub(crate) type State = (u64, Arc<[u8]>);

/// The writer's end.
#[derive(Debug)]
pub(crate) struct Writer {
    newest: watch::Receiver<State>,
    news: mpsc::Sender<Input>,
}

/// Where the newest state goes, the writer for another task, and where that tells what came of it.
pub(crate) fn channel() -> (watch::Sender<State>, Writer, mpsc::Receiver<Input>) {
    let (newest, seen) = watch::channel::<State>((0, Arc::default()));
    let (news, told) = mpsc::channel(NEWS_MAX);
    (newest, Writer { newest: seen, news }, told)
}

/// Stores each state that is to be kept, the last one at the latest when the control task has ended.
pub(crate) async fn keep(store: Arc<Store>, writer: Writer) {
    let Writer { mut newest, news } = writer;
    let mut obstacle: Option<String> = None;
    let mut retry_after = RETRY_FIRST;
    while newest.changed().await.is_ok() {
        loop {
            let (number, state) = newest.borrow_and_update().clone();
            let store = store.clone();
            let written = match spawn_blocking(move || store.keep_allocation(&state)).await {
                Ok(written) => written,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
            let error = written.err().map(|error| error.to_string());
            match (&obstacle, &error) {
                (None, Some(error)) => {
                    error!(error, "the state of the addresses cannot be stored: none is given out until it can");
                }
                (Some(_), None) => info!("the state of the addresses is stored again"),
                (None, None) | (Some(_), Some(_)) => {}
            }
            let is_news = error.is_none() || error != obstacle;
            obstacle = error;
            if is_news {
                // The control task has no use for it once it ends.
                let _ = news.send(Input::Kept { number, error: obstacle.clone() }).await;
            }
            if obstacle.is_none() {
                retry_after = RETRY_FIRST;
                break;
            }
            if let Ok(Err(_)) = timeout(retry_after, newest.changed()).await {
                return;
            }
            retry_after = RETRY_MAX.min(retry_after * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use weft::entropy::Entropy;

    use super::*;
    use crate::store::tests::on_a_disk_of;

    fn is_stored(number: u64) -> Option<Input> {
        Some(Input::Kept { number, error: None })
    }

    #[tokio::test]
    async fn the_newest_state_is_stored_and_its_number_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(scratch.path(), &Entropy::System).unwrap());
        let (newest, writer, mut told) = channel();
        for state in 1..=3 {
            newest.send_replace((state.into(), Arc::from([state])));
        }
        let task = tokio::spawn(keep(store.clone(), writer));
        assert_eq!(told.recv().await, is_stored(3));
        assert_eq!(store.allocation(), Some(vec![3]));
        newest.send_replace((4, Arc::from([4])));
        drop(newest);
        task.await.unwrap();
        assert_eq!(store.allocation(), Some(vec![4]), "the last one is written, too");
    }

    #[test]
    fn a_full_disk_is_told_once_and_tried_again_until_there_is_room() {
        on_a_disk_of("8m", |disk| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let store = Arc::new(Store::open(&disk.join("data"), &Entropy::System).unwrap());
            let filler = disk.join("filler");
            let mut file = File::create(&filler).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
            runtime.block_on(async {
                let (newest, writer, mut told) = channel();
                let task = tokio::spawn(keep(store.clone(), writer));
                newest.send_replace((1, vec![7; 3 << 20].into()));
                let Some(Input::Kept { number: 1, error: Some(error) }) = told.recv().await else { panic!("stored") };
                assert!(error.contains("is the disk full?"), "{error}");
                let again = timeout(Duration::from_secs(1), told.recv()).await;
                assert!(again.is_err(), "told twice: {again:?}");
                std::fs::remove_file(&filler).unwrap();
                drop(file);
                assert_eq!(told.recv().await, is_stored(1));
                assert_eq!(store.allocation(), Some(vec![7; 3 << 20]));
                drop(newest);
                task.await.unwrap();
            });
        });
    }
}
