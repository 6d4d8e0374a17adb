//! Runs whose messages are made the wrong way: a wrong parameter fails one message, but the same fault again and again is
//! one of the campaign, and would fail all the others too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::campaign_run::StallReason;
use domain::ids::RunId;
use domain::message::FailureClass;

use crate::whatsapp::SendOutcome;

/// Runs that are remembered. One that is forgotten counts anew.
const RUNS_MAX: usize = 1000;

#[derive(Debug, Clone, Copy)]
pub struct MisfitLimits {
    /// So many refusals one after the other stall the run.
    pub in_row: u32,
    /// So many percent of the calls stall the run, once there are as many refusals as in `in_row`.
    pub percent: u32,
}

/// A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct Misfits {
    limits: MisfitLimits,
    runs: Arc<Mutex<HashMap<RunId, Counts>>>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: u32,
    refused: u32,
    in_row: u32,
}

impl Misfits {
    pub fn new(limits: MisfitLimits) -> Self {
        Self { limits, runs: Arc::default() }
    }

    /// Counts an outcome; says so when it is one too many. The counts of that run begin anew, for whoever resumes it has
    /// changed something.
    pub(super) fn observe(&self, run: RunId, outcome: &SendOutcome) -> Option<StallReason> {
        let misfit = match outcome {
            SendOutcome::Refused { code, class: FailureClass::Configuration, .. } => Some(*code),
            SendOutcome::Accepted { .. } | SendOutcome::Refused { .. } => None,
            // Nothing is said about the message.
            SendOutcome::Deferred { .. } | SendOutcome::NotConnected | SendOutcome::Unknown { .. } => return None,
        };
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= RUNS_MAX && !runs.contains_key(&run) {
            runs.clear();
        }
        let counts = runs.entry(run).or_default();
        counts.calls = counts.calls.saturating_add(1);
        let Some(code) = misfit else {
            counts.in_row = 0;
            return None;
        };
        counts.refused += 1;
        counts.in_row += 1;
        let share = u64::from(counts.refused) * 100 >= u64::from(counts.calls) * u64::from(self.limits.percent);
        if counts.in_row < self.limits.in_row && !(counts.refused >= self.limits.in_row && share) {
            return None;
        }
        runs.remove(&run);
        Some(StallReason::MessagesRefused { code })
    }
}

#[cfg(test)]
mod tests {
    use domain::message::Acceptance;
    use uuid::Uuid;

    use super::*;

    const RUN: RunId = RunId(Uuid::from_u128(1));

    fn accepted() -> SendOutcome {
        SendOutcome::Accepted { wamid: "wamid.1".to_owned(), acceptance: Acceptance::Accepted }
    }

    fn refused(class: FailureClass) -> SendOutcome {
        SendOutcome::Refused { code: 131_008, class, pause: None }
    }

    /// The place of the outcome that stalls the run.
    fn stalled_at(outcomes: impl IntoIterator<Item = SendOutcome>) -> Option<usize> {
        let misfits = Misfits::new(MisfitLimits { in_row: 3, percent: 1 });
        outcomes.into_iter().position(|outcome| misfits.observe(RUN, &outcome).is_some())
    }

    #[test]
    fn three_in_a_row_stall_a_run() {
        let misfit = || refused(FailureClass::Configuration);
        assert_eq!(stalled_at([accepted(), misfit(), misfit(), misfit()]), Some(3));
        let others = [misfit(), misfit(), refused(FailureClass::Undeliverable), misfit()];
        assert_eq!(stalled_at(others), Some(3), "three of four are more than one percent");
    }

    #[test]
    fn one_percent_stalls_a_run_and_less_does_not() {
        let every = |nth: usize| {
            (1..=1000).map(move |n| if n % nth == 0 { refused(FailureClass::Configuration) } else { accepted() })
        };
        assert_eq!(stalled_at(every(100)), Some(299));
        assert_eq!(stalled_at(every(101)), None);
    }

    #[test]
    fn each_run_counts_for_itself_and_anew_after_it_was_stalled() {
        let misfits = Misfits::new(MisfitLimits { in_row: 2, percent: 1 });
        let misfit = refused(FailureClass::Configuration);
        let other = RunId(Uuid::from_u128(2));
        assert_eq!(misfits.observe(RUN, &misfit), None);
        assert_eq!(misfits.observe(other, &misfit), None);
        let stalled = Some(StallReason::MessagesRefused { code: 131_008 });
        assert_eq!(misfits.observe(RUN, &misfit), stalled);
        assert_eq!(misfits.observe(RUN, &misfit), None);
        assert_eq!(misfits.observe(other, &misfit), stalled);
    }
}
