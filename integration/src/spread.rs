//! How values spread: the least, the middle, the ninth of ten, the greatest.

/// Of some values, sorted.
#[derive(Clone, Debug)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// The head of the table whose lines [`Spread::line`] gives.
    pub const HEAD: &str = "\n                                             min       p50       p90       max";

    /// Of these.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    /// A line of the table.
    pub fn line(&self, name: &str) -> String {
        let cells = [0, 50, 90, 100].map(|percent| format!("{:>10.1}", self.quantile(percent)));
        format!("{name:<38}{}", cells.concat())
    }

    /// The least value that so many of a hundred are not above.
    pub fn quantile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}
