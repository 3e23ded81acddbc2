//! UDP load: datagrams of one size from end to end, at a given rate or flat out, one system call for each, as most
//! programs do it; and the search for the highest rate that gets through.

use std::{
    io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use weft_integration::lab::namespace::join;

use super::candidate::Candidate;

/// The share of datagrams that a rate may lose.
const LOSS_MAX: f64 = 0.01;
/// How much more than the best rate is offered to see what overload does.
const OVERLOAD: f64 = 2.0;
/// Senders of an overload: one alone may have its limit below that.
const SENDERS: u32 = 2;
/// Trials of the search; it ends when the answer is known to [`CLOSE_ENOUGH`].
const TRIALS: u32 = 7;
const CLOSE_ENOUGH: f64 = 1.06;
/// A sender that reaches less of the wanted rate than this is at its own limit.
const SENDER_KEEPS_UP: f64 = 0.93;
/// The receiver's buffer: it is the network that is measured, not how soon the receiver is scheduled.
const BUFFER: usize = 8 << 20;
/// Datagrams sent between two looks at the clock.
const BURST: u32 = 8;
/// A sender so much ahead of its rate sleeps; else it goes on.
const AHEAD: Duration = Duration::from_micros(50);
/// Silence after which nothing will come any more.
const SILENCE: Duration = Duration::from_millis(200);

/// Rates, datagrams in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// Received while the sender sent as fast as it could.
    pub(crate) flat: f64,
    /// The highest received with a loss of at most 1 %.
    pub(crate) clean: f64,
    /// Received while twice that was sent.
    pub(crate) overloaded: f64,
    /// Sent meanwhile: no more where the senders were at their own limit.
    pub(crate) overload: f64,
}

/// One trial.
#[derive(Clone, Copy, Debug)]
struct Trial {
    offered: f64,
    received: f64,
    loss: f64,
}

/// Measures with datagrams of `size` bytes, each trial for `run`.
pub(crate) fn rates(candidate: &Candidate, size: usize, run: Duration) -> Result<Rates> {
    let flat = trial(candidate, size, run, [None])?;
    let clean = if flat.loss <= LOSS_MAX { flat.received } else { search(candidate, size, run, flat.received)? };
    let share = clean * OVERLOAD / f64::from(SENDERS);
    let overload = trial(candidate, size, run, [Some(share); SENDERS as usize])?;
    Ok(Rates { flat: flat.received, clean, overloaded: overload.received, overload: overload.offered })
}

/// The highest rate that loses little, looked for around `flat`.
fn search(candidate: &Candidate, size: usize, run: Duration, flat: f64) -> Result<f64> {
    let (mut low, mut high) = (0.0_f64, f64::max(flat, 1000.0) * 2.0);
    let mut rate = flat.max(2000.0) * 0.9;
    for _ in 0..TRIALS {
        let seen = trial(candidate, size, run, [Some(rate)])?;
        if seen.loss <= LOSS_MAX {
            low = low.max(seen.received);
            if seen.offered < rate * SENDER_KEEPS_UP {
                break;
            }
        } else {
            high = high.min(rate);
        }
        if low > 0.0 && high / low < CLOSE_ENOUGH {
            break;
        }
        rate = if low > 0.0 { (low * high).sqrt() } else { high / 2.0 };
    }
    ensure!(low > 0.0, "{size}-byte datagrams: no rate down to {rate:.0} a second came through");
    Ok(low)
}

/// One sender for each of `rates`; None is as fast as it can.
fn trial<const N: usize>(candidate: &Candidate, size: usize, run: Duration, rates: [Option<f64>; N]) -> Result<Trial> {
    let [from, to] = candidate.ends();
    let address = candidate.to();
    let receiver = to.within(move || {
        let socket = UdpSocket::bind((address, 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        socket.set_read_timeout(Some(SILENCE))?;
        Ok(socket)
    })?;
    let target = receiver.local_addr()?;
    let is_sent = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_sent);
    let counting = thread::spawn(move || count(&receiver, &told));
    let sent = from.within(move || {
        let senders = rates.map(|rate| thread::spawn(move || send(target, size, run, rate)));
        senders.into_iter().map(join).sum::<Result<u32>>()
    });
    is_sent.store(true, Relaxed);
    let (received, sent) = (join(counting)?, sent?);
    let seconds = run.as_secs_f64();
    let loss = 1.0 - f64::from(received) / f64::from(sent.max(1));
    Ok(Trial { offered: f64::from(sent) / seconds, received: f64::from(received) / seconds, loss })
}

fn send(to: SocketAddr, size: usize, run: Duration, rate: Option<f64>) -> Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let (payload, started, mut sent) = (vec![0x57; size], Instant::now(), 0_u32);
    while started.elapsed() < run {
        for _ in 0..BURST {
            match socket.send(&payload) {
                Ok(_) => sent += 1,
                // Left by ICMP; the datagram was not sent.
                Err(error) if matches!(error.kind(), ConnectionRefused | WouldBlock | Interrupted) => {}
                Err(error) => bail!("sending {size} bytes to {to}: {error}"),
            }
        }
        let due = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(f64::from(sent) / rate));
        if let Some(ahead) = due.checked_sub(started.elapsed()).filter(|ahead| *ahead > AHEAD) {
            thread::sleep(ahead);
        }
    }
    Ok(sent)
}

/// Counts until all is sent and nothing comes any more.
fn count(socket: &UdpSocket, is_sent: &AtomicBool) -> Result<u32> {
    let (mut buffer, mut received) = ([0; 2048], 0_u32);
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => received += 1,
            Err(error) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => {
                if is_sent.load(Relaxed) {
                    return Ok(received);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
