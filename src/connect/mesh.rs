//! Whom to be connected with where not everybody can be with everybody.
//!
//! While the mesh is small each peer is connected with each other one. In a large one each chooses for itself:
//!
//! | kind      | how many            | which                                                                       |
//! |-----------|---------------------|-----------------------------------------------------------------------------|
//! | far       | 1/4 of the limit    | those whose names give the smallest hash with ours: a random graph of such   |
//! |           |                     | choices is in one piece, and a few steps across                             |
//! | near      | 1/8 of the limit    | those with the shortest round trip, by what is gossiped of links on the way |
//! | unreached | 2                   | known, and no chain of connections leads there: the mesh fell apart; or no  |
//! |           |                     | path, as it would need more relays than a packet can name                   |
//!
//! Near ones choose each other, so that they hold nothing together but themselves: most are far ones, each of which chooses
//! others again. As many again are made by others, so that most peers are below the limit and nobody searches long for room. Who is above
//! it closes connections that others make up for: first those it did not choose, with the peers that have most. A choice
//! made is kept while it is nearly as good as the best one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Maker, place::KnownPlace};
use crate::{
    entropy::Entropy,
    id::{ConnId, PeerName},
    time::Time,
};

/// From this limit on a small mesh may exceed it to be full; a smaller one is meant to bind.
pub const MESH_LIMIT: usize = 16;
/// A mesh of no more other peers than this is small: all are connected; and it is small again below the other, so that one peer more
/// or less changes nothing.
pub const FULL_MESH_MAX: usize = 32;
const SMALL_AGAIN: usize = 24;
/// A limit below this leaves nothing to choose: such a peer takes whom it gets.
const CHOOSY_MIN: usize = 8;
/// The limit divided by the number of far ones that are chosen, and of near ones.
const FAR_SHARE: usize = 4;
const NEAR_SHARE: usize = 8;
/// Strangers that are let in beyond a limit of [`MESH_LIMIT`] or more for a moment, to learn of others: a thousand that
/// are all told of two peers shall not wait in a queue there.
pub(super) const GUESTS_MAX: usize = 512;
/// Between looks at the choice: at first, and while there is something to be done; it doubles while there is not.
const REVIEW_FIRST: Duration = Duration::from_secs(1);
const REVIEW_LAST: Duration = Duration::from_secs(30);
/// A connection is not closed before this: whoever made it has to hear of others first.
const GUEST_FOR: Duration = Duration::from_secs(2);
/// Share of the connections above the limit that are closed at a time: others close some, too.
const CLOSED_AT_ONCE: usize = 2;
const UNREACHED_MAX: usize = 2;

/// What is known of a peer beyond its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// A round trip to it the shortest way that is known; None if none is.
    pub distance: Option<Duration>,
    /// The control connections that it says it has.
    pub degree: usize,
    /// Whether a chain of connections leads there, and a path of links.
    pub is_reached: bool,
}

/// The choice of a peer in a large mesh.
#[derive(Clone, Debug, Default)]
pub(super) struct Mesh {
    /// More peers are known than a full mesh may have.
    pub(super) is_large: bool,
    /// Whom to be connected with, and those of them that nothing leads to.
    pub(super) wanted: BTreeSet<PeerName>,
    pub(super) unreached: BTreeSet<PeerName>,
    review_at: Time,
    interval: Duration,
}

impl Mesh {
    /// So many other peers are known.
    pub(super) fn count(&mut self, known: usize) {
        self.is_large = known > if self.is_large { SMALL_AGAIN } else { FULL_MESH_MAX };
    }

    /// Something changed that the choice depends on.
    pub(super) fn disturb(&mut self, now: Time) {
        self.interval = REVIEW_FIRST;
        self.review_at = self.review_at.min(now + REVIEW_FIRST);
    }
}

impl Maker {
    /// Whether more peers are known than a mesh may have where each is connected with each other one.
    pub fn is_large(&self) -> bool {
        self.mesh.is_large
    }

    /// When [`Self::review`] has something to do.
    pub fn review_due(&self) -> Option<Time> {
        self.is_choosy().then_some(self.mesh.review_at)
    }

    /// Chooses whom to be connected with, of whom `view` tells; returns connections to be closed, in that order, if
    /// those before and `keeps` allow.
    pub fn review(
        &mut self,
        view: impl Fn(PeerName) -> View,
        keeps: impl Fn(&BTreeSet<PeerName>) -> bool,
        now: Time,
        entropy: &Entropy,
    ) -> Vec<ConnId> {
        let wanted = self.choice(&view, now);
        let closed = self.surplus(&wanted, view, keeps, now);
        let is_calm = closed.is_empty() && wanted == self.mesh.wanted && self.count() <= self.limit();
        self.mesh.interval = if is_calm { (self.mesh.interval * 2).min(REVIEW_LAST) } else { REVIEW_FIRST };
        self.mesh.review_at = now + self.mesh.interval.mul_f64(0.75 + entropy.fraction() / 2.0);
        self.mesh.wanted = wanted;
        self.plan();
        closed
    }

    /// Whether the mesh is too large for connections with all.
    pub(super) fn is_choosy(&self) -> bool {
        self.config.discovery && self.limit() >= CHOOSY_MIN && self.known.len() > self.limit()
    }

    fn choice(&mut self, view: &impl Fn(PeerName) -> View, now: Time) -> BTreeSet<PeerName> {
        let (far_count, near_count) = (self.limit() / FAR_SHARE, self.limit() / NEAR_SHARE);
        let may_do = |peer: &PeerName, place: &KnownPlace| {
            self.is_connected(*peer)
                || place.tries.is_dialling()
                || (place.address().is_some() && place.tries.may_do(now))
        };
        let known: BTreeMap<PeerName, View> = self
            .known
            .iter()
            .filter(|(peer, place)| may_do(peer, place))
            .map(|(peer, _)| (*peer, view(*peer)))
            .collect();
        let unreached = known.iter().filter(|(_, view)| !view.is_reached).map(|(peer, _)| *peer);
        self.mesh.unreached = first(unreached, UNREACHED_MAX, |peer| hash(self.config.name, peer));
        let far = first(known.keys().copied(), far_count, |peer| hash(self.config.name, peer));
        let near = known.keys().copied().filter(|peer| !far.contains(peer));
        let near = first(near, near_count, |peer| {
            let distance = known.get(&peer).and_then(|view| view.distance).unwrap_or(Duration::MAX);
            let is_kept = self.mesh.wanted.contains(&peer) && self.is_connected(peer);
            (if is_kept { distance.mul_f64(0.7) } else { distance }, hash(self.config.name, peer))
        });
        &(&far | &near) | &self.mesh.unreached
    }

    /// Connections that are too many and can be done without.
    fn surplus(
        &self,
        wanted: &BTreeSet<PeerName>,
        view: impl Fn(PeerName) -> View,
        keeps: impl Fn(&BTreeSet<PeerName>) -> bool,
        now: Time,
    ) -> Vec<ConnId> {
        let excess = self.count().saturating_sub(self.limit());
        let targets: BTreeSet<PeerName> = self.targets.values().filter_map(|place| place.peer).collect();
        let mut rest: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| !targets.contains(&connection.peer) && now.since(connection.since) >= GUEST_FOR)
            .map(|(conn, connection)| (*conn, connection.peer, view(connection.peer)))
            .collect();
        rest.sort_by_key(|(_, peer, view)| (wanted.contains(peer), usize::MAX - view.degree, *peer));
        let (mut closed, mut without) = (Vec::new(), BTreeSet::new());
        for (conn, peer, _) in rest {
            if closed.len() == excess.div_ceil(CLOSED_AT_ONCE) {
                break;
            }
            without.insert(peer);
            if keeps(&without) {
                closed.push(conn);
            } else {
                without.remove(&peer);
            }
        }
        closed
    }
}

/// The `count` of `peers` that come first by `key`.
fn first<K: Ord>(
    peers: impl Iterator<Item = PeerName>,
    count: usize,
    key: impl Fn(PeerName) -> K,
) -> BTreeSet<PeerName> {
    let mut sorted: Vec<_> = peers.map(|peer| (key(peer), peer)).collect();
    sorted.sort_unstable();
    sorted.into_iter().take(count).map(|(_, peer)| peer).collect()
}

/// FNV-1a (draft-eastlake-fnv §6) of both names, mixed once more as the low bits of the last byte would else decide. Another if the two
/// change places: whom we choose shall seldom have chosen us already.
fn hash(own: PeerName, other: PeerName) -> u64 {
    let bytes = own.0.into_iter().chain(other.0);
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{
        super::{Dial, End, EndKind, MakerConfig},
        *,
    };
    use crate::wire::RELAYS_MAX;

    fn peer(number: u16) -> PeerName {
        let [high, low] = number.to_be_bytes();
        PeerName([2, 0, 0, 0, high, low])
    }

    fn address(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 6783))
    }

    fn maker(known: u16, limit: usize) -> Maker {
        let mut maker = Maker::new(MakerConfig { name: PeerName([1; 6]), discovery: true, conn_limit: limit });
        (1..=known).for_each(|number| maker.set_known(peer(number), vec![address(number)], Time::ZERO));
        maker
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn entropy() -> Entropy {
        Entropy::seeded([1; 32])
    }

    /// Peers with larger numbers are farther; all are reached.
    fn far_by_number(peer: PeerName) -> View {
        let number = u64::from(u16::from_be_bytes([peer.0[4], peer.0[5]]));
        View { distance: Some(Duration::from_millis(number)), degree: 12, is_reached: true }
    }

    fn dials(maker: &mut Maker, now: Time) -> Vec<Dial> {
        std::iter::from_fn(|| maker.poll_dial(now)).collect()
    }

    fn connect_all(maker: &mut Maker, now: Time) -> BTreeSet<PeerName> {
        let dials = dials(maker, now);
        for dial in &dials {
            maker.connected(dial.conn, dial.peer.unwrap(), now, &entropy());
        }
        dials.into_iter().map(|dial| dial.peer.unwrap()).collect()
    }

    #[test]
    fn a_small_mesh_is_full_and_a_large_one_is_not() {
        let mut small = maker(32, MESH_LIMIT);
        assert_eq!((connect_all(&mut small, at(1)).len(), small.review_due()), (32, None));
        let mut large = maker(33, MESH_LIMIT);
        assert!(large.review_due().is_some() && dials(&mut large, at(1)).is_empty(), "before it has chosen");
        large.review(far_by_number, |_| true, at(1), &entropy());
        assert_eq!(connect_all(&mut large, at(1)).len(), 6);
    }

    #[test]
    fn some_are_near_some_are_far_and_they_stay() {
        let mut maker = maker(1000, MESH_LIMIT);
        maker.review(far_by_number, |_| true, at(1), &entropy());
        let first = connect_all(&mut maker, at(1));
        let near = first.iter().filter(|name| **name <= peer(6)).count();
        assert!(near >= 2 && first.iter().filter(|name| **name > peer(100)).count() >= 3, "{first:?}");
        for number in 1001..1050 {
            maker.set_known(peer(number), vec![address(number)], at(2));
        }
        maker.review(far_by_number, |_| true, at(3), &entropy());
        assert!(connect_all(&mut maker, at(3)).len() <= 1, "a few more far peers hardly change the choice");
    }

    #[test]
    fn who_has_no_room_is_replaced_and_who_is_unreached_is_sought() {
        let mut maker = maker(200, MESH_LIMIT);
        maker.review(far_by_number, |_| true, at(1), &entropy());
        let full = dials(&mut maker, at(1)).remove(0);
        maker.ended(full.conn, &End { kind: EndKind::Full, reason: String::new() }, at(1), &entropy());
        let lost = peer(77);
        let view = |peer| View { is_reached: peer != lost, ..far_by_number(peer) };
        maker.review(view, |_| true, at(1), &entropy());
        let next: BTreeSet<_> = dials(&mut maker, at(3)).into_iter().filter_map(|dial| dial.peer).collect();
        assert!(next.contains(&lost) && next.len() == 2 && !next.contains(&full.peer.unwrap()), "{next:?}");
    }

    #[test]
    fn what_is_above_the_limit_is_closed_in_steps_but_not_what_holds_the_mesh_together() {
        let mut maker = maker(200, MESH_LIMIT);
        for number in 1..=40 {
            maker.connected(ConnId(u64::from(number) * 2 + 1), peer(number), at(1), &entropy());
        }
        assert!(maker.review(far_by_number, |_| true, at(2), &entropy()).is_empty(), "they are guests");
        let bridge = peer(40);
        let view = |peer| View { degree: if peer == bridge { 99 } else { 12 }, ..far_by_number(peer) };
        let mut now = at(5);
        while maker.count() > MESH_LIMIT {
            let closed = maker.review(view, |without| !without.contains(&bridge), now, &entropy());
            assert!((1..=12).contains(&closed.len()));
            for conn in closed {
                maker.ended(conn, &End { kind: EndKind::Full, reason: String::new() }, now, &entropy());
            }
            now = now + Duration::from_secs(1);
        }
        assert!(maker.is_connected(bridge));
        assert!(dials(&mut maker, now).is_empty(), "at the limit nobody else is dialled");
    }

    /// How many steps the peer that is farthest from the first one is away from it, by connections that `count` peers choose who each
    /// take those with the next numbers for near; None if there is no way to some.
    fn steps(count: u16, limit: usize) -> Option<usize> {
        let choice = |own: u16| {
            let mut maker = Maker::new(MakerConfig { name: peer(own), discovery: true, conn_limit: limit });
            (1..=count).for_each(|number| maker.set_known(peer(number), vec![address(number)], Time::ZERO));
            let number = |name: PeerName| u16::from_be_bytes([name.0[4], name.0[5]]);
            let distance = |peer| Some(Duration::from_millis(number(peer).abs_diff(own).into()));
            maker.review(|peer| View { distance: distance(peer), ..far_by_number(peer) }, |_| true, at(5), &entropy());
            maker.mesh.wanted.into_iter().map(number).collect::<Vec<_>>()
        };
        let choices: Vec<Vec<u16>> = (1..=count).map(choice).collect();
        let is_chosen = |by: u16, peer: u16| choices[usize::from(by) - 1].contains(&peer);
        let (mut seen, mut edge, mut steps) = (BTreeSet::from([1]), BTreeSet::from([1_u16]), 0);
        while !edge.is_empty() {
            let chosen = edge.iter().flat_map(|by| choices[usize::from(*by) - 1].iter().copied());
            let choosing = (1..=count).filter(|by| edge.iter().any(|peer| is_chosen(*by, *peer)));
            edge = chosen.chain(choosing).filter(|peer| !seen.contains(peer)).collect();
            seen.extend(&edge);
            steps += usize::from(!edge.is_empty());
        }
        (seen.len() == usize::from(count)).then_some(steps)
    }

    #[test]
    fn the_mesh_is_no_more_steps_across_than_a_packet_can_take() {
        for (count, limit) in [(40, 8), (100, 12), (200, 12), (1000, 16)] {
            let steps = steps(count, limit).unwrap();
            assert!(steps <= RELAYS_MAX, "{count} peers are {steps} steps across with a limit of {limit}");
        }
    }
}
