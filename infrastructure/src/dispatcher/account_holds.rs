//! Waits that hold for every number of an account, of those for which this process sends: WhatsApp counts the calls of an
//! account together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// A cheap handle; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct AccountHolds(Arc<Mutex<HashMap<String, Instant>>>);

impl AccountHolds {
    /// No call for this account before `until`, if that is later than what holds already.
    pub(super) fn hold_until(&self, waba_id: &str, until: Instant) {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        holds.retain(|_, until| *until > now);
        let held = holds.entry(waba_id.to_owned()).or_insert(until);
        *held = until.max(*held);
    }

    pub(super) fn until(&self, waba_id: &str) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(waba_id).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_end_holds_and_other_accounts_go_on() {
        let (holds, now) = (AccountHolds::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        holds.hold_until("one", later);
        holds.hold_until("one", now + Duration::from_secs(5));
        assert_eq!((holds.until("one"), holds.until("other")), (Some(later), None));
    }
}
