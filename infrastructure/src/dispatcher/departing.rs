//! From ready calls to calls under way: one task per sender lets each go at the moment when the permit allows it and when
//! not too many are under way already.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::call::CallContext;
use super::claim::Claim;
use crate::pacing::{Departures, LatencyEstimate, concurrency};
use crate::whatsapp::PreparedCall;

/// A claimed message with its request.
pub(super) struct ReadyCall {
    pub(super) claim: Claim,
    pub(super) call: PreparedCall,
}

/// The calls of one sender that are under way, and how many may be: the permit times the time that calls take.
#[derive(Clone)]
pub(super) struct Flights(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    landed: Notify,
    /// The fewest and the most that may be under way, whatever is observed.
    bounds: RangeInclusive<usize>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    latency: LatencyEstimate,
}

impl Flights {
    pub(super) fn new(bounds: RangeInclusive<usize>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), landed: Notify::new(), bounds }))
    }

    /// Waits until another call may be under way.
    async fn take_off(&self, rate_per_s: u32) -> Flight {
        loop {
            {
                let mut state = self.state();
                if state.under_way < concurrency(rate_per_s, state.latency.high(), &self.0.bounds) {
                    state.under_way += 1;
                    return Flight(self.clone());
                }
            }
            self.0.landed.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way until this is dropped.
pub(super) struct Flight(Flights);

impl Flight {
    /// The call was answered, or given up.
    pub(super) fn took(&self, latency: Duration) {
        self.0.state().latency.observe(latency);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.0.landed.notify_one();
    }
}

/// Runs until the departures are closed. The calls it lets go are tasks of their own.
pub(super) async fn depart(
    departures: Departures<ReadyCall>,
    flights: Flights,
    context: CallContext,
    calls: TaskTracker,
) {
    loop {
        // First the room, then the slot: a slot that had to wait for room would be late when it is used.
        let flight = flights.take_off(departures.rate()).await;
        let Some((ready, departure)) = departures.next().await else { return };
        let context = context.clone();
        calls.spawn(async move { context.perform(ready, departure, flight).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_are_under_way_than_the_rate_and_the_latency_ask_for() {
        let flights = Flights::new(8..=1000);
        for _ in 0..500 {
            flights.take_off(1000).await.took(Duration::from_millis(20));
        }
        let mut under_way = Vec::new();
        while let Ok(flight) = tokio::time::timeout(Duration::from_secs(1), flights.take_off(1000)).await {
            under_way.push(flight);
        }
        // 1,000 a second for 20 ms, and half as many again.
        assert!((20..=40).contains(&under_way.len()), "{}", under_way.len());
        let waiting = flights.clone();
        let next = tokio::spawn(async move { waiting.take_off(1000).await });
        drop(under_way.pop());
        drop(next.await.expect("the room of a call that has landed is taken"));
    }
}
