//! What peers tell each other of addresses: the keys and values of the channel.
//!
//! | key | value, by its origin |
//! |-----|----------------------|
//! | 1 | [`Standing`] and the rest of [`Member`]: who I am here |
//! | 2, first address | I own from there to the value's last address |
//! | 3, peer | [`Gift`]: I gave it this, until it says that it has it |
//! | 4, peer | I have its gifts up to this number |
//! | 5, peer | I have nothing for its want of this number |
//! | 6, peer | these lives of it are over |
//! | 7, peer | this life of it is a member, though nobody hears it now |
//! | 8, peer | [`Vouch`]: what I know of it, which asked me |
//! | 9 | [`Reclaim`]: I take what belongs to nobody |
//! | 10, peer | I own nothing of its reclaim of this number, and take nothing of it from others |
//! | 11 | who founded this universe |

pub(super) mod wire;

use crate::{
    gossip::{Malformed, address::name_from_bytes},
    id::{Nickname, PeerName},
    ipam::range::{Range, RangeMap},
};

/// Most members that share a range at its founding; later ones are given some.
pub const FOUNDERS_MAX: usize = 64;
/// Most members: their names and lives fill most of [`crate::gossip::VALUE_MAX`] in a [`Reclaim`].
pub const MEMBERS_MAX: usize = 800;
/// Most members removed by one reclaim.
pub const REMOVED_MAX: usize = 100;
/// Most ranges in a gift or reclaim. Whoever has more gives them in several.
pub const PARTS_MAX: usize = 64;
/// Most removed members that are remembered.
pub const GRAVES_MAX: usize = 1000;
/// Most peers that are asked to vouch at a time.
pub const ASKED_MAX: usize = 8;
/// Most lives of one peer in an entry; those whose space was not taken over yet, and those that ended last.
pub const LIVES_MAX: usize = 64;
/// Most peers in an elector's slice that are known by name.
pub const SLICE_MAX: usize = 1024;

/// Which change of owners by reclaim gave a range to its owner: the first owners have 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Epoch(pub u32);

/// What a founded universe is called: a hash of how it was founded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct UniverseId(pub [u8; 16]);

/// One life of a peer as a member. Its high bits are its line: random when its data are made. Its low bits count the
/// times that it was started with them, so that whoever is declared dead and started again is somebody else to those who
/// acknowledge it, and no one to those who know that it was declared dead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Life(pub u64);

impl Life {
    /// Bits that count starts.
    const RUN_BITS: u32 = 20;

    /// The first life of a line.
    pub fn first(random: u64) -> Self {
        Self(random >> Self::RUN_BITS << Self::RUN_BITS)
    }

    /// The next life of the same line.
    pub fn next(self) -> Self {
        Self(self.0 + u64::from(self != self.last()))
    }

    /// The last possible life of the line.
    pub fn last(self) -> Self {
        Self(self.0 | ((1 << Self::RUN_BITS) - 1))
    }

    /// Whether both are of one line: what one was given the other has.
    pub fn is_of_line(self, other: Self) -> bool {
        self.0 >> Self::RUN_BITS == other.0 >> Self::RUN_BITS
    }
}

/// A peer in one life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct MemberId {
    /// Its name.
    pub name: PeerName,
    /// Its life.
    pub life: Life,
}

/// A proposal's number in the election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Ballot {
    /// Counts up.
    pub round: u32,
    /// Whose.
    pub by: PeerName,
}

/// The key of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Key {
    /// Who the origin is.
    Member,
    /// A range of its own begins here.
    Claim(u128),
    /// What it gave to a peer.
    Gift(PeerName),
    /// What it got from a peer.
    Receipt(PeerName),
    /// What it has not for a peer.
    Refusal(PeerName),
    /// Lives of a peer that are over.
    Removed(PeerName),
    /// A member that is not heard.
    Knows(PeerName),
    /// What it says of a peer.
    Vouch(PeerName),
    /// What it takes over.
    Reclaim,
    /// To a peer's reclaim.
    Consent(PeerName),
    /// How the universe was founded.
    Founding,
}

/// The value of an entry; which key has which is in the module's table.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Value {
    /// Of [`Key::Member`].
    Member(Member),
    /// Of [`Key::Claim`].
    Claim {
        /// The range's last address.
        last: u128,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Of [`Key::Gift`].
    Gift(Gift),
    /// Of [`Key::Receipt`], [`Key::Refusal`] and [`Key::Consent`]: a number of the peer's in its life.
    Number {
        /// The peer's life.
        life: Life,
        /// Its number.
        number: u64,
    },
    /// Of [`Key::Removed`] and [`Key::Knows`].
    Lives(Vec<Life>),
    /// Of [`Key::Vouch`].
    Vouch(Vouch),
    /// Of [`Key::Reclaim`].
    Reclaim(Reclaim),
    /// Of [`Key::Founding`].
    Founding(Vec<MemberId>),
}

/// A peer as the allocator sees it, by itself.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Member {
    /// Its life.
    pub life: Life,
    /// What people call it.
    pub nickname: Nickname,
    /// What it gives out from; at most one range of each family.
    pub ranges: Vec<Range>,
    /// What it belongs to; None before the founding.
    pub universe: Option<UniverseId>,
    /// What it may do.
    pub standing: Standing,
    /// Somebody waits for the founding.
    pub waiting: bool,
    /// Changes of what it owns and promised, counted: larger later.
    pub version: u64,
    /// How much of IPv4 and IPv6 it has free, as the number of bits of the count.
    pub free: [u8; 2],
    /// What it asks of another.
    pub want: Option<Want>,
    /// The last of its reclaims that is over.
    pub reclaims_over: u64,
    /// The last of its reclaims that all consented to.
    pub reclaimed: u64,
}

/// What a peer may do.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Standing {
    /// Before the founding: takes no part in it.
    Observer,
    /// Before the founding: takes part.
    Elector(Elector),
    /// New: a member when somebody vouches.
    Joining(Asking),
    /// Started again: a member again when somebody vouches.
    Returning(Asking),
    /// A member.
    Full,
    /// It gave everything away and takes no part any more.
    Left,
}

/// Whom a peer asks to vouch for it.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Asking {
    /// To be repeated in the answer.
    pub nonce: u64,
    /// Whom; nobody: there is no full member, so all that return are asked.
    pub asked: Vec<PeerName>,
    /// The last life of its line as a full member; None for who joins.
    pub since: Option<Life>,
}

/// An elector's part in the election.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Elector {
    /// How many peers it wants a majority of, itself included.
    pub slice: u32,
    /// Who they are as far as known, without itself, in order; None: any.
    pub peers: Option<Vec<PeerName>>,
    /// It takes part in no lower ballot.
    pub promised: Ballot,
    /// What it accepted last, and in which ballot.
    pub accepted: Option<(Ballot, Vec<MemberId>)>,
}

/// What a member asks of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Want {
    /// Counts up.
    pub number: u64,
    /// Whom it asks.
    pub donor: PeerName,
    /// Where.
    pub range: Range,
    /// All of `range`, or else some of it.
    pub whole: bool,
}

/// What a member gives to another.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Gift {
    /// The giver's life.
    pub by: Life,
    /// The receiver's life.
    pub life: Life,
    /// Counts the gifts of the giver's line.
    pub number: u64,
    /// The want that it answers; 0 for none.
    pub want: u64,
    /// What.
    pub ranges: Vec<(Range, Epoch)>,
}

/// An answer to a peer that asks whether it is a member.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Vouch {
    /// The question's.
    pub nonce: u64,
    /// What the voucher knows.
    pub verdict: Verdict,
    /// Members that were removed and whose space was taken over, as far as the voucher knows.
    pub removed: Vec<MemberId>,
    /// Members that were removed and whose space was not taken over yet.
    pub unsettled: Vec<MemberId>,
}

/// What a member knows of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Verdict {
    /// It is a member, last heard with this version.
    Known(u64),
    /// Never heard of that line of it.
    Unknown,
    /// That line of it is over, or goes on elsewhere.
    Removed,
}

/// A range's new owner, with everybody's consent.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Reclaim {
    /// Counts the reclaims of this origin.
    pub number: u64,
    /// The ranges' epoch afterwards.
    pub epoch: Epoch,
    /// Whose consent it takes, in order.
    pub members: Vec<MemberId>,
    /// Who is declared dead, in order.
    pub removed: Vec<MemberId>,
    /// What.
    pub ranges: Vec<Range>,
}

impl Reclaim {
    /// Whether it takes any of this.
    pub fn overlaps(&self, range: Range) -> bool {
        self.ranges.iter().any(|own| own.intersection(range).is_some())
    }

    /// The lower one of two that overlap goes first.
    pub fn precedence(&self, by: PeerName) -> (Epoch, PeerName) {
        (self.epoch, by)
    }
}

impl Member {
    /// Its asking, if it waits for somebody to vouch.
    pub fn asking(&self) -> Option<&Asking> {
        match &self.standing {
            Standing::Joining(asking) | Standing::Returning(asking) => Some(asking),
            Standing::Observer | Standing::Elector(_) | Standing::Full | Standing::Left => None,
        }
    }
}

/// The entries of these claims.
pub fn claims(ranges: &RangeMap<Epoch>) -> impl Iterator<Item = (Key, Value)> + '_ {
    ranges.iter().map(|(range, epoch)| (Key::Claim(range.first), Value::Claim { last: range.last, epoch }))
}

fn key_to_bytes(key: Key) -> Vec<u8> {
    let with = |kind: u8, rest: &[u8]| [&[kind][..], rest].concat();
    match key {
        Key::Member => with(1, &[]),
        Key::Claim(first) => with(2, &first.to_be_bytes()),
        Key::Gift(peer) => with(3, &peer.0),
        Key::Receipt(peer) => with(4, &peer.0),
        Key::Refusal(peer) => with(5, &peer.0),
        Key::Removed(peer) => with(6, &peer.0),
        Key::Knows(peer) => with(7, &peer.0),
        Key::Vouch(peer) => with(8, &peer.0),
        Key::Reclaim => with(9, &[]),
        Key::Consent(peer) => with(10, &peer.0),
        Key::Founding => with(11, &[]),
    }
}

fn key_from_bytes(bytes: &[u8]) -> Result<Key, Malformed> {
    let (kind, rest) = bytes.split_first().ok_or(Malformed("an empty key"))?;
    let peer = || name_from_bytes(rest);
    let alone = |key| if rest.is_empty() { Ok(key) } else { Err(Malformed("a key longer than its kind")) };
    match kind {
        1 => alone(Key::Member),
        2 => <[u8; 16]>::try_from(rest)
            .map(|b| Key::Claim(u128::from_be_bytes(b)))
            .map_err(|_| Malformed("a bad address")),
        3 => peer().map(Key::Gift),
        4 => peer().map(Key::Receipt),
        5 => peer().map(Key::Refusal),
        6 => peer().map(Key::Removed),
        7 => peer().map(Key::Knows),
        8 => peer().map(Key::Vouch),
        9 => alone(Key::Reclaim),
        10 => peer().map(Key::Consent),
        11 => alone(Key::Founding),
        _ => Err(Malformed("an unknown kind of key")),
    }
}

#[cfg(test)]
mod tests;
