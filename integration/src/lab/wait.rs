//! Waiting for something to become true, with a deadline and a reason.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

/// Names the factor by which this machine is slower than the one that time limits are written for: a whole number.
pub const SLOWNESS: &str = "WEFT_LAB_SLOWNESS";

/// Between two looks: short beside what is waited for, long beside what a look costs.
const PAUSE: Duration = Duration::from_millis(50);

/// How long to wait here for what takes at most `limit` on an ordinary machine. All waits of the lab do this by themselves.
pub fn patience(limit: Duration) -> Duration {
    limit * slowness()
}

fn slowness() -> u32 {
    std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Looks until `look` succeeds, and gives what it found and how long that took; at the deadline, its last error.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
    let (started, deadline) = (Instant::now(), patience(deadline));
    loop {
        let error = match look() {
            Ok(found) => return Ok((found, started.elapsed())),
            Err(error) => error,
        };
        if started.elapsed() > deadline {
            return Err(error).with_context(|| format!("not within {deadline:?}: {what}"));
        }
        thread::sleep(PAUSE);
    }
}

/// As [`wait_for`], for what is either so or not so yet.
pub fn wait_until(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let is_so = || if look()? { Ok(()) } else { Err(anyhow!("not so yet")) };
    wait_for(what, deadline, is_so).map(|((), took)| took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_and_the_reason_are_told() {
        let error = wait_for::<()>("pigs fly", Duration::from_millis(1), || Err(anyhow!("no wings"))).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("pigs fly") && text.contains("no wings"), "{text}");
    }

    #[test]
    fn it_ends_as_soon_as_it_is_so() {
        let mut looks = 0;
        wait_until("third look", Duration::from_secs(5), || {
            looks += 1;
            Ok(looks == 3)
        })
        .unwrap();
        assert_eq!(looks, 3);
    }
}
