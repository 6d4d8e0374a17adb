//! An outage of WhatsApp: call after call ends without anybody knowing whether it was accepted. Each such message is held
//! until a webhook speaks, so that calling on would put the whole audience in doubt. The number pauses instead, for longer
//! each time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::whatsapp::{RetryLadder, RetryScope};

/// Of one number. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    after: u32,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls in a row without a known outcome.
    lost: u32,
    /// Waits in a row.
    waits: u32,
    /// The calls that were under way when a wait began end in it, and say nothing new.
    waits_until: Option<Instant>,
}

impl Outage {
    pub(super) fn new(after: u32) -> Self {
        Self { after, state: Arc::default() }
    }

    /// WhatsApp answered, whatever it said.
    pub(super) fn answered(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// A call ended without a known outcome. For how long the number has to pause, if this is one too many.
    pub(super) fn lost(&self, ladder: &RetryLadder, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waits_until.is_some_and(|until| now < until) {
            return None;
        }
        state.lost = state.lost.saturating_add(1);
        // After a wait the first call that is lost shows that the outage lasts.
        if state.lost < self.after && state.waits == 0 {
            return None;
        }
        let wait = ladder.grown(ladder.outage, RetryScope::Sender, state.waits).min(ladder.outage_max);
        state.waits = state.waits.saturating_add(1);
        state.waits_until = Some(now + wait);
        tracing::warn!(
            calls = state.lost,
            wait_s = wait.as_secs(),
            "WhatsApp seems to be out of order: the outcome of call after call is not known; sending of this number pauses"
        );
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_lost_one_after_the_other_pause_the_number_for_longer_each_time() {
        let (outage, ladder, start) = (Outage::new(3), RetryLadder::default(), Instant::now());
        let lost = |at_s: u64| outage.lost(&ladder, start + Duration::from_secs(at_s)).map(|wait| wait.as_secs());
        assert_eq!([lost(0), lost(0), lost(0)], [None, None, Some(30)]);
        assert_eq!([lost(1), lost(29)], [None, None], "they were under way");
        let mut at = 30;
        for expected in [60, 120, 240, 480, 600, 600] {
            assert_eq!(lost(at), Some(expected));
            at += expected;
        }
    }

    #[test]
    fn an_answer_ends_an_outage_and_single_losses_are_none() {
        let (outage, ladder, now) = (Outage::new(2), RetryLadder::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(outage.lost(&ladder, now), None);
            outage.answered();
        }
        outage.lost(&ladder, now);
        assert!(outage.lost(&ladder, now).is_some());
        outage.answered();
        assert_eq!(outage.lost(&ladder, now), None);
    }
}
