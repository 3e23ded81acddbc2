//! Asks the host's resolvers what is not ours, for as many clients at once as there is room for.
//!
//! Every question goes from a socket of its own, whose port the system draws, with a number of our own, and is answered
//! by that server to that number with that question, or not at all. Servers are asked one after the other, first the
//! one that answered last; all of them within the five seconds for which clients wait.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domain::base::{Message, iana::Rcode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Dice, resolv::ResolvConf, zone::Transport};

/// Questions under way at once: each has a socket. More are refused at once, so that clients ask their next server.
const QUESTIONS_MAX: usize = 512;
/// Of these, of one client: it shall not use up all.
const QUESTIONS_OF_ONE_MAX: usize = 64;
/// How long all servers together may take: clients wait for 5 s (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_millis(4500);
/// The most that one server may take while there are others to ask.
const PATIENCE_WITH_ONE: Duration = Duration::from_millis(2000);
/// How often all are asked while there is time: a datagram may be lost.
const ROUNDS: usize = 2;
/// Longest answer by UDP.
const UDP_MOST: usize = u16::MAX as usize;

/// The way to the host's resolvers.
#[derive(Debug)]
pub(crate) struct Upstream(Mutex<State>);

#[derive(Debug)]
struct State {
    conf: ResolvConf,
    /// Who answered last.
    preferred: Option<SocketAddr>,
    under_way: HashMap<IpAddr, usize>,
    total: usize,
}

/// Room for one question; given back when dropped.
#[derive(Debug)]
pub(super) struct Room<'a> {
    upstream: &'a Upstream,
    client: IpAddr,
}

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf) -> Self {
        let conf = ResolvConf::new(resolv_conf);
        Self(Mutex::new(State { conf, preferred: None, under_way: HashMap::new(), total: 0 }))
    }

    /// Whom to ask, in order, without ourselves.
    pub(super) fn servers(&self, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut state = self.lock();
        let mut servers = state.conf.servers();
        servers.retain(|server| !own.contains(server));
        let preferred = state.preferred;
        servers.sort_by_key(|server| Some(*server) != preferred);
        servers
    }

    /// Room for a question of this client, if there is any.
    pub(super) fn admit(&self, client: IpAddr) -> Option<Room<'_>> {
        let mut state = self.lock();
        if state.total >= QUESTIONS_MAX {
            return None;
        }
        let count = state.under_way.entry(client).or_default();
        if *count >= QUESTIONS_OF_ONE_MAX {
            return None;
        }
        *count += 1;
        state.total += 1;
        Some(Room { upstream: self, client })
    }

    /// The answer to a query, in the client's own number; None if no server has one. `servers` are asked in turn.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        transport: Transport,
        servers: &[SocketAddr],
        dice: &Dice,
    ) -> Option<Vec<u8>> {
        let asking = async {
            for _ in 0..ROUNDS {
                let mut failure = None;
                for server in servers {
                    let answer = timeout(PATIENCE_WITH_ONE, ask_one(query, transport, *server, dice)).await;
                    let Ok(Ok(answer)) = answer else { continue };
                    if !is_failure(&answer) {
                        self.lock().preferred = Some(*server);
                        return Some(answer);
                    }
                    failure.get_or_insert(answer);
                }
                if failure.is_some() {
                    return failure;
                }
            }
            None
        };
        timeout(PATIENCE, asking).await.ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut state = self.upstream.lock();
        state.total -= 1;
        if let Some(count) = state.under_way.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.client);
            }
        }
    }
}

/// Whether a server answers that it cannot: another may.
fn is_failure(answer: &[u8]) -> bool {
    let rcode = Message::from_slice(answer).map(|message| message.header().rcode());
    matches!(rcode, Ok(Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP))
}

async fn ask_one(query: &[u8], transport: Transport, server: SocketAddr, dice: &Dice) -> io::Result<Vec<u8>> {
    let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
    let mut question = Message::from_octets(query.to_vec()).map_err(bad)?;
    let id = question.header().id();
    question.header_mut().set_id(dice.number());
    let answer = match transport {
        Transport::Udp => by_udp(question.as_slice(), server).await?,
        Transport::Tcp => by_tcp(question.as_slice(), server).await?,
    };
    let mut answer = Message::from_octets(answer).map_err(bad)?;
    answer.header_mut().set_id(id);
    answer.header_mut().set_ra(true);
    Ok(answer.into_octets())
}

async fn by_udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From here on the kernel takes only what that server sends.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; UDP_MOST];
    loop {
        let len = socket.recv(&mut answer).await?;
        if answers(&answer[..len], question) {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

async fn by_tcp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes()[..], question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, question) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether these bytes answer that question: its number, and the question itself.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    let (Ok(answer), Ok(question)) = (Message::from_slice(answer), Message::from_slice(question)) else { return false };
    answer.is_answer(question)
}

#[cfg(test)]
mod tests;
