use proptest::prelude::*;

use super::*;
use crate::{
    crypto::identity::PublicKey,
    id::Uid,
    topology::{cost::Cost, record::LinkRecord, relaying::RELAY_PENALTY},
};

type Records = BTreeMap<PeerName, PeerRecord>;

fn name(i: usize) -> PeerName {
    PeerName([0, 0, 0, 0, (i / 256) as u8, (i % 256) as u8])
}

/// Records of `peers` peers and these ends of links: from, to, control, cost.
fn records(peers: usize, ends: &[(usize, usize, bool, Option<u8>)]) -> Records {
    let record = |i: usize| {
        let links: BTreeMap<_, _> = ends
            .iter()
            .filter(|(from, to, ..)| *from == i && *to != i)
            .map(|(_, to, control, cost)| (name(*to), (*control, cost.map(Cost))))
            .collect();
        PeerRecord {
            public: PublicKey([0; 32]),
            uid: Uid(1),
            nickname: "x".parse().unwrap(),
            port: 1,
            addresses: Vec::new(),
            links: links
                .into_iter()
                .map(|(peer, (control, data))| LinkRecord { peer, control, data, payload_max: 1472, detail: None })
                .collect(),
            leaving: false,
            mtu: 0,
            relaying: Relaying::Free,
        }
    };
    (0..peers).map(|i| (name(i), record(i))).collect()
}

/// Both ends of each link.
fn both(links: &[(usize, usize, u8)]) -> Vec<(usize, usize, bool, Option<u8>)> {
    links.iter().flat_map(|&(a, b, cost)| [(a, b, true, Some(cost)), (b, a, true, Some(cost))]).collect()
}

fn graph(own: usize, records: &Records) -> Graph {
    measured_graph(own, records, |_| None)
}

fn measured_graph(own: usize, records: &Records, measured: impl Fn(PeerName) -> Option<(Cost, Detail)>) -> Graph {
    Graph::new(name(own), records.iter().map(|(name, record)| (*name, record)), measured)
}

fn relays(graph: &Graph, to: usize) -> Option<Vec<PeerName>> {
    graph.paths().remove(&name(to)).map(|choice| choice.relays)
}

#[test]
fn a_relay_costs_more_the_less_it_has_to_spare_and_is_none_if_it_passes_on_nothing() {
    let mut records = records(4, &both(&[(0, 1, 100), (1, 3, 100), (0, 2, 108), (2, 3, 108)]));
    let mut ways = |relaying| {
        records.get_mut(&name(1)).unwrap().relaying = relaying;
        let graph = graph(0, &records);
        let detours: Vec<_> = graph.alternatives(name(3)).into_iter().map(|way| way.relays).collect();
        assert_eq!(graph.cost(&[name(1)], name(3)).is_some(), relaying != Relaying::Off);
        assert_eq!(Some(&detours[0]), relays(&graph, 3).as_ref());
        detours
    };
    let (first, second) = (vec![name(1)], vec![name(2)]);
    assert_eq!(ways(Relaying::Free), [first.clone(), second.clone()]);
    assert_eq!(ways(Relaying::Crowded), [second.clone(), first.clone()]);
    assert_eq!(ways(Relaying::Full), [second.clone(), first]);
    assert_eq!(ways(Relaying::Off), [second]);
    // Who has no other way goes by a full relay all the same, and its ends are reached whatever it does.
    let mut records = self::records(3, &both(&[(0, 1, 100), (1, 2, 100)]));
    records.get_mut(&name(1)).unwrap().relaying = Relaying::Full;
    assert_eq!(relays(&graph(0, &records), 2), Some(vec![name(1)]));
    assert!(!graph(0, &records).has_unwilling_relay(name(2)));
    records.get_mut(&name(1)).unwrap().relaying = Relaying::Off;
    assert!(graph(0, &records).has_unwilling_relay(name(2)));
    assert_eq!((relays(&graph(0, &records), 2), relays(&graph(0, &records), 1)), (None, Some(vec![])));
}

#[test]
fn of_our_own_links_counts_what_we_measure_and_loss_that_the_other_end_saw() {
    let told = Detail { rtt: Cost(100), jitter: Cost(0), lost: 50 };
    let mut records = records(3, &both(&[(0, 1, 100), (1, 2, 100)]));
    let cost = |records: &Records, of: usize, lost| {
        let measured = (Cost(80), Detail { rtt: Cost(80), jitter: Cost(0), lost });
        let graph = measured_graph(of, records, |_| Some(measured));
        [(&[][..], 1), (&[name(1)], 2)].map(|(relays, to)| graph.rtt(relays, name(to)).unwrap())
    };
    let (ours, theirs) = (Cost(80).micros(), Cost(100).micros());
    assert_eq!(cost(&records, 0, 0), [ours, ours + theirs]);
    for record in records.values_mut() {
        record.links.iter_mut().for_each(|link| link.detail = Some(told));
    }
    assert_eq!(cost(&records, 0, 0), [theirs, theirs * 2]);
    assert_eq!(cost(&records, 0, 50), [ours, ours + theirs]);
}

#[test]
fn a_direct_link_is_taken_unless_a_relay_gains_clearly() {
    let near = Cost::step(std::time::Duration::from_micros(500)).0;
    let far = Cost::step(std::time::Duration::from_millis(5)).0;
    let very_far = Cost::step(std::time::Duration::from_millis(50)).0;
    let direct = records(3, &both(&[(0, 1, near), (1, 2, near), (0, 2, far)]));
    assert_eq!(relays(&graph(0, &direct), 2), Some(vec![]));
    let detour = records(3, &both(&[(0, 1, near), (1, 2, near), (0, 2, very_far)]));
    assert_eq!(relays(&graph(0, &detour), 2), Some(vec![name(1)]));
    assert_eq!(graph(0, &detour).paths()[&name(2)].cost, RELAY_PENALTY + 2 * Cost(near).micros());
}

#[test]
fn a_link_that_one_end_does_not_report_does_not_count() {
    let mut ends = both(&[(0, 1, 10)]);
    ends.push((1, 2, true, Some(10)));
    let one_way = records(3, &ends);
    assert_eq!(relays(&graph(0, &one_way), 1), Some(vec![]));
    assert_eq!(relays(&graph(0, &one_way), 2), None);
    assert_eq!(graph(0, &one_way).reachable(), BTreeSet::from([name(0), name(1)]));
}

#[test]
fn control_and_data_are_apart() {
    let ends = [(0, 1, true, None), (1, 0, true, None), (0, 2, false, Some(9)), (2, 0, false, Some(12))];
    let split = records(3, &ends);
    assert_eq!(graph(0, &split).reachable(), BTreeSet::from([name(0), name(1)]));
    assert_eq!(graph(0, &split).paths().into_keys().collect::<Vec<_>>(), [name(2)]);
    assert_eq!(graph(0, &split).paths()[&name(2)].cost, Cost(12).micros(), "the worse end's cost");
}

#[test]
fn who_leaves_relays_no_more() {
    let mut chain = records(3, &both(&[(0, 1, 10), (1, 2, 10)]));
    chain.get_mut(&name(1)).unwrap().leaving = true;
    assert_eq!(graph(0, &chain).paths(), BTreeMap::new());
    assert_eq!(graph(0, &chain).reachable(), BTreeSet::from([name(0)]));
}

#[test]
fn no_path_has_more_relays_than_allowed() {
    let links: Vec<_> = (0..RELAYS_MAX + 2).map(|i| (i, i + 1, 10)).collect();
    let chain = records(RELAYS_MAX + 3, &both(&links));
    assert_eq!(relays(&graph(0, &chain), RELAYS_MAX + 1).map(|relays| relays.len()), Some(RELAYS_MAX));
    assert_eq!(relays(&graph(0, &chain), RELAYS_MAX + 2), None);
    assert_eq!(graph(0, &chain).reachable().len(), RELAYS_MAX + 3);
}

#[test]
fn equal_paths_are_chosen_by_name() {
    let diamond = records(4, &both(&[(0, 2, 10), (2, 3, 10), (0, 1, 10), (1, 3, 10)]));
    assert_eq!(relays(&graph(0, &diamond), 3), Some(vec![name(1)]));
}

#[test]
fn the_ways_to_a_peer_are_told_the_best_first() {
    let links = [(0, 3, 140), (0, 1, 80), (1, 3, 80), (0, 2, 80), (2, 3, 88), (1, 2, 80)];
    let graph = graph(0, &records(5, &both(&links)));
    let ways: Vec<_> = graph.alternatives(name(3)).into_iter().map(|way| way.relays).collect();
    let by = |relays: &[usize]| relays.iter().map(|relay| name(*relay)).collect::<Vec<_>>();
    assert_eq!(ways, [by(&[1]), by(&[2]), by(&[2, 1]), by(&[1, 2]), by(&[])]);
    assert!(graph.has_direct(name(3)) && graph.has_detour(name(3)) && !graph.has_detour(name(4)));
    assert_eq!(graph.alternatives(name(4)), []);
}

#[test]
fn without_a_record_of_our_own_there_is_no_way() {
    let strangers = records(2, &both(&[(0, 1, 10)]));
    assert_eq!(graph(7, &strangers).paths(), BTreeMap::new());
    assert_eq!(graph(7, &strangers).reachable(), BTreeSet::new());
}

#[test]
fn a_thousand_peers_with_ten_links_each_are_all_found() {
    let links: Vec<_> =
        (0..1000).flat_map(|i| [1, 7, 53, 211, 389].map(|step| (i, (i + step) % 1000, (i % 90) as u8))).collect();
    let large = records(1000, &both(&links));
    let graph = graph(0, &large);
    assert_eq!(graph.reachable().len(), 1000);
    assert!(graph.paths().len() > 500, "most are within {RELAYS_MAX} relays: {}", graph.paths().len());
}

/// Every simple path, by trying them all.
fn brute_force(records: &Records, own: PeerName) -> BTreeMap<PeerName, PathChoice> {
    fn walk(records: &Records, walked: &mut Vec<PeerName>, cost: u64, best: &mut BTreeMap<PeerName, PathChoice>) {
        let here = walked[walked.len() - 1];
        for (&next, record) in records {
            let there = records[&here].link(next).and_then(|link| link.data);
            let back = record.link(here).and_then(|link| link.data);
            let (Some(there), Some(back)) = (there, back) else { continue };
            if walked.contains(&next) || walked.len() > RELAYS_MAX + 1 {
                continue;
            }
            let penalty = if walked.len() > 1 { RELAY_PENALTY } else { 0 };
            let found = PathChoice { relays: walked[1..].to_vec(), cost: cost + penalty + there.max(back).micros() };
            let rank = |choice: &PathChoice| (choice.cost, choice.relays.len(), choice.relays.clone());
            let cost = found.cost;
            if best.get(&next).is_none_or(|known| rank(&found) < rank(known)) {
                best.insert(next, found);
            }
            walked.push(next);
            walk(records, walked, cost, best);
            walked.pop();
        }
    }
    let mut best = BTreeMap::new();
    walk(records, &mut vec![own], 0, &mut best);
    best
}

proptest! {
    #[test]
    fn paths_are_those_that_trying_them_all_finds(
        peers in 2_usize..8,
        // Few different costs, so that ties are common; some far above the penalty.
        ends in prop::collection::vec((0_usize..8, 0_usize..8, prop::sample::select(vec![80_u8, 88, 120, 140])), 0..40),
        one_way in prop::collection::vec((0_usize..8, 0_usize..8), 0..4),
    ) {
        let inside: Vec<_> = ends.into_iter().filter(|(a, b, _)| *a < peers && *b < peers).collect();
        let mut ends = both(&inside);
        ends.extend(one_way.into_iter().filter(|(a, _)| *a < peers).map(|(a, b)| (a, b, true, Some(80))));
        let records = records(peers, &ends);
        prop_assert_eq!(graph(0, &records).paths(), brute_force(&records, name(0)));
    }
}

proptest! {
    #[test]
    fn news_reaches_all_along_the_tree(
        peers in 1..40_usize,
        links in prop::collection::vec((0..40_usize, 0..40_usize), 0..120),
    ) {
        let links: Vec<_> = links.into_iter().map(|(a, b)| (a % peers, b % peers, 1)).collect();
        let records = records(peers, &both(&links));
        let trees: Vec<BTreeSet<PeerName>> = (0..peers).map(|own| graph(own, &records).tree()).collect();
        for own in 0..peers {
            for neighbour in 0..peers {
                let (here, there) = (trees[own].contains(&name(neighbour)), trees[neighbour].contains(&name(own)));
                prop_assert_eq!(here, there, "{} and {} differ", own, neighbour);
            }
            // No more links than a tree has, and as many as it takes.
            let (mut seen, mut open, mut ends) = (BTreeSet::new(), vec![own], 0);
            while let Some(peer) = open.pop() {
                if seen.insert(name(peer)) {
                    ends += trees[peer].len();
                    open.extend((0..peers).filter(|next| trees[peer].contains(&name(*next))));
                }
            }
            prop_assert_eq!(&seen, &graph(own, &records).reachable());
            prop_assert_eq!(ends, (seen.len() - 1) * 2);
        }
    }
}

proptest! {
    #[test]
    fn to_follow_changes_gives_the_graph_of_the_newest_records(
        ends in prop::collection::vec(
            prop::collection::vec((0..8_usize, 0..8_usize, any::<bool>(), prop::option::of(0..90_u8)), 0..40), 1..6,
        ),
        own in 0..8_usize,
        changes in prop::collection::btree_set(0..8_usize, 0..5),
        measured in prop::collection::vec(0..90_u8, 6),
    ) {
        let measure = |by: u8| move |peer: PeerName| {
            let detail = Detail { rtt: Cost(by), jitter: Cost(0), lost: 0 };
            peer.0[5].is_multiple_of(3).then_some((Cost(by), detail))
        };
        let mut told = records(8, &ends[0]);
        let mut graph = measured_graph(own, &told, measure(measured[0]));
        for (ends, by) in ends.iter().zip(&measured) {
            graph.add_private([LinkRecord { peer: name(7), control: false, data: Some(Cost(1)), payload_max: 1, detail: None }]);
            let newest = records(8, ends);
            let changed: BTreeSet<PeerName> = changes.iter().map(|peer| name(*peer)).collect();
            told.extend(changed.iter().map(|name| (*name, PeerRecord { relaying: Relaying::Busy, ..newest[name].clone() })));
            prop_assert!(graph.follow(&changed, |name| told.get(&name), measure(*by)));
            prop_assert_eq!(&graph, &measured_graph(own, &told, measure(*by)));
        }
        let gone = name(*changes.first().unwrap_or(&0));
        let without = |name: PeerName| told.get(&name).filter(|_| name != gone);
        prop_assert!(!graph.follow(&BTreeSet::from([gone]), without, measure(0)));
    }
}

#[test]
fn a_link_that_only_its_ends_know_leads_there_and_on() {
    let ends = both(&[(0, 1, 20), (1, 2, 20), (2, 3, 1)]);
    let records = records(4, &ends);
    let mut graph = graph(0, &records);
    assert_eq!(relays(&graph, 2), Some(vec![name(1)]));
    let private = |peer, cost| LinkRecord {
        peer: name(peer),
        control: false,
        data: Some(Cost(cost)),
        payload_max: 1400,
        detail: None,
    };
    // Also one with a peer that nothing else is known of.
    graph.add_private([private(2, 2), private(9, 1), private(1, 3)]);
    assert_eq!(relays(&graph, 2), Some(vec![]));
    assert_eq!(relays(&graph, 3), Some(vec![name(2)]));
    assert_eq!(graph.payload_max(&[], name(2)), Some(1400));
    assert_eq!(graph.cost(&[], name(1)), Some(Cost(3).micros()), "instead of what was told");
}
