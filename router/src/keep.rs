//! Writes down what the node wants kept of its addresses, and holds back what may be done only when that is on the disk.
//!
//! ```text
//! Output::Keep ──▶ newest state ──▶ [`keep`]: store, again and again until it is stored ──▶ its number
//! later outputs ──▶ [`Held`] ────────────────────────────────────── released by the number ──▶ done
//! ```
//! A newer state replaces one that is not being written yet, and says all that the older one said. A disk that is full or
//! broken stops no router: it is tried again, and said aloud; what waits for it waits.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::sleep,
};
use tracing::{error, info};
use weft::node::output::Output;

use crate::store::Store;

/// Until a write that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Numbers of states stored that may wait for the control task; the writer waits when it is full.
const STORED_MAX: usize = 4;

/// A state of the addresses and its number; later ones have higher numbers.
pub(crate) type Kept = (u64, Arc<[u8]>);

/// Outputs that wait until states are on the disk.
#[derive(Debug)]
pub(crate) struct Held {
    newest: watch::Sender<Kept>,
    /// The number of the newest state that is stored.
    stored: u64,
    /// Each with the number of the state that it waits for, in order.
    waiting: VecDeque<(u64, Output)>,
}

/// The writer's end.
#[derive(Debug)]
pub(crate) struct Writer {
    newest: watch::Receiver<Kept>,
    stored: mpsc::Sender<u64>,
}

/// What holds outputs back, the writer for another task, and where that tells what it has stored.
pub(crate) fn channel() -> (Held, Writer, mpsc::Receiver<u64>) {
    let (newest, seen) = watch::channel::<Kept>((0, Arc::default()));
    let (stored, told) = mpsc::channel(STORED_MAX);
    (Held { newest, stored: 0, waiting: VecDeque::new() }, Writer { newest: seen, stored }, told)
}

impl Held {
    /// Has a state written, before anything later is done.
    pub(crate) fn keep(&mut self, bytes: Arc<[u8]>) {
        self.newest.send_modify(|(number, newest)| {
            *number += 1;
            *newest = bytes;
        });
    }

    /// The output, if it may be done now; else it is held back.
    pub(crate) fn pass(&mut self, output: Output) -> Option<Output> {
        let newest = self.newest.borrow().0;
        if newest == self.stored || !must_wait(&output) {
            return Some(output);
        }
        self.waiting.push_back((newest, output));
        None
    }

    /// The state of this number is stored: the outputs that may be done now.
    pub(crate) fn stored(&mut self, number: u64) -> Vec<Output> {
        self.stored = self.stored.max(number);
        let free = self.waiting.iter().take_while(|(number, _)| *number <= self.stored).count();
        self.waiting.drain(..free).map(|(_, output)| output).collect()
    }
}

/// Whether an output may tell others what the state says: gossip, which is within the bytes of connections, and answers.
fn must_wait(output: &Output) -> bool {
    match output {
        Output::Send { .. } | Output::Close { .. } | Output::AddressAnswer { .. } => true,
        Output::Dial { .. }
        | Output::Datagram { .. }
        | Output::Forwarding(_)
        | Output::Plan(_)
        | Output::Heartbeat { .. }
        | Output::Keep(_)
        | Output::Event(_) => false,
    }
}

/// Stores each state that is to be kept, the last one at the latest when the control task has ended.
pub(crate) async fn keep(store: Arc<Store>, writer: Writer) {
    let Writer { mut newest, stored } = writer;
    let mut failing = false;
    while newest.changed().await.is_ok() {
        loop {
            let (number, bytes) = newest.borrow_and_update().clone();
            let written = {
                let store = store.clone();
                spawn_blocking(move || store.keep_allocation(&bytes)).await
            };
            match written {
                Ok(Ok(())) => {
                    if failing {
                        info!("the state of the addresses is stored again");
                        failing = false;
                    }
                    // The control task has no use for it once it ends.
                    let _ = stored.send(number).await;
                    break;
                }
                Ok(Err(error)) => {
                    if !failing {
                        error!(%error, "the state of the addresses cannot be stored: no address is given out until it can");
                        failing = true;
                    }
                    if newest.has_changed().is_err() {
                        return;
                    }
                    sleep(RETRY_AFTER).await;
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft::{api::allocation::AddressAnswer, entropy::Entropy, id::ConnId};

    use super::*;

    fn send(byte: u8) -> Output {
        Output::Send { conn: ConnId(1), bytes: vec![byte] }
    }

    fn sent(outputs: &[Output]) -> Vec<u8> {
        let byte = |output: &Output| if let Output::Send { bytes, .. } = output { bytes[0] } else { 0 };
        outputs.iter().map(byte).collect()
    }

    #[test]
    fn what_tells_others_waits_for_the_state_before_it_and_for_no_later_one() {
        let (mut held, _writer, _told) = channel();
        assert!(held.pass(send(1)).is_some(), "nothing is to be kept");
        held.keep(Arc::from([1]));
        assert!(held.pass(send(2)).is_none());
        assert!(held.pass(Output::Dial { conn: ConnId(2), target: "host".parse().unwrap() }).is_some());
        held.keep(Arc::from([2]));
        let answer = Output::AddressAnswer { id: 1, result: Ok(AddressAnswer::Done) };
        assert!(held.pass(answer).is_none() && held.pass(send(3)).is_none());
        assert_eq!(sent(&held.stored(1)), [2]);
        assert!(held.pass(send(4)).is_none(), "the second state is not stored");
        assert_eq!(sent(&held.stored(2)), [0, 3, 4]);
        assert!(held.pass(send(5)).is_some());
    }

    #[tokio::test]
    async fn the_newest_state_is_stored_and_its_number_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(scratch.path(), &Entropy::System).unwrap());
        let (mut held, writer, mut told) = channel();
        for state in 1..=3 {
            held.keep(Arc::from([state]));
        }
        let task = tokio::spawn(keep(store.clone(), writer));
        assert_eq!(told.recv().await, Some(3));
        assert_eq!(store.allocation(), Some(vec![3]));
        held.keep(Arc::from([4]));
        drop(held);
        task.await.unwrap();
        assert_eq!(store.allocation(), Some(vec![4]), "the last one is written, too");
    }
}
