//! How many calls have to be under way at once for a rate to be reached: the rate times the time that a call takes
//! (Little's law), with room for calls that take longer than usual.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The weight of one call in the estimate.
const WEIGHT: f64 = 1.0 / 64.0;
/// What is assumed before the first answer: Meta's usual time.
const FIRST_GUESS: Duration = Duration::from_millis(500);
/// What is asked of the provider is not to be limited by an estimate that is a little short.
const HEAD_ROOM: f64 = 1.5;

/// Calls that may be under way at once so that `permit_per_s` is reached with calls that take `latency`, within `bounds`.
pub fn concurrency(permit_per_s: u32, latency: Duration, bounds: &RangeInclusive<usize>) -> usize {
    let under_way = f64::from(permit_per_s) * latency.as_secs_f64() * HEAD_ROOM;
    // The upper bound comes first, so that no number is too large for the cast.
    let most = u32::try_from(*bounds.end()).unwrap_or(u32::MAX);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the bound, which fits")]
    let wanted = under_way.ceil().clamp(0.0, f64::from(most)) as usize;
    wanted.max(*bounds.start()).max(1)
}

/// How long calls take: a mean that forgets, and how far calls lie from it.
#[derive(Debug, Clone)]
pub struct LatencyEstimate {
    mean_s: f64,
    deviation_s: f64,
    calls: u32,
}

impl Default for LatencyEstimate {
    fn default() -> Self {
        Self { mean_s: FIRST_GUESS.as_secs_f64(), deviation_s: 0.0, calls: 0 }
    }
}

impl LatencyEstimate {
    /// A call took `latency`, whatever its answer was.
    pub fn observe(&mut self, latency: Duration) {
        let latency = latency.as_secs_f64();
        self.calls = self.calls.saturating_add(1);
        // The first calls count as an ordinary mean: the guess is forgotten with the first.
        let weight = WEIGHT.max(1.0 / f64::from(self.calls));
        let error = latency - self.mean_s;
        self.mean_s += error * weight;
        if self.calls > 1 {
            self.deviation_s += (error.abs() - self.deviation_s) * weight;
        }
    }

    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.mean_s.max(0.0))
    }

    /// A time that few calls exceed: the mean and twice the mean deviation.
    pub fn high(&self) -> Duration {
        Duration::from_secs_f64((self.mean_s + 2.0 * self.deviation_s).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_rate_is_reached_and_the_bounds_hold() {
        let bounds = 8..=1000;
        assert_eq!(concurrency(80, MS * 400, &bounds), 48);
        assert_eq!(concurrency(1000, MS * 200, &bounds), 300);
        assert_eq!(concurrency(1000, MS * 5000, &bounds), 1000);
        assert_eq!(concurrency(1000, Duration::MAX, &bounds), 1000);
        assert_eq!(concurrency(1, MS, &bounds), 8);
        assert_eq!(concurrency(0, MS, &(0..=0)), 1, "none would be for ever");
    }

    #[test]
    fn the_estimate_begins_with_the_guess_and_follows_the_calls() {
        let mut estimate = LatencyEstimate::default();
        assert_eq!((estimate.mean(), estimate.high()), (FIRST_GUESS, FIRST_GUESS));
        estimate.observe(MS * 2);
        assert!(estimate.mean() < MS * 3, "{:?}", estimate.mean());
        for n in 0..1000 {
            estimate.observe(MS * (150 + n % 101));
        }
        assert!((MS * 180..MS * 220).contains(&estimate.mean()), "{:?}", estimate.mean());
        assert!((MS * 230..MS * 280).contains(&estimate.high()), "{:?}", estimate.high());
        for _ in 0..500 {
            estimate.observe(MS * 20);
        }
        assert!(estimate.high() < MS * 25, "{:?}", estimate.high());
    }
}
