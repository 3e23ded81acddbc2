//! A run written down, to be played back: `--record FILE`.
//!
//! One JSON value per line: first what the node was made of, then each input with its time, last (if the
//! router stopped in good order) the report, to compare with. Whoever has the file has the run's keys, the router's
//! identity and the network's secret: it is made with mode 0600, and the log says so.
//!
//! Invariant: a node sees nothing that is not in the file, but for how many packets its sessions have sealed and opened, which are none in a
//! [`replay`]: loss is then known from probes only. Else that gives the same node again.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;
use weft::{
    api::Report,
    crypto::{identity::Identity, session::Cipher},
    entropy::Entropy,
    id::{NetworkName, Nickname, Uid},
    ipam::AllocationConfig,
    node::{
        Node, NodeConfig,
        input::{Input, Target},
    },
    secret::NetworkSecret,
    time::Time,
};
use zeroize::Zeroizing;

/// A recording stops at this many bytes: the disk is for others too.
const FILE_MAX: u64 = 1 << 30;
/// Version of the file's form.
const FORMAT: u32 = 1;

/// Why a recording cannot be made or played back.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The file cannot be made, written or read.
    #[error("the recording {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("the recording {}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Writes a run down, until the file is full or cannot be written.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    limit: u64,
}

/// Everything that a node is made of.
#[derive(Serialize, Deserialize)]
struct Origin {
    weft_record: u32,
    version: String,
    identity: [u8; 32],
    control_psk: [u8; 32],
    link_psk: [u8; 32],
    open: bool,
    network: NetworkName,
    nickname: Nickname,
    uid: Uid,
    port: u16,
    conn_limit: usize,
    discovery: bool,
    relay: bool,
    trusted_subnets: Vec<IpNet>,
    rekey_after: std::time::Duration,
    targets: Vec<Target>,
    cipher: Cipher,
    started: u64,
    allocation: Option<AllocationConfig>,
    entropy: [u8; 32],
}

/// Any line but the first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Input(Time, Input),
    Report(Time, Box<Report>),
}

impl Recorder {
    /// Begins the recording of the node of `config`, whose entropy is that of `seed`. An earlier file is replaced.
    pub(crate) fn begin(path: &Path, config: &NodeConfig, seed: &[u8; 32]) -> Result<Self, RecordError> {
        Self::begin_with_limit(path, config, seed, FILE_MAX)
    }

    fn begin_with_limit(path: &Path, config: &NodeConfig, seed: &[u8; 32], limit: u64) -> Result<Self, RecordError> {
        let failed = |source| RecordError::File { path: path.to_owned(), source };
        // A file that others made may be readable by them: it is not written into, but replaced.
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let line = serde_json::to_vec(&Origin::of(config, seed)).map(Zeroizing::new);
        let line = line.map_err(|error| failed(error.into()))?;
        file.write_all(&line).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        warn!(path = %path.display(), "recording: the file discloses this router's identity, the network's secret and all keys of this run");
        Ok(Self { path: path.to_owned(), file: Some(file), written: line.len() as u64 + 1, limit })
    }

    /// Writes an input down.
    pub(crate) fn input(&mut self, input: &Input, now: Time) {
        if self.file.is_some() {
            self.write(&Line::Input(now, input.clone()));
        }
    }

    /// Writes the last line: how the node was at the end.
    pub(crate) fn finish(mut self, report: Report, now: Time) {
        self.write(&Line::Report(now, Box::new(report)));
    }

    fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            self.written += bytes.len() as u64;
            if self.written > self.limit { Err(io::ErrorKind::FileTooLarge.into()) } else { file.write_all(&bytes) }
        });
        if let Err(error) = written {
            warn!(path = %self.path.display(), %error, limit = self.limit, "recording ended: the router goes on without");
            self.file = None;
        }
    }
}

impl Origin {
    fn of(config: &NodeConfig, seed: &[u8; 32]) -> Self {
        Self {
            weft_record: FORMAT,
            version: config.version.clone(),
            identity: **config.identity.secret(),
            control_psk: **config.secret.control_psk(),
            link_psk: **config.secret.link_psk(),
            open: config.secret.is_open(),
            network: config.network.clone(),
            nickname: config.nickname.clone(),
            uid: config.uid,
            port: config.port,
            conn_limit: config.conn_limit,
            discovery: config.discovery,
            relay: config.relay,
            trusted_subnets: config.trusted_subnets.clone(),
            rekey_after: config.rekey_after,
            targets: config.targets.clone(),
            cipher: config.cipher,
            started: config.started,
            allocation: config.allocation.clone(),
            entropy: *seed,
        }
    }

    fn node(self) -> Node {
        let config = NodeConfig {
            version: self.version,
            identity: Identity::from_secret(Zeroizing::new(self.identity)),
            secret: NetworkSecret::restored(Zeroizing::new(self.control_psk), Zeroizing::new(self.link_psk), self.open),
            network: self.network,
            nickname: self.nickname,
            uid: self.uid,
            port: self.port,
            conn_limit: self.conn_limit,
            discovery: self.discovery,
            relay: self.relay,
            trusted_subnets: self.trusted_subnets,
            rekey_after: self.rekey_after,
            targets: self.targets,
            cipher: self.cipher,
            started: self.started,
            allocation: self.allocation,
        };
        Node::new(config, Entropy::seeded(self.entropy))
    }
}

/// A run played back.
#[derive(Debug)]
pub struct Replayed {
    /// The node as it was after the last input.
    pub node: Node,
    /// The time of the last line.
    pub now: Time,
    /// The report that the router itself gave at its end; None if it did not end in good order.
    pub recorded: Option<Report>,
}

/// Plays the recording at `path` back into a new node, whose outputs go nowhere.
pub fn replay(path: &Path) -> Result<Replayed, RecordError> {
    let failed = |source| RecordError::File { path: path.to_owned(), source };
    let mut lines = BufReader::new(File::open(path).map_err(failed)?).lines().enumerate();
    let wrong = |line: usize, reason: String| RecordError::Line { path: path.to_owned(), line: line + 1, reason };
    let (_, first) = lines.next().ok_or_else(|| wrong(0, "the file is empty".to_owned()))?;
    let origin: Origin = serde_json::from_str(&first.map_err(failed)?).map_err(|error| wrong(0, error.to_string()))?;
    if origin.weft_record != FORMAT {
        return Err(wrong(0, format!("format {} is not {FORMAT}", origin.weft_record)));
    }
    let mut replayed = Replayed { node: origin.node(), now: Time::ZERO, recorded: None };
    for (number, line) in lines {
        let line = line.map_err(failed)?;
        match serde_json::from_str(&line).map_err(|error| wrong(number, error.to_string()))? {
            Line::Input(now, input) => {
                replayed.now = now;
                replayed.node.handle(input, now);
                while replayed.node.poll_output().is_some() {}
            }
            Line::Report(now, report) => {
                replayed.now = now;
                replayed.recorded = Some(*report);
            }
        }
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests;
