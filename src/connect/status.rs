//! What the connection maker tells people.

use super::{
    Goal, Maker,
    place::{Phase, Tries},
};
use crate::{
    api::{Connection, ConnectionState, Direction, TargetStatus},
    id::PeerName,
    node::input::Target,
    time::Time,
};

impl Maker {
    /// One line for each target.
    pub fn target_status(&self, now: Time) -> Vec<TargetStatus> {
        let line = |(target, place): (&Target, &super::TargetPlace)| {
            let is_connected = place.peer.is_some_and(|peer| self.is_connected(peer));
            let tries = &place.tries;
            let (state, retries) = match tries.phase {
                Phase::Waiting | Phase::Refused | Phase::Full | Phase::Own if is_connected => ("connected", false),
                Phase::Waiting | Phase::Full => ("waiting", true),
                Phase::Dialling(_) => ("connecting", false),
                Phase::Refused => ("suspended", true),
                Phase::Own => ("suspended", false),
            };
            TargetStatus {
                target: target.clone(),
                state: state.to_owned(),
                tries: tries.backoff.tries,
                retry_ms: tries.due().filter(|_| retries).map(|due| millis(due, now)),
                info: if is_connected { String::new() } else { tries.error.clone() },
            }
        };
        self.targets.iter().map(line).collect()
    }

    /// One line for each target and discovered peer that is being dialled or was and is not connected.
    pub fn pending(&self) -> Vec<Connection> {
        let targets = self.targets.iter().filter(|(_, place)| place.peer.is_none_or(|peer| !self.is_connected(peer)));
        let mut lines: Vec<_> =
            targets.map(|(target, place)| line(target.to_string(), place.peer, &place.tries)).collect();
        for (peer, place) in self.known.iter().filter(|(peer, _)| self.config.discovery && !self.is_connected(**peer)) {
            let is_target = self.targets.values().any(|target| target.peer == Some(*peer));
            let dialled = self.dials.values().find_map(|goal| match goal {
                Goal::Known(goal, address) if goal == peer => Some(*address),
                Goal::Known(..) | Goal::Target(_) => None,
            });
            let was_tried = dialled.is_some() || place.tries.backoff.tries > 0;
            if let Some(address) = dialled.or_else(|| place.address()).filter(|_| was_tried && !is_target) {
                let mut line = line(address.to_string(), Some(*peer), &place.tries);
                if place.tries.phase == Phase::Waiting && !self.has_room() {
                    line.info = format!("connection limit reached ({})", self.config.conn_limit);
                }
                lines.push(line);
            }
        }
        lines
    }
}

fn line(address: String, name: Option<PeerName>, tries: &Tries) -> Connection {
    let state = match tries.phase {
        Phase::Dialling(_) if tries.backoff.tries == 0 => ConnectionState::Connecting,
        Phase::Dialling(_) => ConnectionState::Retrying,
        Phase::Waiting if tries.backoff.tries == 0 => ConnectionState::Connecting,
        Phase::Waiting | Phase::Refused | Phase::Full | Phase::Own => ConnectionState::Failed,
    };
    Connection {
        direction: Direction::Outbound,
        address,
        state,
        encrypted: false,
        method: "none".to_owned(),
        name,
        nickname: None,
        mtu: None,
        rtt_us: None,
        info: tries.error.clone(),
    }
}

fn millis(due: Time, now: Time) -> u64 {
    u64::try_from(due.since(now).as_millis()).unwrap_or(u64::MAX)
}
