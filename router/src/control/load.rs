//! How busy the data plane is, for what the node tells others of it as a relay.

use std::time::Duration;

/// Over how long the share is taken: workers put up what they counted each tenth of that.
const SPAN: Duration = Duration::from_secs(1);
/// Less than this is no other share, in thousandths.
const STEP: u16 = 50;

/// The share of their time that the workers work.
#[derive(Debug, Default)]
pub(crate) struct LoadMeter {
    /// How long each had worked when it was last looked, on average, and when that was.
    looked: (Duration, Duration),
    told: u16,
}

impl LoadMeter {
    /// Looks at how long each worker has worked until `now`, both since the start. Some share in thousandths if it is to be told.
    pub(crate) fn look(&mut self, worked: Duration, now: Duration) -> Option<u16> {
        let (worked_before, before) = self.looked;
        let span = now.saturating_sub(before);
        if span < SPAN {
            return None;
        }
        self.looked = (worked, now);
        let share = worked.saturating_sub(worked_before).as_millis().saturating_mul(1000) / span.as_millis();
        let share = u16::try_from(share.min(1000)).unwrap_or(1000);
        if share.abs_diff(self.told) < STEP {
            return None;
        }
        self.told = share;
        Some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_when_it_is_another() {
        let mut load = LoadMeter::default();
        let ms = Duration::from_millis;
        let looks =
            [(0, 500), (10, 1000), (500, 1500), (510, 2000), (1500, 3000), (2510, 4000), (2600, 5000), (2600, 6000)];
        let told: Vec<_> = looks.iter().map(|&(worked, now)| load.look(ms(worked), ms(now))).collect();
        assert_eq!(told, [None, None, None, Some(500), Some(990), None, Some(90), Some(0)]);
    }
}
