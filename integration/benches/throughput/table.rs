//! The table: medians of each candidate's rounds, and Weft's in relation to what it is to be compared with.

use std::{collections::BTreeSet, fmt::Write};

use super::{candidate::Kind, measure::Values, metric::Metric};

/// Columns: the metric's name, a value, a ratio.
const NAME_WIDTH: usize = 38;
const WIDTH: usize = 14;
const RATIO_WIDTH: usize = 22;

/// Which candidates are set in relation: what of it the first has, by the second.
const RATIOS: [(Kind, Kind); 10] = [
    (Kind::Fastdp, Kind::VxlanAlike),
    (Kind::Sleeve, Kind::Vxlan),
    (Kind::Sleeve, Kind::Veth),
    (Kind::Jumbo, Kind::Sleeve),
    (Kind::Plain, Kind::Sleeve),
    (Kind::Relay, Kind::Sleeve),
    (Kind::Esp(1), Kind::Xfrm),
    (Kind::Esp(2), Kind::Esp(1)),
    (Kind::Esp(4), Kind::Esp(1)),
    (Kind::Ovs, Kind::Flows),
];

/// The table as text, one line for each metric; of ratios those whose both sides were measured.
pub(crate) fn of(values: &Values) -> String {
    let kinds: BTreeSet<Kind> = values.keys().map(|(_, kind)| *kind).collect();
    let ratios: Vec<_> = RATIOS.iter().filter(|(one, other)| kinds.contains(one) && kinds.contains(other)).collect();
    let heads = kinds.iter().map(|kind| format!("{kind:>WIDTH$}"));
    let ratio_heads = ratios.iter().map(|(one, other)| format!("{:>RATIO_WIDTH$}", format!("{one}/{other}")));
    let mut text = format!("\n{:<NAME_WIDTH$}{}\n", "median", heads.chain(ratio_heads).collect::<String>());
    let metrics: BTreeSet<Metric> = values.keys().map(|(metric, _)| *metric).collect();
    for metric in metrics {
        let of = |kind: Kind| values.get(&(metric, kind)).and_then(|rounds| median(rounds));
        let cells = kinds.iter().map(|kind| format!("{:>WIDTH$}", of(*kind).map(number).unwrap_or_default()));
        let ratio = |one, other| ratio(values.get(&(metric, one))?, values.get(&(metric, other))?);
        let ratios =
            ratios.iter().map(|(one, other)| format!("{:>RATIO_WIDTH$}", ratio(*one, *other).unwrap_or_default()));
        let line: String = cells.chain(ratios).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<NAME_WIDTH$}{line}", metric.to_string());
    }
    text
}

/// The median of what each round gave: two measurements that followed each other met the same machine.
fn ratio(one: &[f64], other: &[f64]) -> Option<String> {
    let by_round: Vec<f64> = one.iter().zip(other).map(|(one, other)| one / other).collect();
    median(&by_round).map(|ratio| format!("{ratio:.3}"))
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// With as many decimals as say something.
fn number(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}
