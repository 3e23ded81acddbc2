//! Queries by TCP on one listener: for answers that do not fit a datagram.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{
    Dns,
    zone::{Outcome, Transport},
};

/// Connections at once on all listeners. More are closed at once.
const CONNECTIONS_MAX: usize = 128;
/// Of these, of one client.
const CONNECTIONS_OF_ONE_MAX: usize = 16;
/// How long a connection may be silent or slow: clients that mean it ask at once.
const DEADLINE: Duration = Duration::from_secs(5);
/// Queries of one connection.
const QUERIES_MAX: usize = 1000;
/// After an error of the listener.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Connections by client.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<IpAddr, usize>>);

impl Connections {
    fn enter(&self, client: IpAddr) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = counts.values().sum::<usize>() >= CONNECTIONS_MAX;
        let count = counts.get(&client).copied().unwrap_or(0);
        if is_full || count >= CONNECTIONS_OF_ONE_MAX {
            return false;
        }
        counts.insert(client, count + 1);
        true
    }

    fn leave(&self, client: IpAddr) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }
}

/// Takes connections until dropped; those that are open go on in `tasks`.
pub(super) async fn serve(dns: Arc<Dns>, listener: TcpListener, connections: Arc<Connections>, tasks: TaskTracker) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "a connection for queries was not taken");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        if !connections.enter(client.ip()) {
            dns.count_refused();
            continue;
        }
        let (dns, connections) = (dns.clone(), connections.clone());
        tasks.spawn(async move {
            if let Err(error) = converse(&dns, stream, client.ip()).await {
                debug!(%client, %error, "a connection for queries ended");
            }
            connections.leave(client.ip());
        });
    }
}

async fn converse(dns: &Dns, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    for _ in 0..QUERIES_MAX {
        let query = match timeout(DEADLINE, read(&mut stream)).await {
            Ok(Ok(query)) => query,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let answer = match dns.zone.answer(&query, Transport::Tcp, &dns.dice) {
            Outcome::Ignore => {
                dns.count_refused();
                return Ok(());
            }
            Outcome::Answer(answer) => {
                dns.counts.answered.fetch_add(1, Ordering::Relaxed);
                answer
            }
            Outcome::Forward(_) => match dns.forward(&query, Transport::Tcp, client).await {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        let len = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let message = [&len.to_be_bytes()[..], &answer].concat();
        timeout(DEADLINE, stream.write_all(&message)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut query = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}
