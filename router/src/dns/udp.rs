//! Queries by UDP on one socket.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::UdpSocket, time::sleep};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{
    Dns,
    zone::{self, Outcome, Transport},
};

/// Longest query that is read: a question, and the options that clients add. Longer ones are cut off and refused.
const QUERY_MAX: usize = 4096;
/// After an error of the socket, so that one that lasts does not keep the thread busy.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Answers until dropped; questions for others go on in `tasks`.
pub(super) async fn serve(dns: Arc<Dns>, socket: UdpSocket, tasks: TaskTracker) {
    let socket = Arc::new(socket);
    let mut query = [0; QUERY_MAX];
    loop {
        let (len, client) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "a query by UDP was not read");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let query = &query[..len];
        match dns.zone.answer(query, Transport::Udp, &dns.dice) {
            Outcome::Ignore => dns.count_refused(),
            Outcome::Answer(answer) => {
                dns.counts.answered.fetch_add(1, Ordering::Relaxed);
                // A client that takes no answers asks again.
                let _ = socket.try_send_to(&answer, client);
            }
            Outcome::Forward(limit) => {
                tasks.spawn(forward(dns.clone(), socket.clone(), query.to_vec(), client, limit));
            }
        }
    }
}

async fn forward(dns: Arc<Dns>, socket: Arc<UdpSocket>, query: Vec<u8>, client: SocketAddr, limit: usize) {
    let answer = dns.forward(&query, Transport::Udp, client.ip()).await;
    let answer = if answer.as_ref().is_some_and(|answer| answer.len() > limit) {
        answer.and_then(|answer| zone::truncated(&answer))
    } else {
        answer
    };
    if let Some(answer) = answer {
        let _ = socket.try_send_to(&answer, client);
    }
}
