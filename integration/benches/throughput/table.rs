//! The table: medians of each candidate's rounds, and Weft's in relation to the others'.

use std::{collections::BTreeSet, fmt::Write};

use super::{candidate::Kind, measure::Values, metric::Metric};

/// The table as text, one line for each metric.
pub(crate) fn of(values: &Values) -> String {
    let mut text = format!(
        "\n{:<38}{:>10}{:>10}{:>10}{:>13}{:>13}\n",
        "median", "veth", "vxlan", "weft", "weft/veth", "weft/vxlan"
    );
    let metrics: BTreeSet<Metric> = values.keys().map(|(metric, _)| *metric).collect();
    for metric in metrics {
        let [veth, vxlan, weft] = [Kind::Veth, Kind::Vxlan, Kind::Weft]
            .map(|kind| values.get(&(metric, kind)).and_then(|rounds| median(rounds)));
        let name = metric.to_string();
        let ratio = |other: Option<f64>| weft.zip(other).map(|(weft, other)| format!("{:.3}", weft / other));
        let cell = |value: Option<f64>| value.map(number);
        let [veth_ratio, vxlan_ratio] = [ratio(veth), ratio(vxlan)].map(Option::unwrap_or_default);
        let [veth, vxlan, weft] = [cell(veth), cell(vxlan), cell(weft)].map(Option::unwrap_or_default);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<38}{veth:>10}{vxlan:>10}{weft:>10}{veth_ratio:>13}{vxlan_ratio:>13}");
    }
    text
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
