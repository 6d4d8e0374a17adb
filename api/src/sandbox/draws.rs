//! Chance that repeats: what is drawn for a call follows from the seed, the recipient, and how many calls to that
//! recipient came before, and from nothing else. So one seed gives the same calls the same faults in whatever order
//! callers in parallel make them.

use std::time::Duration;

/// The 99th hundredth of the normal distribution lies so many deviations above its middle.
const DEVIATIONS_AT_P99: f64 = 2.326_348;
/// 2 to the power of 53: so many numbers from 0 to 1 have the same distance.
const STEPS: f64 = 9_007_199_254_740_992.0;

/// The draws of one call, or of one webhook body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Draws(u64);

impl Draws {
    /// For the `nth` thing of this name.
    pub(super) fn new(seed: u64, name: &str, nth: u64) -> Self {
        let start = mixed(seed ^ mixed(nth));
        Self(name.bytes().fold(start, |state, byte| mixed(state ^ u64::from(byte))))
    }

    /// A number that belongs to this purpose, and to no other.
    pub(super) fn number(self, purpose: u64) -> u64 {
        mixed(self.0 ^ mixed(purpose))
    }

    /// From 0 to just below 1.
    pub(super) fn uniform(self, purpose: u64) -> f64 {
        // Its upper 53 bits, which are what a float of this size can tell apart.
        let high = u32::try_from(self.number(purpose) >> 43).unwrap_or_default();
        let low = u32::try_from(self.number(purpose) >> 11 & 0xffff_ffff).unwrap_or_default();
        (f64::from(high) * 4_294_967_296.0 + f64::from(low)) / STEPS
    }

    /// Log-normal: half of the times are below `median`, and one in a hundred is above `p99`.
    pub(super) fn log_normal(self, purpose: u64, median: Duration, p99: Duration) -> Duration {
        if p99 <= median || median.is_zero() {
            return median;
        }
        let deviation = (p99.as_secs_f64() / median.as_secs_f64()).ln() / DEVIATIONS_AT_P99;
        // Box and Muller's way from two even numbers to a normal one.
        let radius = (-2.0 * (1.0 - self.uniform(purpose)).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.uniform(purpose ^ 0x5bd1)).cos();
        median.mul_f64((deviation * normal).exp())
    }

    /// Brings the items into an order of their own.
    pub(super) fn shuffle<T>(self, purpose: u64, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let bound = u64::try_from(end + 1).unwrap_or(u64::MAX);
            let chosen = Self(self.number(purpose)).number(bound) % bound;
            items.swap(end, usize::try_from(chosen).unwrap_or_default());
        }
    }
}

/// SplitMix64's last step: every bit of the result depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_and_differ_by_seed_name_count_and_purpose() {
        let draw = |seed, name, nth, purpose| Draws::new(seed, name, nth).number(purpose);
        assert_eq!(draw(1, "91", 0, 0), draw(1, "91", 0, 0));
        let others = [draw(2, "91", 0, 0), draw(1, "92", 0, 0), draw(1, "91", 1, 0), draw(1, "91", 0, 1)];
        assert!(others.iter().all(|other| *other != draw(1, "91", 0, 0)), "{others:?}");
    }

    #[test]
    fn shares_come_out_as_they_are_asked_for() {
        let hits = (0..10_000u64).filter(|nth| Draws::new(7, "91", *nth).uniform(3) < 0.2).count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
    }

    #[test]
    fn times_have_the_median_and_the_p99_that_are_asked_for() {
        let (median, p99) = (Duration::from_millis(300), Duration::from_secs(2));
        let mut times: Vec<_> =
            (0..10_000u64).map(|nth| Draws::new(7, "", nth).log_normal(0, median, p99).as_millis()).collect();
        times.sort_unstable();
        assert!((285..315).contains(&times[5_000]), "{}", times[5_000]);
        assert!((1_700..2_300).contains(&times[9_900]), "{}", times[9_900]);
        assert_eq!(Draws::new(7, "", 1).log_normal(0, median, Duration::ZERO), median);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let orders: std::collections::BTreeSet<_> = (0..50u64)
            .map(|nth| {
                let mut items = [1, 2, 3];
                Draws::new(7, "", nth).shuffle(0, &mut items);
                items
            })
            .collect();
        assert_eq!(orders.len(), 6, "every order comes: {orders:?}");
    }
}
