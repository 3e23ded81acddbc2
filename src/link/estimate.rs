//! What the probes of one path say: smoothed round-trip time, its deviation, jitter, and the share of probes lost.
//!
//! A busy path is probed twenty times as often as an idle one, so what a single probe counts for depends on how long ago the
//! last one was. Loss that counts is that of the round trip: a probe and its echo are lost alike. Which of the two it was shows
//! by how many probes the other end has heard, which each echo says.
//!
//! Packets of frames may say more ([`super::tally`]), as they are many; but what they lose may be their own doing, by queues that
//! run over. So they count only where probes are lost as well, which are few and small and come evenly.

use std::time::Duration;

use crate::time::Time;

/// The loss is taken over 128 probes: of 5 % that is six, and chance makes that two only once in twenty times. Fewer
/// than this are taken as this many: two lost of the first three prove little.
const LOSS_PROBES_MIN: u32 = 64;
/// Less loss than this is none: six lost of 128. Chance makes that of 1 % in each direction now and then; a detour is not worth that.
const LOSS_MIN: f64 = 0.025;
/// So many losses of probes here and there let that of packets of frames count.
const CONFIRMED_BY: f64 = 2.0;
/// How long the worst loss counts on after it was last seen: a path has to stay good before it is good.
const LOSS_HELD: Duration = Duration::from_secs(20);
/// What a probe counts for in the mean is the time since the last one by this, but at most what RFC 6298 §2 has, 1/8.
const MEMORY: Duration = Duration::from_millis(800);
const GAIN_MAX: f64 = 1.0 / 8.0;
const GAIN_MIN: f64 = 1.0 / 64.0;
/// What the difference of two probes counts for in the jitter (RFC 3550 §6.4.1).
const JITTER_GAIN: u32 = 16;
/// What differs by more than so many jitters counts as so many and this: a host that was busy for a moment is no scatter, and a
/// path that has become slower has none. Scatter that lasts is followed all the same, by a fifth with each probe.
const JITTER_STEPS: u32 = 4;
const JITTER_STEP: Duration = Duration::from_millis(1);

/// How good a path is.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Quality {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Mean difference of a round-trip time to the one before it (RFC 3550 §6.4.1), but for what is far off.
    pub jitter: Duration,
    /// Share of round trips that are lost, 0 to 1, as far as it is beyond chance.
    pub loss: f64,
}

/// Share of packets that are lost in each direction, 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Losses {
    /// On the way to the peer.
    pub there: f64,
    /// On the way back.
    pub back: f64,
}

impl Losses {
    /// That of a packet and its answer.
    pub fn round_trip(&self) -> f64 {
        1.0 - (1.0 - self.there) * (1.0 - self.back)
    }
}

/// Estimates of one path.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    smoothed: Option<Duration>,
    deviation: Duration,
    jitter: Duration,
    last: Option<(Duration, Time)>,
    /// Round trips measured so far: of the first few the plain mean is taken, as a single one says little of the next.
    measured: u32,
    /// Probes sent so far; of the latest, the newest in bit 0, which came back or were lost, and which were lost.
    sent: u64,
    known: u128,
    lost: u128,
    /// Which of them are known to have got there.
    arrived: u128,
    /// The newest that was answered, and how many the other end had heard by then.
    heard: Option<(u64, u16)>,
    /// Share of the packets of frames and their answers that is lost.
    of_frames: f64,
    /// The worst loss of late, and when it was last seen.
    worst: Option<(f64, Time)>,
}

impl Estimate {
    /// A probe is sent; returns its number.
    pub fn sent(&mut self) -> u64 {
        self.sent += 1;
        self.known <<= 1;
        self.lost <<= 1;
        self.arrived <<= 1;
        self.sent
    }

    /// The echo of a probe says that so many were heard, that one included; 0 if it does not say.
    pub fn heard(&mut self, number: u64, count: u16) {
        self.arrived |= self.bit(number);
        if count == 0 {
            return;
        }
        let Some((newest, before)) = self.heard.replace((number, count)) else { return };
        let more = count.wrapping_sub(before);
        let is_more = more <= u16::MAX / 2;
        if number < newest {
            // It was overtaken: on the way there if there are more now, else its echo was.
            self.heard = Some((newest, if is_more { count } else { before }));
            return;
        }
        // The other end may have been started anew.
        let mut others = if is_more { more.saturating_sub(1) } else { 0 };
        let mut bit = self.bit(number);
        for _ in 0..u128::BITS {
            bit <<= 1;
            if others > 0 && bit & !self.arrived != 0 {
                self.arrived |= bit;
                others -= 1;
            }
        }
    }

    /// Share of packets of frames and their answers that is lost; 0 while that is not known.
    pub fn of_frames(&mut self, loss: f64, now: Time) {
        self.of_frames = loss;
        self.remember_worst(now);
    }

    /// Takes in a measured round trip (RFC 6298 §2), also of a probe that was held for lost.
    pub fn answered(&mut self, number: u64, rtt: Duration, now: Time) {
        let bit = self.bit(number);
        self.known |= bit;
        self.lost &= !bit;
        self.measured(rtt, now);
        self.remember_worst(now);
    }

    /// Takes in a probe that was not answered in time.
    pub fn lost(&mut self, number: u64, now: Time) {
        let bit = self.bit(number);
        self.known |= bit;
        self.lost |= bit;
        self.remember_worst(now);
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for an answer before a probe counts as late: mean and four deviations (RFC 6298 §2), but no less
    /// than `floor`, since a busy peer may be slow to answer.
    pub fn patience(&self, floor: Duration) -> Duration {
        self.smoothed.map_or(floor, |rtt| (rtt + self.deviation * 4).max(floor))
    }

    /// Share of the latest probes that were lost, 0 to 1.
    pub fn loss(&self) -> f64 {
        match self.known.count_ones() {
            0 => 0.0,
            probes => f64::from(self.lost.count_ones()) / f64::from(probes),
        }
    }

    /// The same for each direction; None while the other end does not say what it hears.
    pub fn losses(&self) -> Option<Losses> {
        self.heard?;
        let share = |lost: u128, of: u128| f64::from(lost.count_ones()) / f64::from(of.count_ones().max(1));
        let there = self.lost & !self.arrived;
        Some(Losses { there: share(there, self.known), back: share(self.lost & self.arrived, self.known & !there) })
    }

    /// What counts for the cost; None before the first answer.
    pub fn quality(&self, now: Time) -> Option<Quality> {
        let held = self.worst.filter(|(_, at)| now.since(*at) < LOSS_HELD).map_or(0.0, |(loss, _)| loss);
        Some(Quality { rtt: self.smoothed?, jitter: self.jitter, loss: held.max(self.sure_loss()) })
    }

    /// Whether loss counts: it is to be watched closely.
    pub fn is_lossy(&self, now: Time) -> bool {
        self.quality(now).is_some_and(|quality| quality.loss > 0.0)
    }

    fn measured(&mut self, rtt: Duration, now: Time) {
        let Some((smoothed, (last, at))) = self.smoothed.zip(self.last.replace((rtt, now))) else {
            self.smoothed = Some(rtt);
            self.deviation = rtt / 2;
            return;
        };
        self.measured = self.measured.saturating_add(1);
        let gain = (now.since(at).as_secs_f64() / MEMORY.as_secs_f64()).clamp(GAIN_MIN, GAIN_MAX);
        let gain = gain.max(1.0 / f64::from(self.measured + 1));
        let towards = |from: Duration, to: Duration, gain: f64| from.mul_f64(1.0 - gain) + to.mul_f64(gain);
        self.deviation = towards(self.deviation, smoothed.abs_diff(rtt), (2.0 * gain).min(2.0 * GAIN_MAX));
        self.smoothed = Some(towards(smoothed, rtt, gain));
        let memory = self.measured.min(JITTER_GAIN);
        let most = if memory < JITTER_GAIN { Duration::MAX } else { self.jitter * JITTER_STEPS + JITTER_STEP };
        self.jitter = (self.jitter * (memory - 1) + last.abs_diff(rtt).min(most)) / memory;
    }

    /// The bit of a probe; none if it is too long ago.
    fn bit(&self, number: u64) -> u128 {
        let ago = u32::try_from(self.sent.saturating_sub(number)).unwrap_or(u32::MAX);
        1_u128.checked_shl(ago).unwrap_or(0)
    }

    fn remember_worst(&mut self, now: Time) {
        let loss = self.sure_loss();
        self.worst = match self.worst.filter(|(_, at)| now.since(*at) < LOSS_HELD) {
            Some((worst, _)) if loss * 2.0 >= worst => Some((worst.max(loss), now)),
            Some(worst) => Some(worst),
            None => (loss > 0.0).then_some((loss, now)),
        };
    }

    /// Loss beyond chance: probes lost in a row are one event (RFC 5348 §5.2), and of the events one standard deviation is taken off
    /// (Poisson's: their square root), so that a single one is none.
    fn sure_loss(&self) -> f64 {
        let events = f64::from((self.lost & !(self.lost << 1)).count_ones());
        let mut loss = (events - events.sqrt()) / f64::from(self.known.count_ones().max(LOSS_PROBES_MIN));
        if events >= CONFIRMED_BY {
            loss = loss.max(self.of_frames);
        }
        if loss < LOSS_MIN { 0.0 } else { loss }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An estimate and its clock.
    #[derive(Default)]
    struct Bench(Estimate, Time);

    impl Bench {
        fn answer(&mut self, count: u32, interval: Duration, rtt: impl Fn(u32) -> u64) {
            for probe in 0..count {
                self.1 = self.1 + interval;
                let number = self.0.sent();
                self.0.answered(number, Duration::from_millis(rtt(probe)), self.1);
            }
        }

        /// Every so manieth is lost.
        fn lose(&mut self, count: u32, interval: Duration, every: u32) {
            for probe in 0..count {
                self.1 = self.1 + interval;
                let number = self.0.sent();
                match probe % every {
                    0 => self.0.lost(number, self.1),
                    _ => self.0.answered(number, Duration::from_millis(1), self.1),
                }
            }
        }

        fn loss(&self) -> f64 {
            self.0.quality(self.1).map_or(0.0, |quality| quality.loss)
        }
    }

    const SLOW: Duration = Duration::from_millis(500);
    const QUICK: Duration = Duration::from_millis(50);

    #[test]
    fn the_mean_follows_and_the_deviation_widens_patience() {
        let mut bench = Bench::default();
        let floor = Duration::from_millis(1);
        assert_eq!((bench.0.rtt(), bench.0.patience(floor)), (None, floor));
        bench.answer(1, SLOW, |_| 100);
        assert_eq!(bench.0.rtt(), Some(Duration::from_millis(100)));
        assert_eq!(bench.0.patience(floor), Duration::from_millis(300));
        bench.answer(200, SLOW, |_| 10);
        let rtt = bench.0.rtt().unwrap();
        assert!(rtt < Duration::from_millis(11), "{rtt:?}");
        assert!(bench.0.patience(floor) < Duration::from_millis(12));
    }

    #[test]
    fn a_busy_path_is_followed_in_a_second_and_an_idle_one_in_a_few() {
        for (interval, probes) in [(QUICK, 20), (SLOW, 9)] {
            let mut bench = Bench::default();
            bench.answer(100, interval, |_| 20);
            bench.answer(probes, interval, |_| 120);
            let rtt = bench.0.rtt().unwrap();
            assert!(rtt > Duration::from_millis(85), "{rtt:?} at one each {interval:?}");
        }
    }

    #[test]
    fn jitter_is_what_one_round_trip_differs_from_the_last() {
        let mut bench = Bench::default();
        bench.answer(200, SLOW, |probe| 20 + 8 * u64::from(probe % 2));
        let jitter = bench.0.quality(bench.1).unwrap().jitter;
        assert!(jitter.abs_diff(Duration::from_millis(8)) < Duration::from_micros(10), "{jitter:?}");
    }

    #[test]
    fn a_step_or_one_that_is_far_off_is_no_jitter_and_scatter_that_lasts_is() {
        let mut bench = Bench::default();
        let jitter = |bench: &Bench| bench.0.quality(bench.1).unwrap().jitter;
        bench.answer(200, QUICK, |probe| 1 + u64::from(probe % 2));
        bench.answer(1, QUICK, |_| 300);
        assert!(jitter(&bench) < Duration::from_millis(2), "{:?}", jitter(&bench));
        bench.answer(20, QUICK, |_| 101);
        assert!(jitter(&bench) < Duration::from_millis(1), "{:?}", jitter(&bench));
        bench.answer(40, QUICK, |probe| 80 + 40 * u64::from(probe % 2));
        assert!(jitter(&bench) > Duration::from_millis(30), "{:?}", jitter(&bench));
    }

    #[test]
    fn a_probe_lost_or_many_in_a_row_are_no_loss_and_some_here_and_there_are() {
        let mut bench = Bench::default();
        bench.answer(200, QUICK, |_| 1);
        bench.lose(1, QUICK, 1);
        bench.lose(8, QUICK, 1);
        assert!(bench.loss() < 1e-9 && bench.0.loss() > 0.05, "{}", bench.loss());
        bench.answer(200, QUICK, |_| 1);
        bench.lose(200, QUICK, 20);
        assert!((0.025..0.05).contains(&bench.loss()), "{}", bench.loss());
        assert!((0.04..0.06).contains(&bench.0.loss()), "{}", bench.0.loss());
    }

    #[test]
    fn which_way_probes_are_lost_is_told_apart() {
        for (lost_there, lost_back) in [(10, 0), (0, 10), (10, 7)] {
            let mut bench = Bench::default();
            assert_eq!(bench.0.losses(), None);
            let (mut heard, mut waiting) = (u16::MAX - 50, Vec::new());
            for probe in 1..=400_u32 {
                bench.1 = bench.1 + QUICK;
                let number = bench.0.sent();
                let is_lost = |every: u32| every > 0 && probe.is_multiple_of(every);
                if is_lost(lost_there) {
                    waiting.push(number);
                    continue;
                }
                heard = heard.wrapping_add(1).max(1);
                if is_lost(lost_back) {
                    waiting.push(number);
                    continue;
                }
                bench.0.heard(number, heard);
                bench.0.answered(number, Duration::from_millis(1), bench.1);
                waiting.drain(..).for_each(|number| bench.0.lost(number, bench.1));
            }
            let losses = bench.0.losses().unwrap();
            let is_near =
                |share: f64, every: u32| (share - if every > 0 { 1.0 / f64::from(every) } else { 0.0 }).abs() < 0.02;
            assert!(is_near(losses.there, lost_there) && is_near(losses.back, lost_back), "{losses:?}");
            assert!((losses.round_trip() - bench.0.loss()).abs() < 0.01, "{losses:?} {}", bench.0.loss());
        }
    }

    #[test]
    fn probes_that_overtake_each_other_are_lost_neither_way() {
        let mut bench = Bench::default();
        for round in 0..60_u16 {
            let numbers = [bench.0.sent(), bench.0.sent(), bench.0.sent()];
            let heard = 3 * round;
            // The second arrives first; the echo of the third comes before the others.
            for (number, count) in [(numbers[2], heard + 3), (numbers[1], heard + 1), (numbers[0], heard + 2)] {
                bench.0.heard(number, count);
                bench.0.answered(number, QUICK, bench.1);
            }
        }
        assert_eq!(bench.0.losses(), Some(Losses::default()));
        // The other end was started anew, and one is lost on the way there.
        let lost = bench.0.sent();
        let number = bench.0.sent();
        bench.0.heard(number, 1);
        bench.0.lost(lost, bench.1);
        let losses = bench.0.losses().unwrap();
        assert!(losses.there > 0.0 && losses.back < 1e-9, "{losses:?}");
    }

    #[test]
    fn what_only_packets_of_frames_lose_is_their_own_doing_and_with_probes_it_counts() {
        let mut bench = Bench::default();
        bench.answer(200, QUICK, |_| 1);
        bench.0.of_frames(0.3, bench.1);
        bench.lose(1, QUICK, 1);
        assert!(bench.loss() < 1e-9, "{}", bench.loss());
        bench.answer(5, QUICK, |_| 1);
        bench.0.of_frames(0.05, bench.1);
        bench.lose(1, QUICK, 1);
        assert!((bench.loss() - 0.05).abs() < 1e-9, "{}", bench.loss());
        bench.0.of_frames(0.0, bench.1);
        bench.1 = bench.1 + LOSS_HELD;
        assert!(bench.loss() < 1e-9, "{}", bench.loss());
    }

    #[test]
    fn loss_that_ended_counts_for_a_while() {
        let mut bench = Bench::default();
        bench.lose(400, QUICK, 10);
        assert!(bench.0.is_lossy(bench.1));
        bench.answer(300, QUICK, |_| 1);
        assert!(bench.0.is_lossy(bench.1), "15 s later");
        bench.answer(300, QUICK, |_| 1);
        assert!(!bench.0.is_lossy(bench.1), "30 s later");
    }

    #[test]
    fn what_comes_late_was_not_lost_and_what_was_lost_in_a_row_is_one_event_however_it_became_known() {
        let mut bench = Bench::default();
        let numbers: Vec<u64> = (0..20).map(|_| bench.0.sent()).collect();
        // Those sent later are answered before the first are given up.
        numbers[10..].iter().for_each(|number| bench.0.answered(*number, QUICK, bench.1));
        numbers[..10].iter().for_each(|number| bench.0.lost(*number, bench.1));
        assert!(bench.loss() < 1e-9 && bench.0.loss() > 0.49);
        numbers[..10].iter().for_each(|number| bench.0.answered(*number, QUICK, bench.1));
        assert!(bench.0.loss() < 1e-9);
    }
}
