//! One peer as one state machine: [`Node::handle`] an input, then [`Node::poll_output`] until it is quiet, then wake it
//! at [`Node::deadline`]. The daemon, the simulator and the fuzzers all drive this type.

pub mod input;
pub mod output;

use std::collections::VecDeque;

use input::{Input, Target};
use output::Output;

use crate::{
    api::Report,
    crypto::{identity::Identity, session::Cipher},
    entropy::Entropy,
    id::{NetworkName, Nickname, Uid},
    secret::NetworkSecret,
    time::Time,
};

/// What a node is, for its whole life.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Version of the program, for reports.
    pub version: String,
    /// The static key pair.
    pub identity: Identity,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// The network.
    pub network: NetworkName,
    /// What people call this peer.
    pub nickname: Nickname,
    /// This run.
    pub uid: Uid,
    /// TCP and UDP port, ours and the default of targets.
    pub port: u16,
    /// Most control connections; 0 for no limit.
    pub conn_limit: usize,
    /// Whether to connect to peers heard of by gossip.
    pub discovery: bool,
    /// Subnets whose peers are trusted with unsealed frames on the fast datapath.
    pub trusted_subnets: Vec<ipnet::IpNet>,
    /// Where to connect at first.
    pub targets: Vec<Target>,
    /// The AEAD that this machine is fastest with.
    pub cipher: Cipher,
    /// Wall-clock time of [`Time::ZERO`], Unix seconds; for reports only.
    pub started: u64,
}

/// One peer.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that has seen nothing yet; feed it [`Input::Timeout`] to set it going.
    pub fn new(config: NodeConfig, _entropy: Entropy) -> Self {
        Self { config, outputs: VecDeque::new() }
    }

    /// Takes one input.
    pub fn handle(&mut self, _input: Input, _now: Time) {}

    /// The next thing to do, None when quiet.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the node wants to be woken by [`Input::Timeout`].
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// All that users may ask about.
    pub fn report(&self, now: Time) -> Report {
        Report {
            version: self.config.version.clone(),
            router: crate::api::Summary {
                name: self.config.identity.name(),
                nickname: self.config.nickname.clone(),
                network: self.config.network.clone(),
                protocol: (crate::wire::VERSION_MIN, crate::wire::VERSION_MAX),
                port: self.config.port,
                encryption: !self.config.secret.is_open(),
                discovery: self.config.discovery,
                conn_limit: self.config.conn_limit,
                trusted_subnets: self.config.trusted_subnets.clone(),
                fastdp: "off".to_owned(),
                uptime_s: now.micros() / 1_000_000,
            },
            targets: Vec::new(),
            connections: Vec::new(),
            peers: Vec::new(),
            endpoints: Vec::new(),
            paths: Vec::new(),
            counters: std::collections::BTreeMap::new(),
        }
    }
}
