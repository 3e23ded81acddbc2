//! One client that keeps a number of queries under way.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use domain::base::{MessageBuilder, Name, Rtype};
use weft_integration::lab::namespace::Namespace;

/// A query that is not answered for so long is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// What to ask, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) server: Ipv4Addr,
    /// Queries under way at once.
    pub(crate) window: usize,
    /// Names in the zone.
    pub(crate) names: usize,
    pub(crate) span: Duration,
}

/// How it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Half of them took no longer.
    pub(crate) p50_us: f64,
    /// All but one in a hundred took no longer.
    pub(crate) p99_us: f64,
    /// Queries without an answer.
    pub(crate) lost: u64,
}

impl Load {
    /// Asks from `namespace`.
    pub(crate) fn run(self, namespace: &Namespace) -> Result<Measured> {
        namespace.within(move || self.ask())
    }

    fn ask(&self) -> Result<Measured> {
        let mut queries = (0..self.names + self.names / 15).map(query).collect::<Result<Vec<_>>>()?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((self.server, 53))?;
        socket.set_read_timeout(Some(LOST_AFTER))?;
        // When each of the last 65536 queries was sent, by its number.
        let mut sent: Vec<Option<Instant>> = vec![None; 1 << 16];
        let (mut next, mut took, mut lost, mut under_way) = (0_usize, Vec::new(), 0, 0);
        let (began, mut bytes) = (Instant::now(), [0; 1500]);
        while began.elapsed() < self.span || under_way > 0 {
            while under_way < self.window && began.elapsed() < self.span {
                let id = u16::try_from(next & 0xffff)?;
                let count = queries.len();
                let query = &mut queries[next % count];
                query[..2].copy_from_slice(&id.to_be_bytes());
                sent[usize::from(id)] = Some(Instant::now());
                socket.send(query)?;
                (next, under_way) = (next + 1, under_way + 1);
            }
            match socket.recv(&mut bytes) {
                Ok(len) => {
                    ensure!(len > 12, "an answer of {len} bytes");
                    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
                    if let Some(at) = sent[usize::from(id)].take() {
                        took.push(at.elapsed());
                        under_way -= 1;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += under_way as u64;
                    under_way = 0;
                    sent.fill(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let elapsed = began.elapsed();
        took.sort_unstable();
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).context("an answer");
        let micros = |span: &Duration| span.as_secs_f64() * 1e6;
        Ok(Measured {
            rate: took.len() as f64 / elapsed.as_secs_f64(),
            p50_us: micros(at(0.5)?),
            p99_us: micros(at(0.99)?),
            lost,
        })
    }
}

fn query(number: usize) -> Result<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((Name::vec_from_str(&format!("n{number}.weft.local"))?, Rtype::A))?;
    Ok(question.finish())
}
