//! A bulk TCP transfer between two namespaces whose every byte is checked, and whose content is easily found in a capture.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    namespace::{Namespace, join},
    wait::patience,
};

/// In every record of the content: what must never be seen on the underlay.
pub const MARKER: [u8; 16] = *b"PLAIN WEFT TEXT:";
const RECORD: usize = 32;
const BLOCK: usize = 64 * 1024;

/// A finished transfer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes that arrived, all of them right.
    pub bytes: u64,
    /// From the first byte sent to the receiver's word that it has the last.
    pub took: Duration,
}

impl Transfer {
    /// Bits per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64()
    }
}

/// Sends `bytes` bytes from one namespace to the address `to` in another; fails when nothing moves for `limit`.
pub fn transfer(from: &Namespace, to: (&Namespace, IpAddr), bytes: u64, limit: Duration) -> Result<Transfer> {
    let patience = patience(limit);
    let (to_namespace, address) = to;
    let (tell, told) = mpsc::channel();
    let receiver = to_namespace.spawn(move || receive(address, bytes, patience, &tell))?;
    let Ok(to) = told.recv_timeout(patience) else { return join(receiver).and(Err(anyhow::anyhow!("no listener"))) };
    let sender = from.spawn(move || send(to, bytes, patience))?;
    match (join(sender), join(receiver)) {
        (Ok(took), Ok(())) => Ok(Transfer { bytes, took }),
        (Ok(_), Err(error)) => Err(error).with_context(|| format!("receiving on {to}")),
        (Err(error), Ok(())) => Err(error).with_context(|| format!("sending to {to}")),
        (Err(sender), Err(receiver)) => bail!("sending to {to}: {sender:#}; receiving there: {receiver:#}"),
    }
}

fn send(to: SocketAddr, bytes: u64, patience: Duration) -> Result<Duration> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    let mut content = Content::default();
    let mut left = bytes;
    while left > 0 {
        let block = content.next_block();
        let block = &block[..BLOCK.min(usize::try_from(left).unwrap_or(BLOCK))];
        stream.write_all(block)?;
        left -= block.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut thanks = [0];
    stream.read_exact(&mut thanks).context("the receiver's confirmation")?;
    Ok(started.elapsed())
}

fn receive(address: IpAddr, bytes: u64, patience: Duration, tell: &mpsc::Sender<SocketAddr>) -> Result<()> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(address, 0)), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(any(address), 0).into())?;
    socket.listen(1)?;
    socket.set_read_timeout(Some(patience))?;
    let port = socket.local_addr()?.as_socket().context("a port")?.port();
    tell.send(SocketAddr::new(address, port))?;
    let (accepted, _) = socket.accept().context("waiting for the sender")?;
    let mut stream = TcpStream::from(accepted);
    stream.set_read_timeout(Some(patience))?;
    let (mut content, mut buffer, mut got) = (Content::default(), vec![0; BLOCK], 0);
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match stream
                .read(&mut buffer[filled..])
                .with_context(|| format!("after {} of {bytes} bytes", got + filled as u64))?
            {
                0 => break,
                n => filled += n,
            }
        }
        ensure!(buffer[..filled] == content.next_block()[..filled], "the content differs after byte {got}");
        got += filled as u64;
        if filled < BLOCK {
            break;
        }
    }
    ensure!(got == bytes, "{got} of {bytes} bytes arrived");
    stream.write_all(&[1])?;
    Ok(())
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Records of the marker, their number, and noise made from it.
struct Content {
    block: Vec<u8>,
    number: u64,
}

impl Default for Content {
    fn default() -> Self {
        Self { block: vec![0; BLOCK], number: 0 }
    }
}

impl Content {
    fn next_block(&mut self) -> &[u8] {
        for record in self.block.chunks_exact_mut(RECORD) {
            record[..16].copy_from_slice(&MARKER);
            record[16..24].copy_from_slice(&self.number.to_be_bytes());
            record[24..].copy_from_slice(&self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            self.number += 1;
        }
        &self.block
    }
}
