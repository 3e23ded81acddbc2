//! One control connection: reads, writes, and ends with a reason.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weft::id::ConnId;

use super::Arrival;

/// Most bytes handed on at once.
pub(super) const READ_MAX: usize = 16 << 10;
/// Most pieces written with one call.
const WRITE_PIECES: usize = 64;
/// How long a connection that we close may take to send what waits, and the other side to close its half.
const CLOSE_LINGER: Duration = Duration::from_secs(1);
/// How long what was received may take to be read after sending has failed: it is on this machine already.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A connection's side of [`super::Transport`].
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) conn: ConnId,
    pub(super) pieces: mpsc::Receiver<Vec<u8>>,
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) closing: CancellationToken,
    pub(super) arrivals: mpsc::Sender<Arrival>,
}

impl Connection {
    /// Moves bytes until one side closes, and reports the end unless we asked for it.
    pub(super) async fn serve(mut self, stream: TcpStream) {
        let (reader, writer) = stream.into_split();
        let reason = {
            let mut reading = pin!(read(self.conn, reader, &self.arrivals, &self.closing));
            let writing = write(writer, &mut self.pieces, &self.queued);
            let lingering = async {
                self.closing.cancelled().await;
                sleep(CLOSE_LINGER).await;
            };
            tokio::select! {
                reason = &mut reading => reason,
                reason = writing => {
                    // What the other side said before it went may be why: let it be heard.
                    let _ = timeout(LAST_WORDS, reading).await;
                    reason
                }
                () = lingering => return,
            }
        };
        self.report_closed(reason).await;
    }

    /// Tells why the connection is no more.
    pub(super) async fn report_closed(self, reason: String) {
        if !self.closing.is_cancelled() {
            // Without a control task nobody needs to know.
            let _ = self.arrivals.send(Arrival::Closed(self.conn, reason)).await;
        }
    }
}

/// Reads until the end and says what it was. When we are closing, what arrives is thrown away: unread bytes would make
/// the kernel reset the connection, and our last words would be lost.
async fn read(
    conn: ConnId,
    mut reader: OwnedReadHalf,
    arrivals: &mpsc::Sender<Arrival>,
    closing: &CancellationToken,
) -> String {
    let mut buffer = vec![0; READ_MAX];
    loop {
        let len = match reader.read(&mut buffer).await {
            Ok(0) => return "closed by the other side".to_owned(),
            Ok(len) => len,
            Err(error) => return error.to_string(),
        };
        if closing.is_cancelled() {
            continue;
        }
        let bytes = buffer.get(..len).unwrap_or_default().to_vec();
        if arrivals.send(Arrival::Received(conn, bytes)).await.is_err() {
            return "stopping".to_owned();
        }
    }
}

/// Writes what is queued, until sending fails. When the queue has ended, says so to the other side and waits for its end.
async fn write(mut writer: OwnedWriteHalf, pieces: &mut mpsc::Receiver<Vec<u8>>, queued: &AtomicUsize) -> String {
    let mut batch = Vec::with_capacity(WRITE_PIECES);
    while pieces.recv_many(&mut batch, WRITE_PIECES).await > 0 {
        let bytes = batch.concat();
        batch.clear();
        if let Err(error) = writer.write_all(&bytes).await {
            return error.to_string();
        }
        queued.fetch_sub(bytes.len(), Relaxed);
    }
    match writer.shutdown().await {
        Ok(()) => std::future::pending().await,
        Err(error) => error.to_string(),
    }
}
