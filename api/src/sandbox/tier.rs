//! The limit of the portfolio: how many users may be written to in 24 h. It is counted on acceptance, in memory, and
//! only while there is a limit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::ledger::fingerprint;

const WINDOW: TimeDelta = TimeDelta::hours(24);

#[derive(Default)]
pub(super) struct Tier {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When each recipient was last written to.
    latest: HashMap<u128, DateTime<Utc>>,
    /// All of those times, with the ones that a later one has replaced.
    times: VecDeque<(DateTime<Utc>, u128)>,
}

impl Tier {
    /// Counts the recipient, or tells that there is no room for one more.
    pub(super) fn admits(&self, recipients_max: usize, recipient: &str, now: DateTime<Utc>) -> bool {
        if recipients_max == 0 {
            return true;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((time, recipient)) = state.times.front().copied().filter(|(time, _)| *time + WINDOW <= now) {
            state.times.pop_front();
            if state.latest.get(&recipient) == Some(&time) {
                state.latest.remove(&recipient);
            }
        }
        let recipient = fingerprint(recipient);
        if !state.latest.contains_key(&recipient) && state.latest.len() >= recipients_max {
            return false;
        }
        state.latest.insert(recipient, now);
        state.times.push_back((now, recipient));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_users_as_the_tier_has_are_written_to_in_a_day() {
        let tier = Tier::default();
        let start = DateTime::from_timestamp(1_795_428_000, 0).unwrap();
        let admits = |recipient: &str, hours| tier.admits(2, recipient, start + TimeDelta::hours(hours));
        assert_eq!([admits("1", 0), admits("2", 1), admits("3", 2), admits("1", 3)], [true, true, false, true]);
        assert!(!admits("3", 24), "the first was written to again three hours later");
        assert!(admits("3", 25), "the second is free");
        assert!(!admits("4", 26));
        assert!(admits("4", 27), "the first is free");
        assert!((5..50).all(|n| tier.admits(0, &n.to_string(), start)), "without a limit");
    }
}
