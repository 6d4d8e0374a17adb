//! The calls of one sender that are ready, each let go at the moment when it may leave.
//!
//! The sender's loop pushes what it has claimed, one task takes: [`Departures::next`] waits until there is a call and the
//! permit allows one, takes the slot and returns both together. Nothing is reserved ahead, so what is taken out again
//! by [`Departures::close`] has cost nothing, and a change of the rate or a pause holds for the very next call. Calls
//! leave in the order in which they were pushed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{AdaptiveRate, Departure, PacingConfig, PermitLog};

/// A cheap handle; clones share everything. One of them is the one that takes.
#[derive(Debug)]
pub struct Departures<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    log: PermitLog,
    rate: AdaptiveRate,
    closed: bool,
}

impl<T> Clone for Departures<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Departures<T> {
    /// No call leaves before `from`; see [`PermitLog::new`].
    pub fn new(config: PacingConfig, rate_per_s: u32, from: Instant) -> Self {
        let log = PermitLog::new(config, rate_per_s, from);
        let rate = AdaptiveRate::new(config, rate_per_s);
        let state = Mutex::new(State { ready: VecDeque::new(), log, rate, closed: false });
        Self { shared: Arc::new(Shared { state, changed: Notify::new() }) }
    }

    /// Adds calls behind those that wait already. How many there may be is up to the caller, see [`Self::room`]. Gives
    /// them back if it is closed.
    pub fn push(&self, calls: impl IntoIterator<Item = T>) -> Vec<T> {
        let mut state = self.state();
        if state.closed {
            return calls.into_iter().collect();
        }
        state.ready.extend(calls);
        drop(state);
        self.shared.changed.notify_one();
        Vec::new()
    }

    /// The next call with its slot, at the moment when it may leave; `None` once it is closed. For one task only. A
    /// future that is dropped before it ends has taken nothing.
    pub async fn next(&self) -> Option<(T, Departure)> {
        loop {
            let due = {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                let due = state.due(now);
                if due.is_some_and(|due| due <= now)
                    && let Some(call) = state.ready.pop_front()
                {
                    return Some((call, state.log.depart(now)));
                }
                due
            };
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// How many calls may be claimed now so that all of them leave before `until`, in about.
    pub fn room(&self, until: Instant) -> usize {
        let mut state = self.state();
        let now = Instant::now();
        state.keep_rate(now);
        state.log.free_before(now, until).saturating_sub(state.ready.len())
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.state().ready.len()
    }

    /// The rate that is set for the sender; its change holds for the next call.
    pub fn set_rate(&self, rate_per_s: u32) {
        self.change(|state, _| state.rate.set(rate_per_s));
    }

    /// Calls a second at present.
    pub fn rate(&self) -> u32 {
        self.state().rate.per_second(Instant::now())
    }

    /// The provider refused the call for throughput. `true`: the rate is lower now.
    pub fn refused(&self, departure: &Departure) -> bool {
        self.change(|state, now| state.rate.refused(departure.at(), now))
    }

    /// No call before `until`, if that is later than what holds already.
    pub fn hold_until(&self, until: Instant) {
        self.change(|state, _| state.log.hold_until(until));
    }

    /// Messages from outside that count against the permit, counted from now on; see [`PermitLog::inbound`].
    pub fn inbound(&self, count: u32) {
        if count > 0 {
            self.change(|state, now| state.log.inbound(count, now));
        }
    }

    /// The call begins now; see [`PermitLog::left`].
    pub fn left(&self, departure: &mut Departure) {
        let mut state = self.state();
        state.log.left(departure, Instant::now());
    }

    /// The call has its answer, of whatever kind; not for one that got none.
    pub fn answered(&self, departure: Departure) {
        let mut state = self.state();
        state.log.answered(departure, Instant::now());
    }

    /// The call is not made after all.
    pub fn give_back(&self, departure: Departure) {
        self.change(|state, _| state.log.give_back(departure));
    }

    /// Lets nothing go any more and returns what waits.
    pub fn close(&self) -> Vec<T> {
        self.change(|state, _| {
            state.closed = true;
            state.ready.drain(..).collect()
        })
    }

    /// A change that may let the next call go earlier or later.
    fn change<R>(&self, change: impl FnOnce(&mut State<T>, Instant) -> R) -> R {
        let mut state = self.state();
        let now = Instant::now();
        let result = change(&mut state, now);
        state.keep_rate(now);
        drop(state);
        self.shared.changed.notify_one();
        result
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// When the next call may leave; `None` while none is ready.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        self.keep_rate(now);
        (!self.ready.is_empty()).then(|| self.log.next_at(now))
    }

    fn keep_rate(&mut self, now: Instant) {
        self.log.set_permit(self.rate.per_second(now), now);
    }
}

#[cfg(test)]
#[path = "departures_tests.rs"]
mod tests;
