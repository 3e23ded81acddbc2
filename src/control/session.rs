//! One control connection as a state machine: bytes in, bytes out, who the peer is, messages.
//!
//! ```text
//! Prefaces ──▶ Handshaking ──▶ Open             responder: established when the initiator's last handshake message opens
//!                    └──▶ AwaitingWelcome ──▶ Open   initiator: when the welcome does, so both know that both have the secret
//!    any state ──▶ Closed                     refused by either side
//! ```
//! Uid and hello of either side are readable only with the network secret. Nothing an unknown peer sends makes this side
//! keep more than one small record. Time is the node's business: a session half open for long is
//! to be dropped by it.

use std::{collections::VecDeque, fmt, sync::Arc};

use snow::HandshakeState;
use thiserror::Error;

pub use super::channel::MESSAGE_MAX;
use super::{
    channel::{Channel, Opened},
    preface::{Agreed, Preface, Versions, network_id},
    record::{self, Kind, Record},
    refusal::{Refusal, RefusalCode},
};
use crate::{
    crypto::{
        identity::{Identity, PublicKey},
        noise::{Role, Setup},
    },
    entropy::Entropy,
    id::{NetworkName, PeerName, Uid},
    secret::NetworkSecret,
};

/// Longest hello in bytes.
pub const HELLO_MAX: usize = 4096;

const PATTERN: &str = "Noise_XXpsk3_25519_AESGCM_SHA256";
const PSK_POSITION: u8 = 3;
/// More than a handshake message has besides its payload: two keys and two tags.
const HANDSHAKE_OVERHEAD: usize = 128;
const OUT_OF_ORDER: Refusal = Refusal::Malformed("order of records");

/// What this side is; the same for all its control connections.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The static key pair.
    pub identity: Identity,
    /// The network's secret.
    pub secret: NetworkSecret,
    /// The network.
    pub network: NetworkName,
    /// This run.
    pub uid: Uid,
    /// Protocol versions to offer; [`Versions::SPOKEN`] but for tests.
    pub versions: Versions,
    /// Capabilities to offer.
    pub capabilities: u32,
    /// What to tell the peer about us in the handshake; at most [`HELLO_MAX`] bytes, or every connection fails.
    pub hello: Vec<u8>,
}

/// What came of the bytes so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEvent {
    /// The peer is who it says, in our network, and has our secret. Comes once, before any message.
    Established {
        /// Its static key.
        public: PublicKey,
        /// Its name.
        name: PeerName,
        /// Its run.
        uid: Uid,
        /// The protocol version in use: the newest that both speak.
        version: u16,
        /// Capabilities that both have.
        capabilities: u32,
        /// What it tells about itself.
        hello: Vec<u8>,
    },
    /// A message from the peer.
    Message(Vec<u8>),
}

/// Why a message was not sent.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum SendError {
    /// Too early.
    #[error("the control connection is not established yet")]
    NotEstablished,
    /// Too late.
    #[error("the control connection was refused")]
    Closed,
    /// Longer than [`MESSAGE_MAX`].
    #[error("a control message of {0} bytes is too long: at most {MESSAGE_MAX} are allowed")]
    TooLarge(usize),
}

/// One control connection.
pub struct Session {
    config: Arc<ControlConfig>,
    entropy: Entropy,
    role: Role,
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
    events: VecDeque<SessionEvent>,
}

enum State {
    Prefaces,
    Handshaking(Box<HandshakeState>, Agreed),
    AwaitingWelcome(Box<Channel>, Agreed, PublicKey),
    Open(Box<Channel>),
    Closed,
}

impl Session {
    /// The side that dialled; it has something to transmit at once.
    pub fn initiator(config: &Arc<ControlConfig>, entropy: &Entropy) -> Self {
        let mut session = Self::new(config, entropy, Role::Initiator);
        session.output = session.preface().bytes();
        session
    }

    /// The side that was dialled; it says nothing until the other side has shown to speak our protocol.
    pub fn responder(config: &Arc<ControlConfig>, entropy: &Entropy) -> Self {
        Self::new(config, entropy, Role::Responder)
    }

    fn new(config: &Arc<ControlConfig>, entropy: &Entropy, role: Role) -> Self {
        Self {
            config: Arc::clone(config),
            entropy: entropy.clone(),
            role,
            state: State::Prefaces,
            input: Vec::new(),
            output: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes bytes from the connection, in any portions. After an error the session is closed: what
    /// [`Self::poll_transmit`] still has tells the other side, then the connection is to be closed. A closed session
    /// ignores all bytes.
    pub fn handle(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if matches!(self.state, State::Closed) {
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut done = 0;
        let result = loop {
            match self.take(&input[done..]) {
                Ok(Some(used)) => done += used,
                Ok(None) => break Ok(()),
                Err(refusal) => break Err(refusal),
            }
        };
        match &result {
            Ok(()) => {
                input.drain(..done);
                self.input = input;
            }
            Err(refusal) => self.close(refusal.code()),
        }
        result
    }

    /// Bytes for the connection, None when there are none.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    /// The next event, None when there is none.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// Whether the peer is known and messages may be sent.
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Queues a message for the peer.
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > MESSAGE_MAX {
            return Err(SendError::TooLarge(message.len()));
        }
        match &mut self.state {
            State::Open(channel) => channel.seal_message(message, &mut self.output),
            State::Closed => return Err(SendError::Closed),
            State::Prefaces | State::Handshaking(..) | State::AwaitingWelcome(..) => {
                return Err(SendError::NotEstablished);
            }
        }
        Ok(())
    }

    /// Gives the connection up and tells the other side why. What is queued is still to be transmitted.
    pub fn refuse(&mut self, code: RefusalCode) {
        self.close(Some(code));
    }

    fn close(&mut self, code: Option<RefusalCode>) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        self.input = Vec::new();
        let Some(code) = code else { return };
        match state {
            State::AwaitingWelcome(mut channel, ..) | State::Open(mut channel) => {
                channel.seal_refusal(code, &mut self.output);
                return;
            }
            State::Prefaces if self.role == Role::Responder => self.output.extend(self.preface().bytes()),
            State::Prefaces | State::Handshaking(..) => {}
            State::Closed => return,
        }
        record::write(&mut self.output, Kind::Refused, &code.number().to_le_bytes());
    }

    /// Takes what is at the start of `input`; the bytes used, or None while more are needed.
    fn take(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        if matches!(self.state, State::Prefaces) {
            let Some((theirs, used)) = Preface::parse(input)? else { return Ok(None) };
            self.take_preface(&theirs, &input[..used])?;
            return Ok(Some(used));
        }
        let has_channel = matches!(self.state, State::AwaitingWelcome(..) | State::Open(_));
        let Some(Record { kind, body, len }) = record::parse(input, has_channel)? else { return Ok(None) };
        match (&self.state, kind) {
            (State::Handshaking(..), Kind::Handshake) => self.take_handshake(body)?,
            (State::AwaitingWelcome(..) | State::Open(_), Kind::Sealed) => self.take_sealed(body)?,
            // In clear, as the other side may be unable to seal. Once it has sealed something, only that counts.
            (State::Handshaking(..) | State::AwaitingWelcome(..), Kind::Refused) => {
                return Err(self.refused(record::parse_refused(body)?));
            }
            (
                State::Prefaces | State::Handshaking(..) | State::AwaitingWelcome(..) | State::Open(_) | State::Closed,
                _,
            ) => {
                return Err(OUT_OF_ORDER);
            }
        }
        Ok(Some(len))
    }

    fn preface(&self) -> Preface {
        Preface {
            versions: self.config.versions,
            capabilities: self.config.capabilities,
            network: network_id(&self.config.network),
            has_secret: !self.config.secret.is_open(),
        }
    }

    fn take_preface(&mut self, theirs: &Preface, their_bytes: &[u8]) -> Result<(), Refusal> {
        let ours = self.preface();
        let agreed = ours.agree(theirs)?;
        let our_bytes = ours.bytes();
        let prologue = match self.role {
            Role::Initiator => [&our_bytes, their_bytes].concat(),
            Role::Responder => [their_bytes, &our_bytes].concat(),
        };
        let setup = Setup {
            pattern: PATTERN,
            identity: &self.config.identity,
            psk: (PSK_POSITION, self.config.secret.control_psk()),
            prologue: &prologue,
            remote: None,
        };
        let mut noise = setup.start(self.role, &self.entropy);
        match self.role {
            Role::Initiator => write_handshake(&mut noise, &[], &mut self.output)?,
            Role::Responder => self.output.extend(our_bytes),
        }
        self.state = State::Handshaking(Box::new(noise), agreed);
        Ok(())
    }

    fn take_handshake(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let introduction = self.introduction()?;
        let State::Handshaking(noise, agreed) = &mut self.state else { return Err(OUT_OF_ORDER) };
        let agreed = *agreed;
        let payload = read_handshake(noise, body)?;
        if self.role == Role::Responder && !noise.is_handshake_finished() {
            return write_handshake(noise, &[], &mut self.output);
        }
        let public = remote_static(noise)?;
        if self.role == Role::Initiator {
            write_handshake(noise, &introduction, &mut self.output)?;
        }
        let State::Handshaking(noise, _) = std::mem::replace(&mut self.state, State::Closed) else { return Ok(()) };
        let transport = noise.into_transport_mode().map_err(|_| Refusal::Malformed("handshake message"))?;
        let channel = Box::new(Channel::new(transport));
        if self.role == Role::Initiator {
            self.state = State::AwaitingWelcome(channel, agreed, public);
            return Ok(());
        }
        self.state = State::Open(channel);
        self.establish(public, agreed, &payload)?;
        if let State::Open(channel) = &mut self.state {
            channel.seal_welcome(&introduction, &mut self.output);
        }
        Ok(())
    }

    fn take_sealed(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let (opened, awaiting) = match &mut self.state {
            State::AwaitingWelcome(channel, agreed, public) => (channel.open(body)?, Some((*agreed, *public))),
            State::Open(channel) => (channel.open(body)?, None),
            State::Prefaces | State::Handshaking(..) | State::Closed => return Err(OUT_OF_ORDER),
        };
        match (opened, awaiting) {
            (Opened::Part, None) => Ok(()),
            (Opened::Message(message), None) => {
                self.events.push_back(SessionEvent::Message(message));
                Ok(())
            }
            (Opened::Welcome(introduction), Some((agreed, public))) => {
                self.establish(public, agreed, &introduction)?;
                self.state = match std::mem::replace(&mut self.state, State::Closed) {
                    State::AwaitingWelcome(channel, ..) => State::Open(channel),
                    other @ (State::Prefaces | State::Handshaking(..) | State::Open(_) | State::Closed) => other,
                };
                Ok(())
            }
            (Opened::Refused(code), _) => Err(self.refused(code)),
            (Opened::Part | Opened::Message(_), Some(_)) | (Opened::Welcome(_), None) => Err(OUT_OF_ORDER),
        }
    }

    /// Uid and hello, as they go into the last handshake message and the welcome.
    fn introduction(&self) -> Result<Vec<u8>, Refusal> {
        if self.config.hello.len() > HELLO_MAX {
            return Err(Refusal::TooLarge);
        }
        Ok([&self.config.uid.0.to_le_bytes(), &self.config.hello[..]].concat())
    }

    fn establish(&mut self, public: PublicKey, agreed: Agreed, introduction: &[u8]) -> Result<(), Refusal> {
        let (&uid, hello) = introduction.split_first_chunk().ok_or(Refusal::Malformed("introduction"))?;
        if hello.len() > HELLO_MAX {
            return Err(Refusal::TooLarge);
        }
        let uid = Uid(u64::from_le_bytes(uid));
        if public == self.config.identity.public() {
            return Err(if uid == self.config.uid { Refusal::Self_ } else { Refusal::ClonedIdentity });
        }
        self.events.push_back(SessionEvent::Established {
            public,
            name: public.peer_name(),
            uid,
            version: agreed.version,
            capabilities: agreed.capabilities,
            hello: hello.to_vec(),
        });
        Ok(())
    }

    /// What a refusal by the other side means to us: from the holder of our own key it tells two reasons apart.
    fn refused(&self, code: RefusalCode) -> Refusal {
        let ours = self.config.identity.public();
        match (code, &self.state) {
            (RefusalCode::Self_, State::AwaitingWelcome(_, _, public)) if *public == ours => Refusal::Self_,
            (RefusalCode::ClonedIdentity, State::AwaitingWelcome(_, _, public)) if *public == ours => {
                Refusal::ClonedIdentity
            }
            (code, _) => Refusal::RefusedByPeer(code),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Prefaces => "prefaces",
            State::Handshaking(..) => "handshaking",
            State::AwaitingWelcome(..) => "awaiting welcome",
            State::Open(_) => "open",
            State::Closed => "closed",
        };
        f.debug_struct("Session").field("role", &self.role).field("state", &state).finish_non_exhaustive()
    }
}

fn write_handshake(noise: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut message = vec![0; payload.len() + HANDSHAKE_OVERHEAD];
    // It can fail only for a key of low order that the other side sent.
    let len = noise.write_message(payload, &mut message).map_err(|_| Refusal::Malformed("handshake key"))?;
    record::write(out, Kind::Handshake, &message[..len]);
    Ok(())
}

fn read_handshake(noise: &mut HandshakeState, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut payload = vec![0; body.len()];
    let len = noise.read_message(body, &mut payload).map_err(|_| {
        // Of all that a responder opens, only what follows the initiator's key is sealed with the secret too.
        let is_of_secret = !noise.is_initiator() && noise.get_remote_static().is_some();
        if is_of_secret { Refusal::WrongSecret } else { Refusal::Malformed("handshake message") }
    })?;
    payload.truncate(len);
    Ok(payload)
}

fn remote_static(noise: &HandshakeState) -> Result<PublicKey, Refusal> {
    let key = noise.get_remote_static().and_then(|key| key.try_into().ok());
    key.map(PublicKey).ok_or(Refusal::Malformed("handshake message"))
}

#[cfg(test)]
mod tests;
