//! How many calls per second: a sliding log of the last N calls, so that no window of one second ever holds more than
//! the permit, wherever it begins.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Added to the second: the provider's clock and the network are not ours.
const MARGIN: Duration = Duration::from_millis(5);

pub(super) struct Pacer {
    rate_per_s: usize,
    /// The times of the last `rate_per_s` slots, oldest first.
    slots: VecDeque<Instant>,
}

impl Pacer {
    /// Slots begin at `from`: a new holder of a sender's lease waits a full window, since it cannot know the last calls
    /// of the holder before.
    pub(super) fn new(rate_per_s: usize, from: Instant) -> Self {
        let mut pacer = Self { rate_per_s: 0, slots: VecDeque::new() };
        pacer.set_rate(rate_per_s, from);
        pacer
    }

    /// Changes the rate from the next slot on. `now` stands for calls that are not remembered.
    pub(super) fn set_rate(&mut self, rate_per_s: usize, now: Instant) {
        let rate_per_s = rate_per_s.max(1);
        if rate_per_s == self.rate_per_s {
            return;
        }
        if self.rate_per_s == 0 {
            // As if the last call had been made a window before `now`.
            self.slots.push_back(now.checked_sub(Duration::from_secs(1) + MARGIN).unwrap_or(now));
        }
        self.rate_per_s = rate_per_s;
        while self.slots.len() > rate_per_s {
            self.slots.pop_front();
        }
    }

    /// How many slots lie before `until`.
    pub(super) fn free_before(&self, now: Instant, until: Instant) -> usize {
        let mut trial = Self { rate_per_s: self.rate_per_s, slots: self.slots.clone() };
        (0..self.rate_per_s).take_while(|_| trial.reserve(now) < until).count()
    }

    /// The time of the next call.
    pub(super) fn reserve(&mut self, now: Instant) -> Instant {
        let window = Duration::from_secs(1) + MARGIN;
        let earliest = if self.slots.len() >= self.rate_per_s {
            self.slots.front().map_or(now, |oldest| *oldest + window)
        } else {
            now
        };
        let slot = earliest.max(now).max(self.slots.back().copied().unwrap_or(now));
        self.slots.push_back(slot);
        while self.slots.len() > self.rate_per_s {
            self.slots.pop_front();
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_than_the_permit() {
        let start = Instant::now();
        let mut pacer = Pacer::new(80, start);
        let slots: Vec<Instant> = (0..400).map(|_| pacer.reserve(start)).collect();
        for pair in slots.windows(81) {
            assert!(pair[80] - pair[0] >= Duration::from_secs(1), "81 calls within a second");
        }
    }

    #[test]
    fn the_permit_is_used_up() {
        let start = Instant::now();
        let mut pacer = Pacer::new(80, start);
        let last = (0..800).map(|_| pacer.reserve(start)).last().expect("800 slots");
        assert!(last - start <= Duration::from_millis(9_100), "{:?} for 800 calls at 80/s", last - start);
    }

    #[test]
    fn a_lower_rate_holds_from_the_next_slot_on() {
        let start = Instant::now();
        let mut pacer = Pacer::new(100, start);
        for _ in 0..100 {
            pacer.reserve(start);
        }
        pacer.set_rate(10, start);
        let slots: Vec<Instant> = (0..20).map(|_| pacer.reserve(start)).collect();
        assert!(slots[10] - slots[0] >= Duration::from_secs(1));
    }

    #[test]
    fn free_slots_are_counted_without_being_taken() {
        let start = Instant::now();
        let mut pacer = Pacer::new(80, start);
        assert_eq!(pacer.free_before(start, start + Duration::from_millis(1)), 80);
        pacer.reserve(start);
        assert_eq!(pacer.free_before(start, start + Duration::from_millis(1)), 79);
    }
}
