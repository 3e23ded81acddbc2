//! Why a frame or packet was not passed on. Each reason is a counter, not an error to bubble.

use serde::{Deserialize, Serialize};

use crate::crypto::session::SessionError;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A reason to drop a frame or packet.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(usize)]
        pub enum Drop { $($(#[doc = $doc])+ $name,)+ }

        impl Drop {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word for this reason in metrics and status.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Not a sleeve packet, or of a version that we do not speak.
    NotSleeve = "not_sleeve",
    /// Its receiver index names no session of ours.
    UnknownSession = "unknown_session",
    /// Its tag does not fit: forged, damaged, or sealed with another key.
    NotAuthentic = "not_authentic",
    /// Its number was seen before or is too old.
    Replayed = "replayed",
    /// Authentic, but its records cannot be read.
    Malformed = "malformed",
    /// No route to the peer now.
    NoRoute = "no_route",
    /// No session with the peer yet; one was asked for.
    NoSession = "no_session",
    /// The session sealed all packets it may; a new one is due.
    SessionUsedUp = "session_used_up",
    /// Larger than the route carries and must not be fragmented; the sender was told where that is possible.
    TooBig = "too_big",
    /// An Ethernet frame too short or too long, or with headers that contradict themselves.
    BadFrame = "bad_frame",
    /// Bridge-internal group address (spanning tree, LLDP): never crosses the mesh.
    LinkLocalGroup = "link_local_group",
    /// A heartbeat of the fast datapath that came by the sleeve: it would prove what it did not pass.
    StrayHeartbeat = "stray_heartbeat",
    /// A frame whose destination is on our own bridge, or which came from the mesh with one of our own stations as source.
    Looped = "looped",
    /// A relay record that names us but may not pass: no direct route to its next hop, or a wrong sender.
    RelayRefused = "relay_refused",
    /// A queue between threads was full.
    QueueFull = "queue_full",
    /// The kernel did not take it.
    SendFailed = "send_failed",
    /// A control message from a session we have, which cannot be read.
    BadControl = "bad_control",
    /// A handshake message that is malformed, unauthentic, stale, or not for us.
    BadHandshake = "bad_handshake",
}

impl From<SessionError> for Drop {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::UsedUp => Self::SessionUsedUp,
            SessionError::Replayed => Self::Replayed,
            SessionError::NotAuthentic => Self::NotAuthentic,
            SessionError::TooShort => Self::NotSleeve,
        }
    }
}

/// A counter for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounts([u64; Drop::ALL.len()]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; Drop::ALL.len()])
    }
}

impl DropCounts {
    /// Counts one.
    pub fn count(&mut self, reason: Drop) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// Reasons that were met, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.iter().copied().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Takes the counts out, leaving zeros.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}
