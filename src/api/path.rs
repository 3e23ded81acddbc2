//! Why frames go to a peer the way they do: `weft explain PEER`, `GET /explain/peer/{peer}`.

use serde::{Deserialize, Serialize};

use super::{Path, allocation::PeerLabel};

/// All that is known of the ways to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerExplanation {
    /// The path now, as in `weft status paths`.
    pub path: Path,
    /// What it costs, in microseconds, as the choice is made; null without a path.
    pub cost_us: Option<u64>,
    /// The ways there: the chosen one, further ones in use, then the others, the best first.
    pub ways: Vec<Way>,
    /// How frames pass directly, by each method.
    pub methods: Vec<Method>,
    /// What lies between, as far as it shows.
    pub nat: String,
    /// The latest changes of path, oldest first.
    pub changes: Vec<PathChange>,
    /// What would have to change for a better path, and why it is not taken.
    pub better: Vec<String>,
}

/// One way to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// `direct` or `relay`.
    pub path: String,
    /// The relays on the way, in order.
    pub relays: Vec<PeerLabel>,
    /// Whether frames go that way: the chosen one, and others that flows are spread over.
    pub in_use: bool,
    /// What the busiest of the relays has to spare: `free`, `busy`, `crowded` or `full`; null for the direct way.
    #[serde(default)]
    pub relaying: Option<String>,
    /// What it costs, in microseconds.
    pub cost_us: u64,
    /// The sum of the links' round-trip times in microseconds, as advertised; null if one does not say.
    pub rtt_us: Option<u64>,
    /// The sum of the links' jitter in microseconds.
    pub jitter_us: Option<u64>,
    /// Share of round trips that count as lost, 0 to 1.
    pub loss: Option<f64>,
}

/// A method of the direct link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// `fastdp` or `sleeve`.
    pub method: String,
    /// `carries`, `ready` or `down`.
    pub state: String,
    /// Where the peer answers.
    pub address: Option<String>,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Mean jitter in microseconds.
    pub jitter_us: Option<u64>,
    /// Share of the latest probes that were lost, 0 to 1.
    pub loss: Option<f64>,
    /// What is lost in each direction; null while the other end does not say what it hears.
    #[serde(default)]
    pub losses: Option<Losses>,
    /// Why so.
    pub info: String,
}

/// Loss of a direct link by direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Share that is lost on the way to the peer, 0 to 1.
    pub there: f64,
    /// Share that is lost on the way back, 0 to 1.
    pub back: f64,
    /// Of what: `frames`, as many are sent both ways, else `probes`.
    pub of: String,
}

/// A change of path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathChange {
    /// When, in Unix seconds.
    pub at: u64,
    /// The path before, in words: `direct`, `by B`, `none`.
    pub from: String,
    /// The path after.
    pub to: String,
    /// Why.
    pub reason: String,
}
