//! What the time of an answer says about the time of reading.
//!
//! The provider read a call before it answered it. Where answers come after a steady time, one that comes later shows
//! that its call was, or may have been, read later too: the receiver stalled, or our own machine did. Such a call must
//! count for longer than the margin says, since a window of the provider that begins with it holds more of what
//! follows. Where answers take now 150 ms and now 400, their time says nothing about the reading, and heeding it would
//! cost a part of the permit for nothing: so it is heeded only while that costs less than half a percent.

use std::time::Duration;

use tokio::time::Instant;

/// The answers of the last one to two such times decide what the usual time of an answer is.
const FLOOR_AGE: Duration = Duration::from_secs(10);
/// No call is taken to be read later than this.
const LATE_MAX: Duration = Duration::from_millis(250);
/// The mean lateness that is heeded: as much longer does a call count on average, of about 1,000 ms.
const MEAN_MAX_S: f64 = 0.005;
/// The weight of one answer in the mean, once there have been so many.
const WEIGHT_MIN: f64 = 1.0 / 4096.0;
/// The shortest answer had its own way out and back; others may have a shorter way back.
const FLOOR_ERROR: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
pub(super) struct Lateness {
    margin: Duration,
    /// The shortest answers of this period and of the one before.
    floors: [Duration; 2],
    period_began: Instant,
    answers: u32,
    mean_s: f64,
}

impl Lateness {
    /// `margin` is the lateness that is allowed for anyway. It begins as if two seconds of answers in time had been seen,
    /// so that one early stall is not taken for the rule.
    pub(super) fn new(margin: Duration, permit_per_s: u32, now: Instant) -> Self {
        let answers = permit_per_s.saturating_mul(2);
        Self { margin, floors: [Duration::MAX; 2], period_began: now, answers, mean_s: 0.0 }
    }

    /// An answer came `latency` after its call had left. By how much later than usual the call may have been read, if
    /// that is more than the margin and worth heeding.
    pub(super) fn of_answer(&mut self, latency: Duration, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.period_began) >= FLOOR_AGE {
            self.floors = [Duration::MAX, self.floors[0]];
            self.period_began = now;
        }
        self.floors[0] = self.floors[0].min(latency);
        let late = (latency - self.floors[0].min(self.floors[1]) + FLOOR_ERROR).min(LATE_MAX);
        let beyond = late.saturating_sub(self.margin);
        self.answers = self.answers.saturating_add(1);
        self.mean_s += (beyond.as_secs_f64() - self.mean_s) * WEIGHT_MIN.max(1.0 / f64::from(self.answers));
        (!beyond.is_zero() && self.mean_s <= MEAN_MAX_S).then_some(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_answer_later_than_usual_shows_that_its_call_was_read_late() {
        let now = Instant::now();
        let mut lateness = Lateness::new(MS * 12, 80, now);
        for _ in 0..100 {
            assert_eq!(lateness.of_answer(MS * 200, now), None);
        }
        assert_eq!(lateness.of_answer(MS * 211, now), None, "the margin allows for it");
        assert_eq!(lateness.of_answer(MS * 250, now), Some(MS * 51));
        assert_eq!(lateness.of_answer(MS * 5000, now), Some(LATE_MAX));
    }

    #[test]
    fn where_answers_take_any_time_they_are_not_heeded() {
        let now = Instant::now();
        let mut lateness = Lateness::new(MS * 12, 80, now);
        let heeded = (0..10_000u32).filter(|n| lateness.of_answer(MS * (150 + n % 250), now).is_some()).count();
        assert!(heeded < 300, "{heeded} answers were heeded");
    }

    #[test]
    fn a_provider_that_becomes_slower_is_usual_after_a_while() {
        let start = Instant::now();
        let mut lateness = Lateness::new(MS * 12, 80, start);
        lateness.of_answer(MS, start);
        let at = |s: u32| start + Duration::from_secs(1) * s;
        assert!(lateness.of_answer(MS * 100, at(1)).is_some());
        lateness.of_answer(MS * 100, at(11));
        assert_eq!(lateness.of_answer(MS * 100, at(21)), None);
    }
}
