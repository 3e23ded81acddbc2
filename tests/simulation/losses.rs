//! Loss by direction in virtual time, as probes see it and as packets of frames do; and probes that rest while those tell it.

use std::time::Duration;

use weft::{api::path::Losses, sim::HostId};

use super::{
    MILLISECOND, Mesh, SECOND,
    routing::{CUTS, exchange, is_relayed, median, path, settled, worsen},
};

/// A frame now and then, and so many that they say more than probes.
const FEW: (Duration, usize) = (Duration::from_millis(50), 1);
const MANY: (Duration, usize) = (Duration::from_millis(10), 6);

fn losses(mesh: &Mesh, from: HostId, to: HostId) -> Losses {
    let told = mesh.sim.explain(from, mesh.name(to)).unwrap();
    let sleeve = told.methods.into_iter().find(|method| method.method == "sleeve").unwrap();
    assert_eq!(told.path.losses, sleeve.losses, "status says the same");
    sleeve.losses.unwrap()
}

#[test]
fn which_way_a_link_loses_is_told_from_probes_and_from_frames() {
    for (traffic, of) in [(FEW, "probes"), (MANY, "frames")] {
        let mut mesh = settled(2, 40, 2 * MILLISECOND);
        worsen(&mut mesh, [(0, 1)], |way| way.loss = 0.1);
        exchange(&mut mesh, [0, 1], traffic, 20 * SECOND, |_| false);
        let (here, there) = (losses(&mesh, 0, 1), losses(&mesh, 1, 0));
        assert!([&here, &there].iter().all(|losses| losses.of == of), "{here:?} {there:?}");
        let is_lossy = |share: f64| (0.04..0.18).contains(&share);
        assert!(is_lossy(here.there) && here.back < 0.02, "{here:?}");
        assert!(is_lossy(there.back) && there.there < 0.02, "{there:?}");
    }
}

#[test]
fn a_busy_path_that_loses_one_way_is_left_within_seconds() {
    for ways in [[(0, 2)], [(2, 0)]] {
        let mut left = Vec::new();
        for seed in 0..4 {
            let mut mesh = settled(3, 50 + seed, MILLISECOND);
            exchange(&mut mesh, [0, 2], MANY, 5 * SECOND, |_| false);
            worsen(&mut mesh, ways, |way| way.loss = 0.08);
            left.push(exchange(&mut mesh, [0, 2], MANY, 20 * SECOND, |mesh| is_relayed(mesh, [0, 2])).0);
        }
        let typical = median(&mut left);
        assert!(typical >= SECOND && typical <= 5 * SECOND && left.last() <= Some(&(7 * SECOND)), "{left:?}");
    }
}

#[test]
fn probes_rest_while_frames_tell_what_they_would() {
    let mut mesh = settled(2, 60, 2 * MILLISECOND);
    // Packets that are no frames, in ten seconds.
    let mut beside = |traffic: (Duration, usize)| {
        exchange(&mut mesh, [0, 1], traffic, 5 * SECOND, |_| false);
        let (before, _) = mesh.sim.sent(0);
        exchange(&mut mesh, [0, 1], traffic, 10 * SECOND, |_| false);
        let frames = 10 * SECOND.as_millis() as usize / traffic.0.as_millis() as usize * traffic.1;
        mesh.sim.sent(0).0 - before - frames as u64
    };
    let (few, many) = (beside(FEW), beside(MANY));
    assert!(few > 380 && many > 80 && many < 220, "{few} and {many}");
    assert_eq!(path(&mesh, 0, 1).path, "direct");
}

#[test]
fn a_busy_path_that_dies_is_left_as_soon_as_another() {
    for cut in CUTS {
        let mut gaps = Vec::new();
        for trial in 0..8_u32 {
            let mut mesh = settled(4, 70 + u64::from(trial), 2 * MILLISECOND);
            exchange(&mut mesh, [0, 2], MANY, 4 * SECOND + 23 * MILLISECOND * trial, |_| false);
            cut(&mut mesh.sim.network);
            gaps.push(exchange(&mut mesh, [0, 2], MANY, 3 * SECOND, |_| false).1);
        }
        let typical = median(&mut gaps);
        println!("nothing for {typical:?}, at worst for {:?}", gaps.last());
        assert!(typical <= 850 * MILLISECOND && gaps.last() <= Some(&SECOND), "{gaps:?}");
        assert!(typical >= 300 * MILLISECOND, "the cut cut: {gaps:?}");
    }
}
