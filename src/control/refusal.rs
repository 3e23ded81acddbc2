//! Why a control connection is not to be, in words for people on this side and as a code for the other side.

use std::fmt;

use thiserror::Error;

use super::preface::Versions;

/// Why this side gave a control connection up.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Refusal {
    /// The other side could not seal with our secret.
    #[error("wrong network secret: both sides must be given the same one, and the same network name")]
    WrongSecret,
    /// The other side's network has another name.
    #[error("the peer is of another network: give both sides the same --network")]
    OtherNetwork,
    /// No protocol version that both speak.
    #[error("no common protocol version: we speak {ours}, the peer {theirs}; upgrade the older side")]
    NoCommonVersion {
        /// What we speak.
        ours: Versions,
        /// What the peer speaks.
        theirs: Versions,
    },
    /// It is this very router.
    #[error("connected to ourselves: this target is one of our own addresses")]
    Self_,
    /// Another router with our key.
    #[error(
        "the peer has our identity: its data directory is a copy of ours; stop one of the two and remove its data \
         directory, it makes a new identity"
    )]
    ClonedIdentity,
    /// It does not speak our protocol at all.
    #[error("not a Weft router: check host and port")]
    NotWeft,
    /// The peer's network has a secret, ours has none.
    #[error("the peer has a network secret and we have none: launch with its --password-file")]
    SecretMissing,
    /// Our network has a secret, the peer's has none.
    #[error("we have a network secret and the peer has none: launch it with our --password-file")]
    SecretUnexpected,
    /// It broke the protocol, or somebody changed its bytes on the way; with what could not be read.
    #[error("malformed or damaged {0}: a fault of the peer or of the network between")]
    Malformed(&'static str),
    /// A record, message or hello is longer than the protocol allows.
    #[error("a control message is larger than the protocol allows: a fault of the peer or of the network between")]
    TooLarge,
    /// The other side refused and said why.
    #[error("refused by peer: {0}")]
    RefusedByPeer(RefusalCode),
}

impl Refusal {
    /// What to tell the other side; None if it knows already or would not understand.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::WrongSecret => Some(RefusalCode::WrongSecret),
            Self::OtherNetwork => Some(RefusalCode::OtherNetwork),
            Self::NoCommonVersion { .. } => Some(RefusalCode::NoCommonVersion),
            Self::Self_ => Some(RefusalCode::Self_),
            Self::ClonedIdentity => Some(RefusalCode::ClonedIdentity),
            Self::SecretMissing => Some(RefusalCode::SecretUnexpected),
            Self::SecretUnexpected => Some(RefusalCode::SecretMissing),
            Self::Malformed(_) => Some(RefusalCode::Malformed),
            Self::TooLarge => Some(RefusalCode::TooLarge),
            Self::NotWeft | Self::RefusedByPeer(_) => None,
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// A reason for refusal as the other side is told it, worded for that side. On the wire it is a u16, LE.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum RefusalCode {
            $($(#[doc = $doc])+ $name,)+
            /// A code of later times.
            Other(u16),
        }

        impl RefusalCode {
            /// Every code that has a name.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $code,)+
                    Self::Other(number) => number,
                }
            }
        }

        impl From<u16> for RefusalCode {
            fn from(number: u16) -> Self {
                match number {
                    $($code => Self::$name,)+
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for RefusalCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)+
                    Self::Other(number) => write!(f, "for reason {number}, which this version does not know"),
                }
            }
        }
    };
}

codes! {
    /// The receiver does not know the network secret.
    WrongSecret = 1, "wrong network secret";
    /// The receiver is of another network.
    OtherNetwork = 2, "other network";
    /// The receiver speaks no version that the sender speaks.
    NoCommonVersion = 3, "no common protocol version";
    /// The receiver is the sender.
    Self_ = 4, "connected to itself";
    /// The receiver has the sender's key.
    ClonedIdentity = 5, "cloned identity";
    /// The receiver has no secret, the sender has.
    SecretMissing = 6, "network secret missing";
    /// The receiver has a secret, the sender has none.
    SecretUnexpected = 7, "the peer has no network secret";
    /// The receiver sent what cannot be read.
    Malformed = 8, "malformed message";
    /// The receiver sent too much.
    TooLarge = 9, "message too large";
    /// The two are connected already.
    AlreadyConnected = 10, "already connected";
    /// The sender has as many connections as it may.
    ConnectionLimit = 11, "connection limit reached";
    /// The sender is about to stop.
    ShuttingDown = 12, "shutting down";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers() {
        for (number, &code) in (1..).zip(RefusalCode::ALL) {
            assert_eq!((code.number(), RefusalCode::from(number)), (number, code));
        }
        assert_eq!(RefusalCode::from(999), RefusalCode::Other(999));
        assert_eq!(RefusalCode::Other(999).number(), 999);
    }

    #[test]
    fn each_side_is_told_its_own_half() {
        assert_eq!(Refusal::SecretMissing.code(), Some(RefusalCode::SecretUnexpected));
        let told = Refusal::RefusedByPeer(RefusalCode::WrongSecret);
        assert_eq!(told.to_string(), "refused by peer: wrong network secret");
        assert_eq!(told.code(), None);
    }
}
