//! Even spacing with a bounded allowance for lateness: the generic cell rate algorithm.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone)]
pub(super) struct Spacing {
    interval: Duration,
    /// By so much the calls may lag behind their times and still catch up.
    credit_max: Duration,
    /// No call before this.
    next: Instant,
}

impl Spacing {
    /// The first call is due at `from`, and no credit has been earned by then.
    pub(super) fn new(interval: Duration, credit_max: Duration, from: Instant) -> Self {
        Self { interval, credit_max, next: from }
    }

    pub(super) fn next_at(&self) -> Instant {
        self.next
    }

    /// One call leaves at `at`.
    pub(super) fn take(&mut self, at: Instant) {
        self.next = self.next.max(earlier(at, self.credit_max)) + self.interval;
    }

    /// `count` calls of somebody else took their places, but no more than would fill `max`.
    pub(super) fn cede(&mut self, count: u32, at: Instant, max: Duration) {
        self.next = self.next.max(earlier(at, self.credit_max)) + self.interval.saturating_mul(count).min(max);
    }

    /// A call that had left did not leave after all.
    pub(super) fn give_back(&mut self) {
        self.next = earlier(self.next, self.interval);
    }

    /// From the next call on. What was due far ahead at a slower pace is due one new interval from `now` at most.
    pub(super) fn set_interval(&mut self, interval: Duration, now: Instant) {
        self.interval = interval;
        self.next = self.next.min(now + interval);
    }

    /// Nothing leaves before `until`, and the time until then earns no credit.
    pub(super) fn hold(&mut self, until: Instant) {
        self.next = self.next.max(until);
    }

    /// How many calls are due from `now` until `until`, both included.
    pub(super) fn due_until(&self, now: Instant, until: Instant) -> usize {
        let first = self.next.max(earlier(now, self.credit_max));
        let Some(time) = until.checked_duration_since(first) else { return 0 };
        usize::try_from(time.as_nanos() / self.interval.as_nanos().max(1) + 1).unwrap_or(usize::MAX)
    }
}

pub(super) fn earlier(at: Instant, by: Duration) -> Instant {
    at.checked_sub(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The times, in milliseconds from the start, of calls that leave as soon as they may after `ready_ms`.
    fn leave(spacing: &mut Spacing, start: Instant, ready_ms: &[u32]) -> Vec<u128> {
        ready_ms
            .iter()
            .map(|ready| {
                let at = spacing.next_at().max(start + MS * *ready);
                spacing.take(at);
                (at - start).as_millis()
            })
            .collect()
    }

    #[test]
    fn calls_are_evenly_spaced_from_the_first_on() {
        let start = Instant::now();
        let mut spacing = Spacing::new(MS * 10, MS * 25, start);
        assert_eq!(leave(&mut spacing, start, &[0; 4]), [0, 10, 20, 30]);
    }

    #[test]
    fn lateness_is_caught_up_with_as_far_as_the_credit_goes() {
        let start = Instant::now();
        let mut spacing = Spacing::new(MS * 10, MS * 25, start);
        assert_eq!(leave(&mut spacing, start, &[0, 32, 32, 32, 32]), [0, 32, 32, 32, 40]);
        assert_eq!(leave(&mut spacing, start, &[100, 100, 100, 100, 100]), [100, 100, 100, 105, 115]);
    }

    #[test]
    fn a_place_given_back_is_taken_by_the_next_call() {
        let start = Instant::now();
        let mut spacing = Spacing::new(MS * 10, Duration::ZERO, start);
        spacing.take(start);
        spacing.give_back();
        assert_eq!(leave(&mut spacing, start, &[0, 0]), [0, 10]);
    }

    #[test]
    fn a_faster_pace_does_not_wait_out_the_slow_interval() {
        let start = Instant::now();
        let mut spacing = Spacing::new(MS * 1000, Duration::ZERO, start);
        spacing.take(start);
        spacing.set_interval(MS * 10, start + MS);
        assert_eq!(leave(&mut spacing, start, &[1, 1]), [11, 21]);
    }

    #[test]
    fn calls_due_are_counted_as_they_would_leave() {
        let start = Instant::now();
        let mut spacing = Spacing::new(MS * 10, MS * 25, start);
        assert_eq!(spacing.due_until(start, start + MS * 30), 4);
        assert_eq!(spacing.due_until(start, start + MS * 29), 3);
        spacing.take(start);
        assert_eq!(spacing.due_until(start, start + MS * 9), 0);
        assert_eq!(spacing.due_until(start + MS * 100, start + MS * 100), 3);
    }
}
