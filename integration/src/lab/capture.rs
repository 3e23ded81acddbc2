//! What crosses the underlay: tcpdump on the switch, and the packets of its file.

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::namespace::Namespace;

/// First bytes of a pcap file with microseconds, as a little-endian machine writes it (draft-ietf-opsawg-pcap §4).
const MAGIC: [u8; 4] = 0xa1b2_c3d4_u32.to_le_bytes();
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// Room in the kernel for what tcpdump has not read yet, in KiB: half a second of all that this machine can send.
const ROOM: &str = "65536";
/// The kernel hands over what it has at least so often (tcpdump asks for each second).
const HANDED_OVER: Duration = Duration::from_millis(1200);

/// tcpdump at work.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    words: Option<JoinHandle<String>>,
    file: PathBuf,
}

/// A frame on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The whole Ethernet frame.
    pub bytes: Vec<u8>,
}

/// The IP packet of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where from.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// IP protocol number of the payload.
    pub protocol: u8,
    /// Ports, of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// The IP packet.
    pub bytes: &'a [u8],
    /// What UDP carries; for other protocols, what IP carries.
    pub payload: &'a [u8],
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

impl Capture {
    /// Begins to write all that crosses `device` to `file`; returns when nothing can be missed any more.
    ///
    /// Not in tcpdump's immediate mode: that has a slot of 64 KiB for each packet, and of those few.
    pub fn start(namespace: &Namespace, device: &str, file: &Path) -> Result<Self> {
        let path = file.to_str().context("a path in UTF-8")?;
        let args = ["-i", device, "-n", "-U", "-B", ROOM, "-Z", "root", "-w", path];
        let mut child = namespace.run("tcpdump").args(args).spawn(Stdio::null(), Stdio::piped())?;
        let mut stderr = BufReader::new(child.stderr.take().context("tcpdump's messages")?);
        let mut said = String::new();
        while !said.contains("listening on") {
            ensure!(stderr.read_line(&mut said)? > 0, "tcpdump did not start: {said}");
        }
        // Read on, so that tcpdump never waits for us; it ends with tcpdump.
        let words = thread::spawn(move || {
            let mut text = String::new();
            // What was read before an error is still worth showing.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Ok(Self { child, words: Some(words), file: file.to_owned() })
    }

    /// Ends it and gives what was seen; fails if anything was missed.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        thread::sleep(HANDED_OVER);
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        self.child.wait()?;
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        let is_whole = words.lines().any(|line| line == "0 packets dropped by kernel");
        ensure!(is_whole, "the capture is not whole: {words}");
        parse(&std::fs::read(&self.file).with_context(|| self.file.display().to_string())?)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Stopped already, or given up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Frame {
    /// Whether these bytes appear anywhere in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }

    /// The Ethernet type.
    pub fn ethertype(&self) -> Option<u16> {
        Some(u16::from_be_bytes([*self.bytes.get(12)?, *self.bytes.get(13)?]))
    }

    /// The IP packet in it, if it is one that can be read.
    pub fn packet(&self) -> Option<Packet<'_>> {
        let bytes = self.bytes.get(14..)?;
        let (source, destination, protocol, header) = match self.ethertype()? {
            0x0800 => {
                let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
                let header = usize::from(bytes.first()? & 15) * 4;
                (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into(), *bytes.get(9)?, header)
            }
            0x86dd => {
                let source: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
                (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), *bytes.get(6)?, 40)
            }
            _ => return None,
        };
        let content = bytes.get(header..)?;
        let port = |at: usize| Some(u16::from_be_bytes([*content.get(at)?, *content.get(at + 1)?]));
        let ports = if matches!(protocol, TCP | UDP) { port(0).zip(port(2)) } else { None };
        let payload = if protocol == UDP { content.get(8..)? } else { content };
        Some(Packet { source, destination, protocol, ports, bytes, payload })
    }
}

fn parse(file: &[u8]) -> Result<Vec<Frame>> {
    ensure!(file.starts_with(&MAGIC) && file.len() >= FILE_HEADER, "not a pcap file of this kind of machine");
    let (mut frames, mut rest) = (Vec::new(), &file[FILE_HEADER..]);
    while !rest.is_empty() {
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else { bail!("a record is cut short") };
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let Some((bytes, after)) = after.split_at_checked(usize::try_from(length)?) else {
            bail!("a frame is cut short")
        };
        frames.push(Frame { bytes: bytes.to_vec() });
        rest = after;
    }
    Ok(frames)
}
