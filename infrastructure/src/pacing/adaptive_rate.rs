//! The rate that a number may use at present: what is set for it, or less while the provider refuses calls for it.
//!
//! A refusal for throughput (130429) halves the rate. The answers of one overload come together, so the rate is halved
//! again only for a call that left under the lowered rate, and at most once in a second. It rises by steps while no
//! refusal comes, and never above the setting. Pure: the caller says when things happen.

use std::time::Duration;

use tokio::time::Instant;

use super::PacingConfig;

/// Not halved again within this.
const LOWERED_FOR_MIN: Duration = Duration::from_secs(1);
/// The rate is never lowered below this part of the setting, nor below one call a second.
const FLOOR_PERCENT: u32 = 5;

#[derive(Debug, Clone)]
pub struct AdaptiveRate {
    config: PacingConfig,
    setting: u32,
    lowered: Option<Lowered>,
}

#[derive(Debug, Clone, Copy)]
struct Lowered {
    to: u32,
    at: Instant,
    /// The last refusal: the rate rises from then on.
    refused_at: Instant,
}

impl AdaptiveRate {
    pub fn new(config: PacingConfig, setting_per_s: u32) -> Self {
        Self { config, setting: setting_per_s.max(1), lowered: None }
    }

    /// Calls a second at `now`.
    pub fn per_second(&self, now: Instant) -> u32 {
        let Some(lowered) = self.lowered else { return self.setting };
        let quiet = now.saturating_duration_since(lowered.refused_at);
        let steps = quiet.as_nanos() / self.config.recovery_interval.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let step = percent(self.setting, self.config.recovery_step_percent);
        lowered.to.saturating_add(steps.saturating_mul(step)).min(self.setting)
    }

    /// Somebody changed the setting: it holds at once, whatever was refused before it. A value that is no change
    /// changes nothing.
    pub fn set(&mut self, setting_per_s: u32) {
        let setting = setting_per_s.max(1);
        if setting != self.setting {
            self.setting = setting;
            self.lowered = None;
        }
    }

    /// The provider refused, for throughput, a call that had left at `departed_at`. `true`: the rate is lower now.
    pub fn refused(&mut self, departed_at: Instant, now: Instant) -> bool {
        let before = self.per_second(now);
        if let Some(lowered) = &mut self.lowered {
            let of_earlier_rate = departed_at <= lowered.at;
            if of_earlier_rate || now.saturating_duration_since(lowered.at) < LOWERED_FOR_MIN {
                // The rise begins anew, from what has been reached.
                (lowered.to, lowered.refused_at) = (before, now);
                return false;
            }
        }
        let to = (before / 2).max(percent(self.setting, FLOOR_PERCENT));
        self.lowered = Some(Lowered { to, at: now, refused_at: now });
        to < before
    }
}

/// Rounded down, but at least one.
fn percent(of: u32, percent: u32) -> u32 {
    let part = u64::from(of) * u64::from(percent) / 100;
    u32::try_from(part).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_refusal_halves_the_rate_and_quiet_time_brings_it_back() {
        let start = Instant::now();
        let mut rate = AdaptiveRate::new(PacingConfig::default(), 80);
        assert!(rate.refused(start, start));
        let after = |s: u32| rate.per_second(start + S * s);
        assert_eq!(
            [after(0), after(4), after(5), after(10), after(49), after(50), after(3600)],
            [40, 40, 44, 48, 76, 80, 80]
        );
    }

    #[test]
    fn the_refusals_of_one_overload_halve_the_rate_once() {
        let start = Instant::now();
        let mut rate = AdaptiveRate::new(PacingConfig::default(), 80);
        for n in 0..40 {
            assert_eq!(rate.refused(start, start + MS * n), n == 0);
        }
        assert!(!rate.refused(start + MS * 50, start + MS * 999));
        assert_eq!(rate.per_second(start + S), 40);
        // An answer that took long belongs to a call of the time before, whenever it comes.
        assert!(!rate.refused(start, start + S * 3));
        assert_eq!(rate.per_second(start + S * 7), 40, "the quiet time begins anew");
        assert!(rate.refused(start + MS * 50, start + S * 7), "the lowered rate was too high as well");
        assert_eq!(rate.per_second(start + S * 7), 20);
    }

    #[test]
    fn the_rate_is_never_lower_than_its_floor() {
        for (setting, floor) in [(1, 1), (2, 1), (19, 1), (80, 4), (1000, 50)] {
            let mut now = Instant::now();
            let mut rate = AdaptiveRate::new(PacingConfig::default(), setting);
            for _ in 0..20 {
                now += S * 2;
                rate.refused(now - MS, now);
            }
            assert_eq!(rate.per_second(now), floor, "of {setting}");
        }
    }

    #[test]
    fn a_refusal_while_the_rate_rises_starts_from_what_it_has_reached() {
        let start = Instant::now();
        let mut rate = AdaptiveRate::new(PacingConfig::default(), 100);
        rate.refused(start, start);
        assert_eq!(rate.per_second(start + S * 20), 70);
        assert!(rate.refused(start + S * 20, start + S * 20));
        assert_eq!(rate.per_second(start + S * 20), 35);
    }

    #[test]
    fn a_new_setting_holds_at_once_and_the_same_setting_changes_nothing() {
        let start = Instant::now();
        let mut rate = AdaptiveRate::new(PacingConfig::default(), 80);
        rate.refused(start, start);
        rate.set(80);
        assert_eq!(rate.per_second(start), 40);
        rate.set(1000);
        assert_eq!(rate.per_second(start), 1000);
        rate.refused(start, start);
        rate.set(20);
        assert_eq!(rate.per_second(start), 20);
        rate.set(0);
        assert_eq!(rate.per_second(start), 1);
    }
}
