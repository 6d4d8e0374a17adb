//! The provider's limits, as a judge of the engine's pacing: calls and inbound messages of one number in any second,
//! and messages to one recipient.
//!
//! It counts by the time at which a call's body had been read, and knows nothing of how the engine counts. Without
//! limits it refuses nothing and still tells the worst second. Everything is in memory: a restart forgets it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::graph_error::GraphError;
use super::ledger::fingerprint;
use super::settings::LimitSettings;

const SECOND: Duration = Duration::from_secs(1);
/// Calls may be decided in another order than they were read, by less than this.
const DISORDER_MAX: Duration = Duration::from_millis(200);
/// One message to a recipient in this time; a burst borrows from the times to come.
const PAIR_INTERVAL: Duration = Duration::from_secs(6);
/// So many recipients are remembered before those who owe nothing are looked for.
const PAIRS_KEPT_MIN: usize = 4096;

/// What `GET /_ledger` shows of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct LimitCounts {
    /// Calls refused with 130429 since the start.
    pub(super) refused_rate: u64,
    /// Calls refused with 131056 since the start.
    pub(super) refused_pair: u64,
    /// The most accepted calls of one number in any 1,000 ms since the start.
    pub(super) worst_second: usize,
}

#[derive(Default)]
pub(super) struct Limits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    numbers: HashMap<String, Number>,
    pairs: Pairs,
    counts: LimitCounts,
}

/// What one number did in about the last second.
#[derive(Default)]
struct Number {
    calls: Times,
    inbound: Times,
}

impl Limits {
    /// Counts a call that was read at `read_at`, or refuses it. A call that fails afterwards was load all the same.
    pub(super) fn admit(
        &self,
        settings: &LimitSettings,
        phone_number_id: &str,
        wa_id: &str,
        read_at: Instant,
    ) -> Result<(), GraphError> {
        let refused = |error: GraphError| error.with_status(Some(settings.http_status)).advising(settings.advice());
        let mut guard = self.state();
        let state = &mut *guard;
        let number = number_of(&mut state.numbers, phone_number_id);
        let load = number.calls.in_second_until(read_at) + number.inbound.in_second_until(read_at);
        if settings.rate_per_s > 0 && load >= settings.rate_per_s {
            state.counts.refused_rate += 1;
            return Err(refused(GraphError::rate_limit()));
        }
        if settings.pair_burst > 0
            && !state.pairs.take(fingerprint(&format!("{phone_number_id} {wa_id}")), settings.pair_burst, read_at)
        {
            state.counts.refused_pair += 1;
            return Err(refused(GraphError::pair_limit()));
        }
        let worst = number.calls.insert(read_at);
        state.counts.worst_second = state.counts.worst_second.max(worst);
        Ok(())
    }

    /// Counts messages that reached the number.
    pub(super) fn inbound(&self, phone_number_id: &str, count: usize, at: Instant) {
        let mut state = self.state();
        let number = number_of(&mut state.numbers, phone_number_id);
        for _ in 0..count {
            number.inbound.insert(at);
        }
    }

    pub(super) fn counts(&self) -> LimitCounts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number_of<'a>(numbers: &'a mut HashMap<String, Number>, phone_number_id: &str) -> &'a mut Number {
    // Not the map's own entry: it would need a string for a number that is known.
    if !numbers.contains_key(phone_number_id) {
        numbers.insert(phone_number_id.to_owned(), Number::default());
    }
    numbers.get_mut(phone_number_id).expect("it was inserted if it was missing")
}

/// Times in their order, of about the last second.
#[derive(Default)]
struct Times(VecDeque<Instant>);

impl Times {
    /// How many lie in the second that ends with `at`, the moment a second before it not included.
    fn in_second_until(&self, at: Instant) -> usize {
        let until = self.0.partition_point(|time| *time <= at);
        until - self.0.partition_point(|time| at.saturating_duration_since(*time) >= SECOND)
    }

    /// Returns the most that lie in any second with `at` in it.
    fn insert(&mut self, at: Instant) -> usize {
        let place = self.0.partition_point(|time| *time <= at);
        self.0.insert(place, at);
        let following = self.0.range(place..).take_while(|time| time.duration_since(at) < SECOND);
        let most = following.map(|time| self.in_second_until(*time)).max().unwrap_or_default();
        if let Some(newest) = self.0.back().copied() {
            while self.0.front().is_some_and(|oldest| newest.duration_since(*oldest) >= SECOND + DISORDER_MAX) {
                self.0.pop_front();
            }
        }
        most
    }
}

/// Recipients that owe time.
#[derive(Default)]
struct Pairs {
    /// When the burst began and how many messages it had.
    bursts: HashMap<u128, (Instant, u32)>,
    look_at: usize,
}

impl Pairs {
    /// One message more, if the recipient may get it: the first one, and up to `burst` within an interval of the first;
    /// then none until an interval has passed for each.
    fn take(&mut self, pair: u128, burst: u32, at: Instant) -> bool {
        if self.bursts.len() >= self.look_at {
            self.bursts.retain(|_, (began, messages)| at < *began + PAIR_INTERVAL * *messages);
            self.look_at = PAIRS_KEPT_MIN.max(self.bursts.len() * 2);
        }
        let (began, messages) = self.bursts.entry(pair).or_insert((at, 0));
        if at >= *began + PAIR_INTERVAL * *messages {
            (*began, *messages) = (at, 0);
        }
        let permitted = *messages < burst && at < *began + PAIR_INTERVAL;
        *messages += u32::from(permitted);
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn settings(rate_per_s: usize, pair_burst: u32) -> LimitSettings {
        LimitSettings { rate_per_s, pair_burst, ..LimitSettings::default() }
    }

    fn code(verdict: Result<(), GraphError>) -> Option<u32> {
        verdict.err().map(|error| error.code)
    }

    #[test]
    fn no_second_holds_more_calls_of_a_number_than_the_limit() {
        let start = Instant::now();
        let (limits, rules) = (Limits::default(), settings(3, 0));
        let admit = |ms: u32| code(limits.admit(&rules, "1055", "919812345600", start + MS * ms));
        assert_eq!(
            [0, 400, 900, 999, 1000, 1399, 1400].map(admit),
            [None, None, None, Some(130_429), None, Some(130_429), None]
        );
        assert_eq!(code(limits.admit(&rules, "1056", "919812345600", start + MS * 1400)), None, "another number");
        assert_eq!(limits.counts(), LimitCounts { refused_rate: 2, refused_pair: 0, worst_second: 3 });
    }

    #[test]
    fn inbound_messages_use_the_limit_up_and_are_no_calls() {
        let start = Instant::now();
        let (limits, rules) = (Limits::default(), settings(3, 0));
        limits.inbound("1055", 2, start);
        assert_eq!(code(limits.admit(&rules, "1055", "1", start + MS)), None);
        assert_eq!(code(limits.admit(&rules, "1055", "1", start + MS * 2)), Some(130_429));
        assert_eq!(limits.counts().worst_second, 1);
    }

    #[test]
    fn the_worst_second_is_found_wherever_it_begins_and_in_whatever_order_calls_are_decided() {
        let start = Instant::now();
        let (limits, rules) = (Limits::default(), settings(0, 0));
        for ms in [0, 700, 1100, 1650, 1690, 1050, 1699, 1701, 5000] {
            assert_eq!(code(limits.admit(&rules, "1055", "1", start + MS * ms)), None);
        }
        // From 700 until just before 1,700, and from 701 until 1,701.
        assert_eq!(limits.counts().worst_second, 6);
    }

    #[test]
    fn times_are_forgotten() {
        let start = Instant::now();
        let mut times = Times::default();
        for ms in 0..10_000 {
            times.insert(start + MS * ms);
        }
        assert_eq!(times.0.len(), 1200);
        assert_eq!(times.in_second_until(start + MS * 9_999), 1000);
    }

    #[test]
    fn a_burst_to_a_recipient_is_followed_by_silence() {
        let start = Instant::now();
        let (limits, rules) = (Limits::default(), settings(0, 45));
        let admit = |s: u32| code(limits.admit(&rules, "1055", "919812345600", start + Duration::from_secs(1) * s));
        assert!((0..20).all(|_| admit(0).is_none()));
        assert_eq!([admit(6), admit(119), admit(120)], [Some(131_056), Some(131_056), None]);
        assert_eq!((0..50).filter(|_| admit(120).is_none()).count(), 44);
        assert_eq!(code(limits.admit(&rules, "1055", "919812345601", start)), None, "another recipient");
        assert_eq!(limits.counts().refused_pair, 8);
    }

    #[test]
    fn recipients_that_owe_nothing_are_forgotten() {
        let start = Instant::now();
        let mut pairs = Pairs::default();
        for n in 0..100_000u32 {
            assert!(pairs.take(u128::from(n), 45, start + MS * n));
        }
        assert!(pairs.bursts.len() <= 12_000, "{}", pairs.bursts.len());
    }
}
