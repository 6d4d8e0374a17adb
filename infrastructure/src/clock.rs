//! The engine's one clock. Nothing else reads the wall clock, so that recurrence can be tried and tests own the time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A cheap handle to the engine's time.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    /// The machine's time plus a fixed shift; the shift is zero in production.
    System { shift: TimeDelta },
    /// Stands still until a test moves it.
    Manual(Mutex<DateTime<Utc>>),
}

impl Clock {
    pub fn system() -> Self {
        Self(Arc::new(Source::System { shift: TimeDelta::zero() }))
    }

    /// A clock that shows `start` now and runs on at the usual speed.
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        Self(Arc::new(Source::System { shift: start - machine_time() }))
    }

    pub fn manual(start: DateTime<Utc>) -> Self {
        Self(Arc::new(Source::Manual(Mutex::new(start))))
    }

    pub fn now(&self) -> DateTime<Utc> {
        match &*self.0 {
            Source::System { shift } => machine_time() + *shift,
            Source::Manual(now) => *now.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// Moves a manual clock forward. A running clock is not changed.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &*self.0 {
            let mut now = now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *now += TimeDelta::from_std(by).unwrap_or(TimeDelta::MAX);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one home of the wall clock")]
fn machine_time() -> DateTime<Utc> {
    Utc::now()
}
