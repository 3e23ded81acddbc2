use proptest::prelude::*;

use super::*;

const A: PeerName = PeerName([1; 6]);
const B: PeerName = PeerName([2; 6]);
const C: PeerName = PeerName([3; 6]);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn mac(i: usize) -> Mac {
    Mac([2, 0, 0, 0, (i / 256) as u8, (i % 256) as u8])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn claim(addresses: &[&str], moves: u64) -> Claim {
    Claim { addresses: addresses.iter().map(|text| ip(text)).collect(), moves }
}

#[test]
fn an_attached_station_is_claimed_until_it_is_gone() {
    let mut table = Table::new(A);
    assert_eq!(table.station(MAC, &[ip("10.0.0.1")], true, at(0)), [Change::Set(MAC, claim(&["10.0.0.1"], 0))]);
    assert_eq!(table.station(MAC, &[ip("10.0.0.1")], false, at(1)), [], "nothing new");
    assert_eq!((table.deadline(), table.expire(at(9999))), (None, vec![]));
    assert_eq!(table.owner(MAC), Some(A));
    assert_eq!(table.local().collect::<Vec<_>>(), [MAC]);
    assert!(table.addresses().is_empty(), "it answers for itself");
    assert_eq!(table.station_gone(MAC), [Change::Remove(MAC)]);
    assert_eq!((table.owner(MAC), table.station_gone(MAC)), (None, vec![]));
}

#[test]
fn an_attached_station_is_claimed_anew_when_who_won_it_is_gone() {
    let mut table = Table::new(B);
    table.station(MAC, &[], true, at(0));
    assert!(!table.has_lost());
    table.remote(A, MAC, Some(claim(&[], 0)), at(1));
    assert!(table.has_lost());
    assert_eq!((table.reclaim(|_| false), table.owner(MAC)), (vec![], Some(A)), "it is there");
    assert_eq!(table.reclaim(|peer| peer == A), [Change::Set(MAC, claim(&[], 1))]);
    assert_eq!((table.owner(MAC), table.has_lost()), (Some(B), false));
    table.remote(C, MAC, Some(claim(&[], 2)), at(2));
    table.station_gone(MAC);
    assert_eq!((table.reclaim(|_| true), table.has_lost()), (vec![], false), "it is not here any more");
}

#[test]
fn a_learnt_station_is_forgotten_when_not_seen_for_ten_minutes() {
    let mut table = Table::new(A);
    table.station(MAC, &[], false, at(0));
    table.station(MAC, &[], false, at(100));
    assert_eq!(table.deadline(), Some(at(700)));
    assert_eq!(table.expire(at(699)), []);
    assert_eq!(table.expire(at(700)), [Change::Remove(MAC)]);
}

#[test]
fn no_more_stations_are_kept_than_may_be_told() {
    let mut table = Table::new(A);
    table.station(mac(0), &[], true, at(0));
    for i in 1..STATIONS_MAX {
        table.station(mac(i), &[], false, at(i as u64));
    }
    let changes = table.station(mac(STATIONS_MAX), &[], false, at(5000));
    assert_eq!(changes, [Change::Remove(mac(1)), Change::Set(mac(STATIONS_MAX), claim(&[], 0))], "the oldest learnt");
    assert_eq!(table.local().count(), STATIONS_MAX);
}

#[test]
fn attached_stations_are_never_evicted() {
    let mut table = Table::new(A);
    for i in 0..STATIONS_MAX {
        table.station(mac(i), &[], true, at(0));
    }
    assert_eq!(table.station(mac(STATIONS_MAX), &[], true, at(1)), []);
    assert_eq!(table.local().count(), STATIONS_MAX);
}

#[test]
fn groups_and_nobody_are_no_stations() {
    let mut table = Table::new(A);
    assert_eq!(table.station(Mac::BROADCAST, &[], false, at(0)), []);
    assert_eq!(table.station(Mac([0; 6]), &[], true, at(0)), []);
}

#[test]
fn a_station_has_a_bounded_number_of_real_addresses() {
    let mut table = Table::new(A);
    let many: Vec<_> = (0..40_u8).map(|i| IpAddr::from([10, 0, 0, i])).collect();
    table.station(MAC, &[ip("0.0.0.0"), ip("224.0.0.1"), ip("127.0.0.1")], false, at(0));
    table.station(MAC, &many, false, at(0));
    assert_eq!(table.list(|_| None)[0].addresses, many[..STATION_ADDRESSES_MAX]);
    assert_eq!(table.station(MAC, &many, false, at(1)), [], "too many addresses are not told again and again");
}

#[test]
fn on_one_bridge_an_address_is_where_it_was_seen_last() {
    let mut table = Table::new(A);
    table.station(mac(1), &[ip("10.0.0.1")], false, at(0));
    let changes = table.station(mac(2), &[ip("10.0.0.1")], false, at(1));
    assert_eq!(changes, [Change::Set(mac(1), claim(&[], 0)), Change::Set(mac(2), claim(&["10.0.0.1"], 0))]);
}

#[test]
fn remote_stations_and_their_addresses_are_found() {
    let mut table = Table::new(A);
    assert_eq!(table.remote(B, MAC, Some(claim(&["10.0.0.1", "fd00::1"], 0)), at(0)), []);
    assert_eq!(table.stations().collect::<Vec<_>>(), [(MAC, B)]);
    assert_eq!(table.addresses(), BTreeMap::from([(ip("10.0.0.1"), MAC), (ip("fd00::1"), MAC)]));
    let nickname: Nickname = "host-b".parse().unwrap();
    let line = table.list(|name| (name == B).then_some(&nickname).cloned()).remove(0);
    assert_eq!((line.mac, line.name, line.nickname, line.addresses.len()), (MAC, B, Some(nickname), 2));
    table.remote(B, MAC, None, at(0));
    assert_eq!((table.owner(MAC), table.addresses().len()), (None, 0));
}

#[test]
fn an_address_of_two_stations_is_answered_by_themselves() {
    let mut table = Table::new(A);
    table.remote(B, mac(1), Some(claim(&["10.0.0.1", "10.0.0.2"], 0)), at(0));
    table.remote(C, mac(2), Some(claim(&["10.0.0.1"], 0)), at(0));
    table.station(mac(3), &[ip("10.0.0.2")], true, at(0));
    assert_eq!(table.addresses(), BTreeMap::new());
    table.remote(C, mac(2), None, at(0));
    assert_eq!(table.addresses(), BTreeMap::from([(ip("10.0.0.1"), mac(1))]));
}

#[test]
fn a_station_that_moves_to_us_is_ours_and_the_other_withdraws() {
    let (mut a, mut b) = (Table::new(A), Table::new(B));
    b.station(MAC, &[], false, at(0));
    a.remote(B, MAC, Some(claim(&[], 0)), at(0));
    let moved = a.station(MAC, &[], false, at(5));
    assert_eq!(moved, [Change::Set(MAC, claim(&[], 1))]);
    assert_eq!(a.owner(MAC), Some(A));
    assert_eq!(b.remote(A, MAC, Some(claim(&[], 1)), at(5)), [Change::Remove(MAC)]);
    assert_eq!(b.owner(MAC), Some(A));
}

#[test]
fn an_attached_station_stays_claimed_and_comes_back() {
    let mut table = Table::new(A);
    table.station(MAC, &[], true, at(0));
    assert_eq!(table.remote(B, MAC, Some(claim(&[], 1)), at(1)), []);
    assert_eq!((table.owner(MAC), table.local().count()), (Some(B), 0));
    assert_eq!(table.stations().collect::<Vec<_>>(), [(MAC, B)]);
    table.remote(B, MAC, None, at(2));
    assert_eq!((table.owner(MAC), table.local().count()), (Some(A), 1));
}

#[test]
fn a_station_seen_in_two_places_at_once_does_not_change_hands_with_every_frame() {
    let mut table = Table::new(A);
    table.station(MAC, &[], false, at(0));
    table.remote(B, MAC, Some(claim(&[], 1)), at(10));
    assert_eq!(table.station(MAC, &[], false, at(10)), []);
    assert_eq!(table.station(MAC, &[], false, at(11)), [Change::Set(MAC, claim(&[], 2))]);
    table.remote(B, MAC, Some(claim(&[], 3)), at(20));
    assert_eq!(table.station(MAC, &[], true, at(20)), [Change::Set(MAC, claim(&[], 4))], "attaching is no accident");
}

#[test]
fn of_equal_claims_the_smaller_name_wins_everywhere() {
    let (mut a, mut b, mut c) = (Table::new(A), Table::new(B), Table::new(C));
    a.station(MAC, &[], false, at(0));
    b.station(MAC, &[], false, at(0));
    assert_eq!(a.remote(B, MAC, Some(claim(&[], 0)), at(0)), []);
    assert_eq!(b.remote(A, MAC, Some(claim(&[], 0)), at(0)), [Change::Remove(MAC)]);
    c.remote(B, MAC, Some(claim(&[], 0)), at(0));
    c.remote(A, MAC, Some(claim(&[], 0)), at(0));
    assert_eq!([a.owner(MAC), b.owner(MAC), c.owner(MAC)], [Some(A); 3]);
}

#[test]
fn the_highest_claim_of_all_cannot_be_exceeded_but_does_no_harm() {
    let mut table = Table::new(A);
    table.remote(B, MAC, Some(claim(&[], MOVES_MAX)), at(0));
    assert_eq!(table.station(MAC, &[], true, at(5)), [Change::Set(MAC, claim(&[], MOVES_MAX))]);
    assert_eq!(table.owner(MAC), Some(A), "the smaller name");
}

proptest! {
    /// Three tables that tell each other all their changes, in each one's order but with delays.
    #[test]
    fn all_tables_agree_on_owners_once_all_is_told(
        ops in prop::collection::vec((0_usize..3, 0_usize..3, any::<bool>(), 0_u8..4), 0..80),
    ) {
        let names = [A, B, C];
        let mut tables = names.map(Table::new);
        let mut told: Vec<Vec<(usize, Change)>> = vec![Vec::new(); 3];
        let mut now = 0;
        let tell = |told: &mut Vec<Vec<(usize, Change)>>, from: usize, changes: Vec<Change>| {
            for to in (0..3).filter(|to| *to != from) {
                told[to].extend(changes.iter().cloned().map(|change| (from, change)));
            }
        };
        let hear = |tables: &mut [Table; 3], told: &mut Vec<Vec<(usize, Change)>>, to: usize, now: u64| {
            for (from, change) in std::mem::take(&mut told[to]) {
                let (mac, claim) = match change {
                    Change::Set(mac, claim) => (mac, Some(claim)),
                    Change::Remove(mac) => (mac, None),
                };
                let changes = tables[to].remote(names[from], mac, claim, at(now));
                tell(told, to, changes);
            }
        };
        for (peer, station, attached, action) in ops {
            now += 1;
            match action {
                0 | 1 => {
                    let changes = tables[peer].station(mac(station), &[], attached, at(now));
                    tell(&mut told, peer, changes);
                }
                2 => {
                    let changes = tables[peer].station_gone(mac(station));
                    tell(&mut told, peer, changes);
                }
                _ => hear(&mut tables, &mut told, peer, now),
            }
        }
        for _ in 0..6 {
            for peer in 0..3 {
                hear(&mut tables, &mut told, peer, now);
            }
        }
        prop_assert!(told.iter().all(Vec::is_empty), "it comes to rest");
        for station in 0..3 {
            let owners = tables.each_ref().map(|table| table.owner(mac(station)));
            prop_assert!(owners.iter().all(|owner| *owner == owners[0]), "{:?}", owners);
        }
    }
}
