//! Runs of datagrams from one host to another, a thread at each end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use weft_host::{
    poll::Poller,
    udp::{self, BATCH, Inbox, RUN_LEN_MAX, RUN_SEGMENTS_MAX},
};
use weft_integration::lab::{host::Host, namespace::join};

/// How often the receiver looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes that arrive in a second of runs of datagrams of `len` bytes each; cut by the first host before they are on the wire
/// unless it `is_whole`.
pub(crate) fn measure([from, to]: &[Host; 2], len: usize, is_whole: bool, span: Duration) -> Result<f64> {
    [from, to].into_iter().try_for_each(|host| host.pass_runs_whole(is_whole))?;
    let (near, far) = (from.v4().into(), to.v4().into());
    let receiver = to.namespace().within(move || Ok(udp::bind(Some(far), 0, 1)?.remove(0)))?;
    let mut sender = from.namespace().within(move || Ok(udp::bind(Some(near), 0, 1)?.remove(0)))?;
    let target = receiver.local_addr()?;
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    let counting = to.namespace().spawn(move || {
        let (poller, mut inbox, mut bytes) = (Poller::new()?, Inbox::default(), 0.0);
        poller.add(&receiver, 0)?;
        while !told.load(Relaxed) {
            poller.wait(LOOK)?;
            if receiver.receive(&mut inbox, BATCH)? > 0 {
                bytes += inbox.bytes() as f64;
            }
        }
        Ok(bytes)
    })?;
    let run = vec![0x57; (RUN_LEN_MAX / len).min(RUN_SEGMENTS_MAX) * len];
    let began = Instant::now();
    while began.elapsed() < span {
        sender.send(target, &run, len);
    }
    is_over.store(true, Relaxed);
    Ok(join(counting)? / began.elapsed().as_secs_f64())
}
