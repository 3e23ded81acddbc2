//! What a link's probes say: smoothed round-trip time, its deviation, and the share of probes lost.

use std::time::Duration;

/// Probes that the loss is taken over.
const LOSS_WINDOW: u32 = 64;

/// Estimates of one direct path.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    smoothed: Option<Duration>,
    deviation: Duration,
    /// The latest probes, newest in bit 0; a set bit was lost.
    lost: u64,
    probes: u32,
}

impl Estimate {
    /// Takes in a measured round trip (RFC 6298 §2: gain 1/8 for the mean, 1/4 for the deviation).
    pub fn answered(&mut self, rtt: Duration) {
        self.push(false);
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(rtt);
            self.deviation = rtt / 2;
            return;
        };
        self.deviation = (self.deviation * 3 + smoothed.abs_diff(rtt)) / 4;
        self.smoothed = Some((smoothed * 7 + rtt) / 8);
    }

    /// Takes in a probe that was never answered.
    pub fn lost(&mut self) {
        self.push(true);
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for an answer before a probe counts as lost: mean and four deviations (RFC 6298 §2), but no less
    /// than `floor`, since a busy peer may be slow to answer.
    pub fn patience(&self, floor: Duration) -> Duration {
        self.smoothed.map_or(floor, |rtt| (rtt + self.deviation * 4).max(floor))
    }

    /// Share of the latest probes that were lost, 0 to 1.
    pub fn loss(&self) -> f64 {
        match self.probes {
            0 => 0.0,
            probes => f64::from(self.lost.count_ones()) / f64::from(probes),
        }
    }

    fn push(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u64::from(lost);
        self.probes = (self.probes + 1).min(LOSS_WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_and_the_deviation_widens_patience() {
        let mut estimate = Estimate::default();
        let floor = Duration::from_millis(1);
        assert_eq!((estimate.rtt(), estimate.patience(floor)), (None, floor));
        estimate.answered(Duration::from_millis(100));
        assert_eq!(estimate.rtt(), Some(Duration::from_millis(100)));
        assert_eq!(estimate.patience(floor), Duration::from_millis(300));
        for _ in 0..200 {
            estimate.answered(Duration::from_millis(10));
        }
        let rtt = estimate.rtt().unwrap();
        assert!(rtt < Duration::from_millis(11), "{rtt:?}");
        assert!(estimate.patience(floor) < Duration::from_millis(12));
    }

    #[test]
    fn loss_is_that_of_the_latest_probes() {
        let mut estimate = Estimate::default();
        for probe in 0..4 {
            if probe == 0 { estimate.lost() } else { estimate.answered(Duration::from_millis(1)) }
        }
        assert!((estimate.loss() - 0.25).abs() < 1e-9);
        for _ in 0..64 {
            estimate.answered(Duration::from_millis(1));
        }
        assert!(estimate.loss() < 1e-9);
    }
}
